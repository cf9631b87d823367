"""locate and what it makes: listings, IDX, digits, variants of MNIST, arrays, torchvision's
files.
"""

from __future__ import annotations

import errno
import gzip
import multiprocessing
import os
import signal
import struct
import subprocess
import time
import tracemalloc
import unicodedata
from pathlib import Path

import naive
import numpy as np
import pytest
from PIL import Image as PILImage

from tlx import files
from tlx.data import datasets, idx, materialise, sources
from tlx.data.folders import TEST, TRAIN, VAL, list_images
from tlx.errors import (
    BadDataError,
    ErrorGroup,
    IntegrityError,
    MissingError,
    ResourceError,
    TlxError,
    UnknownNameError,
    UnsafeError,
)


def pixels(folder, split=None) -> dict[tuple[str, str], np.ndarray]:
    """(label, file name) → array, decoded by Pillow alone."""
    return {
        (i.label, i.filename): np.asarray(PILImage.open(folder.root / i.path))
        for i in folder.images
        if split is None or i.split == split
    }


def in_order(folder, split) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels of a split in the order of their numbers."""
    rows = sorted((i for i in folder.images if i.split == split), key=lambda i: i.filename)
    return np.array([PILImage.open(folder.root / i.path) for i in rows]), np.array(
        [int(i.label) for i in rows]
    )


# ---------------------------------------------------------------- listings


def put(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())
    return root


def test_with_and_without_splits(tmp_path):
    flat = list_images(put(tmp_path / "flat", "cat/1.jpg", "dog/2.PNG"))
    assert [i.path for i in flat.images] == ["cat/1.jpg", "dog/2.PNG"]
    assert (flat.splits, flat.classes, flat.name) == (("",), ("cat", "dog"), "flat")
    split = list_images(
        put(tmp_path / "split", "train/cat/1.jpg", "Test/dog/2.png", "validation/cat/3.tif")
    )
    assert [i.path for i in split.images] == [
        "Test/dog/2.png",
        "train/cat/1.jpg",
        "validation/cat/3.tif",
    ]
    assert (split.splits, split.classes) == (("Test", "train", "validation"), ("cat", "dog"))


def test_a_class_may_be_called_like_a_split(tmp_path):
    folder = list_images(put(tmp_path, "train/1.jpg", "plane/2.jpg", "test/3.jpg"))
    assert folder.classes == ("plane", "test", "train")
    assert folder.splits == ("",)


def test_one_class_name_in_two_unicode_forms_is_refused(tmp_path):
    nfc, nfd = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    put(tmp_path, f"train/{nfd}/1.jpg", "train/the/2.jpg", f"test/{nfc}/3.jpg", "test/the/4.jpg")
    with pytest.raises(BadDataError, match=r"unicode-forms.*NFC and NFD") as caught:
        list_images(tmp_path)
    assert nfd.encode().hex() in str(caught.value)


def test_split_folders_are_told_in_any_case(tmp_path):
    folder = list_images(
        put(tmp_path / "d", "TRAIN/cat/1.jpg", "Validation/cat/2.jpg", "Test/cat/3.jpg")
    )
    assert [[i.filename for i in folder.of(names)] for names in (TRAIN, VAL, TEST)] == [
        ["1.jpg"],
        ["2.jpg"],
        ["3.jpg"],
    ]
    with pytest.raises(BadDataError, match=r"split-twice.*val, valid"):
        list_images(put(tmp_path / "twice", "train/cat/1.jpg", "val/cat/2.jpg", "valid/cat/3.jpg"))


def test_a_class_may_begin_with_underscores_and_litter_is_left_out(tmp_path):
    folder = list_images(
        put(
            tmp_path,
            "__other__/1.jpg",
            "_x/2.jpg",
            "__MACOSX/a/3.jpg",
            "__MACOSX/a/._3.jpg",
            "_x/.thumb.jpg",
            "_x/._2.jpg",
            "_x/Thumbs.db",
            "lost+found/x",
            ".git/y",
        )
    )
    assert folder.classes == ("__other__", "_x")
    assert [image.filename for image in folder.images] == ["1.jpg", "2.jpg"]
    said = "\n".join(folder.notes)
    assert "1 left out: images in hidden folders or folders of other programs: __MACOSX" in said
    assert "1 left out: hidden files that are images by their name" in said


def test_kinds_that_are_not_read_are_counted_by_ending_and_class(tmp_path):
    folder = list_images(put(tmp_path, "a/1.jpg", "a/2.HEIC", "b/3.HEIC", "b/4.svg", "b/5.jpg"))
    assert "2 left out: .HEIC images, a kind that is not read, of 'a', 'b'" in folder.notes
    assert "1 left out: .svg images, a kind that is not read, of 'b'" in folder.notes
    with pytest.raises(
        BadDataError, match=r"no image found of a kind that is read, but 1 \.HEIC, 1 \.svg"
    ):
        list_images(put(tmp_path / "none", "a/1.HEIC", "b/2.svg"))


def test_images_without_class_folders_get_a_hint_of_the_layout(tmp_path):
    with pytest.raises(
        BadDataError, match=r"3 images are in the folder itself.*move the images of each class into"
    ):
        list_images(put(tmp_path / "flat", "1.jpg", "2.jpg", "3.jpg"))
    with pytest.raises(
        BadDataError, match=r"the images are in test, train itself.*root/<split>/<label>/<image>"
    ):
        list_images(put(tmp_path / "splits", "train/1.jpg", "test/2.jpg"))


def test_what_is_no_image_is_left_out_and_said(tmp_path):
    put(
        tmp_path,
        "train/cat/1.jpg",
        "train/cat/Thumbs.db",
        "train/cat/.DS_Store",
        "train/cat/notes.txt",
        "train/.ipynb_checkpoints/1.jpg",
        "train/cat/deep/1.jpg",
        "annotations/x.xml",
        "train/readme.md",
        "train/cat/1_crop_0.jpg",
        "train/cat/a_crop_0.jpg",
        "test/cat/9.jpg",
        "test/dog/7.jpg",
    )
    (tmp_path / "train" / "dog").mkdir()
    os.mkfifo(tmp_path / "train/cat/pipe.jpg")
    folder = list_images(tmp_path)
    assert [i.path for i in folder.images] == [
        "test/cat/9.jpg",
        "test/dog/7.jpg",
        "train/cat/1.jpg",
        "train/cat/a_crop_0.jpg",
    ]  # without its image a crop is an image
    said = "\n".join(folder.notes)
    for text in (
        "annotations",
        f"{tmp_path / 'train' / 'dog'} holds no image",
        "1 left out: crops",
        "1 left out: files that are not images",
        "1 left out: broken links or special files",
    ):
        assert text in said
    assert folder.classes == ("cat", "dog")  # the empty folder shifts nothing


def test_images_one_level_too_deep_are_counted_by_folder_with_what_to_type(tmp_path):
    root = put(
        tmp_path / "my photos",
        "train/cat/1.jpg",
        *(f"train/cat/tabby/{n}.jpg" for n in range(3)),
        *("train/cat/siamese/1.jpg", "train/cat/siamese/young/2.jpg", "train/cat/siamese/.3.jpg"),
        "train/cat/words/notes.txt",
        "train/dog/dog/1.jpg",
        "test/cat/5.jpg",
    )
    folder = list_images(root)
    assert [image.path for image in folder.images] == ["test/cat/5.jpg", "train/cat/1.jpg"]
    (note,) = [note for note in folder.notes if "too deep" in note]
    assert note.startswith(
        "6 images left out, one level too deep: 3 folders inside a class folder: "
        "train/cat/siamese (2), train/cat/tabby (3), train/dog/dog (1). "
        "Expected root/<split>/<label>/<image> or root/<label>/<image>."
    )
    assert f"a class of its own: mv '{root}/train/cat/siamese' '{root}/train';" in note
    assert note.endswith(f"to class 'cat': mv '{root}/train/cat/siamese'/* '{root}/train/cat'")
    assert "1 left out: folders inside a label, without images" in folder.notes
    assert not any("dog holds no image" in note for note in folder.notes)


def test_the_command_of_the_note_puts_it_right(tmp_path):
    root = put(tmp_path / "it's", "cat/1.jpg", "cat/tabby/2.jpg", "dog/1.jpg")
    (note,) = list_images(root).notes
    command = note.rpartition(": ")[2]
    subprocess.run(["sh", "-c", command], check=True)
    assert len(list_images(root).images) == 3


def test_where_all_images_are_too_deep_the_error_says_where(tmp_path):
    root = put(tmp_path / "deep", "photos/cat/a/1.jpg", "photos/dog/b/1.jpg")
    with pytest.raises(BadDataError) as refused:
        list_images(root)
    assert refused.value.code == "no-images"
    assert "photos/cat (1), photos/dog (1)" in str(refused.value)


def test_listing_does_not_depend_on_the_order_of_the_disk(tmp_path):
    names = [f"{label}/{n}.png" for label in ("b", "é", "A", "a b") for n in (10, 9, 1)]
    one, two = put(tmp_path / "one" / "d", *names), put(tmp_path / "two" / "d", *reversed(names))
    assert list_images(one).images == list_images(two).images
    assert list_images(one).classes == ("A", "a b", "b", "é")


def test_bad_folders(tmp_path):
    put(tmp_path, "file.txt", "empty/cat/readme.md")
    with pytest.raises(MissingError, match="nearest name there is empty"):
        datasets.locate(tmp_path / "emty", tmp_path / "cache")
    with pytest.raises(BadDataError, match="not-a-folder"):
        datasets.locate(tmp_path / "file.txt", tmp_path / "cache")
    with pytest.raises(BadDataError, match=r"no image found.*root/<split>/<label>/<image>"):
        datasets.locate(tmp_path / "empty", tmp_path / "cache")


def test_a_name_that_is_not_utf8_is_named(tmp_path):
    put(tmp_path, "cat/1.jpg")
    (tmp_path / "cat" / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
    with pytest.raises(BadDataError, match="not UTF-8"):
        list_images(tmp_path)


def test_a_hundred_thousand_images_are_listed_in_seconds(tmp_path):
    for label in range(10):
        (tmp_path / str(label)).mkdir()
    source = tmp_path / "0" / "source.png"
    source.touch()
    for n in range(20_000):
        os.link(source, tmp_path / str(n % 10) / f"{n}.png")
    start = time.perf_counter()
    assert len(list_images(tmp_path).images) == 20_001
    assert (
        time.perf_counter() - start < 2
    )  # a fifth of them; making 100,000 would take longer than listing them


# ---------------------------------------------------------------- digits


def test_digits_are_scikit_learns(cache):
    from sklearn.datasets import load_digits

    raw = load_digits()
    folder = datasets.locate("Digits", cache)
    assert len(folder.images) == 1797
    assert folder.splits == ("test", "train")
    for image in folder.images:
        index = int(image.filename.removesuffix(".png"))
        assert image.label == str(raw.target[index])
        stored = np.asarray(PILImage.open(folder.root / image.path))
        assert np.array_equal(
            stored, [[int(v * 255 / 16 + 0.5) for v in line] for line in raw.images[index]]
        )
    assert sorted(int(i.filename[:-4]) for i in folder.images) == list(range(1797))
    per_class = [
        sum(i.split == "test" and i.label == str(c) for i in folder.images) for c in range(10)
    ]
    assert per_class == [50] * 10


@pytest.mark.slow
def test_variants_of_digits_are_as_those_of_mnist(cache):
    """Halves keep the pixels; noise is uniform bytes of numpy's seed 1 under the same labels;
    structure holds 6.
    """
    whole = datasets.locate("digits", cache)

    def pixels(folder, *images):
        return [np.asarray(PILImage.open(folder.root / image.path)) for image in images]

    for name, first in (("digits_split1", 0), ("digits_split2", 5)):
        half = datasets.locate(name, cache)
        assert half.classes == ("0", "1", "2", "3", "4")
        for split in ("train", "test"):
            for label in half.classes:
                mine = [i for i in half.images if (i.split, i.label) == (split, label)]
                theirs = [
                    i
                    for i in whole.images
                    if (i.split, i.label) == (split, str(int(label) + first))
                ]
                assert np.array_equal(pixels(half, *mine), pixels(whole, *theirs))
    noise, held = (datasets.locate(f"digits_{name}", cache) for name in ("noise", "noise_struct"))
    stream = np.random.RandomState(1)
    drawn = {
        split: np.rint(255 * stream.random_sample((count, 8, 8))).astype(np.uint8)
        for split, count in (("train", 1297), ("test", 500))
    }
    by_number = {int(i.filename[:-4]): i for i in noise.images}
    for number in (0, 700, 1296, 1297, 1500, 1796):
        image = by_number[number]
        want = drawn["train"][number] if number < 1297 else drawn["test"][number - 1297]
        assert np.array_equal(pixels(noise, image)[0], want)
    counts = {(i.split, i.label) for i in noise.images}
    assert counts == {(i.split, i.label) for i in whole.images}
    for label in ("0", "7"):
        some = np.array(pixels(held, *[i for i in held.images if i.label == label]))
        assert (np.ptp(some, axis=0) == 0).sum() == 6


# ---------------------------------------------------------------- IDX


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def mnist_like(
    folder: Path, n: int = 40, side: int = 6, packed: bool = False, seed: int = 0
) -> Path:
    """A folder in MNIST's layout with 2n training and n test images of every digit in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    stream = np.random.default_rng(seed)
    for prefix, count in (("train", 2 * n), ("t10k", n)):
        x = stream.integers(0, 256, (count, side, side), dtype=np.uint8)
        y = (np.arange(count) % 10).astype(np.uint8)
        for name, array in ((f"{prefix}-images-idx3-ubyte", x), (f"{prefix}-labels-idx1-ubyte", y)):
            data = idx_bytes(array)
            (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(data) if packed else data)
    return folder


