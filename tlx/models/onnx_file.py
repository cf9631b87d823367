"""Exported model in a folder: model.onnx with model.json, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import files
from ..data.decode import Decoded
from ..data.sizing import Sizing, layout, views
from ..errors import BadDataError, IntegrityError, MissingError, ResourceError, UsageError

ONNX, RECORD, CARD = "model.onnx", "model.json", "card.md"
FORMAT = 1
INPUT, OUTPUTS = "images", ("label", "probabilities")  # of the graph
EXTRA = "pip install 'tlx[export]'"
Crop = tuple[int, int, bool]  # top, left, mirrored
NEEDED = ("classes", "sizing", "channels", "vote", "temperature", "sha256")
BATCH = 32


def crops_of(sizing: Sizing) -> tuple[tuple[int, int, int], tuple[Crop, ...]]:
    """Return the shape (height, width, channels) of a served model's input, and its crops in it.

    Crops of an image that keeps its shape are cut from six windows, one below the other.
    """
    (count, height, width, channels), rows = layout(sizing).views, layout(sizing).rows
    crops = tuple((view * height + top, left, mirrored) for view, top, left, mirrored in rows)
    return (count * height, width, channels), crops


def input_of(decoded: Decoded, sizing: Sizing) -> np.ndarray:
    """Return the input (height, width, channels) uint8 of an image, as `crops_of` describes it."""
    rows: np.ndarray = np.concatenate(list(views(decoded.image, sizing)))
    return rows


class OnnxModel:
    """Exported model, checked against its record.

    record   the content of model.json
    classes  names, in the order of the probabilities
    sizing   how an image becomes its input
    """

    def __init__(self, folder: Path):
        """Open the model in `folder`.

        Raises MissingError where a file is absent, BadDataError for a record that is none,
        IntegrityError if the model is another than the record's, ResourceError without onnxruntime.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise missing_package(error) from error
        self.folder = Path(folder)
        self.record = read_record(self.folder)
        self.classes = tuple(self.record["classes"])
        self.sizing = _sizing(self.record, self.folder / RECORD)
        path = self.folder / ONNX
        if files.sha256(path) != self.record["sha256"]:
            raise IntegrityError(
                "model-sha256",
                "is another model than its record says",
                where=path,
                expected=self.record["sha256"],
                remedy="export it again with tlx export",
            )
        self._session: Any = onnxruntime.InferenceSession(
            str(path), providers=["CPUExecutionProvider"]
        )

    def predict(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return labels (n,) int64 and probabilities (n, k) float32 of (n, h, w, ch) uint8."""
        label, probabilities = self._session.run(list(OUTPUTS), {INPUT: images})
        return label, probabilities

    def predict_batches(
        self, images: Iterator[np.ndarray], batch: int = BATCH
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield labels and probabilities of images (h, w, ch), `batch` at a time."""
        held: list[np.ndarray] = []
        for image in images:
            held.append(image)
            if len(held) == batch:
                yield self.predict(np.stack(held))
                held = []
        if held:
            yield self.predict(np.stack(held))


def _sizing(record: dict[str, Any], path: Path) -> Sizing:
    """Return the sizing of a record; BadDataError if it has none."""
    try:
        sizing = record["sizing"]
        return Sizing(
            int(sizing["size"]),
            crops=bool(sizing["crops"]),
            mode=str(sizing["mode"]),
            channels=int(record["channels"]),
            side=int(sizing["side"]),
        )
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise BadDataError(
            "model-record",
            f"its sizing cannot be read ({type(error).__name__})",
            where=path,
            expected="the model.json that tlx export writes",
        ) from error


def read_record(folder: Path) -> dict[str, Any]:
    """Return model.json of a folder, its fields checked."""
    for name in (ONNX, RECORD):
        if not (folder / name).is_file():
            raise MissingError(f"{name} of an exported model", folder, made_by="tlx export KEY")
    record = files.read_json(folder / RECORD)
    missing: Sequence[str] = NEEDED
    if isinstance(record, dict):
        missing = [name for name in NEEDED if name not in record]
        if record.get("format", FORMAT) != FORMAT:
            raise BadDataError(
                "newer-format",
                f"format {record['format']}",
                where=folder / RECORD,
                expected=f"format {FORMAT}",
            )
    if missing:
        raise BadDataError(
            "model-record",
            f"lacks {', '.join(missing)}",
            where=folder / RECORD,
            expected="the model.json that tlx export writes",
        )
    result: dict[str, Any] = record
    return result


def check_packages() -> None:
    """Raise ResourceError where a package is absent that makes or runs a model."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise missing_package(error) from error


def missing_package(error: ImportError) -> ResourceError:
    """Return the error that a package of the extra `export` is not installed."""
    return ResourceError("package-missing", f"{error.name} is not installed", remedy=EXTRA)
