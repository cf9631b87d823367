"""The file that is shipped with an exported model makes the same pixels as tlx does."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest
from data.pictures import NOISE, SMOOTH, bands_tiff, png, saved, tiff
from PIL import Image

import tlx
from tlx.data import safe_image
from tlx.data.decode import decode
from tlx.data.images import quiet
from tlx.data.sizing import Sizing
from tlx.errors import TlxError
from tlx.models.onnx_file import input_of

SOURCE = Path(tlx.__file__).parent / "_data" / "served.py"


@pytest.fixture(scope="module")
def shipped():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mlflow's own, while it is imported
        spec = importlib.util.spec_from_file_location("shipped_served", SOURCE)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(SMOOTH, "JPEG", exif=exif)


def rgba():
    alpha = np.broadcast_to(np.arange(64, dtype=np.uint8) * 4, (48, 64))[..., None]
    return np.concatenate([NOISE, alpha], axis=2)


def palette(**settings):
    return saved(Image.fromarray(NOISE).quantize(16), "PNG", **settings)


GREY = NOISE[..., 0]
DEEP = (np.arange(48 * 64).reshape(48, 64) * 21).astype(np.uint16)
PICTURES = {
    **{f"EXIF {number}": turned(number) for number in range(1, 9)},
    **{kind: saved(NOISE, kind) for kind in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")},
    **{f"grey {kind}": saved(GREY, kind) for kind in ("PNG", "JPEG", "BMP", "GIF", "TIFF")},
    **{f"alpha {kind}": saved(rgba(), kind) for kind in ("PNG", "WEBP", "TIFF")},
    "grey alpha": saved(Image.fromarray(rgba()).convert("LA"), "PNG"),
    "hidden by alpha": saved(np.dstack([NOISE, np.zeros_like(GREY)]), "PNG"),
    "palette": palette(),
    "transparent palette": palette(transparency=3),
    "transparent colour": saved(Image.fromarray(NOISE), "PNG", transparency=(1, 2, 3)),
    "transparent grey": saved(Image.fromarray(GREY), "PNG", transparency=7),
    "1 bit": saved(Image.fromarray(GREY).convert("1"), "PNG"),
    "CMYK": saved(Image.fromarray(NOISE).convert("CMYK"), "JPEG"),
    "CMYK TIFF": saved(Image.fromarray(NOISE).convert("CMYK"), "TIFF"),
    "16 bit": saved(Image.fromarray(DEEP), "PNG"),
    "16 bit of 12": saved(Image.fromarray((DEEP >> 8).astype(np.uint16)), "PNG"),
    "16 bit TIFF": saved(Image.fromarray(DEEP), "TIFF"),
    "16 bit white is zero": tiff(DEEP, bits=16, sample_format=1, photometric=0),
    "16 bit big-endian": tiff(DEEP, bits=16, sample_format=1, order=">"),
    "16 bit colour": png(8, 4, bits=16, colour=2),
    "float": saved(Image.fromarray(GREY.astype(np.float32)), "TIFF"),
    "float of 0 to 1": saved(Image.fromarray(GREY.astype(np.float32) / 255), "TIFF"),
    "float beyond": saved(Image.fromarray(GREY.astype(np.float32) * 3), "TIFF"),
    "whole numbers": saved(Image.fromarray(GREY.astype(np.int32)), "TIFF"),
    "signed": tiff((GREY >> 1).astype(np.int8), bits=8, sample_format=2),
    "four bands": bands_tiff(rgba(), photometric=2),
    "four bands, alpha": bands_tiff(rgba(), photometric=2, extra=[2]),
    "frames": saved(
        Image.fromarray(NOISE), "GIF", save_all=True, append_images=[Image.fromarray(SMOOTH)]
    ),
    "pages": saved(
        Image.fromarray(NOISE), "TIFF", save_all=True, append_images=[Image.fromarray(SMOOTH)]
    ),
    "narrow": saved(NOISE[:, :3], "PNG"),
    "wide": saved(NOISE[:2], "PNG"),
    "too wide": saved(np.zeros((2, 300), np.uint8), "PNG"),
    "one pixel": saved(NOISE[:1, :1], "PNG"),
    "large": png(60_000, 900),
    "truncated JPEG": saved(NOISE, "JPEG")[:-200],
    "truncated PNG": saved(NOISE, "PNG")[:500],
    "no image": b"hello",
    "PDF": b"%PDF-1.4",
    "nothing": b"",
}
SIZINGS = [
    Sizing(12, mode=mode, crops=crops, channels=channels)
    for mode in ("squash", "aspect", "nearest")
    for crops in (True, False)
    for channels in (1, 3)
]


def test_there_are_fifty_odd_pictures():
    assert len(PICTURES) >= 50


@pytest.mark.parametrize("name", PICTURES)
def test_the_same_pixels_or_both_refuse(shipped, tmp_path, name):
    path = tmp_path / "picture.png"
    path.write_bytes(PICTURES[name])
    try:
        with quiet():
            decoded = decode(path)
    except TlxError:
        decoded = None
    for sizing in SIZINGS:
        record = {"channels": sizing.channels, "sizing": vars(sizing)}
        if decoded is None:
            with quiet(), pytest.raises(ValueError, match="row 3: no usable image"):
                shipped.pixels_of_row(3, PICTURES[name], record)
            continue
        with quiet():
            ours = shipped.pixels_of_row(3, PICTURES[name], record)
        np.testing.assert_array_equal(ours, input_of(decoded, sizing))


@pytest.mark.parametrize(("width", "height"), [(10_001, 5_000), (20_001, 10), (1, 300)], ids=str)
def test_limits_of_size_are_those_of_tlx_and_are_told_before_anything_is_decoded(
    shipped, tmp_path, width, height
):
    assert shipped.MAX_PIXELS == safe_image.MAX_PIXELS == 50_000_000
    for name in ("MAX_SIDE", "MIN_SIDE", "MAX_ASPECT"):
        assert getattr(shipped, name) == getattr(safe_image, name)
    data = png(width, height)
    (tmp_path / "picture.png").write_bytes(data)
    record = {"channels": 3, "sizing": vars(SIZINGS[0])}
    with pytest.raises(ValueError, match=f"row 0: .*{width} × {height} pixels"):
        shipped.pixels_of_row(0, data, record)
    with quiet(), pytest.raises(TlxError):
        decode(tmp_path / "picture.png")


@pytest.mark.parametrize("size", [(12, 12), (13, 12), (31, 7), (7, 31), (100, 3)], ids=str)
def test_odd_shapes_are_scaled_and_cut_alike(shipped, tmp_path, size):
    path = tmp_path / "picture.png"
    rng = np.random.default_rng(sum(size))
    Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    for sizing in SIZINGS:
        record = {"channels": sizing.channels, "sizing": vars(sizing)}
        ours = shipped.pixels(path.read_bytes(), record)
        np.testing.assert_array_equal(ours, input_of(decode(path), sizing))