def test_idx_comes_back_pixel_for_pixel(tmp_path):
    plain = datasets.locate(mnist_like(tmp_path / "plain"), tmp_path / "cache")
    packed = datasets.locate(mnist_like(tmp_path / "packed", packed=True), tmp_path / "cache")
    assert [i.path for i in plain.images] == [i.path for i in packed.images]
    for prefix, split in (("train", "train"), ("t10k", "test")):
        x, y = in_order(plain, split)
        assert np.array_equal(
            x, naive.idx((tmp_path / "plain" / f"{prefix}-images-idx3-ubyte").read_bytes())
        )
        assert np.array_equal(
            y, naive.idx((tmp_path / "plain" / f"{prefix}-labels-idx1-ubyte").read_bytes())
        )
        assert all(
            np.array_equal(a, b)
            for a, b in zip(pixels(plain).values(), pixels(packed).values(), strict=True)
        )
    assert len({i.filename for i in plain.images}) == len(plain.images)  # no name on two sides


GOOD_X, GOOD_Y = idx_bytes(np.zeros((3, 2, 2), np.uint8)), idx_bytes(np.array([0, 1, 2], np.uint8))
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
BAD_IDX = {
    "zero bytes": ({IMAGES: b""}, "idx-size", IMAGES, "0 bytes"),
    "short header": ({IMAGES: GOOD_X[:10]}, "idx-size", IMAGES, "10 bytes"),
    "magic of labels": ({IMAGES: GOOD_Y}, "idx-magic", IMAGES, "00000801"),
    "not IDX": ({IMAGES: b"<!DOCTYPE html><html></html>"}, "idx-magic", IMAGES, "not an IDX file"),
    "floats": ({IMAGES: b"\0\0\x0d\x03" + GOOD_X[4:]}, "idx-magic", IMAGES, "00000d03"),
    "truncated": ({IMAGES: GOOD_X[:-1]}, "idx-size", IMAGES, "11 bytes"),
    "trailing": ({IMAGES: GOOD_X + b"\0"}, "idx-size", IMAGES, "13 bytes"),
    "no image": (
        {IMAGES: idx_bytes(np.zeros((0, 2, 2), np.uint8))},
        "idx-size",
        IMAGES,
        "0 x 2 x 2",
    ),
    "a size past the end of time": (
        {IMAGES: b"\0\0\x08\x03" + b"\xff" * 12},
        "idx-size",
        IMAGES,
        "0 bytes",
    ),
    "fewer labels": (
        {LABELS: idx_bytes(np.array([0, 1], np.uint8))},
        "idx-count",
        LABELS,
        "2 labels",
    ),
    "no labels": ({LABELS: None}, "idx-missing", "", LABELS),
    "damaged gzip": ({IMAGES: gzip.compress(GOOD_X)[:-6]}, "idx-gzip", IMAGES, "gzip"),
    "gzip of junk": ({IMAGES: b"\x1f\x8b" + b"junk" * 9}, "idx-gzip", IMAGES, "gzip"),
}


