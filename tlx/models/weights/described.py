"""Description of a network in the metadata of its safetensors file, written and read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import BadDataError
from .archives import safetensors_metadata

ARCHITECTURE, CLASSES, INPUT_SIZE = "tlx.architecture", "tlx.classes", "tlx.input_size"


@dataclass(frozen=True)
class WeightDescription:
    """What a weight file is of: backbone, class names by output, pixels (None: the backbone's)."""

    architecture: str
    classes: tuple[str, ...]
    input_size: int | None = None

    def metadata(self) -> dict[str, str]:
        """Return the metadata of a file of this network."""
        words = {"format": "pt", ARCHITECTURE: self.architecture, CLASSES: _text(self.classes)}
        return words | ({INPUT_SIZE: str(self.input_size)} if self.input_size else {})


def description(path: Path) -> WeightDescription | None:
    """Return the description in a file's metadata; None if it has none.

    Raises BadDataError for one that cannot be read.
    """
    if path.suffix != ".safetensors":
        return None
    metadata = safetensors_metadata(path)
    if ARCHITECTURE not in metadata:
        return None
    try:
        classes = json.loads(metadata.get(CLASSES, "[]"))
        size = int(metadata[INPUT_SIZE]) if INPUT_SIZE in metadata else None
    except ValueError as error:
        raise _unreadable(path) from error
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise _unreadable(path)
    return WeightDescription(metadata[ARCHITECTURE], tuple(classes), size)


def _text(classes: Sequence[str]) -> str:
    return json.dumps(list(classes), ensure_ascii=False)


def _unreadable(path: Path) -> BadDataError:
    return BadDataError(
        "weights-header",
        f"metadata {CLASSES} or {INPUT_SIZE} that is not what it should be",
        where=path,
        expected="a list of class names as JSON, a number of pixels",
    )
