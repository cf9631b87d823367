"""Dump: activations of a set of images at named layers, on disk, open for reading.

Row = image · crops + crop, in the order of the images. See shelf.py for the folders and files.
"""

from __future__ import annotations

import contextlib
import hashlib
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__, files
from ..data.sources import read_npy
from ..errors import (
    BadDataError,
    IntegrityError,
    MissingError,
    UnknownNameError,
    UnsafeError,
    UsageError,
)
from ..models import activations
from ..models.network import Network
from .shelf import FORMAT, HEADER, IMAGES, DumpDirectory, check_size, file_name

PRECISIONS = ("float32", "bfloat16")
CHUNK_BYTES = 16 << 20  # of a layer, read at once while a matrix is put together


@dataclass(frozen=True, kw_only=True)
class ExtractionConfig:
    """Settings of an extraction; all of them are part of a dump's identity.

    reduce     a row of REDUCTIONS: "pooled", "first-token", "flat" or "raw"
    dtype      of the files: "float32" or "float16"
    batch      rows of one forward pass; the last bits of a number depend on it
    fold       batch norm folded into the convolutions: faster, the last bits differ
    precision  of the forward pass: "float32", or "bfloat16" under autocast
    """

    reduce: str = "pooled"
    dtype: str = "float32"
    batch: int = 64
    fold: bool = True
    precision: str = "float32"

    def __post_init__(self) -> None:
        for kind, value, known in (
            ("reduction", self.reduce, activations.REDUCTIONS),
            ("dtype", self.dtype, activations.DTYPES),
            ("precision", self.precision, PRECISIONS),
        ):
            if value not in known:
                raise UnknownNameError(kind, value, known)
        if self.batch < 1:
            raise UsageError("out-of-range", f"{self.batch}", where="batch", expected="at least 1")


DEFAULT = ExtractionConfig()