@pytest.mark.parametrize("case", BAD_IDX)
def test_bad_idx_is_refused_by_name(case, tmp_path):
    changes, code, where, says = BAD_IDX[case]
    root = tmp_path / "d"
    root.mkdir()
    for name, data in ({IMAGES: GOOD_X, LABELS: GOOD_Y} | changes).items():
        if data is not None:
            (root / name).write_bytes(data)
    with pytest.raises(BadDataError) as caught:
        datasets.locate(root, tmp_path / "cache")
    assert (caught.value.code, caught.value.exit_code) == (code, 3)
    assert caught.value.where.endswith(where)
    assert says in str(caught.value)
    assert not list((tmp_path / "cache").glob("datasets/*/MANIFEST.json"))


def test_everything_wrong_with_idx_files_at_once(tmp_path):
    root = mnist_like(tmp_path / "d")
    for name in (IMAGES, "t10k-labels-idx1-ubyte"):
        (root / name).write_bytes(b"junk")
    with pytest.raises(ErrorGroup) as caught:
        datasets.locate(root, tmp_path / "cache")
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("kind", ["IDX", "frames", "torchvision"])
def test_arrays_that_are_links_out_of_their_folder_are_refused(kind, tmp_path):
    home, asked = tmp_path / "d", {"data_root": None}
    if kind == "IDX":
        mnist_like(home)
        file, name = home / IMAGES, home
    elif kind == "frames":
        home.mkdir()
        np.save(home / "train_data.npy", np.zeros((2, 45 * 80 * 3), np.uint8))
        np.save(home / "train_labels.npy", np.array([0, 1]))
        file, name = home / "train_data.npy", home
    else:
        put(home, "dtd/dtd/labels/train1.txt", "dtd/dtd/images/zigzag/z1.jpg")
        file, name, asked = home / "dtd/dtd/images/zigzag/z1.jpg", "DTD", {"data_root": home}
    file.rename(tmp_path / file.name)
    file.symlink_to(tmp_path / file.name)
    with pytest.raises(UnsafeError, match="leaves the image root"):
        datasets.locate(name, tmp_path / "cache", offline=True, **asked)
    if kind != "torchvision":
        assert datasets.locate(name, tmp_path / "cache", allow=(tmp_path,)).images


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (b"", "not an IDX file"),
        (struct.pack(">HBB3I", 0, 8, 3, 3, 2, 2), "more than the 28 bytes that its header says"),
        (struct.pack(">HBB3I", 0, 8, 3, 1 << 16, 28, 28), "at most 1,048,576"),
    ],
)
def test_a_gzip_bomb_is_refused_before_it_is_unpacked(head, says, tmp_path, monkeypatch):
    monkeypatch.setattr(idx, "LIMIT", 1 << 20)
    root = mnist_like(tmp_path / "d", packed=True)
    (root / (IMAGES + ".gz")).write_bytes(gzip.compress(head + bytes(64 << 20)))
    tracemalloc.start()
    try:
        with pytest.raises(BadDataError, match=says):
            datasets.locate(root, tmp_path / "cache")
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_folder_or_file_that_may_not_be_read_is_named(small, tmp_path, monkeypatch):
    """As root reads everything, the system's refusal is played."""

    def refuse(path, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    put(tmp_path / "d", "train/cat/1.jpg", "train/dog/2.jpg")
    scan = os.scandir
    with monkeypatch.context() as closed:
        closed.setattr(
            "os.scandir", lambda path: refuse(path) if str(path).endswith("dog") else scan(path)
        )
        with pytest.raises(ResourceError, match=r"permission.*dog.*may not read the folder"):
            list_images(tmp_path / "d")
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ResourceError, match=r"permission.*ubyte"):
        idx.read(small / IMAGES, 3)
    with pytest.raises(ResourceError, match=r"permission.*x\.npy"):
        sources.read_npy(tmp_path / "x.npy")


