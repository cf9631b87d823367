"""Loop of every training: epochs of shuffled steps, the state saved durably between them.

What is trained, a step and the values of an epoch belong to a subclass: fine-tuning (training.py)
and QUANTA (quanta/training.py). Bit-repeatable on a CPU at a fixed thread count, also when killed
and resumed: every epoch draws its shuffle and dropout from its own named streams.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import Stopped
from ..spec import derive_seed
from . import progress
from .frozen_prefix import choice as prefix
from .replicas import Recruit

EVALUATION_BATCH = 256  # rows a forward pass; part of the arithmetic, so not an option


@dataclass(frozen=True)
class TrainingContext:
    """Device, folder and callbacks of a fit; nothing here changes the result.

    checkpoint    a file: continued from if whole; saved to after an epoch, as often as pays
    on_epoch      (epoch, values); restored epochs are reported again
    on_batch      (batches done, batches in the epoch)
    prefix_bytes  of what a frozen prefix gives, kept in memory or next to the checkpoint
    on_choice     whether that is kept, and why
    shared        folder in which it is kept for the other trainings of a study, of scored rows
    usage, inherit  see `CacheRequest`
    moments       steps done (0: before the first) after which `on_moment` sees the network
    recruit       starts the other processes of a training whose batches are cut; None: nothing can
    """

    device: str = "cpu"
    checkpoint: Path | None = None
    on_epoch: Callable[[int, dict[str, float]], None] = lambda epoch, values: None
    on_batch: Callable[[int, int], None] = lambda done, of: None
    stopping: Callable[[], bool] = lambda: False
    prefix_bytes: int = prefix.LIMIT_BYTES
    on_choice: Callable[[prefix.CacheDecision], None] = lambda choice: None
    shared: Path | None = None
    usage: Callable[[], dict[str, float]] = dict
    inherit: Callable[[dict[str, float]], None] = lambda usage: None
    moments: frozenset[int] = frozenset()
    on_moment: Callable[[int, nn.Module], None] = lambda step, network: None
    recruit: Recruit[Any] | None = None


@dataclass
class LoopOutcome:
    """Values per epoch, and why the training ended."""

    history: list[dict[str, float]] = field(default_factory=list)
    ended: str = ""  # "epochs", "early stopping" or "diverged"


class Diverged(Exception):  # noqa: N818 — an outcome of a training, recorded as such
    """Loss, weight or logit that is no longer a finite number."""


SAVE_SHARE = 0.05  # of the time of a training, spent on saving its state

OutcomeT = TypeVar("OutcomeT", bound=LoopOutcome)
BatchT = TypeVar("BatchT")  # what one step is made from


class TrainingLoop(ABC, Generic[OutcomeT, BatchT]):
    """State of one training between its epochs.

    A subclass sets `optimizer` and `steps` (of an epoch), and defines the abstract methods.
    """

    optimizer: torch.optim.Optimizer
    steps: int

    def __init__(self, outcome: OutcomeT, epochs: int, seed: int, place: TrainingContext):
        self.outcome, self.epochs, self.seed, self.place = outcome, epochs, seed, place
        self._next_save = 0.0  # when saving the state is worth its time again, see `_save`
        self._is_saved = True  # as it is now

    # ------------------------------------------------------------ what differs

    @abstractmethod
    def _rows(self) -> int:
        """Return the number of rows of an epoch."""

    @abstractmethod
    def _enter(self, epoch: int) -> None:
        """Prepare the networks for the steps of an epoch."""

    @abstractmethod
    def _batches(self, order: np.ndarray) -> Iterable[BatchT]:
        """Return what each step is made from, the rows in this order."""

    @abstractmethod
    def _step(self, batch: BatchT, epoch: int, step: int) -> None:
        """Take one step and keep what the values of the epoch need of it."""

    @abstractmethod
    def _train_values(self, order: np.ndarray) -> dict[str, float]:
        """Return the values of the training rows, from the steps of this epoch."""

    @abstractmethod
    def _held_out_values(self) -> dict[str, float]:
        """Return the values of the other rows, by the network as it is now."""

    @abstractmethod
    def _tensors(self) -> dict[str, Tensor]:
        """Return what is saved beside the optimizer's state."""

    @abstractmethod
    def _record(self) -> dict[str, Any]:
        """Return what is saved beside the tensors, as plain JSON."""

    @abstractmethod
    def _restore(self, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
        """Set what `_tensors` and `_record` gave."""

    def _begin(self) -> None:
        """Do what comes before the first epoch, or after continuing."""

    def _should_stop(self) -> bool:
        """Return whether the training ends before its last epoch."""
        return False

    def _after_step(self, done: int) -> None:
        """See the network after so many steps in all."""

    def _after_steps(self) -> None:
        """Check the network after the steps of an epoch."""

    def _after_epoch(self, values: dict[str, float]) -> None:
        """Add the values of an epoch to the history, and keep what goes with them."""
        self.outcome.history.append(values)

    def _reported(self, epoch: int, values: dict[str, float]) -> dict[str, float]:
        """Return what is reported of an epoch."""
        return values

    def _finish(self) -> None:
        """Do what comes after the last epoch, unless the training diverged."""

    # ------------------------------------------------------------ the course of things

    def run(self) -> OutcomeT:
        """Train to the end, from where the checkpoint left off."""
        self._continue()
        history = self.outcome.history
        try:
            self._begin()
            while len(history) < self.epochs and not self._should_stop():
                values = self._epoch(len(history))
                self._after_epoch(values)
                epoch = len(history) - 1
                self.place.on_epoch(epoch, self._reported(epoch, values))
                self._is_saved = False
                self._save()
            if not self._is_saved:
                self._write_state()
        except Diverged:
            self.outcome.ended = "diverged"
            return self.outcome
        self.outcome.ended = "epochs" if len(history) >= self.epochs else "early stopping"
        self._finish()
        return self.outcome

    def _epoch(self, epoch: int) -> dict[str, float]:
        started = time.perf_counter()
        self._enter(epoch)
        torch.manual_seed(derive_seed(self.seed, "dropout", epoch))
        generator = np.random.default_rng(derive_seed(self.seed, "shuffle", epoch))
        order = generator.permutation(self._rows())
        for step, batch in enumerate(self._batches(order)):
            if self.place.stopping():
                raise Stopped(15)
            self._step(batch, epoch, step)
            self.place.on_batch(step + 1, self.steps)
            self._after_step(epoch * self.steps + step + 1)
        self._after_steps()
        trained = time.perf_counter()
        values = self._train_values(order)
        values["train_epoch_s"] = trained - started
        values |= self._held_out_values()
        values["val_epoch_s"] = time.perf_counter() - trained
        return values

    def _descend(self, loss: Tensor, clip: Callable[[], None] = lambda: None) -> None:
        """Take a step of the optimizer; raise Diverged where the loss is not finite."""
        refuse_infinite(loss)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clip()
        self.optimizer.step()

    # ------------------------------------------------------------ saved and continued

    def _save(self) -> None:
        """Save the state after an epoch, unless that would take too much of the time.

        A training that is killed repeats what it did since, to the same bits.
        """
        started = time.perf_counter()
        if started < self._next_save and not self.place.stopping():
            return
        self._write_state()
        ended = time.perf_counter()
        self._next_save = ended + (ended - started) / SAVE_SHARE

    def _write_state(self) -> None:
        self._is_saved = True
        if self.place.checkpoint is None:
            return
        tensors = self._tensors()
        for i, state in self.optimizer.state_dict()["state"].items():
            for name, value in state.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer/{i}/{name}"] = value
        progress.save(self.place.checkpoint, tensors, self._record())

    def _continue(self) -> None:
        saved = progress.load(self.place.checkpoint) if self.place.checkpoint is not None else None
        if saved is None:
            return
        tensors, record = saved
        self.outcome.history = record["history"]
        self._restore(tensors, record)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for path, value in under("optimizer/", tensors).items():
            i, name = path.split("/")
            like = parameters[int(i)]
            self.optimizer.state[like][name] = (
                torch.empty_like(like).copy_(value) if value.shape == like.shape else value
            )
        # what the journal has already, it leaves as it is
        for epoch, values in enumerate(self.outcome.history):
            self.place.on_epoch(epoch, self._reported(epoch, values))


def refuse_infinite(loss: Tensor) -> None:
    """Raise Diverged where a loss on the CPU is not finite.

    On a GPU looking at the loss would wait for it; the end of the epoch looks too.
    """
    if not loss.is_cuda and not torch.isfinite(loss):
        raise Diverged


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin so, without that beginning."""
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


@torch.no_grad()
def load_into(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy the tensors into the state of a module, which has them all."""
    state = module.state_dict()
    for name, value in tensors.items():
        state[name].copy_(value)


def finite_logits(parts: Sequence[Tensor]) -> np.ndarray:
    """Return the logits of all batches, (n, k) float32; raise Diverged unless all are finite."""
    logits = torch.cat(list(parts)).cpu().numpy()
    if not np.isfinite(logits).all():
        raise Diverged
    return logits
