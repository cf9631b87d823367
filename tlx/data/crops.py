"""Crop files: ten a picture, `<stem>_crop_<0…9><ext>`, in the layout of the image folder.

What was made, of what and how is in `crops.json` of the folder: the order of the crops, the sizing,
and SHA-256 of every source and crop. While they are being made the record is a journal, so that a
killed run resumes. The crops themselves are not synced one by one: one lost
to a power cut fails its checksum and is made again.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from .. import files, locks
from ..errors import BadDataError, TlxError, UnsafeError, UsageError, raise_all
from . import safe_image
from .decode import decode
from .image_views import incomplete
from .images import BLOCK, Progress, each
from .safe_image import DEFAULT, ImageLimits
from .sizing import CROPS, Sizing, crop_size, scaled, ten

MANIFEST, JOURNAL, LOCK = "crops.json", "crops.journal", "crops.lock"
SAVED_AS: dict[
    str, tuple[str, dict[str, Any]]
] = {  # end of the name → Pillow's format and settings
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), ("JPEG", {"subsampling": 0})),
    ".png": ("PNG", {}),
    ".bmp": ("BMP", {}),
    ".webp": ("WEBP", {"lossless": True}),
    ".tif": ("TIFF", {}),
    ".tiff": ("TIFF", {}),
}
FORMAT = 2  # to be raised when the same pictures and settings give other crops
Row = dict[str, Any]  # {"source": SHA-256, "crops": [SHA-256 × 10]}


@dataclass(frozen=True)
class Encoding:
    """Format of saved crops: as the picture's, JPEGs at `quality`, or all PNG.

    GIF always becomes PNG.
    """

    quality: int = 95
    lossless: bool = False

    def extension(self, relpath: str) -> str:
        """Return the file extension of a picture's crops."""
        own = PurePosixPath(relpath).suffix
        lossy = SAVED_AS.get(own.lower(), ("JPEG", {}))[0] == "JPEG"
        return ".png" if own.lower() not in SAVED_AS or (self.lossless and lossy) else own

    def encode(self, crop: np.ndarray, extension: str) -> bytes:
        """Encode a crop (h, w, 1 or 3) uint8 to the bytes of its file.

        No metadata is written.
        """
        image = Image.fromarray(crop[..., 0] if crop.shape[-1] == 1 else crop)
        kind, settings = SAVED_AS[extension.lower()]
        buffer = io.BytesIO()
        image.save(
            buffer, kind, **settings, **({"quality": self.quality} if kind == "JPEG" else {})
        )
        return buffer.getvalue()


def names(relpath: str, extension: str | None = None) -> list[str]:
    """Return the paths of the ten crops of a picture, relative to the folder of crops."""
    path = PurePosixPath(relpath)
    return [
        str(path.with_name(f"{path.stem}_crop_{i}{extension or path.suffix}"))
        for i in range(len(CROPS))
    ]


def paths(folder: Path, relpath: str) -> list[Path]:
    """Return the ten crops of a picture in `folder`, in order.

    PNGs where there is none with the picture's own extension.
    """
    own, png = names(relpath), names(relpath, ".png")
    return [
        Path(folder)
        / (b if b != a and not (Path(folder) / a).exists() and (Path(folder) / b).exists() else a)
        for a, b in zip(own, png, strict=True)
    ]


def missing(folder: Path, relpaths: Sequence[str]) -> list[TlxError]:
    """Return one error for every picture without all ten crops in `folder`, naming the missing."""
    errors = (incomplete(Path(folder) / relpath, paths(folder, relpath)) for relpath in relpaths)
    return [problem for problem in errors if problem]


# ---------------------------------------------------------------- making them


@dataclass(frozen=True)
class Written:
    """Result of `write`: pictures whose crops were made now, and those whose crops were kept."""

    written: int
    kept: int


def write(
    root: Path,
    relpaths: Sequence[str],
    out: Path,
    sizing: Sizing,
    *,
    encoding: Encoding = Encoding(),
    progress: Progress | None = None,
    limits: ImageLimits = DEFAULT,
) -> Written:
    """Write ten crops to `out` of each picture in `root`; existing intact crops are kept.

    Raises the errors of all pictures together, after the crops of the others were made;
    UsageError when `out` holds crops made otherwise, or by another program; BusyError when another
    process is making them.
    """
    root, out = Path(root), Path(out)
    _check_places(root, out, relpaths, encoding)
    settings = {
        "format": FORMAT,
        "order": [name for name, _, _ in CROPS],
        "sizing": sizing.identity(),
        "encoding": {"quality": encoding.quality, "lossless": encoding.lossless},
    }
    with locks.lock(out / LOCK):
        rows = _recorded(out, settings, relpaths, encoding)
        with files.Journal(out / JOURNAL) as journal:
            journal.append({"settings": settings})
            work = _Work(root, out, sizing, encoding, limits, rows)
            problems, made_now = _make_all(work, relpaths, journal, progress)
        raise_all(problems)
        files.write_json(out / MANIFEST, {**settings, "images": rows})
        (out / JOURNAL).unlink()
    return Written(made_now, len(relpaths) - made_now)


