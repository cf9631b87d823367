"""Label placement: no name covers another name or a point, nor, if there is room, a line."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

RADII = (
    5,
    8,
    12,
    17,
    23,
    30,
    38,
    48,
    60,
    75,
    92,
    112,
    136,
    165,
)  # from a point to its name, in points (1/72 inch)
ANGLES = (
    0,
    180,
    90,
    270,
    30,
    330,
    150,
    210,
    60,
    300,
    120,
    240,
    15,
    345,
    165,
    195,
    45,
    315,
    135,
    225,
    75,
    285,
    105,
    255,
)  # degrees, the best first
MARKER, GAP = 3.5, 1.5  # half a marker's side; between two names
LINE_FROM = 12  # a radius from which on a line leads to the point

Box = tuple[float, float, float, float]


def place_labels(
    points: np.ndarray, sizes: Mapping[int, tuple[float, float]], frame: Box
) -> dict[int, tuple[tuple[float, float], tuple[float, float] | None]]:
    """Place names near their points; return their offsets.

    Names are placed in the order given, each as near as there is room.

    points   (k, 2) — where the points are, in 1/72 inch
    sizes    point → (width, height) of its name
    frame    left, bottom, right, top: no name leaves it
    →        point → (offset of the name's middle, offset of where its line begins, or None without
             a line); a point
             whose name has no room is left out
    """
    points = np.asarray(points, float).reshape(-1, 2)
    taken = np.column_stack([points - MARKER, points + MARKER])  # boxes that no name may cover
    names, lines = np.empty((0, 4)), np.empty((0, 4))
    offsets: dict[int, tuple[tuple[float, float], tuple[float, float] | None]] = {}
    for i, (width, height) in sizes.items():
        centres, reach = _candidates(points[i], width, height)
        half = np.array([width, height]) / 2
        boxes = np.column_stack([centres - half, centres + half])
        free = _inside(boxes, frame) & ~_meet(boxes, taken).any(axis=1)
        tips = np.clip(points[i], boxes[:, :2], boxes[:, 2:])  # each box's nearest place
        led = reach >= LINE_FROM
        ways = np.column_stack([tips, np.broadcast_to(points[i], tips.shape)])
        open_to = free & ~(led & _cross(ways, names).any(axis=1))
        clear = open_to & ~_cross(lines, boxes).any(axis=0)
        best = next((allowed for allowed in (clear, open_to, free) if allowed.any()), None)
        if best is None:  # no room; where only `free` is left, a line passes behind a name
            continue
        at = int(best.argmax())
        offsets[i] = (
            _pair(centres[at] - points[i]),
            _pair(tips[at] - points[i]) if led[at] else None,
        )
        taken = np.vstack([taken, boxes[at] + np.array([-GAP, -GAP, GAP, GAP])])
        names = np.vstack([names, boxes[at]])
        if led[at]:
            lines = np.vstack([lines, ways[at]])
    return offsets


def _pair(values: np.ndarray) -> tuple[float, float]:
    return float(values[0]), float(values[1])


def _candidates(point: np.ndarray, width: float, height: float) -> tuple[np.ndarray, np.ndarray]:
    """Return middles of the name around its point, nearest first, and the radius of each.

    A name to the left or right of its point has its end there; a name above or below has its middle
    there.
    """
    angles = np.radians(ANGLES)
    ways = np.column_stack([np.cos(angles), np.sin(angles)])
    ends = np.clip(2 * ways, -1, 1) * np.array([width, height]) / 2
    return (
        np.concatenate([point + radius * ways + ends for radius in RADII]),
        np.repeat(RADII, len(ANGLES)),
    )


def _inside(boxes: np.ndarray, frame: Box) -> np.ndarray:
    return (
        (boxes[:, 0] >= frame[0])
        & (boxes[:, 1] >= frame[1])
        & (boxes[:, 2] <= frame[2])
        & (boxes[:, 3] <= frame[3])
    )


def _meet(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return (a, b) bool, whether two boxes overlap."""
    a, b = boxes[:, None], others[None]
    return (
        (a[..., 0] < b[..., 2])
        & (b[..., 0] < a[..., 2])
        & (a[..., 1] < b[..., 3])
        & (b[..., 1] < a[..., 3])
    )


def _cross(lines: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return (a, b) bool, whether a line (x, y, x, y) passes through a box.

    The parts of the line within both ranges overlap.
    """
    start, way = lines[:, None, :2], (lines[:, 2:] - lines[:, :2])[:, None]
    way = np.where(np.abs(way) < 1e-9, 1e-9, way)
    near, far = (boxes[None, :, :2] - start) / way, (boxes[None, :, 2:] - start) / way
    enters, leaves = np.minimum(near, far).max(axis=-1), np.maximum(near, far).min(axis=-1)
    result: np.ndarray = np.maximum(enters, 0.0) < np.minimum(leaves, 1.0)
    return result
