"""Parameter-distance transferability: how far pre-training moved each layer to its final state.

T = D(random, finetuned) / D(pretrained, finetuned), for each tensor, for each layer (from the
unweighted means of its tensors' distances), and overall (the mean of the layers' T, without the
head).

T grows when fine-tuning moves little, whatever the reason: a small learning rate, few steps, few
images. Where D obeys the triangle inequality and fine-tuning moved less than LITTLE of what
pre-training moved, D(random, finetuned) is within that fraction of D(random, pretrained) for every
target, so that T says nothing but how little moved; such layers are named in `confounded`. Nor is T
invariant under a permutation of channels in one of the states.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import BadDataError, TlxError, UnknownNameError, counted
from .norms import NORMS, SQUARED
from .rules import RULES, rule_of

if TYPE_CHECKING:  # what reads networks loads torch, and is imported when asked
    from ...models.network import Network
    from .parts import LayerTensors, States

__all__ = ["LITTLE", "NORMS", "RULES", "DistanceResult", "parameter_distance"]

WHO = ("random", "pretrained", "finetuned")
PAIRS = (("random", "pretrained"), ("pretrained", "finetuned"), ("random", "finetuned"))
LITTLE = 0.05  # of D(random, pretrained); where D is the square of a length, of its root


@dataclass(frozen=True, kw_only=True)
class Triangle:
    """Three distances between three states.

    random_pretrained, pretrained_finetuned, random_finetuned   D of each pair, from the first to
      the second
    transferability   D(random, finetuned) / D(pretrained, finetuned); None where fine-tuning moved
                      nothing
    movement          D(pretrained, finetuned) / D(random, pretrained); None where pre-training
                      moved nothing
    """

    random_pretrained: float
    pretrained_finetuned: float
    random_finetuned: float
    transferability: float | None
    movement: float | None


@dataclass(frozen=True, kw_only=True)
class TensorDistance(Triangle):
    """Distances of one tensor.

    Its name and shape, and the layer and block (1…N; None: the head, or unknown) that it belongs
    to.
    """

    name: str
    shape: tuple[int, ...]
    layer: str
    block: int | None


@dataclass(frozen=True, kw_only=True)
class LayerDistance(Triangle):
    """Distances of one layer: means over its tensors, and their number.

    A layer is a block, or the head; without an architecture, a module.
    """

    name: str
    block: int | None
    head: bool
    tensors: int


@dataclass(frozen=True, kw_only=True)
class DistanceResult:
    """Distances between a random, a pre-trained and a fine-tuned state, and their T.

    distances   one row for each tensor, in the network's order, the head last
    profile     one row for each layer, in that order
    overall     mean of the layers' T, without the head and without layers that have none; None
                where none has
    movement    median of the layers' movement, without the head; None where none has
    undefined   layers without T: nothing in them moved from pretrained to finetuned
    confounded  layers that moved, but by less than LITTLE of D(random, pretrained) (of cosines,
                LITTLE²): their T says
                only that
    norm, rule  rows of NORMS and RULES ("auto" resolved); architecture: a name or None
    notes       what was done and what to be wary of, in words
    """

    distances: tuple[TensorDistance, ...]
    profile: tuple[LayerDistance, ...]
    overall: float | None
    movement: float | None
    undefined: tuple[str, ...]
    confounded: tuple[str, ...]
    norm: str
    rule: str
    architecture: str | None
    notes: tuple[str, ...]

    @property
    def layers(self) -> dict[str, float | None]:
        """Return layer → T, in the network's order; the head, if compared, comes last."""
        return {row.name: row.transferability for row in self.profile}

    @property
    def blocks(self) -> dict[int, float | None]:
        """Return block 1…N → T, of the blocks in which tensors were compared.

        Empty without an architecture.
        """
        return {row.block: row.transferability for row in self.profile if row.block is not None}


