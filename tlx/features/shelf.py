"""Shelf: where dumps lie, who may touch them, and how a new layer joins one.

One folder per (weights, images, way of taking them):

    <root>/<key>/                 header.json, images[-…].json, <layer>.npy of (rows, …),
                                  MANIFEST.json
    <root>/<key>.<pass>.part/     layers being made; whoever comes next continues them
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
    """The file of a layer."""
    return quote(layer, safe="@") + ".npy"


class DumpDirectory:
    """Where one dump lies, or will: its folder, its unfinished parts, its locks."""

    def __init__(self, root: Path, key: str):
        self.root, self.key = Path(root).absolute(), key
        self.folder = self.root / key
        self._locks = self.root / "locks"

    def parts(self) -> list[Path]:
        """Folders of layers that are being made."""
        return sorted(self.root.glob(f"{self.key}.*.part"))

    def leftovers(self) -> bool:
        """Whether something lies beside the folder: unfinished, or not yet cleared away."""
        return bool(self.parts() or list(self._doomed()))

    def _doomed(self) -> Iterator[Path]:
        return self.root.glob(f"{files.TEMPORARY}{self.key}*")

    def part(self, name: str) -> Path:
        """The folder of the part of that name."""
        return self.root / f"{self.key}.{name}.part"

    @property
    def used(self) -> float:
        """When it was last used: seconds since 1970; 0 if nothing says."""
        path = self._locks / f"{self.key}.use"
        return path.stat().st_mtime if path.exists() else 0.0

    @contextlib.contextmanager
    def using(self) -> Iterator[None]:
        """Not to be removed inside. Busy if it is being removed."""
        path = self._locks / f"{self.key}.use"
        with locks.lock(path, shared=True):
            os.utime(path)
            yield

    @contextlib.contextmanager
    def removing(self) -> Iterator[None]:
        """Nobody reads or writes it inside. Busy if somebody does."""
        with (
            locks.lock(self._locks / f"{self.key}.write"),
            locks.lock(self._locks / f"{self.key}.use"),
        ):
            yield

    @contextlib.contextmanager
    def writing(
        self, stopping: Callable[[], bool] = lambda: False, *, wait: bool = True
    ) -> Iterator[None]:
        """Nobody else writes it inside; waits for whoever does, or raises Busy."""
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
        """The rows of its manifest; {} if there is none yet. Integrity if it is damaged."""
        if not (self.folder / files.MANIFEST).exists():
            return {}
        with self.remedied():
            return files.manifest(self.folder)

    def layers(self) -> list[str]:
        """The layers that are whole."""
        return [row["layer"] for row in self.files().values() if "layer" in row]

    def description(self) -> Path:
        """The file that says which images the rows are of, as they were called by whoever extracted
        last.
        """
        names = [name for name in self.files() if name.startswith(DESCRIBED)]
        return self.folder / (names[0] if names else IMAGES)

    @contextlib.contextmanager
    def remedied(self) -> Iterator[None]:
        """Say what to do about damage."""
        try:
            yield
        except IntegrityError as error:
            error.remedy = error.remedy or (
                f"remove it with: tlx dumps rm {self.key}, and run the same command again; "
                "it is made anew"
            )
            raise

    def discard(self, folder: Path) -> None:
        """Remove a folder of this dump, at once as seen from outside."""
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

    def begin(self, header: Mapping[str, Any], images: Mapping[str, Any]) -> None:
        """Make the folder ready for its first layers; nothing happens if it has some."""
        if not self.files():
            files.make_folder(self.folder)
            files.remove_temporary(self.folder)
            files.write_json(self.folder / IMAGES, images)
            files.write_json(
                self.folder / HEADER,
                {"format": FORMAT, "tlx": __version__, "key": self.key, **header},
            )

    def describe(self, images: Mapping[str, Any]) -> None:
        """Replace ids, labels and words of the images, which are no part of what names the dump.

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

    def publish(self, part: Path, made: Mapping[str, Mapping[str, Any]]) -> None:
        """Move the whole layers of a part in and list them; done again after a cut, it comes to the
        same.
        """
        rows = self.files() or {name: _row(self.folder / name) for name in (HEADER, IMAGES)}
        new = {name: row for name, row in made.items() if name not in rows}
        with files.storage_errors(self.folder):
            for name in new:
                if (part / name).exists():
                    os.replace(part / name, self.folder / name)
            files.sync_folder(self.folder)
        for name, row in new.items():
            check_size(self.folder / name, row)
        files.write_manifest(self.folder, {**rows, **new})
        files.sync_folder(self.root)


def _row(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": files.sha256(path)}


def check_size(path: Path, row: Mapping[str, Any]) -> None:
    """Raise Integrity unless `path` has the size of its manifest row."""
    if not path.is_file() or path.stat().st_size != row["bytes"]:
        files.check(path, row)  # which says what is wrong


def check_space(where: Path, need: int) -> None:
    """Raise Resource unless so many bytes, and some to spare, are free."""
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
