"""Parameter distance end to end: three states from wherever they are, measured, recorded,
regressed.
"""

from __future__ import annotations

import csv
import functools
import json
import math
import shutil

import numpy as np
import pytest
import torch
import undrawn
from conftest import draw_images
from matplotlib.axes import Axes
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
from tlx.metrics import parameter_distance
from tlx.metrics.parameter_distance import norms as parameter_distance_norms
from tlx.metrics.parameter_distance import rules as parameter_distance_rules
from tlx.models import backbones
from tlx.models.weights import reader as weights_reader
from tlx.result import DIVERGED, Result
from tlx.studies import pretraining_plan, runner
from tlx.studies.parameter_distance import closing as parameter_distance_closing
from tlx.studies.parameter_distance import plan as parameter_distance_plan
from tlx.studies.parameter_distance import regression as parameter_distance_regression
from tlx.studies.parameter_distance import report as parameter_distance_report
from tlx.studies.parameter_distance import spec as parameter_distance_spec
from tlx.studies.parameter_distance import trial as parameter_distance_trial
from tlx.studies.parameter_distance.domain_gap import Domain
from tlx.studies.parameter_distance.spec import (
    HEADS,
    NORMS,
    RULES,
    ParameterDistance,
    ParameterDistanceGrid,
    TargetTuning,
)
from tlx.studies.pretraining import publish as pretraining_publish
from tlx.studies.pretraining_spec import PreTraining

KERNELS = ("conv1.weight", "conv2.weight", "fc1.weight")


def states(step=0.3):
    """A random state, another, and a third near the second."""
    first, second = (
        backbones.load("mnist-cnn", weights=None, classes=10, seed=s).net.state_dict()
        for s in (0, 1)
    )
    generator = torch.Generator().manual_seed(2)
    return (
        first,
        second,
        {
            k: v + step * v.std() * torch.randn(v.shape, generator=generator)
            for k, v in second.items()
        },
    )


@pytest.fixture
def files(tmp_path):
    """The three states as weight files: "r", "a", "b"."""
    for name, state in zip("rab", states(), strict=True):
        weights_reader.write(tmp_path / f"{name}.safetensors", state)
    return {name: str(tmp_path / f"{name}.safetensors") for name in "rab"}


def naive_t(r, a, b):
    """Mean absolute differences of each kernel of the small CNN, and their quotients: layer → (D,
    D, D, T).
    """
    found = {}
    for name in KERNELS:
        x, y, z = (np.asarray(s[name], np.float64) for s in (r, a, b))
        d = [np.abs(p - q).sum() / p.size for p, q in ((x, y), (y, z), (x, z))]
        found[name.split(".")[0]] = (*d, d[2] / d[1])
    return found


def perform(
    settings,
    finetuned=(),
    tuning=None,
    asked=None,
    drawing=True,
    run_stage=undrawn.run_stage,
    **changes,
):
    """Every stage: the plan and the report of each; without drawing no table and figure of the
    study.
    """
    tuning = TargetTuning(
        **{
            "epochs": 1,
            "batch_size": 8,
            "val_per_class": 3,
            "learning_rate": 0.02,
            **(tuning or {}),
        }
    )
    plan = parameter_distance_plan.plan_parameter_distance(
        ParameterDistance(**changes),
        ParameterDistanceGrid(**(asked or {"seeds": 2})),
        tuning,
        finetuned,
        settings,
    )

    def summarise(store, key, form="png"):
        if drawing:
            parameter_distance_regression.regress(store, key)
            parameter_distance_report.write_summary(store, key, form)

    def run(asked):
        report = run_stage(asked, settings, lambda event: None, summarise)
        report.raise_if_failed(require_tracking=False)
        return report

    reports = {}
    if (first := plan.tunings()) is not None:
        reports["tunings"] = run(first)
    if (images := plan.domain()) is not None:
        reports["domain"] = run(images)
    last = plan.distances(Store(settings.store))
    if last is not None:
        reports["distances"] = run(last)
    return plan, reports


def folder_of(report):
    return report.folder / "studies" / report.key


def rows_of(report, name="parameter_distance.csv"):
    return list(csv.DictReader((folder_of(report) / name).read_text().splitlines()))


