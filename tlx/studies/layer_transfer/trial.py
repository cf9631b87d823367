"""Trial of layer transfer: blocks 1…n of a network trained on A or B, the rest fresh, on B.

Yosinski et al. 2014 (arXiv:1411.1792) and 'feature-transfer'. A treatment is a row of a table of
what is copied from where and what of it is held:

    baseA, baseB   nothing is copied; trained on A, on B      baseB+   everything from A, nothing
                   held
    AnB, BnB       blocks 1…n from A, from B, and held        AnB+, BnB+   the same, not held

So A0B is baseB, and ANB+ is baseB+: the same trial, run once. What is not copied is drawn from a
stream of its own, so that BnB's upper blocks do not start from where those of the base network did
that its lower blocks grew up with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...result import FINISHED, Result
from ...spec import derive_seed
from ..whole_dataset import WEIGHTS, TrainingInputs
from .spec import LayerTransfer

if TYPE_CHECKING:
    from ..base import TrialContext


def run(spec: LayerTransfer, inputs: TrainingInputs, context: TrialContext) -> Result:
    """Assemble the network, train it, score it on the test images.

    A base network's weights are kept, and those of the others where that is asked for.
    """
    from ...models.transferred import transferred
    from ...models.weights import reader as weights_reader
    from ..training import fit_and_score

    network = transferred(
        spec.architecture,
        weights=inputs.weights,
        copied=spec.copied,
        source=inputs.source,
        classes=len(inputs.data.classes),
        input_size=spec.input_size,
        sha256=spec.weights,
        seed=derive_seed(spec.seed, "rest" if spec.copied else "weights", spec.split),
    )
    status, scores, details = fit_and_score(
        spec, network, inputs.data, context, derive_seed(spec.seed, "fit", spec.split)
    )
    if status == FINISHED and (spec.keep_weights or not spec.copied):
        weights_reader.write(context.folder / WEIGHTS, network.net.state_dict(), {"format": "pt"})
    made_from = {f"weights of {spec.of}": spec.weights} if spec.copied else {}
    return Result.of(spec, status=status, scores=scores, details=details, made_from=made_from)
