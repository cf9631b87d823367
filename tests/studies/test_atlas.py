"""An atlas end to end: every measure by numpy alone, studies told apart by content, resumed, found
again.
"""

from __future__ import annotations

import csv
import functools
import json
import math
import shutil

import naive
import numpy as np
import pytest
import undrawn
from conftest import draw_images

from tlx.errors import BadDataError, MissingError, Stopped, UnknownNameError, UsageError
from tlx.lab.store import Store
from tlx.metrics.coordinates import coordinates
from tlx.models import backbones
from tlx.models.weights import reader as weights_reader
from tlx.studies import runner
from tlx.studies.atlas import lookup as atlas_lookup
from tlx.studies.atlas import measures as atlas_measures
from tlx.studies.atlas import plan as atlas_plan
from tlx.studies.atlas import report as atlas_report
from tlx.studies.atlas.spec import Atlas, AtlasGrid, BlockMeasures
from tlx.studies.layer_transfer import plan as layer_transfer_plan
from tlx.studies.layer_transfer import report as layer_transfer_report
from tlx.studies.layer_transfer.spec import LayerTransfer, LayerTransferGrid
from tlx.studies.parameter_distance import plan as parameter_distance_plan
from tlx.studies.parameter_distance import report as parameter_distance_report
from tlx.studies.parameter_distance.spec import (
    ParameterDistance,
    ParameterDistanceGrid,
    TargetTuning,
)
from tlx.studies.quanta import plan as quanta_plan
from tlx.studies.quanta import report as quanta_report
from tlx.studies.quanta.spec import Quanta, QuantaGrid

FEW = BlockMeasures(resamplings=4, folds=24, k=3)  # 24 rows: each is told by all others
QUICK = {"epochs": 1, "batch_size": 8, "val_per_class": 3}


def quiet(event):
    pass


def perform(dataset, settings, measures=FEW, parts=None, run_stage=undrawn.run_stage, **changes):
    parts = parts or AtlasGrid()
    looked = atlas_plan.plan_atlas(
        Atlas(**{"dataset": str(dataset), "samples": 24, **changes}), parts, settings
    )
    store = Store(settings.store_folder(None))
    looked.search(store, parts)
    made = atlas_plan.atlas_study(looked, measures, store, settings)
    about = atlas_plan.about(looked, parts, settings) | {"against": made.trials[-1].spec.against}
    panels = tuple(atlas_report.PANELS)
    write = functools.partial(atlas_report.write_summary, about=about, panels=panels)
    report = run_stage(made, settings, quiet, write)
    report.raise_if_failed(require_tracking=False)
    return looked, made, report, about


def run_quanta(dataset, settings, sweep=None, **changes):
    spec = Quanta(**{"dataset": str(dataset), **QUICK, "val_per_class": 2, **changes})
    asked = quanta_plan.plan_quanta(
        spec, sweep or QuantaGrid(repeats=1, positions=("0", "2")), settings
    )
    report = undrawn.run_stage(
        asked.study(asked.source), settings, quiet, quanta_report.write_summary
    )
    report.raise_if_failed(require_tracking=False)
    return report.key


def run_transfer(dataset, settings, **changes):
    spec = LayerTransfer(**{"dataset": str(dataset), "source": "default", **QUICK, **changes})
    plan = layer_transfer_plan.plan_layer_transfer(
        spec, LayerTransferGrid(treatments=("baseB", "AnB"), depths=(2,), repeats=2), settings
    )
    report = undrawn.run_stage(plan.first(), settings, quiet, layer_transfer_report.write_summary)
    report = undrawn.run_stage(
        plan.rest(Store(report.folder)), settings, quiet, layer_transfer_report.write_summary
    )
    report.raise_if_failed(require_tracking=False)
    return report


def run_distance(dataset, settings, **changes):
    spec = ParameterDistance(architecture="mnist-cnn", **changes)
    plan = parameter_distance_plan.plan_parameter_distance(
        spec,
        ParameterDistanceGrid(seeds=2),
        TargetTuning(dataset=str(dataset), **QUICK),
        (),
        settings,
    )
    report = undrawn.run_stage(
        plan.tunings(), settings, quiet, parameter_distance_report.write_summary
    )
    report = undrawn.run_stage(
        plan.distances(Store(report.folder)),
        settings,
        quiet,
        parameter_distance_report.write_summary,
    )
    report.raise_if_failed(require_tracking=False)
    return report


