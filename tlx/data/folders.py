"""Image folders: their images, as root/<split>/<label>/<image> or root/<label>/<image>.

The rule that separates the two: a folder named like a split (train, val, validation, valid, test,
in any case) that holds folders and no image of its own is a split. With at least one split, the
layout is root/<split>/<label>/<image> and other folders are left out, with a note; without,
every folder is a label. Entries that begin with a dot, what operating systems and tools leave
behind (see `litter`), files that are not images by their name, crops next to their original
(`x_crop_3.jpg` next to `x.jpg`) and folders inside a label are left out too, and counted in a note;
of images in such folders it says where they are, and how to move them.
A link that leads out of the root is refused unless its target is allowed.
"""

from __future__ import annotations

import os
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..errors import (
    BadDataError,
    MissingError,
    ResourceError,
    TlxError,
    counted,
    escape_control,
    nearest,
    raise_all,
)
from .litter import is_litter
from .path_resolution import Boundary

TRAIN, VAL, TEST = ("train",), ("val", "validation", "valid"), ("test",)
SPLIT_NAMES = TRAIN + VAL + TEST
EXTENSIONS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
UNREAD = {  # endings of images that are not read
    ".heic",
    ".heif",
    ".avif",
    ".jxl",
    ".jp2",
    ".j2k",
    ".jpf",
    ".jpx",
    ".svg",
    ".ico",
    ".psd",
    ".xcf",
    ".tga",
    ".pcx",
    ".dds",
    ".exr",
    ".hdr",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
    ".dcm",
    ".dng",
    ".cr2",
    ".cr3",
    ".nef",
    ".arw",
    ".orf",
    ".rw2",
    ".raf",
    ".raw",
    ".eps",
    ".pdf",
    ".mpo",
    ".apng",
    ".jps",
    ".qoi",
    ".fits",
}
CROP = re.compile(r"(.+)_crop_\d$", re.DOTALL)
SHOWN = 10  # names that a note or an error lists


def role_of(split: str) -> str:
    """Return which split a folder's name means, in any case: train, val or test; "" if none."""
    name = split.lower()
    for role, names in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        if name in names:
            return role
    return ""


class Image(NamedTuple):
    """Image of a folder; `split` is "" where the folder has none."""

    split: str
    label: str
    filename: str

    @property
    def path(self) -> str:
        """Return its path in the root, with forward slashes."""
        return (
            f"{self.split}/{self.label}/{self.filename}"
            if self.split
            else f"{self.label}/{self.filename}"
        )


