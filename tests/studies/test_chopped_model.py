"""What `tlx chop --out` wrote is a weight file like any other: --model takes it, and says what it
is.
"""

from __future__ import annotations

import pytest
import torch

from tlx.errors import IntegrityError, UsageError
from tlx.lab.store import Store
from tlx.models import backbones, chopped
from tlx.models.transferred import transferred
from tlx.studies import activations, runner
from tlx.studies.activations_spec import Extraction
from tlx.studies.chop import plan as chop_plan
from tlx.studies.chop.spec import Chop, ChopGrid
from tlx.studies.chop.trial import NETWORK
from tlx.studies.feature_extraction import plan as feature_extraction_plan
from tlx.studies.feature_extraction.spec import FeatureExtraction, FeatureExtractionGrid
from tlx.studies.few_shot import FewShotGrid
from tlx.studies.fine_tuning import plan as fine_tuning_plan
from tlx.studies.fine_tuning.spec import FineTuning
from tlx.studies.layer_metrics import plan as layer_metrics_plan
from tlx.studies.layer_metrics.spec import LayerMetrics, Observed
from tlx.studies.layer_transfer import plan as layer_transfer_plan
from tlx.studies.layer_transfer.spec import LayerTransfer, LayerTransferGrid

FEW = FewShotGrid(shots=(1,), splits=1, val_per_class=3)


@pytest.fixture(params=[2, None])
def written(request, tmp_path):
    """A network of three classes cut behind block 2, or whole, and its weight file."""
    network = backbones.load("mnist-cnn", weights=None, classes=3, seed=4)
    if request.param is not None:
        network = chopped.chop(network, request.param, 3, 5)
    chopped.write(
        tmp_path / "small",
        network.eval(),
        architecture="mnist-cnn",
        cut=request.param,
        classes=("a", "b", "c"),
    )
    return network, tmp_path / "small.safetensors", request.param


def performed(made, settings):
    report = runner.run_stage(made, settings, lambda event: None, lambda store, key: None)
    report.raise_if_failed(require_tracking=False)
    return report


def test_it_loads_with_its_own_head_and_with_a_fresh_one(written):
    source, path, cut = written
    x = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    own = backbones.load("mnist-cnn", weights=path, classes=None, head="keep", seed=0)
    fresh = backbones.load("mnist-cnn", weights=path, classes=5, seed=0)
    with torch.no_grad():
        assert torch.equal(own(x), source(x))
        assert fresh(x).shape == (2, 5)
    assert len(own.blocks) == len(source.blocks)
    assert all(
        torch.equal(a, b)
        for block in source.blocks
        for a, b in zip(source.tensors(block).values(), fresh.tensors(block).values(), strict=True)
    )
    note = " ".join(own.notes)
    assert "mnist-cnn" in note
    assert "3 classes" in note
    assert cut is None or "chopped behind block 2" in note
    assert own.weights == backbones.digest("mnist-cnn", path)


def test_another_architecture_and_other_bytes_are_refused(written):
    _, path, _ = written
    with pytest.raises(UsageError, match="--architecture mnist-cnn"):
        backbones.load("resnet18", weights=path, classes=3, seed=0)
    with pytest.raises(IntegrityError):
        backbones.load("mnist-cnn", weights=path, classes=3, seed=0, sha256="0" * 64)


@pytest.mark.crash
def test_studies_start_from_it(written, bars, settings):
    _, path, cut = written
    made, found = fine_tuning_plan.fine_tuning_study(
        FineTuning(dataset=str(bars), model=str(path), epochs=2, use_crops=False, freeze=1),
        FEW,
        settings,
    )
    assert any("small.safetensors is" in note for note in found.notes)
    assert performed(made, settings).results[0].details["blocks"] == (cut or 3)
    made, _ = feature_extraction_plan.feature_extraction_study(
        FeatureExtraction(dataset=str(bars), model=str(path), use_crops=False),
        FEW,
        FeatureExtractionGrid(classifier="knn:k=1"),
        settings,
    )
    performed(made, settings)
    dump = activations.extraction(
        Extraction(architecture="mnist-cnn", dataset=str(bars), model=str(path)), settings
    )
    assert len(dump.layers) == (cut or 3)
    made = layer_metrics_plan.plan_layer_metrics(
        [str(path)],
        Observed(architecture="mnist-cnn", dataset=str(bars), samples=12, layers=("blocks",)),
        LayerMetrics(),
        settings,
    )
    performed(made, settings)


