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
from typing import TYPE_CHECKING, Any

from ... import files
from ...errors import BadDataError, IntegrityError, Stopped, TlxError
from ...result import Result
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


def _thinned(labels: np.ndarray, most: int) -> np.ndarray:
    """Return at most so many rows, evenly spaced by class: (m,) ascending.

    In the order of their classes, which are thinned alike.
    """
    import numpy as np

    if len(labels) <= most:
        return np.arange(len(labels))
    by_class = np.argsort(labels, kind="stable")
    return np.sort(by_class[np.linspace(0, len(labels) - 1, most).round().astype(np.int64)])


def _measure(
    spec: LayerMetrics, x: np.ndarray, labels: np.ndarray, context: TrialContext, index: int
) -> dict[str, Any]:
    """Compute the metrics of one layer: {"shape", "values", "notes"}."""
    import numpy as np

    from ... import metrics

    started, notes = time.perf_counter(), []
    x = x.reshape(len(x), -1)
    values: dict[str, float] = {}

    def add(measure: Callable[[], dict[str, float | None]]) -> None:
        try:
            measured = measure()
        except (
            BadDataError
        ) as error:  # anything else, a setting that is refused above all, is a fault
            if error.code == "not-finite":
                raise
            notes.append(f"{error.code}: {error.what}")
            return
        known = {
            name: float(value)
            for name, value in measured.items()
            if value is not None and not math.isnan(value)
        }
        if len(known) < len(measured):
            absent = ", ".join(name for name in measured if name not in known)
            notes.append(f"nothing-varies: no {absent}, since all rows are alike")
        values.update(known)

    fitting = len(x) if x.nbytes <= WHOLE else max(2, COPIED // (x.itemsize * x.shape[1]))
    index_of = _thinned(labels, min(spec.max_rows, fitting))
    few, few_labels = (
        (x, labels) if len(index_of) == len(x) else (np.asarray(x[index_of]), labels[index_of])
    )
    if len(index_of) < len(x):
        notes.append(f"rows are compared in {len(index_of)} of {len(x)}, evenly spaced")
    add(lambda: _squares(metrics.sum_of_squares(x, labels)))
    add(lambda: _dimension(spec, few, notes))
    add(lambda: _dissimilarity(spec, few, few_labels, context, index, len(few) < len(x)))
    classes = (few_labels[:, None] == np.unique(few_labels)).astype(np.float32)
    add(lambda: {"cka_label": metrics.cka(few, classes, unbiased=True)})
    values["seconds"] = time.perf_counter() - started
    return {"shape": {"rows": len(x), "width": x.shape[1]}, "values": values, "notes": notes}


def _squares(sums: Any) -> dict[str, float | None]:
    return {
        "ss_within": sums.within,
        "ss_between": sums.between,
        "ss_total": sums.total,
        "ss_ratio": sums.ratio,
    }


NEAR = 0.01  # a row nearer to its neighbour than this share of the usual distance is a near copy
NEAR_SHARE = 0.01  # of the rows: fewer near copies change an intrinsic dimension little


def near_copies(nearest: np.ndarray) -> int:
    """Return how many rows are near copies of another.

    Far nearer than the median row is to its nearest neighbour.

    nearest   (n,) distances to the nearest other row. Where most rows are copies the median is no
    measure: then the
              largest distance is
    """
    import numpy as np

    usual = float(np.median(nearest))
    if usual <= NEAR * float(nearest.max()):
        usual = float(nearest.max())
    return int((nearest < NEAR * usual).sum())


def _dimension(spec: LayerMetrics, x: np.ndarray, notes: list[str]) -> dict[str, float | None]:
    from ... import metrics
    from ...metrics.intrinsic_dimension import estimator

    spread = metrics.intrinsic_dimension_resampled(
        x, spec.resamplings, spec.fraction, spec.seed, method=f"twonn:fraction={spec.fraction}"
    )
    copies = near_copies(spread.distances[:, 0])
    if copies > NEAR_SHARE * len(spread.distances):
        notes.append(
            f"{copies} of {len(spread.distances)} rows are near copies of another (nearer than "
            f"{NEAR:.0%} of "
            "the usual distance): the intrinsic dimension is that of the copying, not of the "
            "images; remove "
            "near copies"
        )
    likelihood = estimator("twonn-mle", spec.fraction).estimate(
        spread.distances
    )  # nothing is searched again
    return {
        "id": spread.mean,
        "id_std": spread.std,
        "id_all": spread.whole.dimension,
        "id_r": spread.whole.r,
        "id_mle": likelihood.dimension,
    }


def _dissimilarity(
    spec: LayerMetrics,
    x: np.ndarray,
    labels: np.ndarray,
    context: TrialContext,
    index: int,
    thinned: bool,
) -> dict[str, float | None]:
    """Compute the dissimilarities of a layer.

    thinned: these are not all rows of the layer, whose dissimilarities are kept next to those of
    other layers.
    """
    import numpy as np

    from ... import metrics

    rdm = metrics.rdm(x, metric=spec.rdm, condensed=True, dtype="float32")
    if len(x) <= KEPT_ROWS and not thinned:
        files.make_folder(context.folder / RDMS)
        with files.atomic_write(context.folder / RDMS / f"{index:02d}.npy") as file:
            np.lib.format.write_array(file, rdm, allow_pickle=False)
    contrast = metrics.class_contrast(rdm, labels)
    label = metrics.compare_rdms(rdm, metrics.model_rdm(labels), method="spearman")
    return {
        "rsa_within": contrast.within,
        "rsa_between": contrast.between,
        "rsa_contrast": contrast.contrast,
        "rsa_label": label,
    }
