"""Dump: activations of a set of images at named layers, on disk, open for reading.

Row = image · crops + crop, in the order of the images. See shelf.py for the folders and files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

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
    counted,
)
from ..models import activations
from ..models.network import Network
from . import image_names
from .cuts import RowCuts
from .image_names import ImageNames
from .sharded import LayerArray, ManifestRow, Sharded
from .shelf import (
    FORMAT,
    IMAGES,
    SHARD,
    SHARD_ROWS,
    WHOLE,
    DumpDirectory,
    Holding,
    check_once,
    check_size,
    file_name,
)

PRECISIONS = ("float32", "bfloat16")
Described = TypeVar("Described")
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
        self._holding = Holding(self._shelf)
        self.close = self._holding.close
        self.own_s, self._open = own_s, dict[str, LayerArray]()
        try:
            self._read(layers, ids, labels, about)
        except BaseException:  # a kept error must not keep the dump from being removed
            self.close()
            raise

    def __reduce__(self) -> tuple[object, ...]:
        # many names are not sent along: they are with the dump
        ids, labels = self._given if self._has_columns else (self.ids, self.labels)
        return _reopened, (self.folder, self.layers, ids, labels, self.about, self.own_s)

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
        rows = (self._files[layer][0][1]["made"] for layer in self.layers)
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
        sums["disk_bytes"] = sum(
            row["bytes"] for layer in self.layers for _, row in self._files[layer]
        )
        return {name: share * total for name, total in sums.items()}

    def row_labels(self) -> np.ndarray:
        """Return (n·c,) str, the label of every row."""
        return np.repeat(np.asarray(self.labels, dtype=np.str_), self.crops)

    def array(self, layer: str) -> LayerArray:
        """Return (n·c, …) float32 or float16: a read-only map of the file, or its shards."""
        if layer not in self._open:
            if layer not in self.layers:
                raise UnknownNameError("layer of this dump", layer, self.layers)
            is_whole = SHARD not in self._files[layer][0][1]
            self._open[layer] = self._mapped(layer) if is_whole else self._sharded(layer)
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
            self.images, self.crops = int(self.header["images"]), int(self.header["crops"])
            self._cuts = RowCuts(self.rows, self.header.get(SHARD_ROWS, self.rows))
            self._files = {layer: self._files_of(layer) for layer in self.layers}
        self.how = ExtractionConfig(**self.header["identity"]["how"])
        self._given, self.about = (tuple(ids), tuple(labels)), dict(about or {})
        self._kept: tuple[tuple[str, ...], tuple[str, ...]] | None = None
        self._has_columns = False
        if not ids and not labels:
            self._read_names()
        self.inherited_s = max(0.0, sum(p["seconds"] for p in self.passes) - self.own_s)

    @property
    def ids(self) -> tuple[str, ...]:
        """Return the ids of the images; () if they are not known."""
        return self._names()[0]

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the labels of the images; () if they are not known."""
        return self._names()[1]

    def _names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        if any(self._given):
            return self._given
        if self._kept is None:
            kept = self._described(self._read_columns)
            self._kept = tuple(kept["ids"]), tuple(kept["labels"])
        return self._kept

    def _read_names(self) -> None:
        """Read what the last extraction called the images; many names once they are asked for."""
        kept = self._described(image_names.read_json)
        self.about = self.about or kept["about"] or dict(self.header.get("about", {}))
        self._has_columns = bool(kept["columns"])
        if not self._has_columns:
            self._kept = tuple(kept["ids"]), tuple(kept["labels"])

    def _read_columns(self, path: Path) -> ImageNames:
        rows = self._shelf.files()
        for name in image_names.file_names(path):
            files.check(self.folder / name, rows[name])
        return image_names.read(path)

    def _described(self, read: Callable[[Path], Described]) -> Described:
        """Read of the last extraction's description of the images.

        Another process may be replacing it at this moment.
        """
        for turn in range(3):
            path = self._shelf.description()
            try:
                with self._shelf.remedied():
                    files.check(path, self._shelf.files()[path.name])
                return read(path)
            except (IntegrityError, KeyError, FileNotFoundError):
                if turn == 2 or self._shelf.description() == path:
                    raise
        raise AssertionError

    def _files_of(self, layer: str) -> list[tuple[str, dict[str, Any]]]:
        """Return the files of a layer with their rows, in order, each of its size."""
        rows = [(name, row) for name, row in self._rows.items() if row.get("layer") == layer]
        rows.sort(key=lambda entry: entry[1].get(SHARD, 0))
        for name, row in rows:
            check_size(self.folder / name, row)
        numbers = [row.get(SHARD) for _, row in rows]
        if numbers not in ([None], list(range(self._cuts.count))):
            gone = sorted(set(range(self._cuts.count)) - set(numbers))
            raise IntegrityError(
                "file-unlisted",
                f"the manifest does not list {counted(len(gone), 'shard')} of '{layer}'",
                where=self.folder / file_name(layer, gone[0] if gone else 0),
            )
        return rows

    def _read_header(self) -> dict[str, Any]:
        if not self._rows:
            raise IntegrityError(
                "dump-incomplete",
                "it has no manifest: no layer of it is whole",
                where=self.folder,
                remedy="run the command that makes it again; it continues",
            )
        path = self._shelf.header()
        for name in (path.name, IMAGES):
            if name not in self._rows:
                raise IntegrityError(
                    "file-unlisted", f"the manifest does not list '{name}'", where=self.folder
                )
            files.check(self.folder / name, self._rows[name])
        header = files.read_json(path)
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

    def _sharded(self, layer: str) -> Sharded:
        rows: list[tuple[str, ManifestRow]] = [
            (name, {"bytes": row["bytes"], "sha256": row["sha256"]})
            for name, row in self._files[layer]
        ]
        dtype = np.dtype(self.how.dtype)
        return Sharded(self._shelf, rows, self._cuts, dtype, holding=self._holding)

    def _mapped(self, layer: str) -> np.ndarray:
        name, row = self._files[layer][0]
        path = self.folder / name
        with self._shelf.remedied():
            check_once(path, row)
            try:
                array = read_npy(path)
            except (BadDataError, UnsafeError) as error:
                raise IntegrityError("file-damaged", error.what, where=path) from error
            if len(array) != self.rows or array.dtype != np.dtype(self.how.dtype):
                raise IntegrityError(
                    "array-shape",
                    f"{array.dtype} {array.shape}",
                    where=path,
                    expected=f"{self.how.dtype} and {counted(self.rows, 'row')}",
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
        "format": WHOLE,  # whether it is cut into shards is no part of what a dump is
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
