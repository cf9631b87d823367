"""Held-out images and halves of classes: one rule for every study.

An order is drawn from (seed, purpose, label) over the images of a class sorted by path. It depends
neither on other classes nor on the order of a directory listing, and a draw of fewer images is part
of a draw of more. Few-shot splits, pretraining, QUANTA and studies of whole data sets hold out the
same validation images of the same folder, seed and count.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from ..errors import UsageError, counted
from .folders import Image, sorted_labels
from .streams import seeded_permutation

LEAST_CLASSES = 4  # of which each half has at least 2 to distinguish


def draw_per_class(
    images: Iterable[Image], count: int, seed: int, *purpose: str | int
) -> list[Image]:
    """Draw `count` images of each class, grouped by class and sorted by path.

    Fewer where there are fewer. purpose: what they are for, "val" or "test"; other purposes give
    other draws of the same seed.
    """
    by_label: dict[str, list[Image]] = {}
    for image in sorted(images, key=lambda image: os.fsencode(image.path)):
        by_label.setdefault(image.label, []).append(image)
    drawn = []
    for label in sorted_labels(by_label):
        members = by_label[label]
        order = seeded_permutation(len(members), seed, *purpose, label)
        drawn += [members[index] for index in sorted(order[:count])]
    return drawn


def halves(
    classes: Sequence[str], choice: str, seed: int, where: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the classes of A and of B, each in the order of `classes`.

    choice  A has the "first" half, the "second", or one that is drawn, "random"
    where   option that requests halves, for the error
    raises  UsageError: fewer than 4 classes

    Of an odd number A has one more: A is the source of a transfer, and the larger task in Yosinski
    et al. 2014 (arXiv:1411.1792, section 3).
    """
    if len(classes) < LEAST_CLASSES:
        raise UsageError(
            "halves",
            f"{counted(len(classes), 'class', 'classes')}",
            where=where,
            expected=f"at least {LEAST_CLASSES}, so that each half has two to distinguish",
            remedy="give a data set of more classes, or the source's weights: --model",
        )
    size = -(-len(classes) // 2)
    if choice == "random":
        order = seeded_permutation(len(classes), seed, "halves")
        chosen = {classes[index] for index in order[:size]}
    else:
        chosen = set(classes[:size] if choice == "first" else classes[len(classes) - size :])
    return (
        tuple(label for label in classes if label in chosen),
        tuple(label for label in classes if label not in chosen),
    )
