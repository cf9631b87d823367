"""Plan a pretraining: divide the images, check the checkpoints."""

from __future__ import annotations

import numpy as np

from .. import files
from ..data import datasets
from ..data.folders import Image
from ..data.hold_out import draw_per_class
from ..data.sides import Sides
from ..data.sizing import Sizing
from ..lab.records import DataInput
from ..lab.settings import Settings
from ..models import backbones
from ..models.samples import Samples
from . import batches, pretraining_spec, pretraining_trial
from .base import Stage, Trial
from .few_shot import Inputs
from .few_shot_inputs import Progress, common_settings
from .image_data import decoded, divided, located
from .pretraining_spec import PreTraining
from .whole_dataset_inputs import _first, _refuse_untrained, refuse_few


def pretraining_study(
    spec: PreTraining, settings: Settings, progress: Progress | None = None
) -> Stage:
    """Return the only trial of a pre-training on all images of a data set."""
    notes: list[str] = []
    folder = located(spec.dataset, settings, notes)
    row = backbones.lookup(spec.architecture)
    train, val, test = _pools(folder, divided(folder, settings, notes, progress), spec)
    everything = [*train, *val, *test]
    sizing = Sizing(
        spec.input_size or row.input_size, crops=False, mode=spec.sizing, channels=row.channels
    )
    held = decoded(folder, everything, sizing, settings, notes, progress)
    labels = np.array([folder.classes.index(image.label) for image in everything], np.int64)
    ends = np.cumsum([len(train), len(val), len(test)])
    parts = [
        Samples(held, rows, labels[rows])
        for rows in np.split(np.arange(len(everything)), ends[:-1])
    ]
    content = files.digest([folder.classes, held.digest, labels.tolist(), ends.tolist()])
    pretraining_spec.checkpoint_steps(
        spec.checkpoints, -(-len(train) // spec.batch_size), spec.epochs
    )
    spec = spec.replace(images=content)
    inputs = Inputs(folder.classes, parts[0], parts[1], parts[2] if len(test) else None)
    dataset: DataInput = {
        "name": folder.name,
        "source": str(folder.root),
        "digest": content[:36],
        "context": "train",
    }
    trials = (Trial(spec, inputs),)
    batches.check(trials)
    return Stage(
        key=files.digest(["study", spec.identity()]),
        run=pretraining_trial.run,
        experiment=pretraining_spec.EXPERIMENT,
        title=f"{spec.architecture} on {folder.name}",
        spec=common_settings(spec),
        trials=trials,
        inputs=(dataset,),
        tags={"tlx.dataset": folder.name},
        notes=tuple(notes),
    )


def _pools(
    folder: datasets.ImageFolder, sides: Sides, spec: PreTraining
) -> tuple[list[Image], list[Image], list[Image]]:
    """Return all images as train, val and test.

    val is drawn from the training images, seeded, where there is no val folder.
    """
    if sides.val:
        _refuse_untrained(folder, sides)
        return _first(sides.train, spec.train_per_class), sides.val, sides.test
    by_class: dict[str, list[Image]] = {label: [] for label in folder.classes}
    for image in sides.train:
        by_class[image.label].append(image)
    refuse_few(
        folder,
        sides,
        {label: len(images) for label, images in by_class.items()},
        spec.val_per_class,
    )
    val = draw_per_class(sides.train, spec.val_per_class, spec.seed, "val")
    return _first(sides.without_copies(sides.train, val), spec.train_per_class), val, sides.test
