"""The chain pre-train, fine-tune, measure, correlate on images that a small network learns in
seconds: every number against arrays alone, found again, grown, cut off and continued; what is
refused.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil

import numpy as np
import pytest
import undrawn
from conftest import draw_images
from PIL import Image
from safetensors.numpy import load_file

from tlx.errors import BadDataError, ErrorGroup, TlxError, UsageError
from tlx.lab.settings import Settings
from tlx.lab.store import Store
from tlx.studies import pretraining_plan, runner
from tlx.studies.checkpoints import correlations as checkpoints_correlations
from tlx.studies.checkpoints import layers as checkpoints_layers
from tlx.studies.checkpoints import plan as checkpoints_plan
from tlx.studies.checkpoints import report as checkpoints_report
from tlx.studies.checkpoints import tables as checkpoints_tables
from tlx.studies.checkpoints.spec import PROTOCOLS, CheckpointGrid
from tlx.studies.layer_metrics import plan as layer_metrics_plan
from tlx.studies.layer_metrics import table as layer_metrics_table
from tlx.studies.layer_metrics.spec import LayerMetrics, Observed
from tlx.studies.pretraining_spec import THESIS, PreTraining

MOMENTS = ("0", "0_1", "1", "2")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return Settings(
        store=str(tmp_path_factory.mktemp("runs")),
        cache=str(tmp_path_factory.mktemp("cache")),
        tracking=False,
        workers=0,
        system_metrics=False,
    )


@pytest.fixture(scope="module")
def stripes(tmp_path_factory):
    """Another source of as many classes, in the network's own size: nothing is resized."""
    return draw_images(tmp_path_factory.mktemp("data") / "stripes", per_class=10, seed=9, size=28)


def chain(bars, stripes, **changes):
    return CheckpointGrid(
        **{
            "sources": (str(bars), str(stripes), "random"),
            "targets": (str(bars),),
            "seeds": 2,
            "epochs": 2,
            "fine_tune_epochs": 2,
            "checkpoints": MOMENTS,
            "from_checkpoints": ("0", "0_1", "last"),
            "fine_tune_checkpoints": MOMENTS,
            "batch_size": 8,
            "val_per_class": 3,
            "samples": 24,
            "learning_rate": 1e-3,
            "fine_tune_rate": 1e-3,
            **changes,
        }
    )


ASKED = LayerMetrics(resamplings=3)


def perform(spec, settings, asked=ASKED, run_stage=undrawn.run_stage):
    """As the command does: (the last report, the reports of the stages before)."""

    def go(made, summarise=checkpoints_report.write_stage_summary):
        return run_stage(made, settings, lambda event: None, summarise)

    plan = checkpoints_plan.plan_checkpoints(spec, asked, settings)
    first = go(plan.first())
    store = Store(first.folder)
    models = plan.models(store)
    looks = plan.looks(models)
    layers = [go(look.study) for look in looks]

    def summarise(store, key, form="png"):
        checkpoints_correlations.gather(store, key)
        checkpoints_report.write_summary(store, key, form)

    return go(plan.tuning(models, looks, store), summarise), [first, *layers]


@pytest.fixture(scope="module")
def done(bars, stripes, settings):
    return perform(chain(bars, stripes), settings, run_stage=runner.run_stage)


@pytest.fixture(scope="module")
def results(done):
    report, _ = done
    return json.loads((report.folder / "studies" / report.key / "checkpoints.json").read_text())


def of_kind(report, kind):
    return [r for r in report.results if r.kind == kind]


# ---------------------------------------------------------------- numbers


