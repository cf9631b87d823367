"""Several processes and machines on one study: a real PostgreSQL server; and optuna-dashboard shows
what there is.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import processes
import pytest
from lab import postgres, tiny_search
from lab.test_tuning_killed import kill_until_done

from tlx.lab.tuning import api as tuning_api

pytestmark = pytest.mark.e2e

TRIALS = 24


@pytest.fixture(scope="module")
def server():
    why = postgres.missing()
    if why and not os.environ.get("CI"):
        pytest.skip(why)
    with postgres.Server() as made:
        yield made


def start(root: Path, workers: int, url: str, key: str) -> subprocess.Popen:
    words = [root, workers, TRIALS, 0.02, url, key]
    return processes.Popen(
        [sys.executable, "-m", "lab.tiny_search", *map(str, words)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def check(url: str, key: str, roots) -> None:
    asked = tiny_search.search(storage=url, trials=TRIALS, key=key)
    for root in roots:
        found = tuning_api.completed_trials(asked, root)
        assert [t.number for t in found] == list(range(TRIALS))
        assert all(t.state in ("complete", "pruned") for t in found)
        assert all(t.by_split for t in found), "what another machine ran is told by the storage"


def test_two_processes_on_one_server(server, tmp_path):
    process = start(tmp_path / "one", 2, server.url, "a" * 64)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    check(server.url, "a" * 64, [tmp_path / "one"])
    assert "s3cr3t" not in out


def test_two_machines_on_one_server(server, tmp_path):
    """Two drivers, each with a store of its own, that know of each other by the server alone."""
    both = [start(tmp_path / name, 1, server.url, "b" * 64) for name in ("one", "two")]
    for process in both:
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0, out
        assert f"{TRIALS} ended" in out
    check(server.url, "b" * 64, [tmp_path / "one", tmp_path / "two"])
    mine = [len(list((tmp_path / name / "searches").rglob("*.journal"))) for name in ("one", "two")]
    assert mine == [1, 1]


def test_killed_on_a_server(server, tmp_path, rng):
    kill_until_done(lambda: start(tmp_path / "one", 2, server.url, "c" * 64), 5, 2, rng)
    check(server.url, "c" * 64, [tmp_path / "one"])


def test_a_storage_that_was_emptied_is_filled_again(server, tmp_path):
    import optuna

    asked = tiny_search.search(storage=server.url, trials=8, key="d" * 64)
    first = tiny_search.run(asked, tmp_path)
    with asked.place(tmp_path).open() as storage:
        optuna.delete_study(study_name=asked.name, storage=storage)
    again = tiny_search.run(asked, tmp_path, inputs={"log": str(tmp_path / "log")})
    assert [(t.values, t.objectives) for t in again] == [(t.values, t.objectives) for t in first]
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("form", ["", "sqlite:///{}/search.db"])
def test_optuna_dashboard_opens_the_study(tmp_path, form):
    pytest.importorskip("optuna_dashboard")
    asked = tiny_search.search(storage=form.format(tmp_path), trials=6)
    found = tiny_search.run(asked, tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = asked.storage or str(asked.place(tmp_path).path)
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from optuna_dashboard._cli import main; main()",
            address,
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        summaries = get(f"http://127.0.0.1:{port}/api/studies", process)["study_summaries"]
        (mine,) = [s for s in summaries if s["study_name"] == asked.name]
        detail = get(f"http://127.0.0.1:{port}/api/studies/{mine['study_id']}?after=0", process)
        assert [t["number"] for t in detail["trials"]] == [t.number for t in found]
        assert {t["state"] for t in detail["trials"]} == {t.state.capitalize() for t in found}
    finally:
        process.kill()
        process.communicate()


def get(url: str, process: subprocess.Popen):
    end = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:  # noqa: S310 — the test's server
                return json.load(reply)
        except OSError:
            if time.monotonic() > end or process.poll() is not None:
                raise
            time.sleep(0.2)
