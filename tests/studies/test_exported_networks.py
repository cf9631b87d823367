"""Networks of layer transfer as files of their own, named as the original names them."""

from __future__ import annotations

import csv
import json

import pytest
from safetensors import safe_open

from tlx.errors import BadDataError
from tlx.lab.store import Store
from tlx.models.weights import described, reader
from tlx.studies.layer_transfer.networks import file_stem
from tlx.studies.layer_transfer.spec import LayerTransfer

WORDS = (
    *("--source", "default", "--depths", "1,2", "--repeats", 1, "--epochs", 1, "--batch-size", 8),
    *("--val-per-class", 3, "--no-tracking", "--workers", 0, "--figures", "none"),
)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"copied": 3, "freeze": 3, "of": "A"}, "A3B-mobilenet"),
        ({"copied": 13, "freeze": 13, "of": "B"}, "B13B-mobilenet"),
        ({"copied": 3, "of": "A"}, "A3B+-mobilenet"),
        ({}, "baseB-mobilenet"),
        ({"copied": 3, "freeze": 3, "of": "A", "bn": "keras2"}, "A3B-mobilenet-keras2"),
        ({"copied": 3, "freeze": 3, "of": "A", "split": 2}, "A3B-mobilenet-repeat2"),
        ({"architecture": "timm:resnet18"}, "baseB-timm_resnet18"),
    ],
)
def test_names_are_those_of_the_original(changes, name):
    assert file_stem(LayerTransfer(**{"architecture": "mobilenet-v1", **changes})) == name


@pytest.mark.slow
def test_networks_are_written_and_evaluated_to_the_same_accuracy(tlx, bars, tmp_path):
    """By name alone: architecture and classes are in the file."""
    code, _, said = tlx("layer-transfer", "--dataset", bars, "--export", "nets", *WORDS)
    assert code == 0, said
    names = sorted(path.stem for path in (tmp_path / "nets").iterdir())
    expected = {f"{kind}-mnist-cnn" for kind in ("baseB", "A1B", "A2B", "A1B+", "A2B+")}
    assert expected | {"B1B-mnist-cnn", "B2B-mnist-cnn"} <= set(names)
    with safe_open(tmp_path / "nets" / "A2B-mnist-cnn.safetensors", "pt") as file:
        about = file.metadata()
        assert "conv1.weight" in set(file.keys())
    assert json.loads(about["tlx.classes"]) == ["bar0", "bar1", "bar2"]
    (table,) = tmp_path.glob("tlx-runs/studies/*/layer_transfer_trials.csv")
    with open(table, newline="") as rows:
        keys = {
            f"{row['treatment'].replace('n', row['n'], 1)}-mnist-cnn": row["key"]
            for row in csv.DictReader(rows)
        }
    store = Store(tmp_path / "tlx-runs")
    trials = {name: store.find(key).scores for name, key in keys.items()}
    models = [f"nets/{name}.safetensors" for name in ("A1B-mnist-cnn", "B2B-mnist-cnn")]
    code, _, said = tlx(
        *("evaluate", *models, "--dataset", bars, "--no-tracking", "--workers", 0),
        *("--figures", "none", "--out", "evaluated"),
    )
    assert code == 0, said
    with open(tmp_path / "evaluated" / "evaluations.csv", newline="") as rows:
        scored = {row["model"].removesuffix(".safetensors"): row for row in csv.DictReader(rows)}
    assert len(scored) == 2
    for name, row in scored.items():
        assert float(row["accuracy"]) == pytest.approx(trials[name]["test_accuracy"])
        assert float(row["loss"]) == pytest.approx(trials[name]["test_loss"], rel=1e-5)
    assert len({row["loss"] for row in scored.values()}) == 2


@pytest.mark.slow
def test_weights_that_were_not_kept_are_asked_for_before_anything_is_trained(tlx, bars, tmp_path):
    words = ("layer-transfer", "--dataset", bars, "--treatments", "AnB", *WORDS)
    code, _, said = tlx(*words)
    assert code == 0, said
    code, _, said = tlx(*words, "--export", "nets")
    assert code == 2
    assert "were trained without --export" in said
    assert not (tmp_path / "nets").exists()
    code, _, said = tlx(*words, "--export", "nets", "--store", "other")
    assert code == 0, said
    assert (tmp_path / "nets" / "A1B-mnist-cnn.safetensors").is_file()


def test_a_description_comes_back(tmp_path):
    about = described.WeightDescription("mobilenet-v1", ("0", 'ü, "x"'), 64)
    reader.write(tmp_path / "w.safetensors", {}, about.metadata())
    assert described.description(tmp_path / "w.safetensors") == about
    reader.write(tmp_path / "plain.safetensors", {}, {"format": "pt"})
    assert described.description(tmp_path / "plain.safetensors") is None
    assert described.description(tmp_path / "w.pth") is None


@pytest.mark.parametrize(
    "wrong", [{"tlx.classes": "["}, {"tlx.classes": "[1]"}, {"tlx.input_size": "big"}]
)
def test_a_description_that_is_none_is_refused(tmp_path, wrong):
    about = described.WeightDescription("mobilenet-v1", ("a",), 64).metadata() | wrong
    reader.write(tmp_path / "w.safetensors", {}, about)
    with pytest.raises(BadDataError, match="metadata"):
        described.description(tmp_path / "w.safetensors")