# ---------------------------------------------------------------- three files, as in the original


def test_three_files_are_measured_and_recorded(files, settings):
    _, reports = perform(
        settings, [files["b"]], random=files["r"], pretrained=files["a"], architecture="mnist-cnn"
    )
    assert set(reports) == {"distances"}
    (result,) = reports["distances"].results
    expected = naive_t(*states())
    rows = {row["layer"]: row for row in result.details["profile"]}
    for number, (layer, (before, after, whole, t)) in enumerate(expected.items(), 1):
        row = rows[layer]
        assert (
            row["random_pretrained"],
            row["pretrained_finetuned"],
            row["random_finetuned"],
            row["transferability"],
        ) == pytest.approx((before, after, whole, t), rel=1e-6)
        assert row["movement"] == pytest.approx(after / before, rel=1e-6)
        assert (row["block"], row["head"], row["norm"], row["tensors"]) == (
            number,
            False,
            "mean_abs",
            1,
        )
    assert rows["fc2"]["head"]
    mean = np.mean([t for *_, t in expected.values()])
    assert result.scores["overall_transferability"] == pytest.approx(mean, rel=1e-6)
    assert result.details["overall"] == result.scores["overall_transferability"]
    assert result.details["undefined"] == []
    assert set(result.made_from) == {"random", "pretrained", "finetuned"}
    journal = (
        (reports["distances"].folder / "trials" / result.key / "metrics.journal")
        .read_text()
        .splitlines()
    )
    steps = [json.loads(line.partition(" ")[2]) for line in journal if '"metrics"' in line]
    assert [row["step"] for row in steps] == [1, 2, 3, 4], "a step for each layer"
    assert steps[1]["values"] == {
        name: rows["conv2"][name] for name in parameter_distance_spec.LAYER
    }
    tidy = rows_of(reports["distances"])
    assert [row["level"] for row in tidy] == ["tensor"] * 4 + ["layer"] * 4 + ["overall"]
    assert float(tidy[-1]["transferability"]) == pytest.approx(mean, rel=1e-6)
    assert tidy[0]["shape"] == "32x1x3x3"
    assert {row["target"] for row in tidy} == {"b"}


@pytest.mark.slow
def test_the_original_flags_mean_a_resnet50(tmp_path, settings, files):
    """Three files without an architecture are the original's; a smaller network's files are
    told.
    """
    with pytest.raises((BadDataError, ErrorGroup), match="ResNet50"):
        perform(settings, [files["b"]], random=files["r"], pretrained=files["a"])
    plan = None
    torch.manual_seed(0)
    row = backbones.meta_model("resnet50")
    for name, value in (("r", 0.0), ("a", 1.0), ("b", 3.0)):
        torch.save(
            {
                k: torch.full((*v.shape[:1], *(1,) * (v.ndim - 1)), value).expand(v.shape).clone()
                for k, v in row.net.state_dict().items()
                if k.endswith("weight")
            },
            tmp_path / f"{name}.pth",
        )
    plan, reports = perform(
        settings,
        [str(tmp_path / "b.pth")],
        random=str(tmp_path / "r.pth"),
        pretrained=str(tmp_path / "a.pth"),
    )
    assert plan.spec.architecture == "resnet50"
    (result,) = reports["distances"].results
    assert result.details["rule"] == "original"
    assert len(result.details["profile"]) == 18
    assert len(result.details["distances"]) == 50
    assert result.scores["overall_transferability"] == pytest.approx(1.5)
    drawn, limits, plot, set_ylim = [], [], Axes.plot, Axes.set_ylim

    def noted(axes, *values, **look):
        drawn.append((look.get("label"), values))
        return plot(axes, *values, **look)

    def limited(axes, *ends, **more):
        limits.append(ends)
        return set_ylim(axes, *ends, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Axes, "plot", noted)
        patch.setattr(Axes, "set_ylim", limited)
        parameter_distance_report.trial_drawings(tmp_path, result)["parameter_distance"]("svg")
    (published,) = [a for label, a in drawn if label == "published, CIFAR-10: mean 7.79"]
    assert published[0] == list(range(1, 18))
    assert (published[1][0], published[1][-1]) == (3.44, 13.81)
    assert max(max(map(float, ends)) for ends in limits if len(ends) == 2) > 13.81, "none is cut"


