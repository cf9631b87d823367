"""Messages between the driver and its workers or the nodes of a cluster, as bytes.

The only place that unpickles what came from another process or machine. A node runs the driver's
calls anyway, and a cluster lets whoever reaches its port run code: see the how-to on its ports.
"""

from __future__ import annotations

import pickle
from typing import TypeVar

T = TypeVar("T")


def packed(value: object) -> bytes:
    """Return a value as bytes.

    Raises TypeError, AttributeError or pickle.PicklingError for what does not pickle.
    """
    return pickle.dumps(value)


def unpacked(data: bytes, kind: type[T]) -> T:
    """Return the value that `packed` was given, in another process.

    Raises TypeError if it is of another kind.
    """
    value = pickle.loads(data)  # noqa: S301 — of our own workers: see above
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}, received {type(value).__name__}")
    return value
