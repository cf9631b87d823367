"""Images: what every kind of file becomes, and the digests of files."""

from __future__ import annotations

import hashlib
import os

import naive
import numpy as np
import pytest
from data.pictures import NOISE, RNG, SMOOTH, bands_tiff, chunk, png, saved, tiff
from PIL import Image

from tlx.data import images, safe_image
from tlx.data.decode import decode
from tlx.data.safe_image import ImageLimits
from tlx.errors import TlxError

JPEG, PNG = saved(NOISE, "JPEG"), saved(NOISE, "PNG")


def notes(path):
    problems, counted = images.inspect([path])
    assert not problems
    return counted


# ---------------------------------------------------------------- the rules


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_lossless_formats_give_the_pixels(put, kind, settings):
    path = put(saved(NOISE, kind, **settings), f"a{safe_image.FORMATS[kind].extensions[0]}")
    assert np.array_equal(images.read(path), NOISE)
    assert notes(path) == {}


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_is_near_the_pixels(put, progressive):
    path = put(saved(SMOOTH, "JPEG", quality=95, progressive=progressive), "a.jpeg")
    assert np.abs(images.read(path).astype(int) - SMOOTH).mean() < 2


def test_one_channel_is_luma_and_grey_stays_itself(put):
    assert np.array_equal(
        images.read(put(saved(NOISE, "PNG")), channels=1)[..., 0], naive.luma(NOISE)
    )
    grey = NOISE[..., 0]
    path = put(saved(grey, "PNG"), "g.png")
    assert np.array_equal(images.read(path, channels=1), grey[..., None])
    assert np.array_equal(images.read(path), np.repeat(grey[..., None], 3, axis=2))
    repeated = put(saved(np.repeat(grey[..., None], 3, axis=2), "PNG"), "r.png")
    assert np.array_equal(images.read(repeated, channels=1), grey[..., None])


def test_one_bit_and_palette(put):
    bits = NOISE[..., 0] > 127
    found = images.read(put(saved(Image.fromarray(bits), "PNG")), channels=1)
    assert np.array_equal(found[..., 0], bits * np.uint8(255))
    few = Image.fromarray(NOISE // 64 * 64).quantize(200)
    assert np.array_equal(
        images.read(put(saved(few, "PNG"), "p.png")), np.asarray(few.convert("RGB"))
    )
    assert np.array_equal(
        images.read(put(saved(few, "GIF"), "p.gif")), np.asarray(few.convert("RGB"))
    )


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_alpha_lies_over_white(put, kind):
    alpha = RNG.integers(0, 256, NOISE.shape[:2], dtype=np.uint8)
    rgba = np.dstack([NOISE, alpha])
    exact = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    path = put(saved(rgba, kind, **exact), f"a{safe_image.FORMATS[kind].extensions[0]}")
    assert np.abs(images.read(path) - naive.over_white(NOISE, alpha)).max() <= 1
    assert notes(path) == {"alpha": 1}


def test_grey_with_alpha_and_transparent_colours(put):
    alpha = RNG.integers(0, 256, NOISE.shape[:2], dtype=np.uint8)
    grey = NOISE[..., 0]
    path = put(saved(Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]), "PNG"))
    want = naive.over_white(np.repeat(grey[..., None], 3, axis=2), alpha)
    assert np.abs(images.read(path) - want).max() <= 1
    assert np.abs(images.read(path, channels=1)[..., 0] - want[..., 0]).max() <= 1

    coloured = put(saved(NOISE, "PNG", transparency=tuple(map(int, NOISE[5, 6]))), "t.png")
    assert np.array_equal(images.read(coloured)[5, 6], [255, 255, 255])
    assert np.array_equal(images.read(coloured)[5, 7], NOISE[5, 7])

    index = np.arange(64, dtype=np.uint8).reshape(8, 8) % 4
    palette = Image.frombytes("P", (8, 8), index.tobytes())
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    for kind, name in (("PNG", "i.png"), ("GIF", "i.gif")):
        read = images.read(put(saved(palette, kind, transparency=2), name))
        assert np.array_equal(read[index == 2], [[255, 255, 255]] * 16)
        assert np.array_equal(read[index == 1], [[40, 50, 60]] * 16)


