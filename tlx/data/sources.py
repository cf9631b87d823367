"""Sources of arrays: scikit-learn's digits, IDX files, MNIST variants, self-driving arrays."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .. import files
from ..errors import BadDataError, TlxError, UnsafeError, counted, raise_all, refusal
from . import idx, materialise
from .catalogue import DATASETS
from .folders import ImageFolder
from .materialise import Pool
from .streams import seeded_permutation

DIGITS_TEST_PER_CLASS = 50
DIGITS_SEED = 0


# ---------------------------------------------------------------- scikit-learn's digits


def digits(cache: Path, name: str = "digits") -> ImageFolder:
    """Write the 1,797 digits as 8 x 8 PNGs; 50 a class are test, the rest train.

    0..16 becomes round(v * 255 / 16).

    name  of a variant: made of them as the MNIST variant of that name is of MNIST
    """
    from sklearn.datasets import load_digits

    raw = load_digits()
    source = {
        "digits": _digest(raw.images, raw.target),
        "test": DIGITS_TEST_PER_CLASS,
        "seed": DIGITS_SEED,
    }
    variant = name.removeprefix("digits")
    return materialise.materialise_once(
        cache,
        name,
        source | ({"variant": variant} if variant else {}),
        lambda root: _write_digits(root, raw.images, raw.target, variant),
    )


def _write_digits(root: Path, images: np.ndarray, target: np.ndarray, variant: str) -> None:
    is_test = np.zeros(len(target), bool)
    for label in range(10):
        members = np.flatnonzero(target == label)
        is_test[
            members[
                seeded_permutation(len(members), DIGITS_SEED, "digits-test", label)[
                    :DIGITS_TEST_PER_CLASS
                ]
            ]
        ] = True
    scaled = np.rint(images * (255 / 16)).astype(np.uint8)
    parts = {"train": ~is_test, "test": is_test}
    if variant:
        arrays = VARIANTS[f"mnist{variant}"](
            [scaled[rows] for rows in parts.values()], [target[rows] for rows in parts.values()]
        )
        materialise.write_pools(
            root,
            [
                Pool(split, x, y.astype(str).tolist())
                for split, x, y in zip(parts, *arrays, strict=True)
            ],
        )
        return
    labels = target.astype(str)
    materialise.write_pools(
        root,
        [
            Pool(split, scaled[rows], labels[rows].tolist(), np.flatnonzero(rows).tolist())
            for split, rows in parts.items()
        ],
    )


# ---------------------------------------------------------------- IDX files


def from_idx(folder: Path, cache: Path, name: str) -> ImageFolder:
    """Write the images of a folder of IDX files, with their numbers as labels."""
    return materialise.materialise_once(
        cache, name, {"idx": _file_digests(folder)}, lambda root: _write_idx(folder, root)
    )


def _write_idx(folder: Path, root: Path) -> None:
    materialise.write_pools(
        root,
        [Pool(split, x, y.astype(str).tolist()) for split, (x, y) in _idx_arrays(folder).items()],
    )


def _idx_arrays(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return split → (images, labels).

    All errors of any of the files are raised at once.
    """
    arrays, problems = {}, []
    for split, (images, labels) in idx.paths(folder).items():
        try:
            arrays[split] = idx.read_pair(images, labels)
        except TlxError as error:
            problems.append(error)
    raise_all(problems)
    return arrays


def _file_digests(folder: Path) -> dict[str, list[str]]:
    return {
        split: [files.sha256(path) for path in pair] for split, pair in idx.paths(folder).items()
    }


# ---------------------------------------------------------------- variants of MNIST


def derived(name: str, folder: Path, cache: Path) -> ImageFolder:
    """Write the variant `name` of the MNIST in a folder of IDX files."""
    source = {"variant": name, "idx": _file_digests(folder)}
    return materialise.materialise_once(
        cache, name, source, lambda root: _write_variant(name, folder, root)
    )


def _write_variant(name: str, folder: Path, root: Path) -> None:
    arrays = _idx_arrays(folder)
    images, labels = VARIANTS[name](
        [x for x, _ in arrays.values()], [y for _, y in arrays.values()]
    )
    materialise.write_pools(
        root,
        [
            Pool(split, x, y.astype(str).tolist())
            for split, x, y in zip(arrays, images, labels, strict=True)
        ],
    )


Arrays = list[np.ndarray]


def parity(images: Arrays, labels: Arrays) -> tuple[Arrays, Arrays]:
    """Return MNIST with label 0 for even digits and 1 for odd ones."""
    return images, [y % 2 for y in labels]


def first_half(images: Arrays, labels: Arrays) -> tuple[Arrays, Arrays]:
    """Return the digits 0 to 4."""
    return _chosen(images, labels, [y < 5 for y in labels], 0)


def second_half(images: Arrays, labels: Arrays) -> tuple[Arrays, Arrays]:
    """Return the digits 5 to 9, labelled 0 to 4."""
    return _chosen(images, labels, [y >= 5 for y in labels], 5)


def _chosen(images: Arrays, labels: Arrays, masks: Arrays, first: int) -> tuple[Arrays, Arrays]:
    return (
        [x[mask] for x, mask in zip(images, masks, strict=True)],
        [y[mask] - first for y, mask in zip(labels, masks, strict=True)],
    )


def noise(images: Arrays, labels: Arrays) -> tuple[Arrays, Arrays]:
    """Return noise with unchanged labels.

    Pixels uniform on 0..1 from numpy's seed 1, train first, stored as round(255 u).
    """
    return _noise(images, _stream()), labels


