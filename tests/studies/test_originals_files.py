"""Files of the originals that tlx writes, read back by readers that share no line with it."""

from __future__ import annotations

import csv
import types
from pathlib import Path

import numpy as np
import originals
import pytest
import torch
from conftest import draw_images
from PIL import Image
from scipy.spatial.distance import pdist, squareform
from studies.test_checkpoint_chain import forward

from tlx.models import backbones
from tlx.studies.checkpoints import data_frames
from tlx.studies.layer_metrics import dictionaries

pytestmark = pytest.mark.slow
QUIET = ("--no-tracking", "--workers", 0, "--figures", "none")
CLASSES, PER_CLASS = 3, 6


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Images in the network's own size: what a reader sees are the pixels of the files."""
    root = tmp_path_factory.mktemp("data") / "bars28"
    draw_images(root, per_class=12, size=28, splits=("train",), seed=3)
    return draw_images(root, per_class=PER_CLASS, size=28, splits=("test",), seed=4)


def weights(folder: Path) -> Path:
    """Two checkpoints as the thesis names them, state dicts of torch.save."""
    folder.mkdir()
    for seed, tag in enumerate(("0", "0_10")):
        net = backbones.load("mnist-cnn", weights=None, classes=CLASSES, seed=seed).net
        torch.save(net.state_dict(), folder / f"model_pre_bars_{tag}.pt")
    return folder


def test_correlation_dictionaries_and_activations_agree(tlx, images, tmp_path):
    """From the activations the dissimilarities are computed anew, and the metric of the table."""
    folder = weights(tmp_path / "models_1")
    common = ("--dataset", images, "--layers", "thesis", "--reduce", "flat", "--part", "test")
    samples = ("--samples", CLASSES * PER_CLASS)
    code, _, said = tlx(
        *("analyze", folder, *common, *samples, "--resamplings", 3, *QUIET),
        *("--corr-dict", "dicts", "--out", "table"),
    )
    assert code == 0, said
    code, _, said = tlx(
        *("extract", "--model_folder", folder, *common, *samples),
        *("--extracted", "bars28_extracted.pt", "--no-tracking"),
    )
    assert code == 0, said
    activations = originals.extracted(tmp_path / "bars28_extracted.pt")
    with open(tmp_path / "table" / "layer_metrics.csv", newline="") as file:
        table = {(r["checkpoint"], int(r["layer_index"])): r for r in csv.DictReader(file)}
    assert len(table) == 2 * 7
    for layer in range(7):
        matrices = originals.corr_dict(
            tmp_path / "dicts" / f"bars28_sorted_corr_dict_layer{layer}.npz"
        )
        assert sorted(matrices) == ["pre_bars_0", "pre_bars_0_10"]
        for name, matrix in matrices.items():
            layers, labels = activations[f"model_{name}.pt"]
            assert labels.tolist() == sorted(labels.tolist()), "sorted by class"
            expected = squareform(pdist(layers[layer].astype(np.float64), "correlation"))
            assert matrix.shape == (18, 18)
            assert np.allclose(matrix, expected, atol=2e-6)
            row = table[name.removeprefix("pre_bars_"), layer]
            assert originals.rsa(matrix, PER_CLASS) == pytest.approx(
                float(row["rsa_contrast"]), abs=1e-5
            )
    classes = np.load(tmp_path / "dicts" / "bars28_sorted_labels.npy")
    assert classes.tolist() == [0] * 6 + [1] * 6 + [2] * 6


@pytest.mark.parametrize(
    ("words", "says"),
    [(("--rdm", "cosine"), "--rdm correlation"), (("--max-rows", 100), "at most 100")],
)
def test_dictionaries_that_cannot_be_are_refused_before_anything_is_measured(
    tlx, tmp_path, words, says
):
    code, out, said = tlx(
        *("analyze", "mnist", "--dataset", "digits", "--samples", 200, "--layers", "last"),
        *(*words, *QUIET, "--corr-dict", "dicts"),
    )
    assert code == 2
    assert says in said
    assert "measured" not in out


PRE = ["model_name", "seed", "pre_net", "pre_dataset", "pre_epochs"]
PRE += ["pre_train_acc", "pre_train_loss", "pre_test_acc", "pre_test_loss", "pre_param"]


def test_data_frames_have_the_columns_of_the_thesis(tlx, images, tmp_path):
    code, _, said = tlx(
        *("checkpoints", "--sources", f"{images},random", "--targets", images, "--seeds", 2),
        *("--epochs", 2, "--fine-tune-epochs", 1, "--checkpoints", "0,0_1,2"),
        *("--from-checkpoints", "0,last", "--fine-tune-checkpoints", "0,1", "--batch-size", 8),
        *("--val-per-class", 3, "--samples", 18, "--resamplings", 3, *QUIET, "--out", "frames"),
    )
    assert code == 0, said
    folder = tmp_path / "frames"
    rows = originals.data_frame(folder / "df_pre_bars28+metrics.parquet")
    assert rows == originals.data_frame(folder / "df_pre_bars28+metrics.csv")
    assert [row["seed"] for row in rows] == [1, 2]
    for row in rows:
        assert list(row) == [*PRE, "ID_bars28", "SS_bars28", "RSA_bars28"]
        assert row["pre_dataset"] == "bars28"
        assert row["pre_param"] == {"train_samples": 27, "batch_size": 8, "lr": 1e-3}
        assert row["pre_epochs"] == [0.0, 0.001, 2.0]
        assert all(0 <= accuracy <= 100 for accuracy in row["pre_test_acc"])
    with open(folder / "layer_metrics.csv", newline="") as file:
        table = [r for r in csv.DictReader(file) if r["trained_on"] == "bars28"]
    assert len(table) == 2 * 3 * 7
    for column, metric in (("ID", "id"), ("SS", "ss_ratio"), ("RSA", "rsa_contrast")):
        values = {
            (int(r["seed"]), int(r["layer_index"]), int(r["checkpoint_index"])): float(r[metric])
            for r in table
        }
        for row in rows:
            layers = row[f"{column}_bars28"]
            assert len(layers) == 7
            for layer, over_checkpoints in enumerate(layers):
                assert over_checkpoints == [values[row["seed"], layer, k] for k in range(3)]
    tuned = originals.data_frame(folder / "df_ft_random_bars28.parquet")
    assert tuned == originals.data_frame(folder / "df_ft_random_bars28.csv")
    assert list(tuned[0]) == [name.replace("pre_", "ft_") for name in PRE]
    assert {row["model_name"] for row in tuned} == {"model_ft_random_bars28_0"}
    assert {row["ft_dataset"] for row in tuned} == {"bars28"}
    assert all(row["ft_param"]["batch_size"] == 8 for row in tuned)


