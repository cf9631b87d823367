"""Layer transfer end to end, on images that small networks learn in seconds: who gets what from
whom.
"""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
import undrawn
from conftest import draw_images
from safetensors.torch import load_file

from tlx.errors import (
    BadDataError,
    ErrorGroup,
    IntegrityError,
    MissingError,
    TlxError,
    UnknownNameError,
    UsageError,
)
from tlx.lab.store import Store
from tlx.models import backbones, training
from tlx.models.weights import reader as weights_reader
from tlx.result import DIVERGED
from tlx.spec import derive_seed
from tlx.studies import base, runner
from tlx.studies.chop.spec import Chop, Pruning
from tlx.studies.layer_transfer import plan as layer_transfer_plan
from tlx.studies.layer_transfer import report as layer_transfer_report
from tlx.studies.layer_transfer.spec import TREATMENTS, LayerTransfer, LayerTransferGrid
from tlx.studies.training import fit_and_score
from tlx.studies.whole_dataset import WEIGHTS


@pytest.fixture(scope="session")
def bars4(tmp_path_factory):
    """Four classes: halves of two."""
    root = tmp_path_factory.mktemp("data") / "bars4"
    draw_images(root, classes=4, per_class=12, size=24, splits=("train",), seed=1)
    return draw_images(root, classes=4, per_class=6, size=24, splits=("test",), seed=2)


def asked(bars4, **changes):
    return LayerTransfer(
        dataset=str(bars4),
        **{"epochs": 2, "batch_size": 8, "val_per_class": 3, "learning_rate": 0.02, **changes},
    )


def perform(spec, treatments, settings, watch=lambda event: None, run_stage=undrawn.run_stage):
    """Both stages: the plan, and the report of each."""
    plan = layer_transfer_plan.plan_layer_transfer(spec, treatments, settings)
    reports, store = [], None
    if (first := plan.first()) is not None:
        reports.append(run_stage(first, settings, watch, layer_transfer_report.write_summary))
        reports[-1].raise_if_failed(require_tracking=False)
        store = Store(reports[-1].folder)
    if (rest := plan.rest(store)) is not None:
        reports.append(run_stage(rest, settings, watch, layer_transfer_report.write_summary))
        reports[-1].raise_if_failed(require_tracking=False)
    return plan, reports


def by_name(reports):
    return {
        (network(r), r.spec["bn"], r.spec["split"]): r for report in reports for r in report.results
    }


def table(report, stem="layer_transfer"):
    """The rows of a table beside the study's record."""
    text = (report.folder / "studies" / report.key / f"{stem}.csv").read_text()
    return list(csv.DictReader(text.splitlines()))


def network(result):
    return LayerTransfer.from_json(result.spec).network


# ---------------------------------------------------------------- the table of treatments


def test_every_treatment_of_every_n_and_repeat_once(bars4, settings):
    _, reports = perform(
        asked(bars4), LayerTransferGrid(repeats=2), settings, run_stage=runner.run_stage
    )
    names = {name for name, _, _ in by_name(reports)}
    assert names == {
        "baseA",
        "baseB",
        "baseB+",
        *(f"{x}{n}B{plus}" for x in "AB" for n in (1, 2, 3) for plus in ("", "+")),
    } - {"A3B+"}, "A3B+ is baseB+"
    assert [len(r.results) for r in reports] == [4, 24]
    for result in reports[1].results:
        assert result.made_from == {f"weights of {result.spec['of']}": result.spec["weights"]}
        counts = np.array(result.details["confusion"])
        assert counts.shape == (2, 2)
        assert result.details["classes"] == ["bar2", "bar3"]
        assert result.scores["test_accuracy"] == pytest.approx(
            np.mean(counts.diagonal() / counts.sum(axis=1))
        )
        assert result.details["test_images"] == 12
        assert result.details["train_images"] == 18
    assert reports[0].results[0].details["classes"] == ["bar0", "bar1"]
    rows = table(reports[1])
    assert len(rows) == 3 + 4 * 3
    cells = {(row["treatment"], row["n"]): row for row in rows}
    assert cells["baseB+", ""]["mean_test_accuracy"] == cells["AnB+", "3"]["mean_test_accuracy"]
    found = by_name(reports)
    mine = [found["A2B", "frozen", r].scores["test_accuracy"] for r in (0, 1)]
    base = [found["baseB", "frozen", r].scores["test_accuracy"] for r in (0, 1)]
    assert float(cells["AnB", "2"]["mean_test_accuracy"]) == pytest.approx(np.mean(mine))
    assert float(cells["AnB", "2"]["against_baseB"]) == pytest.approx(
        np.mean(np.subtract(mine, base))
    )
    assert len(table(reports[1], "layer_transfer_trials")) == 4 + 24 + 2, (
        "baseB+ stands there as AnB+ too"
    )
    figure = reports[1].folder / "studies" / reports[1].key / "layer_transfer.png"
    assert figure.stat().st_size > 10_000
    said = layer_transfer_report.format_summary(reports[1])
    assert "baseB: " in said
    assert "AnB+" in said


