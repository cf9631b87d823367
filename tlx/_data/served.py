"""Image classifier made by `tlx export`, as MLflow loads and serves it.

This file is copied into the MLflow model. It needs mlflow, numpy, pandas, Pillow and onnxruntime,
and neither tlx nor torch. Input: a column `image` of the bytes of image files, or their base64 as
text. Output: a column `label`, and a column `p_<class>` with the probability of each class.

How a file becomes pixels is copied from tlx/data/decode.py and tlx/data/sizing.py; a test of tlx
compares the two.
"""

from __future__ import annotations

import base64
import io
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

MAX_PIXELS, MAX_SIDE, MIN_SIDE, MAX_ASPECT = 50_000_000, 20_000, 2, 100
BATCH = 32
READERS: dict[tuple[bytes, ...], Any] = {
    (b"\xff\xd8\xff",): JpegImageFile,
    (b"\x89PNG\r\n\x1a\n",): PngImageFile,
    (b"BM",): BmpImageFile,
    (b"GIF87a", b"GIF89a"): GifImageFile,
    (b"RIFF",): WebPImageFile,
    (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"): TiffImageFile,
}
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ORIENTATION, PHOTOMETRIC, BITS, EXTRA_SAMPLES, SAMPLE_FORMAT = 0x0112, 262, 258, 338, 339
DECLARED_ALPHA, SIGNED = (1, 2), 2
FEW_LEVELS = 32
MODES = (
    *("1", "L", "LA", "La", "P", "PA"),
    *("RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"),
)


class BadImageError(MlflowException, ValueError):
    """Row that holds no usable image; a server answers with its message and status 400."""

    def __init__(self, message: str):
        super().__init__(message, error_code=INVALID_PARAMETER_VALUE)


class ImageClassifier(PythonModel):
    """Classifier of image files."""

    def load_context(self, context: Any) -> None:
        """Load the network and what is known of it."""
        folder = Path(context.artifacts["network"])
        self.model = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        self.session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
        )

    def predict(
        self, context: Any, model_input: pandas.DataFrame, params: dict[str, Any] | None = None
    ) -> pandas.DataFrame:
        """Return label and probabilities of every row; ValueError names the row of a bad image."""
        batch = int((params or {}).get("batch_size", BATCH))
        if batch < 1:
            raise ValueError(f"batch_size is {batch}; expected at least 1")
        values = list(model_input["image"])
        classes = self.model["classes"]
        labels: list[str] = []
        shares = [np.empty((0, len(classes)), np.float32)]
        for start in range(0, len(values), batch):
            rows = enumerate(values[start : start + batch], start)
            images = np.stack([pixels_of_row(row, value, self.model) for row, value in rows])
            label, probabilities = self.session.run(["label", "probabilities"], {"images": images})
            labels += [classes[number] for number in label]
            shares.append(probabilities)
        table = np.concatenate(shares).astype(np.float64)
        columns = {f"p_{name}": table[:, number] for number, name in enumerate(classes)}
        return pandas.DataFrame({"label": labels, **columns})


def pixels_of_row(row: int, value: Any, model: dict[str, Any]) -> np.ndarray:
    """Return the network's input for one row; BadImageError, a ValueError, names the row."""
    try:
        return pixels(bytes_of(value), model)
    except Exception as error:  # Pillow's readers raise a dozen kinds
        reason = str(error) or type(error).__name__
        raise BadImageError(f"row {row}: no usable image ({reason})") from error