@dataclass(frozen=True)
class ImageFolder:
    """Folder of images, listed.

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
        """Return the images of the splits named (in any case), in order."""
        return tuple(image for image in self.images if image.split.lower() in splits)


class NestedFolder(NamedTuple):
    """Folder with images inside the folder of a label: they are too deep, and left out.

    shown   its path below the root
    images  number of images in it, at any depth
    """

    folder: Path
    shown: str
    images: int


@dataclass
class _Walk:
    """State of a listing."""

    boundary: Boundary
    images: list[Image] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    unread: dict[str, Counter[str]] = field(default_factory=dict)  # extension → label → files
    nested: list[NestedFolder] = field(default_factory=list)
    litter: Counter[str] = field(
        default_factory=Counter
    )  # folder of a tool or system → images in it
    outside: list[tuple[str, str]] = field(default_factory=list)  # path of a link → where it leads
    closed: list[Path] = field(default_factory=list)  # folders that this user may not read
    problems: list[TlxError] = field(default_factory=list)

    def entries(self, folder: Path) -> list[os.DirEntry[str]]:
        """Return the entries of a folder.

        [] for one that cannot be read, which becomes a problem.
        """
        try:
            with os.scandir(folder) as entries:
                return list(entries)
        except PermissionError:
            if folder not in self.closed:
                self.closed.append(folder)
        except OSError as error:
            self.problems.append(
                ResourceError("storage-failing", f"cannot be read: {error.strerror}", where=folder)
            )
        return []

    def kind(self, entry: os.DirEntry[str]) -> str:
        """Return "folder", "file", or "" for what is neither.

        Special files, links that lead nowhere or out of the root.
        """
        try:
            if entry.is_symlink():
                real = os.path.realpath(entry.path, strict=True)
                if not self.boundary.contains(real):
                    if (entry.path, real) not in self.outside:
                        self.outside.append((entry.path, real))
                    return ""
            if entry.is_dir():
                return "folder"
            return "file" if entry.is_file() else ""
        except OSError:  # a broken link, or one that leads to itself
            return ""

    def all_problems(self) -> list[TlxError]:
        """Return all errors, one a kind."""
        problems = list(self.problems)
        if self.outside:
            path, real = self.outside[0]
            problems.append(self.boundary.outside(path, real, more=len(self.outside) - 1))
        if self.closed:
            more = f" and {len(self.closed) - 1} more" if len(self.closed) > 1 else ""
            problems.append(
                ResourceError(
                    "permission",
                    f"this user may not read the folder{more}",
                    where=self.closed[0],
                    remedy="allow it with chmod, or move it out of the image root",
                )
            )
        return (
            problems
            + _unreadable_names(self.images)
            + _unicode_twins(self.images)
            + _split_twins(self.images)
        )

    def all_notes(self) -> list[str]:
        """Return notes on what was left out."""
        notes = self.notes + [
            f"{count} left out: {what}" for what, count in sorted(self.left_out.items())
        ]
        for extension, labels in sorted(self.unread.items()):
            quoted = _listed([f"'{label}'" for label in labels])
            notes.append(
                f"{sum(labels.values())} left out: {extension} images, a kind that is not read, of "
                f"{quoted}"
            )
        notes += _nested_notes(self.nested)
        held = {name: count for name, count in self.litter.items() if count}
        if held:
            notes.append(
                f"{sum(held.values())} left out: images in hidden folders or folders of other "
                f"programs: "
                f"{_listed(held)}"
            )
        return notes


def list_images(
    root: Path, name: str | None = None, allow: Iterable[Path | str] = ()
) -> ImageFolder:
    """List the images in `root` by the rule above.

    allow  folders outside `root` that links may lead to

    Raises all that is wrong at once: UnsafeError for links that lead out, BadDataError if there is
    no image, a name is not UTF-8, or two folders name one split, ResourceError for a folder that
    may not be read.
    """
    root = Path(root)
    _check_is_folder(root)
    walk = _Walk(Boundary(root, allow))
    for split, folder in _splits(root, walk):
        _list_labels(folder, split, walk)
    raise_all(walk.all_problems())
    if not walk.images:
        raise _no_images(root, walk)
    _refuse_flat_splits(root, walk.images)
    images = sorted(walk.images, key=lambda image: os.fsencode(image.path))
    return ImageFolder(
        name or root.resolve().name or "images",
        root.absolute(),
        tuple(images),
        sorted_labels(image.label for image in images),
        tuple(sorted({image.split for image in images})),
        tuple(walk.all_notes()),
    )


def list_photos(
    root: Path, allow: Iterable[Path | str] = ()
) -> tuple[list[Path], list[str], list[TlxError]]:
    """Return the image files below `root` at any depth, sorted by the bytes of their paths.

    Unlike `list_images` it needs no labels. Also returns notes on what was left out, and errors:
    links that lead out of `root` and `allow`, and folders that may not be read.
    """
    _check_is_folder(root)
    walk = _Walk(Boundary(root, allow))
    photos: list[Path] = []
    pending, real_folders = [root], set()
    while pending:
        folder = pending.pop()
        real = os.path.realpath(folder)
        if real in real_folders:  # a link to a folder that is listed anyway, or in a circle
            continue
        real_folders.add(real)
        for entry in walk.entries(folder):
            if is_litter(entry.name):
                _count_litter(entry, walk)
                continue
            kind, extension = walk.kind(entry), os.path.splitext(entry.name)[1]
            if kind == "folder":
                pending.append(folder / entry.name)
            elif kind != "file":
                walk.left_out["broken links or special files"] += 1
            elif extension.lower() in UNREAD:
                walk.unread.setdefault(extension, Counter())[folder.name] += 1
            elif has_image_name(entry.name):
                photos.append(folder / entry.name)
            else:
                walk.left_out["files that are not images by their name"] += 1
    return sorted(photos, key=os.fsencode), walk.all_notes(), walk.all_problems()


def sorted_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Return distinct labels, sorted by their UTF-8 bytes: the class order everywhere."""
    return tuple(sorted(set(labels), key=os.fsencode))


def _check_is_folder(root: Path) -> None:
    try:
        exists = root.exists()
        if exists and root.is_dir():
            return
    except OSError as error:
        raise ResourceError(
            "permission", f"cannot be read: {error.strerror}", where=root
        ) from error
    if exists:
        raise BadDataError(
            "not-a-folder", "a file", where=root, expected="a folder root/<split>/<label>/<image>"
        )
    near = nearest(root.name, _names(root.parent)) if root.parent.is_dir() else []
    missing = MissingError("image folder", root.absolute())
    missing.remedy = f"the nearest name there is {near[0]}" if near else ""
    raise missing


