"""The smaller commands, run as a user runs them, on a folder of small images."""

from __future__ import annotations

import gc
import json
import shutil

import pytest

from tlx import files
from tlx.models.weights import reader as weights_reader


def test_splits_are_drawn_checked_and_a_leak_is_refused(tlx, bars, tmp_path):
    words = ("--shots", "1,2", "--splits", 2, "--val-per-class", 3)
    assert tlx("splits", "draw", "csvs", "--dataset", bars, *words)[0] == 0
    names = {p.name for p in (tmp_path / "csvs").glob("*.csv")}
    assert names == {"val.csv", "test.csv", "all_images.csv"} | {
        f"train_samples_{k:02d}_split_{s}.csv" for k in (1, 2) for s in (0, 1)
    }
    code, _, err = tlx("splits", "check", "csvs")
    assert code == 3, "by the CSVs alone: train and test of these images have the same file names"
    assert "suspected" in err
    assert tlx("splits", "check", "csvs", "--dataset", bars)[0] == 0
    leaky = tmp_path / "leaky"
    shutil.copytree(tmp_path / "csvs", leaky)
    (leaky / "splits.json").unlink()
    row = (leaky / "val.csv").read_text().splitlines()[0]
    train = leaky / "train_samples_02_split_1.csv"
    lines = train.read_text().splitlines()
    train.write_text("\n".join([row, *lines[1:]]) + "\n")
    code, _, err = tlx("splits", "check", "leaky", "--dataset", bars)
    assert code == 3
    assert "train_samples_02_split_1.csv" in err
    assert "val.csv" in err
    assert tlx("fine-tuning", "--dataset", bars, "--split-path", "leaky")[0] == 3, (
        "trials run the same check"
    )


@pytest.mark.slow
def test_crops_are_written_with_their_manifest_and_used(tlx, bars, tmp_path):
    code, out, _ = tlx("crops", "crops", "--dataset", bars, "--size", 28)
    assert code == 0
    assert "60" in out
    image = tmp_path / "crops" / "train" / "bar0"
    assert len(list(image.glob("000_crop_*.png"))) == 10
    manifest = json.loads(next((tmp_path / "crops").glob("*.json")).read_text())
    assert [name.split()[0] for name in manifest["order"]] == ["upper"] * 4 + ["lower"] * 4 + [
        "centre"
    ] * 2
    again = tlx("crops", "crops", "--dataset", bars, "--size", 28)[1]
    assert "of 0 images made, of 60 kept" in again
    code, out, _ = tlx(
        "fine-tuning",
        "--dataset",
        bars,
        "--precomputed-crops",
        "crops",
        "--shots",
        1,
        "--splits",
        1,
        "--val-per-class",
        3,
        "--epochs",
        1,
        "--workers",
        0,
        "--no-tracking",
    )
    assert code == 0
    for crop in (tmp_path / "crops").rglob("*_crop_7.png"):
        crop.unlink()
    code, _, err = tlx(
        "fine-tuning",
        "--dataset",
        bars,
        "--precomputed-crops",
        "crops",
        "--shots",
        2,
        "--splits",
        1,
        "--val-per-class",
        3,
        "--epochs",
        1,
        "--workers",
        0,
        "--no-tracking",
    )
    assert code == 3
    assert "_crop_7" in err


@pytest.mark.slow
def test_pretraining_leaves_weights_that_fine_tuning_starts_from(tlx, bars, tmp_path):
    code, out, err = tlx(
        "pretrain",
        "--dataset",
        bars,
        "--epochs",
        2,
        "--val-per-class",
        3,
        "--learning-rate",
        "0.001",
        "--out",
        "bars.safetensors",
        "--note",
        "bars",
        "--workers",
        0,
        "--no-tracking",
    )
    assert code == 0, err
    record = json.loads((tmp_path / "bars.json").read_text())
    assert record["note"] == "bars"
    assert record["images"] == {"train": 27, "val": 9, "test": 24}
    assert record["spec"]["optimizer"] == "adam"
    tensors = weights_reader.read(tmp_path / "bars.safetensors", sha256=record["sha256"])
    assert tensors["fc2.weight"].shape == (3, 128)
    code, out, err = tlx(
        "fine-tuning",
        "--dataset",
        bars,
        "--model",
        "bars.safetensors",
        "--shots",
        1,
        "--splits",
        1,
        "--val-per-class",
        3,
        "--epochs",
        1,
        "--workers",
        0,
        "--no-tracking",
        "--freeze",
        2,
    )
    assert code == 0, err
    assert "mean per-class test accuracy" in out


def test_check_says_ready_or_everything_wrong(tlx, bars, tmp_path):
    code, out, _ = tlx("check", "--dataset", bars, "--shots", "1,2", "--val-per-class", 3)
    assert code == 0
    assert "ready" in out
    assert "GB free" in out
    assert "estimate, from one batch" in out
    code, out, err = tlx(
        "check", "--dataset", bars, "--shots", "1,50", "--val-per-class", 3, "--model", "none.pth"
    )
    assert code == 3
    assert "none.pth" in err
    assert "bar0" in err
    assert "ready" not in out


