"""A weight file that is replaced while a study runs is never used under the keys of the old one."""

from __future__ import annotations

import pytest

from tlx.errors import Integrity
from tlx.lab.settings import Settings
from tlx.models import backbones, checkpoints
from tlx.trials import chop_plan, inputs, parameter_distance_plan, quanta_inputs, study, transfer_plan
from tlx.trials.chop import Chop, Chops
from tlx.trials.extraction import Extraction
from tlx.trials.feature_extraction import FeatureExtraction
from tlx.trials.fewshot import FewShot
from tlx.trials.fine_tuning import FineTuning
from tlx.trials.layer_transfer import LayerTransfer, Treatments
from tlx.trials.parameter_distance import Distances, ParameterDistance, TargetTuning
from tlx.trials.pruning import Pruning, Rounds
from tlx.trials.quanta import Quanta, QuantaSweep

QUICK = {"epochs": 1, "batch_size": 8, "val_per_class": 3}


@pytest.fixture
def settings(tmp_path, cache):
    return Settings(store=str(tmp_path / "runs"), cache=str(cache), tracking=False, workers=0, system_metrics=False)


def write(path, seed, classes=10):
    net = backbones.load("mnist-cnn", weights=None, classes=classes, seed=seed).net
    checkpoints.write(path, net.state_dict())
    return path


def fine_tuning(model, bars, settings):
    spec = FineTuning(dataset=str(bars), model=str(model), epochs=1, use_crops=False)
    return inputs.fine_tuning_study(spec, FewShot(shots=(1,), splits=1, val_per_class=3), settings)[0]


def chop(model, bars, settings):
    return chop_plan.chop_study(Chop(dataset=str(bars), model=str(model), **QUICK), Chops(depths=(1,), repeats=1),
                                settings)[0]


def pruning(model, bars, settings):
    plan = chop_plan.PruningPlan(Pruning(dataset=str(bars), model=str(model), **QUICK), Rounds(repeats=1), settings)
    return plan.stage(0, None)


def layer_transfer(model, bars, settings):
    plan = transfer_plan.look(LayerTransfer(dataset=str(bars), architecture="mnist-cnn", model=str(model), **QUICK),
                              Treatments(treatments=("AnB",), depths=(1,), repeats=1), settings)
    return plan.rest(None)


def quanta(model, bars, settings):
    spec = Quanta(dataset=str(bars), architecture="mnist-cnn", model=str(model), epochs=1, batch_size=8,
                  val_per_class=2)
    asked = quanta_inputs.ask(spec, QuantaSweep(positions=("0",), repeats=1, witness=False), settings)
    return asked.study(asked.source)


def distance_tuning(model, bars, settings):
    plan = parameter_distance_plan.look(
        ParameterDistance(architecture="mnist-cnn", pretrained=str(model)), Distances(norms=("mean_abs",), seeds=1),
        TargetTuning(dataset=str(bars), epochs=1, batch_size=8, val_per_class=3), (), settings)
    return plan.tunings()


def distance(model, bars, settings):
    tuned = write(model.with_name("tuned.safetensors"), 7)
    plan = parameter_distance_plan.look(
        ParameterDistance(architecture="mnist-cnn", pretrained=str(model)), Distances(norms=("mean_abs",), seeds=1),
        TargetTuning(), (f"b={tuned}",), settings)
    return plan.distances(None)


@pytest.mark.parametrize("plan", [fine_tuning, chop, pruning, layer_transfer, quanta, distance_tuning, distance])
def test_no_trial_uses_other_weights_than_it_was_planned_with(plan, bars, settings, tmp_path):
    model = write(tmp_path / "model.safetensors", 1)
    before = backbones.digest("mnist-cnn", model)
    made = plan(model, bars, settings)
    write(model, 2)
    report = study.perform(made, settings, lambda event: None, lambda store, key: None)
    with pytest.raises(Integrity) as refused:
        report.raise_if_failed(require_tracking=False)
    assert refused.value.exit_code == 9
    assert before in str(refused.value)
    assert backbones.digest("mnist-cnn", model) in str(refused.value)
    write(model, 1)
    report = study.perform(made, settings, lambda event: None, lambda store, key: None)
    report.raise_if_failed(require_tracking=False)


@pytest.mark.parametrize("kind", ["features", "activations"])
def test_activations_are_filed_under_the_weights_that_made_them(kind, bars, settings, tmp_path, monkeypatch):
    """The file is replaced between the moment at which it is loaded and the moment at which the dump is named."""
    model = write(tmp_path / "model.safetensors", 1)
    before = backbones.digest("mnist-cnn", model)
    load = backbones.load

    def replacing(name, **how):
        network = load(name, **how)
        if how["weights"] == str(model):
            write(model, 2)
        return network

    monkeypatch.setattr(backbones, "load", replacing)
    if kind == "features":
        spec = FeatureExtraction(dataset=str(bars), model=str(model), use_crops=False)
        found = inputs.look_at_features(spec, FewShot(shots=(1,), splits=1, val_per_class=3), settings)
        assert found.weights == before
        return
    spec = Extraction(architecture="mnist-cnn", dataset=str(bars), model=str(model))
    made = inputs.extraction(spec, settings)
    monkeypatch.setattr(backbones, "load", load)
    write(model, 1)
    again = inputs.extraction(spec, settings)
    assert made.key == again.key