def test_the_classes_of_a_head_are_checked_where_they_are_said(files, settings):
    words = {"random": files["r"], "pretrained": files["a"], "architecture": "mnist-cnn"}
    with pytest.raises(BadDataError, match="its head has 10 classes"):
        perform(settings, [files["b"]], asked={"num_classes": 5}, **words)
    with pytest.raises(BadDataError, match="its head has 10 classes"):
        perform(
            settings, [files["b"]], asked={"num_classes": 5}, **words | {"architecture": "none"}
        )
    assert not list((settings.store_folder(None) / "trials").glob("*"))
    perform(settings, [files["b"]], asked={"num_classes": 10}, **words)


def test_nothing_moved_and_little_moved_are_marked(files, settings, tmp_path):
    _, a, _ = states()
    near = {k: v + (0 if k == "conv1.weight" else 1e-4) for k, v in a.items()}
    weights_reader.write(tmp_path / "near.safetensors", near)
    _, reports = perform(
        settings,
        [str(tmp_path / "near.safetensors")],
        random=files["r"],
        pretrained=files["a"],
        architecture="mnist-cnn",
        run_stage=runner.run_stage,
    )
    (result,) = reports["distances"].results
    assert result.details["undefined"] == ["conv1"]
    assert set(result.details["confounded"]) >= {"conv2", "fc1"}
    marks = {
        row["layer"]: row["mark"]
        for row in rows_of(reports["distances"])
        if row["level"] == "layer"
    }
    assert (marks["conv1"], marks["conv2"]) == ("undefined", "confounded")
    said = parameter_distance_closing.format_summary(reports["distances"])
    assert "nothing moved in fine-tuning, so that there is no T, in 1 of 4 layers: conv1" in said
    assert " !" in next(line for line in said.splitlines() if line.startswith("conv2"))


@pytest.mark.slow
def test_several_targets_norms_and_repeats(files, settings, tmp_path):
    r, a, b = states()
    weights_reader.write(tmp_path / "far.safetensors", states(0.5)[2])
    weights_reader.write(tmp_path / "b2.safetensors", {k: v * 1.01 for k, v in b.items()})
    words = [
        f"near={files['b']},near={tmp_path / 'b2.safetensors'}",
        str(tmp_path / "far.safetensors"),
    ]
    _, reports = perform(
        settings,
        words,
        random=files["r"],
        pretrained=files["a"],
        architecture="mnist-cnn",
        asked={"norms": "mean_abs,l2"},
        run_stage=runner.run_stage,
    )
    found = {
        (r.spec["target"], r.spec["norm"], r.spec["repeat"]) for r in reports["distances"].results
    }
    assert found == {(*t, n) for t in (("near", "mean_abs"), ("near", "l2")) for n in (0, 1)} | {
        ("far", "mean_abs", 0),
        ("far", "l2", 0),
    }
    means = {
        (row["target"], row["norm"], row["layer"]): row
        for row in rows_of(reports["distances"], "parameter_distance_means.csv")
    }
    ts = [naive_t(r, a, s)["conv2"][3] for s in (b, {k: v * 1.01 for k, v in b.items()})]
    assert float(means["near", "mean_abs", "conv2"]["transferability"]) == pytest.approx(
        np.mean(ts), rel=1e-6
    )
    width = 12.706204736 * np.std(ts, ddof=1) / math.sqrt(2)
    assert float(means["near", "mean_abs", "conv2"]["transferability_high"]) == pytest.approx(
        np.mean(ts) + width
    )
    assert means["far", "mean_abs", "conv2"]["transferability_high"] == ""
    pictures = {path.stem for path in folder_of(reports["distances"]).glob("*.png")}
    assert pictures == {
        f"parameter_distance_{n}_{t}"
        for n in ("mean_abs", "l2")
        for t in ("near", "far", "targets")
    }
    _, again = perform(
        settings,
        words[1:],
        random=files["r"],
        pretrained=files["a"],
        architecture="mnist-cnn",
        asked={"norms": "mean_abs,l2,cosine"},
    )
    assert again["distances"].key == reports["distances"].key, "the study has grown"
    assert again["distances"].reused == 2
    assert {row["norm"] for row in rows_of(again["distances"])} == {"mean_abs", "l2", "cosine"}


