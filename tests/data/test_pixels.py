"""Pixels: the rows that come out, the array they lie in, and what happens to it when things go
wrong.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time

import naive
import numpy as np
import pytest
from data.pictures import saved
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tlx import files
from tlx.data import crops, image_views, pixels, shards
from tlx.data.sizing import Sizing
from tlx.errors import TlxError, UsageError

SQUASH, ASPECT = Sizing(16), Sizing(16, mode="aspect")


def make(folder, count, seed=0, sides=(9, 40)):
    """PNGs of noise, of different shapes."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, paths = np.random.default_rng(seed), []
    for i in range(count):
        height, width = rng.integers(*sides, 2)
        paths.append(folder / f"{i:03d}.png")
        paths[-1].write_bytes(
            saved(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), "PNG")
        )
    return paths


@pytest.fixture
def paths(tmp_path):
    return make(tmp_path / "images", 12)


def expected(path, sizing):
    """(c, size, size, channels) by Pillow's filters and naive crops."""
    image = Image.open(path)
    rgb = np.asarray(image.convert("RGB"))
    image = Image.fromarray(naive.luma(rgb) if sizing.channels == 1 else rgb)
    side = int(sizing.size / sizing.ratio + 0.5)
    if sizing.mode in ("squash", "nearest"):
        size = (side, side) if sizing.crops else (sizing.size, sizing.size)
    else:
        short = min(image.size)
        size = tuple(
            side if length == short else round(length * side / short) for length in image.size
        )
    nearest = sizing.mode == "nearest"
    way = Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS
    picture = np.asarray(image.resize(size, way))
    picture = picture.reshape(*picture.shape[:2], sizing.channels)
    ten = naive.ten_crops(picture, sizing.size)
    return ten if sizing.crops else ten[8:9]


def every_row(found):
    return found.take(np.arange(len(found) * found.crops)).reshape(found.shape)


# ---------------------------------------------------------------- the rows


@pytest.mark.parametrize("budget", [1 << 30, 0], ids=["stored", "streamed"])
@pytest.mark.parametrize(
    ("mode", "with_crops", "channels", "size"),
    [
        *itertools.product(["squash", "aspect", "nearest"], [True, False], [3, 1], [16]),
        ("squash", True, 1, 28),
        ("aspect", True, 3, 31),
    ],
)
def test_rows_are_the_crops(paths, tmp_path, budget, mode, with_crops, channels, size):
    sizing = Sizing(size, crops=with_crops, mode=mode, channels=channels)
    found = pixels.pixels(paths, sizing, tmp_path / "cache", budget_bytes=budget)
    assert found.streamed == (budget == 0)
    assert found.shape == (len(paths), 10 if with_crops else 1, size, size, channels)
    assert np.array_equal(every_row(found), np.stack([expected(path, sizing) for path in paths]))


