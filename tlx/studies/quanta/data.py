"""Images of a QUANTA study: a data set or part of its classes, as train, val and test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ... import files
from ...data import datasets
from ...data.folders import Image
from ...data.sides import Sides
from ...data.sizing import Sizing
from ...errors import BadDataError, UsageError
from ...lab.settings import Settings
from ...models.backbones import BackboneRow
from ...models.samples import Samples
from ...spec import derive_seed
from ..image_data import decoded, divided, located
from ..whole_dataset_inputs import refuse_few
from .spec import Quanta

Progress = Callable[[int, int], None]
LEAST = 4  # classes that can be halved


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

    def record(self, context: str) -> dict[str, str]:
        """Return the record of the data set."""
        return {
            "name": self.name,
            "source": self.root,
            "digest": self.digest[:36],
            "context": context,
        }


def halves(classes: Sequence[str], seed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return two random halves of the classes, each sorted.

    Of an odd number the first has one more (Yosinski et al. 2014, arXiv:1411.1792, section 3).
    """
    if len(classes) < LEAST:
        raise UsageError(
            "halves", f"{len(classes)} classes", where="--halves", expected=f"at least {LEAST}"
        )
    order = np.random.default_rng(derive_seed(seed, "halves")).permutation(len(classes))
    middle = -(-len(classes) // 2)
    first, second = (
        tuple(classes[i] for i in sorted(half)) for half in (order[:middle], order[middle:])
    )
    return first, second


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
    chosen = {"train": list[Image](), "val": list[Image](), "test": list[Image]()}
    counts = {label: 0 for label in classes if label not in {image.label for image in sides.val}}
    for image in sides.train:
        if image.label in counts:
            counts[image.label] += 1
    refuse_few(folder, sides, counts, spec.val_per_class)
    for label in classes:
        for part, images in _of_class(folder, sides, label, spec).items():
            chosen[part] += images
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


def _of_class(
    folder: datasets.ImageFolder, sides: Sides, label: str, spec: Quanta
) -> dict[str, list[Image]]:
    """Return the images of one class: train, val and test."""
    pool, val, test = (
        [i for i in side if i.label == label] for side in (sides.train, sides.val, sides.test)
    )
    if not val:
        order = np.random.default_rng(derive_seed(spec.seed, "val", label)).permutation(len(pool))
        held = {pool[i] for i in order[: spec.val_per_class]}
        pool, val = sides.without_copies(pool, held), [i for i in pool if i in held]
    if not pool:
        raise BadDataError(
            "too-few-images",
            "; ".join([f"class '{label}' has no training image", *sides.notes]),
            where=folder.root,
        )
    return {
        "train": pool[: spec.train_per_class or None],
        "val": val,
        "test": test[: spec.test_per_class or None],
    }
