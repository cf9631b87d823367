"""Names of blocks in figures and tables: the number, counted from the input, and the module."""

from __future__ import annotations

AXIS = "Block, counted from the image"


def block_label(number: int, name: str = "") -> str:
    """Return the name of a block on an axis or in a table.

    >>> block_label(3, "layer2")
    '3 layer2'
    """
    return f"{number} {name}".rstrip()
