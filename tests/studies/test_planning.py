"""Plans of studies: every stage whose size is known, and the time of what is only extracted."""

from __future__ import annotations

import pytest
from conftest import draw_images

import tlx as package
from tlx.lab.store import Store
from tlx.studies import estimate

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
    settings = {"networks": networks} if networks else {}
    plan = package.plan("analyze", dataset=bars, part="test", **settings, **QUICK)
    assert plan.seconds == 2.0 * 3 * 8 * times
    assert plan.trials is None
    assert "estimated run time" in str(plan)
    assert any("once through each network" in note for note in plan.notes)


def test_the_atlas_takes_as_many_images_as_it_will_measure(here, bars, monkeypatch):
    monkeypatch.setattr(estimate, "forward_seconds_a_row", lambda *_: 2.0)
    plan = package.plan("atlas", dataset=bars, part="test", samples=12, **QUICK)
    assert plan.seconds == 2.0 * 12


def test_a_row_forward_is_measured_without_a_change_of_the_network():
    from tlx.models import backbones

    network = backbones.load("mnist-cnn", weights=None, classes=3, seed=0)
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    ticks = iter([5.0, 7.0])
    assert estimate.forward_seconds_a_row(network, 4, 1, lambda: next(ticks)) == 0.5
    assert network.training
    assert all((value == before[name]).all() for name, value in network.state_dict().items())