def test_tiny_images_grow(tmp_path):
    paths = make(tmp_path, 3, sides=(8, 9))
    found = pixels.pixels(paths, Sizing(28, channels=1), tmp_path / "cache")
    assert np.array_equal(every_row(found)[2], expected(paths[2], Sizing(28, channels=1)))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Images of the module, with their stored and streamed rows."""
    folder = tmp_path_factory.mktemp("shared")
    paths = make(folder / "images", 9)
    return [
        pixels.pixels(paths, SQUASH, folder / "cache", budget_bytes=budget)
        for budget in (1 << 30, 0)
    ]


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.integers(0, 89), max_size=30),
    chosen=st.lists(st.integers(0, 8), min_size=1, max_size=12),
    ahead=st.lists(st.integers(0, 89), max_size=5),
)
def test_take_in_any_order_with_repeats(shared, rows, chosen, ahead):
    stored, streamed = shared
    whole = every_row(stored)
    streamed.prefetch(ahead)
    for found in (stored, streamed):
        assert np.array_equal(
            found.take(rows), whole.reshape(-1, 16, 16, 3)[np.array(rows, dtype=int)]
        )
    part = stored.subset(chosen)
    assert len(part) == len(chosen)
    assert np.array_equal(every_row(part), whole[chosen])
    assert np.array_equal(every_row(part.subset([0])), whole[chosen[:1]])
    assert np.array_equal(every_row(streamed.subset(chosen)), whole[chosen])


def test_what_is_taken_is_ours_to_change(shared):
    before = shared[0].take([3])
    taken = shared[0].take([3])
    taken[:] = 0
    assert taken.flags.c_contiguous
    assert np.array_equal(shared[0].take([3]), before)


@pytest.mark.parametrize("rows", [[-1], [90], [0, 1000]])
def test_no_row_beyond_the_end(shared, rows):
    for found in shared:
        with pytest.raises(IndexError):
            found.take(rows)


def test_no_images(tmp_path):
    found = pixels.pixels([], SQUASH, tmp_path)
    assert (len(found), found.take([]).shape) == (0, (0, 16, 16, 3))


# ---------------------------------------------------------------- identity


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(order=st.permutations(range(5)))
def test_digest_is_of_content_and_order(tmp_path_factory, order):
    one, other = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("other")
    paths = make(one / "images", 5)
    first = pixels.pixels(paths, SQUASH, one / "cache")
    moved = [
        path.rename(other / f"{9 - i}.jpg") for i, path in enumerate(paths)
    ]  # other folder, names and sorting
    again = pixels.pixels(moved, SQUASH, other / "cache")
    assert again.digest == first.digest
    shuffled = pixels.pixels([moved[i] for i in order], SQUASH, other / "cache")
    assert (shuffled.digest == first.digest) == (list(order) == sorted(order))
    assert shuffled.digest == first.subset(order).digest


def test_digest_tells_sizings_apart(paths, tmp_path):
    sizings = [
        SQUASH,
        ASPECT,
        Sizing(16, channels=1),
        Sizing(16, crops=False),
        Sizing(17),
        Sizing(16, ratio=0.8),
    ]
    found = [pixels.pixels(paths, sizing, tmp_path, budget_bytes=0).digest for sizing in sizings]
    assert len(set(found)) == len(found)
    same = Sizing(16, crops=False, ratio=0.5)  # no ratio enters a square that is not cropped
    assert pixels.pixels(paths, same, tmp_path, budget_bytes=0).digest == found[3]
    assert pixels.pixels(paths, SQUASH, tmp_path).digest == found[0]  # stored or streamed


def test_images_twice_are_counted(paths, tmp_path):
    found = pixels.pixels([*paths, paths[0], paths[0]], SQUASH, tmp_path / "cache")
    assert found.notes == {"duplicates": 2}
    rows = every_row(found)
    assert np.array_equal(rows[0], rows[-1])


# ---------------------------------------------------------------- what is wrong, at once


@pytest.mark.parametrize("budget", [1 << 30, 0])
def test_all_problems_together_and_nothing_kept(paths, tmp_path, budget):
    whole = paths[2].read_bytes()
    paths[2].write_bytes(b"no picture")
    paths[5].write_bytes(whole[:-30])
    with pytest.raises(TlxError) as caught:
        pixels.pixels(paths, SQUASH, tmp_path / "cache", budget_bytes=budget)
    assert [(p.where, p.code) for p in caught.value.problems] == [
        (str(paths[2]), "not-an-image"),
        (str(paths[5]), "image-truncated"),
    ]
    paths[7].unlink()  # cannot even be digested: the others are named all the same
    paths[8].write_bytes(b"")
    with pytest.raises(TlxError) as caught:
        pixels.pixels(paths, SQUASH, tmp_path / "cache", budget_bytes=budget)
    assert [p.where for p in caught.value.problems] == [str(paths[i]) for i in (2, 5, 7, 8)]
    assert not list((tmp_path / "cache").glob("pixels/*/*"))
    assert not list((tmp_path / "cache").glob(f"pixels/{files.TEMPORARY}*"))


def test_too_full_a_disk_is_said_before(paths, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "free_bytes", lambda path: 1234)
    with pytest.raises(TlxError, match=r"16,777,216 are to be left, 1,234 are free") as caught:
        pixels.pixels(paths, SQUASH, tmp_path / "cache")
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("crops", [False, True])
def test_the_bytes_on_disk_are_known_before_images_are_decoded(paths, tmp_path, crops):
    sizing, cache = dataclasses.replace(SQUASH, crops=crops), tmp_path / "cache"
    size = pixels.stored_bytes(len(paths), sizing)
    assert not pixels.is_stored(paths, sizing, cache)
    assert pixels.stored_bytes(len(paths), sizing, budget_bytes=size - 1) == 0
    pixels.pixels(paths, sizing, cache, budget_bytes=size - 1)
    assert not list(cache.glob("pixels/*/*.npy"))
    pixels.pixels(paths, sizing, cache, budget_bytes=size)
    assert sum(np.load(path).nbytes for path in cache.glob("pixels/*/*.npy")) == size
    assert pixels.is_stored(paths, sizing, cache)
    assert not pixels.is_stored(paths[1:], sizing, cache)


def test_a_file_that_changed_since_its_digest(paths, tmp_path, monkeypatch):
    found = pixels.pixels(paths, SQUASH, tmp_path / "cache", budget_bytes=0)
    paths[4].write_bytes(paths[3].read_bytes())
    with pytest.raises(TlxError) as caught:
        found.take([40])
    assert (caught.value.code, caught.value.where, caught.value.exit_code) == (
        "file-changed",
        str(paths[4]),
        9,
    )


def test_sizings_that_cannot_be(tmp_path, paths):
    for wrong in ({"mode": "squish"}, {"channels": 2}, {"ratio": 0}, {"ratio": 1.1}, {"side": 9}):
        with pytest.raises(UsageError):
            Sizing(16, **wrong)
    with pytest.raises(UsageError):
        Sizing(0)
    with pytest.raises(UsageError):
        pixels.pixels(paths, Sizing(0, mode="proportional"), tmp_path)


# ---------------------------------------------------------------- crops made elsewhere


def test_precomputed_crops_are_used_as_they_are(paths, tmp_path):
    names = [path.name for path in paths]
    crops.write(paths[0].parent, names, tmp_path / "crops", SQUASH)
    own = pixels.pixels(paths, SQUASH, tmp_path / "cache")

    def precomputed(image):
        return crops.paths(tmp_path / "crops", names[image])

    for budget in (1 << 30, 0):
        found = pixels.pixels(
            paths, SQUASH, tmp_path / "cache", precomputed=precomputed, budget_bytes=budget
        )
        assert np.array_equal(every_row(found), every_row(own))  # PNGs: nothing is lost on the way
        assert found.digest != own.digest
    for image, crop in ((3, 7), (3, 2), (9, 0)):
        precomputed(image)[crop].unlink()
    with pytest.raises(TlxError) as caught:
        pixels.pixels(paths, SQUASH, tmp_path / "cache", precomputed=precomputed)
    assert [p.where for p in caught.value.problems] == [str(paths[3]), str(paths[9])]
    assert "003_crop_2.png, 003_crop_7.png not found" in str(caught.value)


@pytest.mark.parametrize("budget", [1 << 30, 0], ids=["stored", "streamed"])
@pytest.mark.parametrize("cropped", ["no", "ten", "made elsewhere"])
def test_a_part_has_the_rows_of_its_images_alone_in_another_process_too(
    paths, tmp_path, budget, cropped
):
    sizing, elsewhere = Sizing(16, crops=cropped != "no"), None
    if cropped == "made elsewhere":
        crops.write(paths[0].parent, [p.name for p in paths], tmp_path / "crops", sizing)
        made = [crops.paths(tmp_path / "crops", path.name) for path in paths]
        elsewhere = made.__getitem__
    whole = pixels.pixels(
        paths, sizing, tmp_path / "cache", precomputed=elsewhere, budget_bytes=budget
    )
    turned = whole.subset([11, 3, 5, 0, 7])
    part = turned.part(range(1, 4))
    sent = pickle.loads(pickle.dumps(part))
    rows = np.arange(turned.crops, 4 * turned.crops)[::-1]
    sent.prefetch(rows)
    assert np.array_equal(sent.take(rows), turned.take(rows))
    assert np.array_equal(part.take(rows[:2]), turned.take(rows[:2]))
    for outside in (turned.crops - 1, 4 * turned.crops):
        with pytest.raises(IndexError):
            sent.take(np.array([outside]))
    if not budget:  # the files of the other images are not sent
        data = pickle.dumps(part)
        ending = "_crop_0.png" if elsewhere else ".png"
        names = [path.stem + ending for path in paths]
        assert [name.encode() in data for name in names] == [i in (3, 5, 0) for i in range(12)]


def test_precomputed_crops_of_another_size(paths, tmp_path):
    names = [path.name for path in paths]
    crops.write(paths[0].parent, names, tmp_path / "crops", Sizing(20))

    def ask(sizing):
        return pixels.pixels(
            paths,
            sizing,
            tmp_path / "cache",
            precomputed=lambda i: crops.paths(tmp_path / "crops", names[i]),
        )

    with pytest.raises(TlxError, match=r"20 × 20 pixels.*16 × 16") as caught:
        ask(SQUASH)
    assert {p.code for p in caught.value.problems} == {"crop-size"}
    found = ask(Sizing(16, resize=True))
    crop = Image.open(crops.paths(tmp_path / "crops", names[1])[4]).resize(
        (16, 16), Image.Resampling.LANCZOS
    )
    assert np.array_equal(found.take([14])[0], np.asarray(crop))


# ---------------------------------------------------------------- the array on disk


@pytest.fixture
def small_shards(monkeypatch):
    """Three images a shard."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 3 * 18 * 18 * 3)


