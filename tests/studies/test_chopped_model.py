"""What `tlx chop --out` wrote is a weight file like any other: --model takes it, and says what it
is.
"""

from __future__ import annotations

import pytest
import torch

from tlx.errors import IntegrityError, UsageError
from tlx.lab.settings import Settings
from tlx.models import backbones, chopped
from tlx.models.transferred import transferred
from tlx.studies import activations, runner
from tlx.studies.activations_spec import Extraction
from tlx.studies.chop import plan as chop_plan
from tlx.studies.chop.spec import Chop, ChopGrid
from tlx.studies.feature_extraction import plan as feature_extraction_plan
from tlx.studies.feature_extraction.spec import FeatureExtraction, FeatureExtractionGrid
from tlx.studies.few_shot import FewShotGrid
from tlx.studies.fine_tuning import plan as fine_tuning_plan
from tlx.studies.fine_tuning.spec import FineTuning
from tlx.studies.layer_metrics import plan as layer_metrics_plan
from tlx.studies.layer_metrics.spec import LayerMetrics, Observed

FEW = FewShotGrid(shots=(1,), splits=1, val_per_class=3)


@pytest.fixture
def settings(tmp_path, cache):
    return Settings(
        store=str(tmp_path / "runs"),
        cache=str(cache),
        tracking=False,
        workers=0,
        system_metrics=False,
    )


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
    report = runner.run_study(made, settings, lambda event: None, lambda store, key: None)
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


def test_it_is_trained_on_whole_and_not_cut_again(written, bars, settings):
    _, path, cut = written
    network = transferred("mnist-cnn", weights=path, copied=3, classes=4, seed=0)
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 4)
    if cut is not None:
        with pytest.raises(UsageError, match="chopped behind block 2"):
            transferred("mnist-cnn", weights=path, copied=3, classes=4, seed=0, cut=1)
        return
    spec = Chop(dataset=str(bars), model=str(path), epochs=1, batch_size=8, val_per_class=3)
    made, _ = chop_plan.chop_study(spec, ChopGrid(depths=(1,), repeats=1), settings)
    performed(made, settings)