def rows_in(report):
    text = (report.folder / "studies" / report.key / "atlas.csv").read_text()
    return list(csv.DictReader(text.splitlines()))


# ---------------------------------------------------------------- measures


def test_a_damaged_layer_is_made_anew_before_it_is_measured(bars, settings, tmp_path):
    settings = settings.replace(cache=str(tmp_path / "own"))
    looked = atlas_plan.plan_atlas(Atlas(dataset=str(bars), samples=24), AtlasGrid(), settings)
    made = [atlas_plan.atlas_study(looked, FEW, Store(settings.store_folder(None)), settings)]
    dump = made[0].trials[0].inputs.dump
    path = sorted(dump.folder.glob("*.npy"))[-1]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"x")
    before = len(looked.notes)
    made.append(atlas_plan.atlas_study(looked, FEW, Store(settings.store_folder(None)), settings))
    (note,) = looked.notes[before:]
    assert str(path) in note
    assert path.read_bytes() == whole
    assert made[0].trials[0].spec.key == made[1].trials[0].spec.key


def test_every_block_by_numpy_alone(bars, settings):
    looked, made, report, _ = perform(bars, settings)
    dump, labels = made.trials[0].inputs.dump, np.array(made.trials[0].inputs.labels)
    assert looked.blocks == ("conv1", "conv2", "fc1")
    rows = report.results[0].details["rows"]
    assert [row["block"] for row in rows] == [1, 2, 3]
    hot = (labels[:, None] == np.unique(labels)).astype(float)
    for row in rows:
        x = dump.array(row["layer"]).reshape(24, -1).astype(np.float64)
        within, total = naive.squares(x, labels)
        same, other = naive.contrast(naive.rdm_correlation(x), labels)
        told = [
            naive.neighbours_vote(np.delete(x, i, 0), np.delete(labels, i), x[i], 3)
            for i in range(24)
        ]
        right = np.mean(
            [
                np.mean([told[i] == label for i in range(24) if labels[i] == label])
                for label in np.unique(labels)
            ]
        )
        mean = {name: value["mean"] for name, value in row["values"].items()}
        assert mean["ss_ratio"] == pytest.approx(within / total, rel=1e-9)
        assert mean["id"] == pytest.approx(naive.two_nn(x), rel=1e-9)
        assert mean["rsa_contrast"] == pytest.approx(abs(same - other), rel=1e-4)
        assert mean["cka_label"] == pytest.approx(naive.unbiased_cka(x, hot), abs=1e-5)
        assert mean["knn"] == pytest.approx(right)
        assert (row["rows"], row["width"]) == x.shape
        for value in row["values"].values():
            assert value["low"] <= value["mean"] <= value["high"]
            assert value["n"] == 24


def test_an_interval_of_parts_is_that_of_the_rows():
    """Of a mean the standard error is s/√n: the jackknife's on 90 % of the rows must be the same,
    not a third of it.
    """
    rng = np.random.default_rng(1)
    x, spec = rng.normal(size=200), BlockMeasures(resamplings=3000, seed=5)
    parts = atlas_measures._parts(200, spec)
    assert {len(part) for part in parts} == {180}
    assert all(len(set(part)) == 180 for part in parts[:5])
    mean, low, high = atlas_measures._spread(x.mean(), parts, 200, lambda p: x[p].mean())
    assert (high - low) / 2 == pytest.approx(1.96 * x.std(ddof=1) / math.sqrt(200), rel=0.05)
    assert mean == pytest.approx((low + high) / 2)
    assert atlas_measures._spread(0.5, [np.arange(200)], 200, lambda p: 0.5) == (0.5, None, None)


