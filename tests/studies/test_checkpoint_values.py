"""Values of each data set as in the thesis, and frozen blocks, in a study of checkpoints."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import draw_images
from PIL import Image
from safetensors.numpy import load_file
from studies.test_checkpoint_chain import ASKED, chain, forward, perform

from tlx.errors import UsageError
from tlx.lab.settings import Settings
from tlx.lab.store import Store
from tlx.models import training
from tlx.studies.checkpoints import plan as checkpoints_plan
from tlx.studies.checkpoints.spec import CheckpointGrid, name_of_data


@pytest.fixture(scope="module")
def settings(tmp_path_factory, cache):
    return Settings(
        store=str(tmp_path_factory.mktemp("runs")),
        cache=str(cache),
        tracking=False,
        workers=0,
        system_metrics=False,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folders that are called as data sets of the thesis are, in the network's own size."""
    root = tmp_path_factory.mktemp("data")
    for seed, name in enumerate(("mnist_noise", "fashionmnist")):
        draw_images(root / name, per_class=10, seed=seed, size=28)
    return root


def small(data, **changes):
    return chain(
        None,
        None,
        sources=(str(data / "mnist_noise"),),
        targets=(str(data / "fashionmnist"),),
        **{"seeds": 1, "from_checkpoints": ("last",), **changes},
    )


@pytest.mark.parametrize(
    ("typed", "batch", "normalisation"),
    [
        ("mnist", 64, (0.1307, 0.3081)),
        ("mnist2class:/data/mnist", 64, (0.1307, 0.3081)),
        ("mnist_split2:/data/mnist", 64, (0.1307, 0.3081)),
        ("fashionmnist", 64, (0.2860, 0.3530)),
        ("/data/fashion-mnist", 64, (0.2860, 0.3530)),
        ("mnist_noise_struct:/data/mnist", 64, (0.0, 1.0)),
        ("cifar10", 32, ()),
        ("custom3D:/data/objects", 12, ()),
        ("Malaria", 22, ()),
        ("/data/pets/", 58, ()),
        ("/data/flowers", 8, ()),
    ],
)
def test_batch_and_normalisation_are_those_of_the_thesis(typed, batch, normalisation):
    grid = CheckpointGrid(data_values="thesis", batch_size=8)
    assert grid.values_of(typed).batch_size == batch
    assert grid.values_of(typed).normalisation == normalisation
    plain = CheckpointGrid(batch_size=8).values_of(typed)
    assert (plain.batch_size, plain.normalisation) == (8, ())


def test_a_copy_elsewhere_is_the_same_data_set():
    assert name_of_data("mnist:/data/copy") == name_of_data("/other/mnist/") == "mnist"


def test_every_trial_of_a_data_set_has_its_values(data, settings):
    plan = checkpoints_plan.plan_checkpoints(small(data, data_values="thesis"), ASKED, settings)
    (source,), (target,) = plan.sources, plan.targets
    assert (source.trial.spec.batch_size, source.trial.spec.normalisation) == (64, (0.0, 1.0))
    assert (target.spec.batch_size, target.spec.normalisation) == (64, (0.2860, 0.3530))
    common = checkpoints_plan.plan_checkpoints(small(data), ASKED, settings)
    assert common.sources[0].trial.spec.key != source.trial.spec.key
    assert common.first().key != plan.first().key


@pytest.mark.slow
def test_networks_see_the_images_as_the_values_say(data, settings):
    """Scores of a source's checkpoint, from its weights and pixels in arrays alone."""
    report, (first, layers) = perform(
        small(
            data, data_values="thesis", checkpoints=("0", "1"), epochs=1, from_checkpoints=("1",)
        ),
        settings,
    )
    results = json.loads((report.folder / "studies" / report.key / "checkpoints.json").read_text())
    paths = sorted((data / "mnist_noise" / "test").glob("*/*.png"))
    y = np.array([int(path.parent.name[-1]) for path in paths])
    pixels = [np.asarray(Image.open(path)) for path in paths]
    (key,) = [r.key for r in first.results if r.kind == "pretraining"]
    weights = load_file(Store(report.folder).file(key, "checkpoints/1.safetensors"))
    z = forward(weights, np.stack(pixels) / 255.0)
    z -= z.max(axis=1, keepdims=True)
    loss = float(np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(y)), y]))
    (row,) = (r for r in results["pretraining"] if r["tag"] == "1")
    assert row["test_loss"] == pytest.approx(loss, rel=1e-4)
    _, (_, common) = perform(
        small(data, checkpoints=("0", "1"), epochs=1, from_checkpoints=("1",)), settings
    )
    ours = {r.spec["dump"] for r in layers.results}
    assert not ours & {r.spec["dump"] for r in common.results}, "other inputs, other activations"


@pytest.mark.slow
def test_frozen_blocks_stay_those_of_the_checkpoint(data, settings, monkeypatch):
    seen = []
    fit = training.fit

    def watched(network, *arguments, **named):
        before = {n: t.clone() for n, t in network.net.state_dict().items()}
        outcome = fit(network, *arguments, **named)
        seen.append((before, network.net.state_dict()))
        return outcome

    plan = small(data, freeze=2, checkpoints=("0", "1"), epochs=1, from_checkpoints=("1",))
    monkeypatch.setattr(training, "fit", watched)
    perform(plan, settings)
    before, after = seen[-1]  # the fine-tuning; before it the pre-training
    same = {name.partition(".")[0] for name in before if torch.equal(before[name], after[name])}
    assert same == {"conv1", "conv2"}


@pytest.mark.parametrize(("changes", "most"), [({"freeze": 3}, 2), ({"freeze": 4}, 2)])
def test_a_block_cannot_be_frozen_and_drawn_anew(data, settings, changes, most):
    with pytest.raises(UsageError, match=f"at most {most}, the blocks that come from a checkpoint"):
        checkpoints_plan.plan_checkpoints(small(data, **changes), ASKED, settings)
    all_copied = small(data, freeze=3, reinit_blocks=0)
    assert (
        checkpoints_plan.plan_checkpoints(all_copied, ASKED, settings).targets[0].spec.freeze == 3
    )
