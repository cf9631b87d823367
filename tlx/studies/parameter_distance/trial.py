"""Trial of parameter distance: how far pre-training moved each layer to its final state.

A trial is one triple of states (random, pre-trained, fine-tuned) of one network in one norm; see
tlx.metrics.parameter_distance.distance for D and T. Repeats differ in the random state that is
drawn, in the fine-tuning, or in both.

A trial is one triple of states (random, pre-trained, fine-tuned) of one network in one norm; what D
and T are stands in tlx.metrics.parameter_distance.distance. Repeats differ in the random state that
is drawn, in the fine-tuning, or in both.

The random state of the method is the one that pre-training began from. Pre-trained weights are
nearer to it than to any other draw, so that T from another draw is larger (20.5 for 7.0 in MNIST's
small CNN, fine-tuned on digits for three epochs). It is known of what `tlx pretrain` made, and used
where it is; else states are drawn, and the result says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import IntegrityError
from ...result import FINISHED, Result
from ...spec import derive_seed
from ..whole_dataset import DEFAULT, WEIGHTS, TrainingInputs
from .spec import DRAWN, LAYER, RANDOM, UNKNOWN, ParameterDistance, TargetTuning

if TYPE_CHECKING:
    from ...metrics.parameter_distance.distance import DistanceResult
    from ..base import TrialContext


@dataclass(frozen=True)
class WeightTriple:
    """States of a trial: files or "default"; random None: drawn.

    training: how it was fine-tuned, if known.
    """

    random: str | None
    pretrained: str
    finetuned: str
    training: Mapping[str, Any] = field(default_factory=dict)


def tune(spec: TargetTuning, inputs: TrainingInputs, context: TrialContext) -> Result:
    """Fine-tune with a fresh head, score the test images, keep the best epoch's weights."""
    from ...models.transferred import transferred
    from ...models.weights import reader as weights_reader
    from ..training import fit_and_score

    network = transferred(
        spec.architecture,
        weights=inputs.weights,
        copied=spec.depth,
        input_size=spec.input_size,
        classes=len(inputs.data.classes),
        seed=derive_seed(spec.seed, "head", spec.split),
        sha256=spec.weights,
    )
    status, scores, details = fit_and_score(
        spec, network, inputs.data, context, derive_seed(spec.seed, "fit", spec.split)
    )
    if status == FINISHED:
        weights_reader.write(context.folder / WEIGHTS, network.net.state_dict(), {"format": "pt"})
    return Result.of(
        spec, status=status, scores=scores, details=details, made_from={"weights": spec.weights}
    )


def run(spec: ParameterDistance, inputs: WeightTriple, context: TrialContext) -> Result:
    """Measure the distances, a step for each layer."""
    from ... import metrics

    _check(spec, inputs)
    random = inputs.random if inputs.random is not None else drawn(spec, inputs.pretrained)
    distances = metrics.parameter_distance(
        random,
        inputs.pretrained,
        inputs.finetuned,
        architecture=known(spec),
        norm=spec.norm,
        rule=spec.rule,
        head=spec.head,
    )
    _check(spec, inputs)  # again: the files were read after they were checked
    profile = [
        {
            "norm": distances.norm,
            "layer": row.name,
            "block": row.block,
            "head": row.head,
            "tensors": row.tensors,
            **{name: getattr(row, name) for name in LAYER},
        }
        for row in distances.profile
    ]
    for number, row in enumerate(profile, 1):
        context.log(number, {name: row[name] for name in LAYER if row[name] is not None})
        context.tell(number, len(profile))
    notes = _notes(spec, inputs, distances)
    scores = {
        "overall_transferability": distances.overall,
        "overall_movement": distances.movement,
        "layers": len(profile),
        "undefined_layers": len(distances.undefined),
        "confounded_layers": len(distances.confounded),
    }
    details = {
        "architecture": spec.architecture,
        "norm": distances.norm,
        "rule": distances.rule,
        "overall": distances.overall,
        "movement": distances.movement,
        "undefined": list(distances.undefined),
        "confounded": list(distances.confounded),
        "notes": notes,
        "training": dict(inputs.training),
        "profile": profile,
        "distances": [asdict(row) | {"shape": list(row.shape)} for row in distances.distances],
    }
    return Result.of(
        spec,
        scores={name: float(v) for name, v in scores.items() if v is not None},
        details=details,
        made_from=dict(zip(("random", "pretrained", "finetuned"), spec.states, strict=True)),
    )


def _notes(spec: ParameterDistance, inputs: WeightTriple, distances: DistanceResult) -> list[str]:
    """Return the notes of the measure, and caveats of the states it was given."""
    notes = list(distances.notes)
    if spec.draw is not None:
        notes.append(
            "random states are drawn here, and not what pre-training began from: T is larger than "
            "from there"
        )
    if inputs.training.get("head") == "new" and any(row.head for row in distances.profile):
        notes.append(
            "the head was drawn anew for fine-tuning, not carried over: its T says nothing of "
            "pre-training"
        )
    return notes


def known(spec: ParameterDistance) -> str | None:
    """Return the architecture in the form of tlx.metrics."""
    return None if spec.architecture == UNKNOWN else spec.architecture


def drawn(spec: ParameterDistance, pretrained: str) -> Any:
    """Return the state_dict from which `tlx pretrain` began, or a drawn one.

    Of as many classes as the pre-trained head has.
    """
    from ...models import backbones

    network = backbones.load(
        spec.architecture,
        weights=pretrained,
        classes=None,
        head="keep",
        seed=0,
        sha256=spec.states[1] if spec.states else None,
    )
    classes = len(network.net.get_submodule(network.head_names[-1]).weight)  # type: ignore[arg-type]
    seed = (
        derive_seed(spec.seed, "random", spec.draw)
        if spec.start is None
        else derive_seed(spec.start, "weights")
    )
    return backbones.load(
        spec.architecture, weights=None, classes=classes, seed=seed
    ).net.state_dict()


def digest(architecture: str, weights: str | None) -> str:
    """Return what identifies a state: the SHA-256 of its file, or drawn.

    Raises MissingError and what `backbones.digest` raises.
    """
    from ...models import backbones
    from ...models.weights import promises

    if weights is None:
        return DRAWN
    return (
        promises.check(Path(weights))
        if weights != DEFAULT
        else backbones.digest(architecture, weights)
    )


def _check(spec: ParameterDistance, inputs: WeightTriple) -> None:
    """Raise IntegrityError unless the states are those that the study was planned with."""
    from ...models.weights import promises

    for weights, expected in zip(
        (inputs.random, inputs.pretrained, inputs.finetuned), spec.states, strict=True
    ):
        if (actual := digest(spec.architecture, weights)) != expected:
            raise IntegrityError(
                "weights-sha256",
                f"SHA-256 is {actual}",
                where=weights or RANDOM,
                expected=expected,
                remedy=promises.RERUN,
            )
