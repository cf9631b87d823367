"""Folders of weight files as the thesis keeps them: their order, and activations of each."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from tlx.errors import ErrorGroup, MissingError, TlxError, UsageError
from tlx.models import backbones
from tlx.studies import model_folder

TAGS = ("0", "0_1", "0_3", "0_10", "0_30", "0_100", "0_300", "1", "3", "10", "30", "100")


def save(path: Path, seed: int, classes: int = 10) -> None:
    """Write a state dict as the thesis' own network has it, by torch.save."""
    network = backbones.load("mnist-cnn", weights=None, classes=classes, seed=seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.net.state_dict(), path)


@pytest.mark.parametrize(
    ("name", "run", "tag"),
    [
        ("model_pre_mnist_0_300.pt", "pre_mnist", "0_300"),
        ("model_pre-train_100.pt", "pre-train", "100"),
        ("model_ft_mnist_fashionmnist_10_0_30.pt", "ft_mnist_fashionmnist_10", "0_30"),
        ("0_30.safetensors", "", "0_30"),
        ("vgg16.pth", "", ""),
        ("model_.pt", "", ""),
    ],
)
def test_a_name_says_run_and_checkpoint(name, run, tag):
    assert model_folder.run_of(Path(name)) == run
    assert model_folder.tag_of(Path(name)) == tag


def test_the_twelve_checkpoints_are_in_the_order_of_the_training(tmp_path, rng: random.Random):
    names = [f"model_pre_mnist_{tag}.pt" for tag in TAGS]
    for name in rng.sample(names, len(names)):
        (tmp_path / name).touch()
    (tmp_path / "notes.txt").touch()
    assert [path.name for path in model_folder.weight_files(tmp_path)] == names


def test_a_seed_or_all_are_folders_of_the_thesis(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2, 10):
        Path("models", "vgg16", "imagenet", f"models_{seed}").mkdir(parents=True)
    (Path("models") / "vgg16" / "imagenet" / "models_notes.txt").touch()
    every = model_folder.model_folders("all", "vgg16/imagenet")
    assert [path.name for path in every] == ["models_1", "models_2", "models_10"]
    assert model_folder.model_folders("2", "vgg16/imagenet") == [every[1]]
    assert model_folder.model_folders(str(tmp_path), None) == [tmp_path]


@pytest.mark.parametrize(
    ("given", "trained_on", "error"),
    [("all", None, UsageError), ("3", "mnist", MissingError), ("nowhere", "mnist", MissingError)],
)
def test_a_folder_that_is_not_there_is_refused(tmp_path, monkeypatch, given, trained_on, error):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error):
        model_folder.model_folders(given, trained_on)


WORDS = ("--layers", "thesis", "--reduce", "flat", "--part", "test", "--samples", "6")


def test_activations_of_a_folder_are_one_file_as_the_thesis_has_it(tlx, bars, tmp_path):
    """{model file: {"layers": [tensor n × d a layer], "labels": tensor}}, seven layers."""
    for seed, tag in ((1, "0"), (2, "0_10"), (3, "1")):
        save(tmp_path / "models" / "bars" / "models_4" / f"model_pre_bars_{tag}.pt", seed)
    code, _, said = tlx(
        *("extract", "--trained_on", "bars", "--model_folder", "4", "--dataset", bars),
        *(*WORDS, "--extracted", "bars_extracted.pt"),
    )
    assert code == 0, said
    kept = torch.load(tmp_path / "bars_extracted.pt", weights_only=True)
    assert list(kept) == [f"model_pre_bars_{tag}.pt" for tag in ("0", "0_10", "1")]
    widths = [784, 32 * 26 * 26, 32 * 13 * 13, 64 * 11 * 11, 1600, 128, 10]
    for row in kept.values():
        assert [tuple(layer.shape) for layer in row["layers"]] == [(6, width) for width in widths]
        assert row["labels"].tolist() == [0, 0, 1, 1, 2, 2]
    first, *others = kept.values()
    for other in others:
        assert torch.equal(first["layers"][0], other["layers"][0]), "the input is the same"
        assert not torch.equal(first["layers"][-1], other["layers"][-1])


def test_a_bad_file_of_a_folder_is_refused_before_any_is_extracted(tlx, bars, tmp_path):
    save(tmp_path / "models_1" / "model_pre_bars_0.pt", 1)
    (tmp_path / "models_1" / "model_pre_bars_1.pt").write_bytes(b"no weights")
    code, out, said = tlx("extract", "--model-folder", "models_1", "--dataset", bars, *WORDS)
    assert code == 3
    assert "model_pre_bars_1.pt" in said
    assert "images ×" not in out


def test_checkpoints_of_the_thesis_are_analysed_by_run_and_tag(bars, tmp_path, settings):
    from tlx.studies.layer_metrics import plan
    from tlx.studies.layer_metrics.spec import LayerMetrics, Observed

    for tag in ("1", "0_10"):
        save(tmp_path / "models_1" / f"model_pre_bars_{tag}.pt", 1)
    stage = plan.plan_layer_metrics(
        [str(tmp_path / "models_1")],
        Observed(dataset=str(bars), samples=24),
        LayerMetrics(resamplings=5),
        settings,
    )
    named = [(t.spec.trained_on, t.spec.checkpoint) for t in stage.trials]
    assert named == [("pre_bars", "0_10"), ("pre_bars", "1")]


# ---------------------------------------------------------------- VGG sources in a file


def test_an_encoder_alone_is_enough_for_the_layers_of_the_thesis(bars, tmp_path, settings):
    """SegNet's encoder is VGG16-BN without dense layers; more than an encoder is refused."""
    from tlx.studies.activations import whole_network
    from tlx.studies.activations_spec import Extraction

    whole = backbones.load("vgg16_bn", weights=None, classes=2, seed=0, input_size=32)
    encoder = {k: v for k, v in whole.net.state_dict().items() if k.startswith("features.")}
    path = tmp_path / "segnet.pth"
    torch.save(encoder, path)
    spec = Extraction(dataset=str(bars), architecture="vgg16_bn", model=str(path), input_size=32)
    network = whole_network(spec, ("thesis",), None)
    assert network.match.matched == network.match.total
    assert torch.equal(network.net.features[0].weight, encoder["features.0.weight"])
    assert any("classifier.0.weight" in note for note in network.notes)
    with pytest.raises((TlxError, ErrorGroup), match=r"first missing: 'classifier\.0\.weight'"):
        whole_network(spec, ("classifier.6",), None)