@pytest.mark.slow
def test_nothing_copied_is_baseb_and_everything_from_a_is_baseb_plus(bars4, settings):
    _, reports = perform(
        asked(bars4),
        LayerTransferGrid(treatments=("AnB", "AnB+"), depths=(0, 3), repeats=1),
        settings,
    )
    names = sorted(name for name, _, _ in by_name(reports))
    assert names == ["A3B", "baseA", "baseB", "baseB+"]
    rows = layer_transfer_report.table_rows(
        layer_transfer_report.trial_rows(
            Store(reports[1].folder).read_study(reports[1].key),
            {r.key: r for p in reports for r in p.results},
        )
    )
    assert {(row["treatment"], row["n"]) for row in rows} == {
        ("baseA", None),
        ("baseB", None),
        ("baseB+", None),
        ("AnB", 3),
        ("AnB+", 3),
    }


def test_a_network_with_no_block_copied_trains_to_the_bits_of_baseb(bars4, settings, tmp_path):
    """The condition with n = 0, put together and trained by hand from another's weights."""
    from tlx.models.transferred import transferred

    plan, reports = perform(
        asked(bars4), LayerTransferGrid(treatments=("baseB", "baseA"), repeats=1), settings
    )
    done = by_name(reports)["baseB", "frozen", 0]
    base_a = by_name(reports)["baseA", "frozen", 0]
    spec = LayerTransfer.from_json(done.spec)
    path = Store(reports[0].folder).file(base_a.key, WEIGHTS)
    made = transferred(
        "mnist-cnn", weights=str(path), copied=0, classes=2, seed=derive_seed(0, "weights", 0)
    )
    context = base.TrialContext(tmp_path, "cpu", lambda *a: None, lambda *a: None, lambda: False)
    _, scores, _ = fit_and_score(spec, made, plan.target, context, derive_seed(0, "fit", 0))
    assert {n: v for n, v in scores.items() if not n.endswith("_s")} == {
        n: v for n, v in done.scores.items() if not n.endswith("_s")
    }
    kept = load_file(Store(reports[0].folder).file(done.key, WEIGHTS))
    assert all(torch.equal(t, kept[name]) for name, t in made.net.state_dict().items())


# ---------------------------------------------------------------- what is copied, what is held


@pytest.fixture
def caught(monkeypatch):
    """Name of each network trained → its tensors before and after, and what learned."""
    seen, real = {}, training.fit

    def fit(network, train, val, recipe, **settings):
        before = {k: t.clone() for k, t in network.net.state_dict().items()}
        outcome = real(network, train, val, recipe, **settings)
        after = {k: t.clone() for k, t in network.net.state_dict().items()}
        learning = {k for k, p in network.net.named_parameters() if p.requires_grad}
        seen[recipe.network, recipe.bn, recipe.split] = network, before, after, learning
        seen[f"history {recipe.bn}"] = outcome.history
        return outcome

    monkeypatch.setattr(training, "fit", fit)
    return seen


def blocks_of(network, last):
    return {name for block in network.blocks[:last] for name in network.tensors(block)}


