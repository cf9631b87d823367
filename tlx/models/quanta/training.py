"""Training of a gated target with a frozen source, as in the original: no epoch is selected.

Unlike fine-tuning each step has two branches, the rate falls with every step, and after every epoch
both validation and test images are scored and the gates written down. The loop itself is in
training_loop.py; numbers are the same to the bit whether or not the source's outputs are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import Stopped
from ...spec import derive_seed
from .. import lone_rows
from ..augments import augmented
from ..frozen_prefix.choice import CacheRequest
from ..network import Network
from ..samples import BatchLoader, Samples, spans
from ..training_loop import (
    EVALUATION_BATCH,
    LoopOutcome,
    TrainingContext,
    TrainingLoop,
    finite_logits,
    load_into,
    under,
)
from . import batches as quanta_batches
from .gate import FORMS, Gated, GateSource, QuantaGate
from .recipe import QuantaRecipe

Score = Callable[
    [np.ndarray, np.ndarray], dict[str, float]
]  # logits (n, k), labels (n,) → values of a part
EPSILON = 1e-7  # Adam's, in Keras


@dataclass
class QuantaOutcome(LoopOutcome):
    """Result of a training.

    history  values of every epoch: train_, val_ and test_ before the names that `score` gives
    gates    before the first epoch and after each: {"v": [[v_S, v_T], …], "rms": [[Z_S, Z_T], …]},
             gate by gate; rms
             are root mean squares over the validation images, what the gates are given in
             evaluation
    ended    "epochs" or "diverged"
    source   what was done about the source's outputs
    """

    gates: list[dict[str, list[list[float]]]] = field(default_factory=list)
    source: str = ""


@dataclass(frozen=True)
class Branches:
    """Source and target networks, and the modules of both that each gate connects."""

    target: Network
    source: Network | None = None
    target_modules: tuple[str, ...] = ()
    source_modules: tuple[str, ...] = ()


def fit(
    branches: Branches,
    parts: dict[str, Samples],
    recipe: QuantaRecipe,
    *,
    seed: int,
    score: Score,
    place: TrainingContext,
) -> QuantaOutcome:
    """Train the target (and the gates) on parts["train"].

    Scores "val" and, if given, "test" every epoch.
    """
    return _QuantaTraining(branches, parts, recipe, seed, score, place).run()


class _QuantaTraining(TrainingLoop[QuantaOutcome, np.ndarray]):
    """The state of one training between its epochs."""

    def __init__(
        self,
        branches: Branches,
        parts: dict[str, Samples],
        recipe: QuantaRecipe,
        seed: int,
        score: Score,
        place: TrainingContext,
    ):
        super().__init__(QuantaOutcome(), recipe.epochs, seed, place)
        self.recipe, self.score, self.parts = recipe, score, parts
        self.gated = Gated(
            branches.target,
            branches.target_modules,
            lambda: QuantaGate(recipe.quanta_form, recipe.start, multiplier=recipe.multiplier),
        ).to(place.device)
        self.source = None
        if branches.source is not None and branches.source_modules:
            self.source = GateSource(
                branches.source.to(place.device),
                branches.source_modules,
                dropout=recipe.source_dropout,
            )
        self.fixed = recipe.augment == "none" and not recipe.source_dropout
        target = branches.target
        feeds = [
            BatchLoader(samples, target.mean, target.std, place.device)
            for samples in parts.values()
        ]
        rows, choice = quanta_batches.rows(
            self.source,
            feeds,
            CacheRequest(
                batch_size=recipe.batch_size,
                score_batch=EVALUATION_BATCH,
                epochs=recipe.epochs,
                fixed=self.fixed,
                limit=place.prefix_bytes,
                folder=place.checkpoint.parent if place.checkpoint else None,
                stopping=place.stopping,
            ),
        )
        self.rows = dict(zip(parts, rows, strict=True))
        self.outcome.source = choice.reason
        pairs = lone_rows.must_be_avoided(target, len(self.rows["train"]), recipe.batch_size)
        self.spans = spans(len(self.rows["train"]), recipe.batch_size, pairs=pairs)
        self.steps = len(self.spans)
        own: dict[str, Any] = {} if recipe.gate_rate is None else {"rate": recipe.gate_rate}
        groups: list[dict[str, Any]] = [{"params": list(target.parameters())}]
        groups += (
            [{"params": list(self.gated.gates.parameters()), **own}]
            if len(self.gated.gates)
            else []
        )
        self.optimizer = torch.optim.AdamW(
            groups,
            lr=recipe.learning_rate,
            eps=EPSILON,
            weight_decay=recipe.weight_decay,
            foreach=True,
        )

    # ------------------------------------------------------------ one epoch

    def _begin(self) -> None:
        if not self.outcome.gates:
            self._logits("val")
            self._write_down()

    def _rows(self) -> int:
        return len(self.rows["train"])

    def _enter(self, epoch: int) -> None:
        self.gated.train()
        self.seen: list[Tensor] = []  # logits of the training images, in the order of the epoch

    def _batches(self, order: np.ndarray) -> Iterable[np.ndarray]:
        return (order[start:end] for start, end in self.spans)

    def _step(self, batch: np.ndarray, epoch: int, step: int) -> None:
        for group in self.optimizer.param_groups:
            rate = group.get("rate", self.recipe.learning_rate)
            group["lr"] = rate / (1 + self.recipe.rate_decay * (epoch * self.steps + step))
        x, given, y = self._batch(batch, epoch, step)
        logits = self.gated(x, given).float()
        self._descend(nn.functional.cross_entropy(logits, y))
        self.seen.append(logits.detach())

    def _train_values(self, order: np.ndarray) -> dict[str, float]:
        return self._scored("train", finite_logits(self.seen), self.parts["train"].labels[order])

    def _held_out_values(self) -> dict[str, float]:
        values: dict[str, float] = {}
        for part in self.rows:
            if part != "train":
                values |= self._scored(part, self._logits(part), self.parts[part].labels)
        return values

    def _after_epoch(self, values: dict[str, float]) -> None:
        super()._after_epoch(
            {name: value for name, value in values.items() if not name.endswith("_s")}
        )
        self._write_down()

    def _reported(self, epoch: int, values: dict[str, float]) -> dict[str, float]:
        return values | self._gate_values(epoch + 1)

    def _batch(self, index: np.ndarray, epoch: int, step: int) -> quanta_batches.Batch:
        if self.fixed:
            return self.rows["train"].batch(index)
        if self.source is not None:
            self.source.training = True
        return self.rows["train"].altered(
            index,
            lambda x: augmented(
                x, self.recipe.augment, derive_seed(self.seed, "augment", epoch, step)
            ),
            self.source,
        )

    @torch.no_grad()
    def _logits(self, part: str) -> np.ndarray:
        """Compute logits (n, k) in evaluation mode.

        On validation images the gates' inputs are measured.
        """
        self.gated.eval()
        self.gated.measuring = False
        if part == "val":
            self.gated.measure()
        logits = []
        for x, given, _ in self.rows[part].batches(EVALUATION_BATCH):
            if self.place.stopping():
                raise Stopped(15)
            logits.append(self.gated(x, given).float())
        self.gated.measuring = False
        return finite_logits(logits)

    def _scored(self, part: str, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        return {f"{part}_{name}": value for name, value in self.score(logits, labels).items()}

    # ------------------------------------------------------------ the gates

    def _write_down(self) -> None:
        self.outcome.gates.append(
            {
                "v": [gate.v.detach()[0].double().tolist() for gate in self._all()],
                "rms": [list(pair) for pair in self.gated.rms],
            }
        )

    def _gate_values(self, at: int) -> dict[str, float]:
        """Return the recorded gates at index `at`, under names for a curve.

        The names are numbered where there are several gates.
        """
        record: dict[str, float] = {}
        written = self.outcome.gates[at]
        for number, v in enumerate(written["v"]):
            end = f"_{number}" if len(self.gated.gates) > 1 else ""
            shares = FORMS[self.recipe.quanta_form](torch.tensor(v, dtype=torch.float64)).tolist()
            values = (*shares, *v, *written["rms"][number])
            names = (
                "lambda_source",
                "lambda_target",
                "v_source",
                "v_target",
                "rms_source",
                "rms_target",
            )
            record |= {name + end: value for name, value in zip(names, values, strict=True)}
        return record

    def _all(self) -> list[QuantaGate]:
        return [gate for gate in self.gated.gates if isinstance(gate, QuantaGate)]

    # ------------------------------------------------------------ saved and continued

    def _tensors(self) -> dict[str, Tensor]:
        return {f"network/{name}": value for name, value in self.gated.state_dict().items()}

    def _record(self) -> dict[str, Any]:
        return {"history": self.outcome.history, "gates": self.outcome.gates}

    def _restore(self, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
        self.outcome.gates = record["gates"]
        load_into(self.gated, under("network/", tensors))
