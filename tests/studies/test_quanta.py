"""QUANTA end to end on images that a small network learns in seconds: trials, table, files, mirror;
what is refused.
"""

from __future__ import annotations

import ast
import csv
import json
import math

import numpy as np
import pytest
import torch
import undrawn
from conftest import draw_images

from tlx.data import hold_out
from tlx.errors import ErrorGroup, MissingError, Stopped, TlxError, UsageError
from tlx.lab.settings import Settings
from tlx.lab.store import Store, reproducible_fields
from tlx.models import backbones
from tlx.models.quanta import training as quanta_training
from tlx.plots import statistics
from tlx.studies import runner
from tlx.studies.quanta import export as quanta_export
from tlx.studies.quanta import plan as quanta_plan
from tlx.studies.quanta import report as quanta_report
from tlx.studies.quanta import source as quanta_source
from tlx.studies.quanta.scores import keras_scores
from tlx.studies.quanta.spec import Quanta, QuantaGrid


@pytest.fixture(scope="module")
def settings(tmp_path_factory, cache):
    return Settings(
        store=str(tmp_path_factory.mktemp("runs")),
        cache=str(cache),
        tracking=False,
        workers=0,
        system_metrics=False,
    )


def quick(bars, **changes):
    return Quanta(
        **{
            "dataset": str(bars),
            "epochs": 2,
            "batch_size": 8,
            "val_per_class": 2,
            "learning_rate": 1e-3,
            **changes,
        }
    )


def perform(spec, sweep, settings, run_stage=undrawn.run_stage):
    asked = quanta_plan.plan_quanta(spec, sweep, settings)
    source, first = asked.source, asked.source_study
    if first is not None:
        learned = undrawn.run_stage(first, settings)
        source = quanta_source.trained(
            learned.results[0], Store(learned.folder), spec, asked.learned
        )
    made = asked.study(source)
    return run_stage(made, settings, lambda event: None, quanta_report.write_summary)


@pytest.fixture(scope="module")
def report(bars, settings):
    sweep = QuantaGrid(positions=("0", "2", "co"), repeats=2)
    return perform(quick(bars), sweep, settings, run_stage=runner.run_stage)


def test_every_position_and_repeat_is_trained_and_written_down(report):
    assert [(r.spec["position"], r.spec["repeat"]) for r in report.results] == [
        (p, n) for n in (0, 1) for p in ("0", "2", "co", "witness")
    ]
    for r in report.results:
        gates = {"0": [0], "2": [2], "co": [0, 1, 2], "witness": []}[r.spec["position"]]
        assert r.details["positions"] == gates
        assert r.details["epochs"] == len(r.details["history"]) == 2
        assert len(r.details["gates"]) == 3
        for row in r.details["gates"]:
            assert [sum(pair) for pair in row["lambda"]] == [pytest.approx(1)] * len(gates)
            for v, pair in zip(row["v"], row["lambda"], strict=True):
                powers = np.exp(np.array(v))
                assert pair == pytest.approx((powers / powers.sum()).tolist(), rel=1e-12)
        assert {"test_accuracy", "test_loss", "val_loss", "test_top1"} <= set(r.scores)
        assert r.details["images"] == {"train": 30, "val": 6, "test": 24}
        if len(gates) == 1:
            assert r.scores["lambda_source"] == r.details["gates"][-1]["lambda"][0][0]


def test_trials_of_a_repeat_are_pairs_and_repeats_differ(report):
    states = {}
    for r in report.results:
        states[r.spec["position"], r.spec["repeat"]] = r.details["history"][0]["train_loss"]
    assert len(set(states.values())) == len(states)
    gates = [r.details["gates"][0]["rms"][0] for r in report.results if r.spec["position"] == "0"]
    assert gates[0][0] == gates[1][0], "one source"
    assert gates[0][1] != gates[1][1], "two targets"
    alone = [
        r.details["gates"][0]["rms"][0] for r in report.results if r.spec["position"] in ("0", "co")
    ]
    assert alone[0][1] == pytest.approx(alone[1][1], rel=1e-9), (
        "the same target at the start of a repeat"
    )


