"""Drawing: k per class exactly, no image on two sides, the same bytes wherever and however it
runs.
"""

from __future__ import annotations

import dataclasses
import os
import random
import subprocess
import sys
from pathlib import Path

import naive
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tlx.data import datasets, draws, splits, streams
from tlx.data.folders import Image, ImageFolder, list_images
from tlx.errors import BadDataError, ErrorGroup, UsageError

ROOT = Path(__file__).resolve().parents[2]


def folder_of(images: list[Image]) -> ImageFolder:
    """An image folder that exists in thought only."""
    return ImageFolder(
        "d",
        Path("/nowhere"),
        tuple(images),
        tuple(sorted({i.label for i in images})),
        tuple(sorted({i.split for i in images})),
    )


def tree(root: Path, layout: dict[str, list[bytes]]) -> ImageFolder:
    """Files root/<folder>/<n>.png with the bytes given for each folder."""
    for folder, contents in layout.items():
        (root / folder).mkdir(parents=True)
        for n, data in enumerate(contents):
            (root / folder / f"{n}.png").write_bytes(data)
    return list_images(root)


def faults(folder: ImageFolder, read: splits.SplitFolder, content) -> list[str]:
    def pairs(rows):
        return [(row.path.partition("/")[2], row.label) for row in rows]

    trains = {(k, s): pairs(read.train(k, s)) for k in read.shots for s in read.draws(k)}
    return naive.few_shot_faults(
        trains, pairs(read.val), pairs(read.test), content, list(folder.classes)
    )


LAYOUTS = [("",), ("train", "test"), ("train", "validation", "test"), ("train", "val")]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_every_draw_keeps_its_promises(data):
    """Any folder, with duplicates and either layout, against the naive oracle; in any order of
    listing.
    """
    split_names = data.draw(st.sampled_from(LAYOUTS))
    images, content = [], {}
    for split in split_names:
        for label in ("b", "A", "é"):
            for n in range(data.draw(st.integers(16, 24))):
                image = Image(split, label, f"{n}.png")
                twin = (
                    images and data.draw(st.integers(0, 9)) == 0
                )  # now and then the bytes of another, on any side
                content[image.path] = (
                    content[data.draw(st.sampled_from(images)).path] if twin else image.path
                )
                images.append(image)
    order = data.draw(st.permutations(images))
    plan = draws.DrawPlan(
        shots=(1, 3),
        draws=2,
        val_per_class=2,
        test_per_class=data.draw(st.sampled_from([None, 3])) if "test" in split_names else 3,
        seed=data.draw(st.integers(0, 2**40)),
    )

    def digests(paths):
        return [content[str(path.relative_to("/nowhere"))] for path in paths]

    try:
        drawn = draws.choose(folder_of(images), plan, digests)
    except (BadDataError, ErrorGroup) as error:
        assume(
            "too-few-images" not in str(error)
        )  # the twins left too little; seldom, by hypothesis
        raise
    assert draws.choose(folder_of(list(order)), plan, digests).csvs == drawn.csvs
    pairs = {name: [(i.path, i.label) for i in rows] for name, rows in drawn.csvs.items()}
    trains = {(k, s): pairs[draws.train_name(k, s)] for k in (1, 3) for s in range(2)}
    classes = sorted({i.label for i in images}, key=str.encode)
    assert (
        naive.few_shot_faults(trains, pairs["val.csv"], pairs["test.csv"], content, classes) == []
    )
    assert sorted(pairs["all_images.csv"]) == sorted((i.path, i.label) for i in images)


def test_seeds_and_draws_differ_and_neither_nests(tmp_path):
    folder = tree(
        tmp_path, {f"{label}": [f"{label}{n}".encode() for n in range(60)] for label in "abc"}
    )
    plan = draws.DrawPlan(shots=(5,), draws=5, val_per_class=5, test_per_class=5)
    drawn = draws.choose(folder, plan)
    files = [tuple(drawn.csvs[draws.train_name(5, s)]) for s in range(5)]
    assert len(set(files)) == 5
    other = draws.choose(folder, dataclasses.replace(plan, seed=1))
    assert other.csvs["test.csv"] != drawn.csvs["test.csv"]


