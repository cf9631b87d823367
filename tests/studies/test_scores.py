"""Transferability scores of a list of sources: the study, its places, its table and figure."""

from __future__ import annotations

import csv
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import undrawn
from benchmarks import published_scores
from conftest import draw_images

from tlx.errors import TlxError, UsageError
from tlx.features.dump import Dump
from tlx.lab.store import Store
from tlx.metrics.scores import SCORES
from tlx.metrics.source_nulls import NULLS
from tlx.models import backbones
from tlx.result import Result
from tlx.studies import STUDIES, Session, run_study
from tlx.studies.planning import plan_study
from tlx.studies.scores import ranking, report
from tlx.studies.scores.spec import ALL_IMAGES, SORT_BY, SourceScores

FEW = {"shots": (1, 3), "splits": 3, "val_per_class": 3}
RANDOM = {"sources": ("mnist-cnn", "resnet20-cifar"), "source": "random"}


def settings_of(store, cache):
    from tlx.lab.settings import Settings

    return Settings(
        store=str(store), cache=str(cache), tracking=False, workers=0, system_metrics=False
    )


def score(data, settings, session=undrawn.session, **changes):
    study = STUDIES["scores"].with_settings({"dataset": str(data), **FEW, **changes})
    return run_study(study, session(settings))


@pytest.fixture(scope="module")
def settings(cache, tmp_path_factory):
    return settings_of(tmp_path_factory.mktemp("runs"), cache)


@pytest.fixture(scope="module")
def own(bars, settings):
    """One source with its own weights and head."""
    return score(bars, settings)


@pytest.fixture(scope="module")
def two(bars, settings):
    """Two sources with random weights."""
    return score(bars, settings, Session, **RANDOM)


def rows_of(done, name=report.TABLE):
    return list(csv.DictReader((done.study_folder / f"{name}.csv").read_text().splitlines()))


# ---------------------------------------------------------------- the study


def test_every_score_and_null_is_there_for_every_draw_or_says_why_not(own):
    [result] = own.results
    assert result.details["draws"] == [[1, 0], [1, 1], [1, 2], [3, 0], [3, 1], [3, 2], [0, 0]]
    assert result.details["images"] == [3, 3, 3, 9, 9, 9, 27], "all images are no val images"
    assert set(result.details["values"]) == set(SCORES) == set(SORT_BY)
    assert set(result.details["nulls"]) == set(NULLS)
    for name, values in result.details["values"].items():
        assert len(values) == 7
        reasons = result.details["reasons"][name]
        assert all(reason for value, reason in zip(values, reasons, strict=True) if value is None)
        assert all(math.isfinite(value) for value in values if value is not None)
    assert result.details["nulls"] == {"parameters": 223744.0, "top1": None, "static": None}


def test_the_features_are_those_of_the_training_images_and_the_head_is_the_sources(own, cache):
    """LEEP and 1-NN of all images, from the dump by loops; the head's matrix by its own weights."""
    [result] = own.results
    dump = Dump(cache / "dumps" / result.details["dump"])
    rows = dump.matrix(tuple(result.details["layers"])).astype(float)
    truth = np.array([Path(name).parent.name for name in dump.ids])
    assert {name.split("/")[0] for name in dump.ids} == {"train"}
    own_head = backbones.load("mnist-cnn", weights="default", classes=10, seed=0, head="keep")
    weight, bias = (p.detach().numpy().astype(float) for p in own_head.head.parameters())
    logits = np.maximum(rows, 0) @ weight.T + bias
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    total = 0.0
    for own_label, of_image in zip(truth, shares, strict=True):
        expected = 0.0
        for z in range(10):
            given = shares[truth == own_label, z].sum() / shares[:, z].sum()
            expected += given * of_image[z]
        total += math.log(expected)
    assert result.details["values"]["leep"][-1] == pytest.approx(total / len(truth), abs=1e-4)
    hits = []
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for i in range(len(unit)):
        nearest = max((j for j in range(len(unit)) if j != i), key=lambda j: unit[i] @ unit[j])
        hits.append(truth[nearest] == truth[i])
    assert result.details["values"]["1-nn"][-1] == pytest.approx(np.mean(hits))


def test_asked_again_nothing_is_extracted_or_computed(own, bars, settings, monkeypatch):
    monkeypatch.setattr("tlx.features.extract._Pass", None)
    again = score(bars, settings)
    assert (again.key, again.reused) == (own.key, 1)
    sorted_otherwise = score(bars, settings, sort_by="logme", at=0)
    assert (sorted_otherwise.key, sorted_otherwise.reused) == (own.key, 1)
    table = (own.study_folder / "scores.md").read_text()
    assert table.splitlines()[0].split(" | ")[2] == "logme"


def test_nothing_is_trained(bars, settings, monkeypatch):
    monkeypatch.setattr("tlx.models.training.fit", None)
    monkeypatch.setattr("tlx.features.fitting.FittedClassifier.__init__", None)
    assert score(bars, settings, shots=(2,), splits=1).results[0].status == "finished"


