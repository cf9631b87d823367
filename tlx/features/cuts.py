"""Cuts of the rows of a dump into shards.

A number depends, in its last bits, on the batch that it was computed in. So a shard begins where a
batch begins: the shards of a dump, one behind the other, are the bytes of a dump in one piece.
"""

from __future__ import annotations

from dataclasses import dataclass

SHARD_BYTES = 64 << 20  # of the widest layer of a shard, about


@dataclass(frozen=True)
class RowCuts:
    """Ranges of `total` rows, with `rows` in each but the last."""

    total: int
    rows: int

    @classmethod
    def fitting(cls, total: int, row_bytes: int, batch: int) -> RowCuts:
        """Return the cuts at multiples of the batch that give about SHARD_BYTES.

        row_bytes  of the widest layer
        """
        batches = max(1, round(SHARD_BYTES / (batch * max(1, row_bytes))))
        return cls(total, batches * batch)

    @property
    def count(self) -> int:
        """Return the number of shards."""
        return max(1, -(-self.total // self.rows))

    def range(self, number: int) -> range:
        """Return the rows of a shard."""
        return range(number * self.rows, min(self.total, (number + 1) * self.rows))
