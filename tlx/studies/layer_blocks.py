"""Rows of a layer that are measured block by block, where there are many."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import ResourceError
from ..metrics.blocks import dissimilarities, linear, moments, neighbours
from ..metrics.blocks.pieces import SENT_BYTES
from ..metrics.blocks.rows import BlockRows
from ..metrics.dimension_spread import resampled_dimension
from ..metrics.intrinsic_dimension import estimator
from ..metrics.sum_of_squares import SumOfSquares, sum_of_squares
from .layer_measures import LayerRows, MeasureSettings, fitting_copy, thinned

if TYPE_CHECKING:
    from ..features.sharded import LayerArray
    from ..metrics.blocks.pieces import PieceRunner
    from ..metrics.class_contrast import ClassContrast
    from ..metrics.dimension_spread import Resampled

RANKED = 5_000  # rows of a whole RDM, which ranks need: 50 MB in float32


class BlockedLayer(LayerRows):
    """Rows of a layer of which two blocks are in memory at a time.

    Metrics that need a whole RDM, or more products of features than memory holds, are measured of
    at most RANKED of the compared rows: those are `few`.

    compared    (m,) int64 — rows that are compared with each other
    block_rows  rows of a block
    run         has blocks computed by other processes; None: by this one
    """

    def __init__(
        self,
        x: LayerArray,
        labels: np.ndarray,
        settings: MeasureSettings,
        compared: np.ndarray,
        block_rows: int,
        run: PieceRunner | None = None,
    ) -> None:
        few = compared[thinned(labels[compared], min(RANKED, fitting_copy(x)))]
        super().__init__(x, labels, settings, few)
        self.block_rows, self._run = block_rows, run
        self.rows = BlockRows(x)
        self.compared = self.rows.select(compared) if len(compared) < len(x) else self.rows
        self.codes = np.unique(labels, return_inverse=True)[1].astype(np.int64)
        self.compared_codes = self.codes[compared]

    def notes(self) -> list[str]:
        """Return how the numbers were computed, and which of them have fewer rows."""
        blocks = len(self.rows.ranges(self.block_rows))
        notes = [f"how: blocks ({blocks} of at most {self.block_rows} rows)"]
        fewer = []
        if not self._few_are_all:
            fewer.append("rsa_label")
            if not self._has_room_for_products():
                fewer.append("cka_label")
        if fewer:
            rows = f"{len(self.few)} of {len(self.compared)} compared rows"
            notes.append(f"{', '.join(fewer)}: measured in {rows}, evenly spaced")
        return notes

    def squares(self) -> SumOfSquares:
        """Return the sums of squares of all rows."""

        def compute() -> SumOfSquares:
            names, ranges = np.unique(self.labels), self.rows.ranges(self.block_rows)
            try:
                moments.check_classes(len(names), self.rows.width)
            except ResourceError:  # one pass over the file, columns by columns
                return sum_of_squares(self.x, self.labels)
            state = moments.blocked_moments(
                self.rows, self.codes, len(names), ranges, run=self._run
            )
            return state.sums(names)

        return self.shared("squares", compute)

    def contrast(self) -> ClassContrast:
        """Return the contrast of the classes in the RDM of the compared rows.

        Where ranks need the same RDM, it is that one; else it is not kept.
        """
        if self._few_are_all:
            return super().contrast()

        def compute() -> ClassContrast:
            rdm = dissimilarities.RowDissimilarities.of(self.compared, self.settings.rdm)
            return dissimilarities.streamed_contrast(
                rdm, self.compared_codes, self.block_rows, self._run
            )

        return self.shared("contrast", compute)

    def dimension(self) -> Resampled:
        """Return the intrinsic dimension of the compared rows and of random parts of them."""

        def compute() -> Resampled:
            settings = self.settings
            how = estimator("twonn", settings.ratio_fraction)
            ranges = self.compared.ranges(self.block_rows)
            search = neighbours.BlockedNeighbours(
                self.compared, how.neighbours, ranges, run=self._run
            )
            return resampled_dimension(
                search, how, settings.resamplings, settings.fraction, settings.seed
            )

        return self.shared("dimension", compute)

    def label_cka(self) -> float:
        """Return the linear CKA of the compared rows with their classes.

        From products of features, where rows are too many for products of rows.
        """
        if self._few_are_all or not self._has_room_for_products():
            return super().label_cka()
        classes = np.unique(self.compared_codes)
        members = BlockRows((self.compared_codes[:, None] == classes).astype(np.uint8))
        run = self._run if members.nbytes <= SENT_BYTES else None
        ranges = self.compared.ranges(self.block_rows)
        return linear.blocked_cka(self.compared, members, ranges, run=run)

    @property
    def _few_are_all(self) -> bool:
        return len(self.few) == len(self.compared)

    def _has_room_for_products(self) -> bool:
        width, classes = self.rows.width, len(np.unique(self.compared_codes))
        try:
            linear.check_width((width, width), (width, classes), (classes, classes))
        except ResourceError:
            return False
        return True
