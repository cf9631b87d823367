"""Estimates of a study's cost: seconds and memory measured on one batch, bytes from sizes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .. import files
from ..data.pixels import is_stored, stored_bytes
from ..data.sizing import Sizing
from ..errors import ResourceError, TlxError
from ..lab.settings import Settings
from . import parted_speed, schedule
from .base import Trial, most_epochs, row_counts
from .few_shot import FewShotGrid
from .few_shot_inputs import PreflightResult, draws, precomputed
from .parted_speed import PartedCost, Sharing
from .schedule import EngineTime

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
    """Number of rows through the network in a trial, and of its steps, early stopping left out."""

    training: int
    scoring: int
    steps: int = 0


# Of a process that has loaded PyTorch and the modules of a study. With it, and three times what the
# backward pass needs, no study of tests/benchmarks/plan_error.py took more memory than estimated.
PROCESS_BYTES = 700_000_000
# What whole studies took, divided by their estimates: the least and the most of those that
# tests/benchmarks/plan_error.py runs (2 to 35 s each), three rounds on two cores, 0.49 to 2.13.
# Short studies take less than their estimates, which have the start of the processes.
TIME_ERROR = (0.4, 2.2)


# Of a process that measures layers: PyTorch, the compiled kernels, and so many times the rows of a
# layer (the file that is mapped, the copy that a kernel packs, centred rows), in layers of up to
# so many bytes. Of 5,000 rows of 21,632 numbers a process took 1.8 GB, of 500 rows 0.84 GB.
MEASURING_BYTES = 800_000_000
LAYER_COPIES = 3
WHOLE_LAYER_BYTES = 3 << 29
COMPARED = 1024  # rows, and numbers in each, of which the comparisons are measured


@dataclass(frozen=True)
class Speed:
    """Cost of one row of a network, and the network's size.

    training_s, scoring_s  seconds of a row
    saved_bytes            of a row, that the backward pass needs
    parameters             how many numbers the network has
    parted                 of steps in parts: what they take besides; None where batches are whole
    """

    training_s: float
    scoring_s: float
    saved_bytes: int
    parameters: int
    parted: PartedCost | None = None

    def seconds(self, rows: RowCounts) -> float:
        """Return the time of so many rows."""
        training_s = rows.training * self.training_s
        if self.parted is not None:
            training_s = self.parted.seconds(training_s, rows.steps)
        return training_s + rows.scoring * self.scoring_s

    def state_bytes(self) -> int:
        """Return the disk space of the state of a training."""
        return 4 * STATES * self.parameters

    def memory_bytes(self, batch_size: int) -> int:
        """Return the memory of the processes of a training with such batches.

        Of each: weights, gradients, the best weights and the moments of the optimizer; what the
        backward pass needs, its gradients, and the images, of one part of a batch at a time; the
        vectors of parts that are summed.
        """
        sharing = Sharing() if self.parted is None else self.parted.sharing
        batch_bytes = 3 * sharing.rows(batch_size) * self.saved_bytes
        own_bytes = PROCESS_BYTES + 4 * (STATES + 1) * self.parameters + batch_bytes
        if sharing.parts > 1:
            own_bytes += parted_speed.vectors_bytes(sharing, self.parameters)
        return sharing.processes * own_bytes


@dataclass(frozen=True)
class CostEstimate:
    """Estimated cost of a study.

    seconds       of all trials on the workers of the settings
    seconds_range the least and the most, by the error of earlier estimates
    images_bytes  of decoded images on disk: none where they are too many to be kept
    states_bytes  of trainings in progress on disk
    memory_bytes  of all processes at once
    engines       seconds by engine and number of slots
    """

    seconds: float
    seconds_range: tuple[float, float]
    images_bytes: int
    states_bytes: int
    memory_bytes: int
    engines: tuple[EngineTime, ...]

    def to_json(self) -> dict[str, object]:
        """Return the estimate as plain JSON."""
        return {
            **vars(self),
            "seconds_range": list(self.seconds_range),
            "engines": [vars(row) for row in self.engines],
        }


def rows_of(
    spec: FineTuning, few: FewShotGrid, preflight: PreflightResult
) -> tuple[RowCounts, ...]:
    """Count the rows that each trial trains on and scores."""
    assert preflight.splits is not None
    crops = CROPS if spec.use_crops else 1
    test = 0 if spec.model_selection else len(preflight.splits.test)
    val = len(preflight.splits.val) * min(crops, spec.val_crops or crops)
    numbers = [
        crops * len(preflight.splits.train(shots, split))
        for shots, split in draws(spec, few, preflight.splits)
    ]
    return tuple(
        RowCounts(
            spec.most_epochs * rows,
            spec.most_epochs * val + crops * test,
            spec.most_epochs * -(-rows // spec.batch_size),
        )
        for rows in numbers
    )


def rows_of_trial(trial: Trial) -> RowCounts:
    """Count the rows that a trial trains on and those that it scores, over all epochs."""
    epochs = most_epochs(trial.spec)
    train, val, test = row_counts(trial)
    tests = epochs if getattr(trial.spec, "tests_every_epoch", False) else 1
    steps = -(-train // getattr(trial.spec, "batch_size", max(1, train)))
    return RowCounts(epochs * train, epochs * val + tests * test, epochs * steps)


def seconds_a_row(
    network: Network,
    spec: Recipe | QuantaRecipe,
    threads: int,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, float]:
    """Measure (training, scoring) of one row on one batch, or one part of it, on the CPU.

    The network is left unchanged.
    """
    import torch

    size = measured_rows(spec)
    scoring = forward_seconds_a_row(network, size, threads, clock)
    x = torch.zeros(size, network.channels, network.input_size, network.input_size)
    before, training = torch.get_num_threads(), network.training
    torch.set_num_threads(threads)
    network.eval()  # batch norm keeps its statistics

    def step() -> None:
        loss = network(x).float().square().mean()
        if loss.requires_grad:
            torch.autograd.grad(
                loss, [p for p in network.parameters() if p.requires_grad], allow_unused=True
            )

    try:
        return parted_speed.least_seconds(step, clock) / size, scoring
    finally:
        torch.set_num_threads(before)
        network.train(training)


def measured_rows(spec: Recipe | QuantaRecipe) -> int:
    """Return the rows that are measured at once: of a batch, or of one of its parts."""
    return min(-(-spec.batch_size // getattr(spec, "replicas", 1)), MOST_ROWS)


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
            return parted_speed.least_seconds(lambda: network(x), clock) / size
    finally:
        torch.set_num_threads(before)
        network.train(training)


def comparing_seconds(clock: Callable[[], float] = time.perf_counter) -> float:
    """Measure how long a number takes when every two rows are compared by the metrics of layers.

    That is a dissimilarity and a distance of every two, divided by rows² × width.
    """
    import numpy as np

    from .. import metrics

    x = np.random.default_rng(0).standard_normal((COMPARED, COMPARED), dtype=np.float32)

    def compare(rows: np.ndarray) -> None:
        metrics.rdm(rows, dtype="float32")
        metrics.nearest_distances(rows, k=2)

    compare(x[:8])  # the kernels are compiled
    return parted_speed.least_seconds(lambda: compare(x), clock) / COMPARED**3


def saved_bytes_a_row(network: Network, size: int) -> int:
    """Measure what the backward pass of a row needs, in a batch of `size`, on the CPU.

    Parameters are not counted. The network is left unchanged.
    """
    import torch

    x = torch.zeros(size, network.channels, network.input_size, network.input_size)
    kept = {p.untyped_storage().data_ptr() for p in network.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in kept:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    training = network.training
    network.eval()
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = network(x).float().square().mean()
        del loss
        return sum(saved.values()) // size
    finally:
        network.train(training)


def speed_of(network: Network, spec: Recipe | QuantaRecipe, settings: Settings) -> Speed:
    """Measure a network on one batch, or one part of it, on the CPU; it is left unchanged."""
    training_s, scoring_s = seconds_a_row(network, spec, settings.threads)
    saved = saved_bytes_a_row(network, measured_rows(spec))
    parted = parted_speed.cost_of(network, Sharing.of(spec, settings), spec, settings.threads)
    size = sum(p.numel() for p in network.parameters())
    return Speed(training_s, scoring_s, saved, size, parted)


def in_words(speed: Speed, spec: Recipe | QuantaRecipe) -> str:
    """Return how the time of a step in parts was taken; "" where batches are whole."""
    if speed.parted is None:
        return ""
    rows = speed.parted.sharing.rows(spec.batch_size)
    return parted_speed.in_words(speed.parted, rows, measured_rows(spec), speed.parameters)


def estimate(
    spec: FineTuning, few: FewShotGrid, settings: Settings, preflight: PreflightResult
) -> CostEstimate:
    """Estimate the cost of the fine-tuning study of a preflight.

    Frozen prefixes and early stopping make it less.
    """
    assert preflight.network is not None
    assert preflight.splits is not None
    network = preflight.network
    speed = speed_of(network, spec, settings)
    sharing = Sharing.of(spec, settings)
    rows = rows_of(spec, few, preflight)
    seconds = [speed.seconds(row) for row in rows]
    images = _images_bytes(spec, network, settings, len(_images_of(spec, few, preflight)))
    workers = settings.resolved_workers("cpu", len(rows), sharing.processes)
    overhead = schedule.OVERHEADS[settings.engine] if workers else schedule.NONE
    total = schedule.run_time(seconds, sharing.trials(workers, settings), overhead)
    at_once = max(1, workers)
    batch = min(spec.batch_size, max(row.training for row in rows) // max(1, spec.most_epochs))
    return CostEstimate(
        total,
        (TIME_ERROR[0] * total, TIME_ERROR[1] * total),
        images,
        at_once * speed.state_bytes(),
        at_once * speed.memory_bytes(batch),
        schedule.by_engine(seconds, max(1, settings.local_slots // sharing.processes)),
    )


def _images_of(spec: FineTuning, few: FewShotGrid, preflight: PreflightResult) -> set[str]:
    """Return the images that the trials of a preflight use."""
    assert preflight.splits is not None
    tables = [preflight.splits.val, () if spec.model_selection else preflight.splits.test]
    for shots, split in draws(spec, few, preflight.splits):
        tables.append(preflight.splits.train(shots, split))
    return {row.path for table in tables for row in table}


def _sizing(spec: FineTuning, network: Network) -> Sizing:
    return Sizing(
        network.input_size, crops=spec.use_crops, mode=spec.sizing, channels=network.channels
    )


def _images_bytes(spec: FineTuning, network: Network, settings: Settings, count: int) -> int:
    """Return the bytes of so many decoded images on disk."""
    return stored_bytes(
        count,
        _sizing(spec, network),
        precomputed=bool(spec.precomputed_crops),
        budget_bytes=int(settings.decode_budget * 1e9),
    )


def disk_problems(
    takes: CostEstimate, spec: FineTuning, settings: Settings, preflight: PreflightResult
) -> list[TlxError]:
    """Return the errors of the disks that have less room than the study of a preflight may take.

    Images that are decoded already take none.
    """
    needs: dict[int, list[tuple[str, Path, int]]] = {}
    for what, folder, size in (
        ("decoded images", settings.cache_folder, takes.images_bytes),
        ("trainings under way", settings.store_folder(None), takes.states_bytes),
    ):
        disk = files.existing(folder).stat().st_dev
        needs.setdefault(disk, []).append((what, folder, size))
    short = [parts for parts in needs.values() if _is_short(parts)]
    if short and takes.images_bytes and _is_decoded(spec, settings, preflight):
        return disk_problems(replace(takes, images_bytes=0), spec, settings, preflight)
    return [_disk_problem([part for part in parts if part[2]]) for parts in short]


def _is_short(parts: Sequence[tuple[str, Path, int]]) -> bool:
    return sum(size for _, _, size in parts) > files.free_bytes(parts[0][1])


def _disk_problem(parts: Sequence[tuple[str, Path, int]]) -> ResourceError:
    size, free = sum(part[2] for part in parts), files.free_bytes(parts[0][1])
    words = " and ".join(part[0] for part in parts)
    return ResourceError(
        "disk-space",
        f"{words} may take {size:,} bytes, {free:,} are free",
        where=parts[0][1],
        remedy="free some space (tlx dumps ls shows what dumps take), or name folders on another "
        "disk: --cache, --store",
    )


def _is_decoded(spec: FineTuning, settings: Settings, preflight: PreflightResult) -> bool:
    assert preflight.network is not None
    crops = None
    if spec.precomputed_crops:
        crops = precomputed(spec.precomputed_crops, preflight, preflight.paths, settings)
    sizing = _sizing(spec, preflight.network)
    return is_stored(preflight.paths, sizing, settings.cache_folder, precomputed=crops)