def test_the_table_is_the_mean_over_repeats_with_its_interval(report):
    folder = report.folder / "studies" / report.key
    rows = list(csv.DictReader((folder / "quanta.csv").read_text().splitlines()))
    assert [(row["gate"], row["position"]) for row in rows] == [
        ("alone", "0"),
        ("alone", "2"),
        ("co", "0"),
        ("co", "1"),
        ("co", "2"),
        ("witness", ""),
    ]
    mine = {(r.spec["position"], r.spec["repeat"]): r for r in report.results}
    want = statistics.estimate([mine["2", n].scores["lambda_source"] for n in (0, 1)])
    assert float(rows[1]["lambda_source"]) == want.mean
    assert float(rows[1]["lambda_source_high"]) == want.high
    assert rows[1]["block"] == "3"
    assert rows[1]["module"] == "fc1"
    gains = [
        mine["2", n].scores["test_accuracy"] - mine["witness", n].scores["test_accuracy"]
        for n in (0, 1)
    ]
    assert float(rows[1]["over_witness"]) == pytest.approx(math.fsum(gains) / 2)
    names = {p.name for p in folder.iterdir()}
    assert {
        "quanta.csv",
        "quanta.md",
        "lambda_source.png",
        "lambda_source_co.png",
        "lambda_source_final.png",
        "test_accuracy.png",
        "summary.json",
    } <= names
    said = quanta_report.format_summary(report)
    assert "none (witness)" in said
    assert "block 2 conv2 of all" in said
    own = Store(report.folder).folder(report.results[0].key)
    assert {"lambda_source.png", "learning_curves.png"} <= {p.name for p in own.iterdir()}
    assert not list(own.glob("training.*"))


@pytest.mark.slow
def test_asked_again_all_is_found_and_more_repeats_join(report, bars, settings):
    sweep = QuantaGrid(positions=("0", "2", "co"), repeats=2)
    again = perform(quick(bars), sweep, settings, run_stage=runner.run_stage)
    assert again.reused == 8
    sweep = QuantaGrid(positions=("2",), repeats=3)
    more = perform(quick(bars), sweep, settings, run_stage=runner.run_stage)
    assert more.key == report.key
    assert more.reused == 4


def test_a_witness_is_one_whatever_the_gate_and_source(report, bars, settings):
    other = perform(
        quick(bars, quanta_form="sigmoid", source="random"),
        QuantaGrid(positions=("2",), repeats=1),
        settings,
    )
    assert other.reused == 1
    assert other.key != report.key
    assert other.results[0].details["gates"][0]["lambda"][0][0] == pytest.approx(0.5025, abs=1e-6)


def test_cut_off_a_trial_goes_on_to_the_same_result(report, bars, settings, tmp_path, monkeypatch):
    spec, sweep = quick(bars), QuantaGrid(positions=("2",), repeats=1, witness=False)
    elsewhere = settings.replace(store=str(tmp_path / "cut"))
    real = quanta_training._QuantaTraining._save

    def cut(self):
        real(self)
        raise Stopped(15)

    monkeypatch.setattr(quanta_training._QuantaTraining, "_save", cut)
    with pytest.raises(Stopped):
        perform(spec, sweep, elsewhere)
    monkeypatch.undo()
    again = perform(spec, sweep, elsewhere)
    whole = next(r for r in report.results if r.key == again.results[0].key)
    assert reproducible_fields(again.results[0]) == reproducible_fields(whole)


@pytest.mark.slow
def test_workers_come_to_the_same_numbers(report, bars, settings, tmp_path):
    there = perform(
        quick(bars),
        QuantaGrid(positions=("0",), repeats=1),
        settings.replace(workers=2, store=str(tmp_path / "other")),
    )
    mine = {r.key: r for r in report.results}
    assert len(there.results) == 2
    assert all(reproducible_fields(r) == reproducible_fields(mine[r.key]) for r in there.results)


