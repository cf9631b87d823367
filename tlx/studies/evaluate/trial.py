"""Trial: one model labels the images, and is scored."""

from __future__ import annotations

import csv
import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import files
from ...metrics import calibration
from ...result import Result
from .. import predictions
from .spec import Evaluation

if TYPE_CHECKING:
    from ...models.samples import Samples
    from ..base import TrialContext

PREDICTED = "predictions.csv"


@dataclass(frozen=True)
class EvaluationInputs:
    """Images of an evaluation.

    model    weight file, or folder of an export
    classes  names in the order of the model's outputs
    files    of the images
    labels   (n,) class of each
    samples  their pixels, for a weight file
    is_refit whether the model learned from all training images of its data set
    """

    model: str
    classes: tuple[str, ...]
    files: tuple[str, ...]
    labels: np.ndarray
    samples: Samples | None = None
    is_refit: bool = False


def run(spec: Evaluation, inputs: EvaluationInputs, context: TrialContext) -> Result:
    """Label every image, keep the predictions, and return accuracy, loss and calibration."""
    from ...features import voting

    started = time.perf_counter()
    if inputs.samples is None:
        predicted, shares = _of_export(inputs)
    else:
        predicted, shares = _of_network(spec, inputs, context)
    seconds = time.perf_counter() - started
    labels = inputs.labels
    counts = voting.confusion(labels, predicted, len(inputs.classes))
    own = np.clip(shares[np.arange(len(labels)), labels], np.finfo(np.float64).tiny, None)
    scores = {
        "test_accuracy": voting.mean_per_class_accuracy(counts),
        "test_top1": float(counts.trace() / counts.sum()),
        "test_loss": float(-np.log(own).mean()),
        "test_calibration_error": calibration.expected_calibration_error(shares, labels),
        "test_s": seconds,
        "total_s": seconds,
    }
    predictions.write(context.folder, predicted, labels)
    files.write_text(context.folder / PREDICTED, _table(inputs, predicted, shares))
    details: dict[str, Any] = {
        "classes": list(inputs.classes),
        "confusion": counts.tolist(),
        "test_images": len(labels),
        "is_refit": inputs.is_refit,
    }
    return Result.of(spec, scores=scores, details=details)


def _of_export(inputs: EvaluationInputs) -> tuple[np.ndarray, np.ndarray]:
    """Return classes (n,) and probabilities (n, k) of an exported model."""
    from ...models.onnx_file import OnnxModel
    from ..export import labelled

    model = OnnxModel(Path(inputs.model))
    predicted, shares = labelled(model, [Path(path) for path in inputs.files])
    return predicted, shares.astype(np.float64)


def _of_network(
    spec: Evaluation, inputs: EvaluationInputs, context: TrialContext
) -> tuple[np.ndarray, np.ndarray]:
    """Return classes (n,) of the crops' vote and mean probabilities (n, k) of a network."""
    from scipy.special import softmax

    from ...features import voting
    from ...models import training
    from ...models.recipe import Recipe
    from .models import GivenModel, network_of

    assert inputs.samples is not None
    assert spec.architecture is not None
    given = GivenModel(Path(inputs.model), spec.architecture, inputs.classes, spec.weights)
    network = network_of(given, spec, len(inputs.classes)).to(context.device)
    place = training.TrainingContext(context.device, stopping=context.stopping)
    recipe = Recipe(precision=spec.precision)
    logits = training.predict(network, inputs.samples, recipe, place)
    crops = inputs.samples.crops
    predicted = voting.per_image(logits, crops, spec.vote)
    shares = softmax(logits.astype(np.float64), axis=1)
    return predicted, shares.reshape(len(predicted), crops, -1).mean(axis=1)


def _table(inputs: EvaluationInputs, predicted: np.ndarray, shares: np.ndarray) -> str:
    """Return a row for each image: file, its class, the predicted one and its probability."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label", "predicted", "probability"])
    for path, label, guess, row in zip(inputs.files, inputs.labels, predicted, shares, strict=True):
        names = (inputs.classes[label], inputs.classes[guess])
        writer.writerow([path, *names, f"{row[guess]:.6g}"])
    return text.getvalue()
