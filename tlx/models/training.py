"""Training loop: fine-tune on a finite set of rows, stop early, keep the best weights.

Bit-repeatable on a CPU at a fixed thread count, also when killed and resumed: every epoch draws its
shuffle and dropout from its own named streams, and each epoch's end is saved durably.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..errors import Stopped
from ..spec import derive_seed
from . import freezing, lone_rows, progress
from .frozen_prefix import choice as prefix
from .frozen_prefix.cache import arithmetic
from .network import Network
from .optimizers import OPTIMIZERS, clip_each, rate_factor
from .recipe import Recipe
from .samples import Batches, BatchLoader, Samples
from .stopping import STOPPING

EVALUATION_BATCH = 256  # rows a forward pass; part of the arithmetic, so not an option


@dataclass(frozen=True)
class TrainingContext:
    """Device, folder and callbacks of a fit; nothing here changes the result."""

    device: str = "cpu"
    checkpoint: Path | None = None  # a file: continued from if whole, saved to every epoch
    on_epoch: Callable[[int, dict[str, float]], None] = lambda epoch, values: (
        None
    )  # restored epochs are reported again
    on_batch: Callable[[int, int], None] = lambda done, of: None  # within an epoch
    stopping: Callable[[], bool] = lambda: False
    prefix_bytes: int = (
        prefix.LIMIT_BYTES
    )  # of what a frozen prefix gives, kept in memory or next to the checkpoint
    on_choice: Callable[[prefix.CacheDecision], None] = lambda choice: (
        None
    )  # whether that is kept, and why
    moments: frozenset[int] = (
        frozenset()
    )  # steps done (0: before the first) after which `on_moment` sees the network
    on_moment: Callable[[int, nn.Module], None] = lambda step, network: None


@dataclass
class TrainingOutcome:
    """Result of a training: values per epoch, best epoch, why it ended, frozen-prefix decisions."""

    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = -1
    ended: str = ""  # "epochs", "early stopping" or "diverged"
    prefixes: list[prefix.CacheDecision] = field(
        default_factory=list
    )  # of the stages that this process has run


Score = Callable[
    [np.ndarray, np.ndarray, int], float
]  # logits (n·c, k), labels (n,), crops → accuracy, a fraction


class Diverged(Exception):
    """Loss, weight or logit that is no longer a finite number."""


def fit(
    network: Network,
    train: Samples,
    val: Samples,
    recipe: Recipe,
    *,
    seed: int,
    score: Score,
    frozen: Any = None,
    place: TrainingContext = TrainingContext(),
) -> TrainingOutcome:
    """Train `network` on `train`, selecting the epoch by accuracy on `val`.

    Afterwards the best weights are loaded.

    score   accuracy from the logits of all rows: mean per-class accuracy of the crops' votes, as a
            rule
    frozen  what is held still: module names instead of recipe.freeze blocks (the seeds'
            configurations)
    """
    return _Training(network, train, val, recipe, seed, score, frozen, place).run()


def predict(
    network: Network, samples: Samples, recipe: Recipe, place: TrainingContext = TrainingContext()
) -> np.ndarray:
    """Compute logits (n·c, k) float32 of every row in evaluation mode, batch by batch."""
    return _logits(network, _feed(network, samples, recipe, place), recipe, place)


def _feed(
    network: Network, samples: Samples, recipe: Recipe, place: TrainingContext
) -> BatchLoader:
    return BatchLoader(
        samples, network.mean, network.std, place.device, contiguous=not recipe.channels_last
    )


class _Training:
    """The state of one training between its epochs."""

    def __init__(
        self,
        network: Network,
        train: Samples,
        val: Samples,
        recipe: Recipe,
        seed: int,
        score: Score,
        frozen: int | Sequence[str] | None,
        place: TrainingContext,
    ):
        memory = torch.channels_last if recipe.channels_last else torch.preserve_format
        self.network: Network = network.to(place.device)
        self.network.to(memory_format=memory)
        self.recipe, self.seed, self.score, self.place = recipe, seed, score, place
        self.val, self.feeds = (
            val,
            (_feed(network, train, recipe, place), _feed(network, val, recipe, place)),
        )
        self.train_rows: Batches
        self.val_rows: Batches
        self.train_rows, self.val_rows = self.feeds
        self.stage = -1  # 0: only the head learns, 1: all that is not frozen
        self.frozen = recipe.freeze if frozen is None else frozen
        freezing.freeze(network, self.frozen, bn=recipe.bn)
        self.pairs = lone_rows.must_be_avoided(network, len(self.train_rows), recipe.batch_size)
        self.learning: list[Tensor] = []  # parameters, set on entering an epoch
        self.changing = {name for name, p in network.named_parameters() if p.requires_grad}
        self.changing |= {name for name, _ in network.named_buffers()}
        self.optimizer = OPTIMIZERS[recipe.optimizer](
            freezing.parameter_groups(network, recipe.learning_rate, recipe.layer_decay), recipe
        )
        for group in self.optimizer.param_groups:
            group.setdefault("base_lr", group["lr"])
        average = get_ema_multi_avg_fn(recipe.ema)
        self.average = (
            AveragedModel(network, multi_avg_fn=average, use_buffers=True) if recipe.ema else None
        )
        self.steps = -(-len(self.train_rows) // recipe.batch_size)
        self.outcome = TrainingOutcome()
        self.best: dict[str, Tensor] = {}

    # ------------------------------------------------------------ the course of things

    def run(self) -> TrainingOutcome:
        self._continue()
        history = self.outcome.history
        if not history and 0 in self.place.moments:
            self.place.on_moment(0, self._scored())
        try:
            while len(history) < self.recipe.epochs and not self._should_stop():
                values = self._epoch(len(history))
                history.append(values)
                self._keep_best()
                self.place.on_epoch(len(history) - 1, values)
                self._save()
        except Diverged:
            self.outcome.ended = "diverged"
            return self.outcome
        self.outcome.ended = "epochs" if len(history) >= self.recipe.epochs else "early stopping"
        self._load(self.network, self.best)
        return self.outcome

    def _should_stop(self) -> bool:
        history = self.outcome.history
        return (
            self.recipe.early_stopping
            and len(history) > self.recipe.head_epochs
            and STOPPING[self.recipe.stopping].over(history)
        )

    def _keep_best(self) -> None:
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

    def _epoch(self, epoch: int) -> dict[str, float]:
        started = time.perf_counter()
        self._enter(epoch)
        torch.manual_seed(derive_seed(self.seed, "dropout", epoch))
        order = np.random.default_rng(derive_seed(self.seed, "shuffle", epoch)).permutation(
            len(self.train_rows)
        )
        loss_sum = torch.zeros((), device=self.place.device, dtype=torch.float64)
        correct = torch.zeros((), device=self.place.device, dtype=torch.int64)
        for step, (x, y) in enumerate(
            self.train_rows.batches(self.recipe.batch_size, order, pairs=self.pairs)
        ):
            if self.place.stopping():
                raise Stopped(15)
            loss, right = self._step(x, y, epoch * self.steps + step)
            loss_sum += loss.double() * len(y)
            correct += right
            self.place.on_batch(step + 1, self.steps)
            if (done := epoch * self.steps + step + 1) in self.place.moments:
                self.place.on_moment(done, self._scored())
        self._refuse_not_finite()
        trained = time.perf_counter()
        logits = _logits(self._scored(), self.val_rows, self.recipe, self.place)
        rows = len(self.train_rows)
        return {
            "train_loss": float(loss_sum) / rows,
            "train_accuracy": float(correct) / rows,
            "train_epoch_s": trained - started,
            "val_loss": cross_entropy(logits, self.val.row_labels),
            "val_accuracy": self.score(logits, self.val.labels, self.val.crops),
            "val_epoch_s": time.perf_counter() - trained,
        }

    def _enter(self, epoch: int) -> None:
        head_only = epoch < self.recipe.head_epochs
        freezing.freeze(
            self.network,
            len(self.network.blocks) if head_only else self.frozen,
            bn="frozen" if head_only else self.recipe.bn,
        ).train()
        self.learning = [p for p in self.network.parameters() if p.requires_grad]
        if self.stage != int(not head_only):
            self.stage = int(not head_only)
            self._choose_rows(
                (self.recipe.head_epochs if head_only else self.recipe.epochs) - epoch
            )

    def _choose_rows(self, epochs: int) -> None:
        """Read the cached outputs of the frozen prefix from now on, if there is one."""
        self.train_rows, self.val_rows = self.feeds  # what was kept for an earlier stage is let go
        if self.recipe.early_stopping and self.stage:
            epochs = min(epochs, STOPPING[self.recipe.stopping].least)
        checkpoint = self.place.checkpoint
        self.train_rows, self.val_rows, choice = prefix.choose(
            self.network,
            *self.feeds,
            prefix.CacheRequest(
                batch_size=self.recipe.batch_size,
                score_batch=EVALUATION_BATCH,
                epochs=epochs,
                bfloat16=self.recipe.precision == "bfloat16",
                limit=self.place.prefix_bytes,
                folder=checkpoint.parent if checkpoint is not None else None,
                stopping=self.place.stopping,
            ),
        )
        if choice is not None:
            self.outcome.prefixes.append(choice)
            self.place.on_choice(choice)

    def _step(self, x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
        factor = rate_factor(
            self.recipe.schedule,
            step,
            round(self.recipe.warmup_epochs * self.steps),
            self.recipe.epochs * self.steps,
            self.recipe.rate_decay,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        logits = _forward(self.network, self.train_rows, x, self.recipe)
        loss = nn.functional.cross_entropy(logits, y, label_smoothing=self.recipe.label_smoothing)
        if not x.is_cuda and not torch.isfinite(
            loss
        ):  # on a GPU this would wait for it; the epoch's end looks too
            raise Diverged
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clip_each(self.learning, self.recipe.clip_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return loss.detach(), (logits.detach().argmax(1) == y).sum()

    def _scored(self) -> nn.Module:
        return self.network if self.average is None else self.average.module

    @torch.no_grad()
    def _refuse_not_finite(self) -> None:
        sums = torch.stack([p.detach().float().sum() for p in self.learning])
        if not bool(torch.isfinite(sums).all()):
            raise Diverged

    # ------------------------------------------------------------ saved and continued

    def _save(self) -> None:
        if self.place.checkpoint is None:
            return
        tensors = {
            f"network/{name}": value
            for name, value in self.network.state_dict().items()
            if name in self.changing
        }
        tensors |= {f"best/{name}": value for name, value in self.best.items()}
        tensors |= {
            f"optimizer/{i}/{name}": value
            for i, state in self.optimizer.state_dict()["state"].items()
            for name, value in state.items()
            if isinstance(value, Tensor)
        }
        if self.average is not None:
            tensors |= {
                f"average/{name}": value for name, value in self.average.state_dict().items()
            }
        progress.save(
            self.place.checkpoint,
            tensors,
            {"history": self.outcome.history, "best_epoch": self.outcome.best_epoch},
        )

    def _continue(self) -> None:
        saved = progress.load(self.place.checkpoint) if self.place.checkpoint is not None else None
        if saved is None:
            return
        tensors, state = saved
        self.outcome.history, self.outcome.best_epoch = state["history"], state["best_epoch"]
        self._load(self.network, _under("network/", tensors))
        self.best = {
            name: value.to(self.place.device) for name, value in _under("best/", tensors).items()
        }
        if self.average is not None:
            self._load(self.average, _under("average/", tensors))
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for path, value in _under("optimizer/", tensors).items():
            i, name = path.split("/")
            like = parameters[int(i)]
            self.optimizer.state[like][name] = (
                torch.empty_like(like).copy_(value) if value.shape == like.shape else value
            )
        for epoch, values in enumerate(
            self.outcome.history
        ):  # what the journal has already, it leaves as it is
            self.place.on_epoch(epoch, values)

    @staticmethod
    @torch.no_grad()
    def _load(module: nn.Module, tensors: dict[str, Tensor]) -> None:
        state = module.state_dict()
        for name, value in tensors.items():
            state[name].copy_(value)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


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
    logits = torch.cat(parts).cpu().numpy()
    if not np.isfinite(logits).all():
        raise Diverged
    return logits


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
