"""Trial: fine-tune a pre-trained network on k images a class, score the whole test set."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ...result import DIVERGED, FINISHED, Result
from ...spec import derive_seed
from .. import predictions
from ..few_shot import Inputs
from ..training import (
    best_scores,
    fit_details,
    score_test,
    train_seconds,
    training_context,
    transfer_details,
)
from .spec import FineTuning

if TYPE_CHECKING:
    import numpy as np

    from ...models.network import Network
    from ...models.samples import Samples
    from ...models.training import TrainingContext, TrainingOutcome
    from ..base import TrialContext


def selection_samples(spec: FineTuning, val: Samples) -> Samples:
    """Return the validation images with the crops that choose the epoch."""
    return val if spec.val_crops is None else val.on_crops(spec.val_crops)


def tuned(
    spec: FineTuning, inputs: Inputs, place: TrainingContext
) -> tuple[Network, TrainingOutcome]:
    """Return the network with the weights of its best epoch, and the course of its training."""
    from ...features import voting
    from ...models import backbones, freezing, training
    from ...models.transferred import redraw
    from ...models.tune_choices import parse_tune

    network = backbones.load(
        spec.architecture,
        weights=spec.start_from,
        classes=len(inputs.classes),
        head=spec.head,
        seed=derive_seed(spec.seed, "head", spec.shots, spec.split),
        source=spec.weight_source,
        input_size=spec.input_size,
        sha256=spec.weights,
    )
    redraw(
        network,
        spec.architecture,
        spec.reinit_blocks,
        seed=derive_seed(spec.seed, "reinit", spec.shots, spec.split),
    )
    frozen = (
        None
        if spec.configuration is None
        else freezing.published_configuration(spec.architecture, spec.configuration)
    )

    def score(logits: np.ndarray, labels: np.ndarray, crops: int) -> float:
        return voting.accuracy(logits, labels, crops, spec.vote)

    seed = derive_seed(spec.seed, "fit", spec.shots, spec.split)
    val = selection_samples(spec, inputs.val)
    fitted = training.fit(
        network,
        inputs.train,
        val,
        spec,
        seed=seed,
        score=score,
        frozen=frozen,
        tune=parse_tune(spec.tune),
        place=place,
    )
    return network, fitted


def run(spec: FineTuning, inputs: Inputs, context: TrialContext) -> Result:
    """Train on inputs.train, select the epoch on inputs.val, score once on inputs.test.

    details["val_crops"] is the number of crops that the validation scores are measured on; where it
    is absent, they are measured on all, details["crops"].
    """
    started = time.perf_counter()
    place = training_context(context, shared=context.shared)
    network, fitted = tuned(spec, inputs, place)
    details = fit_details(network, inputs, fitted) | transfer_details(network, fitted)
    details |= {
        "crops": inputs.train.crops,
        "weights_matched": [network.match.matched, network.match.total] if network.match else None,
    }
    if spec.val_crops is not None:
        details["val_crops"] = selection_samples(spec, inputs.val).crops
    scores = train_seconds(fitted)
    if fitted.ended == "diverged":
        return Result.of(spec, status=DIVERGED, scores=scores, details=details)
    scores |= best_scores(fitted)
    if inputs.test is not None:
        began = time.perf_counter()
        tested, predicted = score_test(network, inputs, spec, place, details, spec.vote)
        scores |= tested
        predictions.write(context.folder, predicted, inputs.test.labels)
        details |= inputs.pairing()
        scores["test_s"] = time.perf_counter() - began
    scores["total_s"] = time.perf_counter() - started
    return Result.of(spec, status=FINISHED, scores=scores, details=details)
