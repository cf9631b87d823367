"""Trial of the atlas: measures of every block of one network on one target.

A trial measures every block's outputs for the target's images: of the network as it is, or how
similar it still is to a network that was trained on the target. What takes longer (QUANTA,
parameter distance, layer transfer) is not computed here but looked up: see lookup.py.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ... import files
from ...errors import IntegrityError, Stopped, TlxError
from ...result import Result
from .spec import BlockMeasures

if TYPE_CHECKING:
    from ...features.dump import Dump
    from ..base import TrialContext


@dataclass(frozen=True)
class AtlasInputs:
    """Dump, the label of each of its rows, and the dump of the network trained on the target.

    The rows of both are the same.
    """

    dump: Dump
    labels: tuple[str, ...]
    against: Dump | None = None


def run(spec: BlockMeasures, inputs: AtlasInputs, context: TrialContext) -> Result:
    """Measure block by block; measures from before an interruption are reused."""
    from . import measures as atlas_measures

    started, rows, notes = time.perf_counter(), [], []
    for block, layer in zip(
        spec.numbers or range(1, len(spec.layers) + 1), spec.layers, strict=True
    ):
        path = (
            context.folder / f"training.{block:04d}.json"
        )  # scratch: cleared away when the trial is whole
        measured = _kept(path)
        if measured is None:
            if context.stopping():
                raise Stopped(15)
            x, labels = inputs.dump.array(layer), inputs.labels
            measured = (
                atlas_measures.alone(spec, x, labels)
                if inputs.against is None
                else atlas_measures.beside(spec, x, inputs.against.array(layer), labels)
            )
            files.write_json(path, measured)
            context.log(
                block, {f"block_{name}": row["mean"] for name, row in measured["values"].items()}
            )
        notes += [f"block {block}: {note}" for note in measured["notes"]]
        rows.append({"block": block, "layer": layer, **measured})
    origin = {"network": spec.dump} | (
        {"trained on the target": spec.against} if spec.against else {}
    )
    return Result.of(
        spec,
        scores={"layers": len(rows), "total_s": time.perf_counter() - started},
        details={
            "rows": rows,
            "notes": notes,
            "classes": sorted(set(inputs.labels)),
            "images": len(inputs.labels),
        },
        made_from=origin,
    )


def _kept(path: Any) -> dict[str, Any] | None:
    try:
        return files.read_json(path) if path.exists() else None
    except (TlxError, IntegrityError):
        return None  # cut off while it was written: measured again
