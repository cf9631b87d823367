"""The mirror before a real server that loses answers, cuts connections, falls silent and dies."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from lab import faults
from lab.tracked import EPOCHS, Lab, content

from tlx.lab.tracking import api as tracking_api

PASSWORD = "canary-s3cr3t"  # noqa: S105 — looked for in what is printed
RECORDS = EPOCHS + 4  # a start, the epochs, two samples of the system, the end


@pytest.fixture
def lab(tmp_path):
    """A finished study in an experiment of its own: the server lives for the whole session."""
    made = Lab(tmp_path / "root", experiment=f"Fine-tuning {uuid.uuid4().hex}")
    made.finish()
    return made


@pytest.fixture
def experiment(lab):
    return lab.store.read_study(lab.study)["experiment"]


@pytest.fixture
def undisturbed(lab, local, experiment):
    """What a store shows when nothing goes wrong."""
    tracking_api.sync(lab.root, local)
    found = content(local, experiment)
    assert len(found) == 1 + len(lab.keys)
    return found


def at(port: int) -> tracking_api.TrackingTarget:
    return tracking_api.resolve(f"http://bob:{PASSWORD}@127.0.0.1:{port}", {})


def mirror(lab, target) -> tracking_api.Mirror:
    return tracking_api.Mirror(target, lab.root, lab.study, environ={}, wake_s=0.05)


def sync_until_done(lab, target, tries=60):
    for _ in range(tries):
        report = tracking_api.sync(lab.root, target)
        if report.unsent == 0:
            return report
    pytest.fail(f"never done: {report}")


@pytest.mark.slow
def test_a_server_shows_what_a_local_store_shows(lab, server, undisturbed, experiment):
    follower = mirror(lab, at(server.port)).start()
    assert follower.stop(deadline_s=60) == tracking_api.Sent(len(lab.keys) * RECORDS, 0)
    assert content(at(server.port), experiment) == undisturbed
    page = follower.address
    assert page.startswith(f"http://***@127.0.0.1:{server.port}/#/experiments/")


CALLS = (
    "experiments/create",
    "runs/create",
    "runs/log-batch",
    "runs/log-inputs",
    "runs/update",
    "runs/search",
    "artifacts",
)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [faults.ERROR_AFTER, faults.RESET_AFTER, faults.DOWN])
def test_the_first_answer_to_every_call_is_lost(lab, server, proxy, undisturbed, experiment, fault):
    to_lose = set(CALLS)

    def rule(path, number):
        lost = [call for call in to_lose if call in path]
        to_lose.difference_update(lost)
        return fault if lost else faults.PASS

    proxy.rule = rule
    sync_until_done(lab, at(proxy.port))
    assert not to_lose
    assert content(at(server.port), experiment) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("fault", [faults.ERROR_AFTER, faults.RESET_AFTER])
def test_one_answer_in_nine_is_lost(lab, server, proxy, undisturbed, experiment, fault):
    proxy.rule = lambda path, number: fault if number % 9 == 8 else faults.PASS
    sync_until_done(lab, at(proxy.port))
    assert proxy.faults() > 4
    assert content(at(server.port), experiment) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("fault", [faults.DOWN, faults.SILENT])
def test_a_dead_server_costs_the_deadline_and_sync_sends_it_all(
    lab, server, proxy, undisturbed, experiment, fault
):
    proxy.rule = lambda path, number: fault
    follower = mirror(lab, at(proxy.port)).start()
    begun = time.monotonic()
    report = follower.stop(deadline_s=1.0)
    assert time.monotonic() - begun < 30
    assert report.unsent == len(lab.keys) * RECORDS + 1
    proxy.rule = lambda path, number: faults.PASS
    proxy._ended.set()
    follower._thread.join(30)
    sync_until_done(lab, at(proxy.port))
    assert content(at(server.port), experiment) == undisturbed


@pytest.mark.slow
def test_the_server_goes_in_the_middle_of_the_study_and_comes_back(
    tmp_path, server, proxy, local, experiment, lab
):
    live = Lab(tmp_path / "live", experiment=experiment)
    follower = mirror(live, at(proxy.port)).start()
    live.run(0)
    time.sleep(0.3)
    proxy.rule = lambda path, number: faults.DOWN
    live.run(1)
    live.run(2, epochs=2, whole=False)
    time.sleep(0.3)
    proxy.rule = lambda path, number: faults.PASS
    live.finish()
    follower.stop(deadline_s=60)
    tracking_api.sync(live.root, local)
    assert content(at(server.port), experiment) == content(local, experiment)


@pytest.mark.slow
def test_writing_a_journal_does_not_wait_for_a_silent_server(lab, proxy, tmp_path):
    proxy.rule = lambda path, number: faults.SILENT
    live = Lab(tmp_path / "live")
    follower = mirror(live, at(proxy.port)).start()
    time.sleep(0.2)
    begun = time.monotonic()
    live.finish()
    assert time.monotonic() - begun < 30
    follower.stop(deadline_s=0.1)
    proxy._ended.set()


def test_attempts_grow_rare(lab, proxy, monkeypatch):
    monkeypatch.setattr(tracking_api, "BACK_OFF_S", 0.1)
    monkeypatch.setattr(tracking_api, "BACK_OFF_LIMIT_S", 0.4)
    proxy.rule = lambda path, number: faults.DOWN
    follower = mirror(lab, at(proxy.port)).start()
    while not proxy.seen:
        time.sleep(0.05)
    time.sleep(2)
    follower.stop(deadline_s=5)
    assert 3 <= len(proxy.seen) <= 2 + 2 + 2 / 0.4 + 2, "0.1 + 0.2 + 0.4 + 0.4 … and the last"


def test_the_users_own_timeouts_are_kept(lab, monkeypatch):
    from tlx.lab.tracking.timeouts import SETTINGS, short_timeouts

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    with short_timeouts:
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
        assert (
            os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]
            == SETTINGS["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]
        )
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


# ---------------------------------------------------------------- the password

CARRY = """
import logging, sys
logging.basicConfig(level=logging.DEBUG)
from tlx.lab.tracking import api as tracking
target = tracking.resolve(sys.argv[1], {})
print(target, repr(target), target.to_open())
follower = tracking.Mirror(target, sys.argv[2], sys.argv[3], environ={}).start()
report = follower.stop(deadline_s=20)
print(report, repr(report), follower.address)
try:
    report.require()
