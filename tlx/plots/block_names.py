"""What a block is called wherever people read of it: its number, counted from the image, and its
module's name.
"""

from __future__ import annotations

AXIS = "Block, counted from the image"


def block_label(number: int, name: str = "") -> str:
    """Return the name of a block on an axis or in a table.

    >>> block_label(3, "layer2")
    '3 layer2'
    """
    return f"{number} {name}".rstrip()