def test_a_source_without_a_head_of_its_own_has_no_leep_and_says_so(two):
    for result in two.results:
        for name in ("leep", "nce"):
            assert set(result.details["values"][name]) == {None}
            assert set(result.details["reasons"][name]) == {
                "the source has random weights, and no head of its own"
            }
    text = report.format_summary(two)
    assert "– leep, nce: the source has random weights" in text
    assert "– n-leep: fewer than 10 images a class" in text


def test_the_closing_lines_have_one_table_and_say_what_scores_cannot(two):
    text = report.format_summary(two)
    table = text.splitlines()
    assert table[0].split()[:5] == ["place", "source", "1-nn", "sd", "places"]
    assert {row.split()[1] for row in table[2:4]} == set(RANDOM["sources"])
    assert set(table[0].split()) >= {*SCORES, *NULLS}
    assert all(line in text for line in report.CANNOT_TELL)
    assert "nothing was trained" in text
    assert list(two.figures) == ["score_places"]


def test_the_csv_has_every_source_score_and_number_of_shots(two):
    rows = rows_of(two)
    assert len(rows) == 2 * (len(SCORES) * 3 + len(NULLS))
    assert {row["images_per_class"] for row in rows} == {"1", "3", "all"}
    for row in rows:
        assert bool(row["mean"]) != bool(row["reason"]) or row["score"] == "logme"
    costs = rows_of(two, report.COST)
    assert [row["source"] for row in costs] == list(RANDOM["sources"])
    assert all(float(row["1-nn_s"]) >= 0 for row in costs)


def test_more_images_than_asked_are_drawn_from_and_a_class_gives_at_most_as_many(bars, settings):
    done = score(bars, settings, pool_images=4, shots=(2,), splits=1)
    assert done.results[0].details["images"] == [6, 12]


def test_a_training_image_that_is_a_test_image_or_has_two_labels_is_not_scored(tmp_path, cache):
    data = draw_images(tmp_path / "copied", per_class=9)
    train, test = data / "train", data / "test"
    for number in range(2):
        shutil.copy(test / "bar0" / f"{number:03d}.png", train / "bar0" / f"copy{number}.png")
    shutil.copy(train / "bar1" / "000.png", train / "bar1" / "again.png")
    shutil.copy(train / "bar2" / "000.png", train / "bar1" / "two.png")
    done = score(data, settings_of(tmp_path / "runs", cache), shots=(2,), splits=1)
    dump = Dump(cache / "dumps" / done.results[0].details["dump"])
    contents = [(data / name).read_bytes() for name in dump.ids]
    held = {path.read_bytes() for path in test.rglob("*.png")}
    assert len(contents) == len(set(contents)) == done.results[0].details["images"][-1]
    assert not held & set(contents)
    assert (train / "bar2" / "000.png").read_bytes() not in contents