@pytest.mark.slow
def test_every_norm_of_the_table(files, settings):
    r, a, b = states()
    _, reports = perform(
        settings,
        [files["b"]],
        random=files["r"],
        pretrained=files["a"],
        architecture="mnist-cnn",
        asked={"norms": "all"},
        drawing=False,
    )
    for result in reports["distances"].results:
        expected = parameter_distance(r, a, b, architecture="mnist-cnn", norm=result.spec["norm"])
        assert result.details["overall"] == expected.overall
    assert len(reports["distances"].results) == len(NORMS)


def test_the_choices_are_those_of_the_metric():
    assert tuple(parameter_distance_norms.NORMS) == NORMS
    assert tuple(parameter_distance_rules.RULES) == RULES
    assert parameter_distance_rules.HEADS == HEADS


def test_an_unknown_network(files, settings):
    _, reports = perform(
        settings,
        [files["b"]],
        random=files["r"],
        pretrained=files["a"],
        architecture="none",
        run_stage=runner.run_stage,
    )
    (result,) = reports["distances"].results
    rows = {row["layer"]: row for row in result.details["profile"]}
    assert rows["conv2"]["block"] is None
    assert rows["conv2"]["transferability"] == pytest.approx(
        naive_t(*states())["conv2"][3], rel=1e-6
    )


# ---------------------------------------------------------------- what is random


@pytest.mark.slow
def test_drawn_states_are_other_states_of_one_seed(files, settings):
    _, reports = perform(
        settings, [files["b"]], pretrained=files["a"], architecture="mnist-cnn", asked={"seeds": 3}
    )
    results = reports["distances"].results
    assert [r.spec["draw"] for r in results] == [0, 1, 2]
    assert len({r.details["overall"] for r in results}) == 3
    assert any("drawn here" in note for note in results[0].details["notes"])
    key = results[1].key
    _, more = perform(
        settings, [files["b"]], pretrained=files["a"], architecture="mnist-cnn", asked={"seeds": 4}
    )
    assert (more["distances"].reused, more["distances"].results[1].key) == (3, key)
    _, other = perform(
        settings,
        [files["b"]],
        pretrained=files["a"],
        architecture="mnist-cnn",
        seed=1,
        asked={"seeds": 1},
    )
    assert other["distances"].results[0].details["overall"] not in {
        r.details["overall"] for r in results
    }
    assert "over random states;" in parameter_distance_closing.format_summary(reports["distances"])


@pytest.mark.slow
def test_the_start_of_a_pretraining_is_made_again_to_the_bit(bars, settings, tmp_path):
    spec = PreTraining(
        dataset=str(bars),
        epochs=2,
        val_per_class=3,
        batch_size=8,
        checkpoints=("0",),
        seed=5,
        learning_rate=0.01,
    )
    asked = pretraining_plan.pretraining_study(spec, settings)
    done = undrawn.run_stage(asked, settings)
    key = done.results[0].key
    published = pretraining_publish.publish(
        done.results[0], asked, Store(done.folder), tmp_path / "mine"
    )
    begun = load_file(tmp_path / "mine-checkpoints" / "0.safetensors")
    triple = ParameterDistance(architecture="mnist-cnn", start=5)
    made = parameter_distance_trial.drawn(triple, str(published))
    assert all(torch.equal(made[name], value) for name, value in begun.items())
    quick = functools.partial(perform, settings, drawing=False)
    _, by_file = quick(pretrained=str(published), tuning={"dataset": str(bars)})
    _, by_key = quick(pretrained=key[:10], tuning={"dataset": str(bars)}, random="start")
    _, by_folder = quick(
        pretrained=str(done.folder / "trials" / key), tuning={"dataset": str(bars)}
    )
    assert (
        len(
            {
                tuple(r.key for r in reports["distances"].results)
                for reports in (by_file, by_key, by_folder)
            }
        )
        == 1
    )
    _, explicit = quick(
        pretrained=str(published),
        tuning={"dataset": str(bars)},
        random=str(tmp_path / "mine-checkpoints" / "0.safetensors"),
    )
    assert [r.details["profile"] for r in explicit["distances"].results] == [
        r.details["profile"] for r in by_file["distances"].results
    ]
    _, drawn = quick(pretrained=str(published), tuning={"dataset": str(bars)}, random="random")
    nearer, stranger = (r["distances"].results[0].details["overall"] for r in (by_file, drawn))
    assert nearer < stranger, "the weights are nearer to where they began than to any other draw"
    published.write_bytes((tmp_path / "mine-checkpoints" / "0.safetensors").read_bytes())
    with pytest.raises(UsageError, match="not on record"):
        quick(pretrained=str(published), tuning={"dataset": str(bars)}, random="start")


