"""Workers start while images are read, where trials will follow."""

from __future__ import annotations

import pytest

from tlx.errors import ResourceError
from tlx.lab.engines import forkserver, local
from tlx.lab.settings import Settings
from tlx.studies import runner
from tlx.studies.planning import _Planning
from tlx.studies.session import Session

MODULES = ("tlx.features.spans",)


@pytest.fixture(autouse=True)
def store(monkeypatch, tmp_path):
    """Have a store with trials, where images that are at hand may mean that nothing is to do."""
    monkeypatch.setenv("TLX_STORE", str(tmp_path / "runs"))
    (tmp_path / "runs" / "trials").mkdir(parents=True)
    return tmp_path / "runs"


@pytest.fixture
def started(monkeypatch):
    """Return the (threads, modules) of the servers that were started."""
    calls: list[tuple[int, tuple[str, ...]]] = []
    monkeypatch.setattr(
        "tlx.lab.engines.local.start_soon",
        lambda threads, modules: calls.append((threads, modules)),
    )
    return calls


def test_the_first_step_of_a_preparation_starts_the_workers_once(started):
    with Session(Settings(threads=2)).preparing("reading images", MODULES) as progress:
        assert not started
        progress(0, 10)
        progress(5, 10)
    assert started == [(2, (*runner.PRELOAD, *MODULES))]


def test_workers_start_at_once_where_the_store_has_no_trial(store, started):
    (store / "trials").rmdir()
    with Session(Settings()).preparing("reading images") as progress:
        assert len(started) == 1
        progress(1, 1)
    assert len(started) == 1


def test_a_preparation_that_reads_nothing_starts_no_worker(started):
    with Session(Settings()).preparing("reading images"):
        pass
    assert not started


@pytest.mark.parametrize(
    "settings", [{"workers": 0}, {"engine": "dask", "address": "tcp://h:1"}], ids=str
)
def test_no_worker_is_started_where_none_will_run(settings, started):
    with Session(Settings(**settings)).preparing("reading images") as progress:
        progress(1, 1)
    assert not started


def test_a_plan_starts_no_worker(started):
    with _Planning(Session(Settings())).preparing("reading images") as progress:
        if progress is not None:
            progress(1, 1)
    assert not started


def test_steps_are_shown_as_of_any_preparation(started):
    told = []

    class Shown(Session):
        def steps(self, title):
            told.append(title)
            return super().steps(title)

    with Shown(Settings()).preparing("reading images") as progress:
        progress(1, 1)
    assert told == ["reading images"]


@pytest.mark.parametrize("error", [OSError(12, "no memory"), ResourceError("x", "no process")])
def test_workers_that_cannot_start_early_stop_nothing(error, monkeypatch):
    def refuse(server):
        raise error

    monkeypatch.setattr(forkserver.Server, "ensure_running", refuse)
    local.start_soon(3, ("json",))
    assert not any(server.users for server in forkserver._servers.values())


def test_a_server_serves_all_who_ask_for_some_of_its_modules():
    with forkserver.serving(1, ("json", "csv")) as server:
        pass
    with forkserver.serving(1, ("csv",)) as other:
        assert other is server
    with forkserver.serving(2, ("csv",)) as other:
        assert other is not server, "threads are set when it starts"
