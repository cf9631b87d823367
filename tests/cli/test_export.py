"""tlx export and tlx predict: a finished trial's model, taken and used."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import shutil
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import processes
import pytest
import served_model
import undrawn
from PIL import Image
from studies import comparisons

from tlx import files
from tlx.cli import app
from tlx.errors import UsageError
from tlx.features import graphs
from tlx.lab.store import Store
from tlx.models.onnx_file import OnnxModel
from tlx.studies import STUDIES  # noqa: F401 — kinds of results are known when studies are loaded
from tlx.studies import export as studies_export
from tlx.studies.export import ExportRequest

FEW = (
    *("--shots", 3, "--splits", 1, "--val-per-class", 3, "--no-use-crops"),
    *("--workers", 0, *undrawn.WORDS, "--no-tracking"),
)


def one_key(folder: Path) -> str:
    (study,) = [path.parent.name for path in folder.glob("studies/*/study.json")]
    return study


@pytest.fixture(scope="module")
def made(bars, cache, make_once):
    """A store with one study of feature extraction, its export, and what was printed."""

    def make(folder: Path) -> None:
        environment = os.environ | {"TLX_CACHE": str(cache)}
        words = [*("feature-extraction", "--dataset", bars, "--classifier", "ridge"), *FEW]
        for command in (words, ["export", "KEY", "--out", "taken", "--json"]):
            if "KEY" in command:
                command[1] = one_key(folder / "tlx-runs")[:10]
            done = processes.run(
                [sys.executable, "-m", "tlx", *map(str, command)],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
        (folder / "printed.json").write_text(done.stdout)
        (folder / "complained.txt").write_text(done.stderr)

    return make_once("exported", make)


@pytest.fixture
def exported(made, tlx, tmp_path):
    """The folder of the export, and the command in a directory with its store."""
    shutil.copytree(made / "tlx-runs", tmp_path / "tlx-runs")
    return tlx, shutil.copytree(made / "taken", tmp_path / "taken")


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def truth(bars) -> list[Path]:
    return sorted((bars / "test").rglob("*.png"))


# ---------------------------------------------------------------- export


@pytest.mark.slow
def test_an_export_has_model_record_card_and_mlflow_model(made):
    folder = made / "taken"
    assert {path.name for path in folder.iterdir()} == {
        "card.md",
        "mlflow",
        "model.json",
        "model.onnx",
    }
    printed = json.loads((made / "printed.json").read_text())
    assert "median validation accuracy" in printed["chosen"]
    record = json.loads((folder / "model.json").read_text())
    assert record["classes"] == ["bar0", "bar1", "bar2"]
    assert 0 <= record["accuracy"]["low"] <= record["accuracy"]["value"]
    assert "exporting 3" not in (made / "printed.json").read_text()
    assert "exporting" in (made / "complained.txt").read_text()
    requirements = (folder / "mlflow" / "requirements.txt").read_text()
    assert "tlx" not in requirements
    assert "torch" not in requirements
    card = (folder / "card.md").read_text()
    for words in ("## Use", "## Accuracy", "## Limits", "--env-manager local", record["key"]):
        assert words in card


@pytest.mark.slow
def test_a_photo_is_labelled_the_same_by_key_by_export_and_by_file(exported, bars):
    tlx, folder = exported
    key = one_key(folder.parent / "tlx-runs")
    photo = truth(bars)[0]
    outputs = []
    for word in (folder, folder / "model.onnx", folder / "mlflow", key[:8], key[:8]):
        code, out, complained = tlx("predict", word, photo)
        assert code == 0, complained
        outputs.append(out)
    assert len(set(outputs)) == 1
    (row,) = table(outputs[0])
    assert row["path"] == str(photo)
    assert list(row) == ["path", "label", "p_bar0", "p_bar1", "p_bar2"]


@pytest.mark.slow
def test_a_folder_is_labelled_as_the_trial_labelled_it_and_json_has_the_same(exported, bars):
    tlx, folder = exported
    code, out, _ = tlx("predict", folder, bars / "test")
    assert code == 0
    rows = table(out)
    assert [Path(row["path"]) for row in rows] == truth(bars)
    right = [row["label"] == Path(row["path"]).parent.name for row in rows]
    record = json.loads((folder / "model.json").read_text())
    assert np.mean(right) == pytest.approx(record["accuracy"]["value"])
    values = json.loads(tlx("predict", folder, bars / "test", "--json")[1])
    assert [value["label"] for value in values] == [row["label"] for row in rows]
    assert values[0]["p_bar0"] == pytest.approx(float(rows[0]["p_bar0"]), rel=1e-5)
    assert sum(values[0][f"p_{name}"] for name in record["classes"]) == pytest.approx(1)


@pytest.mark.slow
def test_odd_and_broken_photos_are_named_and_the_others_are_labelled(exported, bars, tmp_path):
    tlx, folder = exported
    photos = tmp_path / "unlabelled" / "deep"
    photos.mkdir(parents=True)
    good = truth(bars)[0]
    shutil.copy(good, photos / "a.png")
    (photos / "b.png").write_bytes(good.read_bytes()[:100])
    (photos / "c.jpg").write_text("not an image")
    shutil.copy(good, photos / "d.jpg")  # a PNG by its bytes
    (photos / "notes.txt").write_text("hello")
    rgba = Image.new("RGBA", (30, 20), (10, 20, 30, 128))
    rgba.putpixel((3, 3), (200, 0, 0, 255))
    rgba.save(photos / "e.png")
    code, out, complained = tlx("predict", folder, tmp_path / "unlabelled", tmp_path / "no.png")
    assert code == 3
    rows = table(out)
    assert [Path(row["path"]).name for row in rows] == ["a.png", "d.jpg", "e.png"]
    assert rows[0]["label"] == rows[1]["label"]
    for words in ("b.png: truncated", "c.jpg: not an image", "no.png: image not found"):
        assert words in complained
    for words in ("d.jpg: named for another", "e.png: transparency", "1 left out"):
        assert words in complained


@pytest.mark.slow
def test_a_link_that_leads_out_is_followed_only_where_that_is_allowed(exported, bars, tmp_path):
    tlx, folder = exported
    photos, outside = tmp_path / "photos", tmp_path / "outside"
    photos.mkdir()
    outside.mkdir()
    shutil.copy(truth(bars)[0], outside / "x.png")
    shutil.copy(truth(bars)[0], photos / "a.png")
    (photos / "linked").symlink_to(outside)
    code, out, complained = tlx("predict", folder, photos)
    assert code == 4
    assert [Path(row["path"]).name for row in table(out)] == ["a.png"]
    assert "--allow-outside" in complained
    code, out, _ = tlx("predict", folder, photos, "--allow-outside", outside)
    assert code == 0
    assert [Path(row["path"]).name for row in table(out)] == ["a.png", "x.png"]


@pytest.mark.slow
def test_a_table_is_written_to_a_file(exported, bars, tmp_path):
    tlx, folder = exported
    code, out, complained = tlx("predict", folder, truth(bars)[0], "--out", "table.csv")
    assert (code, out) == (0, "")
    assert "table.csv" in complained
    assert len(table((tmp_path / "table.csv").read_text())) == 1


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("predict", "nowhere/model.onnx", "x.png"), 3, "exported model not found"),
        (("predict", ".", "x.png"), 3, "holds no exported model"),
        (("predict", "abc", "x.png"), 3, "trial or study 'abc' not found"),
        (("export", "abc"), 3, "trial or study 'abc' not found"),
        (("export", "abc", "--alias", "x"), 2, "--alias without --register"),
    ],
)
def test_what_is_not_there_is_a_sentence(tlx, words, code, says):
    left, _, complained = tlx(*words)
    assert left == code
    assert says in complained


@pytest.mark.slow
def test_xgboost_is_refused_with_a_sentence_and_nothing_is_written(tlx, bars, tmp_path):
    pytest.importorskip("xgboost")
    words = ("--dataset", bars, "--classifier", "xgboost:n_estimators=2", *FEW)
    assert tlx("feature-extraction", *words)[0] == 0
    code, _, complained = tlx("export", one_key(tmp_path / "tlx-runs")[:9])
    assert code == 2
    assert "xgboost cannot be exported" in complained
    assert not list((tmp_path / "tlx-models").glob("*"))


# ---------------------------------------------------------------- made once


def exporting(tlx, folder, *words):
    """Export the study of a store in `folder`; return the record and the card."""
    key = one_key(folder / "tlx-runs")
    code, _, complained = tlx("export", key[:12], "--out", "out", *words)
    assert code == 0, complained
    record = json.loads((folder / "out" / "model.json").read_text())
    return record, (folder / "out" / "card.md").read_text()


@pytest.mark.slow
def test_a_second_export_takes_the_model_that_was_made_and_a_damaged_one_is_made_again(
    exported, tmp_path, monkeypatch
):
    tlx, folder = exported
    made = []
    rebuild = ExportRequest.rebuild
    monkeypatch.setattr(
        ExportRequest, "rebuild", lambda request: made.append(1) or rebuild(request)
    )
    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "cache"))
    first, card = exporting(tlx, tmp_path)
    assert exporting(tlx, tmp_path)[0] == first
    assert len(made) == 1
    before = json.loads((folder / "model.json").read_text())
    assert first["sha256"] == before["sha256"], "the same bytes wherever it is made"
    (kept,) = (tmp_path / "cache" / "served").glob("*/model.json")
    for damaged in (kept, kept.with_name("model.onnx"), kept.with_name("MANIFEST.json")):
        content = damaged.read_bytes()
        damaged.write_bytes(content[: len(content) // 2])
        made.clear()
        assert exporting(tlx, tmp_path)[0]["sha256"] == first["sha256"]
        assert len(made) == 1, damaged
    damaged.unlink()  # as a version before this one kept it
    exporting(tlx, tmp_path)
    assert len(made) == 2
    assert "## Per class" in card


# ---------------------------------------------------------------- trained on all images


def training_images(folder: Path) -> set[str]:
    """Return the paths of all training images of the one study of a store."""
    (path,) = folder.glob("studies/*/study.json")
    splits_folder = Path(json.loads(path.read_text())["study"]["tags"]["tlx.splits"])
    held = {row[0] for name in ("val", "test") for row in rows_of(splits_folder / f"{name}.csv")}
    (listed,) = splits_folder.glob("all_images.csv")
    return {row[0] for row in rows_of(listed) if row[1] == "train"} - held


def rows_of(path: Path) -> list[list[str]]:
    with open(path, newline="") as file:
        return list(csv.reader(file))


@pytest.mark.slow
@pytest.mark.parametrize("study", ["feature-extraction", "fine-tuning"])
def test_a_refitted_model_learned_from_all_training_images_and_its_card_says_so(
    tlx, bars, tmp_path, study
):
    own = {
        "feature-extraction": ("--classifier", "ridge"),
        "fine-tuning": ("--epochs", 3, "--learning-rate", 0.05),
    }[study]
    code, _, complained = tlx(study, "--dataset", bars, *own, *FEW)
    assert code == 0, complained
    trial, _ = exporting(tlx, tmp_path)
    record, card = exporting(tlx, tmp_path, "--refit")
    count = record["refit"]["train_images"]
    assert count == len(training_images(tmp_path / "tlx-runs")) > 9
    assert f"trained on all {count} training images" in card
    assert f"It learned from all {count} training images" in card
    assert "No trial scored this model" in card
    assert "the label that the trial gave it" not in card
    assert record["sha256"] != trial["sha256"]
    assert record["key"] == trial["key"]
    assert record["refit"]["trial_test_accuracy"] == trial["accuracy"]["value"]
    assert record["check"]["differing_labels"] == 0
    again, _ = exporting(tlx, tmp_path, "--refit")
    assert again == record
    assert exporting(tlx, tmp_path)[0] == trial, "the model of the trial is kept beside it"


@pytest.mark.slow
def test_a_refitted_classifier_is_the_one_that_scikit_learn_fits_to_all_training_images(
    settings, bars, tmp_path
):
    from sklearn.linear_model import RidgeClassifier
    from sklearn.preprocessing import StandardScaler

    from tlx.features.classifiers import classifier
    from tlx.studies.feature_extraction.plan import refit_inputs
    from tlx.studies.feature_extraction.spec import FeatureExtraction

    splits_folder = tmp_path / "csvs"
    assert app.invoke(
        ["splits", "draw", str(splits_folder), "--dataset", str(bars), "--shots", "2"]
    ) in (0, None)
    spec = FeatureExtraction(
        dataset=str(bars),
        split_path=str(splits_folder),
        use_crops=False,
        shots=2,
        classifier="ridge",
        embedding="standard",
    )
    trial, _ = refit_inputs(spec, settings)
    inputs = trial.inputs
    prepared = inputs.prepared(trial.spec)
    scores = prepared.scores(prepared.fit(classifier("ridge")), inputs.test)
    rows = inputs.dump.matrix()
    scaler = StandardScaler().fit(rows[inputs.train.rows])
    own = RidgeClassifier().fit(scaler.transform(rows[inputs.train.rows]), inputs.train.labels)
    expected = own.predict(scaler.transform(rows[inputs.test.rows]))
    np.testing.assert_array_equal(scores.argmax(axis=1), expected)
    assert not set(inputs.train.images) & {*inputs.val.images, *inputs.test.images}


# ---------------------------------------------------------------- at the end of a study


@pytest.mark.slow
def test_a_study_exports_and_registers_at_its_end_what_its_key_would(tlx, bars, tmp_path):
    from mlflow import MlflowClient

    words = ("feature-extraction", "--dataset", bars, "--classifier", "ridge", *FEW[:-1])
    more = ("--mlflow-path", tmp_path / "m.db", "--export", "model", "--register", "bars")
    code, out, complained = tlx(*words, *more)
    assert code == 0, complained
    assert "registered as bars, version 1" in out
    assert "model: model" in out
    asked, _ = exporting(tlx, tmp_path, "--mlflow-path", tmp_path / "m.db")
    assert json.loads((tmp_path / "model" / "model.json").read_text()) == asked
    code, out, _ = tlx(*words, *more, "--alias", "champion")
    assert code == 0
    assert "was registered before as bars, version 1" in out
    code, out, _ = tlx(*words, "--mlflow-path", tmp_path / "m.db", "--register", "bars", "--refit")
    assert "registered as bars, version 2" in out
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/m.db")
    assert int(client.get_model_version_by_alias("bars", "champion").version) == 1
    assert client.get_model_version("bars", "2").tags["tlx.refit"] == "true"
    assert "tlx.refit" not in client.get_model_version("bars", "1").tags


@pytest.mark.slow
def test_a_comparison_exports_the_model_of_its_recommended_side(bars, cache, tmp_path):
    settings = comparisons.settings_of(tmp_path / "runs", cache)
    done = comparisons.compare(bars, settings, export=str(tmp_path / "model"), splits=3)
    record = json.loads((tmp_path / "model" / "model.json").read_text())
    decision = json.loads((done.study_folder / "decision.json").read_text())
    kinds = {"feature extraction": "feature-extraction", "fine-tuning": "fine-tuning"}
    assert record["kind"] == kinds[decision["recommended"]]
    plain = comparisons.compare(bars, settings, splits=3)
    assert plain.key == done.key, "where a model is written is no part of a key"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--refit",), "--refit without --export and --register"),
        (("--alias", "x"), "--alias without --register"),
        (("--export", "out", "--alias", "x"), "--alias without --register"),
        (("--register", "a/b"), "--register"),
        (("--register", "a", "--no-tracking"), "--register and --no-tracking"),
        (("--export", "full"), "other content than an export"),
    ],
)
@pytest.mark.parametrize("study", ["compare", "fine-tuning", "feature-extraction"])
def test_an_export_that_cannot_be_is_refused_before_anything_is_computed(
    tlx, bars, tmp_path, study, words, says
):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    code, _, complained = tlx(study, "--dataset", bars, *words)
    assert code == 2
    assert says in complained
    assert not list(tmp_path.glob("tlx-runs/studies/*"))


def test_a_study_of_classifiers_that_cannot_be_served_is_refused_at_once(tlx, bars):
    code, _, complained = tlx(
        *("feature-extraction", "--dataset", bars, "--classifier", "xgboost", "--export", "out")
    )
    assert code == 2
    assert "xgboost cannot be exported" in complained


@pytest.mark.parametrize("place", [("--export", "out"), ("--register", "it", "--refit")])
@pytest.mark.parametrize("study", ["compare", "feature-extraction"])
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("--classifier", "xgboost:n_estimators=3 ncm knn"),
            ("xgboost cannot be exported", "--classifier 'ncm knn'", "leave out --export"),
        ),
        (
            ("--classifier", "ncm", "--standardize", "per-set"),
            ("cannot be exported", "--standardize train"),
        ),
    ],
)
def test_any_model_that_could_not_be_exported_is_refused_before_images_are_looked_for(
    tlx, tmp_path, study, place, words, says
):
    code, _, complained = tlx(study, "--dataset", tmp_path / "nowhere", *words, *place)
    assert code == 2
    assert all(words in complained for words in says), complained
    assert not (tmp_path / "tlx-runs").exists()


@pytest.mark.parametrize("command", ["export", "predict"])
def test_a_classifier_of_a_study_that_cannot_be_exported_is_refused_with_another(
    command, tlx, bars, tmp_path, monkeypatch
):
    words = ("--dataset", bars, "--classifier", "ncm knn", *FEW)
    assert tlx("feature-extraction", *words)[0] == 0
    monkeypatch.setitem(graphs.NOT_SERVED, "ncm", "planted")
    monkeypatch.setattr("tlx.studies.served_trial.rebuild", None)  # nothing is computed
    photos = ("photo.png",) if command == "predict" else ()
    key = one_key(tmp_path / "tlx-runs")[:12]
    code, _, complained = tlx(command, key, *photos, "--classifier", "ncm")
    assert code == 2
    assert "ncm cannot be exported: planted" in complained
    assert f"tlx export {key} --classifier knn" in complained
    assert not list((tmp_path / "tlx-models").glob("*"))


def test_finished_studies_whose_model_could_not_be_exported_are_refused(
    bars, cache, tmp_path, monkeypatch
):
    settings = comparisons.settings_of(tmp_path, cache)
    comparisons.compare(bars, settings, classifier="ncm knn", shots=(2,), splits=3)
    store = Store(tmp_path)
    keys = [k for k in store.studies() if store.read_study(k)["experiment"] != "Compare"]
    monkeypatch.setitem(graphs.NOT_SERVED, "ncm", "planted")
    with pytest.raises(UsageError, match="ncm cannot be exported"):
        comparisons.compare(None, settings, from_studies=tuple(keys), export=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_several_data_sets_have_no_one_model(tlx, bars):
    code, _, complained = tlx("compare", "--dataset", f"digits,{bars}", "--export", "out")
    assert code == 2
    assert "--export with 2 data sets" in complained


# ---------------------------------------------------------------- killed

DRIVER = Path(__file__).with_name("killed_command.py")


def killed(folder: Path, where: str, *words: object):
    """Run a command that is killed at a place; return how it ended."""
    return processes.run(
        [sys.executable, str(DRIVER), where, *map(str, words)],
        cwd=folder,
        env=os.environ | {"TLX_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
    )


def is_export(folder: Path) -> bool:
    """Return whether the folder counts as an export: then it must be whole."""
    if not folder.exists():
        return False
    OnnxModel(folder)
    assert {path.name for path in folder.iterdir()} == {
        *("card.md", "mlflow", "model.json", "model.onnx")
    }
    assert (folder / "mlflow" / "MLmodel").is_file()
    return True


@pytest.mark.crash
@pytest.mark.timeout(900)
@pytest.mark.parametrize("place", ["out", "cache/served"])
def test_a_killed_export_leaves_none_or_a_whole_one_and_asking_again_completes_it(
    exported, tmp_path, rng, place
):
    """Killed anywhere while the model is kept, or while the export is written or replaced."""
    key = one_key(tmp_path / "tlx-runs")[:12]
    words = ("export", key, "--out", "out/model", "--store", "tlx-runs")
    (tmp_path / "out").mkdir()
    watched = tmp_path / place
    counts = []
    for _ in range(2 if place == "out" else 1):  # the second one replaces the first
        whole = killed(tmp_path, f"write:0:{watched}", *words)
        assert whole.returncode == 0, whole.stderr
        counts.append(int(whole.stdout.split()[-1]))
    count = counts[-1]
    assert count > 8
    last = range(count - 3, count + 1)  # where one folder takes the place of the other
    for number in sorted({rng.randrange(1, count - 3), *rng.sample(last, 2)}):
        if place != "out":
            shutil.rmtree(tmp_path / "cache" / "served")
        done = killed(tmp_path, f"write:{number}:{watched}", *words)
        assert done.returncode == -9, (number, count, done.stderr)
        is_export(tmp_path / "out" / "model")
        again = killed(tmp_path, f"write:0:{watched}", *words)
        assert again.returncode == 0, again.stderr
        assert is_export(tmp_path / "out" / "model")
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["model"]
        (kept,) = (tmp_path / "cache" / "served").iterdir()
        files.verify(kept)


PLACES = [
    "create_logged_model:after",
    "log_model_artifacts:before",
    "finalize_logged_model:before",
    "create_registered_model:after",
    "create_model_version:before",
    "create_model_version:after",
    "update_model_version:after",
]


@pytest.mark.crash
@pytest.mark.timeout(900)
@pytest.mark.sampled(2)
@pytest.mark.parametrize("where", PLACES)
def test_a_killed_registration_is_completed_and_makes_one_version(exported, tmp_path, where):
    from mlflow import MlflowClient

    key = one_key(tmp_path / "tlx-runs")[:12]
    words = ("export", key, "--out", "model", "--register", "bars", "--store", "tlx-runs")
    words = (*words, "--mlflow-path", "m.db")
    done = killed(tmp_path, f"mlflow:{where}", *words)
    assert done.returncode == -9, done.stderr
    assert is_export(tmp_path / "model")
    again = killed(tmp_path, f"write:0:{tmp_path}", *words)
    assert again.returncode == 0, again.stderr
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/m.db")
    (version,) = client.search_model_versions("name = 'bars'")
    record = json.loads((tmp_path / "model" / "model.json").read_text())
    assert version.tags["tlx.sha256"] == record["sha256"]
    assert version.description.startswith("# mnist-cnn on bars")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    logged = client.search_logged_models(experiments)
    assert [model.status.name for model in logged] == ["READY"]


# ---------------------------------------------------------------- MLflow


@pytest.fixture(scope="module")
def loaded(made):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mlflow's own, while it is imported
        import mlflow.pyfunc

    return mlflow.pyfunc.load_model(str(made / "taken" / "mlflow"))


@pytest.mark.slow
def test_the_mlflow_model_gives_the_labels_of_the_export(loaded, made, bars):
    import pandas

    from tlx.models.onnx_file import OnnxModel
    from tlx.studies import export

    model, paths = OnnxModel(made / "taken"), truth(bars)
    labels, probabilities = export.labelled(model, paths)
    contents = [path.read_bytes() for path in paths]
    as_text = [base64.b64encode(content).decode() for content in contents]
    for values in (contents, as_text):
        answer = loaded.predict(pandas.DataFrame({"image": values}))
        assert list(answer.columns) == ["label", "p_bar0", "p_bar1", "p_bar2"]
        assert list(answer["label"]) == [model.classes[label] for label in labels]
        np.testing.assert_allclose(answer.iloc[:, 1:].to_numpy(), probabilities, atol=1e-6)
    one_by_one = loaded.predict(pandas.DataFrame({"image": contents}), params={"batch_size": 1})
    np.testing.assert_allclose(one_by_one.iloc[:, 1:].to_numpy(), probabilities, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"not an image", "not a JPEG, PNG"),
        ("%%%", "not base64"),
        (None, "NoneType"),
        (b"", "not a JPEG, PNG"),
    ],
    ids=["text", "no base64", "nothing", "empty"],
)
def test_a_bad_image_is_one_error_that_names_the_row(loaded, bars, value, says):
    import pandas

    good = truth(bars)[0].read_bytes()
    with pytest.raises(ValueError, match=f"row 1: no usable image.*{says}"):
        loaded.unwrap_python_model().predict(None, pandas.DataFrame({"image": [good, value]}))


@pytest.mark.slow
def test_a_model_is_registered_once_with_key_card_and_alias(exported, tmp_path):
    from mlflow import MlflowClient

    tlx, folder = exported
    key = one_key(tmp_path / "tlx-runs")[:9]
    words = (
        "export",
        key,
        "--out",
        folder,
        "--register",
        "bars",
        "--mlflow-path",
        tmp_path / "m.db",
    )
    code, out, complained = tlx(*words)
    assert code == 0, complained
    assert "registered as bars, version 1" in out
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/m.db")
    version = client.get_model_version("bars", "1")
    record = json.loads((folder / "model.json").read_text())
    assert version.tags["tlx.key"] == record["key"]
    assert version.description.startswith("# mnist-cnn on bars")
    assert not client.get_registered_model("bars").aliases
    code, out, _ = tlx(*words, "--alias", "champion")
    assert code == 0
    assert "was registered before as bars, version 1" in out
    assert len(client.search_model_versions("name = 'bars'")) == 1
    assert int(client.get_model_version_by_alias("bars", "champion").version) == 1
    stored = client.get_model_version_download_uri("bars", "1")
    assert stored


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a/b", "a:b", " "])
def test_a_name_that_mlflow_refuses_is_refused_with_a_sentence(exported, tmp_path, name):
    tlx, folder = exported
    key = one_key(tmp_path / "tlx-runs")[:9]
    code, _, complained = tlx("export", key, "--out", folder, "--register", name)
    assert code == 2
    assert "--register" in complained


ALONE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "tlx", "torchvision", "sklearn"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
import json, pathlib
import mlflow.pyfunc, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
paths = json.loads(pathlib.Path(sys.argv[2]).read_text())
images = pandas.DataFrame({"image": [pathlib.Path(p).read_bytes() for p in paths]})
answer = model.predict(images)
print(json.dumps(list(answer["label"])))
assert not {"torch", "tlx"} & set(sys.modules)
"""


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_real_photos_are_labelled_where_neither_tlx_nor_torch_can_be_imported(
    tlx, shared_data, tmp_path
):
    """Every test image has the label of the trial, in a process that has the MLflow model alone."""
    photos = shared_data / "sign-digits"
    words = ("--dataset", photos, "--shots", 3, "--splits", 1, "--test-per-class", 20)
    code, _, complained = tlx(
        *("feature-extraction", *words, "--classifier", "linear-svc"),
        *("--workers", 0, "--no-tracking"),
    )
    assert code == 0, complained
    key = one_key(tmp_path / "tlx-runs")
    code, out, complained = tlx("export", key, "--out", "taken")
    assert code == 0, complained
    assert "200 test images have the labels of the trial" in out
    (result,) = (tmp_path / "tlx-runs" / "trials").glob("*/result.json")
    confusion = np.array(json.loads(result.read_text())["result"]["details"]["confusion"])
    study = json.loads((tmp_path / "tlx-runs/studies" / key / "study.json").read_text())["study"]
    with open(Path(study["tags"]["tlx.splits"]) / "test.csv") as file:
        rows = list(csv.reader(file))
    paths = [photos / row[0].split("/", 1)[1] for row in rows]
    paths = [
        path if path.is_file() else photos.parent / row[0]
        for path, row in zip(paths, rows, strict=True)
    ]
    (tmp_path / "paths.json").write_text(json.dumps([str(path) for path in paths]))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ALONE), "taken/mlflow", "paths.json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    labels = json.loads(done.stdout.splitlines()[-1])
    classes = sorted({row[3] for row in rows})
    counts = np.zeros_like(confusion)
    for row, label in zip(rows, labels, strict=True):
        counts[classes.index(row[3]), classes.index(label)] += 1
    np.testing.assert_array_equal(counts, confusion)


