"""Intervals over draws and images in the tables of few-shot studies: by numpy alone, and what is
said where predictions cannot be used.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import naive
import numpy as np
import pytest
from PIL import Image

import tlx as package
from tlx import files
from tlx.lab.store import Store
from tlx.plots import statistics
from tlx.result import Result
from tlx.studies import intervals, predictions, reporting
from tlx.studies.base import StudyReport

SHOTS, SPLITS = (1, 2, 3, 4), 4
FEW = {"shots": SHOTS, "splits": SPLITS, "val_per_class": 2, "use_crops": False}
KINDS = {
    "feature-extraction": {"classifier": "ncm knn:k=1"},
    "fine-tuning": {"epochs": 8, "learning_rate": 0.03},
}
QUIET = {"tracking": False, "workers": 0, "progress": False, "system_metrics": False}


@pytest.fixture(scope="module")
def photos(make_once):
    """Three classes that a small network tells apart in most images, not in all."""

    def draw(root: Path) -> None:
        rng = np.random.default_rng(3)
        for side, count in (("train", 12), ("test", 8)):
            for label in range(3):
                folder = root / side / f"class{label}"
                folder.mkdir(parents=True)
                for number in range(count):
                    pixels = rng.integers(0, 130, (20, 20))
                    pixels[2 + 6 * label : 8 + 6 * label] += rng.integers(0, 60)
                    Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")

    return make_once("faint", draw)


@pytest.fixture(scope="module")
def made(tmp_path_factory, photos, cache):
    """Study → its report, all in one store."""
    folder = tmp_path_factory.mktemp("studies")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLX_CACHE", str(cache))
        patch.chdir(folder)
        return {
            name: package.run(
                name,
                dataset=photos,
                figures="none",
                store=str(folder / "runs"),
                **FEW,
                **QUIET,
                **own,
            )
            for name, own in KINDS.items()
        }


@dataclass(frozen=True)
class Copy:
    """A study in a copy of the store, whose trials can be damaged."""

    store: Store
    key: str
    report: StudyReport

    def trials(self, shots, classifier=None):
        """The results at these shots, in the order of their splits."""
        return [
            result
            for result in self.report.results
            if result.spec["shots"] == shots and result.spec.get("classifier") == classifier
        ]

    def path(self, result, name=predictions.PREDICTIONS):
        return self.store.folder(result.key) / name

    def written(self):
        """Rows of few_shot.csv by (classifier, shots), after the summary was written again."""
        reporting.write_summary(self.store, self.key, None)
        return rows_of(self.store.study_folder(self.key))

    def warnings(self):
        summary = json.loads((self.store.study_folder(self.key) / "summary.json").read_text())
        return summary["tags"]["tlx.warnings"]


@pytest.fixture
def copied(made, tmp_path):
    """A study by its name in a copy of the store."""

    def copy(name="fine-tuning"):
        shutil.copytree(made[name].folder, tmp_path / name)
        report = replace(made[name], folder=tmp_path / name)
        return Copy(Store(tmp_path / name), made[name].key, report)

    return copy


def rows_of(folder: Path):
    rows = csv.DictReader(io.StringIO((folder / "few_shot.csv").read_text()))
    return {(row["classifier"], int(row["shots"])): row for row in rows}


def tables_of(report, classifier=""):
    """{shots: rows of right or wrong}, and the classes, from the files alone."""
    tables, truth = {}, None
    for result in report.results:
        if result.spec.get("classifier", "") == classifier:
            folder = Store(report.folder).folder(result.key)
            truth = np.load(folder / "test_labels.npy").tolist()
            right = np.load(folder / "predictions.npy") == truth
            tables.setdefault(result.spec["shots"], []).append(right.astype(float).tolist())
    return tables, truth


def ends(row, name="ci95"):
    return float(row[f"{name}_low"]), float(row[f"{name}_high"])


# ---------------------------------------------------------------- the numbers


@pytest.mark.parametrize(
    ("name", "classifier"),
    [("fine-tuning", ""), ("feature-extraction", "ncm"), ("feature-extraction", "knn")],
)
def test_the_table_has_the_intervals_of_numpy_alone(made, name, classifier):
    report = made[name]
    tables, classes = tables_of(report, classifier)
    pool = report.results[0].details["pool"]
    expected = naive.crossed_intervals(tables, classes, pool)
    rows = rows_of(report.study_folder)
    for shots in SHOTS:
        row = rows[classifier, shots]
        assert row["ci95_over"] == "draws and images"
        assert ends(row) == pytest.approx(expected[shots], rel=1e-3)
        accuracies = [
            result.scores["test_accuracy"]
            for result in report.results
            if (result.spec["shots"], result.spec.get("classifier", "")) == (shots, classifier)
        ]
        of_draws = np.clip(naive.t_interval(accuracies), 0, 1)
        assert ends(row, "ci95_draws") == pytest.approx(tuple(of_draws), rel=1e-3)
        assert float(row["mean_test_accuracy"]) == pytest.approx(np.mean(accuracies))


@pytest.mark.parametrize("name", KINDS)
def test_the_summary_has_the_intervals_of_the_table_and_what_they_are_over(made, name):
    report = made[name]
    frame = report.summary().set_index(["line", "step"])
    for (classifier, shots), row in rows_of(report.study_folder).items():
        shown = frame.loc[(classifier, shots)]
        assert (shown["ci95_low"], shown["ci95_high"]) == ends(row)
        assert (shown["ci95_draws_low"], shown["ci95_draws_high"]) == ends(row, "ci95_draws")
        assert shown["ci95_over"] == row["ci95_over"]
    summary = report.to_json()["summary"]
    assert summary["tags"]["tlx.ci95_over"] == "draws and images"
    assert "over draws and images" in summary["note"]


def test_the_share_of_all_images_has_the_interval_of_images_that_weigh_the_same(made):
    report = made["fine-tuning"]
    tables, classes = tables_of(report)
    pool = report.results[0].details["pool"]
    expected = naive.crossed_intervals(tables, [0] * len(classes), pool)
    found = intervals.of_results(Store(report.folder), report.results, "test_top1")
    for shots in SHOTS:
        interval = found.by_mean["", shots]
        assert (interval.low, interval.high) == pytest.approx(expected[shots], rel=1e-3)


def pairs_of(study, shots):
    """Trials of both classifiers, split by split."""
    trials = {name: study.trials(shots, name) for name in ("ncm", "knn")}
    return list(zip(trials["ncm"], trials["knn"], strict=True))


def test_the_difference_of_two_methods_is_over_the_same_images(copied):
    study = copied("feature-extraction")
    first, classes = tables_of(study.report, "ncm")
    second, _ = tables_of(study.report, "knn")
    table = (np.array(first[2]) - np.array(second[2])).tolist()
    pool = study.report.results[0].details["pool"]
    expected = naive.crossed_intervals({2: table}, classes, pool, (-1.0, 1.0))[2]
    interval = intervals.of_difference(study.store, pairs_of(study, 2))
    assert (interval.low, interval.high) == pytest.approx(expected, rel=1e-3)
    study.path(study.trials(2, "knn")[1]).unlink()
    assert intervals.of_difference(study.store, pairs_of(study, 2)) is None
    assert intervals.of_difference(study.store, []) is None


def test_closing_words_and_tables_say_what_intervals_are_over(made):
    for report in made.values():
        text = reporting.format_summary(report)
        assert "± 95 % CI over draws and images" in text
        assert "covers the expected accuracy on new images" in text
    tuned = made["fine-tuning"]
    heads = (tuned.study_folder / "few_shot.md").read_text().splitlines()[0]
    assert "| 95 % CI | draws alone |" in heads
    assert "| over |" not in heads, "all are over the same"


def test_show_prints_the_interval_and_what_it_is_over(made, tlx):
    report = made["fine-tuning"]
    code, out, _ = tlx("show", report.key, "--store", report.folder)
    assert code == 0
    assert "draws alone" in out
    assert "over draws and images" in out


# ---------------------------------------------------------------- predictions that cannot be used


def drop_predictions(copy, result):
    """Make a trial one of a version that kept no predictions."""
    folder = copy.store.folder(result.key)
    rows = files.manifest(folder)
    for name in predictions.FILES:
        (folder / name).unlink()
        del rows[name]
    files.write_manifest(folder, rows)


def test_trials_that_kept_none_have_students_interval_and_are_named(copied, made):
    study = copied("feature-extraction")
    before = rows_of(made["feature-extraction"].study_folder)
    for result in study.trials(2, "ncm"):
        drop_predictions(study, result)
    rows = study.written()
    row = rows["ncm", 2]
    assert row["ci95_over"] == "draws"
    assert ends(row) == ends(row, "ci95_draws") == ends(before["ncm", 2], "ci95_draws")
    assert row["mean_test_accuracy"] == before["ncm", 2]["mean_test_accuracy"]
    others = {mean: row for mean, row in rows.items() if mean != ("ncm", 2)}
    assert all(row["ci95_over"] == "draws and images" for row in others.values())
    assert all(ends(row) == ends(before[mean]) for mean, row in others.items())
    said = study.warnings()
    assert "the interval is over draws alone at 2 shots, ncm: 2-shot split 0" in said
    assert study.trials(2, "ncm")[0].key[:12] in said
    assert "kept no predictions" in said


def test_the_same_command_finds_old_trials_and_says_that_they_kept_none(
    copied, photos, cache, monkeypatch
):
    study = copied()
    for result in study.report.results:
        drop_predictions(study, result)
    monkeypatch.setenv("TLX_CACHE", str(cache))
    again = package.run(
        "fine-tuning",
        dataset=photos,
        store=str(study.store.root),
        **FEW,
        **QUIET,
        **KINDS["fine-tuning"],
    )
    assert (again.key, again.reused) == (study.key, len(study.report.results))
    assert set(again.summary()["ci95_over"].dropna()) == {"draws"}
    text = reporting.format_summary(again)
    assert "± 95 % CI over draws\n" in text
    assert "kept no predictions" in text
    assert "draws alone  " not in text.splitlines()[0], "it would be the same column again"


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "deleted": Path.unlink,
    "flipped": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "empty": lambda path: path.write_bytes(b""),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("name", predictions.FILES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_names_the_trial_and_ends_no_study(copied, damage, name):
    study = copied()
    result = study.trials(4)[0]
    DAMAGE[damage](study.path(result, name))
    rows = study.written()
    assert {shots: row["ci95_over"] for (_, shots), row in rows.items()} == {
        1: "draws and images",
        2: "draws and images",
        3: "draws and images",
        4: "draws",
    }
    assert int(rows["", 4]["splits"]) == SPLITS, "the trial still counts"
    assert ends(rows["", 4]) == ends(rows["", 4], "ci95_draws")
    for text in (study.warnings(), reporting.format_summary(study.report)):
        assert f"{name} of 4-shot split 0 ({result.key[:12]})" in text
    table = (study.store.study_folder(study.key) / "few_shot.md").read_text()
    assert "| over |" in table
    assert table.count("draws and images") == 3


def sealed_again(folder, name):
    """List a changed file of a trial as it now is."""
    rows = files.manifest(folder)
    path = folder / name
    rows[name] = {"bytes": path.stat().st_size, "sha256": files.sha256(path)}
    files.write_manifest(folder, rows)


def test_predictions_of_another_trial_are_not_taken_for_its_own(copied):
    study = copied()
    result = study.trials(1)[2]
    path = study.path(result)
    wrong = np.load(path)
    truth = np.load(study.path(result, predictions.TRUTH))
    wrong[:] = (truth + (result.scores["test_accuracy"] > 0.5)) % 3
    np.save(path, wrong)
    sealed_again(path.parent, path.name)
    assert study.written()["", 1]["ci95_over"] == "draws"
    assert f"predictions of 1-shot split 2 ({result.key[:12]}) give" in study.warnings()


def test_splits_of_different_test_images_are_no_table(made):
    report = made["fine-tuning"]
    results = [
        replace(result, details={**result.details, "test_digest": f"of {result.spec['split']}"})
        if result.spec["shots"] == 2
        else result
        for result in report.results
    ]
    found = intervals.of_results(Store(report.folder), results)
    assert set(found.by_mean) == {("", 1), ("", 3), ("", 4)}
    assert found.reasons == {("", 2): "the splits were tested on different images"}


def test_a_diverged_trial_is_in_no_table(made):
    report = made["fine-tuning"]
    results = [
        replace(result, status="diverged", scores={}) if result.spec["split"] == 0 else result
        for result in report.results
    ]
    means = intervals.of_results(Store(report.folder), results)
    rows = reporting.by_line(results, means=means)[""]
    assert [row["splits"] for row in rows] == [SPLITS - 1] * len(SHOTS)
    assert [row["missing"] for row in rows] == [1] * len(SHOTS)
    assert {row["over"] for row in rows} == {"draws and images"}


@pytest.mark.parametrize(("per_class", "over"), [(1, "draws"), (2, "draws and images")])
def test_one_test_image_a_class_shows_nothing_of_images(tmp_path, per_class, over):
    store, truth = Store(tmp_path / "runs"), np.repeat(np.arange(5), per_class)
    rng, results = np.random.default_rng(0), []
    for split in range(4):
        predicted = np.where(rng.random(len(truth)) < 0.6, truth, (truth + 1) % 5)

        def make(draft, split=split, predicted=predicted):
            predictions.write(draft.folder, predicted, truth)
            return Result(
                key=f"split{split}",
                kind="fine-tuning",
                spec={"shots": 1, "split": split},
                scores={"test_accuracy": float(np.mean(predicted == truth))},
                details={"test_images": len(truth), "test_digest": "same", "pool": 9},
            )

        results.append(store.get_or_compute(f"split{split}", make))
    means = intervals.of_results(store, results)
    (row,) = reporting.by_line(results, means=means)[""]
    assert row["over"] == over
    assert means.reasons == ({("", 1): "no class has two test images"} if per_class == 1 else {})


# ---------------------------------------------------------------- few draws, much overlap


def some_splits(report, count, shots=SHOTS):
    """The trials of the first splits, with their intervals and rows."""
    results = [
        result
        for result in report.results
        if result.spec["split"] < count and result.spec["shots"] in shots
    ]
    means = intervals.of_results(Store(report.folder), results)
    return results, means, reporting.by_line(results, means=means)


def test_one_draw_has_the_interval_of_its_test_images_and_says_so(made):
    results, means, lines = some_splits(made["fine-tuning"], 1)
    tables, classes = tables_of(made["fine-tuning"])
    for row in lines[""]:
        assert row["over"] == "images"
        right = np.array(tables[row["shots"]][0])
        parts = [right[np.equal(classes, c)] for c in sorted(set(classes))]
        spread = np.sqrt(sum(part.var(ddof=1) / len(part) for part in parts)) / len(parts)
        half = naive.t_factor(len(classes) - len(parts)) * spread
        assert row["ci"] == pytest.approx(half, rel=1e-3)
        assert row["draws_ci"] is None
    assert "(images)" in reporting.table(lines)
    said = " ".join(reporting.warnings_of(results, means))
    assert "how much the choice of training images matters is unknown" in said


@pytest.mark.parametrize("count", [2, 3])
def test_few_draws_have_an_interval_where_other_shots_lend_their_variance(made, count):
    results, means, lines = some_splits(made["fine-tuning"], count)
    assert "±" in reporting.table(lines)
    assert "told by the other shots too" in " ".join(reporting.warnings_of(results, means))
    results, means, lines = some_splits(made["fine-tuning"], count, shots=(1, 2, 4))
    assert "±" not in reporting.table(lines)
    row = lines[""][-1]
    assert f"({100 * row['lowest']:.1f} to {100 * row['highest']:.1f})" in reporting.table(lines)
    assert "their range is shown" in " ".join(reporting.warnings_of(results, means))
    assert statistics.drawn_ends(row) == (row["lowest"], row["highest"])


def test_an_interval_of_no_width_is_warned_of(copied):
    study = copied()
    results = []
    for result in study.trials(1):
        path = study.path(result)
        shutil.copy(study.path(result, predictions.TRUTH), path)
        sealed_again(path.parent, path.name)
        results.append(replace(result, scores={**result.scores, "test_accuracy": 1.0}))
    means = intervals.of_results(study.store, results)
    interval = means.by_mean["", 1]
    assert (interval.low, interval.high, interval.half_width) == (1.0, 1.0, 0.0)
    assert "no width at 1 shot: " in " ".join(reporting.warnings_of(results, means))


def test_draws_that_are_nearly_the_same_images_are_warned_of(made):
    report = made["fine-tuning"]
    results = [replace(result, details={**result.details, "pool": 5}) for result in report.results]
    means = intervals.of_results(Store(report.folder), results)
    assert means.overlaps["", 4] == pytest.approx(0.8)
    (said,) = [s for s in reporting.warnings_of(results, means) if "training images at" in s]
    assert "draws share more than half of their training images at 3 shots, 4 shots: " in said


def test_more_shared_images_make_the_interval_wider(made):
    report = made["fine-tuning"]

    def width(pool):
        results = [
            replace(result, details={**result.details, "pool": pool}) for result in report.results
        ]
        interval = intervals.of_results(Store(report.folder), results).by_mean["", 4]
        return interval.half_width

    assert width(1000) < width(10) < width(5) < width(4)


# ---------------------------------------------------------------- reading once


def test_each_file_is_read_once_for_table_figure_and_closing_words(copied, monkeypatch):
    study = copied()
    read = []
    mapped = predictions.mapped

    def counted(folder, name, images):
        read.append((folder, name))
        classes = mapped(folder, name, images)
        assert isinstance(classes, np.memmap)
        return classes

    monkeypatch.setattr(predictions, "mapped", counted)
    reporting.write_summary(study.store, study.key)
    reporting.format_summary(study.report)
    for form in ("png", "svg"):
        drawings = reporting.study_drawings(study.store, study.store.read_study(study.key))
        drawings[reporting.CURVE](form)
    assert len(read) == len(set(read)) == len(study.report.results) + len(SHOTS)


def test_a_file_that_changes_is_read_again(copied):
    study = copied()
    assert study.written()["", 4]["ci95_over"] == "draws and images"
    study.path(study.trials(4)[0]).unlink()
    assert study.written()["", 4]["ci95_over"] == "draws"
