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
from PIL import Image

from tlx.studies import STUDIES  # noqa: F401 — kinds of results are known when studies are loaded

FEW = (
    *("--shots", 3, "--splits", 1, "--val-per-class", 3, "--no-use-crops"),
    *("--workers", 0, "--no-tracking"),
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
