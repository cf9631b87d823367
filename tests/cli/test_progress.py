"""What is shown of a running study: the time left, lines in a log, words for an end."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tlx.cli import progress
from tlx.errors import Resource
from tlx.lab.tasks import Failed, Finished, Progress, Started


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(s=0.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.s)
    return now


def group(key, shots, epochs=4):
    spec = SimpleNamespace(key=key, title=f"{shots}-shot", shots=shots, epochs=epochs)
    return SimpleNamespace(key=key, title=spec.title, weight=shots, trials=(SimpleNamespace(spec=spec),))


def result(accuracy):
    return SimpleNamespace(status="finished", scores={"test_accuracy": accuracy}, spec={}, details={"epochs": 4})


def test_time_left_is_unknown_then_guessed_then_fitted(clock):
    left = progress.TimeLeft({"a": 1, "b": 2, "c": 4})
    assert left.seconds() is None
    left.start("a")
    clock.s = 1.0
    assert left.seconds() is None
    left.progress("a", 0.1)
    assert left.seconds() == pytest.approx(9 + 20 + 40), "10 s for weight 1, in proportion"
    clock.s = 10.0
    left.end("a")
    left.start("b")
    clock.s = 25.0
    left.end("b")
    left.start("c")
    assert left.seconds() == pytest.approx(10 + 5 * 3), "5 + 5·weight through (1, 10) and (2, 15)"
    left.progress("c", 0.5)
    assert left.seconds() == pytest.approx(12.5)
    left.end("c")
    assert left.seconds() == 0


def test_two_at_once_halve_the_time(clock):
    left = progress.TimeLeft({"a": 1, "b": 1, "c": 1})
    for key in "ab":
        left.start(key)
    clock.s = 6.0
    left.end("a")
    left.start("c")
    assert left.seconds() == pytest.approx(6.0)


@pytest.mark.parametrize(("seconds", "text"), [(None, "-:--"), (0, "0:00"), (59.6, "1:00"), (3599, "59:59"),
                                               (3661, "1:01:01")])
def test_clock(seconds, text):
    assert progress.clock(seconds) == text


def test_a_log_gets_one_plain_line_an_epoch(clock, capsys):
    lines = progress.Lines([group("a", 1), group("b", 2)])
    lines(Started("a", 1))
    values = {"epoch": 2.0, "train_loss": 1.5, "val_loss": 1.25, "val_accuracy": 0.5}
    lines(Progress("a", 1, 8, {}))
    lines(Progress("a", 4, 8, values))
    lines(Failed("b", Resource("worker-killed", "killed \x1b[2J"), True))
    lines(Finished("a", {"a": result(0.75)}))
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("1-shot: epoch 2/4, train loss 1.5000, val loss 1.2500, val accuracy 0.5000, ")
    assert printed[0].endswith(" left")
    assert "started again" in printed[1]
    assert "\x1b" not in printed[1]
    assert printed[2].startswith("1-shot: test accuracy 0.7500 after 4 epochs (1/2 trials, ")
    assert len(printed) == 3