@pytest.mark.slow
def test_frozen_blocks_stay_those_of_their_source_to_the_bit(bars4, settings, caught):
    perform(
        asked(bars4, architecture="resnet20-cifar"),
        LayerTransferGrid(treatments=("AnB", "BnB", "AnB+", "BnB+"), depths=(2, 10), repeats=2),
        settings,
    )
    for repeat in (0, 1):
        for of in "AB":
            source = caught[f"base{of}", "frozen", repeat][2]
            for n, plus in ((2, ""), (10, ""), (2, "+")):
                network, before, after, learning = caught[f"{of}{n}B{plus}", "frozen", repeat]
                copied, head = blocks_of(network, n), {"linear.weight", "linear.bias"}
                assert all(torch.equal(before[k], source[k]) for k in copied)
                assert not any(torch.equal(before[k], source[k]) for k in head)
                if n == 2:
                    assert not torch.equal(
                        before["layer3.2.conv2.weight"], source["layer3.2.conv2.weight"]
                    )
                if plus:
                    assert {k for k in copied if k.endswith("conv1.weight")} <= learning
                    assert not any(
                        torch.equal(after[k], before[k]) for k in copied if k.endswith("weight")
                    )
                else:
                    assert all(torch.equal(after[k], source[k]) for k in copied), (
                        "statistics of batch norm too"
                    )
                    assert not copied & learning
                    if n == 10:
                        assert learning == head


@pytest.mark.slow
def test_the_rest_does_not_begin_where_the_base_network_began(bars4, settings, caught):
    """Nor is it the same in two repeats; but AnB and BnB of one repeat have the same rest: they
    differ in what is copied alone.
    """
    perform(
        asked(bars4), LayerTransferGrid(treatments=("AnB", "BnB"), depths=(1,), repeats=2), settings
    )
    first = {name: caught[name][1]["fc1.weight"] for name in caught if isinstance(name, tuple)}
    assert torch.equal(first["A1B", "frozen", 0], first["B1B", "frozen", 0])
    assert not torch.equal(first["B1B", "frozen", 0], first["baseB", "frozen", 0])
    assert not torch.equal(first["B1B", "frozen", 0], first["B1B", "frozen", 1])
    assert not torch.equal(first["baseB", "frozen", 0], first["baseB", "frozen", 1])


@pytest.mark.slow
def test_the_three_ways_of_batch_norm_differ_as_they_say(bars4, settings, caught):
    _, reports = perform(
        asked(bars4, architecture="resnet20-cifar"),
        LayerTransferGrid(
            treatments=("AnB",), depths=(4,), bn=("frozen", "adapt", "keras2"), repeats=1
        ),
        settings,
        run_stage=runner.run_stage,
    )
    source = caught["baseA", "frozen", 0][2]
    for bn in ("frozen", "adapt", "keras2"):
        network, _, after, _ = caught["A4B", bn, 0]
        weights = {k for k, _ in network.net.named_parameters() if k in blocks_of(network, 4)}
        assert all(torch.equal(after[k], source[k]) for k in weights), bn
        statistics = {
            k for k in blocks_of(network, 4) if k.endswith(("running_mean", "running_var"))
        }
        same = {k for k in statistics if torch.equal(after[k], source[k])}
        assert same == (set() if bn == "adapt" else statistics), bn
    curves = {
        bn: [[v[n] for v in caught[f"history {bn}"]] for n in ("train_loss", "val_loss")]
        for bn in ("frozen", "adapt", "keras2")
    }
    assert curves["adapt"][0] == curves["keras2"][0], "both train on the statistics of the batch"
    assert curves["adapt"][1] != curves["keras2"][1], "and are tested on others: B's, and A's"
    assert curves["frozen"][0] != curves["keras2"][0]
    assert [row["bn"] for row in table(reports[1]) if row["treatment"] == "AnB"] == [
        "adapt",
        "frozen",
        "keras2",
    ]


def test_ways_of_batch_norm_are_one_where_there_is_none_and_that_is_said(bars4, settings):
    plan = layer_transfer_plan.plan_layer_transfer(
        asked(bars4), LayerTransferGrid(bn=("frozen", "keras2")), settings
    )
    assert {c.bn for c in plan.conditions} == {"frozen"}
    assert [note for note in plan.notes if "no batch norm: --bn makes no difference" in note]


