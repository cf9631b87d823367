"""Trial: cut a network behind block n, add pooling and one dense layer, fine-tune the rest."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from ...result import FINISHED, Result
from ...spec import derive_seed
from ..whole_dataset import TrainingInputs
from .spec import NETWORK, Chop

if TYPE_CHECKING:
    from ..base import TrialContext

EXPERIMENT = "Chop"


def run(spec: Chop, inputs: TrainingInputs, context: TrialContext) -> Result:
    """Cut, fine-tune, score on the test images.

    The network is kept with what is needed to load it again.
    """
    from ...models import chopped
    from ...models.footprint import footprint
    from ...models.transferred import transferred
    from ..training import fit_and_score

    network = transferred(
        spec.architecture,
        weights=inputs.weights,
        copied=spec.depth if inputs.weights else 0,
        classes=len(inputs.data.classes),
        seed=derive_seed(spec.seed, "head", spec.split),
        source=inputs.source,
        cut=spec.cut,
        input_size=spec.input_size,
        sha256=spec.weights,
    )
    status, scores, details = fit_and_score(
        spec, network, inputs.data, context, derive_seed(spec.seed, "fit", spec.split)
    )
    if status == FINISHED:
        chopped.write(
            context.folder / NETWORK,
            network,
            architecture=spec.architecture,
            cut=spec.cut or chopped.most_blocks(inputs.weights, None),
            classes=inputs.data.classes,
        )
        scores |= {name: float(value) for name, value in asdict(footprint(network, spec)).items()}
    return Result.of(
        spec, status=status, scores=scores, details=details, made_from={"weights": spec.weights}
    )
