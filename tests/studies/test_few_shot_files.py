"""Files of few-shot studies: one schema for fine-tuning and feature extraction, and validation that
chooses.
"""

from __future__ import annotations

import csv
import io

from tlx.cli import progress
from tlx.result import Result
from tlx.studies import reporting


def fitted(classifier, val, test, split):
    return Result(
        key=f"{classifier}{split}",
        kind="feature-extraction",
        spec={"classifier": classifier, "shots": 1, "split": split},
        scores={
            "val_accuracy": val,
            "test_accuracy": test,
            "classifier_s": 1.0,
            "postprocessing_s": 2.0,
            "train_extraction_s": 3.0,
            "total_s": 9.0,
        },
        details={"classes": ["a", "b"]},
    )


def tuned(val, test, split):
    return Result(
        key=str(split),
        kind="fine-tuning",
        spec={"shots": 1, "split": split},
        scores={"best_val_accuracy": val, "test_accuracy": test, "train_s": 5.0, "total_s": 6.0},
        details={"epochs": 3, "best_epoch": 1, "classes": ["a", "b"]},
    )


EXTRACTED = [
    fitted(name, val, test, split)
    for split in range(4)
    for name, val, test in (("ridge", 0.9, 0.6), ("knn", 0.5, 0.8))
]
TUNED = [tuned(0.9, 0.7, split) for split in range(4)]


def read(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_both_few_shot_studies_have_the_same_columns():
    extracted, fine_tuned = (
        read(reporting.table(reporting.by_line(results), "csv")) for results in (EXTRACTED, TUNED)
    )
    assert list(extracted[0]) == list(fine_tuned[0])
    assert (
        float(extracted[0]["mean_val_accuracy"]) == float(fine_tuned[0]["mean_val_accuracy"]) == 0.9
    )
    assert float(extracted[0]["mean_train_s"]) == 6.0
    trials = [read(reporting.trial_table(results)) for results in (EXTRACTED, TUNED)]
    assert list(trials[0][0]) == list(trials[1][0])
    assert [len(rows) for rows in trials] == [8, 4]
    assert all(
        row[name]
        for rows in trials
        for row in rows
        for name in ("best_val_accuracy", "test_accuracy", "key")
    )


def test_classifiers_are_ordered_by_validation_and_both_accuracies_are_shown():
    lines = reporting.by_line(EXTRACTED)
    assert list(lines) == ["ridge", "knn"]
    shown = reporting.table(lines).splitlines()[2]
    assert "ridge" in shown
    assert "90.0 %" in shown
    assert "60.0" in shown


def test_the_best_on_validation_has_the_metric_name_that_every_few_shot_study_has():
    lines = reporting.by_line(EXTRACTED)
    assert [reporting._prefixes(line, lines) for line in lines] == [["", "ridge/"], ["knn/"]]
    assert reporting._prefixes("", reporting.by_line(TUNED)) == [""]


def test_the_progress_line_names_the_trial_that_is_best_on_validation():
    said = progress.format_outcome({r.key: r for r in EXTRACTED[:2]})
    assert "best on validation (0.9000)" in said
    assert "with ridge" in said


def test_split_files_epochs_and_tolerance_are_shown_as_the_original_names_them():
    from tlx.studies.feature_extraction.spec import FeatureExtraction
    from tlx.studies.fine_tuning.spec import FineTuning

    tuned = FineTuning(shots=5, split=2, split_path="csvs/").mlflow_params()
    assert tuned["Train split"] == "csvs/train_samples_05_split_2.csv"
    assert (tuned["Validation split"], tuned["Test split"]) == ("csvs/val.csv", "csvs/test.csv")
    assert tuned["Minimum epochs"] == 10
    assert FineTuning(early_stopping=False).mlflow_params()["Minimum epochs"] == "-"
    frozen = FeatureExtraction(shots=100, classifier="sgd", model_selection=True).mlflow_params()
    assert frozen["Train split"] == "train_samples_100_split_0.csv"
    assert frozen["Test split"] == "-"
    assert frozen["tol"] == 5e-4
    assert "tol" not in FeatureExtraction(classifier="knn").mlflow_params()
