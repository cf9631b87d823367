"""Replicas: a training step whose batch is cut into parts, which several processes may share.

Gradients, the running statistics of batch norm, loss and correct rows of a batch are those of its
parts, each weighted by its rows, summed in one fixed binary tree over all parts. Which process
computes a part is no matter: each adds its own, which are a branch of the tree, every process gets
the branches of all, and adds them in the same order. So the weights are equal to the bit for any
number of processes on machines of one kind.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ..errors import IntegrityError, ResourceError, UsageError, counted
from .samples import Batches, spans

if TYPE_CHECKING:
    from .recipe import Recipe

BUCKET = 1 << 24  # values that are exchanged at once: bounds the memory of an exchange
Values = dict[str, float]
JobT = TypeVar("JobT")
JobT_contra = TypeVar("JobT_contra", contravariant=True)


class Team(Protocol):
    """Processes that share the parts of every batch; number `rank` of `size` is this one.

    Process 0 is the trial's own: it alone scores, saves and reports.
    """

    rank: int
    size: int

    def gather(self, vector: Tensor) -> list[Tensor]:
        """Return the vectors of all processes, in their order."""

    def add_up(self, vector: Tensor) -> Tensor:
        """Return the sum of the vectors of all processes, in any order of summation."""

    def meet(self) -> None:
        """Wait until all processes have come here."""

    def agree(self, values: Values) -> Values:
        """Return the values that process 0 gives."""


class Recruit(Protocol[JobT_contra]):
    """Callable that starts the other processes of a team, which follow a job to its end."""

    def __call__(self, job: JobT_contra, size: int) -> AbstractContextManager[Team]:
        """Return the team of this process, whose other members end with the context."""


class Alone:
    """Team of one process."""

    rank, size = 0, 1

    def gather(self, vector: Tensor) -> list[Tensor]:
        """Return the vector."""
        return [vector]

    def add_up(self, vector: Tensor) -> Tensor:
        """Return the vector."""
        return vector

    def meet(self) -> None:
        """Wait for nobody."""

    def agree(self, values: Values) -> Values:
        """Return the values."""
        return values


# ---------------------------------------------------------------- parts of a batch


def part_sizes(rows: int, parts: int, least: int = 1) -> list[int]:
    """Return the rows of each part of a batch, which differ by one at most.

    least  rows of a part at least: of a batch with too few of them the last parts have none
    """
    used = max(1, min(parts, rows // least))
    share, more = divmod(rows, used)
    return [share + int(k < more) for k in range(used)] + [0] * (parts - used)


@dataclass(frozen=True)
class PartRows:
    """Rows of one part of a batch; share: of the rows of the batch."""

    number: int
    rows: np.ndarray
    share: float


@dataclass(frozen=True)
class PartedBatch:
    """Parts of a batch that this process computes, in order."""

    size: int
    parts: tuple[PartRows, ...]


def cut(index: np.ndarray, parts: int, batch_size: int, team: Team) -> PartedBatch:
    """Return what this process computes of a batch of these row numbers.

    A full batch has equal parts. A last, shorter one has parts that differ by a row, so that every
    row counts once and as much as the others; parts keep two rows where those of a full batch have
    two, since batch norm cannot train on one.
    """
    sizes = part_sizes(len(index), parts, min(2, batch_size // parts))
    pieces = np.split(index, np.cumsum(sizes)[:-1])
    each = parts // team.size
    own = range(team.rank * each, (team.rank + 1) * each)
    return PartedBatch(
        len(index), tuple(PartRows(k, pieces[k], len(pieces[k]) / len(index)) for k in own)
    )


# ---------------------------------------------------------------- sums in a fixed order


class TreeSum:
    """Sum of 2^n vectors, given one after the other, in a binary tree; keeps n + 1 of them."""

    def __init__(self) -> None:
        self._branches: list[tuple[int, Tensor]] = []  # (height, sum), the highest first

    def add(self, vector: Tensor) -> None:
        """Add the next leaf, which is written to."""
        height = 0
        while self._branches and self._branches[-1][0] == height:
            vector = self._branches.pop()[1].add_(vector)
            height += 1
        self._branches.append((height, vector))

    @property
    def total(self) -> Tensor:
        """Return the sum. Raises ValueError unless 2^n vectors were added."""
        if len(self._branches) != 1:
            raise ValueError("the vectors added are not 2, 4, 8, …")
        return self._branches[0][1]


def tree_sum(vectors: Sequence[Tensor]) -> Tensor:
    """Return the sum of 2^n vectors as `TreeSum`; they are written to."""
    tree = TreeSum()
    for vector in vectors:
        tree.add(vector)
    return tree.total


# ---------------------------------------------------------------- a step


PartLoss = Callable[[PartRows], tuple[Tensor, Tensor]]  # mean loss of a part, its correct rows


class Replicas:
    """Parts of every batch of a training, and the processes that share them.

    The vector of a part is: gradients of what learns, running statistics of batch norm and the
    loss, each times the part's share of the rows; the number of correct rows; 1 for each parameter
    that has a gradient.
    """

    def __init__(self, recipe: Recipe, team: Team):
        self.parts, self.batch_size, self.team = recipe.replicas, recipe.batch_size, team
        self.fast = recipe.fast_sum
        self.learning: list[nn.Parameter] = []
        self.norms: list[_NormBase] = []
        self.statistics: list[Tensor] = []
        self.has_gradient: list[bool] | None = None  # by parameter, once it is known
        self.fixed: dict[str, Tensor] = {}  # buffers that no part may change

    def record(self) -> dict[str, object]:
        """Return what a result says of the parts, and of the bits."""
        if not self.fast:
            return {"parts": self.parts, "sum": "fixed tree"}
        how = f"in any order, by {self.team.size} processes: not repeatable to the bit"
        return {"parts": self.parts, "sum": how}

    def batches(self, rows: Batches, order: np.ndarray, *, pairs: bool) -> Iterator[PartedBatch]:
        """Iterate over the batches of an epoch: what this process computes of them."""
        for start, end in spans(len(rows), self.batch_size, pairs=pairs):
            yield cut(order[start:end], self.parts, self.batch_size, self.team)

    def enter(self, network: nn.Module) -> None:
        """Begin an epoch of a network in training mode, once all processes have come here.

        Raises IntegrityError if their networks differ.
        """
        self.learning = [p for p in network.parameters() if p.requires_grad]
        self.norms = [
            module
            for module in network.modules()
            if isinstance(module, _NormBase)
            and module.training
            and module.track_running_stats
            and module.running_mean is not None
        ]
        self.statistics = [
            buffer
            for norm in self.norms
            for buffer in (norm.running_mean, norm.running_var)
            if buffer is not None
        ]
        self.has_gradient = None
        self.fixed = _other_buffers(network, self.statistics)
        self.team.meet()
        sums = [int(value) for value in self.team.gather(checksum(network.state_dict()))]
        if len(set(sums)) > 1:
            raise IntegrityError(
                "replicas-differ",
                f"the {self.team.size} processes of the trial have different weights",
                expected="GPUs, or CPUs, of one kind",
                remedy="run the same command again with --replica-processes 1",
            )

    def step(self, batch: PartedBatch, part_loss: PartLoss) -> tuple[Tensor, Tensor]:
        """Set the gradients and the running statistics of a batch.

        Returns its mean loss and its number of correct rows, on the device. The gradients must be
        None before. Every process returns the same.
        """
        before = [buffer.clone() for buffer in self.statistics]
        counts = [
            norm.num_batches_tracked.clone()
            for norm in self.norms
            if norm.num_batches_tracked is not None
        ]
        fixed = {}
        if self.has_gradient is None:  # the first step of an epoch
            fixed = {name: buffer.clone() for name, buffer in self.fixed.items()}
        tree = TreeSum()
        for part in batch.parts:
            tree.add(self._part(part, part_loss))
            self._restore(before, counts)
        for name, buffer in fixed.items():
            if not torch.equal(buffer, self.fixed[name]):
                raise ResourceError(
                    "replicas",
                    f"the network changes its buffer {name} in every batch, in a way that parts of "
                    "a batch cannot be combined in",
                    expected="no state but the running statistics of batch norm",
                    remedy="leave out --replicas",
                )
        return self._apply(self._over_processes(tree.total), counts)

    @torch.no_grad()
    def _restore(self, before: list[Tensor], counts: list[Tensor]) -> None:
        """Set the statistics that a part begins with: those before the batch."""
        for buffer, value in zip(self.statistics, before, strict=True):
            buffer.copy_(value)
        for count, value in zip(self._counts(), counts, strict=True):
            count.copy_(value)

    def _counts(self) -> list[Tensor]:
        return [n.num_batches_tracked for n in self.norms if n.num_batches_tracked is not None]

    def _part(self, part: PartRows, part_loss: PartLoss) -> Tensor:
        """Return the vector of a part, and remove its gradients."""
        if not len(part.rows):
            return self._nothing()
        loss, correct = part_loss(part)
        (loss * part.share).backward()
        with torch.no_grad():
            vectors, flags = [], []
            for parameter in self.learning:
                gradient = parameter.grad
                flags.append(0.0 if gradient is None else 1.0)
                value = torch.zeros_like(parameter) if gradient is None else gradient
                vectors.append(value.reshape(-1))
                parameter.grad = None
            vectors += [buffer.reshape(-1) * part.share for buffer in self.statistics]
            vectors.append((loss.detach() * part.share).reshape(1))
            vectors.append(correct.to(loss.dtype).reshape(1))
            vectors.append(torch.tensor(flags, device=loss.device))
            return torch.cat(vectors)

    def _nothing(self) -> Tensor:
        sizes = [t.numel() for t in (*self.learning, *self.statistics)]
        device = self.learning[0].device
        return torch.zeros(sum(sizes) + 2 + len(self.learning), device=device)

    def _over_processes(self, own: Tensor) -> Tensor:
        """Return the sum of the vectors of all processes."""
        if self.team.size == 1:
            return own
        if self.fast:
            return self.team.add_up(own)
        for begin in range(0, len(own), BUCKET):
            piece = own[begin : begin + BUCKET]
            piece.copy_(tree_sum(self.team.gather(piece)))
        return own

    @torch.no_grad()
    def _apply(self, vector: Tensor, counts: list[Tensor]) -> tuple[Tensor, Tensor]:
        sizes = [t.numel() for t in (*self.learning, *self.statistics)]
        *pieces, loss, correct, flags = vector.split([*sizes, 1, 1, len(self.learning)])
        if self.has_gradient is None:  # the same in every step; on a GPU looking would wait for it
            self.has_gradient = (flags > 0).tolist()
        gradients, statistics = pieces[: len(self.learning)], pieces[len(self.learning) :]
        for parameter, value, has_gradient in zip(
            self.learning, gradients, self.has_gradient, strict=True
        ):
            if has_gradient:
                parameter.grad = torch.empty_like(parameter).copy_(value.view(parameter.shape))
        for buffer, value in zip(self.statistics, statistics, strict=True):
            buffer.copy_(value.view(buffer.shape))
        for count, value in zip(self._counts(), counts, strict=True):
            count.copy_(value + 1)  # once a batch, not once a part
        return loss[0], correct[0]


def _other_buffers(network: nn.Module, statistics: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the buffers of numbers that are no statistics of a normalisation that learns."""
    known = {id(buffer) for buffer in statistics}
    return {
        name: buffer
        for name, buffer in network.named_buffers()
        if buffer.is_floating_point() and id(buffer) not in known
    }


