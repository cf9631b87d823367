"""Plans of studies: every stage whose size is known, and the time of what is only extracted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_images

import tlx as package
from tlx.lab.store import Store
from tlx.studies import estimate, planning

QUICK = {"workers": 0, "tracking": False}
ONE = {"epochs": 1, "val_per_class": 2}
CHAINS = {  # study → settings with which a later stage follows, and the numbers of its trials
    "prune": (ONE | {"repeats": 2, "iterations": 2}, (2, 2)),
    "quanta": (ONE | {"repeats": 1, "positions": "0,1", "source_epochs": 1}, (3,)),
    "layer-transfer": (ONE | {"repeats": 1, "depths": "1"}, None),
    "parameter-distance": (ONE | {"seeds": 2}, (1, 2)),
}


@pytest.fixture
def here(tmp_path, monkeypatch, cache):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TLX_CACHE", str(cache))
    return tmp_path


def asked(name, bars, here):
    settings, expected = CHAINS[name]
    if name == "quanta":
        settings = settings | {"source_dataset": bars}
    if name == "layer-transfer":  # each half of the classes needs two
        bars = draw_images(here / "four", classes=4)
    return {"dataset": bars, **settings, **QUICK}, expected


@pytest.mark.parametrize("name", CHAINS)
def test_a_plan_counts_the_trials_of_every_stage_that_the_study_runs(here, bars, name):
    settings, expected = asked(name, bars, here)
    plan = package.plan(name, **settings)
    assert plan.later
    assert plan.further
    counts = tuple(stage.trials for stage in plan.further)
    assert expected is None or counts == expected
    assert all(f"then {stage.title}: {stage.trials} trial" in str(plan) for stage in plan.further)
    assert not (here / "tlx-runs" / "trials").exists(), "nothing has run"
    report = package.run(name, progress=False, figures="none", **settings)
    store = Store(report.folder)
    trials = {row["key"] for key in store.studies() for row in store.read_study(key)["trials"]}
    assert len(trials) == plan.trials + sum(counts)


@pytest.mark.parametrize("name", ["prune", "quanta", "layer-transfer"])
def test_trainings_that_follow_are_estimated_as_the_first_are(here, bars, name, monkeypatch):
    monkeypatch.setattr(estimate, "seconds_a_row", lambda *_: (1.0, 0.0))
    settings, _ = asked(name, bars, here)
    plan = package.plan(name, **settings)
    assert all(stage.seconds > 0 for stage in plan.further)
    if name == "prune":
        assert [stage.seconds for stage in plan.further] == [plan.seconds] * 2


def test_the_plan_of_checkpoints_has_the_layers_of_each_target_and_the_fine_tunings(here, bars):
    plan = package.plan(
        "checkpoints",
        sources=(str(bars),),
        targets=(str(bars),),
        seeds=2,
        epochs=1,
        checkpoints="0,1",
        from_checkpoints="all",
        val_per_class=2,
        fine_tune_epochs=1,
        fine_tune_checkpoints="0,1",
        samples=6,
        **QUICK,
    )
    layers, tunings = plan.further
    assert plan.trials == 2
    assert layers.trials == 2 * 2, "two checkpoints of each seed"
    assert tunings.trials == 2 * 2 + 2, "each is fine-tuned, each source is scored"
    assert tunings.seconds > 0


@pytest.mark.parametrize(("networks", "times"), [((), 1), (("mnist", "random_init"), 2)])
def test_analyze_takes_the_images_once_through_each_network(
    here, bars, networks, times, monkeypatch
):
    monkeypatch.setattr(estimate, "forward_seconds_a_row", lambda *_: 2.0)
    monkeypatch.setattr(estimate, "comparing_seconds", lambda: 0.0)
    settings = {"networks": networks} if networks else {}
    plan = package.plan("analyze", dataset=bars, part="test", **settings, **QUICK)
    assert plan.seconds == 2.0 * 3 * 8 * times
    assert plan.trials is None
    assert "estimated run time" in str(plan)
    assert any("once through each network" in note for note in plan.notes)


def test_the_atlas_takes_as_many_images_as_it_will_measure(here, bars, monkeypatch):
    monkeypatch.setattr(estimate, "forward_seconds_a_row", lambda *_: 2.0)
    monkeypatch.setattr(estimate, "comparing_seconds", lambda: 0.0)
    plan = package.plan("atlas", dataset=bars, part="test", samples=12, **QUICK)
    assert plan.seconds == 2.0 * 12


WIDTHS = (28 * 28, 32 * 26 * 26, 32 * 13 * 13, 64 * 11 * 11, 64 * 5 * 5, 128, 10)  # of mnist-cnn


def test_analyze_is_planned_with_the_layers_that_it_measures(here, bars, monkeypatch):
    """24 test images: of each layer the width, for every two rows, and 4 bytes a number."""
    monkeypatch.setattr(estimate, "forward_seconds_a_row", lambda *_: 0.0)
    monkeypatch.setattr(estimate, "comparing_seconds", lambda: 1.0)
    monkeypatch.setenv("TLX_CACHE", str(here / "cache"))
    settings = {"dataset": bars, "part": "test", **QUICK}
    plan = package.plan("analyze", **settings)
    assert plan.seconds == 24**2 * sum(WIDTHS)
    assert plan.size_bytes == 24 * 4 * sum(WIDTHS)
    package.run("analyze", progress=False, figures="none", resamplings=2, **settings)
    (dump,) = (path for path in (here / "cache" / "dumps").iterdir() if path.name != "locks")
    rows = [len(np.load(path)) * np.load(path)[0].size for path in dump.glob("*.npy")]
    assert 4 * sum(rows) == plan.size_bytes


def test_memory_of_an_analysis_is_that_of_all_layers_measured_at_once(here, bars, monkeypatch):
    monkeypatch.setattr(estimate, "comparing_seconds", lambda: 0.0)
    settings = {"dataset": bars, "part": "test", "tracking": False}
    few = package.plan("analyze", samples=12, workers=1, **settings)
    one = package.plan("analyze", workers=1, **settings)
    own = 3 * 4 * WIDTHS[1] + 8 * (24 + 12)
    assert one.memory_bytes - few.memory_bytes == 12 * own
    two = package.plan("analyze", networks=("mnist", "random_init"), workers=2, **settings)
    assert two.memory_bytes == 2 * one.memory_bytes
    assert two.at_once == 2
    pieces = package.plan("analyze", block_rows=6, workers=1, **settings)
    assert one.memory_bytes - pieces.memory_bytes == 12 * 3 * 4 * WIDTHS[1], "two blocks of six"


@pytest.mark.parametrize("name", ["analyze", "atlas", "scores", "feature-extraction"])
def test_no_error_is_claimed_for_estimates_whose_error_was_not_measured(here, bars, name):
    """tests/benchmarks/plan_error.py measures trainings alone."""
    few = {} if name in ("analyze", "atlas") else {"shots": (1,), "splits": 1, "val_per_class": 2}
    plan = package.plan(name, dataset=bars, **few, **QUICK)
    assert plan.error is None
    assert plan.seconds_range is None
    assert "by the error" not in str(plan)


def test_a_plan_that_estimates_nothing_says_so(here, bars):
    weights = Path(package.__file__).parent / "_data" / "weights" / "mnist-cnn-mnist.safetensors"
    plans = [
        package.plan("tune", dataset=bars, trials=3, val_per_class=2, **QUICK),
        package.plan(
            "evaluate", dataset="digits", models=(str(weights),), architecture="mnist-cnn", **QUICK
        ),
    ]
    for plan in plans:
        assert plan.seconds is None
        assert any("not estimated" in note for note in plan.notes)


def test_a_row_forward_is_measured_without_a_change_of_the_network():
    from tlx.models import backbones

    network = backbones.load("mnist-cnn", weights=None, classes=3, seed=0)
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    ticks = iter([5.0, 7.0])
    assert estimate.forward_seconds_a_row(network, 4, 1, lambda: next(ticks)) == 0.5
    assert network.training
    assert all((value == before[name]).all() for name, value in network.state_dict().items())


FINE = {"shots": (1, 2), "splits": 2, "epochs": 2, "val_per_class": 2, "use_crops": False}


def test_finished_trials_correct_the_estimate_and_give_its_error(here, bars, monkeypatch):
    """A row takes a second; the finished trials are said to have taken these shares of theirs."""
    monkeypatch.setattr(estimate, "seconds_a_row", lambda *_: (1.0, 1.0))
    settings = {"dataset": bars, **FINE, **QUICK}
    before = package.plan("fine-tuning", **settings)
    assert before.error.trials == 0
    assert before.seconds_range == tuple(before.seconds * f for f in estimate.TIME_ERROR)
    package.run("fine-tuning", progress=False, figures="none", **settings)

    scored = (before.seconds - 2 * 2 * (3 + 6)) / 4  # rows of a trial besides those of training
    shares = iter([0.5, 0.75, 1.0, 1.5])
    find = Store.find_or_none

    def found(store, key, **options):
        result = find(store, key, **options)
        expected = scored + 2 * 3 * result.spec["shots"]
        result.cost["wall_s"]["value"] = next(shares) * expected
        return result

    monkeypatch.setattr(Store, "find_or_none", found)
    more = package.plan("fine-tuning", **{**settings, "splits": 3})
    assert (more.trials, more.finished) == (2, 4)
    assert vars(more.error) == pytest.approx(
        {"median": 0.875, "least": 0.5, "most": 1.5, "trials": 4}
    )
    assert more.seconds == pytest.approx(0.875 * (2 * scored + 6 + 12))
    assert more.seconds_range == pytest.approx(
        (0.5 * more.seconds / 0.875, 1.5 * more.seconds / 0.875)
    )
    assert "by 4 finished trials of this study" in str(more)


def test_a_plan_of_trainings_has_memory_and_a_table_of_engines(here, bars):
    plan = package.plan("fine-tuning", dataset=bars, **FINE, tracking=False, workers=2)
    assert plan.memory_bytes > 2 * estimate.PROCESS_BYTES
    assert {row.engine for row in plan.engines} == {"local", "dask", "ray"}
    content = json.loads(json.dumps(plan.to_json()))
    assert content["seconds_range"] == list(plan.seconds_range)
    assert content["engines"][0] == {
        "engine": "local",
        "slots": 1,
        "seconds": pytest.approx(plan.engines[0].seconds),
    }
    text = str(plan)
    assert "estimated memory: at most" in text
    assert "slots " in text


def test_the_plan_of_a_comparison_has_both_sides_and_extracts_nothing(here, bars, monkeypatch):
    monkeypatch.setattr("tlx.features.extract.extract", None)
    plan = package.plan(
        "compare", dataset=bars, shots=(1, 2), splits=2, val_per_class=2, classifier="ncm", **QUICK
    )
    assert plan.trials == 4 + 4, "fine-tunings, and one classifier on the features of each draw"
    assert plan.seconds > 4 * 0.1
    assert plan.size_bytes > 0
    assert any("--any-time" in note for note in plan.notes)


@pytest.mark.parametrize("name", ["feature-extraction", "scores"])
def test_extraction_is_planned_without_it(here, bars, monkeypatch, name):
    monkeypatch.setattr(estimate, "forward_seconds_a_row", lambda *_: 2.0)
    words = {"sources": ("mnist-cnn",)} if name == "scores" else {}
    plan = package.plan(
        name, dataset=bars, shots=(1,), splits=1, val_per_class=2, use_crops=False, **words, **QUICK
    )
    assert plan.seconds >= 2.0 * (3 + 6), "at least the training and validation images"
    trial_s = planning.FEATURE_TRIAL_S if name == "feature-extraction" else 0.0
    extraction_s = plan.seconds - plan.trials * trial_s
    assert extraction_s / 2.0 == pytest.approx(round(extraction_s / 2.0)), "each image once"
    assert plan.size_bytes > 0
    assert plan.memory_bytes > estimate.PROCESS_BYTES


def test_a_study_that_is_finished_takes_no_time(here, bars):
    settings = {"dataset": bars, **FINE, "shots": (1,), "splits": 1, "epochs": 1, **QUICK}
    package.run("fine-tuning", progress=False, figures="none", **settings)
    plan = package.plan("fine-tuning", **settings)
    assert (plan.trials, plan.finished, plan.seconds) == (0, 1, 0.0)
    assert "estimated run time: 0.0 s" in str(plan)