def structured_noise(images: Arrays, labels: Arrays) -> tuple[Arrays, Arrays]:
    """Return `noise` with a tenth of each class's pixels held at one drawn value.

    Class by class in order.
    """
    stream = _stream()
    noisy = _noise(images, stream)
    pixels = math.prod(images[0].shape[1:])
    for label in np.unique(np.concatenate(labels)):
        held = stream.choice(pixels, int(pixels * 0.1), replace=False)
        values = np.rint(255 * stream.random_sample(len(held))).astype(np.uint8)
        for x, y in zip(noisy, labels, strict=True):
            flat = x.reshape(len(x), pixels)
            flat[np.ix_(y == label, held)] = values
    return noisy, labels


def _stream() -> np.random.RandomState:
    return np.random.RandomState(
        1
    )  # the legacy generator on purpose: its stream is the published one, and frozen


def _noise(images: Arrays, stream: np.random.RandomState) -> Arrays:
    noisy = [np.empty(x.shape, np.uint8) for x in images]
    for x in noisy:
        for start in range(0, len(x), 4096):  # in pieces: 60,000 images as float64 would be 376 MB
            part = x[start : start + 4096]
            part[...] = np.rint(255 * stream.random_sample(part.shape))
    return noisy


VARIANTS: dict[str, Callable[[Arrays, Arrays], tuple[Arrays, Arrays]]] = {
    "mnist2class": parity,
    "mnist_noise": noise,
    "mnist_noise_struct": structured_noise,
    "mnist_split1": first_half,
    "mnist_split2": second_half,
}


# ---------------------------------------------------------------- self-driving arrays

FRAME = (45, 80, 3)
DIRECTIONS = ("forward", "left", "right")  # 0, 1, 2
NPY_SPLITS = ("train", "valid", "test")


def is_npy_folder(folder: Path) -> bool:
    """Return whether `folder` holds arrays of frames by their published names."""
    return any((folder / f"{split}_data.npy").is_file() for split in NPY_SPLITS)


def from_npy(folder: Path, cache: Path, name: str) -> ImageFolder:
    """Write the frames of {train,valid,test}_data.npy as 45 x 80 PNGs.

    Labelled forward, left, right by _labels.npy.
    """
    pairs = {
        split: _npy_pair(folder, split)
        for split in NPY_SPLITS
        if (folder / f"{split}_data.npy").is_file()
    }
    problems: list[TlxError] = []
    pools = []
    for split, (data, labels) in pairs.items():
        try:
            pools.append(_frames(split, data, labels))
        except TlxError as error:
            problems.append(error)
    raise_all(problems)
    source = {
        "npy": {split: [files.sha256(path) for path in pair] for split, pair in pairs.items()}
    }
    return materialise.materialise_once(
        cache, name, source, lambda root: materialise.write_pools(root, pools)
    )


def _npy_pair(folder: Path, split: str) -> tuple[Path, Path]:
    return folder / f"{split}_data.npy", folder / f"{split}_labels.npy"


def _frames(split: str, data: Path, labels: Path) -> Pool:
    if not labels.is_file():
        raise BadDataError("npy-missing", f"no {labels.name} next to {data.name}", where=labels)
    x, y = read_npy(data), read_npy(labels)
    if x.dtype != np.uint8 or x.ndim != 2 or x.shape[1] != math.prod(FRAME):
        raise BadDataError(
            "npy-shape",
            f"{x.dtype} {x.shape}",
            where=data,
            expected=f"uint8 (N, {math.prod(FRAME)})",
        )
    if y.dtype.kind not in "iu" or y.shape != (len(x),):
        raise BadDataError(
            "npy-shape", f"{y.dtype} {y.shape}", where=labels, expected=f"whole numbers ({len(x)},)"
        )
    odd = np.flatnonzero((y < 0) | (y >= len(DIRECTIONS)))
    if len(odd):
        raise BadDataError(
            "npy-label",
            f"label {y[odd[0]]} at {odd[0]} and {counted(len(odd) - 1, 'other')}",
            where=labels,
            expected="0 forward, 1 left, 2 right",
        )
    return Pool(split, x.reshape(-1, *FRAME), [DIRECTIONS[label] for label in y])


def read_npy(path: Path) -> np.ndarray:
    """Open a mapped, read-only .npy array.

    Raises BadDataError unless its size is exactly that of its header; no pickles.
    """
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }
            shape, fortran, dtype = read_header[version](file)
            offset = file.tell()
    except OSError as error:
        raise refusal(error, path) or error from error
    except (ValueError, KeyError) as error:
        raise BadDataError("npy-header", "not a .npy array that can be read", where=path) from error
    if dtype.hasobject:
        raise UnsafeError(
            "npy-pickle", "an array of Python objects, which are pickles: refused", where=path
        )
    needed, available = math.prod(shape) * dtype.itemsize, path.stat().st_size - offset
    if needed != available or min(shape, default=1) < 1 or fortran:
        raise BadDataError(
            "npy-size",
            f"{available:,} bytes after a header that says {dtype} {shape}",
            where=path,
            expected=f"{needed:,} bytes, in C order",
        )
    return np.memmap(path, dtype, "r", offset, shape)


def _digest(*arrays: np.ndarray) -> str:
    total = hashlib.sha256()
    for array in arrays:
        total.update(
            f"{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes()
        )
    return total.hexdigest()


assert set(VARIANTS) == {key for key, row in DATASETS.items() if row.kind == "derived"}