# ---------------------------------------------------------------- the original's files


def test_its_files_read_back_to_the_same_numbers(report, tmp_path):
    quanta_export.export(report.results, tmp_path)
    folder = tmp_path / "mnist_to_bars"
    for r in report.results:
        position, repeat = r.spec["position"], r.spec["repeat"]
        layer = "all" if position == "co" else position
        own = folder / ("witness" if position == "witness" else f"layer_{layer}")
        for words, part in (("training", "train"), ("testing", "test")):
            lines = (own / f"{words}_metrics_of_target_{repeat}.txt").read_text().splitlines()
            assert [ast.literal_eval(line) for line in lines] == [
                [
                    row[f"{part}_{name}"]
                    for name in (
                        "loss",
                        "top1",
                        "precision",
                        "recall",
                        "false_positives",
                        "false_negatives",
                        "true_positives",
                        "true_negatives",
                        "top3",
                    )
                ]
                for row in r.details["history"]
            ]
        if position == "witness":
            assert not (own / f"{repeat}.txt").exists()
            continue
        gates = range(len(r.details["positions"]))
        text = (own / f"{repeat}.txt").read_text()
        assert text.count(",") == len(gates)
        assert text.endswith(" ,")
        assert "\n" not in text
        assert quanta_export.read_series(text) == [
            [row["lambda"][g][0] for row in r.details["gates"][1:]] for g in gates
        ]
        raw = quanta_export.read_series((own / f"{repeat}_raw.txt").read_text())
        assert [[np.float32(v) for v in line] for line in raw] == [
            [np.float32(row["v"][g][0]) for row in r.details["gates"][1:]] for g in gates
        ]
        (line,) = (folder / f"quantas_r_{repeat}_l_{layer}.jsonl").read_text().splitlines()
        found = json.loads(line)
        assert list(found) == [str(p) for p in r.details["positions"]]
        for g, position_of in enumerate(found):
            assert found[position_of]["quanta_weights"] == [
                row["v"][g] for row in r.details["gates"]
            ]
            assert len(found[position_of]["quantas"]["source"]) == 3
        (line,) = (
            (folder / f"training_metrics_of_target_r_{repeat}_l_{layer}.jsonl")
            .read_text()
            .splitlines()
        )
        history = json.loads(line)
        assert list(history) == ["0", "1"]
        assert set(history["0"]) == {
            "categorical_accuracy",
            "loss",
            "precision",
            "recall",
            "false_positives",
            "false_negatives",
            "true_positives",
            "true_negatives",
            "top_k_categorical_accuracy",
        }
        assert history["1"]["loss"] == r.details["history"][1]["train_loss"]
        (line,) = (
            (folder / f"testing_metrics_of_target_r_{repeat}_l_{layer}.jsonl")
            .read_text()
            .splitlines()
        )
        assert json.loads(line)["categorical_accuracy"] == r.scores["test_top1"]


def test_the_line_of_one_gate_is_as_the_original_wrote_it(report):
    r = report.results[1]
    values = [row["lambda"][0][0] for row in r.details["gates"][1:]]
    assert quanta_export.series([values]) == "".join(f"{value!r} " for value in values) + ","
    assert quanta_export.series([[np.float32(1.1)]]) == "1.1 ,"


# ---------------------------------------------------------------- metrics


def test_metrics_by_their_definitions():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(40, 5)).astype(np.float32) * 2, rng.integers(0, 5, 40)
    found = keras_scores(logits, labels)
    tp = fp = fn = tn = top3 = right = 0
    total = 0.0
    for row, label in zip(logits.astype(float), labels, strict=True):
        shares = [math.exp(z) / sum(map(math.exp, row)) for z in row]
        total -= math.log(shares[label])
        for k, share in enumerate(shares):
            tp += share > 0.5 and k == label
            fp += share > 0.5 and k != label
            fn += share <= 0.5 and k == label
            tn += share <= 0.5 and k != label
        ranked = sorted(range(5), key=lambda k: -row[k])
        right, top3 = right + (ranked[0] == label), top3 + (label in ranked[:3])
    want = {
        "loss": total / 40,
        "top1": right / 40,
        "precision": tp / (tp + fp),
        "recall": tp / 40,
        "false_positives": fp,
        "false_negatives": fn,
        "true_positives": tp,
        "true_negatives": tn,
        "top3": top3 / 40,
    }
    assert found == {name: pytest.approx(value, rel=1e-9) for name, value in want.items()}
    assert fn > 0
    assert tp + fp < 40, "some images predict nothing"


