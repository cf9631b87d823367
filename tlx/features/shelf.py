"""Folder of dumps: its files, its locks, and how a new layer is added.

One folder per (weights, images, way of taking them):

    <root>/<key>/                 header.json, images[-…].json, MANIFEST.json, and a layer's rows:
                                  <layer>.npy, or shards of them: <layer>.<00012>.npy
    <root>/<key>.<pass>.part/     layers in progress; the next process continues them
    <root>/<key>.mended.part/     damaged files that are being made anew
    <root>/locks/                 who writes, who reads; when a dump was last used

Layers may be added to a folder; what its manifest lists is never written again, unless it was
damaged, and then with the bytes that are listed. Format 1 has no
shards; the header of format 2 says how many rows a shard has. Once a dump of format 1 gets a layer
in shards, header-….json counts in the place of header.json.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .. import __version__, files, locks
from ..errors import BadDataError, BusyError, IntegrityError, ResourceError, Stopped
from . import image_names
from .cuts import RowCuts
from .image_names import ImageNames

WHOLE, SHARDS = 1, 2  # formats: a file a layer; layers in shards
FORMAT = SHARDS  # the newest that is read
HEADER, IMAGES = "header.json", "images.json"
HEADERS = "header-"  # begins the name of the file that replaces header.json
SHARD_ROWS = "shard_rows"  # of a header
SHARD = "shard"  # of a manifest row: the number of the shard; absent of a layer in one file
# begins the name of the file that replaces images.json once the images are called otherwise
DESCRIBED = "images-"
SPARE_BYTES = 16 << 20  # to be left free on the disk
MENDED = "mended"  # name of the part of files that are made anew because they were damaged


def file_name(layer: str, shard: int | None = None) -> str:
    """Return the file name of a layer, or of one of its shards."""
    stem = quote(layer, safe="@")
    return f"{stem}.npy" if shard is None else f"{stem}.{shard:05d}.npy"


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
        rows = self.files().values()
        return list(dict.fromkeys(row["layer"] for row in rows if "layer" in row))

    def header(self) -> Path:
        """Return the file of its header."""
        return self.folder / _newest(self.files(), HEADERS, HEADER)

    def description(self) -> Path:
        """Return the file that describes the images of the rows, as of the last extraction."""
        return self.folder / _newest(self.files(), DESCRIBED, IMAGES)

    @contextlib.contextmanager
    def remedied(self) -> Iterator[None]:
        """Add to errors inside the block what to do about damage."""
        try:
            yield
        except IntegrityError as error:
            error.remedy = error.remedy or self._remedy(error.where)
            raise

    def _remedy(self, where: str) -> str:
        """Return what to type about a damaged file: files of rows are made anew one by one."""
        try:
            is_rows = "layer" in files.manifest(self.folder).get(Path(where).name, {})
        except IntegrityError:
            is_rows = False
        if not is_rows:
            return self.removal
        command = self.made(Path(where).name).get("command")
        if not _is_own_command(command):
            return "run the command that made it again; it makes this file alone anew"
        return f"run: {command} (it makes this file alone anew)"

    @property
    def removal(self) -> str:
        """Return what to type where the whole dump is to be made anew."""
        return (
            f"remove it with: tlx dumps rm {self.key}, and run the same command again; "
            "it is made anew"
        )

    def made(self, name: str) -> Mapping[str, Any]:
        """Return what the manifest says of the pass that made a file of rows; {} if nothing."""
        rows = self.files()
        layer = rows[name]["layer"]
        return next(
            (row["made"] for row in rows.values() if row.get("layer") == layer and "made" in row),
            {},
        )

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

    def begin(self, header: Mapping[str, object], images: ImageNames, cuts: RowCuts) -> RowCuts:
        """Prepare the folder for layers that are cut so; return how they are to be cut.

        All layers in shards are cut at the same rows: those of the first extraction.
        """
        content = {"tlx": __version__, "key": self.key, **header}
        if self.files():
            kept = files.read_json(self.header())
            if cuts.count > 1 and SHARD_ROWS not in kept:
                self._replace_header(kept | {"format": SHARDS, SHARD_ROWS: cuts.rows})
            return RowCuts(cuts.total, kept.get(SHARD_ROWS, cuts.rows))
        files.make_folder(self.folder)
        files.remove_temporary(self.folder)
        cuts = RowCuts(cuts.total, self._begun_rows() or cuts.rows)
        image_names.write(self.folder / IMAGES, images)
        if cuts.count > 1:
            content = {"format": SHARDS, SHARD_ROWS: cuts.rows, **content}
        else:
            content = {"format": WHOLE, **content}
        files.write_json(self.folder / HEADER, content)
        return cuts

    def _begun_rows(self) -> int | None:
        """Return the rows of a shard by a header of which no layer is whole yet."""
        try:
            rows = files.read_json(self.folder / HEADER).get(SHARD_ROWS)
        except (OSError, BadDataError):
            return None
        return None if rows is None else int(rows)

    def _replace_header(self, content: Mapping[str, object]) -> None:
        def write(path: Path) -> list[str]:
            files.write_json(path, content)
            return [path.name]

        self._replace(HEADERS, files.digest(content), write)

    def describe(self, images: ImageNames) -> None:
        """Replace ids, labels and description of the images.

        They are no part of what names the dump.
        """
        self._replace(DESCRIBED, files.digest(images), lambda path: image_names.write(path, images))

    def _replace(self, prefix: str, digest: str, write: Callable[[Path], list[str]]) -> None:
        """Put files in the place of those with this prefix; the first of their kind stays.

        The new ones have names of their own and are listed by an atomic change of the manifest, so
        that a cut leaves the old ones or the new ones.

        write  writes the file and those beside it; gives their names
        """
        rows = self.files()
        path = self.folder / f"{prefix}{digest[:16]}.json"
        if not rows or path.name in rows:
            return
        names = write(path)
        others = [other for other in rows if other.startswith(prefix)]
        kept = {other: row for other, row in rows.items() if other not in others}
        new = {name: _row(self.folder / name) for name in names}
        files.write_manifest(self.folder, {**kept, **new})
        for other in others:
            (self.folder / other).unlink(missing_ok=True)

    def publish(self, part: Path, manifest: Mapping[str, Mapping[str, object]]) -> None:
        """Move the complete layers of a part in and list them.

        Repeating it after an interruption gives the same.
        """
        rows = self.files() or {name: _row(self.folder / name) for name in self._first_files()}
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

    def _first_files(self) -> list[str]:
        return [HEADER, *image_names.file_names(self.folder / IMAGES)]


class Holding:
    """Hold on a dump: nobody removes it until `close`, or until nothing refers to this."""

    def __init__(self, shelf: DumpDirectory):
        stack = contextlib.ExitStack()
        stack.enter_context(shelf.using())
        self.close = weakref.finalize(self, stack.close)


def _newest(names: Iterable[str], prefix: str, first: str) -> str:
    later = (name for name in names if name.startswith(prefix) and name.endswith(".json"))
    return next(later, first)


def _row(path: Path) -> dict[str, object]:
    return {"bytes": path.stat().st_size, "sha256": files.sha256(path)}


def check_size(path: Path, row: Mapping[str, object]) -> None:
    """Raise IntegrityError unless `path` has the size of its manifest row."""
    if not path.is_file() or path.stat().st_size != row["bytes"]:
        files.check(path, row)  # its error names the damage


_checked: set[tuple[object, ...]] = set()  # files as this process found them whole


def check_once(path: Path, row: Mapping[str, object]) -> None:
    """Raise IntegrityError unless a file is as its manifest row says; read it once a process."""
    try:
        state = path.stat()
    except FileNotFoundError:
        files.check(path, row)  # its error names the damage
        raise
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


def _is_own_command(text: object) -> bool:
    """Return whether a text from a manifest is one command of tlx, which a shell takes as it is.

    A dump may be another's: what it says is not to be typed unseen.
    """
    if not isinstance(text, str):
        return False
    try:
        words = shlex.split(text)
    except ValueError:
        return False
    return words[:1] == ["tlx"] and shlex.join(words) == text and text.isprintable()


def check_own(path: Path) -> None:
    """Raise IntegrityError if a file is one of a dump's layers and has not the listed bytes."""
    path = Path(path).absolute()
    if not (path.parent / files.MANIFEST).is_file():
        return
    shelf = DumpDirectory(path.parent.parent, path.parent.name)
    try:
        row = files.manifest(shelf.folder).get(path.name, {})
    except IntegrityError:  # a folder of another program may have a file of that name
        return
    if "layer" in row:
        with shelf.remedied():
            check_once(path, row)


def check_space(where: Path, need: int) -> None:
    """Raise ResourceError unless so many bytes, and a reserve, are free."""
    free = files.free_bytes(where)
    if need + SPARE_BYTES > free:
        raise ResourceError(
            "disk-space",
            f"the activations need {need:,} bytes and {SPARE_BYTES:,} are to be left, "
            f"{free:,} are free",
            where=where,
            remedy="free some space (tlx dumps ls shows what dumps take), take fewer layers, pool "
            "them, or "
            "keep them as float16",
        )
