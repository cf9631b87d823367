"""All images of a data set as train, val and test, of all its classes or of a half of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import files
from ..data import datasets
from ..data.folders import Image, ImageFolder
from ..data.hold_out import draw_per_class
from ..data.pixels import Pixels
from ..data.sides import Sides
from ..data.sizing import Sizing
from ..data.streams import seeded_permutation
from ..errors import BadDataError, counted, raise_all
from ..lab.records import DataInput
from ..lab.settings import Settings
from ..models import backbones
from ..models.samples import Samples
from .few_shot import Inputs
from .image_data import decoded, located
from .image_data import divided as sides_of
from .whole_dataset import WholeDataset

Progress = Callable[[int, int], None]
ROLES = ("train", "val", "test")


@dataclass(frozen=True)
class Pools:
    """Images of each role, their digests, and notes."""

    folder: ImageFolder
    images: dict[str, tuple[Image, ...]]
    held: Pixels
    places: dict[Image, int]
    notes: tuple[str, ...] = ()

    def task(self, classes: Sequence[str]) -> tuple[Inputs, str]:
        """Return the inputs of a training of these classes, and their digest.

        Labels index the classes in their order.
        """
        number = {label: i for i, label in enumerate(classes)}
        parts = []
        for role in ROLES:
            images = [image for image in self.images[role] if image.label in number]
            parts.append(
                Samples(
                    self.held,
                    np.array([self.places[image] for image in images], np.int64),
                    np.array([number[image.label] for image in images], np.int64),
                )
            )
        content = files.digest(
            [
                list(classes),
                *([self.held.subset(part.images).digest, part.labels.tolist()] for part in parts),
            ]
        )
        train, val, test = parts
        return Inputs(tuple(classes), train, val, test), content

    def record(self, content: str) -> DataInput:
        """Return the record of the data set."""
        return {
            "name": self.folder.name,
            "source": str(self.folder.root),
            "digest": content[:36],
            "context": "test",
        }


def listed(spec: WholeDataset, settings: Settings, notes: list[str]) -> ImageFolder:
    """List the images of `spec`, not read yet.

    What was left out is appended to the notes.
    """
    return located(spec.dataset, settings, notes)


def read(
    spec: WholeDataset,
    settings: Settings,
    progress: Progress | None = None,
    folder: ImageFolder | None = None,
) -> Pools:
    """Read the images of `folder` (else those of `spec`), divided and decoded.

    Raises BadDataError with all errors.
    """
    notes: list[str] = []
    folder = folder or listed(spec, settings, notes)
    images = divided(folder, spec, sides_of(folder, settings, notes, progress))
    everything = [image for role in ROLES for image in images[role]]
    row = backbones.lookup(spec.architecture)
    sizing = Sizing(
        spec.input_size or row.input_size, crops=False, mode=spec.sizing, channels=row.channels
    )
    held = decoded(folder, everything, sizing, settings, notes, progress)
    return Pools(
        folder, images, held, {image: place for place, image in enumerate(everything)}, tuple(notes)
    )


def divided(folder: ImageFolder, spec: WholeDataset, sides: Sides) -> dict[str, tuple[Image, ...]]:
    """Divide the images into roles: split folders as they are, else val and test drawn.

    They are drawn per class, seeded.

    A draw depends on the seed, its purpose and the class alone, so another data set size or class
    changes no other. Copies of an image that is drawn are on no other side.
    """
    test, val, train = list(sides.test), list(sides.val), sides.train
    for role, images, count in (
        ("test", test, spec.test_per_class),
        ("val", val, spec.val_per_class),
    ):
        if not images:
            images.extend(draw_per_class(train, count, spec.seed, role))
            train = sides.without_copies(train, images)
    train = cut(
        train,
        dict.fromkeys(folder.classes, spec.train_per_class) if spec.train_per_class else {},
        spec.seed,
        "train",
    )
    roles = {"train": train, "val": val, "test": test}
    _refuse_empty(folder, roles, sides)
    roles["train"] = cut(train, balanced(_counts(train), spec.balance), spec.seed, "balanced train")
    roles["test"] = cut(
        test, balanced(_counts(test), spec.balance_test), spec.seed, "balanced test"
    )
    return {role: tuple(images) for role, images in roles.items()}


def balanced(counts: dict[str, int], how: str) -> dict[str, int]:
    """Return class → images kept by a way of balancing.

    "none": all; "undersampling": the largest class as many as the second largest; "equals": all as
    many as the smallest.
    """
    ascending = sorted(counts.values())
    most = {
        "none": ascending[-1],
        "undersampling": ascending[-2] if len(ascending) > 1 else ascending[-1],
        "equals": ascending[0],
    }[how]
    return {label: min(count, most) for label, count in counts.items()}


def cut(images: list[Image], counts: dict[str, int], seed: int, purpose: str) -> list[Image]:
    """Draw so many images of each class named, in their old order; keep all of the others."""
    stay: set[Image] = set()
    for label, count in counts.items():
        of_class = [image for image in images if image.label == label]
        stay |= {
            of_class[i]
            for i in seeded_permutation(len(of_class), seed, "whole data", purpose, label)[:count]
        }
    return [image for image in images if image in stay or image.label not in counts]


def _counts(images: Sequence[Image]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for image in images:
        counts[image.label] = counts.get(image.label, 0) + 1
    return counts


def _refuse_empty(folder: ImageFolder, roles: dict[str, list[Image]], sides: Sides) -> None:
    if len(folder.classes) < 2:
        raise BadDataError(
            "one-class",
            f"only one class, '{folder.classes[0]}'",
            where=folder.root,
            expected="at least 2",
        )
    remedy = {
        "train": "use a smaller --val-per-class or --test-per-class",
        "val": "use a smaller --val-per-class",
        "test": "use a smaller --test-per-class",
    }
    problems = []
    for role, images in roles.items():
        empty = [label for label in folder.classes if label not in _counts(images)]
        if empty:
            hidden = counted(len(empty) - 5, "more class", "more classes")
            more = f" and {hidden}" if len(empty) > 5 else ""
            what = f"no {role} image of class {', '.join(map(repr, empty[:5]))}{more}"
            problems.append(
                BadDataError(
                    "too-few-images",
                    "; ".join([what, *sides.notes]),
                    where=folder.root,
                    expected="some of every class",
                    remedy=remedy[role],
                )
            )
    raise_all(list(problems))


def refuse_few(
    folder: datasets.ImageFolder, sides: Sides, counts: dict[str, int], held: int
) -> None:
    """Raise BadDataError, naming the classes, unless each has enough training images.

    Each needs more than are held for validation.
    """
    few = [f"'{label}' {count}" for label, count in counts.items() if count <= held]
    if few:
        shown = ", ".join(few[:10]) + (
            f" and {counted(len(few) - 10, 'more class', 'more classes')}" if len(few) > 10 else ""
        )
        raise BadDataError(
            "too-few-images",
            "; ".join([f"training images of {shown}", *sides.notes]),
            where=folder.root,
            expected=f"more than the {held} of each class held for validation",
            remedy="use a smaller --val-per-class",
        )


def _refuse_untrained(folder: datasets.ImageFolder, sides: Sides) -> None:
    if not sides.train:
        raise BadDataError(
            "too-few-images",
            "; ".join(["no training image", *sides.notes]),
            where=folder.root,
            expected="images in a folder named train that are not in val or test too",
        )


def _first(images: list[Any], per_class: int) -> list[Any]:
    """Return the first so many of each class, in their order; all for 0."""
    seen: Counter[str] = Counter()
    kept = []
    for image in images:
        seen[image.label] += 1
        if not per_class or seen[image.label] <= per_class:
            kept.append(image)
    return kept
