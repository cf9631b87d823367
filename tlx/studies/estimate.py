"""Estimates of a study's cost: seconds measured on one batch, bytes from sizes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..lab.settings import Settings
from .base import Trial, most_epochs, row_counts
from .few_shot import FewShotGrid
from .few_shot_inputs import PreflightResult, draws

if TYPE_CHECKING:
    from ..models.network import Network
    from ..models.quanta.recipe import QuantaRecipe
    from ..models.recipe import Recipe
    from .fine_tuning.spec import FineTuning

CROPS = 10  # of an image, where crops are used
STATES = (
    4  # a training's state on disk: weights, the best ones, at most two moments of the optimizer
)
MOST_ROWS = 32  # of the batch that is measured


@dataclass(frozen=True)
class RowCounts:
    """Number of rows through the network in a study, early stopping left out."""

    training: int
    scoring: int


@dataclass(frozen=True)
class CostEstimate:
    """Estimated cost of a study.

    Seconds of all trials on so many workers, bytes of decoded images and of trainings in progress.
    """

    seconds: float
    images_bytes: int
    states_bytes: int


def rows_of(spec: FineTuning, few: FewShotGrid, preflight: PreflightResult) -> RowCounts:
    """Count the rows that all trials train on and score."""
    assert preflight.splits is not None
    crops = CROPS if spec.use_crops else 1
    trials = draws(spec, few, preflight.splits)
    train = sum(len(preflight.splits.train(shots, split)) for shots, split in trials)
    test = 0 if spec.model_selection else len(preflight.splits.test)
    val = len(preflight.splits.val) * min(crops, spec.val_crops or crops)
    scoring = len(trials) * (spec.most_epochs * val + crops * test)
    return RowCounts(crops * spec.most_epochs * train, scoring)


def rows_of_trial(trial: Trial) -> tuple[int, int]:
    """Count the rows that a trial trains on and those that it scores, over all epochs."""
    epochs = most_epochs(trial.spec)
    train, val, test = row_counts(trial)
    return epochs * train, epochs * val + test


def seconds_a_row(
    network: Network,
    spec: Recipe | QuantaRecipe,
    threads: int,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, float]:
    """Measure (training, scoring) of one row on one batch, on the CPU.

    The network is left unchanged.
    """
    import torch

    size = min(spec.batch_size, MOST_ROWS)
    scoring = forward_seconds_a_row(network, size, threads, clock)
    x = torch.zeros(size, network.channels, network.input_size, network.input_size)
    before, training = torch.get_num_threads(), network.training
    torch.set_num_threads(threads)
    network.eval()  # batch norm keeps its statistics
    try:
        started = clock()
        loss = network(x).float().square().mean()
        if loss.requires_grad:
            torch.autograd.grad(
                loss, [p for p in network.parameters() if p.requires_grad], allow_unused=True
            )
        return (clock() - started) / size, scoring
    finally:
        torch.set_num_threads(before)
        network.train(training)


def forward_seconds_a_row(
    network: Network, size: int, threads: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Measure the time of one row through the network, in a batch of `size`, on the CPU."""
    import torch

    x = torch.zeros(size, network.channels, network.input_size, network.input_size)
    before, training = torch.get_num_threads(), network.training
    torch.set_num_threads(threads)
    network.eval()
    try:
        with torch.no_grad():
            network(x[:1])  # what is done once: memory, the choice of algorithms
            started = clock()
            network(x)
            return (clock() - started) / size
    finally:
        torch.set_num_threads(before)
        network.train(training)


def estimate(
    spec: FineTuning, few: FewShotGrid, settings: Settings, preflight: PreflightResult
) -> CostEstimate:
    """Estimate the cost of the fine-tuning study of a preflight.

    Frozen prefixes and early stopping make it less.
    """
    assert preflight.network is not None
    assert preflight.splits is not None
    network, rows = preflight.network, rows_of(spec, few, preflight)
    trials = draws(spec, few, preflight.splits)
    workers = max(1, settings.resolved_workers("cpu", len(trials)))
    training, scoring = seconds_a_row(network, spec, settings.threads)
    tables = [preflight.splits.val, () if spec.model_selection else preflight.splits.test]
    tables += [preflight.splits.train(shots, split) for shots, split in trials]
    images = {row.path for table in tables for row in table}
    crops = CROPS if spec.use_crops else 1
    pixels = len(images) * crops * network.input_size**2 * network.channels
    state = STATES * sum(p.numel() * p.element_size() for p in network.parameters())
    return CostEstimate(
        (rows.training * training + rows.scoring * scoring) / workers,
        min(pixels, int(settings.decode_budget * 1e9)),
        workers * state,
    )
