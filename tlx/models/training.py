"""Fine-tuning: train on a finite set of rows, stop early, keep the best weights.

The loop itself, which repeats to the bit, is in training_loop.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..errors import Stopped
from ..spec import derive_seed
from . import freezing, lone_rows, masks, tuned_parts
from .augments import augmented
from .frozen_prefix import choice as prefix
from .frozen_prefix.cache import arithmetic
from .network import Network
from .optimizers import OPTIMIZERS, clip_each, rate_factor
from .recipe import Recipe
from .replicas import PartedBatch, PartRows, Replicas, Team, team
from .samples import Batches, BatchLoader, Samples
from .stopping import STOPPING
from .training_loop import (
    EVALUATION_BATCH,
    Diverged,
    LoopOutcome,
    TrainingContext,
    TrainingLoop,
    finite_logits,
    load_into,
    refuse_infinite,
    under,
)
from .tune_choices import Tune, TuneAll

__all__ = [
    "EVALUATION_BATCH",
    "STOPPING",
    "Diverged",
    "TrainingContext",
    "TrainingOutcome",
    "cross_entropy",
    "deterministic",
    "fit",
    "predict",
]


@dataclass
class TrainingOutcome(LoopOutcome):
    """Result of a training: values per epoch, best epoch, why it ended, frozen-prefix decisions.

    trainable_parameters  that learnt in the last phase
    merged_values         validation values of the network after adapters were merged into it, whose
                          last bits are others than before; None: there were none
    replicas      parts of every batch and how they were summed; None: batches were whole
    """

    best_epoch: int = -1
    trainable_parameters: int = 0
    merged_values: dict[str, float] | None = None
    prefixes: list[prefix.CacheDecision] = field(
        default_factory=list
    )  # of the stages that this process has run
    replicas: dict[str, object] | None = None


UNREPORTED = TrainingContext()  # on the CPU, nothing saved

Score = Callable[
    [np.ndarray, np.ndarray, int], float
]  # logits (n·c, k), labels (n,), crops → accuracy, a fraction


def fit(  # noqa: PLR0913 — what is trained on what, and by name how
    network: Network,
    train: Samples,
    val: Samples,
    recipe: Recipe,
    *,
    seed: int,
    score: Score,
    frozen: int | Sequence[str] | None = None,
    tune: Tune | None = None,
    place: TrainingContext = UNREPORTED,
) -> TrainingOutcome:
    """Train `network` on `train`, selecting the epoch by accuracy on `val`.

    Afterwards the best weights are loaded.

    score   accuracy from the logits of all rows: mean per-class accuracy of the crops' votes, as a
            rule
    frozen  what is held still: module names instead of recipe.freeze blocks (the seeds'
            configurations)
    tune    what learns of the rest; None: all of it
    """

    def job() -> FollowerJob:
        return FollowerJob(
            *(network, train, recipe, seed, frozen, tune, masks.enforced(network)),
            *(place.checkpoint, place.prefix_bytes, place.moments),
        )

    with team(recipe, place.device, place.recruit, job) as members:
        training = _Training(
            network,
            train,
            val,
            recipe,
            seed=seed,
            score=score,
            frozen=frozen,
            tune=tune,
            place=place,
            members=members,
        )
        outcome = training.run()
    training.merge()
    return outcome


@dataclass(frozen=True)
class FollowerJob:
    """What another process needs to share a training: as given to `fit`.

    masks       of pruned weights: a network that is sent has no hooks
    checkpoint  continued from if whole, never written
    """

    network: Network
    train: Samples
    recipe: Recipe
    seed: int
    frozen: int | Sequence[str] | None
    tune: Tune | None
    masks: dict[str, Tensor]
    checkpoint: Path | None
    prefix_bytes: int
    moments: frozenset[int]


def follow(job: FollowerJob, members: Team, device: str, stopping: Callable[[], bool]) -> None:
    """Compute the parts of this process in every step of a training that another one leads.

    It scores nothing and writes nothing; the values of each epoch come from the leader.
    """
    masks.enforce(job.network, job.masks)
    held_out = replace(job.train, images=job.train.images[:1], labels=job.train.labels[:1])
    training = _Training(
        job.network,
        job.train,
        held_out,  # never scored
        job.recipe,
        seed=job.seed,
        score=lambda logits, labels, crops: 0.0,
        frozen=job.frozen,
        tune=job.tune,
        place=TrainingContext(
            device,
            job.checkpoint,
            stopping=stopping,
            prefix_bytes=job.prefix_bytes,
            moments=job.moments,
        ),
        members=members,
    )
    training.run()


def predict(
    network: Network, samples: Samples, recipe: Recipe, place: TrainingContext = UNREPORTED
) -> np.ndarray:
    """Compute logits (n·c, k) float32 of every row in evaluation mode, batch by batch.

    What frozen blocks give is read from `place.shared` where another training has kept it there.
    """
    feed = _feed(network, samples, recipe, place)
    rows: Batches = feed
    if place.shared is not None:
        rows = prefix.shared_rows(
            network,
            feed,
            prefix.CacheRequest(
                batch_size=recipe.batch_size,
                score_batch=EVALUATION_BATCH,
                epochs=1,
                bfloat16=recipe.precision == "bfloat16",
                limit=place.prefix_bytes,
                stopping=place.stopping,
                shared=place.shared,
                usage=place.usage,
                inherit=place.inherit,
            ),
        )
    return _logits(network, rows, recipe, place)


def _feed(
    network: Network, samples: Samples, recipe: Recipe, place: TrainingContext
) -> BatchLoader:
    return BatchLoader(
        samples, network.mean, network.std, place.device, contiguous=not recipe.channels_last
    )


class _Training(TrainingLoop[TrainingOutcome, "tuple[Tensor, Tensor] | PartedBatch"]):
    """The state of one training between its epochs."""

    def __init__(  # noqa: PLR0913 — as `fit`
        self,
        network: Network,
        train: Samples,
        val: Samples,
        recipe: Recipe,
        *,
        seed: int,
        score: Score,
        frozen: int | Sequence[str] | None,
        tune: Tune | None = None,
        place: TrainingContext,
        members: Team | None = None,
    ):
        tune = TuneAll() if tune is None else tune
        super().__init__(TrainingOutcome(), recipe.epochs + tune.head_first, seed, place)
        self.head_epochs = tune.head_first or recipe.head_epochs
        self.first = tune.head_first  # epoch from which schedule and stopping count
        memory = torch.channels_last if recipe.channels_last else torch.preserve_format
        self.network: Network = network.to(place.device)
        self.network.to(memory_format=memory)
        self.recipe, self.score = recipe, score
        self.val, self.feeds = (
            val,
            (_feed(network, train, recipe, place), _feed(network, val, recipe, place)),
        )
        self.train_rows: Batches
        self.val_rows: Batches
        self.train_rows, self.val_rows = self.feeds
        self.stage = -1  # 0: only the head learns, 1: all that is not frozen
        self.frozen, self.tune = recipe.freeze if frozen is None else frozen, tune
        self._freeze(head_only=False)
        tuned_parts.attach(network, self.tune, seed)
        self._freeze(head_only=False)
        self.pairs = lone_rows.must_be_avoided(network, len(self.train_rows), recipe.batch_size)
        self.learning: list[Tensor] = []  # parameters, set on entering an epoch
        self.changing = {name for name, p in network.named_parameters() if p.requires_grad}
        self.changing |= {name for name, _ in network.named_buffers()}
        self.optimizer = OPTIMIZERS[recipe.optimizer](
            freezing.parameter_groups(
                network,
                recipe.learning_rate,
                recipe.layer_decay,
                classifier_rate=recipe.classifier_rate,
            ),
            recipe,
        )
        for group in self.optimizer.param_groups:
            group.setdefault("base_lr", group["lr"])
        self.average = self._averaged()
        self.steps = -(-len(self.train_rows) // recipe.batch_size)
        self.best: dict[str, Tensor] = {}
        self.replicas: Replicas | None = None
        if members is not None:
            lone_rows.refuse_lone_parts(network, recipe)
            self.replicas = Replicas(recipe, members)
            self.outcome.replicas = self.replicas.record()

    def _averaged(self) -> AveragedModel | None:
        if not self.recipe.ema:
            return None
        average = get_ema_multi_avg_fn(self.recipe.ema)
        return AveragedModel(self.network, multi_avg_fn=average, use_buffers=True)

    def _freeze(self, *, head_only: bool) -> None:
        """Freeze what this phase leaves as it is."""
        frozen = len(self.network.blocks) if head_only else self.frozen
        freezing.freeze(self.network, frozen, bn="frozen" if head_only else self.recipe.bn)
        tuned_parts.restrict(self.network, self.tune)

    # ------------------------------------------------------------ the course of things

    def _begin(self) -> None:
        if not self.outcome.history and 0 in self.place.moments:
            self.place.on_moment(0, self._scored())

    def _should_stop(self) -> bool:
        history = self.outcome.history
        return (
            self.recipe.early_stopping
            and len(history) > self.head_epochs
            and STOPPING[self.recipe.stopping].over(history[self.first :])
        )

    def _after_epoch(self, values: dict[str, float]) -> None:
        super()._after_epoch(values)
        accuracies = [values["val_accuracy"] for values in self.outcome.history]
        best = self.outcome.best_epoch
        if best < 0 or self.recipe.keep_epoch == "last" or accuracies[-1] > accuracies[best]:
            self.outcome.best_epoch = len(accuracies) - 1
            self.best = {
                name: value.clone()
                for name, value in self._scored().state_dict().items()
                if name in self.changing
            }

    # ------------------------------------------------------------ one epoch

    def _rows(self) -> int:
        return len(self.train_rows)

    def _batches(self, order: np.ndarray) -> Iterable[tuple[Tensor, Tensor] | PartedBatch]:
        if self.replicas is not None:
            return self.replicas.batches(self.train_rows, order, pairs=self.pairs)
        return self.train_rows.batches(self.recipe.batch_size, order, pairs=self.pairs)

    def _after_step(self, done: int) -> None:
        if done in self.place.moments:
            self.place.on_moment(done, self._scored())
            if self.replicas is not None:
                self.replicas.team.meet()  # the others must not wait for a step meanwhile

    def _train_values(self, order: np.ndarray) -> dict[str, float]:
        return {
            "train_loss": float(self.loss_sum) / len(order),
            "train_accuracy": float(self.correct) / len(order),
        }

    def _held_out_values(self) -> dict[str, float]:
        return self._val_values(self._scored()) if self._leads else {}

    def _epoch(self, epoch: int) -> dict[str, float]:
        values = super()._epoch(epoch)
        return values if self.replicas is None else self.replicas.team.agree(values)

    @property
    def _leads(self) -> bool:
        """Return whether this is the process that scores, saves and reports."""
        return self.replicas is None or self.replicas.team.rank == 0

    def _val_values(self, network: nn.Module) -> dict[str, float]:
        logits = _logits(network, self.val_rows, self.recipe, self.place)
        return {
            "val_loss": cross_entropy(logits, self.val.row_labels),
            "val_accuracy": self.score(logits, self.val.labels, self.val.crops),
        }

    def _enter(self, epoch: int) -> None:
        head_only = epoch < self.head_epochs
        if self.first and epoch == self.first:
            self._start_again()
        self._freeze(head_only=head_only)
        self.network.train()
        self.learning = [p for p in self.network.parameters() if p.requires_grad]
        self.loss_sum = torch.zeros((), device=self.place.device, dtype=torch.float64)
        self.correct = torch.zeros((), device=self.place.device, dtype=torch.int64)
        if self.stage != int(not head_only):
            self.stage = int(not head_only)
            self._choose_rows((self.head_epochs if head_only else self.epochs) - epoch)
        if self.replicas is not None:
            self.replicas.enter(self.network)

    def _start_again(self) -> None:
        """Begin the second phase at the best weights of the first, as if it were a training."""
        load_into(self.network, self.best)
        self.optimizer.state.clear()
        self.average = self._averaged()

    def _phase(self, epoch: int) -> tuple[int, int]:
        """Return (epoch, epochs) of the phase that the schedule counts in."""
        if epoch < self.first:
            return epoch, self.first
        return epoch - self.first, self.recipe.epochs

    def _choose_rows(self, epochs: int) -> None:
        """Read the cached outputs of the frozen prefix from now on, if there is one."""
        self.train_rows, self.val_rows = self.feeds  # what was kept for an earlier stage is let go
        if self.recipe.augment != "none":
            return  # rows change in every epoch: nothing behind a frozen prefix can be kept
        if self.recipe.early_stopping and self.stage:
            epochs = min(epochs, STOPPING[self.recipe.stopping].least)
        checkpoint = self.place.checkpoint
        self.train_rows, self.val_rows, choice = prefix.choose(
            self.network,
            *self.feeds,
            prefix.CacheRequest(
                batch_size=self.recipe.batch_size // self.recipe.replicas,
                score_batch=EVALUATION_BATCH,
                epochs=epochs,
                bfloat16=self.recipe.precision == "bfloat16",
                limit=self.place.prefix_bytes,
                folder=checkpoint.parent if checkpoint is not None else None,
                stopping=self.place.stopping,
                shared=self.place.shared,
                usage=self.place.usage,
                inherit=self.place.inherit,
            ),
        )
        if choice is not None:
            self.outcome.prefixes.append(choice)
            self.place.on_choice(choice)

    def _step(self, batch: tuple[Tensor, Tensor] | PartedBatch, epoch: int, step: int) -> None:
        if isinstance(batch, PartedBatch):
            self._set_rates(epoch, step)
            size = batch.size
            loss, correct = self._parted_step(batch, epoch, step)
        else:
            x, y = batch
            if self.recipe.augment != "none":
                seed = derive_seed(self.seed, "augment", epoch, step)
                x = augmented(x, self.recipe.augment, seed)
            self._set_rates(epoch, step)
            size = len(y)
            loss, correct = self._loss(x, y)
            self._descend(loss, self._clip)
        if self.average is not None:
            self.average.update_parameters(self.network)
        self.loss_sum += loss.detach().double() * size
        self.correct += correct

    def _parted_step(self, batch: PartedBatch, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Take a step from the parts of a batch, each with random numbers of its own."""
        assert self.replicas is not None

        def part_loss(part: PartRows) -> tuple[Tensor, Tensor]:
            x, y = self.train_rows.batch(part.rows)
            stream = (epoch, step, part.number)
            if self.recipe.augment != "none":
                x = augmented(x, self.recipe.augment, derive_seed(self.seed, "augment", *stream))
            torch.manual_seed(derive_seed(self.seed, "dropout", *stream))
            return self._loss(x, y)

        self.optimizer.zero_grad(set_to_none=True)
        loss, correct = self.replicas.step(batch, part_loss)
        refuse_infinite(loss)
        self._clip()
        self.optimizer.step()
        return loss, correct.long()

    def _loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss of rows, and how many of them are classified correctly."""
        logits = _forward(self.network, self.train_rows, x, self.recipe)
        loss = nn.functional.cross_entropy(logits, y, label_smoothing=self.recipe.label_smoothing)
        return loss, (logits.detach().argmax(1) == y).sum()

    def _clip(self) -> None:
        clip_each(self.learning, self.recipe.clip_norm)

    def _set_rates(self, epoch: int, step: int) -> None:
        epoch, epochs = self._phase(epoch)
        factor = rate_factor(
            self.recipe.schedule,
            epoch * self.steps + step,
            round(self.recipe.warmup_epochs * self.steps),
            epochs * self.steps,
            self.recipe.rate_decay,
            drop=(self.recipe.step_epochs * self.steps, self.recipe.step_factor),
        )
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor

    def _scored(self) -> nn.Module:
        return self.network if self.average is None else self.average.module

    @torch.no_grad()
    def _after_steps(self) -> None:
        sums = torch.stack([p.detach().float().sum() for p in self.learning])
        if not bool(torch.isfinite(sums).all()):
            raise Diverged

    # ------------------------------------------------------------ saved and continued

    def _save(self) -> None:
        if self._leads:
            super()._save()

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {
            f"network/{name}": value
            for name, value in self.network.state_dict().items()
            if name in self.changing
        }
        tensors |= {f"best/{name}": value for name, value in self.best.items()}
        if self.average is not None:
            tensors |= {
                f"average/{name}": value for name, value in self.average.state_dict().items()
            }
        return tensors

    def _record(self) -> dict[str, Any]:
        return {"history": self.outcome.history, "best_epoch": self.outcome.best_epoch}

    def _restore(self, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
        self.outcome.best_epoch = record["best_epoch"]
        load_into(self.network, under("network/", tensors))
        self.best = {
            name: value.to(self.place.device) for name, value in under("best/", tensors).items()
        }
        if self.average is not None:
            load_into(self.average, under("average/", tensors))

    def _finish(self) -> None:
        load_into(self.network, self.best)

    def merge(self) -> None:
        """Give the network its own layers after the training, and score it again if it changed."""
        learning = [p.numel() for p in self.network.parameters() if p.requires_grad]
        self.outcome.trainable_parameters = sum(learning)
        keep = self.outcome.ended != "diverged"
        if tuned_parts.merge(self.network, self.tune, keep=keep) and keep:
            self.outcome.merged_values = self._val_values(self.network)


def _forward(network: nn.Module, rows: Batches, x: Tensor, recipe: Recipe) -> Tensor:
    with arithmetic(rows.device, recipe.precision == "bfloat16"):
        return rows.logits(network, x).float()


@torch.no_grad()
def _logits(
    network: nn.Module, rows: Batches, recipe: Recipe, place: TrainingContext
) -> np.ndarray:
    network.eval()
    parts = []
    for x, _ in rows.batches(EVALUATION_BATCH):
        if place.stopping():
            raise Stopped(15)
        parts.append(_forward(network, rows, x, recipe))
    return finite_logits(parts)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Compute the mean over rows of −log softmax(logits)[label], in nats, float64.

    logits (r, k), labels (r,) int.
    """
    z = logits.astype(np.float64)
    z -= z.max(axis=1, keepdims=True)
    return float(np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), labels]))


def deterministic(threads: int) -> None:
    """Set this process to so many threads and to repeatable algorithms.

    Call before any tensor is created.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
