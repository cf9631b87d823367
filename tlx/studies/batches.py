"""Check for batches of one row that a network cannot train on, before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import TlxError, raise_all
from ..models import backbones, chopped, freezing, lone_rows
from ..models.network import Network
from ..models.recipe import Recipe

if TYPE_CHECKING:
    from .base import Trial


def check(trials: Iterable[Trial]) -> None:
    """Raise UsageError, of all trials at once, for single rows that batch norm cannot train on.

    Such a row is one that no batch can take.

    Looks at every trial that trains: its spec has a batch size, and its inputs have training rows.
    """
    problems: dict[str, TlxError] = {}
    for trial in trials:
        train = getattr(getattr(trial.inputs, "data", trial.inputs), "train", None)
        if train is None or not hasattr(trial.spec, "batch_size"):
            continue
        try:
            check_rows(trial.spec, len(train) * train.crops)
        except TlxError as problem:
            problems[str(problem)] = problem
    raise_all(list(problems.values()))


def check_rows(spec: Any, rows: int, network: Network | None = None) -> None:
    """Raise UsageError if a training leaves a single row, which batch norm cannot train on.

    Rows are images × crops.

    network   as it is trained, frozen already; None: it is built from the spec
    """
    if lone_rows.cannot_be_joined(rows, spec.batch_size):
        lone_rows.must_be_avoided(
            _as_trained(spec) if network is None else network, rows, spec.batch_size
        )
    if isinstance(spec, Recipe) and 1 < spec.replicas == spec.batch_size:
        lone_rows.refuse_lone_parts(_as_trained(spec) if network is None else network, spec)


def _as_trained(spec: Any) -> Network:
    """Return the network of a spec, with random weights, cut and frozen as in the trial."""
    model: str | None = (
        getattr(spec, "model", None) if isinstance(spec, Recipe) else None
    )  # of QUANTA, the source's
    cut_file = (
        Path(model).expanduser() if model and chopped.is_cut(Path(model).expanduser()) else None
    )
    network = backbones.load(
        spec.architecture, weights=cut_file, classes=2, seed=0, input_size=spec.input_size
    )
    cut = getattr(spec, "cut", None)
    if cut and cut < len(network.blocks):
        network = chopped.chop(network, cut, 2, 0)
    return freezing.freeze(network, getattr(spec, "freeze", 0), bn=getattr(spec, "bn", "frozen"))
