"""Lookup of a data set by name or path, as a folder of images on disk."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import MissingError, TlxError, UnknownNameError, UnsafeError, raise_all
from . import idx, published, sources
from .catalogue import DATASETS, Dataset, key_of, known
from .folders import Image, ImageFolder, list_images
from .path_resolution import Boundary
from .published import data_root_of

__all__ = ["DATASETS", "Dataset", "Image", "ImageFolder", "key_of", "known", "locate"]

Allow = tuple[Path | str, ...]


def locate(
    name_or_path: str | Path,
    cache: Path,
    *,
    data_root: Path | str | None = None,
    offline: bool = False,
    allow: Iterable[Path | str] = (),
) -> ImageFolder:
    """Find the images of a data set; materialise them in `cache` if they are not image files.

    name_or_path  a name in DATASETS (any spelling); a path; or name:path, the named dataset from
    the files at path,
                  as mnist_noise:/data/mnist. A text with a slash is a path; a bare name that
                  DATASETS knows is that dataset, whatever is in the working directory (write
                  ./name for the folder)
    data_root     the folder that holds named datasets, else $TLX_DATA
    offline       never ask the network
    allow         folders outside the dataset's own that links in it may lead to

    Raises MissingError with where to get the dataset, UnknownNameError, UnsafeError for a link
    that leads out, or what else is wrong with its files.
    """
    cache, root, allow = Path(cache), data_root_of(data_root), tuple(allow)
    text = os.fspath(name_or_path)
    name, colon, place = text.partition(":")
    if isinstance(name_or_path, Path):
        return _at(Path(text), cache, allow)
    if key := key_of(text) if "/" not in text else None:
        return _named(key, cache, root, offline, allow)
    if colon and (key := key_of(name)) and not Path(text).exists():
        return _named_at(key, Path(place).expanduser(), cache, allow)
    path = Path(text).expanduser()
    if "/" not in text and not path.exists():
        raise UnknownNameError(
            "dataset", text, DATASETS, remedy="or give the path of an image folder"
        )
    return _at(path, cache, allow)


def _named(key: str, cache: Path, root: Path | None, offline: bool, allow: Allow) -> ImageFolder:
    row = DATASETS[key]
    if row.kind == "digits":
        return sources.digits(cache, key)
    if row.kind == "torchvision" and root and published.is_there(key, root):
        return published.fetch(key, cache, offline=offline, data_root=root, allow=allow)
    for folder in _candidates(key, root):
        if folder.is_dir():
            return _named_at(key, folder, cache, allow)
    if row.kind == "derived":
        files = _base_files(row.base, cache, root, offline)
        _check_links(files, allow)
        return sources.derived(key, files, cache)
    if row.torchvision and row.kind == "idx":
        files = published.idx_folder(key, cache, offline=offline, data_root=root)
        _check_links(files, allow)
        return sources.from_idx(files, cache, key)
    if row.torchvision:
        return published.fetch(key, cache, offline=offline, data_root=root, allow=allow)
    raise _absent(key, root)


def _base_files(key: str, cache: Path, root: Path | None, offline: bool) -> Path:
    """Return the IDX files that variants are made from: under the data root, else torchvision's."""
    for folder in _candidates(key, root):
        if idx.is_idx_folder(folder):
            return folder
    return published.idx_folder(key, cache, offline=offline, data_root=root)


def _candidates(key: str, root: Path | None) -> list[Path]:
    """Return possible folders of a data set under the data root: its folder, key, aliases."""
    row = DATASETS[key]
    return [root / name for name in dict.fromkeys((row.folder, key, *row.aliases))] if root else []


def _named_at(key: str, folder: Path, cache: Path, allow: Allow) -> ImageFolder:
    """Return the named data set from the files in `folder`.

    A variant may be given as such or as its MNIST.
    """
    if DATASETS[key].kind == "derived" and idx.is_idx_folder(folder):
        _check_links(folder, allow)
        return sources.derived(key, folder, cache)
    return _at(folder, cache, allow, key)


def _at(folder: Path, cache: Path, allow: Allow, name: str | None = None) -> ImageFolder:
    """Return the images in `folder`, whatever their form."""
    name = name or folder.resolve().name or "images"
    if idx.is_idx_folder(folder):
        _check_links(folder, allow)
        return sources.from_idx(folder, cache, name)
    if sources.is_npy_folder(folder):
        _check_links(folder, allow)
        return sources.from_npy(folder, cache, name)
    return list_images(folder, name, allow)


def _check_links(folder: Path, allow: Allow) -> None:
    """Raise UnsafeError for files of arrays in `folder` that are links out of it, all at once."""
    boundary, problems = Boundary(folder, allow), list[TlxError]()
    for path in sorted((*folder.glob("*ubyte*"), *folder.glob("*.npy"))):
        try:
            boundary.check(path)
        except UnsafeError as error:
            problems.append(error)
    raise_all(problems)


def _absent(key: str, root: Path | None) -> MissingError:
    row = DATASETS[key]
    place = root / row.folder if root else Path("$TLX_DATA") / row.folder
    error = MissingError(f"{row.title} ({key})", place)
    error.expected = "its images as root/<split>/<label>/<image> or root/<label>/<image>"
    error.remedy = f"fetch it from {row.where}; put it there, or give its path instead of the name"
    return error