@pytest.mark.parametrize(("bn", "is_said"), [((), False), (("frozen",), False), (("adapt",), True)])
def test_ways_of_batch_norm_without_a_frozen_block_make_no_difference(bars4, settings, bn, is_said):
    grid = LayerTransferGrid(treatments=("AnB+",), bn=bn)
    plan = layer_transfer_plan.plan_layer_transfer(asked(bars4), grid, settings)
    assert ("no blocks are frozen: --bn makes no difference" in plan.notes) is is_said


def test_a_frozen_prefix_is_kept_and_not_run_again(bars4, settings, monkeypatch):
    monkeypatch.setattr("tlx.models.frozen_prefix.choice.FLOPS_PER_BYTE", {"memory": 0, "file": 0})
    _, reports = perform(
        asked(bars4),
        LayerTransferGrid(treatments=("AnB", "AnB+"), depths=(2,), repeats=1),
        settings,
    )
    said = {network(r): r.details["frozen_prefix"] for r in reports[1].results}
    assert "prefix of 2 blocks kept in memory" in said["A2B"][0]
    assert said["A2B+"] == []


# ---------------------------------------------------------------- where A comes from


def some_weights(path, seed):
    weights_reader.write(
        path, backbones.load("mnist-cnn", weights=None, classes=7, seed=seed).net.state_dict()
    )


@pytest.mark.slow
def test_weights_of_a_may_be_given(bars4, settings, tmp_path):
    some_weights(tmp_path / "a.safetensors", seed=5)
    spec = asked(bars4, model=str(tmp_path / "a.safetensors"))
    plan, reports = perform(
        spec,
        LayerTransferGrid(treatments=("baseA", "baseB+", "AnB"), depths=(1,), repeats=2),
        settings,
    )
    assert len(reports) == 1, "no base network is needed"
    assert any("baseA is given" in note for note in plan.notes)
    assert reports[0].results[0].details["classes"] == ["bar0", "bar1", "bar2", "bar3"]
    assert {r.spec["weights"] for r in reports[0].results} == {
        backbones.digest("mnist-cnn", spec.model)
    }
    (tmp_path / "a.safetensors").write_bytes(b"")
    with pytest.raises(TlxError):
        layer_transfer_plan.plan_layer_transfer(spec, LayerTransferGrid(), settings)


def test_weights_that_change_while_a_study_runs_are_noticed(bars4, settings, tmp_path):
    for seed in (5, 6):
        some_weights(tmp_path / "a.safetensors", seed)
        if seed == 5:
            plan = layer_transfer_plan.plan_layer_transfer(
                asked(bars4, model=str(tmp_path / "a.safetensors")),
                LayerTransferGrid(treatments=("AnB",), repeats=1),
                settings,
            )
    report = runner.run_stage(
        plan.rest(None), settings, lambda e: None, layer_transfer_report.write_summary
    )
    assert all(isinstance(outcome, IntegrityError) for outcome in report.outcomes)


def test_the_backbones_own_weights_are_a_source_too(bars4, settings):
    _, reports = perform(
        asked(bars4, source="MNIST"),
        LayerTransferGrid(treatments=("AnB",), depths=(1,), repeats=1),
        settings,
    )
    assert reports[0].results[0].spec["weights"] == backbones.digest("mnist-cnn", "default")
    with pytest.raises(UnknownNameError, match="MNIST"):
        layer_transfer_plan.plan_layer_transfer(
            asked(bars4, source="ImageNet"), LayerTransferGrid(), settings
        )


@pytest.mark.parametrize(
    ("treatments", "needs_a"),
    [
        (("baseB", "BnB"), False),
        (("BnB+",), False),
        (("AnB",), True),
        (("baseB", "baseB+"), True),
        (("baseA",), True),
    ],
    ids=str,
)
def test_only_what_copies_from_a_asks_for_weights_of_a(bars4, settings, treatments, needs_a):
    """This network comes without weights of its own."""
    spec = asked(bars4, source="default", architecture="resnet20-cifar")
    wanted = LayerTransferGrid(treatments=treatments, depths=(1,), repeats=1)
    if needs_a:
        with pytest.raises(MissingError, match="weights of"):
            layer_transfer_plan.plan_layer_transfer(spec, wanted, settings)
    else:
        plan = layer_transfer_plan.plan_layer_transfer(spec, wanted, settings)
        assert {c.of for c in plan.conditions} == {"B"}


