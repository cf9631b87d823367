"""Trials of a study of checkpoints: a network left untrained, scored, or fine-tuned.

A fine-tuning is scored at named moments (after so many batches or epochs) on the test, the
validation and some training images; the area under its test accuracy over these moments is the
transfer performance of the checkpoint it began with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ... import files
from ...errors import TlxError
from ...result import DIVERGED, Result
from ...spec import Spec, derive_seed
from .. import pretraining_trial
from ..few_shot import Inputs
from ..pretraining_spec import CHECKPOINTS, PreTraining, checkpoint_steps
from ..training import fit_details, train_seconds, training_context
from .spec import TRAIN_SCORED, UNTRAINED, CheckpointScores, CheckpointTuning, Untrained

if TYPE_CHECKING:
    from ...models.network import Network
    from ...models.samples import Samples
    from ..base import TrialContext


@dataclass(frozen=True)
class CheckpointInputs:
    """Inputs of trials on one set of images: the images, and digest → weights."""

    data: Inputs
    weights: Mapping[str, str]


def run(spec: Spec, inputs: object, context: TrialContext) -> Result:
    """Run the trial of any of the kinds of a study of checkpoints."""
    return KINDS[type(spec)](spec, inputs, context)


def leave_untrained(spec: Untrained, inputs: object, context: TrialContext) -> Result:
    """Write the initial weights.

    They are those that a pre-training of this seed writes before its first batch.
    """
    from ...models import backbones
    from ...models.weights import reader as weights_reader

    network = backbones.load(
        spec.architecture,
        weights=None,
        classes=spec.classes,
        seed=derive_seed(spec.seed, "weights"),
        input_size=spec.input_size,
    )
    files.make_folder(context.folder / CHECKPOINTS)
    weights_reader.write(
        context.folder / CHECKPOINTS / f"{UNTRAINED}.safetensors",
        network.net.state_dict(),
        {"format": "pt", "step": "0", "epochs": "0"},
    )
    return Result.of(
        spec,
        details={
            "checkpoints": [UNTRAINED],
            "epochs": 0,
            "parameters": sum(p.numel() for p in network.parameters()),
        },
    )


def score_checkpoints(
    spec: CheckpointScores, inputs: CheckpointInputs, context: TrialContext
) -> Result:
    """Score each checkpoint with its own head, in evaluation mode."""
    from ...models import backbones

    board = _ScoreLog(spec, inputs.data, context)
    for done, (tag, digest) in enumerate(zip(spec.checkpoints, spec.weights, strict=True)):
        if tag not in board.rows:
            network = backbones.load(
                spec.architecture,
                weights=inputs.weights[digest],
                classes=None,
                head="keep",
                seed=0,
                input_size=spec.input_size,
                sha256=digest,
            )
            network.normalise(spec.normalisation)
            board.add(tag, network.to(context.device))
        context.tell(done + 1, len(spec.checkpoints))
    last = board.rows[spec.checkpoints[-1]]
    return Result.of(
        spec,
        scores={name: value for name, value in last.items() if name.endswith("_accuracy")},
        details={"moments": board.ordered(spec.checkpoints), "epochs": len(spec.checkpoints)},
    )


def _to_tune(spec: CheckpointTuning, weights: str, classes: int) -> Network:
    """Return the network of a checkpoint with what is drawn anew, and its data set's values."""
    from ...models.transferred import transferred

    network = transferred(
        spec.architecture,
        weights=weights,
        copied=spec.copied,
        classes=classes,
        seed=derive_seed(spec.seed, "head"),
        input_size=spec.input_size,
        sha256=spec.weights,
    )
    network.normalise(spec.normalisation)
    return network