@pytest.mark.slow
def test_crops_are_averaged_to_one_row_an_image(bars, settings):
    [result] = score(bars, settings, use_crops=True, shots=(2,), splits=1).results
    assert result.details["crops"] == 10
    assert result.details["images"] == [6, 27]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"at": 2}, "one of 1, 3, or 0"),
        ({**RANDOM, "model": "weights.pth", "source": None}, "weight file is of one network"),
        ({"sources": ("mnist-cnn", "resnett50")}, "resnett50"),
        ({"layers": ("nowhere",)}, "nowhere"),
        ({"sort_by": "logmee"}, "logme"),
        ({"sources": ("resnet20-cifar",)}, "weights of ResNet-20"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_anything_is_computed(
    changes, message, bars, settings
):
    with pytest.raises(TlxError, match=message):
        score(bars, settings, **changes)


def test_the_errors_of_all_sources_are_told_at_once(bars, settings):
    with pytest.raises(TlxError) as raised:
        score(bars, settings, sources=("nowhere-net", "elsewhere-net"))
    assert "nowhere-net" in str(raised.value)
    assert "elsewhere-net" in str(raised.value)


def test_the_same_source_named_twice_is_scored_once(bars, settings):
    assert len(score(bars, settings, sources=("mnist-cnn", "mnist-cnn")).results) == 1


@pytest.mark.parametrize(
    ("per_class", "note"),
    [
        (4, "1-nn is not defined: the sources are in the order of the question"),
        (6, "1-nn is not defined at 1 image per class: sorted by that of all images"),
    ],
)
def test_one_image_of_a_class_is_a_reason_and_no_traceback(per_class, note, tmp_path, cache):
    data = draw_images(tmp_path / "few", per_class=per_class)
    done = score(data, settings_of(tmp_path / "runs", cache), shots=(1,), splits=1)
    standings = {
        name: ranking.ranking_of(done.results).standings(name, 1)[0] for name in (*SCORES, *NULLS)
    }
    assert standings["1-nn"].mean is None
    assert standings["1-nn"].reason == "a class has one image"
    assert note in report.format_summary(done)


# ---------------------------------------------------------------- places


def result_of(source, draws, values, nulls=None):
    """A finished trial of scores with these values of 1-NN."""
    return Result(
        key=source,
        kind="source-scores",
        spec={"architecture": source},
        details={
            "draws": draws,
            "values": {name: values if name == "1-nn" else [None] * len(draws) for name in SCORES},
            "reasons": {name: [""] * len(draws) for name in SCORES},
            "nulls": nulls or dict.fromkeys(NULLS),
        },
    )


def test_places_are_counted_over_the_means_and_over_every_draw():
    rng = np.random.default_rng(5)
    draws = [[2, split] for split in range(6)]
    table = rng.integers(0, 4, (5, 6)) / 4.0
    results = [result_of(f"s{i}", draws, list(map(float, row))) for i, row in enumerate(table)]
    rows = ranking.Ranking(tuple(results)).standings("1-nn", 2)
    for i, row in enumerate(rows):
        assert row.mean == pytest.approx(sum(table[i]) / 6)
        mean = sum(table[i]) / 6
        assert row.sd == pytest.approx(math.sqrt(sum((v - mean) ** 2 for v in table[i]) / 5))
        assert row.place == 1 + sum(sum(other) > sum(table[i]) for other in table)
        each = [1 + sum(other[d] > table[i][d] for other in table) for d in range(6)]
        assert (row.best, row.worst) == (min(each), max(each))


def test_a_score_that_is_not_defined_leaves_the_order_to_all_images():
    draws = [[1, 0], [1, 1], [ALL_IMAGES, 0]]
    results = [result_of(s, draws, [None, None, v]) for s, v in (("a", 0.1), ("b", 0.9))]
    both = ranking.Ranking(tuple(results))
    assert both.order("1-nn", 1) == ([1, 0], ALL_IMAGES)
    assert both.order("logme", 1) == ([0, 1], 1), "known nowhere: as asked"
    assert both.headline(None) == 1
    assert both.headline(0) == ALL_IMAGES


def test_a_source_without_a_value_is_last_and_counts_in_no_place():
    draws = [[1, 0], [ALL_IMAGES, 0]]
    results = [result_of(s, draws, [v, v]) for s, v in (("a", None), ("b", 0.2), ("c", 0.9))]
    rows = ranking.Ranking(tuple(results)).standings("1-nn", 1)
    assert [row.place for row in rows] == [None, 2, 1]
    assert ranking.Ranking(tuple(results)).order("1-nn", 1)[0] == [2, 1, 0]


def test_trials_of_other_kinds_and_unfinished_ones_are_no_sources():
    good = result_of("a", [[ALL_IMAGES, 0]], [0.5])
    others = [replace(good, kind="fine-tuning"), replace(good, status="diverged")]
    assert ranking.ranking_of([good, *others]).sources == ["a"]


def test_what_the_notes_say_of_published_tables_is_what_those_tables_give():
    means = {name: np.mean(values) for name, values in published_scores.correlations().items()}
    assert f"{means['static']:.2f}" == f"{means['logme']:.2f}" == "0.67"
    assert f"{means['leep']:.2f}" == "0.42"
    assert any("0.67 both; LEEP 0.42" in line for line in report.CANNOT_TELL)


def test_the_store_keeps_what_the_table_was_sorted_by(two):
    study = Store(two.folder).read_study(two.key)
    assert report.settings_of(study) == ("1-nn", None)
    with pytest.raises(UsageError):
        STUDIES["scores"].with_settings({"at": -1})


def test_a_plan_counts_the_sources_and_extracts_nothing(bars, settings, monkeypatch):
    monkeypatch.setattr("tlx.studies.scores.plan.extract", None)
    study = STUDIES["scores"].with_settings({"dataset": str(bars), **FEW, **RANDOM})
    planned = plan_study(study, Session(settings))
    assert (planned.trials, planned.title) == (2, "scores of mnist-cnn, resnet20-cifar")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--sources", "nowhere-net"), 2),
        (("--at", 7), 2),
        (("--sort-by", "logmee"), 2),
        (("--dataset", "nowhere"), 2),
        (("--split-path", "nowhere"), 3),
    ],
)
def test_what_is_wrong_has_its_exit_code(words, code, tlx, bars):
    asked = ("scores", "--dataset", bars, "--shots", 1, "--splits", 1, "--val-per-class", 2)
    assert tlx(*asked, "--workers", 0, "--no-tracking", *words)[0] == code


def test_keys_of_scores_stay():
    """A key that changes loses results: CHANGELOG, "What changes a key"."""
    specs = [SourceScores(), SourceScores(use_crops=True, pool_images=50, layers=("3",))]
    assert [spec.key[:16] for spec in specs] == ["34dc5eb753016de1", "7bd64b394fe42b2a"]