# ---------------------------------------------------------------- fine-tuned here


@pytest.mark.slow
def test_without_b_the_network_is_fine_tuned_first(bars, settings):
    plan, reports = perform(settings, tuning={"dataset": str(bars)})
    assert plan.spec.architecture == "mnist-cnn"
    assert plan.spec.start == 0, "the start of the weights that come with tlx is known"
    tuned, distances = reports["tunings"].results, reports["distances"].results
    assert [r.spec["split"] for r in tuned] == [0, 1]
    store = Store(reports["distances"].folder)
    own = backbones.load(
        "mnist-cnn", weights="default", classes=10, head="keep", seed=0
    ).net.state_dict()
    begun = parameter_distance_trial.drawn(plan.spec, "default")
    for a, b in zip(tuned, distances, strict=True):
        last = load_file(store.file(a.key, "weights.safetensors"))
        assert last["fc2.weight"].shape[0] == 3
        t = {row["layer"]: row["transferability"] for row in b.details["profile"]}
        assert t == pytest.approx(
            {name: row[3] for name, row in naive_t(begun, own, last).items()}, rel=1e-6
        )
        assert "fc2" not in t, "a head of three classes is not that of ten"
        assert b.details["training"] | {"key": ""} == {
            "optimizer": "sgd",
            "learning_rate": 0.02,
            "weight_decay": 0.0,
            "batch_size": 8,
            "freeze": 0,
            "epochs": 1,
            "best_epoch": 0,
            "train_images": 27,
            "steps": 4,
            "test_accuracy": a.scores["test_accuracy"],
            "key": "",
            "head": "new",
            "repeat": b.spec["repeat"],
        }
    said = parameter_distance_closing.format_summary(reports["distances"])
    assert (
        "bars was fine-tuned: 4 steps, learning rate 0.02, 27 training images, test accuracy"
        in said
    )
    assert "over fine-tunings;" in said
    keys = {row["key"] for row in store.read_study(reports["distances"].key)["trials"]}
    assert keys == {r.key for report in reports.values() for r in report.results}, (
        "one study for all stages"
    )
    summary = json.loads((folder_of(reports["distances"]) / "summary.json").read_text())
    assert (summary["status"], summary["trials"]) == ("finished", 5)
    points = {(row["name"], row["step"]): row["value"] for row in summary["metrics"]}
    mean = np.mean([r.details["overall"] for r in distances])
    assert points["bars/mean_abs/overall_transferability", 0] == pytest.approx(mean)
    assert ("bars/mean_abs/transferability", 3) in points
    _, again = perform(settings, tuning={"dataset": str(bars)})
    assert [r.reused for r in again.values()] == [2, 1, 2]
    _, other = perform(settings, tuning={"dataset": str(bars), "learning_rate": 0.01})
    assert other["distances"].key != reports["distances"].key


def test_frozen_blocks_have_no_t(bars, settings):
    _, reports = perform(
        settings,
        tuning={"dataset": str(bars), "freeze": 2},
        asked={"seeds": 1},
        run_stage=runner.run_stage,
    )
    (result,) = reports["distances"].results
    assert result.details["undefined"] == ["conv1", "conv2"]
    t = {row["layer"]: row["transferability"] for row in result.details["profile"]}
    assert t["conv1"] is None
    assert result.details["overall"] == t["fc1"]
    assert (
        folder_of(reports["distances"])
        .joinpath("parameter_distance_mean_abs_bars.png")
        .stat()
        .st_size
        > 10_000
    )