def test_real_mnist(shared_data, cache):
    folder = datasets.locate(shared_data / "mnist5k", cache)
    counts = {
        (s, c): sum(i.split == s and i.label == c for i in folder.images)
        for s in ("train", "test")
        for c in folder.classes
    }
    assert set(counts.values()) == {400, 100}
    raw = gzip.decompress((shared_data / "mnist5k" / "t10k-images-idx3-ubyte.gz").read_bytes())
    assert np.array_equal(in_order(folder, "test")[0], naive.idx(raw))


# ---------------------------------------------------------------- variants of MNIST


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A folder of MNIST-like files, 28 x 28."""
    return mnist_like(tmp_path_factory.mktemp("source") / "mnist", n=60, side=28)


@pytest.mark.parametrize("name", ["mnist_noise", "mnist_noise_struct"])
def test_noise_is_the_formula_in_bytes(name, small, cache):
    folder = datasets.locate(f"{name}:{small}", cache)
    base = datasets.locate(small, cache)
    labels = [in_order(base, split)[1] for split in ("train", "test")]
    expected = naive.mnist_noise(labels, 28, name.endswith("struct"))
    for split, y, x in zip(("train", "test"), labels, expected, strict=True):
        images, found = in_order(folder, split)
        assert images.dtype == np.uint8
        assert np.array_equal(found, y)
        assert np.array_equal(images, x)
        assert abs(images.mean() - 127.5) < 5  # uniform, not the bytes of doubles


@pytest.mark.parametrize(
    ("name", "keep", "relabel"),
    [
        ("mnist_split1", lambda y: y < 5, lambda y: y),
        ("mnist_split2", lambda y: y >= 5, lambda y: y - 5),
        ("mnist2class", lambda y: y >= 0, lambda y: y % 2),
    ],
)
def test_splits_and_parity(name, keep, relabel, small, cache):
    folder, base = datasets.locate(f"{name}:{small}", cache), datasets.locate(small, cache)
    for split in ("train", "test"):
        (x, y), (found_x, found_y) = in_order(base, split), in_order(folder, split)
        assert np.array_equal(found_x, x[keep(y)])
        assert np.array_equal(found_y, relabel(y[keep(y)]))
    assert len(folder.classes) == datasets.DATASETS[name].classes


def test_variants_come_from_the_data_root(small, tmp_path, monkeypatch):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "MNIST".lower()).symlink_to(small)
    by_option = datasets.locate(
        "mnist_split1", tmp_path / "cache", data_root=tmp_path / "root", offline=True
    )
    monkeypatch.setenv("TLX_DATA", str(tmp_path / "root"))
    by_environment = datasets.locate("MNIST_split1", tmp_path / "cache", offline=True)
    assert by_option.root == by_environment.root
    assert by_option.name == "mnist_split1"


# ---------------------------------------------------------------- names and paths


def test_names_paths_and_names_with_paths(tmp_path, monkeypatch):
    put(tmp_path / "digits", "cat/1.png", "dog/2.png")
    put(tmp_path / "flowers", "cat/1.png", "dog/2.png")
    put(tmp_path / "mine", "cat/1.png", "dog/2.png")
    monkeypatch.chdir(tmp_path)
    cache = tmp_path / "cache"
    assert len(datasets.locate("digits", cache).images) == 1797  # a known name is the dataset
    assert len(datasets.locate("./digits", cache).images) == 2  # a slash makes it a path
    assert len(datasets.locate(Path("digits"), cache).images) == 2  # so does a Path
    assert datasets.locate("mine", cache).name == "mine"
    assert datasets.locate("dtd:mine", cache).name == "textures"
    assert (
        datasets.locate(
            "Flowers102",
            cache,
            data_root=put(
                tmp_path / "root", "oxford-flowers102/1/a.jpg", "oxford-flowers102/2/b.jpg"
            ),
        ).name
        == "flowers102"
    )
    with pytest.raises(UnknownNameError, match="nearest: flowers102"):
        datasets.locate("flowers103", cache)
    with pytest.raises(MissingError):
        datasets.locate("./flowers103", cache)


# ---------------------------------------------------------------- materialising


def test_made_once_and_sealed(small, tmp_path):
    folder = datasets.locate(small, tmp_path)
    home = folder.root.parent
    files.verify(home)
    before = (home / files.MANIFEST).stat().st_mtime_ns
    assert datasets.locate(small, tmp_path).images == folder.images
    assert (home / files.MANIFEST).stat().st_mtime_ns == before


def test_other_bytes_are_another_folder(tmp_path):
    one = datasets.locate(mnist_like(tmp_path / "a" / "d"), tmp_path / "cache")
    two = datasets.locate(mnist_like(tmp_path / "b" / "d", seed=1), tmp_path / "cache")
    same = datasets.locate(mnist_like(tmp_path / "c" / "d"), tmp_path / "cache")
    assert one.root != two.root
    assert one.root == same.root


@pytest.mark.parametrize(
    "change", [lambda image: image.unlink(), lambda image: image.with_name("new.png").touch()]
)
def test_files_that_came_or_went_are_noticed(change, small, tmp_path):
    folder = datasets.locate(small, tmp_path)
    change(folder.root / folder.images[5].path)
    with pytest.raises(IntegrityError, match="delete this folder"):
        datasets.locate(small, tmp_path)


def _locate(source, cache):
    datasets.locate(source, cache)


def test_killed_while_making_leaves_nothing_half_used(tmp_path):
    source = mnist_like(tmp_path / "d", n=2000)
    context = multiprocessing.get_context("spawn")
    cut_short = 0
    for delay in (0, 0.05, 0.2):
        worker = context.Process(target=_locate, args=(source, tmp_path / "cache"))
        worker.start()
        deadline = time.monotonic() + 30
        while not list((tmp_path / "cache").glob("datasets/*.part")) and worker.is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(delay)
        if worker.is_alive():
            os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        whole = [
            p
            for p in (tmp_path / "cache" / "datasets").iterdir()
            if p.is_dir() and p.suffix != ".part"
        ]
        cut_short += not whole
    assert cut_short
    folder = datasets.locate(source, tmp_path / "cache")
    assert len(folder.images) == 6000
    files.verify(folder.root.parent)
    assert not list((tmp_path / "cache").glob("datasets/*.part"))


def test_two_at_once_make_one(tmp_path):
    source = mnist_like(tmp_path / "d", n=200)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_locate, args=(source, tmp_path / "cache")) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(list((tmp_path / "cache" / "datasets").glob("*/MANIFEST.json"))) == 1


@pytest.mark.parametrize("label", ["a/b", "..", ".hidden", "__pycache__", "100%", "x\0y", "F/A-18"])
def test_labels_as_folders_stay_distinct_and_inside(label, tmp_path):
    pool = materialise.Pool("train", np.zeros((2, 2, 2), np.uint8), [label, "other"])
    folder = materialise.materialise_once(
        tmp_path, "d", label, lambda root: materialise.write_pools(root, [pool])
    )
    assert len(folder.classes) == 2
    assert len(folder.images) == 2


# ---------------------------------------------------------------- self-driving arrays


def driving(root: Path, n: int = 9) -> Path:
    root.mkdir(exist_ok=True)
    stream = np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        np.save(root / f"{split}_data.npy", stream.integers(0, 256, (n, 10800), dtype=np.uint8))
        np.save(root / f"{split}_labels.npy", np.arange(n) % 3)
    return root


def test_frames_come_back(tmp_path):
    folder = datasets.locate(f"self-driving:{driving(tmp_path / 'd')}", tmp_path / "cache")
    assert (folder.name, folder.classes) == ("self-driving", ("forward", "left", "right"))
    assert folder.splits == ("test", "train", "valid")
    data = np.load(tmp_path / "d" / "valid_data.npy").reshape(-1, 45, 80, 3)
    for (label, name), image in pixels(folder, "valid").items():
        index = int(name[:-4]) - 9
        assert np.array_equal(image, data[index])
        assert label == ("forward", "left", "right")[index % 3]


def npy(array, **changes) -> bytes:
    """.npy bytes with a header that may lie."""
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape} | changes
    text = (repr(header) + "\n").encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + array.tobytes()


FRAMES = np.zeros((3, 10800), np.uint8)
BAD_NPY = {
    "pickled objects": (
        "train_data.npy",
        lambda: npy(FRAMES, descr="|O"),
        "npy-pickle",
        UnsafeError,
    ),
    "a bare pickle": ("train_data.npy", lambda: b"\x80\x04K\x01.", "npy-header", BadDataError),
    "zero bytes": ("train_data.npy", lambda: b"", "npy-header", BadDataError),
    "trailing bytes": ("train_data.npy", lambda: npy(FRAMES) + b"\0", "npy-size", BadDataError),
    "truncated": ("train_data.npy", lambda: npy(FRAMES)[:-1], "npy-size", BadDataError),
    "a size past the end of time": (
        "train_data.npy",
        lambda: npy(FRAMES, shape=(2**45, 10800)),
        "npy-size",
        BadDataError,
    ),
    "a negative size": (
        "train_data.npy",
        lambda: npy(FRAMES, shape=(-3, 10800)),
        "npy-size",
        BadDataError,
    ),
    "Fortran order": (
        "train_data.npy",
        lambda: npy(FRAMES, fortran_order=True),
        "npy-size",
        BadDataError,
    ),
    "floats": ("train_data.npy", lambda: npy(FRAMES.astype(np.float32)), "npy-shape", BadDataError),
    "another frame": ("train_data.npy", lambda: npy(FRAMES[:, :100]), "npy-shape", BadDataError),
    "fewer labels": (
        "train_labels.npy",
        lambda: npy(np.zeros(2, np.int64)),
        "npy-shape",
        BadDataError,
    ),
    "labels of text": (
        "train_labels.npy",
        lambda: npy(np.array(["a", "b", "c"])),
        "npy-shape",
        BadDataError,
    ),
    "a fourth direction": (
        "train_labels.npy",
        lambda: npy(np.array([0, 3, 1])),
        "npy-label",
        BadDataError,
    ),
    "no labels": ("train_labels.npy", lambda: None, "npy-missing", BadDataError),
}


@pytest.mark.parametrize("case", BAD_NPY)
def test_bad_arrays_are_refused_by_name(case, tmp_path):
    name, make, code, kind = BAD_NPY[case]
    root = driving(tmp_path / "d", n=3)
    (root / name).unlink()
    if (data := make()) is not None:
        (root / name).write_bytes(data)
    with pytest.raises(kind) as caught:
        datasets.locate(root, tmp_path / "cache")
    assert caught.value.code == code
    assert caught.value.exit_code == (4 if kind is UnsafeError else 3)
    assert name in caught.value.where


def test_read_npy_equals_numpys(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(12).reshape(3, 4))
    assert np.array_equal(sources.read_npy(tmp_path / "x.npy"), np.arange(12).reshape(3, 4))
    with pytest.raises(ValueError, match="read-only"):
        sources.read_npy(tmp_path / "x.npy")[0, 0] = 1


# ---------------------------------------------------------------- torchvision's own files


def test_torchvision_files_under_the_data_root_need_no_network(tmp_path):
    """DTD as its archive unpacks: files are taken as they are, by its official splits."""
    root = tmp_path / "root" / "dtd" / "dtd"
    (root / "labels").mkdir(parents=True)
    lists = {
        "train": ["zigzag/z1.jpg", "dotted/d1.jpg"],
        "val": ["zigzag/z2.jpg"],
        "test": ["dotted/d2.jpg"],
    }
    for split, names in lists.items():
        (root / "labels" / f"{split}1.txt").write_text("\n".join(names) + "\n")
        for name in names:
            path = root / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            PILImage.new("RGB", (8, 8), (len(name), 0, 0)).save(path)
    (root / "imdb").mkdir()
    folder = datasets.locate("DTD", tmp_path / "cache", data_root=tmp_path / "root", offline=True)
    assert folder.name == "textures"
    assert [i.path for i in folder.images] == [
        "test/dotted/000000_d2.jpg",
        "train/dotted/000001_d1.jpg",
        "train/zigzag/000000_z1.jpg",
        "val/zigzag/000000_z2.jpg",
    ]
    assert (folder.root / "train/zigzag/000000_z1.jpg").read_bytes() == (
        root / "images/zigzag/z1.jpg"
    ).read_bytes()


def test_torchvision_arrays(tmp_path, monkeypatch):
    import torchvision

    class Ten:
        classes = ("plane", "car")

        def __init__(self, root, train, download=False):
            if not download:
                raise RuntimeError("not found")
            self.data = np.full((4, 32, 32, 3), 7 if train else 9, np.uint8)
            self.targets = [0, 1, 0, 1]

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Ten)
    monkeypatch.setattr("tlx.data.published.name_server_answers", lambda: True)
    folder = datasets.locate("CIFAR-10", tmp_path)
    assert folder.classes == ("car", "plane")
    assert {int(x.max()) for x in pixels(folder, "test").values()} == {9}
    assert not list((tmp_path / "downloads").glob("*"))
    with pytest.raises(TlxError):
        datasets.locate("cifar100", tmp_path, offline=True)
