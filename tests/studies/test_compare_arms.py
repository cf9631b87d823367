"""Arms of fine-tuning in a race: which go, which stay, what is run next."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tlx.result import Result
from tlx.studies.compare.arms import Arms
from tlx.studies.compare.evidence import TUNING, Side

SHOTS = (1, 5)


def stage(name, splits=6):
    specs = [
        SimpleNamespace(shots=k, split=s, key=f"{name}-{k}-{s}")
        for k in SHOTS
        for s in range(splits)
    ]
    return SimpleNamespace(trials=tuple(SimpleNamespace(spec=spec) for spec in specs))


def result(name, shots, split, value):
    spec = {"architecture": name, "shots": shots, "split": split}
    return Result(
        key=f"{name}-{shots}-{split}",
        kind="fine-tuning",
        spec=spec,
        status="finished",
        scores={"best_val_accuracy": value, "total_s": 2.0 if name == "a" else 3.0},
        details={},
    )


def raced(values, names=("a", "b", "c")):
    """Arms and side after three splits; values: (name, shots) → validation accuracies."""
    arms, side = Arms.of({name: stage(name) for name in names}), Side(TUNING)
    for (name, shots), scores in values.items():
        side.add(result(name, shots, split, value) for split, value in enumerate(scores))
    return arms, side


FAR = (0.30, 0.32, 0.31)
NEAR = {("a", 1): (0.60, 0.70, 0.62), ("b", 1): (0.62, 0.66, 0.66), ("c", 1): FAR}
CLEAR = {("a", 5): (0.80, 0.81, 0.80), ("b", 5): (0.70, 0.70, 0.69), ("c", 5): FAR}


def test_an_arm_goes_where_it_is_hardly_the_best_and_stays_elsewhere():
    arms, side = raced(NEAR | CLEAR)
    left_out = Side(TUNING)
    gone = arms.leave_out(side, left_out, 1000)
    assert gone == {"c": [1, 5], "b": [5]}
    assert arms.live == {1: ["a", "b"], 5: ["a"]}
    assert sorted(side.arms) == ["a", "b"]
    assert {place[0] for place in side.arms["b"]} == {1}
    assert {place[0] for place in left_out.arms["b"]} == {5}
    assert len(left_out.arms["c"]) == 6
    assert arms.leave_out(side, left_out, 1000) == {}


def test_what_is_run_next_is_of_live_arms_alone():
    arms, side = raced(NEAR | CLEAR)
    arms.leave_out(side, Side(TUNING), 1000)
    done = {r.key for trials in side.arms.values() for r in trials.values()}
    assert arms.places(done) == {(k, s) for k in SHOTS for s in (3, 4, 5)}
    waiting = arms.trials({(1, 3), (5, 3)}, done)
    assert {name: [t.spec.key for t in trials] for name, trials in waiting.items()} == {
        "a": ["a-1-3", "a-5-3"],
        "b": ["b-1-3"],
    }
    assert arms.seconds(side) == {1: pytest.approx(5.0), 5: pytest.approx(2.0)}


def test_two_splits_are_too_few_to_leave_an_arm_out():
    arms, side = raced({key: scores[:2] for key, scores in (NEAR | CLEAR).items()})
    assert arms.leave_out(side, Side(TUNING), 1000) == {}


def test_a_trial_that_failed_counts_as_wrong_everywhere():
    arms, side = raced({("a", 1): (0.6, 0.61, 0.6)}, names=("a", "b"))
    side.failed |= {(1, 0), (1, 1), (1, 2)}
    assert arms.leave_out(side, Side(TUNING), 1000) == {"b": [1]}


def test_the_order_of_arms_changes_nothing():
    orders = [("a", "b", "c"), ("c", "a", "b")]
    raced_arms = [raced(NEAR | CLEAR, names) for names in orders]
    chances = [arms.chances(side, 1000)[1] for arms, side in raced_arms]
    assert list(chances[0].p_best) == list(chances[1].p_best)
