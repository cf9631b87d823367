"""How often the mirror calls a local store: nothing that it has just written is read back."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from lab.tracked import Lab, by_key

from tlx.lab.tracking import api as tracking_api
from tlx.lab.tracking.client import Sender

COUNTED = ("search_runs", "create_run", "get_run", "log_batch", "log_inputs", "update_run_info")


@pytest.fixture
def calls(monkeypatch) -> Counter[str]:
    """The calls of mlflow's own store, by method."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    counts: Counter[str] = Counter()

    def counted(name):
        method = getattr(SqlAlchemyStore, name)

        def call(self, *args, **kwargs):
            counts[name] += 1
            return method(self, *args, **kwargs)

        return call

    for name in COUNTED:
        monkeypatch.setattr(SqlAlchemyStore, name, counted(name))
    return counts


def send(tmp_path, local, calls, trials: int) -> Counter[str]:
    """Send a finished study of so many trials to a store; the calls of that."""
    lab = Lab(tmp_path / f"root-{trials}", trials, study=f"{trials:064d}")
    lab.finish()
    before = Counter(calls)
    assert tracking_api.sync(lab.root, local).unsent == 0
    return Counter(calls) - before


def test_a_whole_trial_costs_one_call_of_each_kind_and_none_to_read_it_back(
    tmp_path, local, calls, monkeypatch
):
    monkeypatch.setattr("lab.tracked.key", lambda number: f"{next(numbers):064x}")
    numbers = iter(range(1, 100))
    few, many = send(tmp_path, local, calls, 2), send(tmp_path, local, calls, 7)
    each = {name: (many[name] - few[name]) / 5 for name in COUNTED}
    assert each == dict.fromkeys(COUNTED, 1.0) | {"get_run": 0.0}


def test_a_search_and_the_creation_that_follows_are_one_step_between_senders(local):
    """Both look for a run before either creates one, unless the second waits for the first."""
    first, second = Sender(local, "Fine-tuning"), Sender(local, "Fine-tuning")
    assert first.experiment_id == second.experiment_id
    searched = threading.Event()
    results = []

    def find_or_create():
        with second.creation():
            searched.set()
            results.append(second.find("a" * 64) or second.create("a" * 64, "second", 5, {}))

    thread = threading.Thread(target=find_or_create)
    with first.creation():
        assert first.find("a" * 64) is None
        thread.start()
        run = first.create("a" * 64, "first", 5, {})
        assert not searched.is_set()
    thread.join()
    assert results[0].info.run_id == run.info.run_id
    assert [run.info.run_name for run in by_key(local).values()] == ["first"]
