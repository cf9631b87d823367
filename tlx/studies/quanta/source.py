"""Source of a QUANTA study: where its weights come from, and its training if it has none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ... import files
from ...errors import BadDataError, TlxError, UsageError
from ...lab.store import Store
from ...models import backbones
from ...models.network import Network
from ...models.quanta import cnn as quanta_cnn
from ...models.weights import reader as weights_reader
from ...result import DIVERGED, Result
from ...spec import derive_seed
from .. import pretraining_spec, pretraining_trial
from ..base import Stage, Trial
from ..few_shot import RANDOM, Inputs
from ..few_shot_inputs import common_settings
from ..pretraining_spec import PreTraining
from ..whole_dataset import WEIGHTS
from .data import QuantaImages
from .spec import Quanta, QuantaGrid


@dataclass(frozen=True)
class SourceOf:
    """Origin of the source network.

    name     what it was trained on, for people and file names
    weights  a file, "default" (the backbone's own) or None (random, of `seed`)
    own_head whether the file's head is kept, of as many classes as it has: a source that the study
      trained
    """

    name: str
    architecture: str
    weights: str | None
    input_size: int | None = None
    source: str | None = None
    own_head: bool = False
    seed: int = 0

    @property
    def digest(self) -> str:
        """Return what identifies the weights.

        Raises MissingError, UnknownNameError or an error of the file.
        """
        return backbones.digest(self.architecture, self.weights, self.source)

    def load(self, sha256: str | None = None) -> Network:
        """Load the network, in evaluation mode.

        sha256: `digest` when the study was planned; IntegrityError if it has changed since.
        """
        row = backbones.lookup(self.architecture)
        state = None
        if self.weights is not None and (self.own_head or row.model.startswith("quanta-cnn")):
            state = weights_reader.read(
                self.weights,
                sha256=sha256 or None,
                like=backbones.meta_model(self.architecture).net,
            )
        if state is None:
            return backbones.load(
                self.architecture,
                weights=self.weights,
                classes=row.classes,
                seed=self.seed,
                source=self.source,
                input_size=self.input_size,
                sha256=sha256,
            )
        if state.kind == "keras":
            state = quanta_cnn.from_keras(state)
        head = backbones.meta_model(self.architecture).head_names[0]
        if f"{head}.weight" not in state:
            raise BadDataError(
                "weights-match",
                f"no '{head}.weight'",
                where=self.weights,
                expected=f"weights of {row.title}",
            )
        blank = backbones.load(
            self.architecture,
            weights=None,
            classes=len(state[f"{head}.weight"]),
            seed=0,
            input_size=self.input_size,
        )
        weights_reader.load_into(blank.net, state, least=1.0)
        return blank


def source_of(spec: Quanta, sweep: QuantaGrid) -> SourceOf | None:
    """Return where the source's weights are; None where the study is to train them.

    Raises UsageError for options in conflict.
    """
    given = {
        "--model": spec.model,
        "--source": spec.source,
        "--source-dataset": sweep.source_dataset,
        "--halves": sweep.halves,
    }
    options = [option for option, value in given.items() if value]
    if len(options) > 1:
        raise UsageError(
            "conflict",
            " with ".join(options),
            expected="one of them: where the source's weights come from",
        )
    architecture = spec.source_architecture or spec.architecture
    row = backbones.lookup(architecture)
    if sweep.source_dataset or sweep.halves:
        return None
    if spec.model:
        return SourceOf(
            Path(spec.model).stem, architecture, str(Path(spec.model).expanduser()), spec.input_size
        )
    if (spec.source or "").lower() == RANDOM:
        return SourceOf(
            RANDOM, architecture, None, spec.input_size, seed=derive_seed(spec.seed, "source")
        )
    if not row.weights:
        raise UsageError(
            "no-source",
            f"{row.title} comes without weights, and a source is a trained network",
            where="--architecture",
            expected="--model FILE, --source-dataset NAME or --halves",
        )
    return SourceOf(
        (spec.source or row.source).lower(), architecture, "default", spec.input_size, spec.source
    )


def source_study(spec: Quanta, sweep: QuantaGrid, images: QuantaImages) -> Stage:
    """Return the only trial, which trains the source.

    As `tlx pretrain` would with the target's optimizer, rate and batches.
    """
    architecture = spec.source_architecture or spec.architecture
    pretraining = PreTraining(
        architecture=architecture,
        dataset=str(sweep.source_dataset or spec.dataset),
        input_size=spec.input_size,
        sizing=spec.sizing,
        val_per_class=spec.val_per_class,
        epochs=sweep.source_epochs or spec.epochs,
        batch_size=spec.batch_size,
        learning_rate=sweep.source_rate or spec.learning_rate,
        seed=derive_seed(spec.seed, "source"),
        images=images.digest,
    )
    inputs = Inputs(
        images.classes, images.parts["train"], images.parts["val"], images.parts.get("test")
    )
    return Stage(
        key=files.digest(["study", pretraining.identity()]),
        run=pretraining_trial.run,
        experiment=pretraining_spec.EXPERIMENT,
        title=f"source of QUANTA: {architecture} on {images.name}",
        spec=common_settings(pretraining),
        trials=(Trial(pretraining, inputs),),
        inputs=(images.record("train"),),
        tags={"tlx.dataset": images.name},
        notes=images.notes,
    )


def trained(result: Result, store: Store, spec: Quanta, images: QuantaImages) -> SourceOf:
    """Return the source that a finished `source_study` trained."""
    if result.status == DIVERGED:
        raise TlxError(
            "source-diverged",
            "the source's training came to numbers that are not finite",
            remedy="use a smaller --source-rate",
        )
    return SourceOf(
        images.name,
        spec.source_architecture or spec.architecture,
        str(store.file(result.key, WEIGHTS)),
        spec.input_size,
        own_head=True,
    )
