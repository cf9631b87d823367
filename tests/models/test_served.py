"""Served models: the ONNX file gives the labels of the trial, whatever the trial was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import undrawn
from scipy.special import softmax

from tlx import files
from tlx.data.sizing import Sizing, layout
from tlx.errors import BadDataError, IntegrityError, MissingError, UsageError
from tlx.features import estimators, voting
from tlx.features.classifiers import CLASSIFIERS
from tlx.features.graphs import GRAPHS
from tlx.lab.settings import Settings
from tlx.lab.store import Store
from tlx.models import onnx_file, served
from tlx.models.onnx_file import OnnxModel
from tlx.result import Result
from tlx.studies import export, served_trial
from tlx.studies.feature_extraction.plan import feature_extraction_study
from tlx.studies.feature_extraction.spec import FeatureExtraction, FeatureExtractionGrid
from tlx.studies.few_shot import FewShotGrid
from tlx.studies.fine_tuning.plan import fine_tuning_study
from tlx.studies.fine_tuning.spec import FineTuning

FEW = FewShotGrid(shots=(3,), splits=1, val_per_class=3)
ROWS = [
    *(name for name in CLASSIFIERS if name in GRAPHS and name != "knn-cosine"),
    *("knn-cosine:k=5", "knn:k=3,weights=distance"),
]
SHAPES = {  # how a trial is asked, for every row of classifiers
    "crops, majority": {"use_crops": True},
    "crops, mean probability": {"use_crops": True, "vote": "mean-probability"},
    "no crops": {"use_crops": False},
}


def run(stage, settings):
    report = undrawn.run_stage(stage, settings)
    report.raise_if_failed(require_tracking=False)
    return Store(report.folder), report


def features(bars, settings, classifiers="linear-svc", few=FEW, **changes):
    spec = FeatureExtraction(dataset=str(bars), **{"use_crops": False, **changes})
    sweep = FeatureExtractionGrid(classifier=classifiers)
    return run(feature_extraction_study(spec, few, sweep, settings)[0], settings)


def tuned(bars, settings, few=FEW, **changes):
    spec = FineTuning(dataset=str(bars), **{"use_crops": False, "epochs": 2, **changes})
    return run(fine_tuning_study(spec, few, settings)[0], settings)


def request(store, key, settings, said=None):
    chosen = served_trial.choose(store, key)
    note = (lambda text: None) if said is None else said.append
    return export.ExportRequest(chosen, store, settings, note)


def check_exported(store, key, settings, tmp_path):
    """Export, and compare with the trial's record and with numpy alone; return the record."""
    asked = request(store, key, settings)
    rebuilt = asked.rebuild()
    folder = tmp_path / key[:8]
    folder.mkdir()
    record = export.write_network(asked, rebuilt, folder)
    labels, probabilities = export.labelled(OnnxModel(folder), rebuilt.files)
    counts = voting.confusion(rebuilt.labels, labels, len(record["classes"]))
    assert counts.tolist() == store.find(key).details["confusion"]
    t = record["temperature"]
    q = softmax(rebuilt.scores.astype(float) / t["crop"], axis=2).mean(axis=1)
    p = softmax(np.log(q) / t["image"], axis=1)
    np.testing.assert_allclose(np.sort(probabilities), np.sort(p), atol=1e-4)
    np.testing.assert_array_equal(probabilities.argmax(axis=1), labels)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert record["check"]["largest_difference_of_a_probability"] < 1e-4
    assert record["sha256"] == files.sha256(folder / onnx_file.ONNX)
    card = export.card(record, asked.chosen.result, export._siblings(asked), asked)
    assert key in card
    for number, name in enumerate(record["classes"]):
        share = counts[number, number] / counts[number].sum()
        assert f"| {name} | {counts[number].sum()} | {100 * share:.1f} % |" in card
    return record


@pytest.mark.slow
@pytest.mark.sampled(14)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("row", ROWS)
def test_every_classifier_gives_the_labels_of_its_trial_in_onnxruntime(
    bars, settings, tmp_path, row, shape
):
    store, report = features(bars, settings, row, **SHAPES[shape])
    check_exported(store, report.results[0].key, settings, tmp_path)


def test_every_classifier_that_has_a_graph_is_exported_by_the_test_above():
    assert {row.partition(":")[0] for row in ROWS} == set(GRAPHS)