@pytest.mark.slow
def test_a_repeat_that_diverged_is_left_out_and_said(bars, settings, monkeypatch):
    real = parameter_distance_trial.tune

    def some(spec, inputs, context):
        result = real(spec, inputs, context)
        return result if spec.split else Result.of(spec, status=DIVERGED, details=result.details)

    monkeypatch.setattr(parameter_distance_trial, "tune", some)
    plan, reports = perform(settings, tuning={"dataset": str(bars)}, run_stage=runner.run_stage)
    assert plan.notes[-1] == "repeat 0 diverged in fine-tuning: left out"
    assert [r.spec["repeat"] for r in reports["distances"].results] == [1]
    summary = json.loads((folder_of(reports["distances"]) / "summary.json").read_text())
    assert (summary["status"], summary["missing"]) == ("failed", 1)


def test_weights_that_changed_since_the_plan(files, settings, tmp_path):
    plan = parameter_distance_plan.plan_parameter_distance(
        ParameterDistance(random=files["r"], pretrained=files["a"], architecture="mnist-cnn"),
        ParameterDistanceGrid(),
        TargetTuning(),
        [files["b"]],
        settings,
    )
    last = plan.distances(None)
    weights_reader.write(files["b"], states(0.4)[2])
    report = runner.run_stage(
        last, settings, lambda event: None, parameter_distance_report.write_summary
    )
    assert isinstance(report.outcomes[0], IntegrityError)
    assert "have changed since" in str(report.outcomes[0])


@pytest.mark.crash
def test_killed_between_the_stages_it_goes_on(bars, settings):
    """Nothing of a plan that was left after its first stage is done twice."""
    tuning = TargetTuning(
        dataset=str(bars), epochs=1, batch_size=8, val_per_class=3, learning_rate=0.02
    )
    plan = parameter_distance_plan.plan_parameter_distance(
        ParameterDistance(), ParameterDistanceGrid(seeds=2), tuning, (), settings
    )
    undrawn.run_stage(
        plan.tunings(), settings, lambda event: None, parameter_distance_report.write_summary
    )
    _, reports = perform(settings, tuning={"dataset": str(bars)})
    assert [(name, r.reused) for name, r in reports.items()] == [
        ("tunings", 2),
        ("domain", 0),
        ("distances", 0),
    ]


# ---------------------------------------------------------------- the target's images, and the
# regression


def features(images, cache, shared=None):
    """What the network's last block gives for the training images of the plan, by torch alone."""
    network = backbones.load("mnist-cnn", weights="default", classes=10, head="keep", seed=0)
    kept = {}
    hook = network.net.get_submodule("relu3").register_forward_hook(
        lambda m, i, o: kept.update(z=o.clone())
    )
    pixels = images.pixels.take(images.images)
    x = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.1307) / 0.3081
    with torch.no_grad():
        network.net(x)
    hook.remove()
    return kept["z"].double().numpy()


@pytest.mark.slow
def test_gap_variance_and_number_of_the_images(bars, settings, cache, tmp_path):
    source = draw_images(
        tmp_path / "source", classes=2, per_class=40, size=20, splits=("train",), seed=9
    )
    plan, reports = perform(
        settings, tuning={"dataset": str(bars)}, asked={"seeds": 1, "source_images": str(source)}
    )
    details = reports["domain"].results[0].details
    inputs, _ = plan.pools.task(plan.pools.folder.classes)
    x = features(inputs.train, cache)
    labels = inputs.train.labels
    variance = np.mean([np.var(x[labels == c], axis=0, ddof=1).mean() for c in range(3)])
    assert details["D"] == pytest.approx(variance, rel=1e-4)
    assert (details["N"], details["width"], details["layer"]) == (27, 128, "relu3")
    assert details["G"] > 0
    assert (details["gap"], details["source"], details["source_rows"]) == ("frechet", "source", 27)
    (row,) = rows_of(reports["distances"], "targets.csv")
    assert float(row["T"]) == reports["distances"].results[0].details["overall"]
    assert float(row["G"]) == details["G"]
    _, other = perform(
        settings,
        tuning={"dataset": str(bars)},
        asked={"seeds": 1, "source_images": str(source), "gap": "emd"},
    )
    assert {row["gap"] for row in rows_of(other["distances"], "targets.csv")} == {"frechet", "emd"}
    said = parameter_distance_closing.format_summary(other["distances"])
    assert (
        "no regression (emd to source, mean_abs): 1 target measured so, at least 6 are needed"
        in said
    )