def forward(weights, x):
    """Logits (n, k) of the thesis's network in arrays alone. x (n, 28, 28), normalised."""

    def convolve(x, w, b):
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
        return np.einsum("nchwij,ocij->nohw", windows, w) + b[:, None, None]

    def halve(x):
        h, w = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
        return x[:, :, :h, :w].reshape(*x.shape[:2], h // 2, 2, w // 2, 2).max(axis=(3, 5))

    x = x[:, None].astype(np.float64)
    for name in ("conv1", "conv2"):
        x = np.maximum(halve(convolve(x, weights[f"{name}.weight"], weights[f"{name}.bias"])), 0)
    x = np.maximum(x.reshape(len(x), -1) @ weights["fc1.weight"].T + weights["fc1.bias"], 0)
    return x @ weights["fc2.weight"].T + weights["fc2.bias"]


def pictures(root, split):
    paths = sorted((root / split).glob("*/*.png"))
    x = np.stack([np.asarray(Image.open(p)) for p in paths])
    return (x / 255 - 0.1307) / 0.3081, np.array([int(p.parent.name[-1]) for p in paths])


@pytest.mark.slow
def test_checkpoints_are_scored_as_arrays_say(done, results, stripes):
    """The weight files of a pre-training on its test images."""
    report, (first, _) = done
    trained = next(
        r
        for r in first.results
        if r.kind == "pretraining" and r.spec["seed"] == 2 and r.spec["dataset"] == str(stripes)
    )
    x, y = pictures(stripes, "test")
    store = Store(report.folder)
    for tag in MOMENTS:
        z = forward(load_file(store.file(trained.key, f"checkpoints/{tag}.safetensors")), x)
        z -= z.max(axis=1, keepdims=True)
        loss = float(np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(y)), y]))
        (row,) = (
            r
            for r in results["pretraining"]
            if (r["source"], r["seed"], r["tag"]) == ("stripes", 2, tag)
        )
        assert row["test_loss"] == pytest.approx(loss, rel=1e-4)
        assert row["test_top1"] == pytest.approx(float((z.argmax(axis=1) == y).mean()))
        right = z.argmax(axis=1) == y
        assert row["test_accuracy"] == pytest.approx(
            np.mean([right[y == k].mean() for k in range(3)])
        )


@pytest.mark.slow
def test_a_fine_tuning_starts_from_its_checkpoint_with_dense_layers_of_its_own(done, results):
    """At moment 0 convolutions are the checkpoint's: fine-tunings of one seed and target from equal
    convolutions agree, whatever head they had; from others they do not.
    """
    by = {(r["source"], r["seed"], r["checkpoint"], r["tag"]): r for r in results["tuning"]}
    for seed in (1, 2):
        assert by["bars", seed, "0", "0"] == {**by["random", seed, "0", "0"], "source": "bars"}
        assert by["bars", seed, "2", "0"]["test_loss"] != by["bars", seed, "0", "0"]["test_loss"]
        assert by["bars", seed, "0", "0_1"]["val_loss"] != by["bars", seed, "0", "0"]["val_loss"]
    assert by["bars", 1, "0", "0"]["test_loss"] != by["bars", 2, "0", "0"]["test_loss"]
    tuned = of_kind(done[0], "checkpoint-tuning")[0]
    assert tuned.spec["copied"] == 2, "fc1 and the head are drawn anew, as in the thesis"
    assert tuned.details["steps"] == [0, 1, 4, 8]
    assert tuned.details["train_images"] == 27


def test_the_area_is_the_trapezoid_over_the_moments(done):
    for result in of_kind(done[0], "checkpoint-tuning"):
        for part, end in (("test", ""), ("val", "_val")):
            a = [row[f"{part}_accuracy"] for row in result.details["moments"]]
            want = sum((x + y) / 2 for x, y in itertools.pairwise(a))
            assert result.scores[f"transfer_performance{end}"] == pytest.approx(want, rel=1e-12)
        assert result.scores["test_accuracy"] == result.details["moments"][-1]["test_accuracy"]


def test_every_cell_is_there(results):
    """3 checkpoints fine-tuned of 2 sources and the one of random, 2 seeds; all 4 measured."""
    seen = {(r["source"], r["checkpoint"], r["seed"]) for r in results["performance"]}
    assert seen == {
        (s, c, n)
        for s, tags in (("bars", "0 0_1 2"), ("stripes", "0 0_1 2"), ("random", "0"))
        for c in tags.split()
        for n in (1, 2)
    }
    layers = {(r["trained_on"], r["checkpoint"], r["seed"]) for r in results["layers"]}
    assert layers == seen | {(s, "1", n) for s in ("bars", "stripes") for n in (1, 2)}
    assert {r["layer"] for r in results["layers"]} == {
        "input",
        "conv1",
        "relu1",
        "conv2",
        "relu2",
        "relu3",
        "fc2:log_softmax",
    }
    index = {(r["checkpoint"], r["checkpoint_index"]) for r in results["layers"]}
    assert index == set(zip(MOMENTS, range(4), strict=True))


def spearman(x, y):
    def ranked(v):
        return np.array([(v < one).sum() + ((v == one).sum() + 1) / 2 for one in v])

    a, b = ranked(np.asarray(x)), ranked(np.asarray(y))
    a, b = a - a.mean(), b - b.mean()
    return a @ b / math.sqrt((a @ a) * (b @ b)) if a.any() and b.any() else None


