"""A weight file that is replaced while a study runs is never used under the keys of the old one."""

from __future__ import annotations

import pytest

from tlx.errors import IntegrityError
from tlx.models import backbones
from tlx.models.weights import reader as weights_reader
from tlx.studies import activations, runner
from tlx.studies.activations_spec import Extraction
from tlx.studies.chop import plan as chop_plan
from tlx.studies.chop import pruning_plan
from tlx.studies.chop.spec import Chop, ChopGrid, Pruning, PruningGrid
from tlx.studies.feature_extraction import plan as feature_extraction_plan
from tlx.studies.feature_extraction.spec import FeatureExtraction
from tlx.studies.few_shot import FewShotGrid
from tlx.studies.fine_tuning import plan as fine_tuning_plan
from tlx.studies.fine_tuning.spec import FineTuning
from tlx.studies.layer_transfer import plan as layer_transfer_plan
from tlx.studies.layer_transfer.spec import LayerTransfer, LayerTransferGrid
from tlx.studies.parameter_distance import plan as parameter_distance_plan
from tlx.studies.parameter_distance.spec import (
    ParameterDistance,
    ParameterDistanceGrid,
    TargetTuning,
)
from tlx.studies.quanta import plan as quanta_plan
from tlx.studies.quanta.spec import Quanta, QuantaGrid

QUICK = {"epochs": 1, "batch_size": 8, "val_per_class": 3}


def write(path, seed, classes=10):
    net = backbones.load("mnist-cnn", weights=None, classes=classes, seed=seed).net
    weights_reader.write(path, net.state_dict())
    return path


def fine_tuning(model, bars, settings):
    spec = FineTuning(dataset=str(bars), model=str(model), epochs=1, use_crops=False)
    return fine_tuning_plan.fine_tuning_study(
        spec, FewShotGrid(shots=(1,), splits=1, val_per_class=3), settings
    )[0]


def chop(model, bars, settings):
    return chop_plan.chop_study(
        Chop(dataset=str(bars), model=str(model), **QUICK),
        ChopGrid(depths=(1,), repeats=1),
        settings,
    )[0]


def pruning(model, bars, settings):
    plan = pruning_plan.PruningPlan(
        Pruning(dataset=str(bars), model=str(model), **QUICK), PruningGrid(repeats=1), settings
    )
    return plan.stage(0, None)


def layer_transfer(model, bars, settings):
    plan = layer_transfer_plan.plan_layer_transfer(
        LayerTransfer(dataset=str(bars), architecture="mnist-cnn", model=str(model), **QUICK),
        LayerTransferGrid(treatments=("AnB",), depths=(1,), repeats=1),
        settings,
    )
    return plan.rest(None)


def quanta(model, bars, settings):
    spec = Quanta(
        dataset=str(bars),
        architecture="mnist-cnn",
        model=str(model),
        epochs=1,
        batch_size=8,
        val_per_class=2,
    )
    asked = quanta_plan.plan_quanta(
        spec, QuantaGrid(positions=("0",), repeats=1, witness=False), settings
    )
    return asked.study(asked.source)


def distance_tuning(model, bars, settings):
    plan = parameter_distance_plan.plan_parameter_distance(
        ParameterDistance(architecture="mnist-cnn", pretrained=str(model)),
        ParameterDistanceGrid(norms=("mean_abs",), seeds=1),
        TargetTuning(dataset=str(bars), epochs=1, batch_size=8, val_per_class=3),
        (),
        settings,
    )
    return plan.tunings()


def distance(model, bars, settings):
    tuned = write(model.with_name("tuned.safetensors"), 7)
    plan = parameter_distance_plan.plan_parameter_distance(
        ParameterDistance(architecture="mnist-cnn", pretrained=str(model)),
        ParameterDistanceGrid(norms=("mean_abs",), seeds=1),
        TargetTuning(),
        (f"b={tuned}",),
        settings,
    )
    return plan.distances(None)


@pytest.mark.slow
@pytest.mark.parametrize(
    "plan", [fine_tuning, chop, pruning, layer_transfer, quanta, distance_tuning, distance]
)
def test_no_trial_uses_other_weights_than_it_was_planned_with(plan, bars, settings, tmp_path):
    model = write(tmp_path / "model.safetensors", 1)
    before = backbones.digest("mnist-cnn", model)
    made = plan(model, bars, settings)
    write(model, 2)
    report = runner.run_stage(made, settings, lambda event: None, lambda store, key: None)
    with pytest.raises(IntegrityError) as refused:
        report.raise_if_failed(require_tracking=False)
    assert refused.value.exit_code == 9
    assert before in str(refused.value)
    assert backbones.digest("mnist-cnn", model) in str(refused.value)
    write(model, 1)
    report = runner.run_stage(made, settings, lambda event: None, lambda store, key: None)
    report.raise_if_failed(require_tracking=False)


@pytest.mark.parametrize("kind", ["features", "activations"])
def test_activations_are_filed_under_the_weights_that_made_them(
    kind, bars, settings, tmp_path, monkeypatch
):
    """The file is replaced between the moment at which it is loaded and the moment at which the
    dump is named.
    """
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
        found = feature_extraction_plan.look_at_features(
            spec, FewShotGrid(shots=(1,), splits=1, val_per_class=3), settings
        )
        assert found.weights == before
        return
    spec = Extraction(architecture="mnist-cnn", dataset=str(bars), model=str(model))
    made = activations.extraction(spec, settings)
    monkeypatch.setattr(backbones, "load", load)
    write(model, 1)
    again = activations.extraction(spec, settings)
    assert made.key == again.key