def test_from_six_targets_the_study_ends_with_its_regression(tmp_path):
    """Targets with two repeats each, put into a store by hand: means of T, by images and way of
    measuring.
    """
    store, rng, trials, expected = Store(tmp_path), np.random.default_rng(0), [], []

    def put(spec, details):
        result = store.get_or_compute(spec.key, lambda draft: Result.of(spec, details=details))
        trials.append(
            {
                "key": result.key,
                "title": "",
                "shots": 0,
                "split": 0,
                "params": {},
                "spec": spec.to_json(),
            }
        )

    for number in range(6):
        g, d, n, *ts = *rng.uniform(1, 3, 2), int(rng.integers(50, 500)), *rng.uniform(2, 9, 2)
        about = {"target": f"set {number}", "images": str(number)}
        put(
            Domain(features=str(number), source_features="s", source="photos", **about),
            {
                "G": g,
                "D": d,
                "N": n,
                "gap": "frechet",
                "source": "photos",
                "source_rows": n,
                "layer": "x",
                "width": 3,
            },
        )
        for repeat, t in enumerate(ts):
            put(
                ParameterDistance(states=("r", "a", f"{number}{repeat}"), repeat=repeat, **about),
                {"overall": t},
            )
        expected.append({"G": g, "D": d, "N": n, "T": np.mean(ts)})
    put(
        ParameterDistance(states=("r", "a", "other"), target="set 0", images="others"),
        {"overall": 1e6},
    )
    put(
        ParameterDistance(states=("r", "a", "still"), target="set 1", images="1"), {"overall": None}
    )
    folder = tmp_path / "studies" / ("0" * 64)

    def regressed(rows):
        store.write_study("0" * 64, {"key": "0" * 64, "title": "a study", "trials": rows})
        parameter_distance_regression.regress(store, "0" * 64)
        (way,) = json.loads((folder / "regression.json").read_text())["ways"]
        return way

    way = regressed(trials[::-1])
    assert [row["target"] for row in way["table"]] == [f"set {n}" for n in range(6)]
    assert [row["T"] for row in way["table"]] == pytest.approx([row["T"] for row in expected])
    x = np.array([[row["G"], row["D"], math.log(row["N"])] for row in expected])
    design = np.column_stack([np.ones(6), (x - x.mean(axis=0)) / x.std(axis=0)])
    beta = np.linalg.lstsq(design, np.log([row["T"] for row in expected]), rcond=None)[0]
    assert [row["coefficients"] for row in way["fit"]["forms"]["z-scored"]] == pytest.approx(beta)
    fewer = regressed([row for row in trials if row["spec"]["target"] != "set 5"])
    assert (fewer["fit"], fewer["why"]) == (None, "5 targets measured so, at least 6 are needed")


def test_the_published_table():
    found = parameter_distance_regression.published()
    assert found["n"] == 12
    assert found["corrected"] == ["DomainNet-r", "DomainNet-p", "DomainNet-c"]
    assert [row["coefficients"] for row in found["forms"]["z-scored"]] == pytest.approx(
        [2.838, -0.049, 0.189, -0.773], abs=6e-4
    )
    assert found["r2"] == pytest.approx(0.893, abs=5e-4)
    assert found["observed"][0] == pytest.approx(math.log(7.79))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("G,D,N\n1,2,3\n", "no T"),
        ("", "0 rows"),
        ("G,D,N,T\n" + "1,2,3,4\n" * 6, "the same in every row"),
        ("G,D,N,T\n1,2,3,4\n", "at least 5"),
        ("G,D,N,T\n1,2,-3,4\n" * 6, "positive"),
        ("\xff", "T"),
    ],
)
def test_a_table_that_cannot_be_regressed(tmp_path, text, words):
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode("latin1"))
    with pytest.raises(TlxError) as refused:
        parameter_distance_regression.of_file(path)
    assert refused.value.exit_code == 3
    assert words in str(refused.value) or "UTF-8" in str(refused.value)
    assert "table.csv" in str(refused.value)