@pytest.mark.slow
def test_it_is_trained_on_whole_and_cut_again(written, bars, settings):
    _, path, _ = written
    network = transferred("mnist-cnn", weights=path, copied=3, classes=4, seed=0)
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 4)
    spec = Chop(dataset=str(bars), model=str(path), epochs=1, batch_size=8, val_per_class=3)
    made, _ = chop_plan.chop_study(spec, ChopGrid(depths=(1,), repeats=1), settings)
    performed(made, settings)


def test_blocks_of_a_cut_network_are_copied_into_the_whole_architecture(written):
    source, path, _ = written
    network = transferred("mnist-cnn", weights=path, copied=1, classes=4, seed=7)
    fresh = backbones.load("mnist-cnn", weights=None, classes=4, seed=7)
    assert len(network.blocks) == len(fresh.blocks)
    given = list(source.tensors(source.blocks[0]).values())
    assert all(map(torch.equal, network.tensors(network.blocks[0]).values(), given))
    for block in network.blocks[1:]:
        assert all(map(torch.equal, network.tensors(block).values(), fresh.tensors(block).values()))
    assert (network.mean, network.std) == (source.mean, source.std)


def test_a_network_cut_twice_computes_what_one_cut_does(written):
    source, path, _ = written
    twice = transferred("mnist-cnn", weights=path, copied=3, classes=4, seed=7, cut=1).eval()
    once = chopped.chop(
        backbones.load("mnist-cnn", weights=None, classes=4, seed=7), 1, 4, 7
    ).eval()
    given = source.tensors(source.blocks[0])
    with torch.no_grad():
        for tensor, value in zip(
            once.tensors(once.blocks[0]).values(), given.values(), strict=True
        ):
            tensor.copy_(value)
    once.mean, once.std = source.mean, source.std
    x = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(twice(x), once(x))


def test_blocks_that_a_cut_network_lacks_are_refused_before_anything_is_read(
    written, settings, tmp_path
):
    _, path, cut = written
    if cut is None:
        return
    with pytest.raises(UsageError, match="blocks 1 to 2"):
        transferred("mnist-cnn", weights=path, copied=3, classes=4, seed=0, cut=3)
    nowhere = {"dataset": str(tmp_path / "nowhere"), "model": str(path)}
    with pytest.raises(UsageError, match="blocks 1 to 2"):
        chop_plan.chop_study(Chop(**nowhere), ChopGrid(depths=(3,)), settings)
    with pytest.raises(UsageError, match="blocks 1 to 2"):
        layer_transfer_plan.plan_layer_transfer(
            LayerTransfer(**nowhere), LayerTransferGrid(depths=(3,)), settings
        )


@pytest.mark.slow
def test_it_is_cut_again_by_the_study_at_all_its_blocks(written, bars, settings):
    _, path, cut = written
    spec = Chop(dataset=str(bars), model=str(path), epochs=1, batch_size=8, val_per_class=3)
    made, _ = chop_plan.chop_study(spec, ChopGrid(repeats=1), settings)
    assert [trial.spec.cut for trial in made.trials] == [*range(1, (cut or 3) + 1), None]
    report = performed(made, settings)
    store = Store(report.folder)
    for result in report.results:  # each can be loaded back
        chopped.read(store.file(result.key, f"{NETWORK}.json"))


@pytest.mark.slow
def test_layer_transfer_takes_its_blocks(written, bars, settings):
    _, path, cut = written
    spec = LayerTransfer(
        dataset=str(bars),
        model=str(path),
        source="default",
        epochs=1,
        batch_size=8,
        val_per_class=3,
    )
    plan = layer_transfer_plan.plan_layer_transfer(
        spec, LayerTransferGrid(treatments=("AnB",), repeats=1), settings
    )
    made = plan.rest(None)
    assert [trial.spec.copied for trial in made.trials] == [*range(1, (cut or 3) + 1)]
    assert all(result.spec["copied"] for result in performed(made, settings).results)
