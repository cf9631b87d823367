"""ImageFolder: which images there are, as root/<split>/<label>/<image> or root/<label>/<image>.

The rule that tells the two apart: a folder named like a split (train, val, validation, valid, test) that
holds folders and no image of its own is a split. With at least one split, the layout is
root/<split>/<label>/<image> and other folders beside are left out, with a note; without, every folder is
a label. Hidden entries, files that are not images by their name, crops beside their original
(`x_crop_3.jpg` beside `x.jpg`) and folders inside a label are left out too, and counted in a note.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..errors import BadData, Missing, TlxError, nearest, raise_all, visible

TRAIN, VAL, TEST = ("train",), ("val", "validation", "valid"), ("test",)
SPLIT_NAMES = TRAIN + VAL + TEST
EXTENSIONS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
CROP = re.compile(r"(.+)_crop_\d$", re.DOTALL)


class Image(NamedTuple):
    """One image of a folder; `split` is "" where the folder has none."""

    split: str
    label: str
    filename: str

    @property
    def path(self) -> str:
        """Where it lies below the root, with forward slashes."""
        return f"{self.split}/{self.label}/{self.filename}" if self.split else f"{self.label}/{self.filename}"


@dataclass(frozen=True)
class ImageFolder:
    """A folder of images, listed.

    name     the first component of its paths in split CSVs
    images   sorted by the bytes of their paths
    classes  the labels of all images, sorted by their bytes
    splits   the split folders, sorted; ("",) where there are none
    notes    what was left out of the listing, in words
    """

    name: str
    root: Path
    images: tuple[Image, ...]
    classes: tuple[str, ...]
    splits: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def of(self, splits: tuple[str, ...]) -> tuple[Image, ...]:
        """The images of the splits named, in order."""
        return tuple(image for image in self.images if image.split in splits)


@dataclass
class _Walk:
    """What a listing has met so far."""

    images: list[Image] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    problems: list[TlxError] = field(default_factory=list)


def list_images(root: Path, name: str | None = None) -> ImageFolder:
    """The images below `root` by the rule above. BadData if there is none or a name is not UTF-8."""
    root = Path(root)
    if not root.exists():
        near = nearest(root.name, _names(root.parent)) if root.parent.is_dir() else []
        raise Missing("image folder", root.absolute(), made_by=f"the nearest name there is {near[0]}" if near else "")
    if not root.is_dir():
        raise BadData("not-a-folder", "a file", where=root, expected="a folder root/<split>/<label>/<image>")
    walk = _Walk()
    for split, folder in _splits(root, walk):
        _list_labels(folder, split, walk)
    walk.problems += _unreadable_names(walk.images)
    raise_all(walk.problems)
    if not walk.images:
        raise BadData("no-images", "no image found", where=root.absolute(),
                      expected="root/<split>/<label>/<image> or root/<label>/<image>, with one of the endings "
                               + " ".join(sorted(EXTENSIONS)))
    images = sorted(walk.images, key=lambda image: os.fsencode(image.path))
    notes = walk.notes + [f"{count} left out: {what}" for what, count in sorted(walk.left_out.items())]
    return ImageFolder(name or root.resolve().name or "images", root.absolute(), tuple(images),
                       sorted_labels(image.label for image in images),
                       tuple(sorted({image.split for image in images})), tuple(notes))


def sorted_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """The one class order: distinct labels, sorted by their UTF-8 bytes."""
    return tuple(sorted(set(labels), key=os.fsencode))


def _splits(root: Path, walk: _Walk) -> list[tuple[str, Path]]:
    folders = list(_folders(root))
    splits = [f for f in folders if f.name.lower() in SPLIT_NAMES and _holds_only_folders(f)]
    if not splits:
        return [("", root)]
    beside = [f.name for f in folders if f not in splits]
    if beside:
        walk.notes.append(f"left out, for they are no split: {visible(', '.join(beside[:10]))}")
    return [(f.name, f) for f in splits]


def _list_labels(folder: Path, split: str, walk: _Walk) -> None:
    for label_folder in _folders(folder):
        before = len(walk.images)
        _list_label(label_folder, split, walk)
        if len(walk.images) == before:
            walk.notes.append(f"{visible(label_folder)} holds no image")


def _list_label(folder: Path, split: str, walk: _Walk) -> None:
    with os.scandir(folder) as entries:
        names = {entry.name: entry.is_file() for entry in entries if not hidden(entry.name)}
    stems = {os.path.splitext(name)[0] for name in names}
    for name, is_file in names.items():
        crop = CROP.match(os.path.splitext(name)[0])
        if not is_file:
            walk.left_out["folders inside a label, broken links or special files"] += 1
        elif not has_image_name(name):
            walk.left_out["files that are not images by their name"] += 1
        elif crop and crop[1] in stems:
            walk.left_out["crops beside their image"] += 1
        else:
            walk.images.append(Image(split, folder.name, name))


def has_image_name(name: str) -> bool:
    """Whether a file name ends like an image's."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def hidden(name: str) -> bool:
    """Whether an entry is the system's or an editor's, not the user's."""
    return name.startswith((".", "__")) or name.lower() in ("thumbs.db", "desktop.ini")


def _folders(root: Path) -> Iterator[Path]:
    with os.scandir(root) as entries:
        found = [entry.name for entry in entries if entry.is_dir() and not hidden(entry.name)]
    return (root / name for name in sorted(found, key=os.fsencode))


def _holds_only_folders(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        kinds = [entry.is_dir() for entry in entries
                 if not hidden(entry.name) and (entry.is_dir() or has_image_name(entry.name))]
    return bool(kinds) and all(kinds)


def _names(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def _unreadable_names(images: list[Image]) -> list[TlxError]:
    """CSVs are UTF-8, so a name that is not cannot stand in one."""
    bad = [image.path for image in images if not _is_utf8(image.path)]
    return [BadData("name-encoding", "a file name that is not UTF-8", where=path, remedy="rename it")
            for path in bad]


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
