"""Data sets that torchvision can fetch, made into image folders.

Without a network it fails within seconds.
"""

from __future__ import annotations

import os
import shutil
import socket
import threading
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .. import files
from ..errors import BadDataError, ResourceError, UnsafeError
from . import materialise
from .catalogue import DATASETS
from .folders import ImageFolder
from .materialise import Pool, label_folder
from .path_resolution import Boundary

SECONDS = 10.0  # that a server may keep silent
NAME_SECONDS = 5.0  # that a name server may
# class in torchvision → the folder that it keeps its files in; some make it just by looking
MARKERS = {
    "Caltech101": "caltech101/101_ObjectCategories",
    "CIFAR10": "cifar-10-batches-py",
    "CIFAR100": "cifar-100-python",
    "DTD": "dtd/dtd",
    "FashionMNIST": "FashionMNIST/raw",
    "FGVCAircraft": "fgvc-aircraft-2013b",
    "Flowers102": "flowers-102",
    "Food101": "food-101/images",
    "MNIST": "MNIST/raw",
    "OxfordIIITPet": "oxford-iiit-pet/annotations",
}
UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    EOFError,
    AssertionError,
    KeyError,
)  # URLError, damaged files
FILE_LISTS = (
    "_image_files",
    "_images",
    "_samples",
    "samples",
    "imgs",
)  # where torchvision keeps paths


def fetch(
    key: str,
    cache: Path,
    *,
    offline: bool = False,
    data_root: Path | None = None,
    allow: Iterable[Path | str] = (),
) -> ImageFolder:
    """Return the data set `key` as an image folder.

    From torchvision's files under `data_root`, or downloaded.

    Raises UnsafeError for files of it that are links out of its folder, except into those in
    `allow`.
    """
    row = DATASETS[key]
    assert row.torchvision is not None
    class_name, splits = row.torchvision
    source = {"torchvision": class_name, "splits": splits}
    if data_root and is_there(key, data_root):
        _check_links(data_root / MARKERS[class_name].split("/")[0], allow)
    return materialise.materialise_once(
        cache, key, source, lambda root: _write(key, root, cache, offline, data_root)
    )


def idx_folder(
    key: str, cache: Path, *, offline: bool = False, data_root: Path | None = None
) -> Path:
    """Return the folder of IDX files of a data set in MNIST's layout, from torchvision."""
    return Path(_opened(key, "train", cache, offline, data_root).raw_folder)


def is_there(key: str, data_root: Path) -> bool:
    """Return whether `data_root` holds the data set in torchvision's own layout."""
    class_name, _ = DATASETS[key].torchvision or ("", {})
    return (data_root / MARKERS[class_name]).is_dir()


def _check_links(folder: Path, allow: Iterable[Path | str]) -> None:
    """Raise UnsafeError if a file or folder in `folder` is a link out of it."""
    boundary = Boundary(folder, allow)
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = os.path.join(parent, name)
            if os.path.islink(path):
                boundary.check(path)


def _write(key: str, root: Path, cache: Path, offline: bool, data_root: Path | None) -> None:
    _, splits = DATASETS[key].torchvision or ("", {})
    for split in splits:
        dataset = _opened(key, split, cache, offline, data_root)
        names = getattr(dataset, "classes", None) or dataset.categories
        labels = [names[y] for y in _labels(dataset)]
        paths = _paths(dataset)
        if paths is None and hasattr(dataset, "data"):
            materialise.write_pools(root, [Pool(split, dataset.data, labels)])
        else:
            _write_files(root / split, dataset, labels, paths)
    shutil.rmtree(_downloads(cache, key), ignore_errors=True)


def _write_files(root: Path, dataset: Any, labels: list[str], paths: list[Path] | None) -> None:
    """Write the files themselves where torchvision has files, else each image as PNG."""
    for label in set(labels):
        (root / label_folder(label)).mkdir(parents=True)
    for index, label in enumerate(labels):
        folder = root / label_folder(label)
        if paths is None:
            dataset[index][0].save(folder / f"{index:06d}.png", format="PNG", compress_level=1)
        else:
            shutil.copyfile(paths[index], folder / f"{index:06d}_{paths[index].name}")


