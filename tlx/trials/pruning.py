"""Iterative magnitude pruning: train, drop the smallest weights, train what is left, and again.

Only weights are ranked and dropped; the mask holds at every step (see models/masks.py). After k rounds keep^k of them
are left. Each round is a trial that starts from the weights of the one before.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..errors import Integrity
from ..result import FINISHED, Result
from ..spec import Spec, knob, stream
from .chop import FromWeights
from .layer_transfer import WEIGHTS, Sourced

if TYPE_CHECKING:
    from .study import Bench

EXPERIMENT = "Pruning"


@dataclass(frozen=True, kw_only=True)
class Pruning(FromWeights):
    """One round of iterative magnitude pruning; round 0 trains all weights."""

    keep: float = knob(0.7, low=0.01, high=0.999, help="share of the weights that a round leaves")
    scope: str = knob("global", choices=("global", "layer"), help="one threshold for all layers, or one for each")
    rewind: str = knob("none", choices=("none", "start"), help="each round goes on from the trained weights, or from "
                       "those before any training")
    round: int = knob(0, low=0, derived=True, help="how often weights were dropped")
    before: str = knob("", derived=True, help="digest of the weights that the round before came to")

    @property
    def kept(self) -> float:
        """The share of all weights that is left."""
        return self.keep ** self.round

    @property
    def title(self) -> str:
        """Few words that name this trial among its siblings."""
        return f"{100 * self.kept:.0f} % of the weights, repeat {self.split}"

    def named(self) -> dict[str, Any]:
        """The settings under the names that MLflow shows."""
        return {**super().named(), "Round": self.round, "Kept": f"{self.kept:.4g}", "Scope": self.scope,
                "Rewind": self.rewind, "Source": self.model or self.source or "-"}


@dataclass(frozen=True, kw_only=True)
class Rounds(Spec):
    """How many rounds and repeats make a study of pruning."""

    iterations: int = knob(5, low=1, high=1000, help="how often weights are dropped")
    repeats: int = knob(3, low=1, high=10_000, help="networks that are pruned, which differ by their seeds")


@dataclass(frozen=True)
class Continued(Sourced):
    """What a round runs on: also the weights that the round before came to."""

    before: str | None = None


def run(spec: Pruning, inputs: Continued, bench: Bench) -> Result:
    """Drop the smallest weights of the round before, train, score on the test images, keep the weights."""
    from ..models import checkpoints, masks
    from ..models.footprint import footprint
    from ..models.transferred import transferred
    from .fitted import fit_and_score

    network = transferred(spec.architecture, weights=inputs.weights, copied=spec.depth if inputs.weights else 0,
                          classes=len(inputs.data.classes), seed=stream(spec.seed, "head", spec.split),
                          source=inputs.source, input_size=spec.input_size, sha256=spec.weights)
    left: dict[str, float] = {}
    if spec.round:
        assert inputs.before is not None
        try:
            trained = checkpoints.read(inputs.before, sha256=spec.before, like=network.net)
        except Integrity as error:
            error.remedy = "the round before has changed since: run the command again"
            raise
        mask = masks.magnitude({name: trained[name] for name in masks.prunable(network.net)}, spec.kept, spec.scope)
        if spec.rewind == "none":
            checkpoints.load_into(network.net, trained, least=1.0)
        masks.enforce(network.net, mask)
        left = {name: float(m.float().mean()) for name, m in mask.items()}
    seed = stream(spec.seed, "fit", spec.split, *([spec.round] if spec.round else []))
    status, scores, details = fit_and_score(spec, network, inputs.data, bench, seed)
    details["left"] = left
    if status == FINISHED:
        checkpoints.write(bench.folder / WEIGHTS, network.net.state_dict(), {"format": "pt"})
        scores |= {name: float(value) for name, value in asdict(footprint(network, spec)).items()}
        kept = masks.prunable(network.net).values()
        scores["kept"] = sum(int((w != 0).sum()) for w in kept) / sum(w.numel() for w in kept)
    made_from = {"weights": spec.weights} | ({"round before": spec.before} if spec.round else {})
    return Result.of(spec, status=status, scores=scores, details=details, made_from=made_from)