def test_a_class_or_a_draw_more_leaves_the_others_alone(tmp_path):
    few = tree(
        tmp_path / "few",
        {f"{label}": [f"{label}{n}".encode() for n in range(40)] for label in "ab"},
    )
    more = tree(
        tmp_path / "more",
        {f"{label}": [f"{label}{n}".encode() for n in range(40)] for label in "abc"},
    )
    a = draws.choose(few, draws.DrawPlan(shots=(2,), draws=2, val_per_class=5, test_per_class=5))
    b = draws.choose(
        more, draws.DrawPlan(shots=(1, 2, 4), draws=3, val_per_class=5, test_per_class=5)
    )
    for name, images in a.csvs.items():
        assert [i for i in b.csvs[name] if i.label != "c"] == images


def test_draws_are_even():
    """Every image of a pool is drawn about as often as any other."""
    counts = [0] * 20
    for seed in range(2000):
        for index in streams.seeded_permutation(20, seed, "train")[:5]:
            counts[index] += 1
    assert sum(counts) == 10_000
    assert all(abs(count - 500) < 5 * (500 * 0.75) ** 0.5 for count in counts)


def test_purposes_and_seeds_are_independent_streams():
    orders = {
        tuple(streams.seeded_permutation(12, seed, *purpose))
        for seed in (0, 1, 2**63)
        for purpose in (("a",), ("b",), ("a", 1), ("a", "1"), ("a1",))
    }
    assert len(orders) == 15


def test_the_order_of_a_seed_is_pinned():
    """A change here would silently change every split ever drawn."""
    assert streams.seeded_permutation(10, 0, "train", 5, 0, "cat").tolist() == [
        4,
        2,
        9,
        8,
        1,
        7,
        3,
        5,
        0,
        6,
    ]


def test_the_largest_shots_may_have_fewer_draws(tmp_path):
    folder = tree(
        tmp_path / "i", {label: [f"{label}{n}".encode() for n in range(30)] for label in "ab"}
    )
    read = splits.draw(
        folder,
        tmp_path / "s",
        shots=(5, 1),
        draws=3,
        largest_draws=1,
        val_per_class=2,
        test_per_class=2,
    )
    assert read.shots == (1, 5)
    assert read.draws(1) == (0, 1, 2)
    assert read.draws(5) == (0,)
    assert splits.check(read, draws=3) == []


def test_equal_bytes_never_part(tmp_path):
    """Ten images in five copies each: a pool of ten, whatever their names."""
    folder = tree(
        tmp_path / "i", {label: [f"{label}{n % 10}".encode() for n in range(50)] for label in "ab"}
    )
    read = splits.draw(
        folder, tmp_path / "s", shots=(4,), draws=2, val_per_class=3, test_per_class=3
    )
    content = {i.path: (folder.root / i.path).read_bytes() for i in folder.images}
    assert faults(folder, read, content) == []
    assert splits.check(read, images=lambda row: splits.find(row, folder.root)) == []
    with pytest.raises(BadDataError, match="too-few-images"):
        splits.draw(folder, tmp_path / "t", shots=(5,), draws=1, val_per_class=3, test_per_class=3)
    assert not (tmp_path / "t").exists()


def test_bytes_under_two_labels_are_drawn_for_neither(tmp_path):
    layout = {label: [f"{label}{n}".encode() for n in range(20)] for label in "ab"}
    layout["b"][7] = layout["a"][3]
    drawn = draws.choose(
        tree(tmp_path, layout),
        draws.DrawPlan(shots=(14,), draws=1, val_per_class=2, test_per_class=3),
    )
    assert not {Image("", "a", "3.png"), Image("", "b", "7.png")} & {
        i for name, rows in drawn.csvs.items() if name != "all_images.csv" for i in rows
    }
    assert any("two labels" in note for note in drawn.notes)