class Dump:
    """Layers of a dump, in the order requested.

    layers, images, crops    names; how many images, and crops of each
    ids, labels              of the images, as given when it was opened, else as given by the
                             extraction that came last;
                             () if they never were
    about                    a few words on network and images, from the same source
    header, how              what it was made from, and how
    own_s, inherited_s       seconds of extraction spent by the call that returned this, and spent
                             before it

    While it is open nobody removes it. It goes to other processes by its place. Files are checked
    against their SHA-256 when they are first used.
    """

    def __init__(
        self,
        folder: Path,
        layers: Sequence[str] | None = None,
        *,
        ids: Sequence[str] = (),
        labels: Sequence[str] = (),
        about: Mapping[str, str] | None = None,
        own_s: float = 0.0,
    ):
        """Open the layers.

        Raises IntegrityError for what is damaged or incomplete, MissingError and UnknownNameError
        for what is not there.
        """
        self.folder = Path(folder).absolute()
        self.key, self._shelf = (
            self.folder.name,
            DumpDirectory(self.folder.parent, self.folder.name),
        )
        if not self.folder.is_dir():
            raise MissingError("dump", self.folder, made_by="tlx extract")
        stack = contextlib.ExitStack()
        stack.enter_context(self._shelf.using())
        self.close = weakref.finalize(self, stack.close)
        self.own_s, self._open = own_s, dict[str, np.ndarray]()
        try:
            self._read(layers, ids, labels, about)
        except BaseException:  # a kept error must not keep the dump from being removed
            self.close()
            raise

    def __reduce__(self) -> tuple[object, ...]:
        return _reopened, (self.folder, self.layers, self.ids, self.labels, self.about, self.own_s)

    def __len__(self) -> int:
        return self.rows

    @property
    def rows(self) -> int:
        """Return the number of rows, n·c."""
        return self.images * self.crops

    @property
    def passes(self) -> list[dict[str, Any]]:
        """Return the passes over the images that computed these layers.

        Each with its seconds, device, threads and versions.
        """
        rows = (self._rows[file_name(layer)]["made"] for layer in self.layers)
        return list({record["pass"]: record for record in rows}.values())

    @property
    def widths(self) -> dict[str, int]:
        """Return layer → numbers in a row of it."""
        return {
            layer: int(np.prod(self.array(layer).shape[1:], dtype=np.int64))
            for layer in self.layers
        }

    def usage(self, rows: int) -> dict[str, float]:
        """Return what so many rows of these layers took, in proportion: name → sum.

        wall_s and disk_bytes are always known; the others only where every pass was metered.
        """
        share, passes = rows / max(1, self.rows), self.passes
        used = [record.get("used", {}) for record in passes]
        names = set.intersection(*map(set, used)) if used else set()
        sums = {name: sum(record[name] for record in used) for name in names}
        sums["wall_s"] = self.own_s + self.inherited_s
        sums["disk_bytes"] = sum(self._rows[file_name(layer)]["bytes"] for layer in self.layers)
        return {name: share * total for name, total in sums.items()}

    def row_labels(self) -> np.ndarray:
        """Return (n·c,) str, the label of every row."""
        return np.repeat(np.asarray(self.labels, dtype=np.str_), self.crops)

    def array(self, layer: str) -> np.ndarray:
        """Return (n·c, …) float32 or float16, a read-only map of the file."""
        if layer not in self._open:
            if layer not in self.layers:
                raise UnknownNameError("layer of this dump", layer, self.layers)
            self._open[layer] = self._mapped(layer)
        return self._open[layer]

    def take(self, layer: str, rows: np.ndarray | Sequence[int]) -> np.ndarray:
        """Return (r, …), a copy of these rows (r,) int of a layer."""
        return self.array(layer)[np.asarray(rows, dtype=np.int64)]

    def matrix(
        self, layers: Sequence[str] | None = None, rows: np.ndarray | Sequence[int] | None = None
    ) -> np.ndarray:
        """Return (r, Σ d) float32, C order: rows of layers, one layer after the other.

        All rows and all layers unless given.
        """
        arrays = [self.array(layer) for layer in (self.layers if layers is None else layers)]
        flat = [array.reshape(len(array), -1) for array in arrays]
        index = np.arange(self.rows) if rows is None else np.asarray(rows, dtype=np.int64)
        out = np.empty((len(index), sum(array.shape[1] for array in flat)), np.float32)
        begin = 0
        for array in flat:
            step = max(1, CHUNK_BYTES // (array.shape[1] * array.itemsize))
            for start in range(0, len(index), step):
                out[start : start + step, begin : begin + array.shape[1]] = array[
                    index[start : start + step]
                ]
            begin += array.shape[1]
        return out

    def verify(self) -> None:
        """Raise IntegrityError, naming the file, unless every byte of the folder is as written."""
        with self._shelf.remedied():
            files.verify(self.folder)

    # ------------------------------------------------------------ opening

    def _read(
        self,
        layers: Sequence[str] | None,
        ids: Sequence[str],
        labels: Sequence[str],
        about: Mapping[str, str] | None,
    ) -> None:
        self._rows = self._shelf.files()
        with self._shelf.remedied():
            self.header, self.layers = self._read_header(), self._known(layers)
            for layer in self.layers:
                check_size(self.folder / file_name(layer), self._rows[file_name(layer)])
        self.how = ExtractionConfig(**self.header["identity"]["how"])
        self.images, self.crops = int(self.header["images"]), int(self.header["crops"])
        self.ids, self.labels, self.about = tuple(ids), tuple(labels), dict(about or {})
        if not ids and not labels:
            kept = self._description()
            self.ids, self.labels = tuple(kept["ids"]), tuple(kept["labels"])
            self.about = self.about or dict(kept.get("about") or self.header.get("about", {}))
        self.inherited_s = max(0.0, sum(p["seconds"] for p in self.passes) - self.own_s)

    def _description(self) -> dict[str, Any]:
        """Return the last extraction's description of the images.

        Another process may be replacing it at this moment.
        """
        for turn in range(3):
            path = self._shelf.description()
            try:
                with self._shelf.remedied():
                    files.check(path, self._shelf.files()[path.name])
                result: dict[str, Any] = files.read_json(path, limit=1 << 30)
                return result
            except (IntegrityError, KeyError, FileNotFoundError):
                if turn == 2 or self._shelf.description() == path:
                    raise
        raise AssertionError

    def _read_header(self) -> dict[str, Any]:
        if not self._rows:
            raise IntegrityError(
                "dump-incomplete",
                "it has no manifest: no layer of it is whole",
                where=self.folder,
                remedy="run the command that makes it again; it continues",
            )
        for name in (HEADER, IMAGES):
            if name not in self._rows:
                raise IntegrityError(
                    "file-unlisted", f"the manifest does not list '{name}'", where=self.folder
                )
            files.check(self.folder / name, self._rows[name])
        header = files.read_json(self.folder / HEADER)
        if header["format"] > FORMAT:
            raise BadDataError(
                "newer-format",
                f"made by tlx {header['tlx']} in format {header['format']}",
                where=self.folder,
                expected=f"format {FORMAT} or older, which tlx {__version__} reads",
            )
        result: dict[str, Any] = header
        return result

    def _known(self, layers: Sequence[str] | None) -> tuple[str, ...]:
        present = self._shelf.layers()
        for layer in layers or ():
            if layer not in present:
                raise UnknownNameError(
                    "layer of this dump", layer, present, remedy="tlx extract adds layers to it"
                )
        return tuple(present if layers is None else layers)

    def _mapped(self, layer: str) -> np.ndarray:
        path, row = self.folder / file_name(layer), self._rows[file_name(layer)]
        with self._shelf.remedied():
            _check_once(path, row)
            try:
                array = read_npy(path)
            except (BadDataError, UnsafeError) as error:
                raise IntegrityError("file-damaged", error.what, where=path) from error
            if len(array) != self.rows or array.dtype != np.dtype(self.how.dtype):
                raise IntegrityError(
                    "array-shape",
                    f"{array.dtype} {array.shape}",
                    where=path,
                    expected=f"{self.how.dtype} and {self.rows} rows",
                )
        return np.asarray(array)  # a plain view of the map slices faster than the map


def _reopened(
    folder: Path,
    layers: Sequence[str],
    ids: Sequence[str],
    labels: Sequence[str],
    about: Mapping[str, str],
    own_s: float,
) -> Dump:
    return Dump(folder, layers, ids=ids, labels=labels, about=about, own_s=own_s)


_checked: set[tuple[Any, ...]] = set()  # files as this process found them whole


def _check_once(path: Path, row: Mapping[str, object]) -> None:
    state = path.stat()
    seen = (
        str(path),
        state.st_ino,
        state.st_size,
        state.st_mtime_ns,
        state.st_ctime_ns,
        row["sha256"],
    )
    if seen not in _checked:
        files.check(path, row)
        _checked.add(seen)


# ---------------------------------------------------------------- identity


def identity(network: Network, weights: str, images: str, how: ExtractionConfig) -> dict[str, Any]:
    """Return what a dump is computed from, as plain JSON: its key is the digest of this.

    weights  digest of the weights without the head (backbones.digest). Random ones have none, so
    what they hold is
             taken, as it always is of the head
    images   Pixels.digest, which covers the sizing
    """
    row = network.row
    random = weights in ("", "random")
    inside = network.net.state_dict()
    heads = tuple(f"{name}." for name in network.head_names)
    head = {name: value for name, value in inside.items() if name.startswith(heads)}
    return {
        "format": FORMAT,
        "images": images,
        "how": asdict(how),
        "weights": tensors_digest(inside) if random else weights,
        "head": tensors_digest(head),
        "network": [
            row.family,
            row.model,
            network.input_size,
            list(network.mean),
            list(network.std),
        ],
    }


def key(network: Network, weights: str, images: str, how: ExtractionConfig) -> str:
    """Return the name of the folder of the dump."""
    return files.digest(identity(network, weights, images, how))


def tensors_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Compute the SHA-256 (hex) of named tensors: names, types, shapes, numbers."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        total.update(files.canonical_json([name, str(value.dtype), list(value.shape)]))
        total.update(value.flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()