def test_check_refuses_a_disk_without_room(tlx, bars, monkeypatch):
    words = ("check", "--dataset", bars, "--shots", 1, "--splits", 1, "--val-per-class", 3)
    monkeypatch.setattr(files, "free_bytes", lambda path: 1000)
    code, out, err = tlx(*words)
    assert (code, "ready" in out) == (5, False)
    assert "error[disk-space]" in err
    assert "1,000 are free" in err
    assert "estimate of disk" in out, "what it takes is still said"
    code, out, _ = tlx(*words, "--json")
    record = json.loads(out)
    assert (code, record["ready"]) == (5, False)
    assert [problem["code"] for problem in record["problems"]] == ["disk-space"]


def test_check_refuses_processes_that_fine_tuning_refuses(tlx, bars):
    words = ("--dataset", bars, "--shots", 1, "--splits", 1, "--val-per-class", 3, "--replicas", 8)
    for command in ("check", "fine-tuning"):
        code, out, err = tlx(command, *words, "--batch-size", 12)
        assert (code, "ready" in out) == (2, False)
        assert "cannot be cut into 8 equal parts" in err
    code, out, _ = tlx("check", *words, "--batch-size", 16)
    assert code == 0
    assert "note: batches are cut into 8 parts" in out


@pytest.mark.slow
def test_what_was_not_tracked_is_sent_by_sync(tlx, bars, tmp_path):
    words = (
        "fine-tuning",
        "--dataset",
        bars,
        "--shots",
        1,
        "--splits",
        1,
        "--val-per-class",
        3,
        "--epochs",
        1,
        "--workers",
        0,
        "--no-system-metrics",
    )
    assert tlx(*words, "--no-tracking")[0] == 0
    assert not (tmp_path / "mlflow.db").exists()
    assert tlx("sync")[0] == 0
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("Fine-tuning").experiment_id])
    assert sorted(run.info.status for run in runs) == ["FINISHED", "FINISHED"]
    assert "0 left" in tlx("sync")[1]
    assert (
        len(client.search_runs([client.get_experiment_by_name("Fine-tuning").experiment_id])) == 2
    )


@pytest.mark.slow
def test_a_server_that_is_down_costs_no_trial(tlx, bars):
    words = (
        "fine-tuning",
        "--dataset",
        bars,
        "--shots",
        1,
        "--splits",
        1,
        "--val-per-class",
        3,
        "--epochs",
        1,
        "--workers",
        0,
        "--mlflow-path",
        "http://bob:s3cr3t@127.0.0.1:9",
        "--store",
        "runs",
    )
    code, out, err = tlx(*words)
    assert code == 0
    assert "tlx sync" in out
    assert "s3cr3t" not in out + err
    code, out, err = tlx(*words, "--require-tracking")
    assert code == 6
    assert "s3cr3t" not in out + err


@pytest.mark.slow
def test_features_are_extracted_classified_exported_and_looked_after(tlx, bars, tmp_path):
    cache = ("--cache", tmp_path / "cache")
    code, out, err = tlx(
        "feature-extraction",
        "--dataset",
        bars,
        "--shots",
        1,
        "--splits",
        2,
        "--val-per-class",
        3,
        "--classifier",
        "ncm linear-svc:C=0.1",
        "--no-use-crops",
        "--workers",
        0,
        "--no-tracking",
        *cache,
    )
    assert code == 0, err
    assert "linear-svc:C=0.1" in out
    code, out, err = tlx(
        "extract", "--dataset", bars, "--layers", "last", "--export", "out", *cache
    )
    assert code == 0, err
    assert "60 × 128" in out
    names = (tmp_path / "out" / "file_names.txt").read_text().splitlines()
    assert len(names) == 60
    assert "train/bar0/000.png" in names
    code, out, _ = tlx("dumps", "ls", *cache)
    assert code == 0
    assert "2 dumps" in out
    key = out.split()[0]
    assert tlx("dumps", "verify", *cache)[0] == 0
    damaged = max(
        (tmp_path / "cache" / "dumps").glob(f"{key}*/*.npy"), key=lambda p: p.stat().st_size
    )
    data = bytearray(damaged.read_bytes())
    data[-5] ^= 4
    damaged.chmod(0o644)
    damaged.write_bytes(data)
    code, _, err = tlx("dumps", "verify", *cache)
    assert code == 9
    assert damaged.name in err
    assert tlx("dumps", "rm", key, *cache)[0] == 0
    assert "1 dump," in tlx("dumps", "ls", *cache)[1]
    gc.collect()  # a study in this process holds its dump in use as long as it is there
    assert tlx("dumps", "rm", "--budget", 0, *cache)[0] == 0
    assert "0 dumps" in tlx("dumps", "ls", *cache)[1]
    assert tlx("dumps", "rm", *cache)[0] == 2