def test_correlations_are_of_means_over_seeds(results):
    areas, values = {}, {}
    for r in results["performance"]:
        areas.setdefault((r["source"], r["checkpoint"]), []).append(r["transfer_performance"])
    for r in results["layers"]:
        values.setdefault((r["layer"], r["trained_on"], r["checkpoint"]), []).append(r["ss_ratio"])
    for row in results["correlations"]:
        if row["metric"] != "ss_ratio":
            continue
        models = [
            m
            for m in areas
            if row["scope"] == "all" or row["name"] == m[row["scope"] == "checkpoint"]
        ]
        want = spearman(
            [np.mean(values[row["layer"], *m]) for m in models], [np.mean(areas[m]) for m in models]
        )
        assert row["n"] == len(models)
        assert (row["rho"] is None) == (want is None)
        assert want is None or row["rho"] == pytest.approx(want, abs=1e-12)
    assert {(r["scope"], r["name"]) for r in results["correlations"]} == {
        ("all", ""),
        *(("source", s) for s in ("bars", "stripes", "random")),
        *(("checkpoint", c) for c in ("0", "0_1", "2")),
    }
    tags = [
        r["name"]
        for r in results["correlations"]
        if (r["metric"], r["layer"], r["scope"]) == ("id", "fc2:log_softmax", "checkpoint")
    ]
    assert tags == ["0", "0_1", "2"], "in their order"


# ---------------------------------------------------------------- found again


def test_trials_are_those_of_pretrain_and_analyze(done, bars, settings, tmp_path):
    report, (first, layers) = done
    trained = next(r for r in first.results if r.kind == "pretraining" and r.spec["seed"] == 1)
    alone = pretraining_plan.pretraining_study(
        PreTraining(
            dataset=str(bars),
            seed=1,
            epochs=2,
            batch_size=8,
            learning_rate=1e-3,
            val_per_class=3,
            checkpoints=MOMENTS,
        ),
        settings,
    )
    assert alone.trials[0].spec.key == trained.key
    path = Store(report.folder).file(trained.key, "checkpoints/1.safetensors")
    assert list((settings.cache_folder / "dumps").glob("[0-9a-f]*")) == [], "removed once measured"
    asked = layer_metrics_plan.plan_layer_metrics(
        [str(path)],
        Observed(dataset=str(bars), samples=24),
        ASKED,
        settings.replace(cache=str(tmp_path)),
    )
    assert asked.trials[0].spec.key in {r.key for r in layers.results}


@pytest.mark.slow
def test_asked_again_nothing_is_run_and_asked_for_more_it_grows(
    done, bars, stripes, settings, tmp_path
):
    report, stages = done
    settings = settings.replace(store=str(shutil.copytree(report.folder, tmp_path / "runs")))
    last, others = perform(chain(bars, stripes), settings)
    for before, again in zip([report, *stages], [last, *others], strict=True):
        assert again.reused == len(again.outcomes) == len(before.outcomes)
    more, _ = perform(
        chain(bars, stripes, seeds=1, sources=(str(bars),), from_checkpoints=("all",)),
        settings,
        run_stage=runner.run_stage,
    )
    assert more.key == report.key
    assert len(more.results) - more.reused == 1, "checkpoint 1 was not fine-tuned before"
    cells = json.loads((more.folder / "studies" / more.key / "chain.json").read_text())["cells"]
    assert len(cells) == 2 * 4 * 2 + 2, "those of the first command stay"
    assert sum("tuning" in cell for cell in cells) == 2 * 3 * 2 + 2 + 1


@pytest.mark.crash
def test_cut_off_between_moments_it_ends_as_if_it_had_not_been(
    done, bars, stripes, settings, tmp_path, monkeypatch
):
    from tlx.models import training

    report, _ = done
    elsewhere = settings.replace(store=str(tmp_path / "runs"), cache=str(tmp_path / "cache"))
    spec = chain(bars, stripes, sources=(str(stripes),), seeds=1, from_checkpoints=("last",))

    class Cut(Exception):  # noqa: N818 — a signal that ends the study
        pass

    calls, real = [], training._Training._save

    def cut(self):
        real(self)
        calls.append(1)
        if len(calls) == 3:  # the pre-training's two epochs, and the first of the fine-tuning
            raise Cut

    monkeypatch.setattr(training._Training, "_save", cut)
    failed, _ = perform(spec, elsewhere)
    assert not of_kind(failed, "checkpoint-tuning")
    monkeypatch.undo()
    again, _ = perform(spec, elsewhere)
    (found,) = of_kind(again, "checkpoint-tuning")
    (want,) = (r for r in of_kind(report, "checkpoint-tuning") if r.key == found.key)
    assert found.details["moments"] == want.details["moments"]
    assert len(calls) == 3


