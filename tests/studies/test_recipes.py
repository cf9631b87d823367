"""Recipes of the originals: one word gives their settings, and what is given beside it wins."""

from __future__ import annotations

import pytest
import torch
import typer
from typer.testing import CliRunner

from tlx.cli.options import options
from tlx.errors import ErrorGroup, TlxError, UsageError
from tlx.lab.settings import Settings
from tlx.models import backbones, freezing
from tlx.models.transferred import redraw
from tlx.spec import make_specs
from tlx.studies import STUDIES, recipes, runner
from tlx.studies.few_shot import FewShotGrid
from tlx.studies.fine_tuning import plan as fine_tuning_plan
from tlx.studies.fine_tuning.spec import FineTuning
from tlx.studies.layer_transfer import plan as layer_transfer_plan
from tlx.studies.layer_transfer.spec import LayerTransfer, LayerTransferGrid
from tlx.studies.mlproject import render
from tlx.studies.pretraining_spec import PreTraining

ROWS = [
    (name, word)
    for name, study in STUDIES.items()
    for kind in study.specs
    for row in kind.settings().values()
    for word in row.presets or ()
]


def asked(study, **settings):
    return {type(spec): spec for spec in make_specs(STUDIES[study].specs, settings)}


def table_of(study):
    (table,) = [
        row.presets for k in STUDIES[study].specs for row in k.settings().values() if row.presets
    ]
    return table


def test_every_study_of_an_original_that_trains_has_a_recipe():
    assert {name for name, _ in ROWS} == {
        "pretrain",
        "fine-tuning",
        "layer-transfer",
        "parameter-distance",
    }


@pytest.mark.parametrize(("study", "word"), ROWS)
def test_a_recipe_is_the_same_as_its_settings_one_by_one(study, word):
    """So one key: the word is only another way of asking."""
    row = table_of(study)[word]
    short, long = asked(study, recipe=word), asked(study, **row)
    for kind, spec in short.items():
        if kind.__name__.endswith("Recipe"):
            continue
        assert spec == long[kind]
        assert spec.key == long[kind].key
    shown = {name for kind in short for name, of in kind.settings().items() if of.cli}
    assert set(row) <= shown, "a preset that no class takes would do nothing"


@pytest.mark.parametrize(("study", "word"), ROWS)
def test_a_recipe_changes_something(study, word):
    plain = asked(study)
    assert any(asked(study, recipe=word)[k] != spec for k, spec in plain.items())


def test_an_unknown_recipe_is_refused_with_the_known_ones():
    with pytest.raises(TlxError, match="imagenet, thesis-vgg"):
        asked("pretrain", recipe="imagnet")


def test_what_is_given_beside_a_recipe_wins():
    spec = asked("pretrain", recipe="imagenet", epochs=2, architecture="vgg16")[PreTraining]
    assert (spec.epochs, spec.architecture, spec.batch_size) == (2, "vgg16", 256)


def typed(*words):
    """Return the settings of a pretraining as the command line makes them of words."""
    seen = []
    app = typer.Typer()
    app.command()(
        options(PreTraining, recipes.PretrainingRecipe)(lambda *specs: seen.append(specs))
    )
    outcome = CliRunner().invoke(app, list(words))
    assert outcome.exit_code == 0, outcome.output
    return seen[0][0]


def test_a_default_that_is_typed_beside_a_recipe_wins_too():
    """100 epochs are the default of tlx pretrain, 120 those of the recipe."""
    assert typed("--recipe", "imagenet").epochs == 120
    spec = typed("--recipe", "imagenet", "--epochs", "100", "--no-early-stopping")
    assert (spec.epochs, spec.learning_rate, spec.step_epochs) == (100, 0.1, 40)
    assert typed().epochs == 100


def test_mlflow_run_passes_no_default_over_a_recipe():
    yaml = pytest.importorskip("yaml")
    entries = yaml.safe_load(render())["entry_points"]
    for study, word in ROWS:
        parameters = entries[study.replace("-", "_")]["parameters"]
        assert "recipe" in parameters
        for name in set(table_of(study)[word]) & set(parameters):
            assert parameters[name]["default"] == "", (study, name)


# ---------------------------------------------------------------- the originals' facts


def test_the_recipe_of_imagenet_is_that_of_the_original():
    spec = asked("pretrain", recipe="imagenet")[PreTraining]
    assert spec.architecture == "resnet50"
    assert (spec.epochs, spec.batch_size, spec.learning_rate) == (120, 256, 0.1)
    assert (spec.optimizer, spec.momentum, spec.weight_decay) == ("sgd-l2", 0.9, 1e-4)
    assert (spec.schedule, spec.step_epochs, spec.step_factor) == ("step", 40, 0.1)
    assert spec.augment == "crop-flip"


def test_the_recipe_of_finetune_is_that_of_the_original():
    from tlx.studies.parameter_distance.spec import TargetTuning

    spec = asked("parameter-distance", recipe="finetune")[TargetTuning]
    assert (spec.epochs, spec.batch_size, spec.learning_rate) == (100, 128, 0.01)
    assert (spec.optimizer, spec.momentum, spec.weight_decay) == ("sgd-l2", 0.9, 1e-4)
    assert (spec.schedule, spec.augment) == ("cosine", "crop-flip")
    assert not spec.early_stopping