except Exception as error:
    print(error, repr(error), error.__dict__)
print(tracking.sync(sys.argv[2], target))
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["refused", "error", "cut", "well", "database"])
def test_the_password_is_shown_nowhere(lab, server, proxy, way):
    proxy.rule = {
        "error": lambda path, number: faults.ERROR_AFTER,
        "cut": lambda path, number: faults.DOWN,
    }.get(way, proxy.rule)
    port = proxy.port
    if way == "refused":
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    uri = f"http://bob:{PASSWORD}@127.0.0.1:{port}"
    if way == "database":
        uri = f"postgresql://bob:{PASSWORD}@127.0.0.1:1/db"
    command = [sys.executable, "-c", CARRY, uri, str(lab.root), lab.study]
    done = subprocess.run(command, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    assert b"records" in done.stdout
    assert PASSWORD.encode() not in done.stdout
    assert PASSWORD.encode() not in done.stderr
    for place in (lab.root, server.folder):
        for path in Path(place).rglob("*"):
            assert not path.is_file() or PASSWORD.encode() not in path.read_bytes(), path


def test_log_records_name_no_password(lab, caplog):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with caplog.at_level(logging.DEBUG):
        report = mirror(lab, at(port)).start().stop(deadline_s=10)
    assert report.problem
    assert PASSWORD not in caplog.text + report.problem
