"""Few-shot splits drawn from an image folder: seeded, k per class, no image on two sides.

Every order comes from (seed, purpose, label, …) over images sorted by path, so that a draw does not
depend on the order of a directory listing, on other classes, or on how many draws are requested.
Images with equal bytes are one image: the first by path represents all; bytes under two labels are
drawn for no split. Where the folder has a test split, test.csv is that split as it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .. import files
from ..errors import BadDataError, TlxError, UsageError, raise_all
from .csvs import Row
from .folders import TEST, TRAIN, VAL, Image, ImageFolder
from .hold_out import draw_per_class
from .sides import under_two_labels

Digests = Callable[[Sequence[Path]], Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class DrawPlan:
    """Settings of a draw of splits.

    shots           training images per class, ascending
    draws           independent draws of each, numbered from 0
    largest_draws   draws of the largest shots; None: as many as of the others
    val_per_class   images per class for validation
    test_per_class  images per class for test; None: the whole test split, 50 where the folder has
                    none
    """

    shots: tuple[int, ...]
    draws: int = 5
    largest_draws: int | None = None
    val_per_class: int = 10
    test_per_class: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        numbers = {
            "shots": min(self.shots, default=0),
            "draws": self.draws,
            "val-per-class": self.val_per_class,
            "test-per-class": 1 if self.test_per_class is None else self.test_per_class,
            "largest-draws": 1 if self.largest_draws is None else self.largest_draws,
            "seed": self.seed + 1,
        }
        raise_all(
            [
                UsageError("out-of-range", f"{value}", where=name, expected="at least 1")
                for name, value in numbers.items()
                if value < 1
            ]
        )
        object.__setattr__(self, "shots", tuple(sorted(set(self.shots))))

    def draws_of(self, shots: int) -> int:
        """Return how many draws there are of `shots` per class."""
        return (
            self.draws
            if shots != self.shots[-1] or self.largest_draws is None
            else self.largest_draws
        )


NAMED = 10  # classes that an error names
TEST_PER_CLASS = 50  # default where a folder has no test split


@dataclass
class Drawn:
    """Image rows of every CSV, file name → images in file order, and notes on what was left out."""

    csvs: dict[str, list[Image]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def train_name(shots: int, split: int) -> str:
    """Return the file name of a training draw."""
    return f"train_samples_{shots:02d}_split_{split}.csv"


def sha256_of(paths: Sequence[Path]) -> list[str]:
    """Compute the SHA-256 of each file's bytes."""
    return [files.sha256(path) for path in paths]


def choose(folder: ImageFolder, plan: DrawPlan, digests: Digests = sha256_of) -> Drawn:
    """Choose the images of each CSV.

    Raises BadDataError naming every class that has too few, before anything is drawn.
    """
    drawn = Drawn()
    images = sorted(folder.images, key=lambda image: os.fsencode(image.path))
    content = dict(
        zip(images, digests([folder.root / image.path for image in images]), strict=True)
    )
    unclear = under_two_labels(content)
    train, val, test = _pools(folder, images, drawn)
    if test is None:
        train = _distinct(train, content, unclear, drawn, "training")
        test = draw_per_class(train, plan.test_per_class or TEST_PER_CLASS, plan.seed, "test")
    elif plan.test_per_class is not None:
        test = draw_per_class(
            _distinct(test, content, unclear, drawn, "test"), plan.test_per_class, plan.seed, "test"
        )
    held = unclear | {content[image] for image in test}
    train = _distinct(train, content, held, drawn, "training" if folder.splits != ("",) else "")
    source = train if val is None else _distinct(val, content, held, drawn, "val")
    chosen_val = draw_per_class(source, plan.val_per_class, plan.seed, "val")
    train = _distinct(train, content, {content[image] for image in chosen_val}, drawn, "")
    _refuse_too_few(folder, plan, test, chosen_val, train)
    drawn.csvs = {"val.csv": chosen_val, "test.csv": test, "all_images.csv": images}
    for shots in plan.shots:
        for split in range(plan.draws_of(shots)):
            drawn.csvs[train_name(shots, split)] = draw_per_class(
                train, shots, plan.seed, "train", shots, split
            )
    return drawn


def row_of(name: str, image: Image) -> Row:
    """Return the CSV row of an image of the data set `name`."""
    return Row(f"{name}/{image.path}", image.split, image.filename, image.label)


def _pools(
    folder: ImageFolder, images: list[Image], drawn: Drawn
) -> tuple[list[Image], list[Image] | None, list[Image] | None]:
    """Return the images to draw train, val and test from; None: from train.

    A val without a test is the test.
    """

    def named(names: tuple[str, ...]) -> list[Image] | None:
        wanted = set(folder.of(names))
        return [image for image in images if image in wanted] or None

    train, val, test = named(TRAIN), named(VAL), named(TEST)
    if train is None and folder.splits != ("",):
        raise BadDataError(
            "no-train-split",
            f"the splits are {', '.join(folder.splits)}",
            where=folder.root,
            expected="one named train",
        )
    if test is None and val is not None:
        drawn.notes.append(
            "the folder has no test split: its val split is the test, val is drawn from train"
        )
        val, test = None, val
    return train or images, val, test


def _distinct(
    images: list[Image], content: dict[Image, str], held: set[str], drawn: Drawn, role: str
) -> list[Image]:
    """Return the first image of each content that is not in `held`.

    What is left out becomes a note of `role` if given.
    """
    kept: dict[str, Image] = {}
    for image in images:
        if content[image] not in held:
            kept.setdefault(content[image], image)
    if role and len(kept) < len(images):
        drawn.notes.append(
            f"{len(images) - len(kept)} of {len(images)} {role} images are not drawn: their bytes "
            f"are "
            "in another image, in test, or under two labels"
        )
    return list(kept.values())


def _refuse_too_few(
    folder: ImageFolder, plan: DrawPlan, test: list[Image], val: list[Image], train: list[Image]
) -> None:
    problems: list[TlxError] = []
    if len(folder.classes) < 2:
        problems.append(
            BadDataError(
                "one-class",
                f"only one class, '{folder.classes[0]}'",
                where=folder.root,
                expected="at least 2",
            )
        )
    wanted = (
        ("test", test, plan.test_per_class or (TEST_PER_CLASS if not folder.of(TEST + VAL) else 1)),
        ("val", val, plan.val_per_class),
        ("train", train, plan.shots[-1]),
    )
    for role, images, want in wanted:
        have = dict.fromkeys(folder.classes, 0)
        for image in images:
            have[image.label] += 1
        few = {label: count for label, count in have.items() if count < want}
        if few:
            problems.append(_too_few(folder, role, few, want, plan))
    raise_all(problems)


def _too_few(
    folder: ImageFolder, role: str, few: dict[str, int], want: int, plan: DrawPlan
) -> BadDataError:
    """Return one error for all classes with too few images of a role, the poorest named first."""
    poorest = sorted(few.items(), key=lambda item: item[1])
    shown = ", ".join(f"'{label}' {have}" for label, have in poorest[:NAMED])
    more = f" and {len(few) - NAMED} more classes" if len(few) > NAMED else ""
    what = (
        f"{len(few)} of {len(folder.classes)} classes have fewer than {want} images for {role}: "
        f"{shown}{more}"
    )
    if role == "train":
        lost = [shots for shots in plan.shots if shots > poorest[0][1]]
        what += f" (shots {', '.join(map(str, lost))} cannot be drawn)"
    return BadDataError(
        "too-few-images",
        what,
        where=folder.root,
        remedy="ask for fewer shots, or fewer images per class for val or test",
    )