# ---------------------------------------------------------------- what is refused before anything
# is done


@pytest.mark.parametrize(
    ("changes", "finetuned", "kind", "words"),
    [
        ({"pretrained": "nowhere.pth"}, (), MissingError, "-a nowhere.pth"),
        ({"random": "nowhere.pth"}, (), MissingError, "-r nowhere.pth"),
        ({}, ["nowhere.pth"], MissingError, "-b nowhere.pth"),
        ({"pretrained": "0123456789abcdef"}, (), MissingError, "trial '0123456789abcdef'"),
        ({"architecture": "resnet20-cifar"}, (), UsageError, "comes without weights"),
        ({"architecture": "none"}, (), UsageError, "-r, -a and -b as files"),
        ({"architecture": "resnet51"}, (), UnknownNameError, "resnet50"),
        ({"rule": "original", "architecture": "mnist-cnn"}, (), UsageError, "densenet121"),
        (
            {"random": "A", "pretrained": "A", "architecture": "mnist-cnn"},
            ["x=B", "x=B"],
            UsageError,
            "same weights twice",
        ),
        (
            {"random": "start", "pretrained": "A", "architecture": "mnist-cnn"},
            ["B"],
            UsageError,
            "not on record",
        ),
    ],
)
def test_what_is_wrong_is_said_first(changes, finetuned, kind, words, files, settings):
    def real(text):
        return text.replace("A", files["a"]).replace("B", files["b"])

    with pytest.raises(kind, match=words):
        perform(
            settings,
            [real(word) for word in finetuned],
            **{k: real(v) if v in "AB" else v for k, v in changes.items()},
        )
    assert not list((settings.store_folder(None) / "trials").glob("*"))


@pytest.mark.parametrize(
    ("asked", "kind", "words"),
    [
        ({"norms": "l3"}, UnknownNameError, "mean_abs"),
        ({"gap": "frechett"}, UnknownNameError, "nearest: frechet"),
        ({"gap": "emd:p=3"}, TlxError, "p"),
    ],
)
def test_unknown_ways_to_measure(asked, kind, words, settings):
    with pytest.raises(kind, match=words):
        perform(settings, asked=asked)


def test_several_problems_are_told_together(settings):
    with pytest.raises(ErrorGroup) as refused:
        perform(settings, ["no.pth"], pretrained="neither.pth", asked={"norms": "l3"})
    assert len(refused.value.problems) == 3


@pytest.mark.slow
def test_one_data_set_is_of_one_target(files, settings, bars):
    with pytest.raises(UsageError, match="one -b"):
        perform(
            settings,
            [f"x={files['b']}", files["a"]],
            pretrained=files["a"],
            random=files["r"],
            architecture="mnist-cnn",
            tuning={"dataset": str(bars)},
        )
    _, reports = perform(
        settings,
        [files["b"]],
        pretrained=files["a"],
        random=files["r"],
        architecture="mnist-cnn",
        tuning={"dataset": str(bars)},
    )
    assert set(reports) == {"domain", "distances"}
    assert rows_of(reports["distances"], "targets.csv")[0]["target"] == "b"


@pytest.mark.crash
def test_trials_of_other_studies_are_states(bars, settings, tmp_path):
    """A fine-tuning that this study made, by its key; a trial without weights is told."""
    _, reports = perform(settings, tuning={"dataset": str(bars)}, asked={"seeds": 1})
    tuned, distance = reports["tunings"].results[0].key, reports["distances"].results[0].key
    plan, again = perform(settings, [tuned])
    assert list(plan.targets) == ["bars"]
    assert plan.spec.architecture == "mnist-cnn"
    assert (
        again["distances"].results[0].details["profile"]
        == reports["distances"].results[0].details["profile"]
    )
    assert again["distances"].results[0].details["training"]["learning_rate"] == 0.02
    with pytest.raises(BadDataError, match="keeps no weights"):
        perform(settings, [distance])
    shutil.rmtree(tmp_path / "runs" / "trials" / tuned)
    with pytest.raises(MissingError, match="trial"):
        perform(settings, [tuned])