def test_the_files_of_a_quanta_run_are_what_its_readme_says(tlx, images, tmp_path):
    code, _, said = tlx(
        *("quanta", "--dataset", images, "--outdir=out", "--repeat=1", "--layer=0", "--epochs", 2),
        *("--val-per-class", 3, "--seed=1", *QUIET),
    )
    assert code == 0, said
    summary, model = originals.experiment_summary(tmp_path / "out" / "expe_summary.txt")
    assert summary["Target task"] == "bars28"
    assert summary["Layer"] == "0"
    assert summary["v"].startswith("1.1, -1.1")
    assert 0 <= float(summary["Accuracy of the target"]) <= 1
    assert model[0].startswith("Target: ")
    assert all(len(line) <= 80 for line in model)
    (gate,) = originals.trajectory(tmp_path / "out" / "0.txt")
    (raw,) = originals.trajectory(tmp_path / "out" / "0_raw.txt")
    assert len(gate) == len(raw)
    assert gate[0] == pytest.approx(1 / (1 + np.exp(-2.2)), abs=0.05)
    assert all(0 < value < 1 for value in gate)


def test_networks_and_table_of_layer_transfer_read_back(tlx, images, tmp_path):
    """A network of the folder labels the test images in arrays alone as often as the table says."""
    code, _, said = tlx(
        *("layer-transfer", "--dataset", images, "--source", "default", "--depths", 2),
        *("--repeats", 1, "--epochs", 2, "--batch-size", 8, "--val-per-class", 3),
        *("--learning-rate", 0.001, "--export", "nets", *QUIET),
    )
    assert code == 0, said
    (path,) = tmp_path.glob("tlx-runs/studies/*/all_experiments.csv")
    table = originals.all_experiments(path)
    assert set(table) == {
        *(("baseB", None), ("baseB+", None), ("AnB+", 3)),  # of all three blocks: baseB+
        *((name, 2) for name in ("AnB", "AnB+", "BnB", "BnB+")),
    }
    paths = sorted((images / "test").glob("*/*.png"))
    x = (np.stack([np.asarray(Image.open(p)) for p in paths]) / 255 - 0.1307) / 0.3081
    y = np.array([int(p.parent.name[-1]) for p in paths])
    seen = set()
    for file in (tmp_path / "nets").glob("[AB]2B*-mnist-cnn.safetensors"):
        source, n, plus, tensors = originals.network(file)
        right = forward(tensors, x).argmax(axis=1) == y
        accuracy = np.mean([right[y == k].mean() for k in range(CLASSES)])
        assert accuracy == pytest.approx(table[f"{source}nB{plus}", n])
        seen.add((source, plus))
    assert seen == {("A", ""), ("A", "+"), ("B", ""), ("B", "+")}
    frozen = originals.network(tmp_path / "nets" / "A2B-mnist-cnn.safetensors")[3]
    free = originals.network(tmp_path / "nets" / "A2B+-mnist-cnn.safetensors")[3]
    start = backbones.load("mnist-cnn", weights="default", classes=None, head="keep", seed=0).net
    assert np.array_equal(frozen["conv2.weight"], start.conv2.weight.detach().numpy())
    assert not np.array_equal(free["conv2.weight"], frozen["conv2.weight"])


def test_models_of_one_name_are_told_apart_in_a_dictionary():
    """Seeds of the thesis have the same file names, in folders of their own."""
    specs = [{"model": "pre_bars", "checkpoint": tag} for tag in ("0", "1", "0", "0", "")]
    results = [types.SimpleNamespace(spec=spec) for spec in specs]
    names = dictionaries._names(results)
    assert names == ["pre_bars_0", "pre_bars_1", "pre_bars_0#2", "pre_bars_0#3", "pre_bars"]


def test_a_frame_of_an_older_study_has_no_parameters():
    """Its record does not name the trainings: the cells are empty, not made up."""
    row = {"source": "a", "seed": 1, "tag": "0", "train_top1": 0.5, "test_top1": 0.25}
    results = {"architecture": "mnist-cnn", "pretraining": [row], "tuning": [], "layers": []}
    ((frame,),) = data_frames.frames(results).values()
    assert frame["pre_param"] == {"train_samples": None, "batch_size": None, "lr": None}
    assert (frame["pre_train_acc"], frame["pre_test_acc"]) == ([50.0], [25.0])