@pytest.mark.slow
@pytest.mark.parametrize("embedding", ["l2", "standard", "none"])
def test_every_embedding_is_in_the_graph(bars, settings, tmp_path, embedding):
    store, report = features(bars, settings, "logistic", embedding=embedding)
    check_exported(store, report.results[0].key, settings, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"reduce": "flat"},
        {"dtype": "float16"},
        {"fold": False},
        {"layers": "last"},
        {"layers": "input,conv2:relu"},
        {"sizing": "aspect"},
        {"sizing": "aspect", "use_crops": True},
    ],
    ids=str,
)
def test_every_way_to_take_features_is_in_the_graph(bars, settings, tmp_path, change):
    store, report = features(bars, settings, "ncm", **change)
    check_exported(store, report.results[0].key, settings, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_a_fine_tuned_network_is_trained_again_and_gives_the_labels_of_its_trial(
    bars, settings, tmp_path, shape
):
    store, report = tuned(bars, settings, **SHAPES[shape])
    key = report.results[0].key
    record = check_exported(store, key, settings, tmp_path)
    assert len(record["crops"]) == (10 if SHAPES[shape]["use_crops"] else 1)
    said = []
    request(store, key, settings, said).rebuild()
    assert any("trained again" in text and " s then" in text for text in said)


def test_a_tie_of_class_means_is_a_tie_in_the_graph_too():
    """Rows of whole numbers: a trial, which has products, and the graph decide alike."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(-1, 2, (12, 40)).astype(float), np.arange(12) % 4
    x[y == 1] = x[y == 0][:, ::-1]
    new = rng.integers(-1, 2, (200, 40)).astype(float)
    new[:50] = (new[:50] + new[:50, ::-1]).clip(-1, 1)
    model = estimators.NearestMeanClassifier().fit(x, y)
    of_trial = estimators.NearestMeanClassifier(precomputed=True).fit(
        np.hstack([x @ x.T, (x**2).sum(axis=1, keepdims=True)]), y
    )
    products = np.hstack([new @ x.T, (new**2).sum(axis=1, keepdims=True)])
    expected = of_trial.scores(products)
    assert (expected[:50, 0] == expected[:50, 1]).all(), "these are tied"
    graph = served.MeanProducts(model.sums_, model.counts_)
    found = graph(torch.from_numpy(new)).numpy()
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.slow
def test_one_image_and_many_have_the_same_answer(bars, settings, tmp_path):
    store, report = features(bars, settings, "svc", use_crops=True)
    asked = request(store, report.results[0].key, settings)
    rebuilt = asked.rebuild()
    export.write_network(asked, rebuilt, tmp_path)
    model = OnnxModel(tmp_path)
    inputs = list(export.served_inputs(rebuilt.files[:5], model.sizing))
    together = model.predict(np.stack(inputs))
    for number, one in enumerate(inputs):
        label, probabilities = model.predict(one[None])
        assert label[0] == together[0][number]
        np.testing.assert_allclose(probabilities[0], together[1][number], atol=1e-6)


@pytest.mark.parametrize("mode", ["squash", "aspect", "nearest"])
@pytest.mark.parametrize("crops", [True, False])
def test_the_crops_of_the_input_are_those_of_the_layout(mode, crops):
    sizing = Sizing(12, crops=crops, mode=mode, channels=3)
    shape, places = onnx_file.crops_of(sizing)
    rng = np.random.default_rng(0)
    views = rng.integers(0, 256, layout(sizing).views, dtype=np.uint8)
    image = np.concatenate(list(views))
    assert image.shape == shape
    for number, (top, left, mirrored) in enumerate(places):
        want = np.empty((12, 12, 3), np.uint8)
        layout(sizing).cut(views, number, want)
        window = image[top : top + 12, left : left + 12]
        np.testing.assert_array_equal(window[:, ::-1] if mirrored else window, want)


def test_votes_are_those_of_numpy_also_where_crops_are_equally_many():
    import torch

    rng = np.random.default_rng(1)
    scores = rng.integers(0, 3, (300, 10, 4)).astype(float)  # ties everywhere
    for name, vote in served.VOTES.items():
        ours = vote(torch.from_numpy(scores)).numpy()
        np.testing.assert_array_equal(ours, voting.VOTING[name](scores))


# ---------------------------------------------------------------- which trial


def test_of_a_study_the_trial_with_the_median_validation_accuracy_at_the_largest_shots(
    bars, settings
):
    few = FewShotGrid(shots=(1, 3), splits=3, val_per_class=3)
    store, report = features(bars, settings, "ncm knn", few)
    chosen = served_trial.choose(store, report.key[:10])
    largest = [r for r in report.results if r.spec["shots"] == 3]
    means = {
        name: np.mean([r.scores["val_accuracy"] for r in largest if r.spec["classifier"] == name])
        for name in ("ncm", "knn")
    }
    best = chosen.result.spec["classifier"]
    assert means[best] == max(means.values())
    values = sorted(r.scores["val_accuracy"] for r in largest if r.spec["classifier"] == best)
    assert chosen.result.scores["val_accuracy"] == values[1]
    assert f"split {chosen.result.spec['split']}" in chosen.reason
    other = served_trial.choose(store, report.key, "ncm")
    assert other.result.spec["classifier"] == "ncm"


def test_a_key_that_is_none_or_of_several_is_refused(bars, settings):
    store, report = features(bars, settings, "ncm")
    with pytest.raises(MissingError, match="'zz' not found"):
        served_trial.choose(store, "zz")
    for name in ("1", "2"):
        (store.root / "trials" / f"{report.key}{name}").mkdir(parents=True)
    with pytest.raises(BadDataError, match="begin with"):
        served_trial.choose(store, report.key[:12])


def test_statistics_of_each_set_are_refused(bars, settings):
    store, report = features(bars, settings, "ncm", standardize="per-set")
    with pytest.raises(UsageError, match="whole set"):
        request(store, report.results[0].key, settings).rebuild()


# ---------------------------------------------------------------- never another model


def changed(result: Result, **details) -> Result:
    return Result.from_json(result.to_json() | {"details": result.details | details})


def test_a_model_that_decides_otherwise_than_recorded_is_refused(bars, settings):
    store, report = features(bars, settings, "ncm")
    asked = request(store, report.results[0].key, settings)
    result = asked.chosen.result
    counts = np.array(result.details["confusion"])
    counts[0, 0], counts[0, 1] = counts[0, 0] - 1, counts[0, 1] + 1
    other = served_trial.ChosenTrial(
        changed(result, confusion=counts.tolist()), asked.chosen.study, ""
    )
    with pytest.raises(IntegrityError, match="not the one that was scored"):
        served_trial.rebuild(other, store, settings, lambda text: None)


def test_predictions_that_a_trial_kept_are_compared_one_by_one(bars, settings, monkeypatch):
    store, report = features(bars, settings, "ncm")
    asked = request(store, report.results[0].key, settings)
    decided = asked.rebuild().decided.astype(np.uint16)
    path = store.root / "kept.npy"
    kept = {served_trial.PREDICTIONS: path}
    monkeypatch.setattr(Store, "trial_files", lambda self, key: kept)
    monkeypatch.setattr(Store, "file", lambda self, key, name: kept[name])
    np.save(path, decided)
    asked.rebuild()
    first, other = np.flatnonzero(decided == decided[0])[0], decided[0] + 1
    decided[first] = other % 3
    np.save(path, decided)
    with pytest.raises(IntegrityError, match="other labels of 1 test image"):
        asked.rebuild()


def test_images_that_changed_since_are_refused(bars, settings, tmp_path):
    import shutil

    folder = tmp_path / "photos"
    shutil.copytree(bars, folder)
    store, report = features(folder, settings, "ncm")
    first = sorted(folder.glob("test/bar0/*.png"))[0]
    shutil.copy(sorted(folder.glob("test/bar1/*.png"))[0], first)
    with pytest.raises(IntegrityError, match="not those of the trial"):
        request(store, report.results[0].key, settings).rebuild()


def test_images_that_moved_are_found_where_they_are_said_to_be(bars, settings, tmp_path):
    import shutil

    folder = tmp_path / "photos"
    shutil.copytree(bars, folder)
    store, report = features(folder, settings, "ncm")
    moved = folder.rename(tmp_path / "moved")
    chosen = served_trial.choose(store, report.results[0].key)
    served_trial.rebuild(chosen, store, settings, lambda text: None, moved={"dataset": str(moved)})


# ---------------------------------------------------------------- files


@pytest.fixture(scope="module")
def network_folder(bars, cache, tmp_path_factory):
    """The exported files of one small trial."""
    tmp_path = tmp_path_factory.mktemp("network")
    settings = Settings(
        store=str(tmp_path / "runs"),
        cache=str(cache),
        tracking=False,
        workers=0,
        system_metrics=False,
    )
    store, report = features(bars, settings, "ncm")
    asked = request(store, report.results[0].key, settings)
    folder = tmp_path / "export"
    folder.mkdir()
    export.write_network(asked, asked.rebuild(), folder)
    return folder


def copied(folder, tmp_path):
    import shutil

    return shutil.copytree(folder, tmp_path / "copy")


def test_another_model_than_the_record_says_is_refused(network_folder, tmp_path):
    folder = copied(network_folder, tmp_path)
    data = bytearray((folder / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.onnx").write_bytes(data)
    with pytest.raises(IntegrityError, match="another model than its record"):
        OnnxModel(folder)


@pytest.mark.parametrize("name", ["model.onnx", "model.json"])
def test_a_missing_file_is_named(network_folder, tmp_path, name):
    folder = copied(network_folder, tmp_path)
    (folder / name).unlink()
    with pytest.raises(MissingError, match=name):
        OnnxModel(folder)


@pytest.mark.parametrize(
    ("record", "says"),
    [("[]", "lacks classes"), ('{"classes": []}', "lacks sizing"), ('{"format": 9}', "format 9")],
)
def test_a_record_that_is_none_is_refused(network_folder, tmp_path, record, says):
    folder = copied(network_folder, tmp_path)
    (folder / "model.json").write_text(record)
    with pytest.raises(BadDataError, match=says):
        OnnxModel(folder)


def test_a_folder_with_other_content_is_not_replaced(network_folder, tmp_path):
    folder = copied(network_folder, tmp_path)
    export.check_folder(folder)
    export.check_folder(tmp_path / "new")
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="other content"):
        export.check_folder(folder)


def half_an_export(folder):
    with export.replacing(folder) as new:
        (new / "model.onnx").write_bytes(b"half")
        raise ZeroDivisionError


def test_a_failed_export_leaves_the_earlier_one_as_it_was(network_folder, tmp_path):
    folder = copied(network_folder, tmp_path)
    before = files.sha256(folder / "model.onnx")
    with pytest.raises(ZeroDivisionError):
        half_an_export(folder)
    assert files.sha256(folder / "model.onnx") == before
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
