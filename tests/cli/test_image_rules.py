"""The rules for images, held in every command that reads them: links, split folders, copies, kinds
that are not read.

One table of commands, so that a command that is added is held to all rules by one row.
"""

from __future__ import annotations

import csv
import os
import shutil

import pytest
import undrawn
from conftest import draw_images

from tlx.models import backbones
from tlx.models.weights import reader as weights_reader

WORDS = ("--workers", 0, "--no-tracking")
FEW = ("--shots", 1, "--splits", 1, "--val-per-class", 2)
ALL = ("--epochs", 1, "--val-per-class", 2)
COMMANDS = {  # a command → what it is asked beside --dataset; each trains as little as it can
    "check": ("check", *FEW),
    "fine-tuning": ("fine-tuning", *FEW, "--epochs", 1, "--no-use-crops", *WORDS),
    "feature-extraction": (
        "feature-extraction",
        *FEW,
        "--classifier",
        "knn",
        "--no-use-crops",
        *WORDS,
    ),
    "compare": (
        "compare",
        *FEW,
        "--classifier",
        "knn",
        "--epochs",
        1,
        "--no-use-crops",
        *WORDS,
    ),
    "scores": (
        "scores",
        *FEW,
        "--sources",
        "mnist-cnn,resnet20-cifar",
        "--source",
        "random",
        *WORDS,
    ),
    "tune": ("tune", *FEW, "--trials", 1, *WORDS),
    "splits draw": ("splits", "draw", "csvs", *FEW),
    "extract": ("extract", "--layers", "last"),
    "analyze": ("analyze", "mnist", "--samples", 0, "--layers", "last", *WORDS),
    "atlas": ("atlas", "--samples", 0, *WORDS),
    "pretrain": ("pretrain", *ALL, *WORDS),
    "quanta": ("quanta", *ALL, "--repeats", 1, "--positions", 0, *WORDS),
    "layer-transfer": (
        "layer-transfer",
        *ALL,
        "--source",
        "default",
        "--repeats",
        1,
        "--depths",
        1,
        "--treatments",
        "AnB",
        *WORDS,
    ),
    "parameter-distance": ("parameter-distance", *ALL, "--seeds", 1, *WORDS),
    "chop": ("chop", *ALL, "--repeats", 1, "--depths", 1, *WORDS),
    "prune": ("prune", *ALL, "--repeats", 1, "--iterations", 1, *WORDS),
    "crops": ("crops", "cropped", "--size", 28),
}
DIVIDING = ("pretrain", "quanta", "layer-transfer", "parameter-distance", "chop", "prune")


def ask(tlx, name, data, *more):
    """Run a command of the table on a folder of images; figures only where `more` asks for them."""
    first, *rest = COMMANDS[name]
    figures = undrawn.WORDS if WORDS[0] in rest else ()  # the others have none
    return tlx(first, *rest, "--dataset", data, *figures, *more)


def checkpoints(tlx, source, target, *more):
    """The one command that takes its images by other options."""
    return tlx(
        "checkpoints",
        "--sources",
        source,
        "--targets",
        target,
        "--seeds",
        1,
        "--epochs",
        1,
        "--checkpoints",
        "0,1",
        "--from-checkpoints",
        "all",
        "--val-per-class",
        2,
        "--fine-tune-epochs",
        1,
        "--fine-tune-checkpoints",
        "0,1",
        "--samples",
        6,
        *WORDS,
        *undrawn.WORDS,
        *more,
    )


def evaluate(tlx, data, *more):
    """The command that needs a model of as many classes as the data have."""
    network = backbones.load("mnist-cnn", weights=None, classes=3, seed=0)
    path = data.parent / f"{data.name}-model.safetensors"
    weights_reader.write(path, network.net.state_dict())
    words = (*WORDS, *undrawn.WORDS, *more)
    return tlx("evaluate", path, "-a", "mnist-cnn", "--dataset", data, *words)


# ---------------------------------------------------------------- links


@pytest.fixture
def linked(tmp_path):
    """A data set, one class folder of which is a link to elsewhere, and in another of which one
    file is.
    """
    elsewhere = draw_images(tmp_path / "elsewhere", per_class=8)
    data = draw_images(tmp_path / "data", per_class=8)
    shutil.rmtree(data / "train" / "bar0")
    (data / "train" / "bar0").symlink_to(elsewhere / "train" / "bar0")
    (data / "train" / "bar1" / "000.png").unlink()
    (data / "train" / "bar1" / "000.png").symlink_to(elsewhere / "train" / "bar1" / "000.png")
    return data


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_link_that_leads_out_is_refused_by_every_command(name, tlx, linked):
    code, out, err = ask(tlx, name, linked)
    assert code == 4, out + err
    assert "outside-root" in err
    assert "and 1 more like it" in err
    assert "--allow-outside" in err


