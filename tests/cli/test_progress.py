"""What is shown of a running study: the time left, lines in a log, words for an end."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tlx.cli import progress
from tlx.errors import ResourceError
from tlx.lab.tasks import Failed, Finished, Progress, Started
from tlx.studies import base


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(s=0.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.s)
    return now


def group(key, shots, epochs=4):
    spec = SimpleNamespace(key=key, title=f"{shots}-shot", shots=shots, epochs=epochs)
    trials = (SimpleNamespace(spec=spec),)
    return SimpleNamespace(
        key=key, title=spec.title, weight=shots, fitting_share=1.0, trials=trials
    )


def result(accuracy):
    return SimpleNamespace(
        status="finished", scores={"test_accuracy": accuracy}, spec={}, details={"epochs": 4}
    )


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


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-:--"), (0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3661, "1:01:01")],
)
def test_clock(seconds, text):
    assert progress.clock(seconds) == text


def test_a_log_gets_one_plain_line_an_epoch(clock, capsys):
    lines = progress.TrialLines([group("a", 1), group("b", 2)], verbose=True)
    lines(Started("a", 1))
    values = {"epoch": 2.0, "train_loss": 1.5, "val_loss": 1.25, "val_accuracy": 0.5}
    lines(Progress("a", 1, 8, {}))
    lines(Progress("a", 4, 8, values))
    lines(Failed("b", ResourceError("worker-killed", "killed \x1b[2J"), True))
    lines(Finished("a", {"a": result(0.75)}))
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith(
        "1-shot: epoch 2/4, train loss 1.5000, val loss 1.2500, val accuracy 0.5000, "
    )
    assert printed[0].endswith(" left")
    assert "started again" in printed[1]
    assert "\x1b" not in printed[1]
    assert printed[2].startswith("1-shot: test accuracy 0.7500 after 4 epochs (1/2 trials, ")
    assert len(printed) == 3


def test_a_log_gets_one_line_a_trial_unless_it_is_verbose(clock, capsys):
    lines = progress.TrialLines([group("a", 1)])
    lines(Started("a", 1))
    values = {"epoch": 2.0, "train_loss": 1.5, "val_loss": 1.25, "val_accuracy": 0.5}
    lines(Progress("a", 4, 8, values))
    lines(Finished("a", {"a": result(0.75)}))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("1-shot: test accuracy 0.7500")


class Rows:
    """As many rows as asked for, ten crops an image."""

    crops = 10

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return self.images


def fine_tunings(shots_of, classes=10, epochs=5, test=100):
    trials = []
    for number, shots in enumerate(shots_of):
        spec = SimpleNamespace(key=f"t{number}", title=f"{shots}-shot", shots=shots, epochs=epochs)
        inputs = SimpleNamespace(train=Rows(shots * classes), val=Rows(100), test=Rows(test))
        trials.append(base.Trial(spec, inputs))
    asked = SimpleNamespace(trials=trials)
    return base.Stage.groups.fget(asked)


def test_the_time_left_of_a_fine_tuning_is_right_from_its_first_epoch(clock):
    """A simulated network: a second for 1,000 rows forward, two more for those that are trained
    on.
    """
    groups = fine_tunings([1, 1, 2, 2, 5, 5, 10, 10])
    left = progress.time_left(groups)

    def rows(group, of):
        return len(getattr(group.trials[0].inputs, of)) * 10

    took = {
        g.key: (5 * (3 * rows(g, "train") + rows(g, "val")) + rows(g, "test")) / 1000
        for g in groups
    }
    total = sum(took.values())
    for group in groups:
        left.start(group.key)
        began = clock.s
        fitted = 5 * (3 * rows(group, "train") + rows(group, "val")) / 1000
        for epoch in range(1, 6):
            clock.s = began + fitted * epoch / 5
            left.progress(group.key, epoch / 5)
            assert left.seconds() == pytest.approx(total - clock.s, rel=0.02), (group.title, epoch)
        clock.s = began + took[group.key]
        left.end(group.key)
    assert left.seconds() == 0


def test_a_long_test_set_is_not_forgotten(clock):
    """One trial, half of whose work is the test: after the last epoch half of the time is left."""
    (group,) = fine_tunings([1], epochs=1, test=130)
    left = progress.time_left([group])
    left.start(group.key)
    clock.s = 8.0
    left.progress(group.key, 1.0)
    assert left.seconds() == pytest.approx(8.0)


def test_what_reading_and_extracting_took_is_said_once(clock, capsys):
    progress.Preparation.line()
    with progress.steps("extracting"):
        clock.s += 155
    assert progress.Preparation.line() == "reading and extracting before that took 2 min 35 s"
    assert progress.Preparation.line() == ""


def test_what_is_waited_for_is_said(capsys):
    from tlx.cli.progress import SearchLines
    from tlx.lab.tasks import Waiting

    for lines in (progress.TrialLines([group("a", 1)]), SearchLines(3)):
        lines(Waiting(10.0))
        assert capsys.readouterr().out == (
            "waiting for the tracking server, up to 10 s; Ctrl-C or --no-wait leaves it "
            "to tlx sync\n"
        )
        lines(Waiting(60.0, is_local=True))
        assert capsys.readouterr().out == (
            "writing the last records to MLflow's database, up to 60 s; Ctrl-C leaves it to "
            "tlx sync\n"
        )