def tune(spec: CheckpointTuning, inputs: CheckpointInputs, context: TrialContext) -> Result:
    """Fine-tune to the end, scoring at every moment; no epoch is selected."""
    from ...features import voting
    from ...metrics.transfer_performance import transfer_performance
    from ...models import training

    data = inputs.data
    network = _to_tune(spec, inputs.weights[spec.weights], len(data.classes))
    steps = -(-len(data.train.rows) // spec.batch_size)
    wanted = checkpoint_steps(spec.checkpoint_steps, steps, spec.epochs)
    board = _ScoreLog(spec, data, context)
    place = training_context(
        context,
        moments=frozenset(wanted),
        on_moment=lambda step, net: board.add(wanted[step], net),
    )
    fitted = training.fit(
        network,
        data.train,
        data.val,
        spec,
        seed=derive_seed(spec.seed, "fit"),
        score=voting.accuracy,
        place=place,
    )
    rows = board.ordered(wanted.values())
    test_counts = voting.class_counts(data.test.labels, len(data.classes)) if data.test else None
    details = fit_details(network, data, fitted)
    details |= {
        "moments": rows,
        "steps": list(wanted),
        "steps_an_epoch": steps,
        "notes": list(network.notes),
        "test_counts": test_counts,
    }
    scores = train_seconds(fitted)
    if fitted.ended == "diverged" or len(rows) < len(wanted):
        return Result.of(
            spec,
            status=DIVERGED,
            scores=scores,
            details=details,
            made_from={"weights": spec.weights},
        )
    scores |= {"test_accuracy": rows[-1]["test_accuracy"], "val_accuracy": rows[-1]["val_accuracy"]}
    if len(rows) > 1:
        scores |= {
            f"transfer_performance{end}": float(
                transfer_performance([row[f"{part}_accuracy"] for row in rows])
            )
            for part, end in (("test", ""), ("val", "_val"))
        }
    return Result.of(spec, scores=scores, details=details, made_from={"weights": spec.weights})


KINDS: dict[type[Spec], Callable[[Any, Any, Any], Result]] = {
    PreTraining: pretraining_trial.run,
    Untrained: leave_untrained,
    CheckpointScores: score_checkpoints,
    CheckpointTuning: tune,
}


class _ScoreLog:
    """Scores by moment, written to the trial's folder as they come.

    An interrupted trial continues after them.

    accuracy   mean per class;  top1: share of all images;  loss: mean cross-entropy in nats
    """

    def __init__(self, spec: object, data: Inputs, context: TrialContext):
        from ...models.recipe import Recipe

        self.recipe = spec if isinstance(spec, Recipe) else Recipe()
        self.context, self.path = (
            context,
            context.folder / "training.moments.json",
        )  # cleared away when the trial is whole
        parts = {"train": _thinned(data.train), "val": data.val, "test": data.test}
        self.parts = {name: samples for name, samples in parts.items() if samples is not None}
        try:
            self.rows: dict[str, dict[str, Any]] = (
                files.read_json(self.path) if self.path.exists() else {}
            )
        except TlxError:  # cut off while it was written: scored again
            self.rows = {}

    def add(self, tag: str, network: Network) -> None:
        """Score a network at a moment, and restore its modes.

        A network that diverged has no row.
        """
        from ...features import voting
        from ...models import training

        modes = {module: module.training for module in network.modules()}
        row: dict[str, Any] = {"tag": tag}
        place = training.TrainingContext(self.context.device, stopping=self.context.stopping)
        try:
            for name, samples in self.parts.items():
                logits = training.predict(network, samples, self.recipe, place)
                row |= {
                    f"{name}_accuracy": voting.accuracy(logits, samples.labels, samples.crops),
                    f"{name}_top1": float(
                        (voting.per_image(logits, samples.crops) == samples.labels).mean()
                    ),
                    f"{name}_loss": training.cross_entropy(logits, samples.row_labels),
                }
        except training.Diverged:
            return
        finally:
            for module, mode in modes.items():
                module.training = mode
        self.rows[tag] = row
        files.write_json(self.path, self.rows)

    def ordered(self, tags: Iterable[str]) -> list[dict[str, Any]]:
        """Return the rows of these moments that exist."""
        return [self.rows[tag] for tag in tags if tag in self.rows]


def _thinned(samples: Samples) -> Samples:
    """Return at most TRAIN_SCORED of the images, evenly spaced."""
    import numpy as np

    if len(samples) <= TRAIN_SCORED:
        return samples
    at = np.linspace(0, len(samples) - 1, TRAIN_SCORED).round().astype(np.int64)
    return type(samples)(samples.pixels, samples.images[at], samples.labels[at])
