"""Evaluation of given models: weight files, chopped networks, exports, trials, on one data set."""

from __future__ import annotations

import csv
from dataclasses import replace

import h5py
import numpy as np
import pytest
import undrawn
from benchmarks.originals_table import keras_mobilenet
from conftest import draw_images
from studies.comparisons import settings_of

from tlx import files
from tlx.errors import BadDataError, ErrorGroup, MissingError, TlxError, UsageError
from tlx.features import voting
from tlx.lab.store import Store
from tlx.models import backbones, chopped
from tlx.models.weights import reader as weights_reader
from tlx.plots import statistics
from tlx.studies import STUDIES, Session, predictions, run_study
from tlx.studies.evaluate import report as evaluate_report
from tlx.studies.evaluate.models import GivenModel, network_of
from tlx.studies.evaluate.spec import Evaluation

CLASSES = ("bar0", "bar1", "bar2")


def evaluate(settings, data, models, session=undrawn.session, **changes):
    words = {"dataset": str(data), "models": tuple(map(str, models)), **changes}
    return run_study(STUDIES["evaluate"].with_settings(words), session(settings))


@pytest.fixture(scope="module")
def settings(tmp_path_factory, cache):
    return settings_of(tmp_path_factory.mktemp("runs"), cache)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two weight files of the small CNN, the second one's head with the classes turned."""
    folder = tmp_path_factory.mktemp("models")
    network = backbones.load("mnist-cnn", weights=None, classes=3, seed=1)
    state = network.net.state_dict()
    weights_reader.write(folder / "a.safetensors", state)
    state["fc2.weight"], state["fc2.bias"] = (
        state[name].roll(1, 0) for name in ("fc2.weight", "fc2.bias")
    )
    weights_reader.write(folder / "b.safetensors", state)
    return folder / "a.safetensors", folder / "b.safetensors"


@pytest.fixture(scope="module")
def done(settings, models, bars):
    return evaluate(settings, bars, models, Session, architecture="mnist-cnn")


def naive_scores(result, labels, predicted):
    """Accuracy, precision and F1 of each class, by counting."""
    rows = {}
    for code, name in enumerate(result.details["classes"]):
        right = sum((labels == code) & (predicted == code))
        true, guessed = sum(labels == code), sum(predicted == code)
        rows[name] = (
            right / true if true else None,
            right / guessed if guessed else None,
            2 * right / (true + guessed) if true + guessed else None,
        )
    return rows


def test_accuracies_classes_and_confusions_are_those_of_the_predictions(done):
    store = Store(done.folder)
    for result in done.results:
        labels, predicted = predictions.read_truth(store, result), predictions.read(store, result)
        counts = voting.confusion(labels, predicted, 3)
        assert result.details["confusion"] == counts.tolist()
        rows = naive_scores(result, labels, predicted)
        known = [row[0] for row in rows.values()]
        assert result.scores["test_accuracy"] == pytest.approx(np.mean(known))
        assert result.scores["test_top1"] == pytest.approx((labels == predicted).mean())
        folder = store.folder(result.key)
        table = list(csv.DictReader((folder / "per_class.csv").read_text().splitlines()))
        for row in table:
            accuracy, precision, f1 = rows[row["class"]]
            assert float(row["accuracy"]) == pytest.approx(accuracy)
            assert (row["precision"] == "") == (precision is None)
            assert float(row["f1"]) == pytest.approx(f1)
            low, high = statistics.binomial_interval(accuracy, int(row["images"]))
            assert (float(row["ci95_low"]), float(row["ci95_high"])) == pytest.approx((low, high))
        listed = list(csv.DictReader((folder / "predictions.csv").read_text().splitlines()))
        assert [row["predicted"] for row in listed] == [CLASSES[code] for code in predicted]
        assert all(row["label"] in row["path"] for row in listed)


def test_models_are_compared_on_the_same_images(done):
    first, second = evaluate_report.rows_of(Store(done.folder), done.results)
    assert first.difference is None
    mean, low, high = second.difference
    assert mean == pytest.approx(second.accuracy - first.accuracy)
    assert low <= mean <= high
    text = evaluate_report.format_summary(done)
    assert "points over the first" in text
    assert "warning: 3 classes have fewer than 10 images" in text
    assert done.figures


def test_asked_again_nothing_is_labelled(done, settings, models, bars, monkeypatch):
    monkeypatch.setattr("tlx.models.training.predict", None)
    again = evaluate(settings, bars, models, Session, architecture="mnist-cnn")
    assert again.reused == 2
    assert again.key == done.key


def test_crops_vote(settings, models, bars):
    done_report = evaluate(settings, bars, models[:1], architecture="mnist-cnn", use_crops=True)
    (result,) = done_report.results
    assert result.details["test_images"] == sum(map(sum, result.details["confusion"]))
    assert result.spec["use_crops"]


def test_a_chopped_network_says_itself_what_it_is(settings, bars, tmp_path):
    """The classes are matched by name: its own order is another one."""
    whole = backbones.load("mnist-cnn", weights=None, classes=3, seed=1)
    cut = chopped.chop(whole, 2, 3, seed=1)
    turned = tuple(reversed(CLASSES))
    path = tmp_path / "cut.safetensors"
    chopped.write(path, cut, architecture="mnist-cnn", cut=2, classes=turned)
    (result,) = evaluate(settings, bars, [path]).results
    assert result.spec["architecture"] == "mnist-cnn"
    assert tuple(result.details["classes"]) == turned
    (of_record,) = evaluate(settings, bars, [path.with_suffix(".json")]).results
    assert of_record.key == result.key, "the file that tlx chop names"
    renamed = tmp_path / "other.safetensors"
    chopped.write(renamed, cut, architecture="mnist-cnn", cut=2, classes=("x", "bar1", "bar2"))
    with pytest.raises(BadDataError, match="no class 'bar0'"):
        evaluate(settings, bars, [renamed])