def test_an_image_without_a_class_above_one_half_predicts_nothing():
    found = keras_scores(np.zeros((4, 3), np.float32), np.array([0, 1, 2, 0]))
    assert (
        found["precision"],
        found["recall"],
        found["true_negatives"],
        found["false_negatives"],
    ) == (0, 0, 8, 4)
    assert found["top3"] == 1


# ---------------------------------------------------------------- where the source comes from


@pytest.mark.slow
def test_the_study_trains_its_source_on_other_images_first(bars, settings, tmp_path):
    other = draw_images(
        tmp_path / "other", classes=4, per_class=6, splits=("train", "test"), seed=5
    )
    spec, sweep = (
        quick(bars),
        QuantaGrid(
            positions=("1",), repeats=1, witness=False, source_dataset=str(other), source_epochs=1
        ),
    )
    found = perform(spec, sweep, settings)
    r = found.results[0]
    learned = Store(found.folder).keys()
    trainings = [
        t for t in (Store(found.folder).find(key) for key in learned) if t.kind == "pretraining"
    ]
    assert len(trainings) == 1
    assert trainings[0].spec["epochs"] == 1
    assert trainings[0].details["classes"] == ["bar0", "bar1", "bar2", "bar3"]
    assert r.details["source_test"]["loss"] == pytest.approx(
        trainings[0].scores["test_loss"], rel=1e-6
    )
    assert r.details["source_name"] == "other"
    assert r.spec["weights"] != ""
    quanta_export.export(found.results, tmp_path / "out")
    text = (
        tmp_path / "out" / "other_to_bars" / "testing_metrics_of_source_r_0_l_1.jsonl"
    ).read_text()
    assert json.loads(text)["loss"] == r.details["source_test"]["loss"]
    assert perform(spec, sweep, settings).reused == 1


def test_the_files_of_one_position_are_in_the_folder_that_was_named(report, tmp_path):
    """The tree of the original's README; the summary is that of the first repeat."""
    one = [r for r in report.results if r.spec["position"] in ("0", "witness")]
    quanta_export.export(one, tmp_path)
    repeats = {r.spec["repeat"] for r in one}
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert names == {"expe_summary.txt"} | {
        name.format(r=r)
        for r in repeats
        for name in (
            "{r}.txt",
            "{r}_raw.txt",
            "training_metrics_of_target_{r}.txt",
            "testing_metrics_of_target_{r}.txt",
        )
    }
    text = (tmp_path / "expe_summary.txt").read_text()
    first = next(r for r in one if r.spec["position"] == "0")
    alone = next(r for r in one if r.spec["position"] == "witness")
    for label, r in (("target", first), ("target alone", alone)):
        accuracy = r.details["history"][-1]["test_top1"]
        assert f"Accuracy of the {label}: {accuracy:.4f}\n" in text
    assert "Target task: bars\nLayer: 0\n" in text
    assert f"{first.details['parameters']:,} parameters in all" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_files_of_another_position_are_not_overwritten(report, tmp_path):
    one = [r for r in report.results if r.spec["position"] in ("0", "witness")]
    quanta_export.export(one, tmp_path)
    quanta_export.check(tmp_path, "bars", ["0"])
    quanta_export.check(tmp_path, "bars", ["0", "1"])
    for target, position in (("bars", "1"), ("other", "0")):
        with pytest.raises(UsageError, match="another experiment"):
            quanta_export.check(tmp_path, target, [position])