def _splits(root: Path, walk: _Walk) -> list[tuple[str, Path]]:
    folders = list(_folders(root, walk))
    splits = [f for f in folders if role_of(f.name) and _holds_only_folders(f, walk)]
    if not splits:
        return [("", root)]
    beside = [f.name for f in folders if f not in splits]
    if beside:
        walk.notes.append(f"left out, as they are no split: {_listed(beside)}")
    return [(f.name, f) for f in splits]


def _list_labels(folder: Path, split: str, walk: _Walk) -> None:
    for label_folder in _folders(folder, walk):
        before = len(walk.images)
        _list_label(label_folder, split, walk)
        is_too_deep = any(nested.folder.parent == label_folder for nested in walk.nested)
        if len(walk.images) == before and not is_too_deep:
            walk.notes.append(f"{escape_control(label_folder)} holds no image")


def _list_label(folder: Path, split: str, walk: _Walk) -> None:
    names: dict[str, str] = {}
    for entry in walk.entries(folder):
        if is_litter(entry.name):
            _count_litter(entry, walk)
        else:
            names[entry.name] = walk.kind(entry)
    stems = {os.path.splitext(name)[0] for name in names}
    for name, kind in names.items():
        stem, extension = os.path.splitext(name)
        crop = CROP.match(stem)
        if kind == "folder":
            _count_nested(folder / name, split, walk)
        elif kind != "file":
            walk.left_out["broken links or special files"] += 1
        elif extension.lower() in UNREAD:
            walk.unread.setdefault(extension, Counter())[folder.name] += 1
        elif not has_image_name(name):
            walk.left_out["files that are not images by their name"] += 1
        elif crop and crop[1] in stems:
            walk.left_out["crops next to their image"] += 1
        else:
            walk.images.append(Image(split, folder.name, name))


def _count_nested(folder: Path, split: str, walk: _Walk) -> None:
    """Count the images of a folder inside a label: they are one level too deep, or more."""
    count = 0
    for _, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_litter(name)]
        count += sum(has_image_name(name) and not is_litter(name) for name in names)
    if count:
        shown = "/".join(filter(None, [split, folder.parent.name, folder.name]))
        walk.nested.append(NestedFolder(folder, shown, count))
    else:
        walk.left_out["folders inside a label, without images"] += 1


def _nested_notes(nested: Sequence[NestedFolder]) -> list[str]:
    """Return a note on images that are too deep: where, how many, what to type; [] of none."""
    if not nested:
        return []
    ordered = sorted(nested, key=lambda row: os.fsencode(row.folder))
    first = ordered[0].folder.absolute()
    label = first.parent
    shown = [f"{row.shown} ({row.images})" for row in ordered]
    to_class = shlex.join(["mv", str(first), str(label.parent)])
    to_label = f"mv {shlex.quote(str(first))}/* {shlex.quote(str(label))}"
    return [
        escape_control(
            f"{counted(sum(row.images for row in nested), 'image')} left out, one level too deep: "
            f"{counted(len(nested), 'folder')} inside a class folder: {_listed(shown)}. Expected "
            f"root/<split>/<label>/<image> or root/<label>/<image>. To make a folder a class of "
            f"its own: {to_class}; to add its images to class '{label.name}': {to_label}"
        )
    ]