@pytest.mark.parametrize("shape", [(30, 5), (30, 200)])
def test_coordinates_keep_inner_products_and_so_all_measures_of_parts(shape):
    x = np.random.default_rng(2).normal(size=shape) + 3
    z = coordinates(x)
    assert z.shape == (30, min(shape))
    centred = x - x.mean(axis=0)
    np.testing.assert_allclose(z @ z.T, centred @ centred.T, atol=1e-9)
    part = [1, 4, 5, 9, 20]
    np.testing.assert_allclose(
        np.linalg.norm(z[part][:, None] - z[part][None], axis=2),
        np.linalg.norm(x[part][:, None] - x[part][None], axis=2),
        atol=1e-6,
    )


def test_what_cannot_be_measured_is_left_out_with_a_note():
    x = np.ones((12, 4), np.float32)
    found = atlas_measures.alone(
        BlockMeasures(resamplings=2, folds=3, k=1), x, ["a"] * 6 + ["b"] * 6
    )
    assert set(found["values"]) == {"knn"}
    assert found["values"]["knn"]["mean"] <= 0.5, "all rows alike: no neighbour knows"
    assert len(found["notes"]) == 4
    assert "ss_ratio: all rows are alike" in found["notes"]
    x[3, 2] = np.nan
    with pytest.raises(BadDataError) as refused:
        atlas_measures.alone(BlockMeasures(resamplings=2), x, ["a"] * 6 + ["b"] * 6)
    assert refused.value.code == "not-finite"


@pytest.mark.slow
def test_the_fine_tuned_beside_its_source(bars, settings, tmp_path):
    """The same weights: 1 everywhere. Others: as numpy says, on the same images."""
    network = backbones.load("mnist-cnn", weights="default", classes=10, head="keep", seed=0)
    same, other = tmp_path / "same.safetensors", tmp_path / "other.safetensors"
    weights_reader.write(same, network.net.state_dict(), {"format": "pt"})
    fresh = backbones.load("mnist-cnn", weights=None, classes=10, seed=3)
    weights_reader.write(other, fresh.net.state_dict(), {"format": "pt"})
    _, _, report, _ = perform(bars, settings, parts=AtlasGrid(finetuned=str(same)))
    means = [row["values"]["cka_source"]["mean"] for row in report.results[1].details["rows"]]
    np.testing.assert_allclose(means, 1, atol=1e-5)
    _, made, report, _ = perform(bars, settings, parts=AtlasGrid(finetuned=str(other)))
    seen = made.trials[1].inputs
    for row in report.results[1].details["rows"]:
        x, y = (
            d.array(row["layer"]).reshape(24, -1).astype(float) for d in (seen.dump, seen.against)
        )
        assert row["values"]["cka_source"]["mean"] == pytest.approx(
            naive.unbiased_cka(x, y), abs=1e-5
        )
    cells = [row for row in rows_in(report) if row["panel"] == "cka_source"]
    assert len(cells) == 3, "the other file's are no longer shown"
    assert {row["sources"] for row in cells} == {report.results[1].key}


# ---------------------------------------------------------------- what has been run, by content


