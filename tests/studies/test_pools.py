"""All images as train, val and test: what is drawn, balanced, halved, and what the digest of a task
depends on.
"""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from conftest import draw_images

from tlx import files
from tlx.data.folders import list_images
from tlx.data.sides import sides_of
from tlx.errors import BadDataError, ErrorGroup
from tlx.lab.settings import Settings
from tlx.studies import whole_dataset_inputs
from tlx.studies.whole_dataset import WholeDataset


@pytest.fixture(scope="module")
def loose(tmp_path_factory):
    """Classes of 9, 6 and 4 images, without split folders."""
    root = tmp_path_factory.mktemp("data") / "loose"
    draw_images(root, per_class=9, splits=("",))
    for label, count in (("bar1", 6), ("bar2", 4)):
        for path in sorted((root / label).iterdir())[count:]:
            path.unlink()
    return root


def counts(images):
    return {
        label: sum(image.label == label for image in images)
        for label in sorted({i.label for i in images})
    }


def divided(root, **settings):
    folder = list_images(root)
    content = {image: files.sha256(root / image.path) for image in folder.images}
    spec = WholeDataset(**{"val_per_class": 1, "test_per_class": 2} | settings)
    return whole_dataset_inputs.divided(folder, spec, sides_of(folder, content))


def test_val_and_test_are_drawn_from_every_class_and_nothing_stands_twice(loose):
    roles = divided(loose)
    assert counts(roles["test"]) == dict.fromkeys(("bar0", "bar1", "bar2"), 2)
    assert counts(roles["val"]) == dict.fromkeys(("bar0", "bar1", "bar2"), 1)
    assert counts(roles["train"]) == {"bar0": 6, "bar1": 3, "bar2": 1}
    paths = [image.path for images in roles.values() for image in images]
    assert len(paths) == len(set(paths)) == 19
    assert divided(loose) == roles
    assert divided(loose, seed=1)["test"] != roles["test"]


def test_copies_of_an_image_are_on_one_side(loose, tmp_path):
    """Every image of a class three times: whichever copy is drawn for one side, no other side holds
    its bytes.
    """
    root = shutil.copytree(loose, tmp_path / "copies")
    for path in list(root.glob("bar0/*.png")):
        for number in range(2):
            shutil.copy(path, path.with_name(f"copy{number}_{path.name}"))
    for seed in range(20):
        roles = divided(root, seed=seed)
        content = {
            role: {(root / image.path).read_bytes() for image in images}
            for role, images in roles.items()
        }
        assert not content["train"] & (content["val"] | content["test"])
        assert not content["val"] & content["test"]


def test_folders_are_taken_as_they_are(bars):
    roles = divided(bars)
    assert counts(roles["test"]) == dict.fromkeys(("bar0", "bar1", "bar2"), 8)
    assert {image.split for image in roles["test"]} == {"test"}
    assert counts(roles["train"]) == dict.fromkeys(("bar0", "bar1", "bar2"), 11)


@pytest.mark.parametrize(
    ("how", "left"), [("none", [6, 3, 1]), ("undersampling", [3, 3, 1]), ("equals", [1, 1, 1])]
)
def test_training_images_are_balanced_as_asked(loose, how, left):
    roles = divided(loose, balance=how)
    assert list(counts(roles["train"]).values()) == left
    assert divided(loose)["test"] == roles["test"]
    assert set(roles["train"]) <= set(divided(loose)["train"])
    assert divided(loose, balance=how) == roles, "the draw is seeded"


def test_the_counts_of_the_self_driving_data():
    given = {"forward": 29606, "left": 16141, "right": 10425}
    assert whole_dataset_inputs.balanced(given, "undersampling") == {
        "forward": 16141,
        "left": 16141,
        "right": 10425,
    }
    assert whole_dataset_inputs.balanced(given, "equals") == dict.fromkeys(given, 10425)
    assert whole_dataset_inputs.balanced(given, "none") == given


def test_so_many_training_images_of_each_class(loose):
    assert counts(divided(loose, train_per_class=2)["train"]) == {"bar0": 2, "bar1": 2, "bar2": 1}
    few, more = (divided(loose, train_per_class=n)["train"] for n in (2, 3))
    assert set(few) < set(more), "fewer are some of more"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"test_per_class": 4}, "val image of class 'bar2'"),
        ({"val_per_class": 2}, "train image of class 'bar2'"),
    ],
)
def test_a_class_that_runs_out_is_named(loose, settings, says):
    with pytest.raises((BadDataError, ErrorGroup), match=says):
        divided(loose, **settings)


def test_a_task_is_known_by_its_pixels_labels_and_classes(bars, tmp_path, cache):
    settings = Settings(cache=str(cache), store=str(tmp_path))
    spec = WholeDataset(dataset=str(bars), architecture="mnist-cnn", val_per_class=2)
    found = whole_dataset_inputs.read(spec, settings)
    inputs, content = found.task(("bar2", "bar0"))
    assert inputs.classes == ("bar2", "bar0")
    assert np.bincount(inputs.train.labels).tolist() == [10, 10]
    labels = [found.images["train"][0].label, inputs.train.labels[0]]
    assert labels == ["bar0", 1]
    assert content == found.task(("bar2", "bar0"))[1]
    assert content != found.task(("bar0", "bar2"))[1]
    assert (
        content
        != whole_dataset_inputs.read(spec.replace(seed=1), settings).task(("bar2", "bar0"))[1]
    ), "other images in val"
    assert inputs.train.pixels.take(inputs.train.rows).shape == (20, 28, 28, 1)


def test_arrays_of_frames_are_read_and_balanced(tmp_path, cache):
    rng = np.random.default_rng(0)
    for split, (forward, left, right) in {
        "train": (9, 6, 4),
        "valid": (3, 2, 2),
        "test": (5, 3, 2),
    }.items():
        labels = np.repeat([0, 1, 2], (forward, left, right))
        np.save(tmp_path / f"{split}_labels.npy", labels)
        np.save(
            tmp_path / f"{split}_data.npy",
            rng.integers(0, 256, (len(labels), 45 * 80 * 3), dtype=np.uint8),
        )
    spec = WholeDataset(
        dataset=str(tmp_path),
        architecture="mobilenet-v1-0.25",
        input_size=32,
        balance="undersampling",
        balance_test="equals",
    )
    found = whole_dataset_inputs.read(spec, Settings(cache=str(cache)))
    assert counts(found.images["train"]) == {"forward": 6, "left": 6, "right": 4}
    assert counts(found.images["val"]) == {"forward": 3, "left": 2, "right": 2}
    assert counts(found.images["test"]) == {"forward": 2, "left": 2, "right": 2}
    inputs, _ = found.task(found.folder.classes)
    assert inputs.classes == ("forward", "left", "right")
    frames = np.load(tmp_path / "train_data.npy").reshape(-1, 45, 80, 3)
    shown = inputs.train.pixels.take(inputs.train.rows[:1])[0].astype(float)
    nearest = min(
        np.abs(frame.mean(axis=(0, 1)) - shown.mean(axis=(0, 1))).max() for frame in frames[:9]
    )
    assert nearest < 2, "a frame of the class forward, scaled"
