"""Few-shot studies end to end, in this process, on images that a tiny network learns in seconds."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import undrawn

from tlx.data import crops
from tlx.data.sizing import Sizing
from tlx.errors import ResourceError, TlxError, UsageError
from tlx.lab.store import Store
from tlx.lab.tasks import Finished, Progress, Started
from tlx.studies import reporting, runner
from tlx.studies.few_shot import FewShotGrid
from tlx.studies.fine_tuning import plan as fine_tuning_plan
from tlx.studies.fine_tuning.spec import FineTuning

FEW = FewShotGrid(shots=(1, 2), splits=2, val_per_class=3)


def asked(bars, **changes):
    return FineTuning(dataset=str(bars), **{"epochs": 2, "use_crops": False, **changes})


def perform(spec, settings, few=FEW, watch=lambda event: None, run_stage=undrawn.run_stage):
    made, _ = fine_tuning_plan.fine_tuning_study(spec, few, settings)
    return run_stage(made, settings, watch)


def test_every_shots_and_split_is_run_scored_and_summarised(bars, settings):
    events = []
    report = perform(
        asked(bars, epochs=6), settings, watch=events.append, run_stage=runner.run_stage
    )
    assert [(r.spec["shots"], r.spec["split"]) for r in report.results] == [
        (1, 0),
        (1, 1),
        (2, 0),
        (2, 1),
    ]
    for result in report.results:
        counts = np.array(result.details["confusion"])
        assert counts.sum() == result.details["test_images"] == 24
        assert result.scores["test_accuracy"] == pytest.approx(
            np.mean(counts.diagonal() / counts.sum(axis=1))
        )
        assert result.details["train_images"] == 3 * result.spec["shots"]
        assert 0 <= result.details["best_epoch"] < result.details["epochs"] <= 6
        assert result.environment["versions"]["torch"]
        assert result.cost["wall_s"]["value"] > 0
    assert (
        sum(isinstance(e, Started) for e in events)
        == sum(isinstance(e, Finished) for e in events)
        == 4
    )
    assert all(0 < e.step <= e.steps for e in events if isinstance(e, Progress))
    folder = report.folder / "studies" / report.key
    names = {p.name for p in folder.iterdir()}
    assert {
        "summary.json",
        "few_shot.csv",
        "few_shot.md",
        "few_shot_curve.png",
        "study.json",
    } <= names
    for row in json.loads((folder / "summary.json").read_text())["metrics"]:
        if row["name"] == "mean_test_accuracy":
            mine = [
                r.scores["test_accuracy"] for r in report.results if r.spec["shots"] == row["step"]
            ]
            assert row["value"] == pytest.approx(math.fsum(mine) / len(mine))
    trial = Store(report.folder).folder(report.results[0].key)
    assert {p.name for p in trial.iterdir()} >= {
        "result.json",
        "metrics.journal",
        "learning_curves.png",
        "confusion_matrix.png",
        "confusion_matrix.csv",
    }
    assert not list(trial.glob("training.*"))
    text = reporting.format_summary(report)
    assert "mean per-class test accuracy" in text
    assert "4 trials" in text


@pytest.mark.slow
def test_asked_again_nothing_is_done_and_a_larger_study_adds_to_the_first(bars, settings):
    first = perform(asked(bars), settings)
    events = []
    second = perform(asked(bars), settings, watch=events.append)
    assert second.reused == 4
    assert not [e for e in events if isinstance(e, Started)]
    assert [r.to_json() for r in second.results] == [r.to_json() for r in first.results]
    more = perform(asked(bars), settings, replace(FEW, shots=(1, 2, 3)))
    assert (more.reused, len(more.outcomes)) == (4, 6), "a draw does not depend on the others"


@pytest.mark.slow
def test_a_study_grows_by_shots_and_splits_of_one_folder(bars, settings, tmp_path, cache):
    from tlx.data import datasets, splits

    splits.draw(
        datasets.locate(bars, cache), tmp_path / "csvs", shots=(1, 2, 3), draws=3, val_per_class=3
    )
    spec = asked(bars, split_path=str(tmp_path / "csvs"))
    first = perform(spec, settings, FewShotGrid(shots=(1,), splits=2))
    second = perform(spec, settings, FewShotGrid(splits=3))
    assert first.key == second.key
    assert (second.reused, len(second.outcomes)) == (2, 9)
    record = Store(second.folder).read_study(second.key)
    assert [(row["shots"], row["split"]) for row in record["trials"]] == [
        (k, s) for k in (1, 2, 3) for s in range(3)
    ]


def test_the_key_is_what_is_asked_and_not_where_it_lies(bars, settings, tmp_path):
    import shutil

    moved = tmp_path / "elsewhere" / "bars"
    shutil.copytree(bars, moved)
    keys = [
        [
            t.spec.key
            for t in fine_tuning_plan.fine_tuning_study(asked(root), FEW, settings)[0].trials
        ]
        for root in (bars, moved)
    ]
    assert keys[0] == keys[1]
    image = next(moved.glob("train/bar0/*.png"))
    data = image.read_bytes()
    for other in sorted(moved.glob("train/bar0/*.png")):
        other.write_bytes(
            data if other != image else next(bars.glob("test/bar0/*.png")).read_bytes()
        )
    with pytest.raises(TlxError):  # now one image stands for all of a class: too few to draw from
        fine_tuning_plan.fine_tuning_study(asked(moved), FEW, settings)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 3},
        {"learning_rate": 0.02},
        {"seed": 1},
        {"use_crops": True},
        {"sizing": "aspect"},
        {"source": "random"},
        {"freeze": 1},
        {"vote": "mean-probability"},
        {"bn": "adapt"},
        {"head_epochs": 1},
        {"optimizer": "adam"},
        {"ema": 0.5},
        {"batch_size": 5},
        {"model_selection": True},
    ],
    ids=str,
)
def test_every_setting_that_matters_changes_every_key(bars, settings, change):
    def keys(spec):
        return {
            t.spec.key for t in fine_tuning_plan.fine_tuning_study(spec, FEW, settings)[0].trials
        }

    assert not keys(asked(bars)) & keys(asked(bars, **change))


def test_model_selection_takes_the_largest_shots_once_and_leaves_the_test_set_alone(bars, settings):
    report = perform(asked(bars, model_selection=True), settings, run_stage=runner.run_stage)
    (result,) = report.results
    assert (result.spec["shots"], result.spec["split"]) == (2, 0)
    assert "test_accuracy" not in result.scores
    assert "confusion" not in result.details
    assert 0 <= result.scores["best_val_accuracy"] <= 1
    assert "best val accuracy" in reporting.format_summary(report)


def test_a_diverged_trial_is_reported_as_such_and_scores_nothing(bars, settings):
    report = perform(
        asked(bars, learning_rate=1e3, clip_norm=0.0, epochs=30, early_stopping=False),
        settings,
        FewShotGrid(shots=(2,), splits=1, val_per_class=3),
        run_stage=runner.run_stage,
    )
    (result,) = report.diverged
    assert "test_accuracy" not in result.scores
    assert "diverged" in reporting.format_summary(report)
    report.raise_if_failed(require_tracking=False)


@pytest.mark.slow
def test_ten_crops_vote_and_crops_made_elsewhere_are_used_as_they_are(bars, settings, tmp_path):
    few = FewShotGrid(shots=(1,), splits=1, val_per_class=3)
    own = perform(asked(bars, use_crops=True), settings, few)
    assert own.results[0].details["crops"] == 10
    names = [str(p.relative_to(bars)) for p in sorted(bars.rglob("*.png"))]
    crops.write(bars, names, tmp_path / "crops", Sizing(28, channels=1))
    spec = asked(bars, use_crops=True, precomputed_crops=str(tmp_path / "crops"))
    given = perform(spec, settings, few)
    assert given.results[0].scores["test_accuracy"] == own.results[0].scores["test_accuracy"], (
        "the same pixels"
    )
    (tmp_path / "crops" / names[0]).with_name("000_crop_7.png").unlink()
    with pytest.raises(TlxError, match="_crop_7"):
        fine_tuning_plan.fine_tuning_study(spec, few, settings.replace(cache=str(tmp_path / "c")))


def test_the_seeds_configuration_and_blocks_exclude_each_other(bars, settings):
    with pytest.raises(UsageError, match="conflict"):
        fine_tuning_plan.fine_tuning_study(asked(bars, configuration=1, freeze=2), FEW, settings)
    with pytest.raises(UsageError, match="VGG16"):
        fine_tuning_plan.fine_tuning_study(asked(bars, configuration=1), FEW, settings)
    assert fine_tuning_plan.configured(FineTuning(architecture="VGG16")) == 1
    assert fine_tuning_plan.configured(FineTuning(architecture="VGG16", freeze=3)) is None
    assert fine_tuning_plan.configured(FineTuning()) is None


def test_everything_wrong_is_said_at_once(bars, settings, tmp_path):
    import shutil

    broken = tmp_path / "bars"
    shutil.copytree(bars, broken)
    image = sorted(broken.glob("train/bar1/*.png"))[0]
    image.write_bytes(image.read_bytes()[:60])
    spec = asked(broken, architecture="no-such-net")
    found = fine_tuning_plan.look_at_fine_tuning(spec, FEW, settings)
    assert [p.code for p in found.problems] == ["unknown-backbone"]
    spec = asked(broken, model=str(tmp_path / "weights.pth"))
    found = fine_tuning_plan.look_at_fine_tuning(spec, replace(FEW, shots=(1, 50)), settings)
    codes = {p.code for p in found.problems}
    assert "missing" in codes
    assert "too-few-images" in codes


def test_every_broken_image_is_named_in_one_pass_by_the_check_and_by_the_run(
    bars, settings, tmp_path
):
    import shutil

    broken = tmp_path / "bars"
    shutil.copytree(bars, broken)
    named = sorted(broken.glob("train/bar*/00[0-2].png"))
    for number, path in enumerate(named):
        path.write_bytes([b"", b"<html>", path.read_bytes()[:60]][number % 3])
    for keep in (False, True):
        found = fine_tuning_plan.look_at_fine_tuning(asked(broken), FEW, settings, keep=keep)
        assert sorted(p.where for p in found.problems) == sorted(map(str, named))
        assert {p.code for p in found.problems} >= {"image-empty", "not-an-image"}
        assert {p.exit_code for p in found.problems} == {3}


def test_a_study_that_another_process_runs_is_busy_and_a_full_disk_says_so(
    bars, settings, monkeypatch
):
    made, _ = fine_tuning_plan.fine_tuning_study(
        asked(bars), FewShotGrid(shots=(1,), splits=1, val_per_class=3), settings
    )
    with Store(settings.store).claim(made.trials[0].spec.key):
        report = runner.run_stage(made, settings, lambda event: None, reporting.write_summary)
    with pytest.raises(TlxError, match="in use by process") as refused:
        report.raise_if_failed(require_tracking=False)
    assert refused.value.exit_code == 8

    def full(*_):
        raise ResourceError("disk-full", "no space to write")

    monkeypatch.setattr("tlx.studies.reporting.write_trial_figures", full)
    report = runner.run_stage(made, settings, lambda event: None, reporting.write_summary)
    with pytest.raises(ResourceError, match="disk-full"):
        report.raise_if_failed(require_tracking=False)
    monkeypatch.undo()
    report = runner.run_stage(made, settings, lambda event: None, reporting.write_summary)
    report.raise_if_failed(require_tracking=False)
    assert len(report.results) == 1, "room again: the same command goes on"


def test_the_name_of_a_studys_run_says_what_differs_from_the_defaults(bars, settings):
    def name(**changes):
        made, _ = fine_tuning_plan.fine_tuning_study(asked(bars, **changes), FEW, settings)
        return made.title, runner.run_name(made)

    title, plain = name()
    assert plain.startswith(title)
    assert {"epochs=2", "use-crops=False"} <= set(plain.removeprefix(title).split(", "))
    assert "learning-rate" not in plain
    assert "learning-rate=0.123" in name(learning_rate=0.123)[1]