@pytest.mark.slow
def test_all_panels_from_what_has_been_run(bars, settings):
    key = run_quanta(bars, settings, QuantaGrid(repeats=2))
    transfer, distance = run_transfer(bars, settings), run_distance(bars, settings)
    looked, _, report, about = perform(bars, settings, run_stage=runner.run_stage)
    assert looked.lacking(AtlasGrid(), settings) == {}
    assert looked.taken["quanta"].study == key
    rows = rows_in(report)
    assert {row["panel"] for row in rows} == set(atlas_report.PANELS)
    known = set(Store(report.folder).keys())
    for row in rows:
        assert set(row["sources"].split()) <= known
        assert row["block_name"] == (
            ["conv1", "conv2", "fc1"][int(row["block"]) - 1] if row["block"] else ""
        )
    at = {(row["panel"], row["line"], row["block"]): row for row in rows}
    ts = list(distance.results)
    for block in (1, 2, 3):
        want = [
            p["transferability"] for r in ts for p in r.details["profile"] if p["block"] == block
        ]
        assert float(at["distance", "T, mean abs", str(block)]["mean"]) == pytest.approx(
            np.mean(want)
        )
    accuracies = [r.scores["test_accuracy"] for r in transfer.results if r.spec["copied"] == 2]
    assert float(at["transfer", "AnB", "2"]["mean"]) == pytest.approx(np.mean(accuracies))
    assert at["transfer", "AnB", "2"]["n"] == "2"
    store = Store(report.folder)
    alone = [store.find(k) for k in at["quanta", "gated alone", "3"]["sources"].split()]
    assert {r.spec["position"] for r in alone} == {"2"}, "position p is block p + 1"
    assert float(at["quanta", "gated alone", "3"]["mean"]) == pytest.approx(
        np.mean([r.details["gates"][-1]["lambda"][0][0] for r in alone])
    )
    assert ("quanta_accuracy", "witness", "") in at
    assert float(at["knn", "chance", ""]["mean"]) == pytest.approx(1 / 3)
    folder = report.folder / "studies" / report.key
    record = json.loads((folder / "atlas.json").read_text())
    assert len(record["rows"]) == len(rows)
    assert record["missing"] == []
    summary = json.loads((folder / "summary.json").read_text())
    steps = {row["step"] for row in summary["metrics"] if row["name"].startswith("id/")}
    assert steps == {1, 2, 3}
    assert (folder / "atlas.png").stat().st_size > 20_000
    assert (folder / "atlas.png").is_file()
    said = atlas_report.format_summary(about, tuple(atlas_report.PANELS))(report)
    assert "quanta, quanta_accuracy from: mnist to bars" in said
    assert "missing: " not in said
    still = sorted({layer for r in distance.results for layer in r.details["confounded"]})
    assert ("hardly moved" in said) == bool(still)
    assert all(layer in said.partition("hardly moved")[2] for layer in still)


def test_a_store_that_holds_a_search_stops_no_atlas(bars, settings):
    """Rows of a search carry no spec; and a record may be damaged."""
    store = Store(settings.store_folder(None))
    store.write_study(
        "5ea4c4",
        {
            "key": "5ea4c4",
            "kind": "search",
            "title": "a search",
            "trials": [
                {"key": "0a", "title": "trial 0", "params": {}},
                {"key": "0b", "title": "trial 1", "spec": None},
            ],
        },
    )
    store.write_study("dead", {"trials": []})
    path = store.study_folder("dead") / "study.json"
    path.write_bytes(path.read_bytes()[:-9])
    looked, _, report, _ = perform(bars, settings)
    assert rows_in(report)
    assert not any(looked.taken.values())


@pytest.mark.crash
def test_studies_of_other_weights_images_or_sizes_are_not_mixed_in(bars, settings, tmp_path):
    other = tmp_path / "other.safetensors"
    fresh = backbones.load("mnist-cnn", weights=None, classes=10, seed=3)
    weights_reader.write(other, fresh.net.state_dict(), {"format": "pt"})
    run_quanta(bars, settings, model=str(other))
    run_quanta(bars, settings, sizing="aspect")
    run_transfer(bars, settings, model=str(other))
    changed = tmp_path / "elsewhere" / "bars"
    shutil.copytree(bars, changed)
    (changed / "train" / "bar0" / "000.png").write_bytes(
        (changed / "train" / "bar1" / "003.png").read_bytes()
    )
    run_quanta(changed, settings)
    looked, _, report, _ = perform(bars, settings)
    assert looked.taken == {}, "same names, other weights or images"
    assert set(looked.lacking(AtlasGrid(), settings)) == set(atlas_lookup.SOURCES)
    own = atlas_plan.plan_atlas(
        Atlas(dataset=str(bars), model=str(other), samples=24), AtlasGrid(), settings
    )
    own.search(Store(report.folder), AtlasGrid())
    assert set(own.taken) == {"quanta", "transfer"}
    moved = tmp_path / "moved"
    shutil.copytree(changed, moved)
    again = atlas_plan.plan_atlas(Atlas(dataset=str(moved), samples=24), AtlasGrid(), settings)
    again.search(Store(report.folder), AtlasGrid())
    assert set(again.taken) == {"quanta"}, "the same images under another name"


