"""Views: the part stored of each image, made from the image itself or from existing crops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from .. import files
from ..errors import BadDataError, TlxError, counted, raise_all
from .decode import array, decode, in_channels
from .safe_image import ImageLimits, changed
from .sizing import CROPS, CropLayout, Sizing, layout, precomputed_layout, resized, views

Notes = tuple[str, ...]


class ImageSource(Protocol):
    """Images by number."""

    @property
    def sizing(self) -> Sizing:
        """Return how images become squares."""

    @property
    def layout(self) -> CropLayout:
        """Return how the crops of one image are kept."""

    @property
    def digests(self) -> tuple[str, ...]:
        """Return the content digest of each image."""

    def views(self, image: int) -> tuple[np.ndarray, Notes]:
        """Return uint8 (v, height, width, channels) and the notes.

        Raises TlxError. Threads call it at once.
        """

    def subset(self, images: Sequence[int]) -> ImageSource:
        """Return a source of these images alone, numbered from 0."""

    def identity(self) -> dict[str, Any]:
        """Return what decides the pixels besides the digests, as plain JSON."""


@dataclass(frozen=True)
class Originals:
    """Images that are scaled and cropped here."""

    paths: tuple[Path, ...]
    digests: tuple[str, ...]
    sizing: Sizing
    limits: ImageLimits

    @cached_property
    def layout(self) -> CropLayout:
        """Return the layout of the sizing."""
        return layout(self.sizing)

    def views(self, image: int) -> tuple[np.ndarray, Notes]:
        """Return the image scaled, as one square or six windows."""
        decoded = decode(self.paths[image], self.limits)
        if decoded.digest != self.digests[image]:
            raise changed(self.paths[image])
        return views(decoded.image, self.sizing), decoded.notes

    def subset(self, images: Sequence[int]) -> Originals:
        """Return a source of these images alone, numbered from 0."""
        paths = tuple(self.paths[image] for image in images)
        digests = tuple(self.digests[image] for image in images)
        return Originals(paths, digests, self.sizing, self.limits)

    def identity(self) -> dict[str, Any]:
        """Return the sizing."""
        return {"sizing": self.sizing.identity()}


@dataclass(frozen=True)
class Precomputed:
    """Existing crops, ten files an image, used unchanged."""

    crops: tuple[tuple[Path, ...], ...]
    file_digests: tuple[tuple[str, ...], ...]
    sizing: Sizing
    limits: ImageLimits

    @classmethod
    def of(
        cls,
        paths: Sequence[Path],
        precomputed: Callable[[int], Sequence[Path]],
        sizing: Sizing,
        limits: ImageLimits,
        digests: Callable[[Sequence[Path]], Sequence[str]],
    ) -> Precomputed:
        """Return the crops of `paths`.

        Raises BadDataError for every image that does not have all ten.
        """
        crops = [tuple(map(Path, precomputed(image))) for image in range(len(paths))]
        raise_all(
            [
                problem
                for path, ten in zip(paths, crops, strict=True)
                if (problem := incomplete(path, ten))
            ]
        )
        known = iter(digests(list(chain.from_iterable(crops))))
        return cls(
            tuple(crops), tuple(tuple(islice(known, len(ten))) for ten in crops), sizing, limits
        )

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """Return one digest of each ten."""
        return tuple(files.digest(ten) for ten in self.file_digests)

    @cached_property
    def layout(self) -> CropLayout:
        """Return the layout of ten squares."""
        return precomputed_layout(self.sizing)

    def views(self, image: int) -> tuple[np.ndarray, Notes]:
        """Return the ten crops unchanged, or scaled where the sizing says `resize`."""
        pictures = [decode(path, self.limits) for path in self.crops[image]]
        for path, decoded, known in zip(
            self.crops[image], pictures, self.file_digests[image], strict=True
        ):
            if decoded.digest != known:
                raise changed(path)
        notes = tuple(dict.fromkeys(chain.from_iterable(decoded.notes for decoded in pictures)))
        return np.stack(
            [
                self._square(decoded.image, path)
                for decoded, path in zip(pictures, self.crops[image], strict=True)
            ]
        ), notes

    def _square(self, crop: Image.Image, path: Path) -> np.ndarray:
        size = (self.sizing.size, self.sizing.size)
        if crop.size != size and not self.sizing.resize:
            raise BadDataError(
                "crop-size",
                f"a crop of {crop.width} × {crop.height} pixels",
                where=path,
                expected=f"{size[0]} × {size[1]}, what the network takes",
                remedy="make the crops in that size, or let them be resized",
            )
        crop = in_channels(crop, self.sizing.channels)
        return array(
            resized(crop, size, self.sizing.mode),
            self.sizing.channels,
        )

    def subset(self, images: Sequence[int]) -> Precomputed:
        """Return a source of these images alone, numbered from 0."""
        crops = tuple(self.crops[image] for image in images)
        digests = tuple(self.file_digests[image] for image in images)
        return Precomputed(crops, digests, self.sizing, self.limits)

    def identity(self) -> dict[str, Any]:
        """Return the size: how the crops were cut is in their pixels."""
        return {"precomputed": {"size": self.sizing.size, "channels": self.sizing.channels}}


def incomplete(path: Path, ten: Sequence[Path]) -> TlxError | None:
    """Return the error for missing ones of an image's ten crops; None when all exist."""
    gone = [crop.name for crop in ten if not crop.exists()]
    if len(ten) == len(CROPS) and not gone:
        return None
    message = f"{', '.join(gone)} not found" if gone else f"{counted(len(ten), 'crop')}"
    return BadDataError(
        "crops-missing",
        message,
        where=path,
        expected=f"{counted(len(CROPS), 'crop')}",
        remedy="make them with: tlx crops",
    )
