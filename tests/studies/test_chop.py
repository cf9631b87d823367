"""Chopped and pruned networks end to end."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import undrawn
from safetensors.torch import load_file

from tlx.errors import ErrorGroup, IntegrityError, MissingError, UnknownNameError, UsageError
from tlx.lab.settings import Settings
from tlx.lab.store import Store
from tlx.models import chopped, masks, training
from tlx.models.weights import reader as weights_reader
from tlx.result import DIVERGED
from tlx.studies import base, runner
from tlx.studies.chop import latency as chop_latency
from tlx.studies.chop import plan as chop_plan
from tlx.studies.chop import pruning_plan, pruning_report
from tlx.studies.chop import report as chop_report
from tlx.studies.chop.pruning import PruningInputs
from tlx.studies.chop.spec import Chop, ChopGrid, Pruning, PruningGrid
from tlx.studies.whole_dataset import WEIGHTS

QUICK = {"epochs": 2, "batch_size": 8, "val_per_class": 3, "learning_rate": 0.02}


def perform(spec, asked, settings, run_stage=undrawn.run_stage):
    made, _ = chop_plan.chop_study(spec, asked, settings)

    def summarise(store, key, form="png"):
        chop_latency.measure(store, key, settings)
        chop_report.write_summary(store, key, form)

    return run_stage(made, settings, lambda event: None, summarise)


def rows_of(report, stem):
    text = (report.folder / "studies" / report.key / f"{stem}.csv").read_text()
    return list(csv.DictReader(text.splitlines()))


# ---------------------------------------------------------------- chopped


@pytest.fixture(scope="module")
def done(bars, cache, tmp_path_factory):
    settings = Settings(
        store=str(tmp_path_factory.mktemp("runs")),
        cache=str(cache),
        tracking=False,
        workers=0,
        system_metrics=False,
    )
    report = perform(Chop(dataset=str(bars), **QUICK), ChopGrid(repeats=2), settings)
    report.raise_if_failed(require_tracking=False)
    return report, settings


def test_every_cut_and_the_whole_network_are_scored_and_measured(done):
    report, _ = done
    assert [(r.spec["split"], r.spec["cut"]) for r in report.results] == [
        (s, n) for s in (0, 1) for n in (1, 2, 3, None)
    ]
    rows = rows_of(report, "chop")
    assert [row["n"] for row in rows] == ["1", "2", "3", ""]
    for name in ("parameters", "macs", "weights_bytes", "training_bytes"):
        values = [int(row[name]) for row in rows[:3]]
        assert values == sorted(set(values)), name
        assert int(rows[3][name]) == pytest.approx(values[2], abs=100), (
            "cut behind the last block it is the whole"
        )
    assert all(float(row[f"latency_batch{b}_s"]) > 0 for row in rows for b in (1, 64))
    first = [r.scores["test_accuracy"] for r in report.results if r.spec["cut"] == 1]
    assert float(rows[0]["mean_test_accuracy"]) == pytest.approx(np.mean(first))
    times = json.loads((report.folder / "studies" / report.key / "latency.json").read_text())
    assert times["about"]["threads"] == 1
    said = chop_report.format_summary(report, 0.01)
    assert "smallest within 1 points" in said
    assert "1 thread, torch" in said


def test_the_kept_network_is_the_one_that_was_scored(done, bars):
    report, settings = done
    made, _ = chop_plan.chop_study(Chop(dataset=str(bars), **QUICK), ChopGrid(repeats=2), settings)
    for result in report.results[:4]:
        network, classes = chopped.read(Store(report.folder).file(result.key, "network.json"))
        assert list(classes) == result.details["classes"]
        test = made.trials[0].inputs.data.test
        logits = training.predict(network, test, Chop(**QUICK))
        assert training.cross_entropy(logits, test.row_labels) == result.scores["test_loss"]
        assert len(network.blocks) == (result.spec["cut"] or 3)


def test_the_smallest_is_named_by_validation_and_copied(done, tmp_path):
    report, _ = done
    path = chop_report.publish(report, 1.0, tmp_path / "out" / "small.safetensors")
    assert json.loads(path.read_text())["cut"] == 1, "within all of it the smallest of all"
    network, _ = chopped.read(path)
    assert len(network.blocks) == 1
    rows = [
        {"n": 1, "val": 0.90, "mean": 0.99, "parameters": 10, "macs": 1},
        {"n": 2, "val": 0.95, "mean": 0.10, "parameters": 20, "macs": 1},
        {"n": 3, "val": 0.955, "mean": 0.2, "parameters": 30, "macs": 1},
        {"n": None, "val": None, "mean": None, "parameters": None, "macs": None},
    ]
    assert chop_report.smallest(rows, 0.0)["n"] == 3
    assert chop_report.smallest(rows, 0.005)["n"] == 2
    assert chop_report.smallest(rows, 0.055)["n"] == 1
    assert chop_report.smallest(rows[3:], 0.5) is None


@pytest.mark.slow
def test_times_that_are_there_stay_and_a_new_cut_is_timed(bars, settings, monkeypatch):
    timed, real = [], chop_latency.latency
    monkeypatch.setattr(
        chop_latency,
        "latency",
        lambda networks, batch, *a, **k: (
            timed.append(sorted(networks)),
            real(networks, batch, *a, budget_s=0.01, **k),
        )[1],
    )
    spec = Chop(dataset=str(bars), **QUICK)
    perform(spec, ChopGrid(depths=(1,), repeats=1), settings)
    perform(spec, ChopGrid(depths=(1,), repeats=1), settings)
    assert timed == [["1", "whole"]] * 2, "batches of 1 and of 64, once"
    report = perform(spec, ChopGrid(depths=(2,), repeats=1), settings)
    assert timed[2:] == [["1", "2", "whole"]] * 2
    assert [row["n"] for row in rows_of(report, "chop")] == ["1", "2", ""], "the study has grown"
    with pytest.raises(MissingError, match="earlier command"):
        chop_report.publish(report, 1.0, settings.store_folder(None) / "x")


@pytest.mark.slow
def test_random_weights_and_frozen_blocks(bars, settings):
    spec = Chop(
        dataset=str(bars), architecture="resnet20-cifar", source="random", freeze=2, **QUICK
    )
    report = perform(spec, ChopGrid(depths=(3,), repeats=1), settings)
    cut, whole = report.results
    assert cut.spec["weights"] == "random"
    assert (
        cut.details["trainable_parameters"]
        < cut.details["parameters"]
        < whole.details["parameters"]
    )
    for settings_, says in (({"depths": (1,)}, "at most 1"), ({"depths": (11,)}, "1 to 10")):
        with pytest.raises(UsageError, match=says):
            chop_plan.chop_study(spec, ChopGrid(**settings_), settings)


@pytest.mark.parametrize(
    ("spec", "asked", "kind", "says"),
    [
        ({"architecture": "resnet20-cifar"}, {}, MissingError, "weights of ResNet-20"),
        ({"source": "mars"}, {}, UnknownNameError, "MNIST"),
        ({"model": "./nowhere.pth"}, {}, MissingError, "nowhere"),
        ({"freeze": 3}, {"depths": (1, 9)}, ErrorGroup, "1 to 3"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(bars, settings, spec, asked, kind, says):
    with pytest.raises(kind, match=says):
        chop_plan.chop_study(Chop(dataset=str(bars), **QUICK | spec), ChopGrid(**asked), settings)


@pytest.mark.crash
def test_a_cut_off_study_of_cuts_comes_to_the_same(done, bars, settings, monkeypatch):
    class Cut(BaseException):
        pass

    calls, real = [], training._Training._save

    def cut(self):
        real(self)
        calls.append(1)
        if len(calls) in (1, 4):
            raise Cut

    monkeypatch.setattr(training._Training, "_save", cut)
    spec = Chop(dataset=str(bars), **QUICK)
    for _ in range(2):
        with pytest.raises(Cut):
            perform(spec, ChopGrid(repeats=2), settings)
    again = perform(spec, ChopGrid(repeats=2), settings)
    for a, b in zip(done[0].results, again.results, strict=True):
        assert (a.key, a.scores["test_loss"]) == (b.key, b.scores["test_loss"])
        paths = [Store(r.folder).file(a.key, "network.safetensors") for r in (done[0], again)]
        assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.slow
def test_chops_are_mirrored(bars, settings, tmp_path):
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    perform(
        Chop(dataset=str(bars), **QUICK),
        ChopGrid(depths=(1,), repeats=1),
        settings.replace(tracking=True, mlflow_path=uri),
        run_stage=runner.run_stage,
    )
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("Chop").experiment_id])
    child = next(run for run in runs if run.info.run_name == "cut behind block 1, repeat 0")
    assert child.data.metrics["macs"] > 0
    assert "network.json" in {a.path for a in client.list_artifacts(child.info.run_id)}
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.data.metrics["latency_batch1_s"] > 0
    assert {"chop.csv", "chop.png", "latency.json"} <= {
        a.path for a in client.list_artifacts(parent.info.run_id)
    }


# ---------------------------------------------------------------- pruned


def prune(spec, asked, settings, run_stage=undrawn.run_stage):
    plan, reports, store = pruning_plan.PruningPlan(spec, asked, settings), [], None
    for number in range(asked.iterations + 1):
        made = plan.stage(number, store)
        if made is None:
            break
        reports.append(
            run_stage(made, settings, lambda event: None, pruning_report.write_pruning_summary)
        )
        reports[-1].raise_if_failed(require_tracking=False)
        store = Store(reports[-1].folder)
    return plan, reports


def pruning(bars, **changes):
    return Pruning(dataset=str(bars), **{**QUICK, "keep": 0.5, **changes})


def weights(report, number):
    return load_file(Store(report.folder).file(report.results[number].key, WEIGHTS))


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_each_round_leaves_its_share_of_the_weights_and_the_biases_alone(bars, settings, scope):
    _, reports = prune(pruning(bars, scope=scope), PruningGrid(iterations=2, repeats=1), settings)
    before = None
    for number, report in enumerate(reports):
        found = weights(report, 0)
        ranked = {n: t for n, t in found.items() if n.endswith("weight")}
        left = sum(int(torch.count_nonzero(t)) for t in ranked.values())
        total = sum(t.numel() for t in ranked.values())
        assert left == pytest.approx(total * 0.5**number, abs=3)
        assert report.results[0].scores["kept"] == left / total
        assert all(
            torch.count_nonzero(t) == t.numel() for n, t in found.items() if n.endswith("bias")
        )
        if scope == "layer":
            assert all(
                abs(float((t != 0).float().mean()) - 0.5**number) < 0.02 for t in ranked.values()
            )
        if before is not None:
            assert not any(torch.count_nonzero(ranked[n][before[n] == 0]) for n in ranked), (
                "nothing comes back"
            )
            mask = masks.magnitude(before, 0.5**number, scope)
            assert not any(torch.count_nonzero(ranked[n][~mask[n]]) for n in ranked), (
                "the smallest went"
            )
        before = ranked
    rows = rows_of(reports[-1], "pruning")
    assert [row["round"] for row in rows] == ["0", "1", "2"]
    assert [round(float(row["kept"]), 2) for row in rows] == [1.0, 0.5, 0.25]
    assert "parameters not zero" in pruning_report.format_pruning_summary(reports[-1])


@pytest.mark.slow
@pytest.mark.parametrize("rewind", ["none", "start"])
def test_a_round_starts_from_the_trained_weights_or_from_the_first_ones(
    bars, settings, rewind, monkeypatch
):
    starts, real = [], training.fit

    def fit(network, *data, **settings):
        starts.append({k: t.clone() for k, t in network.net.state_dict().items()})
        return real(network, *data, **settings)

    monkeypatch.setattr(training, "fit", fit)
    _, reports = prune(pruning(bars, rewind=rewind), PruningGrid(iterations=1, repeats=1), settings)
    trained = weights(reports[0], 0)
    expected = starts[0] if rewind == "start" else trained
    for name, tensor in starts[1].items():
        stays = (
            tensor != 0 if name.endswith("weight") else torch.ones_like(tensor, dtype=torch.bool)
        )
        assert torch.equal(tensor[stays], expected[name][stays]), name


@pytest.mark.slow
def test_rounds_are_found_again_and_go_on_where_they_ended(bars, settings):
    _, first = prune(pruning(bars), PruningGrid(iterations=1, repeats=1), settings)
    _, again = prune(pruning(bars), PruningGrid(iterations=2, repeats=2), settings)
    assert [r.reused for r in again] == [1, 1, 0]
    assert {r.key for r in (*first, *again)} == {first[0].key}
    assert (
        prune(pruning(bars, rewind="start"), PruningGrid(iterations=1, repeats=1), settings)[1][
            0
        ].key
        != first[0].key
    )


def test_what_diverges_is_pruned_no_further(bars, settings):
    plan, reports = prune(
        pruning(bars, learning_rate=1000.0, epochs=3),
        PruningGrid(iterations=2, repeats=1),
        settings,
        run_stage=runner.run_stage,
    )
    assert [r.status for r in reports[0].results] == [DIVERGED]
    assert len(reports) == 1
    assert "diverged in round 0" in plan.notes[-1]


@pytest.mark.slow
def test_weights_of_the_round_before_must_be_those_that_were_planned_with(bars, settings, tmp_path):
    plan, reports = prune(pruning(bars), PruningGrid(iterations=1, repeats=1), settings)
    store = Store(reports[0].folder)
    made = plan.stage(1, store)
    store.remove(made.trials[0].spec.key)
    planned = made.trials[0].inputs
    weights_reader.write(
        tmp_path / "other.safetensors", {n: 2 * t for n, t in weights(reports[0], 0).items()}
    )
    other = PruningInputs(
        planned.data, planned.weights, planned.source, str(tmp_path / "other.safetensors")
    )
    changed = replace(made, trials=(base.Trial(made.trials[0].spec, other),))
    report = runner.run_stage(
        changed, settings, lambda event: None, pruning_report.write_pruning_summary
    )
    assert isinstance(report.outcomes[0], IntegrityError)
