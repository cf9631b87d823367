"""Crop files: ten a picture, `<stem>_crop_<0…9><ext>`, beside each other in the shape of the image
folder.

What was made, of what and how is in `crops.json` of the folder: the order of the crops, the sizing,
and SHA-256 of every source and crop. While they are being made it stands in a journal, so that a
run that was killed goes on where it was. The crops themselves are not synced one by one: one lost
to a power cut fails its checksum and is made again.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
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
    """How crops are saved: as the picture was, JPEGs at `quality`, or all as PNG; GIF always
    becomes PNG.
    """

    quality: int = 95
    lossless: bool = False

    def extension(self, relpath: str) -> str:
        """The end of the crops' names of a picture."""
        own = PurePosixPath(relpath).suffix
        lossy = SAVED_AS.get(own.lower(), ("JPEG", {}))[0] == "JPEG"
        return ".png" if own.lower() not in SAVED_AS or (self.lossless and lossy) else own

    def encode(self, crop: np.ndarray, extension: str) -> bytes:
        """The bytes of the file of a crop (h, w, 1 or 3) uint8. No metadata goes in."""
        image = Image.fromarray(crop[..., 0] if crop.shape[-1] == 1 else crop)
        kind, settings = SAVED_AS[extension.lower()]
        buffer = io.BytesIO()
        image.save(
            buffer, kind, **settings, **({"quality": self.quality} if kind == "JPEG" else {})
        )
        return buffer.getvalue()


def names(relpath: str, extension: str | None = None) -> list[str]:
    """Where the ten crops of a picture lie, relative to the folder of crops."""
    path = PurePosixPath(relpath)
    return [
        str(path.with_name(f"{path.stem}_crop_{i}{extension or path.suffix}"))
        for i in range(len(CROPS))
    ]


def paths(folder: Path, relpath: str) -> list[Path]:
    """The ten crops of a picture in `folder`, in order; PNGs where there is none with the picture's
    own extension.
    """
    own, png = names(relpath), names(relpath, ".png")
    return [
        Path(folder)
        / (b if b != a and not (Path(folder) / a).exists() and (Path(folder) / b).exists() else a)
        for a, b in zip(own, png, strict=True)
    ]


def missing(folder: Path, relpaths: Sequence[str]) -> list[TlxError]:
    """One error for every picture that has not all ten crops in `folder`, naming those that
    lack.
    """
    found = (incomplete(Path(folder) / relpath, paths(folder, relpath)) for relpath in relpaths)
    return [problem for problem in found if problem]


# ---------------------------------------------------------------- making them


@dataclass(frozen=True)
class Written:
    """What came of it: pictures whose crops were made now, and those whose crops were there."""

    made: int
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
    """Ten crops below `out` of each picture below `root`; crops that are there and whole are kept.

    Raises what is wrong with any picture, all together, after the crops of the others were made;
    Usage when `out` holds crops made otherwise, or by another program; Busy when another process is
    making them.
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
            problems, made = _make_all(work, relpaths, journal, progress)
        raise_all(problems)
        files.write_json(out / MANIFEST, {**settings, "images": rows})
        (out / JOURNAL).unlink()
    return Written(made, len(relpaths) - made)


@dataclass(frozen=True)
class _Work:
    """What a thread needs to make the crops of one picture; rows is what stands in the record."""

    root: Path
    out: Path
    sizing: Sizing
    encoding: Encoding
    limits: ImageLimits
    rows: dict[str, Row]

    def of(self, relpath: str) -> tuple[str, Row, bool]:
        """The picture, its row, and whether its crops were made now."""
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
    """What is wrong, and how many pictures were cropped; their rows go to the journal and to
    work.rows.
    """
    problems: list[TlxError] = []
    made = 0
    for start in range(0, len(relpaths), BLOCK):
        found = list(each(work.of, relpaths[start : start + BLOCK]))
        problems += [item for item in found if isinstance(item, TlxError)]
        fresh = {item[0]: item[1] for item in found if not isinstance(item, TlxError) and item[2]}
        if fresh:
            journal.append({"images": fresh})
        work.rows.update(fresh)
        made += len(fresh)
        if progress:
            progress(start + len(found), len(relpaths))
    return problems, made


def _put(place: Path, data: bytes) -> None:
    """A file all or nothing, not synced."""
    temporary = place.with_name(files.TEMPORARY + place.name)
    with files.storage_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, place)


def _check_places(root: Path, out: Path, relpaths: Sequence[str], encoding: Encoding) -> None:
    """Nothing is written among the pictures, outside `out`, or twice to one place."""
    if out.resolve() == root.resolve() or root.resolve() in out.resolve().parents:
        raise UsageError(
            "crops-folder",
            "the crops would lie among the pictures",
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
    out: Path, settings: dict[str, Any], relpaths: Sequence[str], encoding: Encoding
) -> dict[str, Row]:
    """The rows of the manifest and of a journal left behind; Usage when `out` holds other crops."""
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
