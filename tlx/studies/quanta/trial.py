"""Trial of QUANTA: how much of a frozen source a target uses at a layer, by a learned gate.

One trial is one position (0 is block 1), all positions at once ("co", co-evaluation) or the target
alone ("witness"), and one repeat. Repeats differ in the target's start, the order of the images,
dropout and augmentation; trials of one repeat share them, so that a target with a gate and its
witness are a pair.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...models.recipe import Recipe
from ...result import DIVERGED, Result
from ...spec import derive_seed
from ..training import training_context
from .spec import Quanta

if TYPE_CHECKING:
    import numpy as np

    from ...models.network import Network
    from ...models.samples import Samples
    from ..base import TrialContext
    from .source import SourceOf


SCORES = (  # of the last epoch
    "train_accuracy",
    "val_accuracy",
    "val_loss",
    "test_accuracy",
    "test_loss",
    "test_top1",
)


@dataclass(frozen=True)
class QuantaInputs:
    """Inputs of a trial.

    Labels index `classes`.

    name         of the target's images, for people and file names
    source       where the source's weights are; None for a witness
    gates        gate by gate: position, module of the target, module of the source
    source_test  images and labels that the source itself is scored on, where they are known
    """

    name: str
    classes: tuple[str, ...]
    train: Samples
    val: Samples
    test: Samples | None
    source: SourceOf | None = None
    gates: tuple[tuple[int, str, str], ...] = ()
    source_test: Samples | None = None


def run(spec: Quanta, inputs: QuantaInputs, context: TrialContext) -> Result:
    """Train, scoring validation and test images after every epoch.

    The last epoch counts, as in the original.
    """
    from ...models import backbones, training
    from ...models.quanta import training as quanta_training

    started = time.perf_counter()
    target = backbones.load(
        spec.architecture,
        weights=None,
        classes=len(inputs.classes),
        input_size=spec.input_size,
        seed=derive_seed(spec.seed, "weights", spec.repeat),
    )
    source = (
        inputs.source.load(spec.weights) if inputs.source is not None and inputs.gates else None
    )
    place = training_context(context)
    parts = {"train": inputs.train, "val": inputs.val}
    if inputs.test is not None:
        parts["test"] = inputs.test
    details = _details(inputs, target, parts)
    if source is not None and inputs.source_test is not None:
        logits = training.predict(source.to(context.device), inputs.source_test, Recipe(), place)
        details["source_test"] = score(logits, inputs.source_test.labels)
    fitted = quanta_training.fit(
        quanta_training.Branches(
            target,
            source,
            tuple(module for _, module, _ in inputs.gates),
            tuple(module for _, _, module in inputs.gates),
        ),
        parts,
        spec,
        seed=derive_seed(spec.seed, "fit", spec.repeat),
        score=score,
        place=place,
    )
    details |= {
        "ended": fitted.ended,
        "epochs": len(fitted.history),
        "history": fitted.history,
        "gates": _with_lambdas(spec, fitted.gates),
        "source_outputs": fitted.source,
    }
    scores = {"total_s": time.perf_counter() - started}
    if fitted.ended == "diverged":
        return Result.of(spec, status=DIVERGED, scores=scores, details=details)
    last = fitted.history[-1]
    scores |= {name: last[name] for name in SCORES if name in last}
    return Result.of(spec, scores=scores | _lambda_scores(details["gates"]), details=details)


def _details(inputs: QuantaInputs, target: Network, parts: dict[str, Samples]) -> dict[str, Any]:
    """Return what is known of a trial before it trains."""
    from ...features.voting import class_counts

    counts = None
    if inputs.test is not None:
        counts = class_counts(inputs.test.labels, len(inputs.classes))
    return {
        "classes": list(inputs.classes),
        "positions": [position for position, _, _ in inputs.gates],
        "modules": [module for _, module, _ in inputs.gates],
        "blocks": len(target.blocks),
        "block_names": [target.blocks[position].name for position, _, _ in inputs.gates],
        "parameters": sum(p.numel() for p in target.parameters()),
        "source_test": None,
        "test_counts": counts,
        "images": {name: len(samples) for name, samples in parts.items()},
        "target_name": inputs.name,
        "source_name": inputs.source.name if inputs.source is not None else "",
    }


def _with_lambdas(spec: Quanta, gates: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return every record with λ of source and target in addition to v, gate by gate."""
    from ...models.quanta.gate import QuantaGate

    return [
        row | {"lambda": [list(QuantaGate(spec.quanta_form, v).double().numbers) for v in row["v"]]}
        for row in gates
    ]


def _lambda_scores(gates: list[dict[str, Any]]) -> dict[str, float]:
    """Return the final λ of the source and its change.

    For the one gate; numbered by gate where there are several.
    """
    ends = [(row[0], row[1]) for row in zip(gates[0]["lambda"], gates[-1]["lambda"], strict=True)]
    scores: dict[str, float] = {}
    for number, (first, last) in enumerate(ends):
        end = f"_{number}" if len(ends) > 1 else ""
        scores |= {f"lambda_source{end}": last[0], f"lambda_change{end}": last[0] - first[0]}
    return scores


def score(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Compute the values of one part: those of the original, and the common accuracy.

    See quanta/scores.py for the former.
    """
    from ...features import voting
    from .scores import keras_scores

    return {**keras_scores(logits, labels), "accuracy": voting.accuracy(logits, labels, 1)}