@dataclass(frozen=True)
class _Work:
    """Data that a thread needs to make the crops of one picture; rows are the records."""

    root: Path
    out: Path
    sizing: Sizing
    encoding: Encoding
    limits: ImageLimits
    rows: dict[str, Row]

    def of(self, relpath: str) -> tuple[str, Row, bool]:
        """Return the picture, its row, and whether its crops were made now."""
        extension = self.encoding.extension(relpath)
        places = [self.out / name for name in names(relpath, extension)]
        row = self.rows.get(relpath)
        if row and self._is_whole(relpath, row, places):
            return relpath, row, False
        decoded = decode(self.root / relpath, self.limits)
        picture = scaled(decoded.image, self.sizing)
        encoded = [
            self.encoding.encode(crop, extension)
            for crop in ten(picture, *crop_size(picture, self.sizing))
        ]
        for place, data in zip(places, encoded, strict=True):
            _put(place, data)
        return (
            relpath,
            {"source": decoded.digest, "crops": [hashlib.sha256(d).hexdigest() for d in encoded]},
            True,
        )

    def _is_whole(self, relpath: str, row: Row, places: list[Path]) -> bool:
        source = hashlib.sha256(safe_image.read_bytes(self.root / relpath, self.limits)).hexdigest()
        return row["source"] == source and all(
            place.is_file() and files.sha256(place) == known
            for place, known in zip(places, row["crops"], strict=True)
        )


def _make_all(
    work: _Work, relpaths: Sequence[str], journal: files.Journal, progress: Progress | None
) -> tuple[list[TlxError], int]:
    """Return errors, and the number of pictures cropped.

    Their rows are written to the journal and to work.rows.
    """
    problems: list[TlxError] = []
    total = 0
    for start in range(0, len(relpaths), BLOCK):
        results = list(each(work.of, relpaths[start : start + BLOCK]))
        problems += [item for item in results if isinstance(item, TlxError)]
        fresh = {item[0]: item[1] for item in results if not isinstance(item, TlxError) and item[2]}
        if fresh:
            journal.append({"images": fresh})
        work.rows.update(fresh)
        total += len(fresh)
        if progress:
            progress(start + len(results), len(relpaths))
    return problems, total


def _put(place: Path, data: bytes) -> None:
    """Write a file all or nothing, not synced."""
    temporary = place.with_name(files.TEMPORARY + place.name)
    with files.storage_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, place)


def _check_places(root: Path, out: Path, relpaths: Sequence[str], encoding: Encoding) -> None:
    """Check that nothing is written among the pictures, outside `out`, or twice to one place."""
    if out.resolve() == root.resolve() or root.resolve() in out.resolve().parents:
        raise UsageError(
            "crops-folder",
            "the crops would be among the pictures",
            where=out,
            expected="a folder outside that of the pictures",
        )
    problems: list[TlxError] = []
    taken: dict[str, str] = {}
    for relpath in relpaths:
        path = PurePosixPath(relpath)
        if path.is_absolute() or ".." in path.parts:
            problems.append(
                UnsafeError("path-outside", "leads out of the folder of pictures", where=relpath)
            )
        other = taken.setdefault(names(relpath, encoding.extension(relpath))[0], relpath)
        if other != relpath:
            problems.append(
                BadDataError(
                    "crops-collide",
                    f"its crops have the same names as those of {other}",
                    where=relpath,
                    remedy="rename one of the two",
                )
            )
    raise_all(problems)


def _recorded(
    out: Path, settings: Mapping[str, object], relpaths: Sequence[str], encoding: Encoding
) -> dict[str, Row]:
    """Return the rows of the manifest and of a remaining journal.

    Raises UsageError when `out` holds other crops.
    """
    records = files.Journal.read(out / JOURNAL)
    rows: dict[str, Row] = {}
    if (out / MANIFEST).exists():
        content = files.read_json(out / MANIFEST, limit=1 << 30)
        rows = content.pop("images", {})
        records = [{"settings": content}, *records]
    others = [record for record in records if record.get("settings", settings) != settings]
    foreign = (
        () if records else (name for p in relpaths for name in names(p, encoding.extension(p)))
    )
    first = next((name for name in foreign if (out / name).exists()), None)
    if others or first:
        raise UsageError(
            "crops-other",
            f"holds crops made {'with other settings' if others else f'elsewhere ({first})'}",
            where=out,
            remedy="choose another folder, or remove that one",
        )
    for record in records:
        rows |= record.get("images", {})
    return rows