def checksum(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return (1,) int64 that differs, but by chance, where any bit of the tensors does."""
    total = torch.zeros(1, dtype=torch.int64)
    for position, tensor in enumerate(tensors.values()):
        held = tensor.detach().contiguous()
        bits = held.view(torch.int32) if held.dtype == torch.float32 else held
        if not bits.is_floating_point():
            total = total.to(bits.device) + bits.sum(dtype=torch.int64) * (2 * position + 1)
    return total


# ---------------------------------------------------------------- the processes of a trial


def process_count(recipe: Recipe, device: str) -> int:
    """Return how many processes share the parts: as the recipe says, else by the visible GPUs."""
    if recipe.replica_processes is not None:
        return recipe.replica_processes
    if recipe.replicas == 1 or device != "cuda":
        return 1
    gpus = torch.cuda.device_count()
    return max(
        size for size in (1, 2, 4, 8) if recipe.replicas % size == 0 and size <= max(1, gpus)
    )


@contextlib.contextmanager
def team(
    recipe: Recipe, device: str, recruit: Recruit[JobT] | None, job: Callable[[], JobT]
) -> Iterator[Team | None]:
    """Give the processes of a training inside the block; None where batches are not cut.

    recruit  starts the others; None: this is no process of a trial, so nothing can be started
    job      what the others follow, asked for only if there are any
    """
    if recipe.replicas == 1:
        yield None
        return
    size = process_count(recipe, device)
    if recruit is None and recipe.replica_processes is None:
        size = 1
    if recipe.fast_sum and (size == 1 or device == "cpu"):
        raise ResourceError(
            "no-effect",
            f"--fast-sum with {counted(size, 'process', 'processes')} on {device}",
            expected="several GPUs in a trial, whose sums it makes faster",
            remedy="leave out --fast-sum",
        )
    if size == 1:
        yield Alone()
    elif recruit is None:
        raise UsageError(
            "replicas",
            f"--replica-processes {size} in a process that is not a trial's own",
            remedy="use --workers 1, or --replica-processes 1",
        )
    else:
        with recruit(job(), size) as members:
            yield members