def test_sixteen_bits_are_shifted_not_clipped(put):
    wide = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 21
    want = (wide >> 8).astype(np.uint8)
    assert want.max() > 240
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in wide)
    for data, name in (
        (png(64, 48, rows=rows, bits=16), "a.png"),
        (tiff(wide, bits=16, sample_format=1), "l.tif"),
        (tiff(wide, bits=16, sample_format=1, order=">"), "b.tif"),
        (saved(wide, "TIFF", compression="tiff_lzw"), "z.tif"),
    ):
        path = put(data, name)
        assert np.array_equal(images.read(path, channels=1)[..., 0], want), name
        assert notes(path) == {"16-bit": 1}
    white_is_zero = put(tiff(wide, bits=16, sample_format=1, photometric=0), "w.tif")
    assert np.array_equal(images.read(white_is_zero, channels=1)[..., 0], 255 - want)
    colour = np.stack([wide, wide[::-1], wide[:, ::-1]], -1)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colour)
    assert np.array_equal(
        images.read(put(png(64, 48, rows=rows, bits=16, colour=2), "c.png")), colour >> 8
    )


def test_thirty_two_bits_inside_the_range(put):
    floats = np.linspace(0, 255, 48 * 64, dtype=np.float32).reshape(48, 64)
    path = put(tiff(floats, bits=32, sample_format=3), "f.tif")
    assert np.array_equal(images.read(path, channels=1)[..., 0], np.rint(floats))
    assert notes(path) == {"32-bit": 1}
    whole = NOISE[..., 0].astype(np.int32)
    assert np.array_equal(
        images.read(put(tiff(whole, bits=32, sample_format=2), "i.tif"), channels=1)[..., 0], whole
    )


# ---------------------------------------------------------------- does the picture survive

LEVELS = np.linspace(0, 1, 48 * 64).reshape(48, 64)
TOO_NARROW = {  # what would leave next to nothing of its grey levels → what the error says of it
    "floats of 0 to 1": (bands_tiff(LEVELS[..., None].astype("f4")), "range 0…1"),
    "12 bits in 16": (
        bands_tiff((4095 * LEVELS[..., None]).astype("u2")),
        "range 0…4095 of 0…65535",
    ),
    "12-bit colours in 16": (
        bands_tiff((4095 * np.dstack([LEVELS] * 3)).astype("u2"), photometric=2),
        "range 0…4095 of 0…65535",
    ),
    "whole numbers of 0 to 3": (
        bands_tiff((3.4 * LEVELS[..., None] * 1).astype("f4") + 0.3),
        "range 0.3…3.7",
    ),
    "signed bytes": (bands_tiff((200 * LEVELS[..., None] - 100).astype("i1")), "range -128…127"),
    "floats above 255": (bands_tiff((1000 * LEVELS[..., None]).astype("f4")), "range 0…1000"),
}


@pytest.mark.parametrize("kind", TOO_NARROW)
def test_a_picture_that_would_not_survive_is_refused_naming_its_range(put, kind):
    data, says = TOO_NARROW[kind]
    with pytest.raises(TlxError) as caught:
        images.read(put(data, "a.tif"))
    assert (caught.value.code, caught.value.exit_code) == ("image-range", 3)
    assert says in str(caught.value)


def test_a_picture_that_is_transparent_all_over_is_refused(put):
    hidden = np.dstack([NOISE, np.zeros(NOISE.shape[:2], np.uint8)])
    with pytest.raises(TlxError, match=r"transparency hides the picture: alpha has the range 0…0"):
        images.read(put(saved(hidden, "PNG")))


def test_a_drawing_of_few_colours_survives_whatever_is_hidden_behind_it(put):
    alpha = np.zeros(NOISE.shape[:2], np.uint8)
    alpha[10:20, 10:20] = 255
    drawing = np.where(alpha[..., None] > 0, np.uint8(40), NOISE)
    found = images.read(put(saved(np.dstack([drawing, alpha]), "PNG")))
    assert np.array_equal(np.unique(found), [40, 255])


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((9, 9, 1), "u2"),
        np.full((9, 9, 1), 700, "u2"),
        np.zeros((9, 9, 1), "f4"),
        np.zeros((9, 9, 3), "u2"),
        (RNG.integers(0, 20, (9, 9, 1))).astype("u2"),
    ],
)
def test_a_dark_frame_is_a_picture(put, picture):
    found = images.read(
        put(bands_tiff(picture, photometric=2 if picture.shape[2] == 3 else 1), "a.tif")
    )
    assert found.max() == picture.max() >> 8 if picture.dtype.kind == "u" else not found.any()