def bytes_of(value: Any) -> bytes:
    """Return the bytes of an image file given as bytes, or as base64 text."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, str):
        try:
            return base64.b64decode("".join(value.split()), validate=True)
        except ValueError as error:
            raise ValueError("text that is not base64") from error
    raise ValueError(f"{type(value).__name__}, expected the bytes of an image file or base64 text")


def pixels(data: bytes, model: dict[str, Any]) -> np.ndarray:
    """Return the network's input for the bytes of an image file: (height, width, channels) uint8.

    Where crops are cut from an image that keeps its shape, the six windows are below each other.
    """
    sizing, mode = model["sizing"], {1: "L", 3: "RGB"}[model["channels"]]
    image = decoded(data)
    image = image if image.mode == mode else image.convert(mode)
    size = scaled_size(image.size, sizing)
    if size != image.size:
        nearest = sizing["mode"] == "nearest"
        image = image.resize(
            size, Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS
        )
    whole = np.asarray(image).reshape(image.height, image.width, model["channels"])
    if sizing["mode"] in ("squash", "nearest"):
        return whole
    s = sizing["size"]
    corners = windows(image.height - s, image.width - s)
    corners = corners if sizing["crops"] else [corners[4]]
    return np.concatenate([whole[top : top + s, left : left + s] for top, left in corners])


# ---------------------------------------------------------------- sizing


def scaled_size(size: tuple[int, int], sizing: dict[str, Any]) -> tuple[int, int]:
    """Return (width, height) to which an image of `size` is scaled."""
    if sizing["mode"] in ("squash", "nearest"):
        side = sizing["side"] if sizing["crops"] else sizing["size"]
        return side, side
    short, side = min(size), sizing["side"]
    width, height = (round(Fraction(pixels * side, short)) for pixels in size)
    return width, height


def windows(down: int, right: int) -> list[tuple[int, int]]:
    """Return (top, left) of the corners, the centre, and the centre of the mirrored image."""
    centre = (down // 2, right // 2)
    return [(0, 0), (0, right), (down, 0), (down, right), centre, (down // 2, right - right // 2)]


# ---------------------------------------------------------------- decoding


def decoded(data: bytes) -> Image.Image:
    """Return the upright picture of an image file in mode L or RGB; ValueError for a bad one."""
    image = opened(data)
    width, height = image.size
    long, short = max(width, height), min(width, height)
    if short < MIN_SIDE or long > MAX_SIDE or width * height > MAX_PIXELS:
        raise ValueError(
            f"{width} × {height} pixels, expected sides of {MIN_SIDE} to {MAX_SIDE:,} and at most "
            f"{MAX_PIXELS:,} pixels"
        )
    if long > MAX_ASPECT * short:
        raise ValueError(f"{width} × {height} pixels, a side more than {MAX_ASPECT} × the other")
    if getattr(image, "is_animated", False) and image.tell() != 0:
        image.seek(0)
    image.load()
    picture = eight_bits(image, data[24] if isinstance(image, PngImageFile) else 8)
    try:
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # an unreadable EXIF block counts as upright
        turn = None
    return picture if turn is None else picture.transpose(turn)


def opened(data: bytes) -> Any:
    """Return the image of these bytes, by their first ones, not yet decoded."""
    for starts, reader in READERS.items():
        if data.startswith(starts):
            return reader(io.BytesIO(data))
    raise ValueError("not a JPEG, PNG, BMP, GIF, WEBP or TIFF file")


def eight_bits(image: Any, png_bits: int) -> Image.Image:
    """Return the picture in mode L or RGB: transparency over white, 16 bits to their high byte."""
    mode, tags = image.mode, getattr(image, "tag_v2", {})
    bits, extra = tags.get(BITS, (8,)), tags.get(EXTRA_SAMPLES, ())
    if tags.get(SAMPLE_FORMAT, (1,))[0] == SIGNED and bits[0] == 8:
        raise ValueError("signed numbers of 8 bits, range -128…127")
    if mode.startswith("I;16") or (mode == "I" and image.format == "PNG"):
        return from_16_bits(image)
    if mode in ("L", "RGB", "RGBA", "LA", "CMYK") and max(png_bits, *bits) > 8:
        check_high_bytes(image)
    if image.format == "TIFF" and mode in ("RGBA", "LA") and not set(DECLARED_ALPHA) & set(extra):
        image = image.convert(mode[:-1])
        mode = image.mode
    if mode in ("I", "F"):
        return from_32_bits(image)
    is_transparent = mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    if is_transparent:
        image = over_white(image)
    if mode not in MODES:
        raise ValueError(f"pixels of kind {mode}, expected grey, RGB, palette or CMYK")
    picture: Image.Image = image.convert(
        "L" if mode in ("1", "L") and not is_transparent else "RGB"
    )
    return picture


def over_white(image: Any) -> Image.Image:
    """Return a transparent picture over white; ValueError for one that its transparency hides."""
    if image.mode in ("La", "PA"):
        image = image.convert({"La": "LA", "PA": "RGBA"}[image.mode])
    rgba = image.convert("RGBA")
    picture = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    if levels(picture.convert("RGB")) == 1:
        check_survives(levels(rgba.convert("RGB")), 1, "its transparency hides the picture")
    return picture


def from_16_bits(image: Any) -> Image.Image:
    """Return grey values of 16 bits (12 in some TIFFs) by their high bits."""
    tags = getattr(image, "tag_v2", {})
    values = np.asarray(image).astype(np.int64)
    grey = np.clip(values >> (tags.get(BITS, (16,))[0] - 8), 0, 255).astype(np.uint8)
    check_survives(distinct(values), distinct(grey), f"range {values.min()}…{values.max()}")
    if tags.get(PHOTOMETRIC) == 0:
        grey = 255 - grey
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey = np.where(values == transparent, np.uint8(255), grey)
    return Image.fromarray(grey)


def from_32_bits(image: Any) -> Image.Image:
    """Return numbers of 32 bits in 0…255, rounded."""
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 255) or (values.dtype.kind == "f" and 0 < high <= 1):
        raise ValueError(f"range {low:g}…{high:g} cannot be mapped, expected 0…255")
    grey = np.rint(values).astype(np.uint8)
    check_survives(distinct(values), distinct(grey), f"range {low:g}…{high:g}")
    return Image.fromarray(grey)


def check_high_bytes(image: Any) -> None:
    """Raise ValueError for 16-bit colours of which the high bytes keep next to nothing."""
    colours = image.convert("RGB") if image.mode == "CMYK" else image
    high = max(top for _, top in np.atleast_2d(colours.getextrema()))
    if levels(colours.convert("RGB")) >= 4 and high < FEW_LEVELS:
        raise ValueError(f"16-bit colours in the range 0…{256 * int(high) + 255} of 0…65535")


def check_survives(before: int, after: int, what: str) -> None:
    """Raise ValueError if a picture of many grey levels keeps next to none of them."""
    if before >= FEW_LEVELS > after and after * 4 <= before:
        raise ValueError(f"{what}: {after} of {before} grey levels would be left")


def levels(image: Image.Image) -> int:
    """Return how many grey levels a picture in mode L or RGB has."""
    return sum(count > 0 for count in image.convert("L").histogram())


def distinct(values: np.ndarray) -> int:
    """Count the different numbers, in at most a million evenly spaced ones."""
    flat = values.reshape(-1)
    return len(np.unique(flat[:: max(1, len(flat) // 1_000_000)]))


set_model(ImageClassifier())