def test_the_recipe_of_vgg_trains_the_last_convolution_and_the_dense_layers():
    """features.28 is conv5_3; classifier.0, .3 and .6 are fc1, fc2 and the output."""
    spec = asked("fine-tuning", recipe="thesis-vgg")[FineTuning]
    network = backbones.meta_model(spec.architecture)
    freezing.freeze(network, spec.freeze)
    learning = {n.rpartition(".")[0] for n, p in network.net.named_parameters() if p.requires_grad}
    assert learning == {"features.28", "classifier.0", "classifier.3", "classifier.6"}
    drawn = {b.name for b in network.blocks[-spec.reinit_blocks :]} | set(network.head_names)
    assert drawn == learning
    groups = freezing.parameter_groups(
        network, spec.learning_rate, classifier_rate=spec.classifier_rate
    )
    rates = {group["name"]: group["lr"] for group in groups}
    assert rates.pop("features.28") == 1e-4
    assert set(rates.values()) == {1e-3}
    assert len(rates) == 3
    assert (spec.schedule, spec.step_epochs, spec.step_factor) == ("step", 20, 0.1)


def test_layer_transfer_by_the_recipe_of_vgg_trains_the_same_layers():
    both = asked("layer-transfer", recipe="thesis-vgg")
    spec, grid = both[LayerTransfer], both[LayerTransferGrid]
    assert layer_transfer_plan.OF[grid.treatments[0]] == ("A", True), "what is copied is frozen"
    assert (grid.treatments, grid.depths) == (("AnB",), (12,))
    assert len(backbones.meta_model(spec.architecture).blocks) == 12 + 3
    assert (spec.learning_rate, spec.classifier_rate, spec.source) == (1e-4, 1e-3, "default")


# ---------------------------------------------------------------- blocks that are drawn anew


def states(network):
    return {b.name: {n: t.clone() for n, t in network.tensors(b).items()} for b in network.blocks}


def test_the_last_blocks_are_drawn_anew_and_no_others():
    network = backbones.load("mnist-cnn", weights="default", classes=3, seed=0)
    before = states(network)
    head = network.head.weight.clone()
    redraw(network, "mnist-cnn", 1, seed=7)
    after = states(network)
    same = [
        all(torch.equal(t, after[name][n]) for n, t in tensors.items())
        for name, tensors in before.items()
    ]
    assert same == [True, True, False]
    assert torch.equal(head, network.head.weight)
    other = backbones.load("mnist-cnn", weights="default", classes=3, seed=0)
    redraw(other, "mnist-cnn", 1, seed=8)
    assert not torch.equal(after[network.blocks[2].name]["fc1.weight"], other.net.fc1.weight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reinit_blocks": 4}, "at most 3, the blocks of"),
        ({"reinit_blocks": 2, "freeze": 2}, "block 2 is to be drawn anew and frozen"),
    ],
)
def test_blocks_that_cannot_be_drawn_anew_are_refused_before_training(
    bars, settings, changes, message
):
    spec = FineTuning(dataset=str(bars), use_crops=False, **changes)
    with pytest.raises((UsageError, ErrorGroup), match=message):
        fine_tuning_plan.fine_tuning_study(spec, FewShotGrid(shots=(1,), splits=1), settings)


def test_a_fine_tuning_with_fresh_blocks_is_another_trial_with_other_weights(bars, settings):
    few = FewShotGrid(shots=(2,), splits=1, val_per_class=3)
    scores = []
    for fresh in (0, 1):
        spec = FineTuning(
            dataset=str(bars), use_crops=False, epochs=1, freeze=2, reinit_blocks=fresh
        )
        stage, _ = fine_tuning_plan.fine_tuning_study(spec, few, settings)
        (result,) = runner.run_stage(stage, settings, lambda event: None).results
        scores.append((result.key, result.scores["best_val_loss"]))
        assert result.spec["reinit_blocks"] == fresh
    (key, loss), (other_key, other_loss) = scores
    assert key != other_key
    assert loss != other_loss
    assert isinstance(settings, Settings)


SMALL = {  # study → what makes its recipes small; the rest is theirs
    "pretrain": ("--architecture", "mnist-cnn", "--epochs", 1, "--val-per-class", 2),
    "fine-tuning": (
        *("--architecture", "mnist-cnn", "--freeze", 1, "--reinit-blocks", 2, "--epochs", 1),
        *("--shots", 1, "--splits", 1, "--val-per-class", 2),
    ),
    "layer-transfer": (
        *("--architecture", "mnist-cnn", "--source", "default", "--depths", 1, "--epochs", 1),
        *("--treatments", "AnB", "--repeats", 1, "--val-per-class", 2),
    ),
    "parameter-distance": ("--epochs", 1, "--seeds", 1, "--val-per-class", 2),
}


@pytest.mark.slow
@pytest.mark.parametrize(("study", "word"), ROWS)
def test_every_recipe_runs(tlx, bars, study, word):
    code, out, said = tlx(
        *(study, "--recipe", word, "--dataset", bars, *SMALL[study]),
        *("--no-tracking", "--workers", 0, "--figures", "none"),
    )
    assert code == 0, said or out