def _labels(dataset: Any) -> list[int]:
    for name in ("targets", "_labels", "y", "labels"):
        if hasattr(dataset, name):
            return [int(y) for y in getattr(dataset, name)]
    return [int(y) for _, y in dataset._samples]


def _paths(dataset: object) -> list[Path] | None:
    for name in FILE_LISTS:
        rows = getattr(dataset, name, None)
        if rows is not None:
            return [Path(row[0] if isinstance(row, tuple) else row) for row in rows]
    return None


def _downloads(cache: Path, key: str) -> Path:
    return Path(cache) / "downloads" / key


def _opened(key: str, split: str, cache: Path, offline: bool, data_root: Path | None) -> Any:
    """Open the torchvision data set of one split.

    From existing files, else downloaded into the cache.
    """
    for root in filter(None, (data_root, _downloads(cache, key))):
        if (dataset := _opened_from(root, key, split)) is not None:
            return dataset
    if offline or not name_server_answers():
        raise _no_network(key, "no network")
    try:
        with silence_ends():
            root = _downloads(cache, key)
            shutil.rmtree(
                root, ignore_errors=True
            )  # what a killed download left would be taken for whole
            files.make_folder(root)
            return _torchvision(key, split, root, download=True)
    except UNREADABLE as error:
        raise _no_network(key, f"the download failed ({error})") from error
    except ImportError as error:
        raise ResourceError(
            "package-missing",
            str(error),
            where=key,
            remedy="install it, or fetch the files by hand",
        ) from error


def _opened_from(root: Path, key: str, split: str) -> Any | None:
    """Open the torchvision data set of one split from files under `root`.

    None if they are absent or incomplete.
    """
    if not is_there(key, root):
        return None
    _refuse_pickles(key, root)
    try:
        return _torchvision(key, split, root)
    except UNREADABLE:
        return None


def _refuse_pickles(key: str, root: Path) -> None:
    """Raise UnsafeError where torchvision would prefer its old pickles to IDX files.

    These are <class>/processed/*.pt.
    """
    class_name, _ = DATASETS[key].torchvision or ("", {})
    folder = root / class_name / "processed"
    pickles = sorted(path.name for path in folder.glob("*.pt")) if folder.is_dir() else []
    if pickles:
        raise UnsafeError(
            "dataset-pickle",
            f"{', '.join(pickles[:3])}: pickles of an old torchvision, which are not read",
            where=folder,
            expected=f"IDX files in {class_name}/raw",
            remedy="move this folder away, and the IDX files next to it are read",
        )


def _torchvision(key: str, split: str, root: Path, **more: object) -> Any:
    import torchvision

    class_name, splits = DATASETS[key].torchvision or ("", {})
    return getattr(torchvision.datasets, class_name)(str(root), **splits[split], **more)


def _no_network(key: str, what: str) -> BadDataError:
    row = DATASETS[key]
    idx_files = " or its IDX files" if row.kind == "idx" else ""
    return BadDataError(
        "dataset-download",
        f"{row.title} is not here and {what}",
        where=key,
        expected="the images",
        remedy=f"fetch them from {row.where} where there is a network, put "
        f"root/<split>/<label>/<image>"
        f"{idx_files} at $TLX_DATA/{row.folder}, or give its path instead of the name",
    )


def name_server_answers(host: str = "pytorch.org") -> bool:
    """Return whether names can be resolved, so that being offline shows in seconds.

    Always True behind a proxy.
    """
    if urllib.request.getproxies():
        return True
    answers: list[object] = []

    def ask() -> None:
        with suppress(OSError):
            answers.append(socket.getaddrinfo(host, 443))

    asking = threading.Thread(target=ask, daemon=True)  # getaddrinfo has no time limit of its own
    asking.start()
    asking.join(NAME_SECONDS)
    return bool(answers)


@contextmanager
def silence_ends() -> Iterator[None]:
    """Time out every socket opened inside after SECONDS without a byte.

    urllib waits for ever otherwise.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def data_root_of(given: Path | str | None) -> Path | None:
    """Return the folder that holds data sets: as given, else $TLX_DATA."""
    text = given or os.environ.get("TLX_DATA") or None
    return Path(text).expanduser() if text else None
