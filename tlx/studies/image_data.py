"""Image data of a study: the only place from which commands get their images.

Remarks (files that were left out, how pixels were mapped) are appended to the caller's list of
notes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ..data import datasets, decode, folders, images
from ..data.folders import Image, ImageFolder
from ..data.pixels import Pixels, pixels
from ..data.sides import Sides, sides_of
from ..data.sizing import Sizing
from ..errors import TlxError, counted, raise_all
from ..lab.settings import Settings
from ..models.onnx_file import input_of

Progress = Callable[[int, int], None]


def located(dataset: str, settings: Settings, notes: list[str]) -> ImageFolder:
    """Return the images of a data set, listed.

    Raises UnsafeError for links that lead out and are not allowed.
    """
    folder = datasets.locate(
        dataset, settings.cache_folder, data_root=settings.data_root, allow=settings.allow_outside
    )
    add(notes, folder.notes)
    return folder


def decoded(
    folder: ImageFolder,
    chosen: Sequence[Image],
    sizing: Sizing,
    settings: Settings,
    notes: list[str],
    progress: Progress | None = None,
) -> Pixels:
    """Return the pixels of images of a folder, in order.

    All errors of all images are raised at once.
    """
    return decoded_files(
        [folder.root / image.path for image in chosen], sizing, settings, notes, progress
    )


def decoded_files(
    paths: Sequence[Path],
    sizing: Sizing,
    settings: Settings,
    notes: list[str],
    progress: Progress | None = None,
    precomputed: Callable[[int], Sequence[Path]] | None = None,
) -> Pixels:
    """Return the pixels of image files.

    `precomputed` gives existing crops of an image, ten files each.
    """
    held = pixels(
        paths,
        sizing,
        settings.cache_folder,
        precomputed=precomputed,
        progress=progress,
        budget_bytes=int(settings.decode_budget * 1e9),
    )
    add(
        notes,
        [
            f"{counted(count, 'image')}: {decode.NOTES.get(name, name)}"
            for name, count in held.notes.items()
        ],
    )
    return held


def digests(paths: Sequence[Path], cache: Path, progress: Progress | None = None) -> list[str]:
    """Return the digests of files, remembered in `cache`.

    If one cannot be read, the errors of all are raised.
    """
    try:
        return images.digests(paths, cache, progress)
    except TlxError:
        raise_all(images.inspect(paths)[0])
        raise


def divided(
    folder: ImageFolder, settings: Settings, notes: list[str], progress: Progress | None = None
) -> Sides:
    """Return the training, validation and test images of a folder.

    None of their bytes are on two sides.
    """
    by_content = digests(
        [folder.root / image.path for image in folder.images], settings.cache_folder, progress
    )
    sides = sides_of(folder, dict(zip(folder.images, by_content, strict=True)))
    add(notes, sides.notes)
    return sides


def add(notes: list[str], more: Sequence[str]) -> None:
    """Append the notes that are not there yet."""
    notes += [note for note in dict.fromkeys(more) if note not in notes]


def served_inputs(paths: Sequence[Path], sizing: Sizing) -> Iterator[np.ndarray]:
    """Yield the input (height, width, channels) uint8 of a served model for each image file.

    Raises the first error of a file.
    """
    for outcome in images.each(lambda path: input_of(decode.decode(path), sizing), paths):
        if isinstance(outcome, TlxError):
            raise outcome
        yield outcome


def photo_inputs(
    paths: Sequence[Path], sizing: Sizing
) -> Iterator[tuple[np.ndarray, list[str]] | TlxError]:
    """Yield the input of a served model and the notes of each image file, or its error."""

    def read(path: Path) -> tuple[np.ndarray, list[str]]:
        picture = decode.decode(path)
        notes = [decode.NOTES.get(name, name) for name in picture.notes]
        return input_of(picture, sizing), notes

    return images.each(read, paths)


def listed_photos(
    folder: Path, allow: Sequence[str | Path] = ()
) -> tuple[list[Path], list[str], list[TlxError]]:
    """Return the images below a folder without labels, notes on what was left out, and errors.

    Links lead out of the folder only to `allow`.
    """
    return folders.list_photos(folder, allow)