def test_an_export_labels_as_its_trial_did(settings, bars, tmp_path):
    words = {"dataset": str(bars), "shots": (2,), "splits": 1, "val_per_class": 3, "epochs": 1}
    study = STUDIES["fine-tuning"].with_settings({**words, "use_crops": False})
    tuned = run_study(study, undrawn.session(settings))
    trained = tuned.results[0]
    (result,) = evaluate(settings, bars, [trained.key]).results
    (row,) = evaluate_report.rows_of(Store(settings.store_folder(None)), [result])
    assert row.label == f"trial {trained.key[:12]}"
    assert result.scores["test_accuracy"] == pytest.approx(trained.scores["test_accuracy"])
    assert result.details["confusion"] == trained.details["confusion"]
    again = replace(result, details={**result.details, "is_refit": True})
    assert any("all training images" in line for line in evaluate_report.warnings_of([again]))
    assert not any("learned" in line for line in evaluate_report.warnings_of([result]))


@pytest.mark.parametrize("balance", ["none", "undersampling", "equals"])
def test_images_are_balanced_by_drawing(settings, models, tmp_path, balance):
    data = draw_images(tmp_path / "odd", classes=3, per_class=8)
    for name, count in (("bar0", 2), ("bar1", 5)):
        for path in sorted((data / "test" / name).iterdir())[count:]:
            path.unlink()
    (result,) = evaluate(
        settings, data, models[:1], architecture="mnist-cnn", balance=balance
    ).results
    images = [sum(row) for row in result.details["confusion"]]
    largest = len(list((data / "test" / "bar2").iterdir()))
    expected = {"none": [2, 5, largest], "undersampling": [2, 5, 5], "equals": [2, 2, 2]}
    assert images == expected[balance]


def test_every_part_is_other_images_and_all_are_all(settings, models, bars):
    shown = {}
    for part in ("train", "val", "test", "all"):
        done_report = evaluate(
            settings, bars, models[:1], architecture="mnist-cnn", part=part, val_per_class=2
        )
        (result,) = done_report.results
        table = (Store(done_report.folder).folder(result.key) / "predictions.csv").read_text()
        shown[part] = {row["path"] for row in csv.DictReader(table.splitlines())}
        told = any("may have learned" in line for line in evaluate_report.warnings_of([result]))
        assert told == (part != "test")
    assert shown["train"] | shown["val"] | shown["test"] == shown["all"]
    assert len(shown["train"]) + len(shown["val"]) + len(shown["test"]) == len(shown["all"])


@pytest.mark.parametrize(
    ("words", "changes", "kind", "says"),
    [
        ((), {}, UsageError, "no model is named"),
        (("nowhere.json",), {}, MissingError, "nowhere.json"),
        (("nowhere.pth",), {"architecture": "mnist-cnn"}, MissingError, "nowhere.pth"),
        (("A",), {}, UsageError, "--architecture NAME"),
        (("A",), {"architecture": "resnet20-cifar"}, TlxError, "a.safetensors"),
        (("0123456789",), {}, TlxError, "0123456789"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_first(
    settings, models, bars, words, changes, kind, says
):
    given = [str(models[0]) if word == "A" else word for word in words]
    before = set(Store(settings.store_folder(None)).keys())
    with pytest.raises((kind, ErrorGroup), match=says):
        evaluate(settings, bars, given, **changes)
    assert set(Store(settings.store_folder(None)).keys()) == before


def test_a_head_of_other_classes_is_refused(settings, models, tmp_path):
    data = draw_images(tmp_path / "four", classes=4, per_class=4)
    with pytest.raises(BadDataError, match="its head has 3 outputs"):
        evaluate(settings, data, models[:1], architecture="mnist-cnn")


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("a.safetensors", "a.safetensors"),
        ("weights/a.pth", "a.pth"),
        ("my-model", "my-model"),
        ("exports/my-model", "exports/my-model"),
        ("/my-model", "my-model"),
    ],
)
def test_a_model_is_called_by_its_file_or_folder(path, label):
    assert Evaluation(model=path).label == label


@pytest.mark.slow
def test_a_keras_file_keeps_its_head_of_as_many_classes_as_the_data_set(settings, bars, tmp_path):
    """A3B-mobilenet.h5 of the original has three classes, where MobileNet's own file has 1,000."""
    path = tmp_path / "A3B-mobilenet.h5"
    with h5py.File(path, "w") as file:
        keras_mobilenet(file, np.random.default_rng(0))
        kernel = file["conv_preds/conv_preds/kernel:0"][()]
    report = evaluate(settings, bars, [path], architecture="mobilenet-v1", input_size=64)
    assert report.results[0].details["classes"] == list(CLASSES)
    given = GivenModel(path, "mobilenet-v1", (), files.sha256(path))
    network = network_of(given, Evaluation(dataset=str(bars), input_size=64), 3)
    assert np.array_equal(network.head.weight.detach().numpy(), kernel.transpose(3, 2, 0, 1))
    with pytest.raises(TlxError, match=r"expected \(4, 1024, 1, 1\)"):
        network_of(given, Evaluation(dataset=str(bars), input_size=64), 4)
