"""Arrays written once as folders <cache>/datasets/<digest>/<name>/<split>/<label>/<index>.png.

PNG is lossless, so the pixels are unchanged. A folder is made under a temporary name, flushed,
sealed with a manifest and renamed; an existing one is complete.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as PILImage

from .. import files, locks
from ..errors import IntegrityError, counted
from .folders import ImageFolder, list_images
from .litter import is_litter

FORMAT = 1  # rises when the same source would give other files


@dataclass(frozen=True)
class Pool:
    """Images of one split.

    images   (n, h, w) or (n, h, w, 3) uint8
    labels   n class names
    numbers  n numbers, the file names; None: counted on from the split before, so that each is
             unique
    """

    split: str
    images: np.ndarray
    labels: Sequence[str]
    numbers: Sequence[int] | None = None


def materialise_once(
    cache: Path, name: str, source: object, write: Callable[[Path], None]
) -> ImageFolder:
    """Return the folder that `write(root)` creates; it is created at the first call only.

    source  plain JSON that says what goes in, by content; another source is another folder
    """
    digest = files.digest({"format": FORMAT, "name": name, "source": source})[:32]
    home = files.make_folder(Path(cache) / "datasets")
    whole = home / digest
    if not whole.is_dir():
        with locks.lock(home / f"{digest}.lock", wait=True):
            if not whole.is_dir():
                _make(whole, name, write)
    folder = list_images(whole / name, name)
    _check_listing(whole, folder)
    return folder


def write_pools(root: Path, pools: Sequence[Pool]) -> None:
    """Write every image of the pools as a PNG to `root`."""
    total = sum(len(pool.labels) for pool in pools)
    width = max(4, len(str(total - 1)))
    start = 0
    for pool in pools:
        folders = {
            label: root / pool.split / label_folder(label) for label in sorted(set(pool.labels))
        }
        for folder in folders.values():
            folder.mkdir(parents=True)
        numbers = range(start, start + len(pool.labels)) if pool.numbers is None else pool.numbers
        for image, label, number in zip(pool.images, pool.labels, numbers, strict=True):
            PILImage.fromarray(image).save(
                folders[label] / f"{number:0{width}d}.png", format="PNG", compress_level=1
            )
        start += len(pool.labels)


def label_folder(label: str) -> str:
    """Return a class name as the name of a folder.

    What a path cannot hold is percent-encoded.
    """
    name = label.replace("%", "%25").replace("/", "%2F").replace("\0", "%00")
    return (
        f"%{ord(name[0]):02X}{name[1:]}" if is_litter(name) else name
    )  # or a listing would leave it out


def _make(whole: Path, name: str, write: Callable[[Path], None]) -> None:
    part = whole.with_name(whole.name + ".part")
    if part.exists():  # an interrupted attempt; the lock is ours, so nobody is at it
        shutil.rmtree(part)
    try:
        with files.storage_errors(whole):
            (part / name).mkdir(parents=True)
            write(part / name)
            os.sync()  # one pass for all: an fsync for each of 70,000 files takes minutes
            files.seal(part)
            os.replace(part, whole)
            files.sync_folder(whole.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _check_listing(whole: Path, folder: ImageFolder) -> None:
    """Check the names only, as it is done at every use.

    Contents are checked where they are decoded.
    """
    listed = {f"{folder.name}/{image.path}" for image in folder.images}
    sealed = set(files.manifest(whole))
    if listed != sealed:
        odd = sorted(listed ^ sealed)
        raise IntegrityError(
            "dataset-changed",
            f"{counted(len(odd), 'file')} came or went since it was made, first {odd[0]}",
            where=whole,
            remedy="delete this folder; it is made again on the next use",
        )
