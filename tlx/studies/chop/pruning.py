"""Trial of iterative magnitude pruning: train, drop the smallest weights, train the others.

Only weights are ranked and dropped; the mask holds at every step (see models/masks.py). After k
rounds keep^k of them are left. Each round is a trial that starts from the weights of the one
before.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ...errors import IntegrityError
from ...result import FINISHED, Result
from ...spec import derive_seed
from ..whole_dataset import WEIGHTS, TrainingInputs
from .spec import Pruning

if TYPE_CHECKING:
    from ..base import TrialContext

EXPERIMENT = "Pruning"


@dataclass(frozen=True)
class PruningInputs(TrainingInputs):
    """Inputs of a round, with the weights of the round before."""

    before: str | None = None


def run(spec: Pruning, inputs: PruningInputs, context: TrialContext) -> Result:
    """Drop the smallest weights of the round before, train, score the test images, save."""
    from ...models import masks
    from ...models.footprint import footprint
    from ...models.transferred import transferred
    from ...models.weights import reader as weights_reader
    from ..training import fit_and_score

    network = transferred(
        spec.architecture,
        weights=inputs.weights,
        copied=spec.depth if inputs.weights else 0,
        classes=len(inputs.data.classes),
        seed=derive_seed(spec.seed, "head", spec.split),
        source=inputs.source,
        input_size=spec.input_size,
        sha256=spec.weights,
    )
    left: dict[str, float] = {}
    if spec.round:
        assert inputs.before is not None
        try:
            trained = weights_reader.read(inputs.before, sha256=spec.before, like=network.net)
        except IntegrityError as error:
            error.remedy = "the round before has changed since: run the command again"
            raise
        mask = masks.magnitude(
            {name: trained[name] for name in masks.prunable(network.net)}, spec.kept, spec.scope
        )
        if spec.rewind == "none":
            weights_reader.load_into(network.net, trained, least=1.0)
        masks.enforce(network.net, mask)
        left = {name: float(m.float().mean()) for name, m in mask.items()}
    stream = ("fit", spec.split, spec.round) if spec.round else ("fit", spec.split)
    seed = derive_seed(spec.seed, *stream)
    status, scores, details = fit_and_score(spec, network, inputs.data, context, seed)
    details["left"] = left
    if status == FINISHED:
        weights_reader.write(context.folder / WEIGHTS, network.net.state_dict(), {"format": "pt"})
        scores |= {name: float(value) for name, value in asdict(footprint(network, spec)).items()}
        kept = masks.prunable(network.net).values()
        scores["kept"] = sum(int((w != 0).sum()) for w in kept) / sum(w.numel() for w in kept)
    made_from = {"weights": spec.weights} | ({"round before": spec.before} if spec.round else {})
    return Result.of(spec, status=status, scores=scores, details=details, made_from=made_from)
