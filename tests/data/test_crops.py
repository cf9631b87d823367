"""Crops: the ten of them, and the files they are written to."""

from __future__ import annotations

import json

import naive
import numpy as np
import pytest
from data.pictures import NOISE, SMOOTH, saved
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tlx import files
from tlx.data import crops, images
from tlx.data.sizing import CROPS, Sizing, scaled
from tlx.errors import TlxError, UsageError

SIZING = Sizing(16)
WORDS = np.random.default_rng(3).integers(0, 256, (40, 40, 3), dtype=np.uint8)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(2, 40),
    width=st.integers(2, 40),
    channels=st.sampled_from([1, 3]),
    data=st.data(),
)
def test_ten_crops(height, width, channels, data):
    picture = WORDS[:height, :width, :channels]
    size = data.draw(st.integers(1, min(height, width)))
    found = crops.ten(picture, size)
    assert np.array_equal(found, naive.ten_crops(picture, size))
    again = crops.ten(picture[:, ::-1], size)
    assert np.array_equal(again[[1, 0, 3, 2, 5, 4, 7, 6, 9, 8]], found), "in pairs"
    for corner in (picture[:1, :1], picture[:1, -1:], picture[-1:, :1], picture[-1:, -1:]):
        assert any(
            (crop[y, x] == corner[0, 0]).all() for crop in found for y in (0, -1) for x in (0, -1)
        )


def test_crops_of_a_rectangle_and_too_large_ones():
    assert crops.ten(NOISE, 20, 30).shape == (10, 20, 30, 3)
    assert np.array_equal(crops.ten(Image.fromarray(NOISE), 48, 64)[0], NOISE)
    with pytest.raises(UsageError):
        crops.ten(NOISE, 49)


@pytest.mark.parametrize(
    ("sizing", "before", "crop"),
    [
        (
            Sizing(round(0.875 * 256), ratio=0.875, side=256),
            (256, 256),
            (224, 224),
        ),  # resize to the input, crop r of it
        (Sizing(round(0.9 * 299), ratio=0.9, side=299), (299, 299), (269, 269)),
        (Sizing(224), (256, 256), (224, 224)),
        (Sizing(224, mode="aspect"), (341, 256), (224, 224)),
        (
            Sizing(256, mode="proportional"),
            (341, 256),
            (224, 298),
        ),  # short side to 256, then r of either side
        (Sizing(0, mode="proportional"), (64, 48), (42, 56)),  # as it is
        (Sizing(0, mode="proportional", ratio=0.5), (64, 48), (24, 32)),
        (Sizing(30, mode="proportional"), (40, 30), (26, 35)),  # 26.25
        (Sizing(12, mode="proportional"), (16, 12), (10, 14)),  # 10.5: half to even
        (Sizing(20, mode="proportional"), (27, 20), (18, 24)),  # 17.5: half to even; 23.625
    ],
)
def test_sizings_of_the_studies(tmp_path, sizing, before, crop):
    (tmp_path / "a.png").write_bytes(saved(NOISE, "PNG"))
    picture = scaled(Image.fromarray(NOISE), sizing)
    assert picture.size == before
    crops.write(tmp_path, ["a.png"], tmp_path.parent / f"{tmp_path.name}-crops", sizing)
    for i, path in enumerate(crops.paths(tmp_path.parent / f"{tmp_path.name}-crops", "a.png")):
        found = images.read(path)
        assert found.shape[:2] == crop
        assert np.array_equal(found, crops.ten(picture, *crop)[i])


def test_an_odd_margin_is_cut_on_the_other_side_of_the_mirrored_image():
    row = np.arange(7, dtype=np.uint8)[None, :, None].repeat(7, axis=0)
    centre, mirrored = crops.ten(row, 4)[8:, 0, :, 0]
    assert (centre.tolist(), mirrored.tolist()) == ([1, 2, 3, 4], [5, 4, 3, 2])


def test_identity_changes_only_where_crops_or_sides_do():
    assert "generator" not in Sizing(224).identity(), "a margin of 32"
    assert "generator" not in Sizing(13, crops=False, side=16).identity()
    assert Sizing(13, side=16).identity()["generator"] == 2, "a margin of 3"
    assert Sizing(224, mode="aspect").identity()["generator"] == 2


# ---------------------------------------------------------------- files

RELPATHS = [
    "train/a/one.png",
    "train/a/two.JPG",
    "train/b/one.png",
    "test/a/three.webp",
    "test/b/four.gif",
]


@pytest.fixture
def root(tmp_path):
    for i, relpath in enumerate(RELPATHS):
        path = tmp_path / "pets" / relpath
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = {"jpg": "JPEG"}.get(path.suffix[1:].lower(), path.suffix[1:].upper())
        path.write_bytes(saved(np.roll(SMOOTH, 7 * i, axis=1), kind))
    return tmp_path / "pets"


def tree(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != crops.LOCK
    }


def test_names_and_manifest(root, tmp_path):
    out = tmp_path / "pets_crops"
    assert crops.write(root, RELPATHS, out, SIZING) == crops.Written(written=5, kept=0)
    found = set(tree(out)) - {"crops.json"}
    assert len(found) == 50
    assert {f"train/a/two_crop_{i}.JPG" for i in range(10)} <= found
    assert {f"test/b/four_crop_{i}.png" for i in range(10)} <= found  # GIF cannot hold the colours
    assert crops.missing(out, RELPATHS) == []
    manifest = json.loads((out / "crops.json").read_text())
    assert manifest["order"] == [name for name, _, _ in CROPS]
    assert manifest["sizing"] == SIZING.identity()
    for relpath, row in manifest["images"].items():
        assert row["source"] == files.sha256(root / relpath)
        assert row["crops"] == [files.sha256(path) for path in crops.paths(out, relpath)]