def has_image_name(name: str) -> bool:
    """Return whether a file name ends like an image's."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def _count_litter(entry: os.DirEntry[str], walk: _Walk) -> None:
    """Count the images among what is left out.

    macOS' resource forks (._x.jpg) are none, whatever their ending.
    """

    def is_image(name: str) -> bool:
        return has_image_name(name) and not name.startswith("._")

    if entry.is_symlink() or entry.name in walk.litter:
        return
    if not entry.is_dir():
        if is_image(entry.name):
            walk.left_out["hidden files that are images by their name"] += 1
        return
    for _, _, names in os.walk(entry.path):
        walk.litter[entry.name] += sum(map(is_image, names))


def _folders(root: Path, walk: _Walk) -> Iterator[Path]:
    folders = []
    for entry in walk.entries(root):
        if is_litter(entry.name):
            _count_litter(entry, walk)
        elif walk.kind(entry) == "folder":
            folders.append(entry.name)
    return (root / name for name in sorted(folders, key=os.fsencode))


def _holds_only_folders(folder: Path, walk: _Walk) -> bool:
    entries = [entry for entry in walk.entries(folder) if not is_litter(entry.name)]
    kinds = [walk.kind(entry) == "folder" for entry in entries]
    kinds = [
        is_folder
        for is_folder, entry in zip(kinds, entries, strict=True)
        if is_folder or has_image_name(entry.name)
    ]
    return bool(kinds) and all(kinds)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _listed(names: Iterable[str]) -> str:
    """Return the first names, comma-separated, and how many more there are."""
    all_names = list(names)
    more = f" and {len(all_names) - SHOWN} more" if len(all_names) > SHOWN else ""
    return escape_control(", ".join(all_names[:SHOWN])) + more


# ---------------------------------------------------------------- errors of a listing


def _no_images(root: Path, walk: _Walk) -> BadDataError:
    """Build the error for a folder without images in class folders, with the expected layout."""
    flat = sum(has_image_name(name) for name in _names(root))
    message = "no image found"
    remedy = ""
    if flat:
        message = f"no image found in a class folder; {flat} images are in the folder itself"
        remedy = "move the images of each class into a folder that is named for the class"
    elif walk.nested:
        (message,) = _nested_notes(walk.nested)
        message = f"no image found in a class folder; {message}"
    elif walk.unread:
        counts = {extension: sum(labels.values()) for extension, labels in walk.unread.items()}
        kinds = ", ".join(f"{count} {extension}" for extension, count in sorted(counts.items()))
        message = f"no image found of a kind that is read, but {kinds}"
        remedy = "convert the images, for example to PNG"
    return BadDataError(
        "no-images",
        message,
        where=root.absolute(),
        remedy=remedy,
        expected="root/<split>/<label>/<image> or root/<label>/<image>, with one of the endings "
        + " ".join(sorted(EXTENSIONS)),
    )


def _refuse_flat_splits(root: Path, images: list[Image]) -> None:
    """Refuse split folders that hold images and no class folders.

    Their names would be taken for the classes.
    """
    labels = {image.label for image in images if not image.split}
    if labels and all(map(role_of, labels)):
        shown = _listed(sorted(labels))
        raise BadDataError(
            "no-class-folders",
            f"the images are in {shown} itself, so their classes are unknown",
            where=root.absolute(),
            expected="root/<split>/<label>/<image>",
            remedy="move the images of each class into a folder that is named for the class",
        )


def _split_twins(images: list[Image]) -> list[TlxError]:
    """Report two folders that name one split: it is ambiguous which of the two is meant."""
    named: dict[str, set[str]] = {}
    for image in images:
        if image.split:
            named.setdefault(role_of(image.split), set()).add(image.split)
    return [
        BadDataError(
            "split-twice",
            f"the folders {_listed(sorted(names))} name one split",
            expected=f"one folder for {role}",
            remedy="merge them, or rename one",
        )
        for role, names in named.items()
        if len(names) > 1
    ]


def _unicode_twins(images: list[Image]) -> list[TlxError]:
    """Report two labels of one text in two Unicode forms.

    They look the same, and would be two classes.
    """
    forms: dict[str, set[str]] = {}
    for label in {image.label for image in images}:
        forms.setdefault(unicodedata.normalize("NFC", label), set()).add(label)
    twins = {text: labels for text, labels in forms.items() if len(labels) > 1}
    if not twins:
        return []
    text, labels = next(iter(twins.items()))
    more = f", and {counted(len(twins) - 1, 'more pair')} like it" if len(twins) > 1 else ""
    written = " and ".join(
        f"'{label}' ({label.encode('utf-8', 'surrogateescape').hex()})" for label in sorted(labels)
    )
    return [
        BadDataError(
            "unicode-forms",
            f"{written} are one name in two Unicode forms (NFC and NFD){more}",
            where=text,
            expected="one form of a class name",
            remedy="rename the folders of one form, for example with: "
            "convmv -f utf-8 -t utf-8 --nfc -r --notest",
        )
    ]


def _unreadable_names(images: list[Image]) -> list[TlxError]:
    """Report names that are not UTF-8: CSVs cannot hold them."""
    bad = [image.path for image in images if not _is_utf8(image.path)]
    if not bad:
        return []
    what = (
        "a file name that is not UTF-8"
        if len(bad) == 1
        else f"{len(bad)} file names that are not UTF-8"
    )
    return [
        BadDataError(
            "name-encoding",
            what,
            where=bad[0],
            remedy="rename it" if len(bad) == 1 else "rename them",
        )
    ]


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
