"""Trial: train a network from random weights on a whole data set, and keep the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import files
from ..result import DIVERGED, Result
from ..spec import derive_seed
from .few_shot import Inputs
from .pretraining_spec import CHECKPOINTS, PreTraining, checkpoint_steps
from .training import best_scores, fit_details, score_test, train_seconds, training_context
from .whole_dataset import WEIGHTS

if TYPE_CHECKING:
    from .base import TrialContext


def run(spec: PreTraining, inputs: Inputs, context: TrialContext) -> Result:
    """Train from random weights, select the epoch on inputs.val, score inputs.test, save."""
    from ..features import voting
    from ..models import backbones, training
    from ..models.weights import reader as checkpoints

    network = backbones.load(
        spec.architecture,
        weights=None,
        classes=len(inputs.classes),
        seed=derive_seed(spec.seed, "weights"),
        input_size=spec.input_size,
    )
    network.normalise(spec.normalisation)
    steps = -(-len(inputs.train.rows) // spec.batch_size)
    kept = checkpoint_steps(spec.checkpoints, steps, spec.epochs)

    def keep(step: int, net: Any) -> None:
        state = getattr(net, "net", net).state_dict()
        checkpoints.write(
            context.folder / CHECKPOINTS / f"{kept[step]}.safetensors",
            state,
            {"format": "pt", "step": str(step), "epochs": f"{step / steps:.6g}"},
        )

    if kept:
        files.make_folder(context.folder / CHECKPOINTS)
    place = training_context(
        context,
        moments=frozenset(kept),
        on_moment=keep,
    )
    fitted = training.fit(
        network,
        inputs.train,
        inputs.val,
        spec,
        seed=derive_seed(spec.seed, "fit"),
        score=voting.accuracy,
        place=place,
    )
    details = fit_details(network, inputs, fitted)
    details |= {"best_epoch": fitted.best_epoch, "checkpoints": list(kept.values())}
    scores = train_seconds(fitted)
    if fitted.ended == "diverged":
        return Result.of(spec, status=DIVERGED, scores=scores, details=details)
    scores |= best_scores(fitted)
    if inputs.test is not None:
        scores |= score_test(network, inputs, spec, place, details)[0]
    checkpoints.write(context.folder / WEIGHTS, network.net.state_dict(), {"format": "pt"})
    return Result.of(spec, scores=scores, details=details)