def parameter_distance(
    random: object,
    pretrained: object,
    finetuned: object,
    architecture: str | Network | None = "resnet50",
    norm: str = "mean_abs",
    *,
    rule: str = "auto",
    head: str = "match",
) -> DistanceResult:
    """Compute D and T between three states of one network, per tensor, per layer and overall.

    random, pretrained, finetuned   each a weight file (read through the safe door), "default" (the
    backbone's own
                  weights), a state_dict or a module; at random initialisation, after pre-training,
                  after fine-tuning
    architecture  a backbone's name, a Network, or None: then modules are the layers, in the order
                  of their names
    norm          a row of NORMS; "mean_abs", Σ|a − b| / n, is the published one
    rule          which tensors: "weights", every kernel (of two or more dimensions: no bias, no
                  normalisation, no
                  buffer); "parameters", everything learned; "original", as published, for ResNet-50
                  and -34, DenseNet-121 (names with "conv", so no shortcut, and the head's weight)
                  and timm's ViT-small (the kernels of its encoder blocks); "auto": "original" for
                  those four, else "weights"
    head          "match": in `distances` and `layers` if it has one shape in all three, else left
    out and noted;
                  "skip": left out. It never counts overall
    raises        BadDataError: a file, names or shapes that do not fit, numbers that are not
                  finite,
    distances that are
                  not (relative to zero); UnknownNameError, UsageError: architecture, norm, rule,
                  head
    """
    from ...models import backbones
    from . import parts as parameter_distance_parts

    if norm not in NORMS:
        raise UnknownNameError("norm", norm, NORMS)
    network = backbones.meta_model(architecture) if isinstance(architecture, str) else architecture
    if isinstance(architecture, str):
        called: str | None = architecture
    else:
        called = network.row.model if network is not None else None
    name, takes = rule_of(rule, network)
    states, notes = _states((random, pretrained, finetuned), network)
    parts, part_notes = parameter_distance_parts.parts(states, network, takes, head)
    distances = tuple(_tensor(part, states, norm) for part in parts)
    profile = _layers(parts, distances)
    body = [row for row in profile if not row.head]
    ts = [row.transferability for row in body if row.transferability is not None]
    moved = [row.movement for row in body if row.movement is not None]
    undefined = tuple(row.name for row in profile if row.transferability is None)
    little = LITTLE**2 if norm in SQUARED else LITTLE
    confounded = tuple(
        row.name for row in profile if row.movement is not None and 0 < row.movement < little
    )
    return DistanceResult(
        distances=distances,
        profile=profile,
        overall=math.fsum(ts) / len(ts) if ts else None,
        movement=statistics.median(moved) if moved else None,
        undefined=undefined,
        confounded=confounded,
        norm=norm,
        rule=name,
        architecture=called,
        notes=(*notes, *part_notes, *_warnings(profile, undefined, confounded, little)),
    )


def _states(given: Sequence[object], network: Network | None) -> tuple[States, list[str]]:
    from . import parts as parameter_distance_parts

    states, notes = {}, []
    for who, state in zip(WHO, given, strict=True):
        try:
            states[who], messages = parameter_distance_parts.state(state, network)
        except TlxError as error:
            place = state if isinstance(state, (str, Path)) else ""
            error.where = f"{who}: {error.where or place}".rstrip(": ")
            raise
        notes += [f"{who}: {note}" for note in messages]
    return states, notes


def _tensor(part: LayerTensors, states: States, norm: str) -> TensorDistance:
    values = [NORMS[norm](states[a][part.name], states[b][part.name]) for a, b in PAIRS]
    for value, (a, b) in zip(values, PAIRS, strict=True):
        if not math.isfinite(value):
            raise BadDataError(
                "distance-not-finite",
                f"{norm} of '{part.name}' from {a} to {b} is {value}",
                expected="a finite distance",
                remedy="nothing is relative to a tensor of zeros: take l1, l2",
            )
    return TensorDistance(
        name=part.name,
        shape=tuple(states["random"][part.name].shape),
        layer=part.layer,
        block=part.block,
        **_triangle(values),
    )


def _layers(
    parts: Sequence[LayerTensors], distances: Sequence[TensorDistance]
) -> tuple[LayerDistance, ...]:
    rows = []
    pairs = zip(parts, distances, strict=True)
    for (layer, block, head), group in itertools.groupby(
        pairs, key=lambda pair: (pair[0].layer, pair[0].block, pair[0].head)
    ):
        members = [distance for _, distance in group]
        means = [
            math.fsum(getattr(d, f"{a}_{b}") for d in members) / len(members) for a, b in PAIRS
        ]
        rows.append(
            LayerDistance(
                name=layer, block=block, head=head, tensors=len(members), **_triangle(means)
            )
        )
    return tuple(rows)


def _triangle(values: Sequence[float]) -> dict[str, Any]:
    before, after, whole = values
    return {
        "random_pretrained": before,
        "pretrained_finetuned": after,
        "random_finetuned": whole,
        "transferability": _quotient(whole, after),
        "movement": _quotient(after, before),
    }


def _quotient(a: float, b: float) -> float | None:
    """Return a / b, or None where b is 0, or so small that the quotient is not finite."""
    return a / b if b and math.isfinite(a / b) else None


def _warnings(
    profile: Sequence[LayerDistance],
    undefined: Sequence[str],
    confounded: Sequence[str],
    little: float,
) -> list[str]:
    messages = []
    if undefined:
        messages.append(
            f"T is undefined in {len(undefined)} of "
            f"{counted(len(profile), 'layer')}, which did not move from "
            f"pretrained "
            f"to finetuned (frozen, or the same file?): {', '.join(undefined)}"
        )
    if confounded:
        messages.append(
            f"warning: in {len(confounded)} of {counted(len(profile), 'layer')} "
            "fine-tuning moved less than "
            f"{100 * little:g} % of what pre-training moved, so that T says only how little "
            f"(learning rate? steps? images?): {', '.join(confounded)}"
        )
    if still := [row.name for row in profile if row.movement is None]:
        messages.append(
            f"random and pretrained are the same in {len(still)} of "
            f"{counted(len(profile), 'layer')}, where T "
            f"is 1 by "
            f"construction: {', '.join(still)}"
        )
    return messages
