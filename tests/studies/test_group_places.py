"""Where the trials of a comparison are shown in MLflow: one run for each number of shots."""

from __future__ import annotations

from tlx.lab.store import Store
from tlx.studies import runner
from tlx.studies.base import Stage, Trial
from tlx.studies.feature_extraction.spec import FeatureExtraction

KEY = "5" * 64
SPEC = FeatureExtraction(dataset="digits", architecture="mnist-cnn")


def stage_of(*draws: tuple[int, int, str], is_grouped: bool = True) -> Stage:
    """Return two classifiers on each draw (shots, split, digest of its images)."""
    specs = [
        SPEC.replace(shots=shots, split=split, images=images, classifier=name)
        for shots, split, images in draws
        for name in ("knn", "ncm")
    ]
    return Stage(
        key=KEY,
        run=lambda *_: None,
        experiment="Feature extraction",
        title="digits",
        spec={},
        trials=tuple(Trial(spec, None, spec.group, spec.classifier) for spec in specs),
        is_grouped=is_grouped,
    )


def places(store: Store) -> dict[str, tuple[object, ...]]:
    """Return key of a trial → its place in MLflow, from the record of the study."""
    names = ("group_title", "label", "step")
    return {
        row["key"]: tuple(row.get(name) for name in names)
        for row in store.read_study(KEY)["trials"]
    }


def keys(stage: Stage) -> list[str]:
    return [trial.spec.key for trial in stage.trials]


def test_draws_of_a_number_of_shots_are_steps_of_one_run(tmp_path):
    store, stage = Store(tmp_path), stage_of((1, 0, "a"), (1, 1, "b"), (5, 0, "c"))
    runner.record(store, stage)
    assert [places(store)[key] for key in keys(stage)] == [
        *[("1-shot", name, 0) for name in ("knn", "ncm")],
        *[("1-shot", name, 1) for name in ("knn", "ncm")],
        *[("5-shot", name, 0) for name in ("knn", "ncm")],
    ]
    groups = {row["group_title"]: row["group"] for row in store.read_study(KEY)["trials"]}
    assert len(set(groups.values())) == 2


def test_more_draws_come_into_the_same_run(tmp_path):
    store = Store(tmp_path)
    runner.record(store, stage_of((1, 0, "a")))
    (before,) = {row["group"] for row in store.read_study(KEY)["trials"]}
    runner.record(store, stage_of((1, 1, "b")))
    rows = store.read_study(KEY)["trials"]
    assert {row["group"] for row in rows} == {before}
    assert sorted(row["step"] for row in rows) == [0, 0, 1, 1]


def test_a_draw_with_other_images_takes_the_place_of_the_earlier_one(tmp_path):
    store, earlier, later = Store(tmp_path), stage_of((1, 0, "a")), stage_of((1, 0, "b"))
    runner.record(store, earlier)
    runner.record(store, later)
    shown = places(store)
    assert [shown[key] for key in keys(later)] == [("1-shot", n, 0) for n in ("knn", "ncm")]
    assert [shown[key] for key in keys(earlier)] == [(None,) * 3] * 2, "runs of their own"


def test_a_trial_with_a_run_of_its_own_keeps_it(tmp_path):
    store = Store(tmp_path)
    runner.record(store, stage_of((1, 0, "a"), is_grouped=False))
    runner.record(store, stage_of((1, 0, "a"), (1, 1, "b")))
    assert sorted(map(str, places(store).values())) == sorted(
        map(str, [(None,) * 3] * 2 + [("1-shot", name, 1) for name in ("knn", "ncm")])
    )