def test_sixteen_bit_colours_are_reduced_with_a_note(put):
    colours = RNG.integers(0, 1 << 16, (48, 64, 3)).astype("u2")
    path = put(bands_tiff(colours, photometric=2), "a.tif")
    assert np.array_equal(images.read(path), colours >> 8)
    assert notes(path) == {"16-bit": 1}
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colours)
    path = put(png(64, 48, rows=rows, bits=16, colour=2), "c.png")
    assert np.array_equal(images.read(path), colours >> 8)
    assert notes(path) == {"16-bit": 1}


@pytest.mark.parametrize("extra", [None, [0], [0, 0]])
def test_a_further_band_that_is_not_declared_as_alpha_is_left_out(put, extra):
    further = [RNG.integers(20, 90, NOISE.shape[:2], dtype=np.uint8)] * len(extra or [0])
    path = put(bands_tiff(np.dstack([NOISE, *further]), photometric=2, extra=extra), "a.tif")
    assert np.array_equal(images.read(path), NOISE)
    assert notes(path) == {"band": 1}


@pytest.mark.parametrize("extra", [1, 2])
def test_a_fourth_band_that_is_declared_as_alpha_is_transparency(put, extra):
    path = put(
        bands_tiff(
            np.dstack([NOISE, np.full(NOISE.shape[:2], 255, np.uint8)]),
            photometric=2,
            extra=[extra],
        ),
        "a.tif",
    )
    assert np.array_equal(images.read(path), NOISE)
    assert notes(path) == {"alpha": 1}


@pytest.mark.parametrize(
    ("bands", "number", "extra", "says"),
    [
        (5, "u1", [0] * 4, "5 bands of 8-bit unsigned whole numbers"),
        (8, "u1", [0] * 7, "8 bands of 8-bit unsigned whole numbers"),
        (3, "f4", None, "3 bands of 32-bit floating-point numbers"),
        (1, "f2", None, "1 band of 16-bit floating-point"),
        (1, "f8", None, "1 band of 64-bit floating-point"),
        (4, "u2", [0] * 3, "4 bands of 16-bit unsigned"),
    ],
)
def test_a_whole_file_of_a_kind_that_is_not_read_is_not_called_damaged(
    put, bands, number, extra, says
):
    values = (200 * np.dstack([LEVELS] * bands)).astype(number)
    photometric = 2 if bands == 3 else 1
    data = bands_tiff(values, photometric=photometric, extra=extra)
    with pytest.raises(TlxError) as caught:
        images.read(put(data, "a.tif"))
    assert (caught.value.code, caught.value.exit_code) == ("image-kind", 3)
    assert says in str(caught.value)
    assert "damaged" not in str(caught.value)
    with pytest.raises(TlxError, match=r"image-(damaged|truncated)"):
        images.read(put(data[:-100], "b.tif"))


