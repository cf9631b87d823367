"""Whole studies on real clusters: the same results to the bit, whatever dies, told as locally."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import processes
import pytest
from conftest import draw_images
from lab import clusters, postgres

import tlx as tlx_api
from tlx.lab.engines import CLUSTERS
from tlx.lab.store import Store, reproducible_fields
from tlx.studies import STUDIES  # noqa: F401 — kinds of trials are known when studies are loaded

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


# What does not hang on the engine; test_cluster_kills has the kills of both
on_dask = pytest.mark.parametrize("cluster", ["dask"], indirect=True)


@pytest.fixture
def on_cluster(cluster):
    """The options that ask for it."""
    cluster.restore()
    return ["--engine", cluster.engine, "--address", cluster.address]


CREDENTIALS = {  # of a cluster that asks for them
    "DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY": "/folder-of-the-key/key.pem",
    "RAY_AUTH_TOKEN": "0a1b2c3d4e5f60718293a4b5c6d7e8f9",
}
FINE_TUNING = (
    *("fine-tuning", "--architecture", "mnist-cnn", "--source", "random", "--shots", "1,2,3"),
    *("--splits", "2", "--epochs", "4", "--no-system-metrics", "--figures", "none"),
)


@pytest.fixture(scope="module")
def bars(make_once):
    """Three classes, train 30 and test 8 images each: enough for three shots beside val."""

    def draw(root: Path) -> None:
        draw_images(root, per_class=30, splits=("train",), seed=1)
        draw_images(root, per_class=8, splits=("test",), seed=2)

    return make_once("thirty-bars", draw)


@pytest.fixture(scope="module")
def by_local(tmp_path_factory, bars, cache):
    """The store of the study, made by the processes of this machine."""
    root = tmp_path_factory.mktemp("local")
    words = [*FINE_TUNING, "--dataset", str(bars), "--store", str(root), "--cache", str(cache)]
    command([*words, "--no-tracking", "--workers", "1"])
    return Store(root)


def command(words, code=0) -> str:
    """Run a command in a process of its own; return what it printed."""
    done = processes.run(
        [sys.executable, "-m", "tlx", *map(str, words)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


@contextlib.contextmanager
def background(words, until: str) -> Iterator[tuple[subprocess.Popen, list[str]]]:
    """A command that runs beside the test, from where it has printed `until`; its first lines."""
    process = processes.Popen(
        [sys.executable, "-m", "tlx", *map(str, words)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    with process:
        lines = []
        try:
            for line in process.stdout:
                lines.append(line)
                if until in line:
                    break
            yield process, lines
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def by_key(store: Store) -> list[str]:
    """The keys of a store, of which there is at least one."""
    keys = store.keys()
    assert keys
    return keys


def check_same(store: Store, other: Store) -> None:
    """Two stores hold the same results to the bit, and no attempt."""
    assert store.keys() == other.keys()
    for key in by_key(store):
        store.verify(key)
        result = store.find(key)
        if result.kind != "decision":  # which weighs times
            assert reproducible_fields(result) == reproducible_fields(other.find(key))
    assert not any((store.root / "attempts").glob("*/*"))


def test_a_study_gives_the_same_bits_as_on_this_machine(
    tmp_path, bars, cache, by_local, cluster, on_cluster, monkeypatch
):
    words = [*FINE_TUNING, "--dataset", bars, "--store", tmp_path / "runs", "--cache", cache]
    database = tmp_path / "mlflow.db"
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    printed = command([*words, "--mlflow-path", database, *on_cluster])
    assert "6 trials in" in printed
    store = Store(tmp_path / "runs")
    check_same(store, by_local)
    assert {store.find(key).environment["node"] for key in by_key(store)} == {socket.gethostname()}
    with sqlite3.connect(database) as connection:
        rows = connection.execute("select status from runs").fetchall()
    connection.close()
    assert rows == [("FINISHED",)] * 7  # the study and its trials
    again = command([*words, "--mlflow-path", database, *on_cluster])
    assert "6 of them found done" in again
    # where the cluster is, and what lets one in, is nobody's business who reads the results
    secrets = [cluster.address.rpartition("//")[2], *CREDENTIALS.values()]
    written = [*(path for path in store.root.rglob("*") if path.is_file()), database]
    assert len(written) > 20
    for path in written:
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content], path


@on_dask
def test_a_study_loses_nothing_when_a_node_is_killed(
    tmp_path, bars, cache, by_local, cluster, on_cluster
):
    words = [*FINE_TUNING, "--dataset", bars, "--store", tmp_path / "runs", "--cache", cache]
    words += ["--no-tracking", "--verbose"]
    with background([*words, *on_cluster], until="epoch 2/") as (process, lines):
        cluster.nodes[0].kill()
        out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, [*lines, out]
    check_same(Store(tmp_path / "runs"), by_local)


@on_dask
def test_a_trial_of_several_processes_gives_the_same_bits(tmp_path, bars, cache, on_cluster):
    words = ["fine-tuning", "--dataset", bars, "--source", "random", "--shots", "2"]
    words += ["--splits", "1", "--epochs", "2", "--batch-size", "16", "--replicas", "2"]
    words += ["--no-tracking", "--no-system-metrics", "--figures", "none", "--cache", cache]
    command([*words, "--store", tmp_path / "here", "--workers", "0"])
    more = ["--replica-processes", "2", *on_cluster]
    printed = command([*words, "--store", tmp_path / "there", *more])
    assert "a trial takes 2 processes, each with 1 thread" in printed
    check_same(Store(tmp_path / "there"), Store(tmp_path / "here"))


def test_a_plan_says_how_many_trials_the_cluster_has_room_for(tmp_path, bars, cache, cluster):
    cluster.restore()
    plan = tlx_api.plan(
        "fine-tuning",
        dataset=str(bars),
        source="random",
        shots=(1, 2, 3),
        splits=2,
        store=str(tmp_path / "runs"),
        cache=str(cache),
        engine=cluster.engine,
        address=cluster.address,
        tracking=False,
    )
    assert (plan.trials, plan.at_once) == (6, 2)
    assert "2 trials at once" in str(plan)
    (row,) = [row for row in plan.engines if (row.engine, row.slots) == (cluster.engine, 2)]
    assert row.seconds == pytest.approx(plan.seconds)
    assert "nodes of the cluster may be faster or slower" in str(plan)


def test_a_share_of_a_gpu_that_no_node_has_is_refused_at_once(tmp_path, bars, on_cluster):
    words = [*FINE_TUNING, "--dataset", bars, "--store", tmp_path / "runs", "--gpus", "0.5"]
    printed = command([*words, "--no-tracking", *on_cluster], code=5)
    assert "error[node-gpus]" in printed
    assert "a trial takes 0.5 GPU" in printed
    assert not (tmp_path / "runs" / "studies").exists()


@on_dask
def test_the_nodes_and_not_the_command_need_the_device(tmp_path, bars, cache, cluster, on_cluster):
    words = [*FINE_TUNING, "--dataset", bars, "--store", tmp_path / "runs", "--cache", cache]
    printed = command([*words, "--no-tracking", "--device", "cuda", *on_cluster], code=7)
    assert "1-shot split 0: " in printed  # a trial was run, and had none
    assert "no device 'cuda'" in printed


def test_a_comparison_runs_on_a_cluster(tmp_path, bars, cache, on_cluster):
    words = ["compare", "--dataset", bars, "--architecture", "mnist-cnn", "--source", "random"]
    words += ["--shots", "1", "--splits", "2", "--epochs", "2", "--no-any-time", "--no-tracking"]
    words += ["--figures", "none", "--cache", cache, "--no-system-metrics"]
    local = command([*words, "--store", tmp_path / "local", "--workers", "1", "--json"])
    on_nodes = command([*words, "--store", tmp_path / "runs", "--json", *on_cluster])
    keys = [json.loads(text[text.index("{") :])["key"] for text in (local, on_nodes)]
    assert keys[0] == keys[1]
    check_same(Store(tmp_path / "runs"), Store(tmp_path / "local"))


@on_dask
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_command_ends_its_trials_and_the_same_command_continues(
    tmp_path, bars, cache, by_local, cluster, on_cluster, number, code
):
    words = [*FINE_TUNING, "--dataset", bars, "--store", tmp_path / "runs", "--cache", cache]
    words += ["--no-tracking", "--verbose", *on_cluster]
    with background(words, until="epoch 1/") as (process, _):
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == code, out
    assert out.rstrip().endswith("the same command continues"), out
    assert "Traceback" not in out
    command(words)
    check_same(Store(tmp_path / "runs"), by_local)


@on_dask
def test_a_second_command_on_the_same_study_is_busy_unless_it_takes_over(
    tmp_path, bars, cache, by_local, cluster, on_cluster
):
    words = [*FINE_TUNING, "--dataset", bars, "--store", tmp_path / "runs", "--cache", cache]
    words += ["--no-tracking", "--verbose", *on_cluster]
    with background(words, until="epoch 1/") as (first, lines):
        os.kill(first.pid, signal.SIGSTOP)  # as on a machine that is frozen
        printed = command(words, code=8)
        assert f"process {first.pid}" in printed
        assert "--takeover" in printed
        command([*words, "--takeover"])
        os.kill(first.pid, signal.SIGCONT)
        out, _ = first.communicate(timeout=300)
    assert first.returncode == 0, [*lines, out]
    check_same(Store(tmp_path / "runs"), by_local)


@pytest.fixture(scope="module")
def server():
    why = postgres.missing()
    if why and not os.environ.get("CI"):
        pytest.skip(why)
    with postgres.Server() as running:
        yield running


def test_a_search_on_a_cluster_tries_as_many_as_asked_none_twice(
    tmp_path, bars, cache, server, cluster, on_cluster
):
    words = ["tune", "--dataset", bars, "--architecture", "mnist-cnn", "--source", "random"]
    words += ["--shots", "2", "--splits", "2", "--trials", "12", "--storage", server.url]
    words += ["--store", tmp_path / "runs", "--cache", cache, "--no-tracking", "--workers", "2"]
    words += ["--seed", str([*CLUSTERS].index(cluster.engine))]  # two searches on one server
    with background([*words, *on_cluster], until="trial ") as (process, lines):
        cluster.nodes[0].kill()
        out, _ = process.communicate(timeout=300)
    printed = "".join([*lines, out])
    assert process.returncode == 0, printed
    assert "s3cr3t" not in printed
    store = Store(tmp_path / "runs")
    trials = [r for r in map(store.find, store.keys()) if r.kind == "search-trial"]
    assert sorted(trial.spec["number"] for trial in trials) == list(range(12))


@pytest.mark.parametrize("engine", CLUSTERS)
def test_what_a_cluster_needs_is_said_before_anything_is_computed(tlx, bars, engine, tmp_path):
    words = ["fine-tuning", "--dataset", bars, "--engine", engine]
    code, _, complaint = tlx(*words)
    assert (code, "--address" in complaint) == (2, True)
    code, _, complaint = tlx(*words, "--address", "127.0.0.1:1", "--workers", "0")
    assert (code, "--workers 0" in complaint) == (2, True)
    search = ["tune", *words[1:], "--shots", "2", "--address", "127.0.0.1:1"]
    code, _, complaint = tlx(*search, "--workers", "2")
    assert (code, "--storage postgresql" in complaint) == (2, True)
    code, _, complaint = tlx(*words, "--address", f"127.0.0.1:{clusters.free_port()}")
    assert (code, "cluster answers at" in complaint) == (5, True)
    assert "reading" not in complaint
    assert not (tmp_path / "tlx-runs" / "trials").exists()


@pytest.mark.parametrize(
    "option", ["--address=tcp://h:1", "--gpus=.5", "--mixed-nodes", "--takeover"]
)
def test_options_of_clusters_are_refused_without_one(tlx, bars, option):
    code, _, complaint = tlx("fine-tuning", "--dataset", bars, option)
    assert (code, "--engine" in complaint) == (2, True)
