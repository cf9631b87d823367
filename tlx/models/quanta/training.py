"""Training of a gated target with a frozen source, as in the original: no epoch is selected.

A loop separate from training.py: each step has two branches, the rate falls with every step,
and after every epoch both validation and test images are scored and the gates written down.
Bit-repeatable on a CPU at a fixed thread count, also when killed and resumed, and whether or not
the source's outputs are kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import Stopped
from ...spec import derive_seed
from .. import lone_rows, progress
from ..augments import augmented
from ..network import Network
from ..samples import BatchLoader, Samples, spans
from ..training import EVALUATION_BATCH, Diverged, TrainingContext
from . import batches as quanta_batches
from .gate import FORMS, Gated, GateSource, QuantaGate
from .recipe import QuantaRecipe

Score = Callable[
    [np.ndarray, np.ndarray], dict[str, float]
]  # logits (n, k), labels (n,) → values of a part
EPSILON = 1e-7  # Adam's, in Keras


@dataclass
class QuantaOutcome:
    """Result of a training.

    history  values of every epoch: train_, val_ and test_ before the names that `score` gives
    gates    before the first epoch and after each: {"v": [[v_S, v_T], …], "rms": [[Z_S, Z_T], …]},
             gate by gate; rms
             are root mean squares over the validation images, what the gates are given in
             evaluation
    ended    "epochs" or "diverged"
    source   what was done about the source's outputs
    """

    history: list[dict[str, float]] = field(default_factory=list)
    gates: list[dict[str, list[list[float]]]] = field(default_factory=list)
    ended: str = ""
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


class _QuantaTraining:
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
        self.recipe, self.seed, self.score, self.place, self.parts = (
            recipe,
            seed,
            score,
            place,
            parts,
        )
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
            quanta_batches.OutputCacheRequest(
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
        self.outcome = QuantaOutcome(source=choice.reason)
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

    def run(self) -> QuantaOutcome:
        self._continue()
        history = self.outcome.history
        try:
            if not self.outcome.gates:
                self._logits("val")
                self._write_down()
            while len(history) < self.recipe.epochs:
                values = self._epoch(len(history))
                history.append(
                    {name: value for name, value in values.items() if not name.endswith("_s")}
                )
                self._write_down()
                self.place.on_epoch(len(history) - 1, values | self._gate_values(-1))
                self._save()
        except Diverged:
            self.outcome.ended = "diverged"
            return self.outcome
        self.outcome.ended = "epochs"
        return self.outcome

    # ------------------------------------------------------------ one epoch

    def _epoch(self, epoch: int) -> dict[str, float]:
        started = time.perf_counter()
        self.gated.train()
        torch.manual_seed(derive_seed(self.seed, "dropout", epoch))
        order = np.random.default_rng(derive_seed(self.seed, "shuffle", epoch)).permutation(
            len(self.rows["train"])
        )
        seen = []
        for step, (start, end) in enumerate(self.spans):
            if self.place.stopping():
                raise Stopped(15)
            seen.append(self._step(order[start:end], epoch, step))
            self.place.on_batch(step + 1, self.steps)
        trained = time.perf_counter()
        values = self._scored("train", _whole(seen), self.parts["train"].labels[order])
        for part in self.rows:
            if part != "train":
                values |= self._scored(part, self._logits(part), self.parts[part].labels)
        return values | {
            "train_epoch_s": trained - started,
            "val_epoch_s": time.perf_counter() - trained,
        }

    def _step(self, index: np.ndarray, epoch: int, step: int) -> Tensor:
        for group in self.optimizer.param_groups:
            rate = group.get("rate", self.recipe.learning_rate)
            group["lr"] = rate / (1 + self.recipe.rate_decay * (epoch * self.steps + step))
        x, given, y = self._batch(index, epoch, step)
        logits = self.gated(x, given).float()
        loss = nn.functional.cross_entropy(logits, y)
        if not x.is_cuda and not torch.isfinite(loss):
            raise Diverged
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        result: Tensor = logits.detach()
        return result

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
        return _whole(logits)

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

    def _save(self) -> None:
        if self.place.checkpoint is None:
            return
        tensors = {f"network/{name}": value for name, value in self.gated.state_dict().items()}
        tensors |= {
            f"optimizer/{i}/{name}": value
            for i, state in self.optimizer.state_dict()["state"].items()
            for name, value in state.items()
            if isinstance(value, Tensor)
        }
        progress.save(
            self.place.checkpoint,
            tensors,
            {"history": self.outcome.history, "gates": self.outcome.gates},
        )

    @torch.no_grad()
    def _continue(self) -> None:
        saved = progress.load(self.place.checkpoint) if self.place.checkpoint is not None else None
        if saved is None:
            return
        tensors, state = saved
        self.outcome.history, self.outcome.gates = state["history"], state["gates"]
        own = self.gated.state_dict()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for path, value in tensors.items():
            kind, _, key = path.partition("/")
            if kind == "network":
                own[key].copy_(value)
                continue
            number, _, name = key.partition("/")
            like = parameters[int(number)]
            self.optimizer.state[like][name] = (
                torch.empty_like(like).copy_(value) if value.shape == like.shape else value
            )
        for epoch, values in enumerate(
            self.outcome.history
        ):  # what the journal has already, it leaves as it is
            self.place.on_epoch(epoch, values | self._gate_values(epoch + 1))


def _whole(parts: Sequence[Tensor]) -> np.ndarray:
    logits = torch.cat(list(parts)).cpu().numpy()
    if not np.isfinite(logits).all():
        raise Diverged
    return logits
