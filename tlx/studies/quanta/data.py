"""Images of a QUANTA study: a data set or part of its classes, as train, val and test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ... import files
from ...data import datasets
from ...data.folders import Image
from ...data.hold_out import draw_per_class
from ...data.sides import Sides
from ...data.sizing import Sizing
from ...errors import BadDataError
from ...lab.records import DataInput
from ...lab.settings import Settings
from ...models.backbones import BackboneRow
from ...models.samples import Samples
from ..image_data import decoded, divided, located
from ..whole_dataset_inputs import refuse_few
from .spec import Quanta

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class QuantaImages:
    """Parts of a data set, whose labels index `classes`.

    digest: of pixels, labels and parts. notes: for people.
    """

    name: str
    root: str
    classes: tuple[str, ...]
    parts: dict[str, Samples]
    digest: str
    notes: tuple[str, ...] = ()

    def record(self, context: str) -> DataInput:
        """Return the record of the data set."""
        return {
            "name": self.name,
            "source": self.root,
            "digest": self.digest[:36],
            "context": context,
        }


def folder_of(dataset: str, settings: Settings) -> datasets.ImageFolder:
    """Return the data set, found or materialised."""
    return located(dataset, settings, [])


def images_of(
    folder: datasets.ImageFolder,
    classes: Sequence[str],
    spec: Quanta,
    row: BackboneRow,
    settings: Settings,
    progress: Progress | None = None,
    *,
    suffix: str = "",
) -> QuantaImages:
    """Read the parts of these classes of a folder.

    Validation images are drawn where there is no val folder.
    """
    notes = list(folder.notes)
    sides = divided(folder, settings, notes, progress)
    counts = {label: 0 for label in classes if label not in {image.label for image in sides.val}}
    for image in sides.train:
        if image.label in counts:
            counts[image.label] += 1
    refuse_few(folder, sides, counts, spec.val_per_class)
    chosen = _roles(folder, sides, classes, list(counts), spec)
    everything = [image for images in chosen.values() for image in images]
    sizing = Sizing(
        spec.input_size or row.input_size, crops=False, mode=spec.sizing, channels=row.channels
    )
    held = decoded(folder, everything, sizing, settings, notes, progress)
    number = {label: i for i, label in enumerate(classes)}
    labels = np.array([number[image.label] for image in everything], np.int64)
    ends = np.cumsum([len(images) for images in chosen.values()])
    rows = np.split(np.arange(len(everything)), ends[:-1])
    parts = {
        part: Samples(held, images, labels[images])
        for part, images in zip(chosen, rows, strict=True)
        if len(images)
    }
    content = files.digest([list(classes), held.digest, labels.tolist(), ends.tolist()])
    return QuantaImages(
        folder.name + suffix, str(folder.root), tuple(classes), parts, content, tuple(notes)
    )


def _roles(
    folder: datasets.ImageFolder,
    sides: Sides,
    classes: Sequence[str],
    without_val: Sequence[str],
    spec: Quanta,
) -> dict[str, list[Image]]:
    """Return the images of train, val and test, class by class.

    Validation images of classes without any are drawn from their training images.
    """
    pool = [image for image in sides.train if image.label in without_val]
    drawn = draw_per_class(pool, spec.val_per_class, spec.seed, "val")
    train, val = sides.without_copies(sides.train, drawn), [*sides.val, *drawn]
    roles: dict[str, list[Image]] = {"train": [], "val": [], "test": []}
    for label in classes:
        of_class = [image for image in train if image.label == label]
        if not of_class:
            raise BadDataError(
                "too-few-images",
                "; ".join([f"class '{label}' has no training image", *sides.notes]),
                where=folder.root,
            )
        roles["train"] += of_class[: spec.train_per_class or None]
        roles["val"] += [image for image in val if image.label == label]
        tests = [image for image in sides.test if image.label == label]
        roles["test"] += tests[: spec.test_per_class or None]
    return roles