def test_cmyk(put):
    ink = Image.fromarray(SMOOTH).convert("CMYK")
    for data, name in ((saved(ink, "JPEG", quality=95), "a.jpg"), (saved(ink, "TIFF"), "a.tif")):
        path = put(data, name)
        assert (
            np.abs(images.read(path).astype(int) - SMOOTH).mean() < 2
        )  # an inverted one would be off by a hundred
        assert notes(path) == {"cmyk": 1}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(put, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    settings = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(
        kind, {}
    )
    path = put(
        saved(SMOOTH, kind, exif=exif, **settings), f"a{safe_image.FORMATS[kind].extensions[0]}"
    )
    want = naive.upright(SMOOTH, orientation)
    found = images.read(path)
    assert found.shape == want.shape
    assert np.abs(found.astype(int) - want).mean() < 2


def test_broken_exif_counts_as_upright(put):
    path = put(saved(SMOOTH, "PNG")[:33] + chunk(b"eXIf", b"\xff" * 20) + saved(SMOOTH, "PNG")[33:])
    assert np.array_equal(images.read(path), SMOOTH)


@pytest.mark.parametrize(
    ("kind", "name", "settings"),
    [
        ("GIF", "a.gif", {}),
        ("WEBP", "a.webp", {"lossless": True}),
        ("PNG", "a.png", {}),
        ("TIFF", "a.tif", {}),
    ],
)
def test_the_first_of_several_frames(put, kind, name, settings):
    frames = [Image.fromarray(np.full((20, 30, 3), value, np.uint8)) for value in (250, 100, 5)]
    path = put(saved(frames[0], kind, save_all=True, append_images=frames[1:], **settings), name)
    assert np.array_equal(images.read(path), np.full((20, 30, 3), 250))
    assert notes(path) == {"frames": 1}
    with pytest.raises(TlxError) as caught:
        images.read(path, limits=ImageLimits(strict_frames=True))
    assert (caught.value.code, caught.value.exit_code) == ("image-frames", 3)


def test_the_name_does_not_decide(put):
    path = put(saved(NOISE, "PNG"), "a.jpg")
    assert np.array_equal(images.read(path), NOISE)
    assert notes(path) == {"format": 1}


def test_phone_pictures_with_another_picture_appended(put):
    first = Image.fromarray(SMOOTH)
    data = saved(
        first, "MPO", save_all=True, append_images=[Image.fromarray(255 - SMOOTH)], quality=95
    )
    assert np.abs(images.read(put(data, "a.jpg")).astype(int) - SMOOTH).mean() < 2


# ---------------------------------------------------------------- digests


def test_digests_are_of_the_bytes(put, tmp_path):
    paths = [put(PNG, "a.png"), put(JPEG, "b.jpg"), put(PNG, "c.png")]
    want = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    assert images.digests(paths, tmp_path / "cache") == want
    assert decode(paths[1]).digest == want[1]


def test_digests_are_remembered_until_the_file_changes(put, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "SETTLED_NS", -1)
    path, cache, read = put(PNG), tmp_path / "cache", []
    door_read = safe_image.read_bytes
    monkeypatch.setattr(
        images.safe_image, "read_bytes", lambda p, limits: read.append(p) or door_read(p, limits)
    )
    first = images.digests([path, path], cache)
    assert images.digests([path], cache) == first[:1]
    assert len(read) == 1
    kept, times = PNG[:-1] + b"x", path.stat()
    path.write_bytes(kept)  # as many bytes, and the time put back
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert images.digests([path], cache) == [hashlib.sha256(kept).hexdigest()]


def test_a_file_written_just_now_is_not_remembered(put, tmp_path):
    images.digests([put(PNG)], tmp_path / "cache")
    assert not (tmp_path / "cache" / images.DIGESTS).exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d[:-9],
        lambda d: d.replace(b"a.png", b"b.png"),
        lambda d: b"\xff\0\n" * 9,
        lambda d: b"",
    ],
)
def test_a_damaged_memory_is_made_anew(put, tmp_path, monkeypatch, damage):
    monkeypatch.setattr(images, "SETTLED_NS", -1)
    path, memory = put(PNG), tmp_path / images.DIGESTS
    first = images.digests([path], tmp_path)
    intact = memory.read_bytes()
    memory.write_bytes(damage(intact))
    assert images.digests([path], tmp_path) == first
    assert memory.read_bytes() == intact


def test_digests_of_unreadable_files_are_raised_together(put, tmp_path):
    with pytest.raises(TlxError) as caught:
        images.digests([tmp_path / "x.png", put(PNG), tmp_path / "y.png"], tmp_path)
    assert [p.where for p in caught.value.problems] == [
        str(tmp_path / "x.png"),
        str(tmp_path / "y.png"),
    ]


def test_real_photographs(shared_data):
    paths = sorted((shared_data / "sign-digits").glob("*/*"), key=lambda p: -p.stat().st_size)
    problems, counted = images.inspect(paths[:3] + paths[-40:])
    assert not problems
    assert counted.get("orientation", 0) >= 1  # the three of camera size were taken upright
    assert images.read(paths[0]).shape[2] == 3
