"""Samples: images, their crops and labels, passed to a network in batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from .. import files
from ..data.sizing import CENTRAL_FIRST

RESIDENT_BYTES = 1 << 30  # below this the rows are copied once to where the network is


class SampleRows(Protocol):
    """Holder of pixels: flat row number = image · crops + crop."""

    crops: int

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return uint8 (r, height, width, channels) of these flat rows."""


@dataclass(frozen=True)
class Samples:
    """Labelled images of one role (train, val or test).

    pixels  holder of the uint8 rows
    images  (n,) int64 — which images of the holder
    labels  (n,) int64 — class index of each image
    chosen  numbers of the crops that are used, in this order; None: all
    """

    pixels: SampleRows
    images: np.ndarray
    labels: np.ndarray
    chosen: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def crops(self) -> int:
        """Return the number of rows per image."""
        return self.pixels.crops if self.chosen is None else len(self.chosen)

    @property
    def rows(self) -> np.ndarray:
        """Return (n·c,) int64 flat rows, image by image, crops in order."""
        crops = np.arange(self.pixels.crops) if self.chosen is None else np.array(self.chosen)
        result: np.ndarray = (self.images[:, None] * self.pixels.crops + crops).reshape(-1)
        return result

    def on_crops(self, count: int) -> Samples:
        """Return the same images with so many of their crops, the most central ones first.

        All rows, in their usual order, where images have no more than that.
        """
        if count >= self.pixels.crops:
            return replace(self, chosen=None)
        return replace(self, chosen=CENTRAL_FIRST[:count])

    @property
    def row_images(self) -> np.ndarray:
        """Return (n·c,) int64, the index among these images of each row."""
        return np.repeat(np.arange(len(self.images)), self.crops)

    @property
    def row_labels(self) -> np.ndarray:
        """Return (n·c,) int64, the label of every row."""
        return np.repeat(self.labels, self.crops)


def spans(rows: int, size: int, *, pairs: bool = False) -> list[tuple[int, int]]:
    """Return the begin and end of batches of `size` rows; the last has what is left.

    pairs  no batch of one row: the batch before it gives up a row, which batches of 3 and more rows
    can
    """
    result = [(start, min(start + size, rows)) for start in range(0, rows, size)]
    if pairs and size > 2 and len(result) > 1 and rows % size == 1:
        start = result[-2][0]
        result[-2:] = [(start, rows - 2), (rows - 2, rows)]
    return result


class Batches:
    """Rows for a network: batches of its input, and their logits.

    labels  (r,) int64 on the device
    """

    device: str
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the network's input for these row numbers, and y (b,) int64."""
        raise NotImplementedError

    def batches(
        self, size: int, order: np.ndarray | None = None, *, pairs: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over every row once, `size` at a time, in this order or their own.

        pairs: see `spans`.
        """
        order = np.arange(len(self)) if order is None else order
        for start, end in spans(len(order), size, pairs=pairs):
            yield self.batch(order[start:end])

    def logits(self, network: nn.Module, x: Tensor) -> Tensor:
        """Compute the logits (b, classes) of a batch."""
        result: Tensor = network(x)
        return result


class BatchLoader(Batches):
    """Rows of samples as normalised float batches on a device.

    mean, std are per channel, of pixels scaled to [0, 1]. Small sets stay on the device as uint8.
    contiguous  channels first in memory, else last
    """

    def __init__(
        self,
        samples: Samples,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: str,
        contiguous: bool = False,
    ):
        self.contiguous = contiguous
        self._samples, self._rows, self.device = samples, samples.rows, device
        self.labels = torch.from_numpy(samples.row_labels).to(device)
        self._shift = torch.tensor(mean, device=device).mul(255).view(1, -1, 1, 1)
        self._scale = torch.tensor(std, device=device).mul(255).view(1, -1, 1, 1)
        first = samples.pixels.take(self._rows[:1]) if len(self._rows) else np.empty(0, np.uint8)
        resident = first.nbytes * len(self._rows) <= RESIDENT_BYTES
        self._resident = (
            torch.from_numpy(samples.pixels.take(self._rows)).to(device) if resident else None
        )

    def digest(self) -> str | None:
        """Return the SHA-256 of all that decides the batches; None if the pixels have none."""
        subset = getattr(self._samples.pixels, "subset", None)
        if subset is None:
            return None
        normal = [self._shift.flatten().tolist(), self._scale.flatten().tolist()]
        pixels = subset(self._samples.images).digest
        return files.digest([pixels, list(self._samples.chosen or ()), normal, self.contiguous])

    def batch(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return x (b, channels, h, w) float32 and y (b,) int64, of these row numbers."""
        at = torch.from_numpy(index).to(self.device)
        if self._resident is None:
            raw = torch.from_numpy(self._samples.pixels.take(self._rows[index])).to(
                self.device, non_blocking=True
            )
        else:
            raw = self._resident.index_select(0, at)  # a copy by the row; [at] goes byte by byte
        x = (raw.permute(0, 3, 1, 2).float() - self._shift) / self._scale
        return x.contiguous() if self.contiguous else x, self.labels[at]