def test_a_link_that_leads_out_is_refused_by_evaluate(tlx, linked):
    code, _, err = evaluate(tlx, linked)
    assert code == 4
    assert "outside-root" in err


def test_a_link_that_leads_out_is_refused_as_source_and_target_of_checkpoints(tlx, linked, bars):
    assert checkpoints(tlx, linked, bars)[0] == 4
    assert checkpoints(tlx, bars, linked)[0] == 4


@pytest.mark.parametrize("name", ["quanta --source-dataset", "parameter-distance --source-images"])
def test_a_link_that_leads_out_is_refused_in_second_data_sets(name, tlx, linked, bars):
    command, option = name.split()
    assert ask(tlx, command, bars, option, linked)[0] == 4


@pytest.mark.parametrize("name", ["check", "crops", "extract", "splits draw", "pretrain"])
def test_a_link_that_leads_out_is_followed_where_it_is_allowed(name, tlx, linked, tmp_path):
    code, out, err = ask(tlx, name, linked, "--allow-outside", tmp_path / "elsewhere")
    assert code == 0, out + err


@pytest.mark.parametrize("name", ["check", "crops", "extract", "pretrain"])
def test_a_link_inside_the_root_is_followed(name, tlx, tmp_path):
    data = draw_images(tmp_path / "data", per_class=8)
    (data / "test" / "bar0" / "000.png").rename(data / "kept.png")
    (data / "test" / "bar0" / "000.png").symlink_to(data / "kept.png")
    root = tmp_path / "by-another-name"
    root.symlink_to(data)
    code, out, err = ask(tlx, name, root)
    assert code == 0, out + err


def test_crops_made_elsewhere_are_held_to_the_same_rule(tlx, bars, tmp_path):
    assert tlx("crops", "cropped", "--dataset", bars, "--size", 28)[0] == 0
    crop = next((tmp_path / "cropped" / "train").rglob("*_crop_3.png"))
    crop.rename(tmp_path / "outside.png")
    crop.symlink_to(tmp_path / "outside.png")
    words = (
        "extract",
        "--layers",
        "last",
        "--dataset",
        bars,
        "--use-crops",
        "--precomputed-crops",
        "cropped",
    )
    assert tlx(*words)[0] == 4
    assert tlx(*words, "--allow-outside", tmp_path)[0] == 0


def test_nothing_that_a_file_holds_is_printed(tlx, tmp_path):
    data = draw_images(tmp_path / "data", per_class=4)
    (data / "train" / "bar0" / "secret.png").write_text("hunter2 is the password")
    code, out, err = ask(tlx, "check", data)
    assert code == 3
    assert "not an image but text" in err
    assert "hunter2" not in out + err


def test_a_link_to_itself_is_left_out_and_counted(tlx, tmp_path):
    data = draw_images(tmp_path / "data", per_class=8)
    os.symlink("loop.png", data / "train" / "bar0" / "loop.png")
    os.symlink("bar9", data / "train" / "bar9")
    code, out, err = ask(tlx, "check", data)
    assert code == 0, err
    assert "1 left out: broken links or special files" in out


# ---------------------------------------------------------------- the same image on two sides


