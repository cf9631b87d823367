"""Resolution of CSV rows to files: in the image root, regular, by no link that leads out."""

from __future__ import annotations

import errno
import functools
import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import BadDataError, TlxError, UnsafeError, nearest
from .csvs import Row

NEAREST_SHOWN = 20  # missing files for which a folder is searched for a like name


def find(row: Row, root: Path, allow: tuple[Path, ...] = ()) -> Path:
    """Find the file of a row in `root`: <split>/<label>/<filename>, else by the row's path.

    The row's path is relative to root's parent or root.

    UnsafeError if it is outside root and `allow` (by `..`, an absolute path or a link) or is no
    regular file; BadDataError if there is none, with the nearest name.
    """
    return Finder.of(str(root), tuple(map(str, allow))).find(row)


class Boundary:
    """Folders that paths to images may lead to: an image root, and those of --allow-outside."""

    def __init__(self, root: Path, allow: Iterable[Path | str] = ()):
        self.homes = tuple(os.path.realpath(os.path.expanduser(place)) for place in (root, *allow))
        self._below = tuple(home.rstrip("/") + "/" for home in self.homes)

    def contains(self, real: str) -> bool:
        """Return whether a path without links is in one of the folders."""
        return real.startswith(self._below) or real in self.homes

    def check(self, path: Path | str) -> None:
        """Raise UnsafeError if `path`, its links followed, is outside.

        A path that does not exist passes.
        """
        try:
            real = os.path.realpath(path, strict=True)
        except OSError:
            return
        if not self.contains(real):
            raise self.outside(path, real)

    def check_all(self, paths: Iterable[Path]) -> None:
        """Raise UnsafeError if paths lead outside, naming the first and how many more.

        Each folder is resolved once.
        """
        inside: dict[str, bool] = {}
        leading_out = []
        for path in paths:
            folder = os.path.dirname(path)
            if folder not in inside:
                inside[folder] = self.contains(os.path.realpath(folder))
            if not inside[folder] or (
                os.path.islink(path) and not self.contains(os.path.realpath(path))
            ):
                leading_out.append(path)
        if leading_out:
            raise self.outside(
                leading_out[0], os.path.realpath(leading_out[0]), more=len(leading_out) - 1
            )

    def outside(self, path: Path | str, real: str, shown: str = "", more: int = 0) -> UnsafeError:
        """Build the error for a path that leads to `real`; `more` counts further paths like it."""
        link = f"; it leads to {real}" if os.path.normpath(path) != real else ""
        others = f", and {more} more like it" if more else ""
        return UnsafeError(
            "outside-root",
            f"'{shown or os.path.basename(path)}' leaves the image root{link}{others}",
            where=path,
            expected=f"a file or folder below {self.homes[0]}",
            remedy="allow the folder that it leads to with --allow-outside",
        )


class Finder:
    """Resolver of many rows (see `find`): folders are resolved once."""

    def __init__(self, root: Path, allow: tuple[Path, ...] = ()):
        self.root = Path(root).absolute()
        self.boundary = Boundary(root, allow)
        self._real: dict[str, str] = {}  # folder → its real path
        self._forms: dict[str, dict[str, str]] = {}
        self._searched = 0

    @staticmethod
    @functools.lru_cache(maxsize=8)
    def of(root: str, allow: tuple[str, ...]) -> Finder:
        """Return one finder for each root."""
        return Finder(Path(root), tuple(map(Path, allow)))

    def find(self, row: Row) -> Path:
        """Return the file of a row, by the rules of `find`."""
        refused: TlxError | None = None
        for candidate in self._spellings(row):
            try:
                if self._is_safe_file(candidate, row):
                    return Path(candidate)
            except UnsafeError as error:
                refused = refused or error
        raise refused or self._missing(row)

    def _spellings(self, row: Row) -> Iterator[str]:
        """Yield possible paths of a row's file; then the same in the Unicode form of the disk."""
        candidates = self._candidates(row)
        yield from candidates
        for path in candidates:
            if not path.isascii() and (spelt := self._as_on_disk(path)):
                yield spelt

    def _candidates(self, row: Row) -> list[str]:
        root = str(self.root)
        if row.path.startswith("/"):
            return [row.path]
        places = [os.path.join(os.path.dirname(root), row.path), os.path.join(root, row.path)]
        if all(_plain(part) for part in (row.label, row.filename)) and (
            not row.split or _plain(row.split)
        ):
            places.insert(0, os.path.join(root, row.split, row.label, row.filename))
        return places

    def _as_on_disk(self, path: str) -> str:
        """Return a path as spelled on disk; "" if there is no such file.

        Names can be the same text in another Unicode form (NFC, NFD).
        """
        place = os.path.dirname(str(self.root))
        relative = os.path.relpath(path, place)
        if relative.startswith(".."):
            return ""
        for part in relative.split("/"):
            name = part
            if not os.path.lexists(os.path.join(place, name)):
                name = self._forms_in(place).get(unicodedata.normalize("NFC", name), "")
            if not name:
                return ""
            place = os.path.join(place, name)
        return place

    def _forms_in(self, folder: str) -> dict[str, str]:
        """Return names in a folder that are not ASCII: in form NFC → as they are on disk."""
        if folder not in self._forms:
            try:
                names = [name for name in os.listdir(folder) if not name.isascii()]
            except OSError:
                names = []
            self._forms[folder] = {
                unicodedata.normalize("NFC", name): name for name in sorted(names)
            }
        return self._forms[folder]

    def _is_safe_file(self, path: str, row: Row) -> bool:
        """Return whether the file exists and may be read.

        Raises UnsafeError for what is no safe file.
        """
        try:
            mode = os.lstat(path).st_mode
            folder, name = os.path.split(path)
            real = (
                os.path.realpath(path, strict=True)
                if stat.S_ISLNK(mode)
                else self._real_folder(folder) + "/" + name
            )
            mode = os.stat(real).st_mode
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise BadDataError(
                    "link-loop", "a link that leads to itself", where=path
                ) from error
            return False
        except ValueError:  # a NUL in the name
            return False
        if not self.boundary.contains(real):
            raise self.boundary.outside(path, real, row.path)
        if not stat.S_ISREG(mode):
            raise UnsafeError(
                "not-regular",
                f"'{row.path}' is not a regular file",
                where=path,
                expected="an image file",
            )
        return True

    def _real_folder(self, folder: str) -> str:
        real = self._real.get(folder)
        if real is None:
            real = self._real[folder] = os.path.realpath(folder)
        return real

    def _missing(self, row: Row) -> BadDataError:
        self._searched += 1
        near = (
            nearest(row.filename, self._neighbours(row)) if self._searched <= NEAREST_SHOWN else []
        )
        return BadDataError(
            "image-missing",
            f"'{row.path}' is not there",
            where=self.root,
            expected=f"nearest name: {near[0]}" if near else "root/<split>/<label>/<filename>",
            remedy="" if near else "is this the root of the images?",
        )

    def _neighbours(self, row: Row) -> list[str]:
        for candidate in self._candidates(row):
            folder = os.path.dirname(candidate)
            if os.path.isdir(folder) and self.boundary.contains(self._real_folder(folder)):
                return os.listdir(folder)
        return []


def _plain(part: str) -> bool:
    """Return whether a text is one plain component of a path."""
    return part not in ("", ".", "..") and "/" not in part and "\0" not in part
