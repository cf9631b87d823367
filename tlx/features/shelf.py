"""Folder of dumps: its files, its locks, and how a new layer is added.

One folder per (weights, images, way of taking them):

    <root>/<key>/                 header.json, images[-…].json, <layer>.npy of (rows, …),
                                  MANIFEST.json
    <root>/<key>.<pass>.part/     layers in progress; the next process continues them
    <root>/locks/                 who writes, who reads; when a dump was last used

Layers may be added to a folder; what its manifest lists is never written again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .. import __version__, files, locks
from ..errors import BusyError, IntegrityError, ResourceError, Stopped

FORMAT = 1
HEADER, IMAGES = "header.json", "images.json"
# begins the name of the file that replaces images.json once the images are called otherwise
DESCRIBED = "images-"
SPARE_BYTES = 16 << 20  # to be left free on the disk


def file_name(layer: str) -> str:
    """Return the file name of a layer."""
    return quote(layer, safe="@") + ".npy"


class DumpDirectory:
    """Location of one dump: its folder, its unfinished parts, its locks."""

    def __init__(self, root: Path, key: str):
        self.root, self.key = Path(root).absolute(), key
        self.folder = self.root / key
        self._locks = self.root / "locks"

    def parts(self) -> list[Path]:
        """Return folders of layers in progress."""
        return sorted(self.root.glob(f"{self.key}.*.part"))

    def leftovers(self) -> bool:
        """Return whether there are unfinished parts, or ones not yet removed."""
        return bool(self.parts() or list(self._doomed()))

    def _doomed(self) -> Iterator[Path]:
        return self.root.glob(f"{files.TEMPORARY}{self.key}*")

    def part(self, name: str) -> Path:
        """Return the folder of the part of that name."""
        return self.root / f"{self.key}.{name}.part"

    @property
    def used(self) -> float:
        """Return when it was last used: seconds since 1970; 0 if unknown."""
        path = self._locks / f"{self.key}.use"
        return path.stat().st_mtime if path.exists() else 0.0

    @contextlib.contextmanager
    def using(self) -> Iterator[None]:
        """Prevent removal inside the block.

        Raises BusyError if it is being removed.
        """
        path = self._locks / f"{self.key}.use"
        with locks.lock(path, shared=True):
            os.utime(path)
            yield

    @contextlib.contextmanager
    def removing(self) -> Iterator[None]:
        """Exclude all readers and writers inside the block.

        Raises BusyError if it is in use.
        """
        with (
            locks.lock(self._locks / f"{self.key}.write"),
            locks.lock(self._locks / f"{self.key}.use"),
        ):
            yield

    @contextlib.contextmanager
    def writing(
        self, stopping: Callable[[], bool] = lambda: False, *, wait: bool = True
    ) -> Iterator[None]:
        """Exclude other writers inside the block.

        Waits for another writer, or raises BusyError.
        """
        with contextlib.ExitStack() as held:
            while True:
                try:
                    held.enter_context(locks.lock(self._locks / f"{self.key}.write"))
                    break
                except BusyError:
                    if not wait:
                        raise
                    if stopping():
                        raise Stopped(15) from None
                    time.sleep(0.05)
            yield

    def files(self) -> dict[str, dict[str, Any]]:
        """Return the rows of its manifest; {} if there is none yet.

        Raises IntegrityError if it is damaged.
        """
        if not (self.folder / files.MANIFEST).exists():
            return {}
        with self.remedied():
            return files.manifest(self.folder)

    def layers(self) -> list[str]:
        """Return the complete layers."""
        return [row["layer"] for row in self.files().values() if "layer" in row]

    def description(self) -> Path:
        """Return the file that describes the images of the rows, as of the last extraction."""
        names = [name for name in self.files() if name.startswith(DESCRIBED)]
        return self.folder / (names[0] if names else IMAGES)

    @contextlib.contextmanager
    def remedied(self) -> Iterator[None]:
        """Add to errors inside the block what to do about damage."""
        try:
            yield
        except IntegrityError as error:
            error.remedy = error.remedy or (
                f"remove it with: tlx dumps rm {self.key}, and run the same command again; "
                "it is made anew"
            )
            raise

    def discard(self, folder: Path) -> None:
        """Remove a folder of this dump, atomically as seen from outside."""
        doomed = folder.with_name(files.TEMPORARY + folder.name)
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        files.sync_folder(self.root)
        shutil.rmtree(doomed)

    def sweep(self) -> None:
        """Remove what an interrupted `discard` left."""
        for doomed in self._doomed():
            shutil.rmtree(doomed)

    # ------------------------------------------------------------ written by extract, under
    # `writing`

    def begin(self, header: Mapping[str, object], images: Mapping[str, object]) -> None:
        """Prepare the folder for its first layers; nothing happens if it has layers."""
        if not self.files():
            files.make_folder(self.folder)
            files.remove_temporary(self.folder)
            files.write_json(self.folder / IMAGES, images)
            files.write_json(
                self.folder / HEADER,
                {"format": FORMAT, "tlx": __version__, "key": self.key, **header},
            )

    def describe(self, images: Mapping[str, object]) -> None:
        """Replace ids, labels and description of the images.

        They are no part of what names the dump.

        The new file has a name of its own and is listed by an atomic change of the manifest, so
        that a cut leaves the old description or the new one.
        """
        rows = self.files()
        name = f"{DESCRIBED}{files.digest(images)[:16]}.json"
        if not rows or name in rows:
            return
        files.write_json(self.folder / name, images)
        others = [other for other in rows if other.startswith(DESCRIBED)]
        kept = {other: row for other, row in rows.items() if other not in others}
        files.write_manifest(self.folder, {**kept, name: _row(self.folder / name)})
        for other in others:
            (self.folder / other).unlink(missing_ok=True)

    def publish(self, part: Path, manifest: Mapping[str, Mapping[str, object]]) -> None:
        """Move the complete layers of a part in and list them.

        Repeating it after an interruption gives the same.
        """
        rows = self.files() or {name: _row(self.folder / name) for name in (HEADER, IMAGES)}
        new = {name: row for name, row in manifest.items() if name not in rows}
        with files.storage_errors(self.folder):
            for name in new:
                if (part / name).exists():
                    os.replace(part / name, self.folder / name)
            files.sync_folder(self.folder)
        for name, row in new.items():
            check_size(self.folder / name, row)
        files.write_manifest(self.folder, {**rows, **new})
        files.sync_folder(self.root)


def _row(path: Path) -> dict[str, object]:
    return {"bytes": path.stat().st_size, "sha256": files.sha256(path)}


def check_size(path: Path, row: Mapping[str, object]) -> None:
    """Raise IntegrityError unless `path` has the size of its manifest row."""
    if not path.is_file() or path.stat().st_size != row["bytes"]:
        files.check(path, row)  # its error names the damage


def check_space(where: Path, need: int) -> None:
    """Raise ResourceError unless so many bytes, and a reserve, are free."""
    free = files.free_bytes(where)
    if need + SPARE_BYTES > free:
        raise ResourceError(
            "disk-space",
            f"the activations need {need:,} bytes, {free:,} are free",
            where=where,
            remedy="free some space (tlx dumps ls shows what dumps take), take fewer layers, pool "
            "them, or "
            "keep them as float16",
        )