def copied(root, per_class=9):
    """Three classes: a third of the training images lie in test too, under other names."""
    data = draw_images(root, per_class=per_class, seed=3)
    for label in range(3):
        for number in range(per_class // 3):
            shutil.copy(
                data / "train" / f"bar{label}" / f"{number:03d}.png",
                data / "test" / f"bar{label}" / f"copy{number}.png",
            )
    return data


@pytest.mark.slow
@pytest.mark.parametrize("name", ["check", *DIVIDING])
def test_a_training_image_that_is_a_test_image_is_left_out_and_said(name, tlx, tmp_path):
    code, out, err = ask(tlx, name, copied(tmp_path / "data"))
    assert code == 0, out + err
    assert "9 of 27 training images" in out
    assert "bytes are" in out


@pytest.mark.slow
def test_a_training_image_that_is_a_test_image_is_left_out_of_checkpoints(tlx, tmp_path, bars):
    code, out, err = checkpoints(tlx, copied(tmp_path / "data"), bars)
    assert code == 0, out + err
    assert out.count("9 of 27 training images are left out") == 1


# ---------------------------------------------------------------- split folders in any case


@pytest.fixture
def spelt(tmp_path):
    """One data set twice, under one name: its split folders in lower case, and as people spell
    them.
    """
    low = draw_images(tmp_path / "low" / "data", per_class=8, splits=("train", "val", "test"))
    odd = shutil.copytree(low, tmp_path / "odd" / "data")
    for name, spelling in (("train", "Train"), ("val", "VALID"), ("test", "Test")):
        (odd / name).rename(odd / spelling)
    return low, odd


@pytest.mark.slow
@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    "name", [name for name in COMMANDS if name not in ("check", "crops", "splits draw")]
)
def test_split_folders_in_any_case_are_the_same_splits(name, tlx, spelt, tmp_path):
    """The second run finds what the first one made: the same trials, the same images on the same
    sides.
    """
    (code, first, err), again = (ask(tlx, name, data) for data in spelt)
    assert code == 0, first + err
    assert again[0] == 0, again[1] + again[2]
    if name == "extract":
        assert "0.0 s spent now" in again[1]
    elif name != "tune":
        assert "found done" in again[1]


def test_two_folders_that_name_one_split_are_refused(tlx, tmp_path):
    data = draw_images(tmp_path / "data", per_class=8, splits=("train", "Train", "test"))
    code, _, err = ask(tlx, "pretrain", data)
    assert code == 3
    assert "the folders Train, train name one split" in err


# ---------------------------------------------------------------- what is not read


@pytest.mark.slow
@pytest.mark.sampled(8)
@pytest.mark.parametrize("name", COMMANDS)
def test_images_of_a_kind_that_is_not_read_are_said_by_every_command(name, tlx, tmp_path):
    data = draw_images(tmp_path / "data", per_class=8)
    for number in range(4):
        (data / "train" / "bar1" / f"phone{number}.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (data / "train" / ".ipynb_checkpoints").mkdir()
    shutil.copy(
        data / "train" / "bar1" / "000.png", data / "train" / ".ipynb_checkpoints" / "000.png"
    )
    code, out, err = ask(tlx, name, data)
    assert code == 0, out + err
    assert "4 left out: .HEIC images, a kind that is not read, of 'bar1'" in out
    assert (
        "1 left out: images in hidden folders or folders of other programs: .ipynb_checkpoints"
        in out
    )


# ---------------------------------------------------------------- labels that were put right


@pytest.mark.slow
def test_labels_that_were_put_right_replace_those_of_an_old_dump(tlx, tmp_path, monkeypatch):
    """Two classes become one and the folder another name; the pixels, and so the dump, are the
    same.
    """
    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "cache"))
    data = draw_images(tmp_path / "zoo", per_class=8, splits=("",))
    words = ("--layers", "last", "--reduce", "flat", "--dataset")
    assert tlx("extract", *words, data)[0] == 0
    dump = next(path for path in (tmp_path / "cache" / "dumps").iterdir() if path.name != "locks")
    merged = data / "bar1and2"
    merged.mkdir()
    for label in ("bar1", "bar2"):
        for path in (data / label).iterdir():
            path.rename(merged / f"{label}_{path.name}")
        (data / label).rmdir()
    renamed = data.rename(tmp_path / "animals")
    asked = ("--samples", 0, "--layers", "last", *WORDS, *undrawn.WORDS)
    code, out, _ = tlx("analyze", dump, *asked, "--out", "old")
    assert code == 0
    assert "24 of its 24 images cannot be seen where they were" in out, (
        "labels are never old without a word"
    )
    code, out, _ = tlx("extract", *words, renamed)
    assert "0.0 s spent now" in out
    assert tlx("analyze", dump, *asked, "--out", "by_dump")[0] == 0
    assert tlx("analyze", "mnist", "--dataset", renamed, *asked, "--out", "by_images")[0] == 0
    old, by_dump, by_images = (
        read_rows(tmp_path / name / "layer_metrics.csv")[0]
        for name in ("old", "by_dump", "by_images")
    )
    assert by_dump["ss_ratio"] == by_images["ss_ratio"] != old["ss_ratio"]
    assert by_dump["dataset"] == by_images["dataset"] == "animals"
    assert "animals" in tlx("dumps", "ls")[1]
    assert tlx("dumps", "verify")[0] == 0


def read_rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))
