"""tlx extract: which images, which layers, which weights."""

from __future__ import annotations

import numpy as np
import pytest

from tlx.errors import BadDataError, ErrorGroup, UsageError
from tlx.lab.settings import Settings
from tlx.studies import activations
from tlx.studies.activations_spec import Extraction
from tlx.studies.layer_metrics.spec import Observed


@pytest.fixture
def settings(tmp_path, cache):
    return Settings(store=str(tmp_path), cache=str(cache), tracking=False)


def test_as_many_of_each_class_the_first_ones_class_by_class(bars, settings):
    dump = activations.extraction(
        Extraction(dataset=str(bars), part="test", samples=6, layers=("last",)), settings
    )
    assert dump.labels == ("bar0", "bar0", "bar1", "bar1", "bar2", "bar2")
    assert dump.ids == tuple(f"test/bar{c}/{i:03d}.png" for c in range(3) for i in range(2))


def test_the_thesis_layers_of_its_network_with_its_input(bars, settings):
    dump = activations.extraction(
        Extraction(
            dataset=str(bars), trained_on="mnist", layers=("thesis",), reduce="flat", samples=3
        ),
        settings,
    )
    assert [dump.widths[layer] for layer in dump.layers] == [784, 21632, 5408, 7744, 1600, 128, 10]
    assert (dump.array("relu3") >= 0).all()
    assert np.ptp(dump.array("input")) > 0


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"samples": 7}, UsageError, "multiple of 3"),
        ({"samples": 2}, UsageError, "multiple of 3"),
        ({"samples": 300, "part": "test"}, BadDataError, "'bar0' 8"),
        ({"part": "val"}, BadDataError, "found test, train"),
        ({"trained_on": "mnist", "source": "MNIST"}, UsageError, "one of them"),
        ({"trained_on": "resnet18/nowhere"}, UsageError, "nowhere"),
        (
            {"layers": ("thesis",), "architecture": "resnet18", "source": "random"},
            UsageError,
            "mnist-cnn",
        ),
    ],
)
def test_what_cannot_be_is_refused(bars, settings, change, error, says):
    with pytest.raises((error, ErrorGroup), match=says):
        activations.extraction(Extraction(dataset=str(bars), **change), settings)


def test_trained_on_is_taken_apart(tmp_path):
    file = tmp_path / "w.safetensors"
    file.touch()
    for text, want in [
        ("mnist", {"architecture": "mnist-cnn", "source": "mnist", "model": None}),
        ("vgg16/imagenet", {"architecture": "vgg16", "source": "imagenet", "model": None}),
        ("random_init", {"architecture": "mnist-cnn", "source": "random", "model": None}),
        (str(file), {"architecture": "mnist-cnn", "source": None, "model": str(file)}),
    ]:
        spec = Extraction(trained_on=text).resolved
        assert {name: getattr(spec, name) for name in want} == want


def test_an_analysis_without_a_number_of_samples_takes_what_there_is_and_says_what_is_short(
    bars, settings
):
    notes = []
    dump = activations.extraction(
        Observed(dataset=str(bars), part="test", layers=("last",)), settings, notes=notes
    )
    assert dump.labels == ("bar0",) * 8 + ("bar1",) * 8 + ("bar2",) * 8
    assert any("fewer than 166 images of 'bar0' 8" in note for note in notes)
    with pytest.raises(
        BadDataError, match="'bar0' 8"
    ):  # a number that was asked for is kept or refused
        activations.extraction(Observed(dataset=str(bars), part="test", samples=300), settings)
