"""What a study will take: seconds measured on one batch, bytes from sizes. Estimates, and said to
be such.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..lab.settings import Settings
from .base import Trial, _rows
from .few_shot import FewShotGrid
from .few_shot_inputs import PreflightResult, draws
from .fine_tuning.spec import FineTuning

if TYPE_CHECKING:
    from ..models.network import Network

CROPS = 10  # of an image, where crops are used
STATES = (
    4  # a training's state on disk: weights, the best ones, at most two moments of the optimizer
)
MOST_ROWS = 32  # of the batch that is measured


@dataclass(frozen=True)
class RowCounts:
    """RowCounts through the network in a study, early stopping left out."""

    training: int
    scoring: int


@dataclass(frozen=True)
class CostEstimate:
    """Seconds of all trials on so many workers, bytes of decoded images and of trainings under
    way.
    """

    seconds: float
    images_bytes: int
    states_bytes: int


def rows_of(spec: FineTuning, few: FewShotGrid, found: PreflightResult) -> RowCounts:
    """Count the rows that all trials train on and score."""
    assert found.splits is not None
    crops = CROPS if spec.use_crops else 1
    trials = draws(spec, few, found.splits)
    train = sum(len(found.splits.train(shots, split)) for shots, split in trials)
    test = 0 if spec.model_selection else len(found.splits.test)
    scoring = len(trials) * (spec.epochs * len(found.splits.val) + test)
    return RowCounts(crops * spec.epochs * train, crops * scoring)


def rows_of_trial(trial: Trial) -> tuple[int, int]:
    """Count the rows that a trial trains on and the rows that it scores, over all its epochs."""
    data = getattr(trial.inputs, "data", trial.inputs)
    epochs = getattr(trial.spec, "epochs", 1)
    train, val, test = (_rows(getattr(data, role, None)) for role in ("train", "val", "test"))
    return epochs * train, epochs * val + test


def seconds_a_row(
    network: Network, spec: Any, threads: int, clock: Callable[[], float] = time.perf_counter
) -> tuple[float, float]:
    """Measure (training, scoring) of one row on one batch, on the CPU. The network is left as it
    was.
    """
    import torch

    size = min(spec.batch_size, MOST_ROWS)
    x = torch.zeros(size, network.channels, network.input_size, network.input_size)
    before, training = torch.get_num_threads(), network.training
    torch.set_num_threads(threads)
    network.eval()  # batch norm keeps its statistics
    try:
        with torch.no_grad():
            network(x[:1])  # what is done once: memory, the choice of algorithms
            started = clock()
            network(x)
            scoring = clock() - started
        started = clock()
        loss = network(x).float().square().mean()
        if loss.requires_grad:
            torch.autograd.grad(
                loss, [p for p in network.parameters() if p.requires_grad], allow_unused=True
            )
        return (clock() - started) / size, scoring / size
    finally:
        torch.set_num_threads(before)
        network.train(training)


def estimate(
    spec: FineTuning, few: FewShotGrid, settings: Settings, found: PreflightResult
) -> CostEstimate:
    """Estimate what the fine-tuning study of a look takes. Frozen prefixes and early stopping make
    it less.
    """
    assert found.network is not None
    assert found.splits is not None
    network, rows = found.network, rows_of(spec, few, found)
    trials = draws(spec, few, found.splits)
    workers = max(1, settings.resolved_workers("cpu", len(trials)))
    training, scoring = seconds_a_row(network, spec, settings.threads)
    tables = [found.splits.val, () if spec.model_selection else found.splits.test]
    tables += [found.splits.train(shots, split) for shots, split in trials]
    images = {row.path for table in tables for row in table}
    crops = CROPS if spec.use_crops else 1
    pixels = len(images) * crops * network.input_size**2 * network.channels
    state = STATES * sum(p.numel() * p.element_size() for p in network.parameters())
    return CostEstimate(
        (rows.training * training + rows.scoring * scoring) / workers,
        min(pixels, int(settings.decode_budget * 1e9)),
        workers * state,
    )
