"""Common training of trials: fit on inputs.train, select on inputs.val, score inputs.test once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..result import DIVERGED, FINISHED

if TYPE_CHECKING:
    import numpy as np

    from ..models.network import Network
    from ..models.recipe import Recipe
    from ..models.training import TrainingContext, TrainingOutcome
    from .base import TrialContext
    from .few_shot import Inputs
    from .whole_dataset import WholeDataset


def training_context(context: TrialContext, **more: Any) -> TrainingContext:
    """Return device, checkpoint and callbacks of a training in a trial.

    more: `moments` and `on_moment`, for a training whose weights are kept or scored on the way;
    `shared`, for one of many that score the same images.
    """
    from ..models.training import TrainingContext
    from .replicas import recruiter

    return TrainingContext(
        context.device,
        context.folder / "training.safetensors",
        context.log,
        context.tell,
        context.stopping,
        usage=context.usage,
        inherit=context.inherit,
        recruit=recruiter(context.device, context.stopping),
        **more,
    )


def fit_details(network: Network, inputs: Inputs, fitted: TrainingOutcome) -> dict[str, Any]:
    """Return what every trial that trains records of its network, images and epochs."""
    return {
        "classes": list(inputs.classes),
        "ended": fitted.ended,
        "epochs": len(fitted.history),
        "train_images": len(inputs.train),
        "val_images": len(inputs.val),
        "test_images": len(inputs.test) if inputs.test else 0,
        "parameters": sum(p.numel() for p in network.parameters()),
        **({} if fitted.replicas is None else {"replicas": fitted.replicas}),
    }


def transfer_details(network: Network, fitted: TrainingOutcome) -> dict[str, object]:
    """Return what a trial records in addition whose network may be frozen in part."""
    return {
        "best_epoch": fitted.best_epoch,
        "blocks": len(network.blocks),
        "notes": list(network.notes),
        "trainable_parameters": fitted.trainable_parameters,
        "frozen_prefix": [choice.reason for choice in fitted.prefixes],
    }


def train_seconds(fitted: TrainingOutcome) -> dict[str, float]:
    """Return the time of all epochs."""
    return {"train_s": sum(v["train_epoch_s"] + v["val_epoch_s"] for v in fitted.history)}


def best_scores(fitted: TrainingOutcome) -> dict[str, float]:
    """Return the validation scores of the epoch that was selected."""
    best = fitted.merged_values or fitted.history[fitted.best_epoch]
    return {f"best_{name}": best[name] for name in ("val_accuracy", "val_loss")}


def fit_and_score(
    spec: WholeDataset, network: Network, inputs: Inputs, context: TrialContext, seed: int
) -> tuple[str, dict[str, float], dict[str, object]]:
    """Return status, scores and details; the network has the weights of the best epoch."""
    from ..features import voting
    from ..models import training

    place = training_context(context)
    fitted = training.fit(
        network, inputs.train, inputs.val, spec, seed=seed, score=voting.accuracy, place=place
    )
    details = fit_details(network, inputs, fitted) | transfer_details(network, fitted)
    scores = train_seconds(fitted)
    if fitted.ended == "diverged":
        return DIVERGED, scores, details
    scores |= best_scores(fitted)
    scores |= score_test(network, inputs, spec, place, details)[0]
    return FINISHED, scores, details


def score_test(
    network: Network,
    inputs: Inputs,
    spec: Recipe,
    place: TrainingContext,
    details: dict[str, Any],
    vote: str = "majority",
) -> tuple[dict[str, float], np.ndarray]:
    """Return the scores of the test images, of which there must be at least one.

    The predicted classes (n,) are returned with them, the confusion matrix goes into `details`.
    """
    from ..features import voting
    from ..models import training

    assert inputs.test is not None
    logits = training.predict(network, inputs.test, spec, place)
    predicted = voting.per_image(logits, inputs.test.crops, vote)
    counts = voting.confusion(inputs.test.labels, predicted, len(inputs.classes))
    details["confusion"] = counts.tolist()
    scores = {
        "test_accuracy": voting.mean_per_class_accuracy(counts),
        "test_top1": float(counts.trace() / counts.sum()),
        "test_loss": training.cross_entropy(logits, inputs.test.row_labels),
    }
    return scores, predicted