@pytest.mark.crash
def test_of_several_studies_the_newest_or_the_one_asked_for(bars, settings):
    first, second = run_quanta(bars, settings), run_quanta(bars, settings, epochs=2)
    looked, *_ = perform(bars, settings)
    assert looked.taken["quanta"].study == second
    assert [match.study for match in looked.others["quanta"]] == [first]
    assert "epochs 2" in looked.taken["quanta"].settings
    parts = AtlasGrid(study=(first[:10],))
    looked, _, report, about = perform(bars, settings, parts=parts)
    assert looked.taken["quanta"].study == first
    said = atlas_report.format_summary(about, ("quanta",))(report)
    assert f"--study {second[:12]}" in said
    with pytest.raises(UnknownNameError, match="of this network and target"):
        perform(bars, settings, parts=AtlasGrid(study=("abcdef",)))


@pytest.mark.slow
def test_random_weights_match_nothing(bars, settings):
    run_quanta(bars, settings, source="random")
    looked, _, report, _ = perform(bars, settings, source="random")
    assert looked.taken == {}
    assert set(looked.lacking(AtlasGrid(), settings).values()) == {
        "random weights are drawn anew by every study"
    }
    assert {row["panel"] for row in rows_in(report)} == {
        "ss_ratio",
        "id",
        "rsa_contrast",
        "cka_label",
        "knn",
    }


# ---------------------------------------------------------------- resumed, asked again, wrong


def test_cut_off_it_goes_on_behind_the_blocks_it_has_and_asked_again_measures_nothing(
    bars, settings, monkeypatch
):
    seen, real = [], atlas_measures.alone

    def once(spec, x, labels):
        if len(seen) == 2:
            raise Stopped(15)
        seen.append(x.shape)
        return real(spec, x, labels)

    monkeypatch.setattr(atlas_measures, "alone", once)
    with pytest.raises(Stopped):
        perform(bars, settings)
    monkeypatch.setattr(atlas_measures, "alone", lambda *a: (seen.append(a[1].shape), real(*a))[1])
    _, _, report, _ = perform(bars, settings)
    assert len(seen) == 3, "the two blocks measured before were kept"
    whole = report.results[0].details["rows"]
    assert [row["width"] for row in whole] == [int(np.prod(shape[1:])) for shape in seen]
    _, _, report, _ = perform(bars, settings)
    assert (report.reused, len(seen)) == (1, 3)


def test_blocks_too_large_are_measured_by_their_means(bars, settings, monkeypatch):
    monkeypatch.setattr(atlas_plan, "AUTO_BYTES", 1000)
    looked, made, _, _ = perform(bars, settings)
    assert looked.spec.reduce == "pooled"
    assert "--reduce flat" in looked.notes[-1]
    assert made.trials[0].inputs.dump.array(made.trials[0].spec.layers[0]).shape == (24, 32)


def test_as_many_of_each_class_as_there_are(tmp_path, settings):
    images = draw_images(tmp_path / "uneven", per_class=9, splits=("test",))
    (images / "test" / "bar1" / "000.png").unlink()
    looked = atlas_plan.plan_atlas(Atlas(dataset=str(images), samples=500), AtlasGrid(), settings)
    assert looked.spec.samples == 24
    assert "8 images of each class" in looked.notes[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "parts", "error", "says"),
    [
        ({"samples": 4}, {}, UsageError, "at least 6"),
        ({"architecture": "mnist-cn"}, {}, UnknownNameError, "mnist-cnn"),
        ({"dataset": "./nowhere"}, {}, MissingError, "nowhere"),
        ({"source": "mars"}, {}, UnknownNameError, "MNIST"),
        ({"model": "nowhere.pth"}, {}, MissingError, "nowhere"),
        ({}, {"finetuned": "nowhere.pth"}, MissingError, "nowhere"),
    ],
)
def test_what_is_wrong_is_said_first(bars, settings, tmp_path, changes, parts, error, says):
    with pytest.raises(error) as refused:
        perform(changes.pop("dataset", bars), settings, parts=AtlasGrid(**parts), **changes)
    assert says in str(refused.value)
    assert not (tmp_path / "runs").exists()