def test_a_dump_that_was_there_stays_and_weights_that_changed_are_noticed(
    done, bars, stripes, settings, tmp_path
):
    report, (first, _) = done
    trained = next(r for r in first.results if r.kind == "pretraining")
    path = Store(report.folder).file(trained.key, "checkpoints/2.safetensors")
    own = settings.replace(cache=str(tmp_path / "cache"), store=str(tmp_path / "runs"))
    layer_metrics_plan.plan_layer_metrics(
        [str(path)], Observed(dataset=str(bars), samples=24), ASKED, own
    )
    spec = chain(bars, stripes).resolved
    look = checkpoints_layers.plan_layers(
        spec,
        ASKED,
        own,
        typed=str(bars),
        name="bars",
        models=[(str(path), _sha(path), "bars", 1, "2", 3)],
    )
    runner.run_stage(look.study, own, lambda event: None, checkpoints_report.write_stage_summary)
    assert len(list((tmp_path / "cache" / "dumps").glob("[0-9a-f]*"))) == 1
    other = tmp_path / "other.safetensors"
    other.write_bytes(path.read_bytes())
    look = checkpoints_layers.plan_layers(
        spec,
        ASKED,
        own,
        typed=str(bars),
        name="bars",
        models=[(str(other), _sha(other), "b", 1, "2", 3)],
    )
    other.write_bytes(
        Store(report.folder).file(trained.key, "checkpoints/1.safetensors").read_bytes()
    )
    fresh = own.replace(store=str(tmp_path / "fresh"))
    failed = runner.run_stage(
        look.study, fresh, lambda event: None, checkpoints_report.write_stage_summary
    )
    assert "have changed" in str(failed.outcomes[0])


def _sha(path):
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---------------------------------------------------------------- files


def test_tables_and_train_stats_read_back(done, results, tmp_path):
    report, _ = done
    made = {path.name for path in checkpoints_report.export(report, tmp_path)}
    assert made >= {
        "layer_metrics.csv",
        "layer_metrics.parquet",
        "correlations.csv",
        "transfer_performance.csv",
        "fine_tuning.csv",
        "pre_training.csv",
        "transfer_performance.png",
        "accuracy_over_fine_tuning.png",
        "spearman_all.png",
        "pre_bars_train_stats.json",
        "ft_stripes_bars_train_stats.json",
        "ft_random_bars_train_stats.json",
    }
    rows = layer_metrics_table.read(tmp_path / "layer_metrics.csv")
    assert rows == layer_metrics_table.read(tmp_path / "layer_metrics.parquet")
    assert {(r["seed"], r["rdm"]) for r in rows} == {(1, "correlation"), (2, "correlation")}
    areas = checkpoints_tables.read(tmp_path / "transfer_performance.csv")
    assert [{**r, "seed": int(r["seed"])} for r in areas] == results["performance"]
    again = checkpoints_correlations.correlations_of(rows, areas)
    assert again == results["correlations"]
    assert checkpoints_tables.read(tmp_path / "correlations.csv", "correlations") == [
        {**r, "name": r["name"] or None} for r in again
    ]
    stats = json.loads((tmp_path / "ft_stripes_bars_train_stats.json").read_text())
    assert sorted(stats) == sorted(
        [
            "model_name",
            "seed",
            "ft_net",
            "ft_epochs",
            "ft_train_acc",
            "ft_train_loss",
            "ft_test_acc",
            "ft_test_loss",
        ]
    )
    assert sorted(zip(stats["model_name"], stats["seed"], strict=True)) == sorted(
        (f"model_ft_stripes_bars_{tag}", seed) for tag in ("0", "0_1", "2") for seed in (1, 2)
    )
    assert stats["ft_epochs"] == [[0, 0.001, 1, 2]] * 6
    tuned = next(
        r
        for r in of_kind(report, "checkpoint-tuning")
        if (r.spec["source"], r.spec["checkpoint"], r.spec["seed"]) == ("stripes", "2", 2)
    )
    at = list(zip(stats["model_name"], stats["seed"], strict=True)).index(
        ("model_ft_stripes_bars_2", 2)
    )
    assert stats["ft_test_acc"][at] == [100 * row["test_top1"] for row in tuned.details["moments"]]
    pre = json.loads((tmp_path / "pre_bars_train_stats.json").read_text())
    assert pre["seed"] == [1, 2]
    assert pre["pre_net"] == ["mnist-cnn"] * 2
    assert len(pre["pre_train_loss"][1]) == len(pre["pre_epochs"][1]) == 4