def test_published_splits_are_kept(tmp_path):
    layout = {
        f"{split}/{label}": [f"{split}{label}{n}".encode() for n in range(20)]
        for split in ("train", "validation", "test")
        for label in "ab"
    }
    layout["train/a"][0] = layout["test/a"][0]
    layout["train/a"][1] = layout["validation/a"][1]
    folder = tree(tmp_path / "i", layout)
    read = splits.draw(folder, tmp_path / "s", shots=(18,), draws=1, val_per_class=20)
    assert {row.split for row in read.test} == {"test"}
    assert len(read.test) == 40
    assert {row.split for row in read.val} == {"validation"}
    assert not {"d/train/a/0.png", "i/train/a/0.png", "i/train/a/1.png"} & {
        row.path for row in read.train(18, 0)
    }
    assert read.val[0].path == "i/validation/a/0.png"


def test_val_without_test_is_the_test(tmp_path):
    folder = tree(
        tmp_path / "i",
        {
            f"{split}/{label}": [f"{split}{label}{n}".encode() for n in range(20)]
            for split in ("train", "val")
            for label in "ab"
        },
    )
    read = splits.draw(folder, tmp_path / "s", shots=(5,), draws=1, val_per_class=3)
    assert {row.split for row in read.test} == {"val"}
    assert {row.split for row in read.val} == {"train"}
    assert any("no test split" in note for note in read.record["notes"])


def test_every_class_with_too_few_is_named_before_anything_is_written(tmp_path):
    folder = tree(
        tmp_path / "i",
        {
            "a": [b"a%d" % n for n in range(9)],
            "b": [b"b%d" % n for n in range(50)],
            "c": [b"c%d" % n for n in range(6)],
        },
    )
    with pytest.raises(BadDataError) as caught:
        splits.draw(
            folder, tmp_path / "s", shots=(1, 5, 10), draws=2, val_per_class=2, test_per_class=2
        )
    said = str(caught.value)
    assert (
        "2 of 3 classes have fewer than 10 images for train: 'c' 2, 'a' 5 (shots 5, 10 cannot be "
        "drawn)" in said
    )
    assert "'b'" not in said
    assert caught.value.exit_code == 3
    assert not (tmp_path / "s").exists()


def test_a_thousand_classes_with_too_few_are_one_line_a_role(tmp_path):
    classes = {f"c{n:04d}": [b"%d" % n] for n in range(998)} | {
        name: [b"%s%d" % (name.encode(), n) for n in range(9)] for name in ("x", "y")
    }
    folder = tree(tmp_path / "i", classes)
    with pytest.raises(ErrorGroup) as caught:
        draws.choose(folder, draws.DrawPlan(shots=(1, 2), val_per_class=1, test_per_class=1))
    lines = str(caught.value).splitlines()
    assert len(lines) == 2, "val and train"
    assert all(
        "998 of 1000 classes have fewer than" in line and "and 988 more classes" in line
        for line in lines
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"shots": ()},
        {"shots": (0,)},
        {"draws": 0},
        {"val_per_class": 0},
        {"seed": -1},
        {"test_per_class": 0},
        {"largest_draws": 0},
    ],
)
def test_numbers_out_of_range(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong)).replace("_", "-")):
        draws.DrawPlan(**{"shots": (1,), **wrong})


def test_one_class_is_refused(tmp_path):
    with pytest.raises(BadDataError, match="at least 2"):
        draws.choose(
            tree(tmp_path, {"a": [b"%d" % n for n in range(99)]}),
            draws.DrawPlan(shots=(1,), test_per_class=5),
        )