def test_content_is_the_crop(root, tmp_path):
    crops.write(root, RELPATHS, tmp_path / "c", SIZING)
    for relpath in RELPATHS:
        want = crops.ten(scaled(Image.fromarray(images.read(root / relpath)), SIZING), 16)
        found = np.stack([images.read(path) for path in crops.paths(tmp_path / "c", relpath)])
        assert np.abs(found.astype(int) - want).mean() < 3
        if not relpath.endswith("JPG"):
            assert np.array_equal(found, want)
    crops.write(root, RELPATHS, tmp_path / "d", SIZING, encoding=crops.Encoding(lossless=True))
    for i, path in enumerate(crops.paths(tmp_path / "d", RELPATHS[1])):
        want = crops.ten(scaled(Image.fromarray(images.read(root / RELPATHS[1])), SIZING), 16)
        assert path.name == f"two_crop_{i}.png"
        assert np.array_equal(images.read(path), want[i])


def test_whole_crops_are_kept_and_others_made_again(root, tmp_path):
    out = tmp_path / "c"
    crops.write(root, RELPATHS, out, SIZING)
    first = tree(out)
    assert crops.write(root, RELPATHS, out, SIZING) == crops.Written(written=0, kept=5)
    (out / "train/a/one_crop_7.png").unlink()
    (out / "train/b/one_crop_2.png").write_bytes(b"")
    assert crops.write(root, RELPATHS, out, SIZING) == crops.Written(written=2, kept=3)
    (root / RELPATHS[0]).write_bytes(saved(NOISE, "PNG"))
    assert crops.write(root, RELPATHS, out, SIZING) == crops.Written(written=1, kept=4)
    changed = {name for name, data in tree(out).items() if first[name] != data}
    assert changed == {"crops.json"} | {f"train/a/one_crop_{i}.png" for i in range(10)}


def test_stopped_and_run_again(root, tmp_path, monkeypatch):
    crops.write(root, RELPATHS, tmp_path / "whole", SIZING)
    monkeypatch.setattr(crops, "BLOCK", 1)

    def stop(done, of):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        crops.write(root, RELPATHS, tmp_path / "c", SIZING, progress=stop)
    assert not (tmp_path / "c" / "crops.json").exists()
    assert crops.write(root, RELPATHS, tmp_path / "c", SIZING) == crops.Written(written=2, kept=3)
    assert tree(tmp_path / "c") == tree(tmp_path / "whole")


def test_broken_pictures_are_named_and_the_others_made(root, tmp_path):
    for relpath in RELPATHS[1:3]:
        (root / relpath).write_bytes(b"nothing")
    with pytest.raises(TlxError) as caught:
        crops.write(root, RELPATHS, tmp_path / "c", SIZING)
    assert [p.where for p in caught.value.problems] == [
        str(root / relpath) for relpath in RELPATHS[1:3]
    ]
    lacking = [p.where for p in crops.missing(tmp_path / "c", RELPATHS)]
    assert lacking == [str(tmp_path / "c" / relpath) for relpath in RELPATHS[1:3]]


def test_missing_crops_are_named(root, tmp_path):
    crops.write(root, RELPATHS, tmp_path, SIZING)
    for i in (2, 7):
        crops.paths(tmp_path, RELPATHS[1])[i].unlink()
    (problem,) = crops.missing(tmp_path, RELPATHS)
    assert problem.exit_code == 3
    assert "two_crop_2.JPG, two_crop_7.JPG not found" in str(problem)


def test_places_that_are_refused(root, tmp_path):
    out = tmp_path / "c"
    for relpaths, place, code in (
        (RELPATHS, root, "crops-folder"),
        (RELPATHS, root / "crops", "crops-folder"),
        (["../x.png"], out, "path-outside"),
        (["/x.png"], out, "path-outside"),
        (["a/x.gif", "a/x.png"], out, "crops-collide"),
    ):
        with pytest.raises(TlxError) as caught:
            crops.write(root, relpaths, place, SIZING)
        assert caught.value.code == code
    crops.write(root, RELPATHS, tmp_path / "c", SIZING)
    with pytest.raises(UsageError, match="other settings"):
        crops.write(root, RELPATHS, tmp_path / "c", Sizing(15))
    (tmp_path / "c" / "crops.json").unlink()
    before = tree(tmp_path / "c")
    with pytest.raises(UsageError, match="elsewhere"):
        crops.write(root, RELPATHS, tmp_path / "c", SIZING)
    assert tree(tmp_path / "c") == before


def test_the_nearest_pixel_is_taken_and_none_is_mixed():
    """The original of 45 × 80 frames scaled so: pixel (x, y) of the source at the same share."""
    sizing = Sizing(128, mode="nearest", crops=False)
    found = np.asarray(scaled(Image.fromarray(NOISE), sizing))
    rows = (np.arange(128) + 0.5) * NOISE.shape[0] / 128
    columns = (np.arange(128) + 0.5) * NOISE.shape[1] / 128
    expected = NOISE[rows.astype(int)][:, columns.astype(int)]
    assert np.array_equal(found, expected)
    assert sizing.identity() != Sizing(128, crops=False).identity()