def test_what_is_said_at_the_end(done):
    text = checkpoints_report.format_summary(done[0])
    assert "over 4 moments, at most 3" in text
    assert "stripes" in text
    assert "Spearman's ρ with it over all 7 models" in text
    assert "note: 4 models have the weights of another one" in text, (
        "untrained ones of three sources, two seeds"
    )


# ---------------------------------------------------------------- what is asked


def test_the_thesis_is_one_option_away():
    spec = CheckpointGrid(protocol="thesis").resolved
    assert spec.checkpoints == spec.fine_tune_checkpoints == THESIS
    assert (spec.seeds, spec.epochs, spec.fine_tune_epochs, spec.learning_rate) == (
        10,
        100,
        100,
        1e-4,
    )
    assert list(spec.seed_numbers) == list(range(1, 11))
    assert spec.reinit_blocks == 1
    assert len(spec.sources) * len(spec.checkpoints) == 72
    assert spec.chosen(THESIS) == THESIS
    assert CheckpointGrid(protocol="thesis", seeds=3, checkpoints=("0", "1")).resolved.seeds == 3
    assert (
        CheckpointGrid(fine_tune_checkpoints=("thesis",)).resolved.fine_tune_checkpoints == THESIS
    )
    assert CheckpointGrid(architecture="vgg16").resolved.reinit_blocks == 0
    for row in PROTOCOLS.values():
        assert set(row) <= set(CheckpointGrid.settings())


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"from_checkpoints": ("3",)}, UsageError, "no checkpoint that is kept"),
        ({"fine_tune_checkpoints": ("0",)}, UsageError, "two or more"),
        ({"fine_tune_checkpoints": ("0", "x")}, UsageError, "0_K"),
        ({"fine_tune_checkpoints": ("0", "3")}, UsageError, "ends after 8"),
        ({"checkpoints": ("0", "3")}, UsageError, "ends after"),
        ({"reinit_blocks": 4}, UsageError, "at most 3"),
        ({"targets": ("random",)}, UsageError, "no set of images"),
        ({"targets": ("nowhere",)}, TlxError, "nowhere"),
        ({"val_per_class": 12}, BadDataError, "val"),
        ({"samples": 25}, UsageError, "a multiple of 3"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(
    bars, stripes, settings, tmp_path, changes, error, says
):
    spec = chain(bars, stripes, **changes)
    own = settings.replace(store=str(tmp_path / "runs"))
    with pytest.raises((error, ErrorGroup), match=says):
        checkpoints_plan.plan_checkpoints(spec, ASKED, own)
    assert not (tmp_path / "runs").exists()


def test_two_sources_of_one_name_are_refused(bars, stripes, settings, tmp_path):
    twin = draw_images(tmp_path / "bars", per_class=8)
    with pytest.raises(UsageError, match="two sources are called 'bars'"):
        checkpoints_plan.plan_checkpoints(
            chain(bars, stripes, sources=(str(bars), str(twin))), ASKED, settings
        )
    with pytest.raises(UsageError, match="stands twice"):
        checkpoints_plan.plan_checkpoints(
            chain(bars, stripes, sources=("random", "random")), ASKED, settings
        )


def test_fewer_training_images_are_the_first_of_each_class(bars, stripes, settings):
    few, all_ = (
        checkpoints_plan.plan_checkpoints(
            chain(bars, stripes, seeds=1, train_per_class=n), ASKED, settings
        )
        for n in (4, 0)
    )
    some, whole = (plan.sources[0].trial.inputs.train for plan in (few, all_))
    assert np.bincount(some.labels).tolist() == [4, 4, 4]
    assert np.bincount(whole.labels).tolist() == [9, 9, 9]
    for label in range(3):
        assert np.array_equal(
            some.pixels.take(some.images[some.labels == label]),
            whole.pixels.take(whole.images[whole.labels == label][:4]),
        )
    assert len(few.targets[0].data.train) == 27
    assert few.sources[0].trial.spec.key != all_.sources[0].trial.spec.key
