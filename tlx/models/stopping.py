"""Early stopping: rules over the values of a training's epochs, one row each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

EARLIEST_STOP = 10  # epochs counted from 0
PATIENCE = 4  # so many last validation losses, none below the one before, end the training
RISE, EPOCHS_WITHOUT = 1e-4, 3  # of the validation accuracy, as fractions


def _losses_stay(history: Sequence[dict[str, float]]) -> bool:
    """Return whether of the last four validation losses none is below its predecessor."""
    losses = [values["val_loss"] for values in history]
    return len(losses) > EARLIEST_STOP and all(
        a <= b for a, b in itertools.pairwise(losses[-PATIENCE:])
    )


def _accuracy_stays(history: Sequence[dict[str, float]]) -> bool:
    """Return whether the validation accuracy has not risen in the last three epochs.

    It has risen if it is more than RISE above the best that was counted before.
    """
    best, since = -math.inf, 0
    for values in history:
        rises = values["val_accuracy"] - RISE > best
        best, since = (values["val_accuracy"], 0) if rises else (best, since + 1)
    return since >= EPOCHS_WITHOUT


@dataclass(frozen=True)
class Stopping:
    """Rule for when to stop, by the values of all epochs so far.

    least: the fewest epochs after which training can end.
    """

    over: Callable[[Sequence[dict[str, float]]], bool]
    least: int


STOPPING = {
    "losses": Stopping(
        _losses_stay, EARLIEST_STOP + 1
    ),  # of 'When & How to Transfer with Transfer Learning'
    "accuracy": Stopping(_accuracy_stays, EPOCHS_WITHOUT + 1),  # of 'feature-transfer'
}
