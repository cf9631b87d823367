"""Run a tlx command in a process that is killed on the way: python killed_command.py WHERE WORDS…

WHERE is `write:N:FOLDER`, the N-th call that writes below the folder, or `mlflow:NAME:before` and
`mlflow:NAME:after`, around a method of MLflow's client. A command that comes through says how
many calls there were.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pytest
from cli.test_failing_writes import Disk


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DeadlyDisk(Disk):
    """Disk whose n-th call that writes kills the process."""

    def _count(self, where) -> None:
        if any(self._path(where).startswith(folder) for folder in self.folders):
            self.calls += 1
            if self.calls == self.fails_at:
                die()


def deadly_client(patch: pytest.MonkeyPatch, name: str, when: str) -> None:
    from mlflow import MlflowClient

    call = getattr(MlflowClient, name)

    def called(*args, **kwargs):
        if when == "before":
            die()
        result = call(*args, **kwargs)
        die()
        return result

    patch.setattr(MlflowClient, name, called)


def main() -> None:
    kind, name, rest = sys.argv[1].split(":", 2)
    patch, disk = pytest.MonkeyPatch(), None
    if kind == "write":
        disk = DeadlyDisk(patch, Path(rest))
        disk.fails_at = int(name)
    else:
        deadly_client(patch, name, rest)
    from tlx import cli

    code = 0
    try:
        cli.main(sys.argv[2:])
    except SystemExit as left:
        code = int(left.code or 0)
    if disk is not None:
        print(f"calls {disk.calls}")
    raise SystemExit(code)


main()