def shard_bytes(cache):
    return {
        path.relative_to(cache): path.read_bytes()
        for path in sorted(cache.glob("pixels/*/*"))
        if path.is_file()
    }


def test_decoded_once(paths, tmp_path, small_shards, monkeypatch):
    seen = []
    first = pixels.pixels(
        paths, SQUASH, tmp_path / "cache", progress=lambda done, of: seen.append((done, of))
    )
    assert seen[-1] == (12, 12)
    assert len(list((tmp_path / "cache").glob("pixels/*/*.npy"))) == 4
    monkeypatch.setattr(image_views, "decode", None)
    assert np.array_equal(
        every_row(pixels.pixels(paths, SQUASH, tmp_path / "cache")), every_row(first)
    )
    quick = pixels.pixels(paths, SQUASH, tmp_path / "cache", verify=False)
    assert np.array_equal(every_row(quick), every_row(first))


def test_workers_do_not_show(paths, tmp_path, small_shards):
    for workers in (1, 3):
        pixels.pixels(paths, ASPECT, tmp_path / str(workers), workers=workers)
    assert shard_bytes(tmp_path / "1") == shard_bytes(tmp_path / "3")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


DAMAGE = {
    "a bit flipped": flip,
    "cut": lambda path: os.truncate(path, path.stat().st_size - 1),
    "gone": os.unlink,
    "empty": lambda path: os.truncate(path, 0),
    "manifest gone": lambda path: (path.parent / files.MANIFEST).unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_array_is_made_again_and_says_so(paths, tmp_path, small_shards, damage):
    first = pixels.pixels(paths, SQUASH, tmp_path / "cache")
    whole, rows = shard_bytes(tmp_path / "cache"), every_row(first)
    DAMAGE[damage](sorted((tmp_path / "cache").glob("pixels/*/*.npy"))[1])
    again = pixels.pixels(paths, SQUASH, tmp_path / "cache")
    assert again.notes == {"rebuilt": 1}
    assert np.array_equal(every_row(again), rows)
    assert shard_bytes(tmp_path / "cache") == whole
    assert pixels.pixels(paths, SQUASH, tmp_path / "cache").notes == {}


CHILD = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    from tlx.data import image_views, pixels, shards
    from tlx.data.sizing import Sizing
    folder, cache, pause = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    shards.SHARD_BYTES = 3 * 18 * 18 * 3
    decode = image_views.decode
    def slow(*args):
        print("decode", flush=True)
        time.sleep(pause)
        return decode(*args)
    image_views.decode = slow
    pixels.pixels(sorted(folder.glob("*.png")), Sizing(16), cache, workers=1)
""")


def child(paths, cache, pause):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(paths[0].parent), str(cache), str(pause)],
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("decodes", [1, 5, 8, 12])
def test_killed_and_run_again_is_the_same(paths, tmp_path, small_shards, monkeypatch, decodes):
    want = pixels.pixels(paths, SQUASH, tmp_path / "whole")
    process = child(paths, tmp_path / "cache", 0.02)
    for _ in range(decodes):
        process.stdout.readline()
    time.sleep(0.005 * decodes)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not [
        path for path in (tmp_path / "cache").glob("pixels/*/MANIFEST.json") if decodes < 12
    ]
    counted, decode = [], image_views.decode
    monkeypatch.setattr(image_views, "decode", lambda *args: counted.append(args) or decode(*args))
    found = pixels.pixels(paths, SQUASH, tmp_path / "cache")
    assert np.array_equal(every_row(found), every_row(want))
    assert shard_bytes(tmp_path / "cache") == shard_bytes(tmp_path / "whole")
    assert len(counted) <= 12 - (decodes - 1) // 3 * 3  # whole shards are not decoded again
    assert not list((tmp_path / "cache").glob(f"pixels/{files.TEMPORARY}*"))


def test_two_at_once_decode_once(paths, tmp_path):
    together = [child(paths, tmp_path / "cache", 0.05) for _ in range(2)]
    lines = [process.communicate(timeout=60)[0].count("decode") for process in together]
    assert [process.returncode for process in together] == [0, 0]
    assert sorted(lines) == [0, 12]


def test_shards_of_another_cut_are_not_taken_for_ours(paths, tmp_path, small_shards, monkeypatch):
    monkeypatch.setattr(
        shards.files, "seal", lambda folder: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        pixels.pixels(paths, SQUASH, tmp_path / "cache")  # all shards written, not sealed
    monkeypatch.undo()
    monkeypatch.setattr(shards, "SHARD_BYTES", 5 * 18 * 18 * 3)
    found = pixels.pixels(paths, SQUASH, tmp_path / "cache")
    assert np.array_equal(every_row(found), np.stack([expected(path, SQUASH) for path in paths]))


def test_real_photographs(shared_data, tmp_path):
    paths = sorted((shared_data / "sign-digits").glob("*/*"), key=lambda p: -p.stat().st_size)[1:40]
    stored = pixels.pixels(paths, Sizing(96), tmp_path)
    streamed = pixels.pixels(paths, Sizing(96), tmp_path, budget_bytes=0, verify=False)
    rows = np.random.default_rng(0).integers(0, len(paths) * 10, 50)
    assert np.array_equal(stored.take(rows), streamed.take(rows))