BLOCKER = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "tlx", "torchvision"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
open(__file__ + ".loaded", "a").close()
"""


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_server_without_tlx_and_torch_labels_photos_as_the_export_does(exported, bars, tmp_path):
    """tests/benchmarks/served_alone.py does the same in an environment of its own."""
    _, folder = exported
    (tmp_path / "blocking").mkdir()
    (tmp_path / "blocking" / "sitecustomize.py").write_text(BLOCKER)
    photos = truth(bars)[::5]
    labels, probabilities = studies_export.labelled(OnnxModel(folder), photos)
    blocking = str(tmp_path / "blocking")
    (tmp_path / "bad.png").write_text("no image")
    with served_model.serving(Path(sys.executable), folder / "mlflow", PYTHONPATH=blocking) as port:
        answers = served_model.labels_of(port, photos)
        status, text = served_model.ask(port, [photos[0], tmp_path / "bad.png"])
    assert (tmp_path / "blocking" / "sitecustomize.py.loaded").exists()
    assert status == 400
    assert "row 1: no usable image" in text
    assert [answer["label"] for answer in answers] == [f"bar{label}" for label in labels]
    served = [[answer[f"p_bar{number}"] for number in range(3)] for answer in answers]
    np.testing.assert_allclose(served, probabilities, atol=1e-6)


@pytest.mark.slow
def test_an_export_is_used_without_loading_torch(exported, bars):
    _, folder = exported
    code = (
        "import sys; from tlx.cli import app; "
        f"assert app.invoke(['predict', {str(folder)!r}, {str(truth(bars)[0])!r}]) == 0; "
        "assert 'torch' not in sys.modules; assert 'mlflow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
