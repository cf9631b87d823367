"""Predicted and true class of each test image, kept by few-shot trials for pairing."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from .. import files
from ..errors import BadDataError, IntegrityError, counted
from ..lab import sealed
from ..lab.store import Store
from ..result import Result

if TYPE_CHECKING:
    import numpy as np

PREDICTIONS, TRUTH = "predictions.npy", "test_labels.npy"
FILES = (PREDICTIONS, TRUTH)
FEW_CLASSES = 1 << 16  # that uint16 numbers


def write(folder: Path, predicted: np.ndarray, truth: np.ndarray) -> None:
    """Write the predicted and the true classes (n,) of the test images, in their order.

    They are durable with the trial, when its folder is sealed.
    """
    import numpy as np

    for name, classes in zip(FILES, (predicted, truth), strict=True):
        dtype = np.uint16 if classes.max(initial=0) < FEW_CLASSES else np.uint32
        buffer = io.BytesIO()
        np.save(buffer, classes.astype(dtype), allow_pickle=False)
        files.write_bytes(folder / name, buffer.getvalue(), sync=False)


def read(store: Store, result: Result) -> np.ndarray | None:
    """Return the predicted classes (n,) int64 of a trial's test images; None if it kept none.

    Raises IntegrityError if the file is damaged, or not of as many images as were tested.
    """
    return _read(store, result, PREDICTIONS)


def read_truth(store: Store, result: Result) -> np.ndarray | None:
    """Return the true classes (n,) int64 of a trial's test images; as `read`."""
    return _read(store, result, TRUTH)


def _read(store: Store, result: Result, name: str) -> np.ndarray | None:
    classes = mapped(store.folder(result.key), name, result.details["test_images"])
    return None if classes is None else classes.astype("int64")


def mapped(folder: Path, name: str, images: int) -> np.ndarray | None:
    """Return one of FILES in a trial's folder as a read-only map (images,); None if it kept none.

    Raises IntegrityError if the file is damaged or gone, or not of as many images.
    """
    from ..data.sources import read_npy

    row = files.manifest(folder).get(name)
    if row is None:
        return None
    path = folder / name
    with sealed.remedied(folder):
        files.check(path, row)
        try:
            classes = read_npy(path)
        except BadDataError as error:
            raise IntegrityError("predictions", str(error), where=path) from error
        if classes.shape != (images,) or classes.dtype.kind != "u":
            raise IntegrityError(
                "predictions",
                f"{classes.dtype} of shape {classes.shape}",
                where=path,
                expected=f"a class for each of {counted(images, 'test image')}",
            )
    return classes