@pytest.mark.slow
def test_halves_of_the_classes(settings, tmp_path):
    data = draw_images(tmp_path / "bars5", classes=5, per_class=6, seed=3)
    spec = quick(data, epochs=1)
    asked = quanta_plan.plan_quanta(spec, QuantaGrid(halves=True), settings)
    assert len(asked.learned.classes) == 3
    assert len(asked.images.classes) == 2
    assert sorted(asked.learned.classes + asked.images.classes) == [f"bar{i}" for i in range(5)]
    assert set(asked.images.parts["train"].labels) == {0, 1}
    assert asked.images.parts["train"].images.size == 2 * 4
    assert (
        quanta_plan.plan_quanta(spec, QuantaGrid(halves=True), settings).images.digest
        == asked.images.digest
    )
    others = {
        hold_out.halves([str(i) for i in range(10)], "random", seed, "--halves")
        for seed in range(20)
    }
    assert len(others) > 10
    assert (
        perform(spec, QuantaGrid(halves=True, positions=("2",), repeats=1), settings)
        .results[0]
        .scores
    )
    with pytest.raises(UsageError, match="at least 4"):
        hold_out.halves(["a", "b", "c"], "random", 0, "--halves")


def test_some_of_the_images(bars, settings):
    asked = quanta_plan.plan_quanta(
        quick(bars, train_per_class=3, test_per_class=4), QuantaGrid(), settings
    )
    assert {name: len(part) for name, part in asked.images.parts.items()} == {
        "train": 9,
        "val": 6,
        "test": 12,
    }


def test_weights_by_file_and_at_random(bars, settings, tmp_path):
    from tlx.models.weights import reader as weights_reader

    net = backbones.load("mnist-cnn", weights=None, classes=4, seed=7)
    weights_reader.write(tmp_path / "mine.safetensors", net.net.state_dict())
    by_file = quanta_plan.plan_quanta(
        quick(bars, model=str(tmp_path / "mine.safetensors")), QuantaGrid(), settings
    ).source
    assert torch.equal(by_file.load().net.conv1.weight, net.net.conv1.weight)
    assert by_file.name == "mine"
    random = quanta_plan.plan_quanta(quick(bars, source="random"), QuantaGrid(), settings).source
    assert random.digest == "random"
    assert torch.equal(random.load().net.conv1.weight, random.load().net.conv1.weight)
    packaged = quanta_plan.plan_quanta(quick(bars), QuantaGrid(), settings).source
    assert packaged.name == "mnist"
    assert len({s.digest for s in (by_file, random, packaged)}) == 3


