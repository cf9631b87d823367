"""One rule for what is held out and how classes are halved, whichever study asks."""

from __future__ import annotations

from collections import Counter

import pytest
from conftest import draw_images
from hypothesis import given
from hypothesis import strategies as st

from tlx import files
from tlx.data import draws
from tlx.data.folders import Image, list_images
from tlx.data.hold_out import draw_per_class, halves
from tlx.data.sides import sides_of
from tlx.errors import UsageError
from tlx.studies import pretraining_plan, whole_dataset_inputs
from tlx.studies.pretraining_spec import PreTraining
from tlx.studies.quanta import data as quanta_data
from tlx.studies.quanta.spec import Quanta
from tlx.studies.whole_dataset import WholeDataset

COUNTS = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 12), min_size=1)


def images_of(counts):
    return [Image("", label, f"{i:02d}.png") for label in counts for i in range(counts[label])]


@given(COUNTS, st.integers(0, 14), st.integers(0, 1000), st.randoms())
def test_a_draw_takes_so_many_of_each_class_whatever_the_order_and_the_other_classes(
    counts, count, seed, random
):
    images = images_of(counts)
    drawn = draw_per_class(images, count, seed, "val")
    assert Counter(image.label for image in drawn) == Counter(
        {label: min(count, of) for label, of in counts.items() if count}
    )
    random.shuffle(images)
    assert draw_per_class(images, count, seed, "val") == drawn
    label = random.choice(list(counts))
    alone = [image for image in images if image.label == label]
    assert draw_per_class(alone, count, seed, "val") == [i for i in drawn if i.label == label]
    assert set(drawn) <= set(draw_per_class(images, count + 1, seed, "val"))


def test_other_seeds_and_purposes_draw_other_images():
    images = images_of({"a": 40, "b": 40})
    drawn = [
        tuple(draw_per_class(images, 10, seed, purpose))
        for seed in range(5)
        for purpose in ("val", "test")
    ]
    assert len(set(drawn)) == 10


def test_every_study_holds_out_the_same_validation_images(tmp_path):
    root = draw_images(tmp_path / "data", per_class=9, splits=("train", "test"))
    folder = list_images(root)
    content = {image: files.sha256(root / image.path) for image in folder.images}
    sides = sides_of(folder, content)
    seed, count = 5, 3
    plan = draws.DrawPlan(shots=(1,), draws=1, val_per_class=count, seed=seed)
    few_shot = draws.choose(folder, plan).csvs["val.csv"]
    spec = {"seed": seed, "val_per_class": count}
    whole = whole_dataset_inputs.divided(folder, WholeDataset(**spec), sides)["val"]
    pretrained = pretraining_plan._pools(folder, sides, PreTraining(**spec))[1]
    roles = quanta_data._roles(folder, sides, folder.classes, folder.classes, Quanta(**spec))
    assert list(whole) == pretrained == roles["val"] == few_shot


# ---------------------------------------------------------------- halves


@given(st.integers(4, 40), st.sampled_from(["first", "second", "random"]), st.integers(0, 99))
def test_halves_are_disjoint_and_whole_and_the_odd_class_is_the_sources(n, choice, seed):
    classes = tuple(f"{i:02d}" for i in range(n))
    a, b = halves(classes, choice, seed, "--halves")
    assert sorted(a + b) == list(classes)
    assert len(a) - len(b) == n % 2
    assert list(a) == sorted(a)
    assert list(b) == sorted(b)
    assert halves(classes, choice, seed, "--halves") == (a, b)


def test_halves_by_the_order_of_the_classes_and_drawn():
    classes = tuple("abcdefg")
    assert halves(classes, "first", 0, "") == (tuple("abcd"), tuple("efg"))
    assert halves(classes, "second", 0, "") == (tuple("defg"), tuple("abc"))
    assert len({halves(classes, "random", seed, "") for seed in range(8)}) > 3


def test_too_few_classes_are_refused_with_the_option_and_what_to_do():
    with pytest.raises(UsageError, match=r"3 classes.*at least 4") as refused:
        halves(tuple("abc"), "first", 0, "--source half")
    assert refused.value.where == "--source half"
    assert "--model" in refused.value.remedy
