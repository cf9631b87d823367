"""Frequent confusions of a side, and small pictures of the test images that are so confused."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...data import images
from ...errors import TlxError
from .evidence import FEATURES, TUNING, Tables

MOST = 5  # confusions of a side
SHOWN = 2  # images of each
SIDE = 96  # pixels
MOST_BYTES = 4000
QUALITIES = (80, 60, 40, 25, 10)  # of JPEG, until it is small enough


@dataclass(frozen=True)
class Confusion:
    """Class that a side takes for another one.

    true, guess  class indices
    share        of the class's test images, over all draws
    images       test images that are so confused in the most draws
    """

    side: str
    true: int
    guess: int
    share: float
    images: tuple[int, ...]


def confusions(tables: Tables | None) -> list[Confusion]:
    """Return the most frequent confusions of both sides; [] without predictions."""
    if tables is None:
        return []
    rows = []
    for side, predicted in (
        (FEATURES, tables.predicted_features),
        (TUNING, tables.predicted_tuning),
    ):
        wrong = predicted != tables.classes
        pairs = Counter(
            (int(tables.classes[image]), int(predicted[draw, image]))
            for draw, image in zip(*wrong.nonzero(), strict=True)
        )
        ordered = sorted(pairs.items(), key=lambda row: (-row[1], row[0]))
        for (true, guess), count in ordered[:MOST]:
            of_class = tables.classes == true
            times = ((predicted == guess) & of_class).sum(axis=0)
            most = sorted(times.nonzero()[0], key=lambda image: (-times[image], image))[:SHOWN]
            share = count / (int(of_class.sum()) * len(predicted))
            rows.append(Confusion(side, true, guess, share, tuple(map(int, most))))
    return rows


def thumbnails(files: Mapping[str, str]) -> dict[str, str]:
    """Return name → JPEG of at most 4 kB as base64; images that cannot be read are left out."""
    pictures = {}
    for name, path in files.items():
        try:
            picture = images.read(Path(path))
        except TlxError:
            continue
        pictures[name] = base64.b64encode(_jpeg(picture)).decode()
    return pictures


def _jpeg(picture: np.ndarray) -> bytes:
    from PIL import Image

    small = Image.fromarray(picture)
    small.thumbnail((SIDE, SIDE))
    if max(small.size) < SIDE:  # of a few pixels: larger ones are seen
        scale = SIDE // max(small.size)
        small = small.resize((small.width * scale, small.height * scale), Image.Resampling.NEAREST)
    data = b""
    for quality in QUALITIES:
        stream = io.BytesIO()
        small.save(stream, "JPEG", quality=quality, optimize=True)
        data = stream.getvalue()
        if len(data) <= MOST_BYTES:
            break
    return data
