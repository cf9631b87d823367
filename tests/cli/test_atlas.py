"""tlx atlas as a user runs it: what is missing in commands that work, --run that runs them,
refusals in one line.
"""

from __future__ import annotations

import csv
import re
import shlex

import pytest
import typer
from conftest import draw_images

from tlx.cli import app, options

QUICK = (
    "--samples",
    24,
    "--resamplings",
    3,
    "--workers",
    0,
    "--no-tracking",
    "--no-system-metrics",
)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Enough images a class for every study's own defaults."""
    root = tmp_path_factory.mktemp("data") / "many"
    draw_images(root, per_class=56, splits=("train",), seed=1)
    return draw_images(root, per_class=8, splits=("test",), seed=2)


def parsed(line):
    """The command of a line and what its own parser makes of it; nothing is run."""
    words = options.normalised(shlex.split(line)[1:], app.flags())
    group = typer.main.get_command(app.app)
    command = group.commands[words[0]]
    return words[0], command.make_context(words[0], words[1:]).params


def test_what_is_missing_is_named_by_commands_that_work(tlx, bars, tmp_path):
    code, out, err = tlx(
        "atlas", "--dataset", bars, "--input-size", 28, "--epochs", 2, "--repeats", 3, *QUICK
    )
    assert (code, err) == (0, "")
    found = dict(re.findall(r"^missing: (.+?): (tlx .+)$", out, re.MULTILINE))
    assert set(found) == {"cka_source, distance", "quanta, quanta_accuracy", "transfer"}
    for line in found.values():
        name, params = parsed(line)
        assert params["dataset"] == str(bars)
        assert params["architecture"] == "mnist-cnn"
        assert params["epochs"] == "2"
        assert params["seeds" if name == "parameter-distance" else "repeats"] == "3"
        assert params["tracking"] is False, "it must find the same store"
    assert parsed(found["transfer"])[1]["source"] == "default"
    assert "with --run runs what is missing" in out
    names = {p.name for p in next((tmp_path / "tlx-runs" / "studies").iterdir()).iterdir()}
    assert {"atlas.png", "atlas.csv", "atlas.json"} <= names


@pytest.mark.slow
def test_run_runs_what_is_missing_and_asked_again_all_is_there(tlx, many, tmp_path):
    words = ("atlas", "--dataset", many, "--epochs", 1, "--repeats", 1, *QUICK)
    code, out, err = tlx(
        *words, "--run", "--panels", "ss_ratio,cka_source,quanta,transfer,distance"
    )
    assert (code, err) == (0, "")
    assert out.count("\n$ tlx ") + out.startswith("$ tlx ") == 3
    assert "missing: " not in out
    code, out, err = tlx(*words, "--out", "here")
    assert (code, err) == (0, "")
    assert "2 of them found done" in out
    assert "missing: " not in out
    assert out.count(" from: ") == 4
    assert {p.name for p in (tmp_path / "here").iterdir()} == {
        f"atlas.{end}" for end in ("png", "csv", "json")
    }


def test_what_could_not_be_run_is_said_and_the_atlas_still_made(tlx, bars, tmp_path):
    """Of twelve images a class none are left where fifty are held back."""
    code, out, err = tlx(
        "atlas",
        "--dataset",
        bars,
        "--run",
        "--panels",
        "ss_ratio,transfer",
        "--out",
        "here",
        *QUICK,
    )
    assert code == 3
    assert "--val-per-class" in err
    assert (tmp_path / "here" / "atlas.png").is_file()
    assert "missing: transfer: tlx layer-transfer" in out


@pytest.mark.slow
def test_one_run_for_each_network_and_target(tlx, bars, tmp_path):
    from mlflow import MlflowClient

    words = [word for word in QUICK if word != "--no-tracking"]
    assert tlx("atlas", "--dataset", bars, *words)[0] == 0
    assert tlx("atlas", "--dataset", bars, *words)[0] == 0
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("Atlas").experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    steps = [m.step for m in client.get_metric_history(parent.info.run_id, "id/source network")]
    assert steps == [1, 2, 3]
    assert {"atlas.png", "atlas.csv"} <= {a.path for a in client.list_artifacts(parent.info.run_id)}


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--panels", "quant"), 2, "nearest: quanta"),
        (("--study", "abc"), 2, "abc"),
        (("--samples", "4"), 2, "at least 6"),
        (("--dataset", "./nowhere"), 3, "nowhere"),
        (("--finetuned", "nowhere.pth"), 3, "nowhere.pth"),
        (("--fraction", "2"), 2, "at most 1"),
        (("--reduce", "pool"), 2, "nearest: pooled"),
        (("--architecture", "resnet51"), 2, "nearest: resnet50"),
    ],
)
def test_a_wrong_word_gets_one_line_and_nothing_is_run(tlx, bars, tmp_path, words, code, says):
    found = tlx("atlas", "--dataset", bars, *QUICK, *words)
    assert found[0] == code
    assert says in found[2]
    assert "Traceback" not in found[2]
    assert not list(tmp_path.glob("tlx-runs/trials/*"))


@pytest.mark.slow
def test_a_block_without_a_row_for_each_image_is_left_out_and_said(
    tlx, bars, tmp_path, monkeypatch
):
    """As of hrnet, mobilevit and tnt; the other blocks keep their numbers and values."""
    from tlx.models import layers

    def values(folder):
        with open(tmp_path / folder / "atlas.csv", newline="") as file:
            return {
                (row["block"], row["panel"], row["line"]): row["mean"]
                for row in csv.DictReader(file)
            }

    assert tlx("atlas", "--dataset", bars, *QUICK, "--out", "whole", "--store", "a")[0] == 0
    monkeypatch.setattr(layers, "blocks_with_rows", lambda network: (1, 3))
    code, out, complained = tlx(
        "atlas", "--dataset", bars, *QUICK, "--out", "partly", "--store", "b"
    )
    assert code == 0, complained
    assert "block 2 left out" in out
    assert "no row for each image" in out
    expected = {at: mean for at, mean in values("whole").items() if at[0] != "2"}
    assert {at[0] for at in expected} >= {"1", "3"}
    assert values("partly") == expected
