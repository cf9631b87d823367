"""Sizing: how an image of any size becomes the square, or the ten squares, for a network.

mode          the image is scaled (Lanczos) to       crops, ten or the centre one
squash        side × side, whatever its shape        size × size; without crops it is scaled to size
nearest       the same by nearest neighbour
              × size at once
aspect        a short side of `side`, shape kept     size × size; without crops the centre one
proportional  a short side of `size`, shape kept     ratio of its height × ratio of its width: for
              files only,
              (0: not at all)                        since the crops differ in size

`side` is size / ratio, rounded half up, unless it is given. The sides of a scaled image and of
proportional crops are rounded half to even, as Python does and so did the studies' generator of
crops. So the two ways of the original studies are:

- "resize to the input size I, then crop ratio r of it": Sizing(round(r · I), mode="squash",
  ratio=r, side=I);
- "keep the shape, crop r": Sizing(0, mode="proportional", ratio=r), and with its short side scaled
  to S first:
  Sizing(S, mode="proportional", ratio=r). Where square crops are wanted: Sizing(size,
  mode="aspect", ratio=r).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image

from ..errors import UnknownNameError, UsageError
from .decode import array, in_channels

# The ten crops in the order of the original studies: what each is, its window (upper left, upper
# right, lower left,
# lower right, centre, centre of the mirrored image), and whether the window is mirrored. The corner
# of the mirrored
# image is the other window; its centre is one pixel further right where the margin is odd.
CROPS = (
    ("upper left", 0, False),
    ("upper left of the mirrored image", 1, True),
    ("upper right", 1, False),
    ("upper right of the mirrored image", 0, True),
    ("lower left", 2, False),
    ("lower left of the mirrored image", 3, True),
    ("lower right", 3, False),
    ("lower right of the mirrored image", 2, True),
    ("centre", 4, False),
    ("centre of the mirrored image", 5, True),
)
# Numbers of the crops, the most central first: any first n of them are the most even n of the ten.
CENTRAL_FIRST = (8, 9, 0, 6, 2, 4, 1, 7, 3, 5)
CENTRE = 4
SQUARES = ("squash", "nearest")  # modes that scale to a square
LANCZOS = Image.Resampling.LANCZOS
FILTERS = {"nearest": Image.Resampling.NEAREST}  # mode → filter; of others Lanczos
WINDOWS = 6
GENERATOR = (
    2  # to be raised when crops or scaled sides change: part of the identity of what they change
)


@dataclass(frozen=True)
class Sizing:
    """Settings of how images become squares.

    `size`, `side` in pixels; see the module's text.

    resize  lets crops made elsewhere be scaled to `size` when they have another size
    """

    size: int
    crops: bool = True
    mode: str = "squash"
    ratio: float = 0.875
    channels: int = 3
    side: int = 0
    resize: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UnknownNameError("sizing mode", self.mode, MODES)
        if self.channels not in (1, 3):
            raise UsageError(
                "out-of-range", f"{self.channels}", where="channels", expected="1 or 3"
            )
        if not 0 < self.ratio <= 1:
            raise UsageError(
                "out-of-range", f"{self.ratio}", where="ratio", expected="above 0, at most 1"
            )
        if self.size < (self.mode != "proportional") or self.size > 8192:
            raise UsageError(
                "out-of-range", f"{self.size}", where="size", expected="1 to 8192 pixels"
            )
        if not self.side:
            object.__setattr__(self, "side", math.floor(self.size / self.ratio + 0.5))
        if self.side < self.size:
            raise UsageError(
                "out-of-range",
                f"{self.side}",
                where="side",
                expected=f"at least the crops' {self.size}",
            )

    def identity(self) -> dict[str, Any]:
        """Return what decides the pixels, as plain JSON.

        Settings that make no difference are left out.
        """
        kept: dict[str, Any] = {
            "size": self.size,
            "crops": self.crops,
            "mode": self.mode,
            "channels": self.channels,
        }
        if self.mode not in SQUARES or (self.crops and (self.side - self.size) % 2):
            kept["generator"] = GENERATOR  # even margins of a square are cut as ever
        if self.mode == "proportional":
            return kept | {"ratio": self.ratio}
        return kept | {"side": self.side} if self.crops or self.mode == "aspect" else kept


@dataclass(frozen=True)
class CropLayout:
    """Storage of the crops of one image: `views`, and the position of each crop in them.

    views (v, height, width, channels).
    """

    views: tuple[int, int, int, int]
    rows: tuple[tuple[int, int, int, bool], ...]  # (view, top, left, mirrored)

    def cut(self, views: np.ndarray, crop: int, out: np.ndarray) -> None:
        """Copy a crop of the views (v, height, width, channels) into `out`.

        out (size, size, channels).
        """
        view, top, left, mirrored = self.rows[crop]
        window = views[view, top : top + out.shape[0], left : left + out.shape[1]]
        if not mirrored:
            out[...] = window
            return
        for channel in range(
            out.shape[2]
        ):  # three times as fast as mirroring all channels in one assignment
            out[..., channel] = window[:, ::-1, channel]


def layout(sizing: Sizing) -> CropLayout:
    """Return the layout: ten overlapping crops as one square, or six windows for other shapes."""
    s, channels = sizing.size, sizing.channels
    if sizing.mode == "proportional":
        raise UsageError(
            "sizing-mode",
            "crops of different sizes cannot be fed to a network",
            where="proportional",
            expected="squash, nearest or aspect",
        )
    if not sizing.crops:
        return CropLayout((1, s, s, channels), ((0, 0, 0, False),))
    if sizing.mode in SQUARES:
        corners = windows((sizing.side, sizing.side), (s, s))
        return CropLayout(
            (1, sizing.side, sizing.side, channels), tuple((0, *corners[w], m) for _, w, m in CROPS)
        )
    return CropLayout((WINDOWS, s, s, channels), tuple((w, 0, 0, m) for _, w, m in CROPS))


def precomputed_layout(sizing: Sizing) -> CropLayout:
    """Return the layout of ten existing crops, unchanged."""
    s = sizing.size
    return CropLayout(
        (len(CROPS), s, s, sizing.channels),
        tuple((crop, 0, 0, False) for crop in range(len(CROPS))),
    )


def views(image: Image.Image, sizing: Sizing) -> np.ndarray:
    """Return what `layout` keeps of an image in mode L or RGB.

    uint8 (v, height, width, channels).
    """
    pixels = array(scaled(image, sizing), sizing.channels)
    if sizing.mode in SQUARES:
        return pixels[None]
    s = sizing.size
    corners = windows(pixels.shape[:2], (s, s))
    return np.stack(
        [pixels[y : y + s, x : x + s] for y, x in (corners if sizing.crops else [corners[CENTRE]])]
    )


def windows(outer: tuple[int, ...], inner: tuple[int, int]) -> list[tuple[int, int]]:
    """Return (top, left) of windows of `inner` (h, w) in `outer` (h, w).

    Four corners, the centre, and the one that is the centre once the image is mirrored.
    """
    down, right = outer[0] - inner[0], outer[1] - inner[1]
    return [
        (0, 0),
        (0, right),
        (down, 0),
        (down, right),
        (down // 2, right // 2),
        (down // 2, right - right // 2),
    ]


def ten(image: np.ndarray | Image.Image, height: int, width: int | None = None) -> np.ndarray:
    """Return the ten crops of an image already scaled, in the order of CROPS.

    image  (h, w, channels) uint8, or a Pillow image in mode L or RGB
    →      (10, height, width, channels) uint8; width is height unless given
    """
    pixels = image if isinstance(image, np.ndarray) else array(image, len(image.getbands()))
    width = width or height
    if height > pixels.shape[0] or width > pixels.shape[1]:
        raise UsageError(
            "crop-size",
            f"crops of {height} × {width} in an image of {pixels.shape[0]} × {pixels.shape[1]}",
        )
    corners = windows(pixels.shape[:2], (height, width))
    cut = [pixels[y : y + height, x : x + width] for y, x in corners]
    return np.stack(
        [cut[window][:, ::-1] if mirrored else cut[window] for _, window, mirrored in CROPS]
    )


# ---------------------------------------------------------------- scaling


def scaled(image: Image.Image, sizing: Sizing) -> Image.Image:
    """Scale an image in mode L or RGB as the mode defines, with the given channels."""
    image = in_channels(image, sizing.channels)
    return resized(image, MODES[sizing.mode](image.size, sizing), sizing.mode)


def resized(image: Image.Image, size: tuple[int, int], mode: str) -> Image.Image:
    """Return an image in (width, height) pixels, by the filter of a mode."""
    return image if size == image.size else image.resize(size, FILTERS.get(mode, LANCZOS))


def _squash(size: tuple[int, int], sizing: Sizing) -> tuple[int, int]:
    side = sizing.side if sizing.crops else sizing.size
    return side, side


def _aspect(size: tuple[int, int], sizing: Sizing) -> tuple[int, int]:
    return _short_side(size, sizing.side)


def _proportional(size: tuple[int, int], sizing: Sizing) -> tuple[int, int]:
    return _short_side(size, sizing.size) if sizing.size else size


def _short_side(size: tuple[int, int], target: int) -> tuple[int, int]:
    """Return (width, height) with the short side at `target`, the other rounded half to even."""
    short = min(size)
    width, height = (round(Fraction(side * target, short)) for side in size)
    return width, height


MODES: dict[str, Callable[[tuple[int, int], Sizing], tuple[int, int]]] = {
    "squash": _squash,
    "nearest": _squash,
    "aspect": _aspect,
    "proportional": _proportional,
}


def crop_size(image: Image.Image, sizing: Sizing) -> tuple[int, int]:
    """Return (height, width) of the crops of an image already scaled."""
    if sizing.mode != "proportional":
        return sizing.size, sizing.size
    height, width = (max(1, round(side * sizing.ratio)) for side in (image.height, image.width))
    return height, width
