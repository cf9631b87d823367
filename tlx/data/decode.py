"""Decoding by stated rules: any file of the six formats becomes (h, w, 3 or 1) uint8.

What a file holds is mapped so, in this order:

- more than one frame (GIF, WebP, APNG, TIFF pages): the first one;
- 16 bits a channel: value >> 8 (12-bit grey: value >> 4), never clipped;
- 32-bit whole or float numbers: as they are, rounded to the nearest, if all are in 0…255; refused
  otherwise;
- a further band of a TIFF that is not declared as transparency: left out;
- whatever leaves next to nothing of a picture's grey levels (12 bits in a 16-bit file, floats of
  0…1, a picture that is
  transparent all over) is refused, and the range reported: see `_check_survives`;
- CMYK and YCCK: Pillow's conversion without a colour profile, Adobe's inverted JPEGs included;
- transparency, as a channel or as a transparent colour or palette entry: laid over white;
- 1-bit, grey, palette, YCbCr: to 8-bit grey or RGB; colour profiles are not applied;
- EXIF orientation: applied, so that the picture is upright; unreadable EXIF counts as
  upright;
- three channels: grey is repeated; one channel: luma of ITU-R BT.601, (19595 R + 38470 G + 7471 B +
  32768) >> 16,
  so a grey picture stays itself.

JPEGs are decoded at full size always: a decoder's own scaling would be faster for photographs and
would make the result depend on the requested size.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from ..errors import BadDataError, TlxError
from . import safe_image
from .safe_image import DEFAULT, ImageLimits

# what was done beyond plain decoding: counted, never silent. The last two are of whole sets
NOTES = {
    "format": "named for another format than it has; read as what it is",
    "frames": "more than one frame; the first was used",
    "orientation": "turned upright by its EXIF orientation",
    "exif": "EXIF unreadable; taken as upright",
    "alpha": "transparency laid over white",
    "cmyk": "converted from CMYK",
    "band": "a further band that is not declared as transparency; left out",
    "16-bit": "reduced from 16 bits to 8",
    "32-bit": "rounded from 32-bit numbers to 8 bits",
    "duplicates": "holds the same bytes as an image before it",
    "rebuilt": "the stored array was damaged and was made again",
}
UPRIGHT = {  # EXIF orientation → what sets it upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ORIENTATION, PHOTOMETRIC, BITS = 0x0112, 262, 258  # tag numbers of TIFF, which EXIF shares
EXTRA_SAMPLES, SAMPLE_FORMAT = 338, 339
DECLARED_ALPHA = (1, 2)  # values of ExtraSamples
SIGNED = 2  # value of SampleFormat
# a picture of this many grey levels that keeps fewer, and fewer than a fourth, does not survive
FEW_LEVELS = 32


@dataclass(frozen=True)
class Decoded:
    """Decoded image, in Pillow's mode L or RGB, with its notes and its file's SHA-256."""

    image: Image.Image
    notes: tuple[str, ...]
    digest: str


def array(image: Image.Image, channels: int) -> np.ndarray:
    """Return (h, w, channels) uint8 of an image in mode L or RGB."""
    return np.asarray(in_channels(image, channels)).reshape(image.height, image.width, channels)


def in_channels(image: Image.Image, channels: int) -> Image.Image:
    """Return the image with three channels or one."""
    mode = {3: "RGB", 1: "L"}[channels]
    return image if image.mode == mode else image.convert(mode)


def decode(path: Path, limits: ImageLimits = DEFAULT) -> Decoded:
    """Decode the image in `path` by the rules.

    Raises TlxError. Threads may call it at once (under one `quiet`).
    """
    data = safe_image.read_bytes(path, limits)
    image = safe_image.header(data, path, limits)
    name = str(image.format)
    notes = (
        ["format"] if Path(path).suffix.lower() not in safe_image.FORMATS[name].extensions else []
    )
    try:
        frames = _has_frames(image)
        ImageFile.LOAD_TRUNCATED_IMAGES = (
            False  # other packages set it; half a picture must not pass for a whole
        )
        image.load()
        plain, earned = _eight_bits(image, path, _png_bits(data) if name == "PNG" else 8)
        upright, turned = _upright(image, plain)
    except TlxError:
        raise
    except Exception as error:  # the decoders raise a dozen kinds
        raise safe_image.damaged(name, error, path) from error
    if frames and limits.strict_frames:
        raise BadDataError(
            "image-frames", "more than one frame", where=path, expected="a single picture"
        )
    notes += (["frames"] if frames else []) + earned + turned
    return Decoded(upright, tuple(notes), hashlib.sha256(data).hexdigest())


# ---------------------------------------------------------------- the rules


def _has_frames(image: ImageFile.ImageFile) -> bool:
    frames = bool(getattr(image, "is_animated", False))
    if frames and image.tell() != 0:
        image.seek(0)
    return frames


KNOWN_MODES = (
    *("1", "L", "LA", "La", "P", "PA"),
    *("RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"),
)  # of Pillow, that become grey or RGB


def _over_white(image: Image.Image, path: Path) -> Image.Image:
    """Return a transparent picture over white; refuse one that its transparency hides."""
    if image.mode in ("La", "PA"):
        rgba = image.convert({"La": "LA", "PA": "RGBA"}[image.mode]).convert("RGBA")
    else:
        rgba = image.convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    # what is hidden behind a drawing of few colours may be anything
    if _levels(image.convert("RGB")) == 1:
        opaque = "…".join(map(str, rgba.getchannel("A").getextrema()))
        _check_survives(
            _levels(rgba.convert("RGB")),
            1,
            path,
            f"its transparency hides the picture: alpha has the range {opaque}",
            "remove the transparency",
        )
    return image


def _eight_bits(image: Image.Image, path: Path, png_bits: int) -> tuple[Image.Image, list[str]]:
    """Return the picture in mode L or RGB, and its notes.

    png_bits: bits of a channel of a PNG, else 8.
    """
    mode, notes = image.mode, []
    tags = getattr(image, "tag_v2", {})
    bits, extra = tags.get(BITS, (8,)), tags.get(EXTRA_SAMPLES, ())
    if tags.get(SAMPLE_FORMAT, (1,))[0] == SIGNED and bits[0] == 8:
        raise BadDataError(
            "image-range",
            "signed numbers of 8 bits, range -128…127",
            where=path,
            expected="0…255",
            remedy="convert it to unsigned numbers",
        )
    if mode.startswith("I;16") or (mode == "I" and image.format == "PNG"):
        return _from_16_bits(image, path)
    if mode in ("L", "RGB", "RGBA", "LA", "CMYK") and max(png_bits, *bits) > 8:
        _check_high_bytes(image, path)
        notes.append("16-bit")
    if image.format == "TIFF" and mode in ("RGBA", "LA") and not set(DECLARED_ALPHA) & set(extra):
        image = image.convert(mode[:-1])
        mode = image.mode
        notes.append("band")
    elif any(kind not in DECLARED_ALPHA for kind in extra):
        notes.append("band")
    if mode in ("I", "F"):
        return _from_32_bits(image, path), ["32-bit"]
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = _over_white(image, path)
        notes.append("alpha")
    if mode == "CMYK":
        notes.append("cmyk")
    if mode not in KNOWN_MODES:
        raise BadDataError(
            "image-mode",
            f"pixels of kind {mode}",
            where=path,
            expected="grey, RGB, palette or CMYK",
            remedy="convert it to an RGB PNG",
        )
    is_grey = mode in ("1", "L") and "alpha" not in notes
    return image.convert("L" if is_grey else "RGB"), notes


def _png_bits(data: bytes) -> int:
    """Read the bits of a channel from the header of a PNG."""
    return data[24]


def _levels(image: Image.Image) -> int:
    """Return how many grey levels a picture in mode L or RGB has."""
    return sum(count > 0 for count in image.convert("L").histogram())


def _check_survives(levels: int, left: int, path: Path, what: str, remedy: str) -> None:
    """Raise BadDataError if a picture of many grey levels keeps next to none of them."""
    if levels >= FEW_LEVELS > left and left * 4 <= levels:
        raise BadDataError(
            "image-range",
            f"{what}: {left} of {levels} grey levels would be left",
            where=path,
            remedy=remedy,
        )


def _check_high_bytes(image: Image.Image, path: Path) -> None:
    """Raise BadDataError for 16-bit colours, of which Pillow returns the high bytes only.

    Several levels, all of them low, are a picture of fewer bits.
    """
    colours = image.convert("RGB") if image.mode == "CMYK" else image
    high = max(top for _, top in np.atleast_2d(colours.getextrema()))
    left = _levels(colours.convert("RGB"))
    if left >= 4 and high < FEW_LEVELS:
        raise BadDataError(
            "image-range",
            f"16-bit colours in the range 0…{256 * int(high) + 255} of 0…65535: {left} grey "
            "levels would be left",
            where=path,
            expected="colours that fill the range",
            remedy="convert it to 8 bits with the range that is meant",
        )


def _from_16_bits(image: Image.Image, path: Path) -> tuple[Image.Image, list[str]]:
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(BITS, (16,))[0]
    values = np.asarray(image).astype(np.int64)
    transparent = image.info.get("transparency")
    grey = np.clip(values >> (bits - 8), 0, 255).astype(np.uint8)
    _check_survives(
        _distinct(values),
        _distinct(grey),
        path,
        f"range {values.min()}…{values.max()} of 0…{(1 << bits) - 1}",
        "convert it to 8 bits, or to 16 bits that fill the range",
    )
    if tags.get(PHOTOMETRIC) == 0:  # white is zero, which Pillow undoes for 8 bits only
        grey = 255 - grey
    if isinstance(transparent, int):
        grey = np.where(values == transparent, np.uint8(255), grey)
    return Image.fromarray(grey), ["16-bit"] + (["alpha"] if isinstance(transparent, int) else [])


def _from_32_bits(image: Image.Image, path: Path) -> Image.Image:
    values = np.asarray(image)
    low, high = values.min(), values.max()  # NaN, if there is one, is both
    if not (low >= 0 and high <= 255):
        raise BadDataError(
            "image-range",
            f"range {low:g}…{high:g} cannot be mapped",
            where=path,
            expected="values in 0…255",
            remedy="convert it to 8 or 16 bits with the range that is meant",
        )
    grey = np.rint(values).astype(np.uint8)
    remedy = "multiply its numbers by 255, or convert it to 8 bits with the range that is meant"
    if values.dtype.kind == "f" and 0 < high <= 1:
        raise BadDataError(
            "image-range",
            f"range {low:g}…{high:g}: nothing would be left of it",
            where=path,
            expected="values in 0…255",
            remedy=remedy,
        )
    _check_survives(_distinct(values), _distinct(grey), path, f"range {low:g}…{high:g}", remedy)
    return Image.fromarray(grey)


def _distinct(values: np.ndarray) -> int:
    """Count the different numbers, in at most a million evenly spaced ones."""
    flat = values.reshape(-1)
    return len(np.unique(flat[:: max(1, len(flat) // 1_000_000)]))


def _upright(source: Image.Image, picture: Image.Image) -> tuple[Image.Image, list[str]]:
    """Turn `picture` by the orientation in `source`.

    TIFF's reader has already done it.
    """
    try:
        turn = UPRIGHT.get(source.getexif().get(ORIENTATION, 1))
    except Exception:  # whatever a broken EXIF block raises, its picture is whole
        return picture, ["exif"]
    return (picture, []) if turn is None else (picture.transpose(turn), ["orientation"])
