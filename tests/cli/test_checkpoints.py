"""tlx checkpoints as a user runs it, tlx plot --performance on what it leaves, tlx analyze
--bootstrap.
"""

from __future__ import annotations

import csv
import json

import pytest

from tlx.studies.layer_metrics import table as layer_metrics_table

QUICK = (
    "--seeds",
    1,
    "--epochs",
    3,
    "--fine-tune-epochs",
    1,
    "--checkpoints",
    "0,1,3",
    "--from-checkpoints",
    "all",
    "--fine-tune-checkpoints",
    "0,0_1,0_2,0_3,1",
    "--learning-rate",
    "1e-3",
    "--fine-tune-rate",
    "3e-4",
    "--batch-size",
    8,
    "--val-per-class",
    3,
    "--samples",
    24,
    "--resamplings",
    2,
    "--workers",
    0,
    "--no-system-metrics",
)


@pytest.mark.slow
def test_from_images_to_correlations_and_back(tlx, bars, tmp_path):
    words = ("checkpoints", "-s", f"{bars},random", "-t", bars, *QUICK)
    code, out, err = tlx(*words, "--out", "tables")
    assert (code, err) == (0, "")
    assert "transfer performance on bars" in out
    assert "sources of checkpoints: mnist-cnn on bars, random: 2 trials" in out
    with open(tmp_path / "tables" / "transfer_performance.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(r["source"], r["checkpoint"]) for r in rows] == [
        ("bars", "0"),
        ("bars", "1"),
        ("bars", "3"),
        ("random", "0"),
    ]
    code, out, _ = tlx(*words)
    assert code == 0
    assert "4 trials in" in out
    assert "4 of them found done" in out

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("Checkpoints").experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(runs) == 1 + 4, (
        "the same weights are one run: three fine-tunings, and the scores of the source"
    )
    assert any(name.startswith("bars/rho_") for name in parent.data.metrics)
    kept = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert kept >= {
        "transfer_performance.csv",
        "correlations.csv",
        "layer_metrics.parquet",
        "spearman_all.png",
        "transfer_performance.png",
    }
    code, out, err = tlx(
        "plot",
        tmp_path / "tables" / "layer_metrics.csv",
        "--performance",
        tmp_path / "tables" / "transfer_performance.csv",
        "--out",
        "figures",
    )
    assert (code, err) == (0, "")
    assert {
        "correlations.csv",
        "transfer_correlation.png",
        "spearman_all.png",
        "id_over_layers.png",
    } <= {p.name for p in (tmp_path / "figures").iterdir()}
    (tmp_path / "other.csv").write_text("target,source,checkpoint,transfer_performance\nx,y,0,1\n")
    code, _, err = tlx(
        "plot", tmp_path / "tables" / "layer_metrics.csv", "--performance", "other.csv"
    )
    assert code == 3
    assert "no (target, source, checkpoint)" in err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--protocol", "thesiss"), 2, "nearest: thesis"),
        (("--from-checkpoints", "7"), 2, "no checkpoint that is kept"),
        (("--targets", "digitz"), 2, "nearest"),
        (("--seeds", "0"), 2, "at least 1"),
        (("--reinit-blocks", "9"), 2, "at most 3"),
        (("--layers", "conv9"), 2, "conv9"),
    ],
)
def test_a_wrong_word_gets_one_line_and_nothing_is_run(tlx, bars, tmp_path, words, code, says):
    found = tlx("checkpoints", "-s", bars, "-t", bars, *QUICK, *words)
    assert found[0] == code
    assert says in found[2]
    assert "Traceback" not in found[2]
    assert not list(tmp_path.glob("tlx-runs/trials/*"))


@pytest.mark.slow
def test_comparisons_of_analyze_get_their_intervals(tlx, bars, tmp_path):
    words = (
        "analyze",
        "random_init",
        "-d",
        bars,
        "--samples",
        24,
        "--resamplings",
        2,
        "--layers",
        "input,conv1,fc2",
        "--rdm",
        "euclidean",
        "--workers",
        0,
        "--no-tracking",
        "--no-system-metrics",
    )
    code, _, err = tlx(*words, "--bootstrap", 30, "--out", "tables")
    assert (code, err) == (0, "")
    (path,) = tmp_path.glob("tlx-runs/studies/*/rdm_comparison.json")
    compared = json.loads(path.read_text())
    found = compared["bootstrap"]
    assert found["resamplings"] == 30
    for i in range(3):
        for j in range(3):
            assert found["low"][i][j] - 1e-9 <= found["high"][i][j]
        assert found["low"][i][i] == pytest.approx(1)
        assert found["label_low"][i] < found["label_high"][i]
    rows = layer_metrics_table.read(tmp_path / "tables" / "layer_metrics.csv")
    assert [row["rsa_label_low"] for row in rows] == found["label_low"]
    assert all(
        row["rsa_label_low"] < row["rsa_label"] + 0.15 < row["rsa_label_high"] + 0.3 for row in rows
    )
    assert {row["rdm"] for row in rows} == {"euclidean"}
    code, _, _ = tlx(*words)
    assert code == 0
    assert "bootstrap" not in json.loads(path.read_text()), "asked for none, there is none"
    assert tlx(*words, "--bootstrap", -1)[0] == 2
