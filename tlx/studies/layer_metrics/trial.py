"""Trial of layer metrics: every layer of a network on labelled images, from one dump.

Sum of squares, intrinsic dimension and dissimilarities as in 'Transferability in DNN', with the
images sorted by class. A layer that a metric cannot be measured of (all rows the same, say) has
none there, and a note says why.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import files
from ...errors import BadDataError, IntegrityError, Stopped, TlxError
from ...result import Result
from ..layer_measures import LAYER_METRICS, LayerRows, MeasureSettings, thinned
from .spec import LayerMetrics

if TYPE_CHECKING:
    import numpy as np

    from ...features.dump import Dump
    from ..base import TrialContext

WHOLE = (
    3 << 29
)  # bytes of a layer in which all rows are compared: kernels pack one copy of what is mapped
COPIED = 3 << 28  # bytes of rows that are taken out of a larger one: those are two copies
KEPT_ROWS = 2_000  # dissimilarities of so many rows are kept with the result
RDMS = "rdms"


@dataclass(frozen=True)
class Activations:
    """Dump, with the label of each row and the block of each layer (0: none)."""

    dump: Dump
    labels: tuple[str, ...]
    blocks: tuple[int, ...]


def run(spec: LayerMetrics, inputs: Activations, context: TrialContext) -> Result:
    """Measure layer by layer; layers measured before an interruption are reused."""
    import numpy as np

    started, rows, notes = time.perf_counter(), [], []
    labels = np.array(inputs.labels)
    for index, layer in enumerate(spec.layers):
        path = (
            context.folder / f"training.{index:04d}.json"
        )  # scratch: cleared away when the trial is whole
        measured = _kept(path)
        if measured is None:
            if context.stopping():
                raise Stopped(15)
            measured = _measure(spec, inputs.dump.array(layer), labels, context, index)
            files.write_json(path, measured)
            context.log(index, measured["values"])
        notes += [f"{layer}: {note}" for note in measured["notes"]]
        rows.append(
            {
                "layer": layer,
                "layer_index": index,
                "block": inputs.blocks[index] or "",
                **measured["shape"],
                **measured["values"],
            }
        )
    classes, counts = np.unique(labels, return_counts=True)
    details = {
        "rows": rows,
        "notes": notes,
        "classes": classes.tolist(),
        "images_per_class": counts.tolist(),
        "dump": spec.dump,
        "codes": np.searchsorted(classes, labels).tolist() if len(labels) <= KEPT_ROWS else [],
    }
    return Result.of(
        spec,
        scores={"layers": len(rows), "total_s": time.perf_counter() - started},
        details=details,
    )


def _kept(path: Any) -> dict[str, Any] | None:
    try:
        return files.read_json(path) if path.exists() else None
    except (TlxError, IntegrityError):
        return None  # cut off while it was written: measured again


def _measure(
    spec: LayerMetrics, x: np.ndarray, labels: np.ndarray, context: TrialContext, index: int
) -> dict[str, Any]:
    """Compute the metrics of one layer: {"shape", "values", "notes"}."""
    started = time.perf_counter()
    x = x.reshape(len(x), -1)
    fitting = len(x) if x.nbytes <= WHOLE else max(2, COPIED // (x.itemsize * x.shape[1]))
    compared = thinned(labels, min(spec.max_rows, fitting))
    layer = LayerRows(x, labels, measure_settings(spec), compared)
    values, notes = _values(layer)
    if len(compared) < len(x):
        notes.insert(0, f"rows are compared in {len(compared)} of {len(x)}, evenly spaced")
    elif len(x) <= KEPT_ROWS:  # else they could not stand next to those of other layers
        _keep_rdm(layer, context.folder / RDMS / f"{index:02d}.npy")
    values["seconds"] = time.perf_counter() - started
    return {"shape": {"rows": len(x), "width": x.shape[1]}, "values": values, "notes": notes}


def measure_settings(spec: LayerMetrics) -> MeasureSettings:
    """Return the settings of the metrics; the share of the rows is that of the ratios too."""
    return MeasureSettings(
        rdm=spec.rdm,
        resamplings=spec.resamplings,
        fraction=spec.fraction,
        seed=spec.seed,
        ratio_fraction=spec.fraction,
    )


def _values(layer: LayerRows) -> tuple[dict[str, float], list[str]]:
    """Return every metric that the rows have, and notes: cautions, and why others have none."""
    values: dict[str, float] = {}
    notes: list[str] = []
    absent: list[str] = []
    for name, metric in LAYER_METRICS.items():
        try:
            value = float(metric.function(layer))
            caution = metric.note(layer) if metric.note is not None else ""
        except BadDataError as error:  # any other error, of a setting above all, is a bug
            if error.code == "not-finite":
                raise
            notes.append(f"{error.code}: {error.what}")
            continue
        if math.isnan(value):
            absent.append(name)
        else:
            values[name] = value
        if caution:
            notes.append(caution)
    if absent:
        notes.append(f"nothing-varies: no {', '.join(absent)}, since all rows are alike")
    return values, list(dict.fromkeys(notes))  # one for all metrics that lack for one reason


def _keep_rdm(layer: LayerRows, path: Path) -> None:
    """Write the dissimilarities of a layer, if it has any."""
    import numpy as np

    try:
        rdm = layer.rdm()
    except BadDataError:  # a note of its metrics says why
        return
    files.make_folder(path.parent)
    with files.atomic_write(path) as file:
        np.lib.format.write_array(file, rdm, allow_pickle=False)