def test_the_second_half_as_a_has_the_first_as_b_trained_already(bars4, settings):
    one = perform(
        asked(bars4), LayerTransferGrid(treatments=("baseA", "baseB"), repeats=1), settings
    )[1][0]
    two = perform(
        asked(bars4, halves="second"),
        LayerTransferGrid(treatments=("baseA", "baseB"), repeats=1),
        settings,
    )[1][0]
    assert two.reused == 2, "a base network is what it is trained on, whatever it is called"
    assert {r.key for r in one.results} == {r.key for r in two.results}
    assert one.key != two.key


# ---------------------------------------------------------------- refused before anything runs


@pytest.mark.parametrize(
    ("spec", "treatments", "kind", "says"),
    [
        ({}, {"treatments": ("AnB", "CnB")}, UnknownNameError, "CnB"),
        ({}, {"depths": (1, 4)}, UsageError, "0 to 3"),
        ({}, {"bn": ("frozn",)}, UnknownNameError, "nearest: frozen"),
        ({"model": "./nowhere.pth"}, {}, MissingError, "nowhere"),
        ({"val_per_class": 12}, {}, BadDataError, "val-per-class"),
        ({"source": "mars"}, {}, UnknownNameError, "MNIST"),
        ({"source": "default"}, {"treatments": ("baseA",)}, UsageError, "it is given"),
        (
            {"architecture": "resnet20-cifar", "source": "default"},
            {},
            MissingError,
            "weights of ResNet-20",
        ),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(
    bars4, settings, spec, treatments, kind, says
):
    with pytest.raises(kind, match=says):
        layer_transfer_plan.plan_layer_transfer(
            asked(bars4, **spec), LayerTransferGrid(**treatments), settings
        )
    with pytest.raises(ErrorGroup):
        layer_transfer_plan.plan_layer_transfer(
            asked(bars4), LayerTransferGrid(treatments=("CnB",), depths=(9,)), settings
        )


def test_a_half_of_one_class_is_refused(bars, settings):
    with pytest.raises(UsageError, match="at least 4"):
        layer_transfer_plan.plan_layer_transfer(asked(bars), LayerTransferGrid(), settings)


def test_treatments_are_found_in_any_case(bars4, settings):
    found = layer_transfer_plan.check(
        asked(bars4), LayerTransferGrid(treatments=("anb", "BASEB+", "anb")), 3, "net"
    )
    assert found == ("AnB", "baseB+")
    assert layer_transfer_plan.check(asked(bars4), LayerTransferGrid(), 3, "net") == TREATMENTS


# ---------------------------------------------------------------- found again, grown, cut off,
# diverged


@pytest.mark.slow
def test_asked_again_nothing_is_trained_and_more_joins_the_same_study(bars4, settings):
    small = LayerTransferGrid(treatments=("AnB",), depths=(1,), repeats=1)
    _, first = perform(asked(bars4), small, settings)
    _, again = perform(asked(bars4), small, settings)
    assert [r.reused for r in again] == [len(r.results) for r in first]
    _, grown = perform(asked(bars4), small.replace(treatments=("AnB", "BnB"), repeats=2), settings)
    assert [(len(r.results), r.reused) for r in grown] == [(4, 1), (4, 1)]
    assert {r.key for r in (*first, *again, *grown)} == {first[0].key}
    other = asked(bars4, learning_rate=0.03)
    assert (
        layer_transfer_plan.plan_layer_transfer(other, small, settings).first().key != first[0].key
    )


class Cut(BaseException):
    pass


@pytest.mark.crash
def test_cut_off_anywhere_it_comes_to_the_same(bars4, settings, tmp_path, monkeypatch):
    treatments = LayerTransferGrid(treatments=("AnB", "BnB"), depths=(2,), repeats=1)
    _, whole = perform(asked(bars4), treatments, settings)
    elsewhere, real, calls = (
        settings.replace(store=str(tmp_path / "cut")),
        training._Training._save,
        [],
    )

    def cut(self):
        real(self)
        calls.append(1)
        if len(calls) in (1, 3, 6):
            raise Cut

    monkeypatch.setattr(training._Training, "_save", cut)
    for _ in range(3):
        with pytest.raises(Cut):
            perform(asked(bars4), treatments, elsewhere)
    _, again = perform(asked(bars4), treatments, elsewhere)
    for a, b in zip(by_name(whole).items(), by_name(again).items(), strict=True):
        assert a[0] == b[0]
        assert a[1].key == b[1].key, "the base networks' weights are the same to the bit"
        assert a[1].details["confusion"] == b[1].details["confusion"]
        assert a[1].scores["test_loss"] == b[1].scores["test_loss"]


@pytest.mark.slow
def test_workers_come_to_the_same_numbers(bars4, settings, tmp_path):
    treatments = LayerTransferGrid(treatments=("AnB",), depths=(1, 3), repeats=1)
    here = by_name(perform(asked(bars4), treatments, settings)[1])
    there = by_name(
        perform(asked(bars4), treatments, settings.replace(workers=2, store=str(tmp_path / "b")))[1]
    )
    assert {n: (r.key, r.scores["test_loss"]) for n, r in here.items()} == {
        n: (r.key, r.scores["test_loss"]) for n, r in there.items()
    }


def test_what_a_diverged_base_network_would_have_given_is_left_out(bars4, settings):
    plan, reports = perform(
        asked(bars4, learning_rate=1000.0, epochs=3),
        LayerTransferGrid(treatments=("BnB",), depths=(1,), repeats=1),
        settings,
        run_stage=runner.run_stage,
    )
    assert [r.status for r in reports[0].results] == [DIVERGED]
    assert len(reports) == 1
    assert plan.notes[-1] == "baseB of repeat 0 diverged: B1B left out"
    folder = reports[0].folder / "studies" / reports[0].key
    assert json.loads((folder / "summary.json").read_text())["missing"] == 1
    assert "baseB" in layer_transfer_report.format_summary(reports[0])


@pytest.mark.slow
def test_it_is_mirrored_as_one_parent_with_a_child_for_each_network(bars4, settings, tmp_path):
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    _, reports = perform(
        asked(bars4),
        LayerTransferGrid(treatments=("AnB", "baseB"), depths=(1, 2), repeats=2),
        settings.replace(tracking=True, mlflow_path=uri),
        run_stage=runner.run_stage,
    )
    client = MlflowClient(uri)
    home = client.get_experiment_by_name("Layer transfer").experiment_id
    runs = client.search_runs([home])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run is not parent]
    assert sorted(run.data.tags["tlx.key"] for run in children) == sorted(
        r.key for p in reports for r in p.results
    )
    assert {run.info.status for run in runs} == {"FINISHED"}
    names = {run.info.run_name for run in children}
    assert {"A1B, repeat 0", "baseB, repeat 1", "baseA, repeat 0"} <= names
    child = next(run for run in children if run.info.run_name == "A2B, repeat 1")
    assert child.data.params["Frozen"] == "2"
    curve = {
        m.step: m.value
        for m in client.get_metric_history(parent.info.run_id, "AnB/mean_test_accuracy")
    }
    assert curve.keys() == {1, 2}
    assert {"layer_transfer.csv", "layer_transfer.png"} <= {
        a.path for a in client.list_artifacts(parent.info.run_id)
    }


def test_what_is_asked_keeps_its_key():
    """A default is a promise. What blocks are called, and where they lie, is no part of it."""
    assert LayerTransfer().key[:16] == "7f7c36dfb249f129"
    copied = LayerTransfer(copied=3, freeze=3, bn="keras2", weights="ab", images="cd", split=1)
    assert copied.key[:16] == "ca59d64e70683d2d"
    assert (
        copied.replace(of="A", depth=10, source="MNIST", dataset="elsewhere", halves="second").key
        == copied.key
    )
    assert Chop(cut=2, images="cd").key[:16] == "2dfe5cce880ee5c4"
    assert Pruning(round=1, before="ef", images="cd").key[:16] == "4419a6e10fc6c842"