def test_drawing_again_reads_and_drawing_otherwise_is_refused(tmp_path):
    folder = tree(
        tmp_path / "i", {label: [f"{label}{n}".encode() for n in range(30)] for label in "ab"}
    )
    plan = {"shots": (1, 2), "draws": 2, "val_per_class": 2, "test_per_class": 2}
    first = splits.draw(folder, tmp_path / "s", **plan)
    assert splits.draw(folder, tmp_path / "s", **plan).tables == first.tables
    with pytest.raises(BadDataError, match="splits-exist"):
        splits.draw(folder, tmp_path / "s", **plan, seed=1)
    assert splits.read(tmp_path / "s").tables == first.tables
    assert sorted(p.name for p in tmp_path.iterdir()) == [".s.lock", "i", "s"]


def test_a_crashed_draw_leaves_nothing_in_the_way(tmp_path, monkeypatch):
    folder = tree(
        tmp_path / "i", {label: [f"{label}{n}".encode() for n in range(30)] for label in "ab"}
    )
    plan = {"shots": (1, 2), "draws": 2, "val_per_class": 2, "test_per_class": 2}
    with monkeypatch.context() as patch:
        patch.setattr(
            splits.files, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            splits.draw(folder, tmp_path / "s", **plan)
    assert not (tmp_path / "s").exists()
    assert splits.draw(folder, tmp_path / "s", **plan).shots == (1, 2)


# ---------------------------------------------------------------- the shipped splits

SHIPPED = {"shots": (1, 2, 3, 5, 7, 10), "draws": 5, "val_per_class": 10, "seed": 0}


def test_shipped_digits_are_what_drawing_gives(cache, tmp_path):
    """To the byte, wherever they are drawn."""
    folder = datasets.locate("digits", cache)
    splits.draw(folder, tmp_path / "digits", **SHIPPED)
    shipped = splits.shipped("digits")
    assert sorted(os.listdir(shipped)) == sorted(os.listdir(tmp_path / "digits"))
    for name in os.listdir(shipped):
        assert (shipped / name).read_bytes() == (tmp_path / "digits" / name).read_bytes(), name


def test_shipped_digits_are_sound(cache):
    folder = datasets.locate("digits", cache)
    read = splits.read(splits.shipped("digits"))
    assert splits.check(read, shots=datasets.DATASETS["digits"].shots, draws=5) == []
    assert splits.check(read, images=lambda row: splits.find(row, folder.root)) == []
    content = {i.path: (folder.root / i.path).read_bytes() for i in folder.images}
    assert faults(folder, read, content) == []
    assert (len(read.val), len(read.test), len(read.all_images)) == (100, 500, 1797)
    assert read.classes == tuple("0123456789")
    assert splits.shipped("no such dataset") is None


@pytest.mark.slow
@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_drawing_does_not_depend_on_process_or_directory(hash_seed, cache, tmp_path):
    script = (
        "import sys; from pathlib import Path; from tlx.data import datasets, splits;"
        "splits.draw(datasets.locate('digits', Path(sys.argv[1])), Path('out'), shots=(1, 10), "
        "draws=2, seed=3)"
    )
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "LC_ALL": "C"}
    subprocess.run(
        [sys.executable, "-c", script, str(cache)], cwd=tmp_path, env=environment, check=True
    )
    here = draws.choose(
        datasets.locate("digits", cache), draws.DrawPlan(shots=(1, 10), draws=2, seed=3)
    )
    read = splits.read(tmp_path / "out")
    for name, images in here.csvs.items():
        assert [row.path for row in read.tables[name]] == [
            f"digits/{image.path}" for image in images
        ]


def test_real_folders(shared_data, tmp_path):
    """A folder without splits and one with; the content check passes on what was drawn."""
    for name, test in (("sign-digits", 500), ("cifar10-mini", 1000)):
        folder = list_images(shared_data / name)
        shuffled = dataclasses.replace(
            folder, images=tuple(random.Random(1).sample(folder.images, len(folder.images)))
        )
        read = splits.draw(shuffled, tmp_path / name, shots=(1, 5, 10), draws=3)
        assert len(read.test) == test
        assert splits.check(read, images=lambda row, root=folder.root: splits.find(row, root)) == []
        content = {i.path: (folder.root / i.path).read_bytes() for i in folder.images}
        assert faults(folder, read, content) == []
