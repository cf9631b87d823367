"""Photos to be labelled: listed by the rules for images, and passed through an exported model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import BadDataError, MissingError, TlxError
from ..models.onnx_file import BATCH, OnnxModel
from .image_data import listed_photos, photo_inputs


@dataclass(frozen=True)
class Photo:
    """Photo with its label and the probability of each class, (k,)."""

    path: Path
    label: str
    probabilities: np.ndarray


@dataclass(frozen=True)
class PhotoNote:
    """What was done to a photo beyond plain decoding, or to a folder, in words."""

    path: Path
    text: str


def label_photos(
    model: OnnxModel, paths: Sequence[Path], allow: Sequence[str | Path] = ()
) -> Iterator[Photo | PhotoNote | TlxError]:
    """Yield every photo in the order given, folders by name; an error for each that is none.

    paths  image files, and folders of them at any depth
    allow  folders outside a given folder that links in it may lead to
    """
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        listing, notes, problems = listed_photos(path, allow)
        yield from (PhotoNote(path, note) for note in notes)
        yield from problems
        files += listing
        if not listing and not problems:
            yield BadDataError("no-images", "holds no image", where=path)
    for start in range(0, len(files), BATCH):
        yield from _labelled(model, files[start : start + BATCH])


def _labelled(model: OnnxModel, files: Sequence[Path]) -> Iterator[Photo | PhotoNote | TlxError]:
    outcomes = list(zip(files, photo_inputs(files, model.sizing), strict=True))
    images = [outcome[0] for _, outcome in outcomes if not isinstance(outcome, TlxError)]
    results: Iterator[tuple[int, np.ndarray]] = iter(())
    if images:
        labels, shares = model.predict(np.stack(images))
        results = iter(zip(labels, shares, strict=True))
    for path, outcome in outcomes:
        if isinstance(outcome, TlxError):
            yield outcome
            continue
        yield from (PhotoNote(path, note) for note in outcome[1])
        label, probabilities = next(results)
        yield Photo(path, model.classes[label], probabilities)


def model_folder(word: str) -> Path | None:
    """Return the folder of the exported model that a word names; None for what may be a key.

    The word is the folder, its model.onnx, or the folder of its MLflow model.

    Raises BadDataError for a folder or file that is no export.
    """
    path = Path(word).expanduser()
    if path.is_dir():
        for folder in (path, path / "artifacts" / "network"):
            if (folder / "model.onnx").is_file():
                return folder
        if (path / "result.json").is_file() or (path / "study.json").is_file():
            return None
        raise BadDataError(
            "no-model", "holds no exported model", where=path, expected="model.onnx and model.json"
        )
    if path.is_file():
        if path.name != "model.onnx":
            raise BadDataError(
                "no-model",
                "is no exported model",
                where=path,
                expected="model.onnx, with its model.json next to it",
            )
        return path.parent
    if os.sep in word or path.suffix:
        raise MissingError("exported model", path, made_by="tlx export KEY")
    return None