@pytest.mark.parametrize(
    ("words", "positions"),
    [
        ((), ["0", "1", "2", "co"]),
        (("all",), ["0", "1", "2"]),
        (("2", "0"), ["0", "2"]),
        (("-1",), ["co"]),
        (("1", "all"), ["0", "1", "2"]),
        (("co", "-3"), ["co"]),
        (("02",), ["2"]),
    ],
)
def test_positions_in_words(words, positions, bars):
    assert list(quanta_plan.gates_of(quick(bars), words)) == positions


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "sweep", "error", "says"),
    [
        ({}, {"positions": ("3",)}, UsageError, "0 to 2"),
        ({}, {"positions": ("first",)}, UsageError, "position 'first'"),
        ({}, {"positions": ("3", "x")}, ErrorGroup, "position 'x'"),
        ({"quanta_init": (1.0,)}, {}, UsageError, "1 numbers"),
        ({"architecture": "quanta-cnn"}, {}, UsageError, "comes without weights"),
        ({"source": "random", "model": "x.pth"}, {}, UsageError, "--model with --source"),
        ({"source": "mars"}, {}, TlxError, "mars"),
        ({"model": "nowhere.pth"}, {}, MissingError, "nowhere.pth"),
        ({}, {"source_dataset": "./nowhere"}, MissingError, "nowhere"),
        ({}, {"halves": True}, UsageError, "at least 4"),
        (
            {"source_architecture": "resnet20-cifar", "source": "random"},
            {},
            UsageError,
            "does not see what",
        ),
        ({"val_per_class": 12}, {}, TlxError, "val-per-class"),
        (
            {
                "architecture": "vgg13",
                "source_architecture": "vgg11",
                "input_size": 32,
                "source": "random",
            },
            {"positions": ("1",)},
            UsageError,
            r"position 1: .*one shape",
        ),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_computed(
    changes, sweep, error, says, bars, settings
):
    with pytest.raises(error, match=says):
        quanta_plan.plan_quanta(quick(bars, **changes), QuantaGrid(**sweep), settings)


def test_all_positions_of_two_networks_are_those_of_one_shape(bars):
    gates = quanta_plan.gates_of(
        quick(bars, architecture="vgg13", source_architecture="vgg11", input_size=32), ("all",)
    )
    assert "0" in gates
    assert "1" not in gates


def test_a_source_that_diverged_is_said(bars, settings):
    from tlx.result import DIVERGED, Result

    result = Result.of(quick(bars), status=DIVERGED)
    with pytest.raises(TlxError, match="source-rate"):
        quanta_source.trained(result, Store(settings.store), quick(bars), None)


def test_keys_stay_what_they_are():
    assert (
        Quanta(position="3", repeat=2).key
        == "a0e9bae27e134ad902d15bdc9da6d6dc9cd05a4d9ed98b053542e88abb181d44"
    )
    assert (
        Quanta(position="3").alone.key
        == Quanta(
            position="co",
            quanta_form="sigmoid",
            multiplier=5.0,
            weights="x",
            source_dropout=True,
            model="a.pth",
        ).alone.key
    )
    assert Quanta(position="3", dataset="elsewhere", model="b.pth").key == Quanta(position="3").key


# ---------------------------------------------------------------- the mirror


@pytest.mark.slow
def test_it_is_mirrored_with_lambda_over_epochs(bars, settings, tmp_path):
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    found = perform(
        quick(bars),
        QuantaGrid(positions=("2", "co"), repeats=2),
        settings.replace(tracking=True, mlflow_path=uri, store=str(tmp_path / "runs")),
        run_stage=runner.run_stage,
    )
    client = MlflowClient(uri)
    home = client.get_experiment_by_name("QUANTA").experiment_id
    runs = client.search_runs([home])
    assert len(runs) == 7
    child = next(run for run in runs if run.info.run_name == "block 3 repeat 1")
    r = next(r for r in found.results if (r.spec["position"], r.spec["repeat"]) == ("2", 1))
    curve = [
        m.value for m in client.get_metric_history(child.info.run_id, "lambda_source") if m.step < 1
    ]
    assert curve[0] == r.details["gates"][1]["lambda"][0][0]
    assert child.data.params["Layer"] == "2"
    assert child.data.params["Source task"] == "mnist"
    for name in (
        "rms_source",
        "rms_target",
        "test_precision",
        "val_top3",
        "train_loss",
        "v_source",
    ):
        assert len(client.get_metric_history(child.info.run_id, name)) == 2, name
    together = next(run for run in runs if run.info.run_name == "all blocks repeat 0")
    assert {"lambda_source_0", "lambda_source_2", "rms_target_1"} <= set(together.data.metrics)
    assert "lambda_source.png" in {a.path for a in client.list_artifacts(child.info.run_id)}
    parent = next(run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    mine = [x.details["gates"] for x in found.results if x.spec["position"] == "2"]
    history = client.get_metric_history(parent.info.run_id, "alone/layer_2/lambda_source")
    assert [m.value for m in sorted(history, key=lambda m: m.step)] == [
        pytest.approx(np.mean([gates[e]["lambda"][0][0] for gates in mine])) for e in range(3)
    ]
    assert {
        m.step for m in client.get_metric_history(parent.info.run_id, "co/lambda_source_high")
    } == {0, 1, 2}
    assert {"quanta.csv", "lambda_source.png", "test_accuracy.png"} <= {
        a.path for a in client.list_artifacts(parent.info.run_id)
    }
