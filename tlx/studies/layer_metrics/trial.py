"""Trial of layer metrics: every layer of a network on labelled images, from one dump.

Sum of squares, intrinsic dimension and dissimilarities as in 'Transferability in DNN', with the
images sorted by class. A layer that a metric cannot be measured of (all rows the same, say) has
none there, and a note says why.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import files
from ...errors import BadDataError, IntegrityError, Stopped, TlxError
from ...result import Result
from ..layer_measures import (
    LAYER_METRICS,
    LayerRows,
    MeasureSettings,
    fitting_copy,
    thinned,
)
from .spec import LayerMetrics

if TYPE_CHECKING:
    import numpy as np

    from ...features.dump import Dump
    from ...features.sharded import LayerArray
    from ...metrics.blocks.pieces import PieceRunner
    from ..base import TrialContext
    from ..block_tasks import EnginePieces

WHOLE = (
    3 << 29
)  # bytes of a layer in which all rows are compared: kernels pack one copy of what is mapped
KEPT_ROWS = 2_000  # dissimilarities of so many rows are kept with the result
RDMS = "rdms"


@dataclass(frozen=True)
class Activations:
    """Dump, with the label of each row and the block of each layer (0: none).

    pieces  has blocks of rows measured by other processes; None: by that of the trial
    """

    dump: Dump
    labels: tuple[str, ...]
    blocks: tuple[int, ...]
    pieces: EnginePieces | None = None


class PieceProgress:
    """Progress within a layer whose metrics ask for pieces, how often is not known before.

    Each time takes half of what is left.
    """

    OF = 1000

    def __init__(self, tell: Callable[[int, int], None]):
        self._tell, self._left = tell, 1.0

    def __call__(self, done: int, of: int) -> None:
        """Tell the share of the layer after so many pieces of those asked for now."""
        share = 1 - self._left * (1 - done / (2 * of))
        if done == of:
            self._left /= 2
        self._tell(int(self.OF * share), self.OF)


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
            if inputs.pieces is not None:
                inputs.pieces.progress = PieceProgress(context.tell)
            measured = _measure(
                *_layer(spec, inputs.dump.array(layer), labels, inputs.pieces), context, index
            )
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
    notes += inputs.pieces.notes if inputs.pieces else []
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


def _measure(layer: LayerRows, compared: int, context: TrialContext, index: int) -> dict[str, Any]:
    """Compute the metrics of one layer: {"shape", "values", "notes"}."""
    started = time.perf_counter()
    n, width = layer.x.shape
    values, notes = _values(layer)
    notes = layer.notes() + notes
    if compared < n:
        notes.insert(0, f"rows are compared in {compared} of {n}, evenly spaced")
    elif len(layer.few) == n <= KEPT_ROWS:
        # else they could not stand next to those of other layers
        _keep_rdm(layer, context.folder / RDMS / f"{index:02d}.npy")
    values["seconds"] = time.perf_counter() - started
    return {"shape": {"rows": n, "width": width}, "values": values, "notes": notes}


def block_rows_of(spec: LayerMetrics, x: LayerArray) -> int:
    """Return the rows of a block of a layer; with more rows it is measured block by block."""
    from ...metrics.arrays import float_type
    from ...metrics.blocks.rows import fitting_rows

    width = math.prod(x.shape[1:])
    return spec.block_rows or fitting_rows(width, float_type(x.dtype).itemsize)


def _layer(
    spec: LayerMetrics, x: LayerArray, labels: np.ndarray, run: PieceRunner | None = None
) -> tuple[LayerRows, int]:
    """Return the rows of a layer, in blocks if there are many, and how many are compared."""
    from ..layer_blocks import BlockedLayer

    x, n, block_rows = x.reshape(len(x), -1), len(x), block_rows_of(spec, x)
    in_blocks = n > block_rows
    fitting = n if x.nbytes <= WHOLE else fitting_copy(x)
    if in_blocks and spec.block_rows:  # without it, the rows are those of earlier versions
        fitting = n
    compared = thinned(labels, min(spec.max_rows, fitting))
    settings = measure_settings(spec)
    if in_blocks:
        return BlockedLayer(x, labels, settings, compared, block_rows, run), len(compared)
    return LayerRows(x, labels, settings, compared), len(compared)


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
