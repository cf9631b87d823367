"""Probe of nodes: what a node must share with the driver before it takes a trial.

The same packages, or results differ; the same folders under the same paths, or they are lost; the
same kind of CPU, or bits differ.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ... import files
from ...errors import BadDataError, MissingError, ResourceError, TlxError
from .. import environment

PREFIX = f"{files.TEMPORARY}probe-"
SIGHT_S = 10.0  # for a file of another machine to be seen
OLD_S = 7 * 86400.0  # a driver's file that nobody misses


@dataclass(frozen=True)
class NodeCheck:
    """What a node is compared with.

    token     of the driver; in the name and the content of a file in each folder
    versions  package → version of the driver
    cpu       kind of CPU whose bits are wanted; "": of any
    """

    token: str
    folders: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str = ""
    cpu: str = ""


@dataclass(frozen=True)
class NodeDescription:
    """A node as it sees itself."""

    host: str
    cpu: str
    differences: tuple[str, ...] = ()  # of packages, as sentences
    unseen: tuple[str, ...] = ()  # folders that are not the driver's
    unwritable: tuple[str, ...] = ()
    unsafe: tuple[str, ...] = ()  # folders where a rename replaces a full folder


def check_of(folders: Sequence[str], *, mixed: bool) -> NodeCheck:
    """Return what nodes are compared with: this process."""
    return NodeCheck(
        secrets.token_hex(8),
        tuple(folders),
        environment.versions(),
        _commit(),
        "" if mixed else environment.cpu_kind(),
    )


def _commit() -> str:
    commit = environment.commit()
    if commit is None:
        return ""
    return f"{commit['commit']} changed" if commit["dirty"] else str(commit["commit"])


@contextlib.contextmanager
def marked(check: NodeCheck) -> Iterator[None]:
    """Keep the driver's file in each folder inside the block."""
    paths = [Path(folder) / f"{PREFIX}{check.token}" for folder in check.folders]
    try:
        for path in paths:
            files.make_folder(path.parent)
            _remove_old(path.parent)
            files.write_bytes(path, check.token.encode())
        yield
    finally:
        for path in paths:
            with contextlib.suppress(OSError):
                path.unlink()


def _remove_old(folder: Path) -> None:
    """Remove the files of drivers that were killed long ago."""
    for path in folder.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if path.is_file() and time.time() - path.stat().st_mtime > OLD_S:
                path.unlink()


# ---------------------------------------------------------------- on a node


def describe(check: NodeCheck) -> NodeDescription:
    """Describe this node, compared with the driver; write a file of it into each folder."""
    unseen, unwritable, unsafe = [], [], []
    host = socket.gethostname()
    for folder in check.folders:
        if not _sees(Path(folder) / f"{PREFIX}{check.token}", check.token):
            unseen.append(folder)
            continue
        try:
            if not _keeps_full_folders(Path(folder), check.token):
                unsafe.append(folder)
        except (OSError, TlxError):
            unwritable.append(folder)
    return NodeDescription(
        host,
        environment.cpu_kind(),
        tuple(_differences(check)),
        tuple(unseen),
        tuple(unwritable),
        tuple(unsafe),
    )


def _differences(check: NodeCheck) -> Iterator[str]:
    own = environment.versions()
    for package in sorted(check.versions.keys() | own.keys()):
        local, wanted = own.get(package, "none"), check.versions.get(package, "none")
        if local != wanted:
            yield f"{package} {local} where this machine has {wanted}"
    commit = _commit()
    if check.commit and commit and commit != check.commit:
        yield f"tlx of commit {commit} where this machine has {check.commit}"


def _sees(path: Path, content: str) -> bool:
    end = time.monotonic() + SIGHT_S
    while True:
        with contextlib.suppress(OSError):
            os.scandir(path.parent).close()  # a network file system looks again
            if path.read_text() == content:
                return True
        if time.monotonic() > end or not path.parent.is_dir():
            return False
        time.sleep(0.1)


def _keeps_full_folders(folder: Path, token: str) -> bool:
    """Return whether a rename onto a folder with a file in it fails, as commits rely on."""
    name = f"{PREFIX}{token}-{secrets.token_hex(4)}"
    first, second = folder / f"{name}-a", folder / f"{name}-b"
    try:
        for path in (first, second):
            path.mkdir()
            (path / "file").write_text(token)
        try:
            os.rename(first, second)
        except OSError:
            return True
        return False
    finally:
        for path in (first, second):
            with contextlib.suppress(OSError):
                (path / "file").unlink()
                path.rmdir()


_passed: set[str] = set()  # tokens of drivers that this process was compared with


def refusal(check: NodeCheck) -> str:
    """Return why this node does not take tasks of a driver; "" if it does.

    It is compared once a process and driver, when its first task comes: it may have joined late.
    """
    if check.token in _passed:
        return ""
    description = describe(check)
    try:
        raise_faults({description.host: description})
    except TlxError as error:
        return str(error)
    if check.cpu and description.cpu != check.cpu:
        return f"its CPU is of another kind ({description.cpu})"
    _passed.add(check.token)
    return ""


# ---------------------------------------------------------------- in the driver


def raise_faults(nodes: Mapping[str, NodeDescription]) -> None:
    """Raise the first fault of the nodes, naming each node that has it."""
    for name, node in nodes.items():
        if node.differences:
            raise BadDataError(
                "node-differs",
                f"node {name} has {'; '.join(node.differences)}",
                expected="the same packages on every node",
                remedy="install the same versions there (pip install 'tlx==…'), then start its "
                "worker again",
            )
        if node.unseen:
            raise MissingError(
                f"on node {name}: the folder of this command",
                node.unseen[0],
                made_by="--store and --cache, folders that every node sees under the same path",
            )
        if node.unwritable:
            raise ResourceError(
                "node-unwritable",
                f"node {name} cannot write there",
                where=node.unwritable[0],
                remedy="give its user the right to, or choose --store and --cache elsewhere",
            )
        if node.unsafe:
            raise ResourceError(
                "node-rename",
                f"on node {name} a rename replaces a folder that is not empty",
                where=node.unsafe[0],
                expected="a file system with the renames of POSIX (NFS, Lustre, GPFS, CephFS)",
                remedy="choose --store and --cache on another file system",
            )
