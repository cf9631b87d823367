"""Training, validation and test images of a folder, none of whose bytes are on two sides.

Folders count as they are; a copy gives way to the image that is held out: training images whose
bytes are in a validation or test image are left out, and so are validation images whose bytes are
in a test image. Bytes that the folder holds under more than one label are left out of training and
validation. Every study that divides a folder itself starts from here; few-shot splits are drawn by
the same rule (see draws), and split CSVs are checked (see leaks).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .folders import TEST, TRAIN, VAL, Image, ImageFolder

Content = Mapping[Image, str]  # image → digest of its bytes


@dataclass
class Sides:
    """Images of each split folder without copies.

    val and test are empty where there is no such folder.

    notes  how many images were left out and why, in words
    """

    content: Content
    train: list[Image]
    val: list[Image]
    test: list[Image]
    notes: list[str] = field(default_factory=list)

    def without_copies(self, images: Iterable[Image], held: Iterable[Image]) -> list[Image]:
        """Return the images whose bytes are those of no held one."""
        taken = {self.content[image] for image in held}
        return [image for image in images if self.content[image] not in taken]


def sides_of(folder: ImageFolder, content: Content) -> Sides:
    """Divide a folder by its split folders.

    Without one for training, all other images are for training.
    """
    test, val = list(folder.of(TEST)), list(folder.of(VAL))
    taken = {*test, *val}
    train = list(folder.of(TRAIN)) or [image for image in folder.images if image not in taken]
    unclear = under_two_labels(content)
    held_by_test = {content[image] for image in test}
    held = held_by_test | {content[image] for image in val}
    sides = Sides(content, [], [], test)
    sides.val = _kept(
        val,
        content,
        unclear,
        held_by_test,
        role="validation",
        holder="a test image",
        notes=sides.notes,
    )
    sides.train = _kept(
        train,
        content,
        unclear,
        held,
        role="training",
        holder="a validation or test image",
        notes=sides.notes,
    )
    return sides


def under_two_labels(content: Content) -> set[str]:
    """Return the digests of bytes that a folder holds under more than one label."""
    label: dict[str, str] = {}
    return {
        digest
        for image, digest in content.items()
        if label.setdefault(digest, image.label) != image.label
    }


def _kept(
    images: list[Image],
    content: Content,
    unclear: set[str],
    held: set[str],
    *,
    role: str,
    holder: str,
    notes: list[str],
) -> list[Image]:
    copies = sum(content[image] in held for image in images)
    torn = sum(content[image] in unclear and content[image] not in held for image in images)
    if copies:
        notes.append(
            f"{copies} of {len(images)} {role} images are left out: their bytes are those of "
            f"{holder}"
        )
    if torn:
        notes.append(
            f"{torn} of {len(images)} {role} images are left out: the same bytes are under two "
            f"labels"
        )
    return [
        image for image in images if content[image] not in held and content[image] not in unclear
    ]
