"""A disk that fails: each call that writes fails once, in commands that make files; all leave with
a sentence.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli.test_image_rules import ALL, FEW, WORDS
from conftest import draw_images

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
MUST_FAIL = 12  # calls, at least, of a command that is worth the test
# a command → its words, and how many of its calls are tried: all, or some drawn anew each day
COMMANDS = {
    "splits draw": (("splits", "draw", "csvs", *FEW), None),
    "crops": (("crops", "cropped", "--size", 28), 10),
    "extract": (("extract", "--layers", "last"), 15),
    "analyze": (
        ("analyze", "mnist", "--samples", 0, "--layers", "last", "--resamplings", 2, *WORDS),
        5,
    ),
    "pretrain": (("pretrain", *ALL, *WORDS, "--out", "out/weights.safetensors"), 5),
    "feature-extraction": (
        ("feature-extraction", *FEW, "--classifier", "ncm", "--no-use-crops", *WORDS),
        5,
    ),
}


class Disk:
    """Counts the calls that write below some folders, and fails the n-th of them, once."""

    def __init__(self, monkeypatch, *folders: Path):
        self.folders, self.calls, self.fails_at, self.error = (
            [str(f) for f in folders],
            0,
            -1,
            errno.ENOSPC,
        )
        for name in (
            "mkdir",
            "rename",
            "replace",
            "link",
            "fsync",
            "write",
            "ftruncate",
            "truncate",
        ):
            monkeypatch.setattr(os, name, self._counted(getattr(os, name)))
        monkeypatch.setattr(os, "open", self._opened(os.open))
        monkeypatch.setattr(builtins, "open", self._file(builtins.open))
        monkeypatch.setattr(io, "open", builtins.open)

    def arm(self, number: int, error: int) -> None:
        self.calls, self.fails_at, self.error = 0, number, error

    def _counted(self, call):
        def counted(where, *rest, **more):
            self._count(where)
            return call(where, *rest, **more)

        return counted

    def _opened(self, call):
        def opened(path, flags, *rest, **more):
            if flags & WRITING:
                self._count(
                    path if more.get("dir_fd") is None else Path(self._path(more["dir_fd"])) / path
                )
            return call(path, flags, *rest, **more)

        return opened

    def _file(self, call):
        def opened(path, mode="r", *rest, **more):
            if set(mode) & set("wax+") and not isinstance(path, int):
                self._count(path)
            return call(path, mode, *rest, **more)

        return opened

    def _path(self, where) -> str:
        if isinstance(where, int):
            try:
                return os.readlink(f"/proc/self/fd/{where}")
            except OSError:
                return ""
        return os.path.abspath(os.fspath(where))

    def _count(self, where) -> None:
        path = self._path(where)
        if any(path.startswith(folder) for folder in self.folders):
            self.calls += 1
            if self.calls == self.fails_at:
                raise OSError(self.error, os.strerror(self.error), path)


@pytest.mark.crash
@pytest.mark.parametrize("command", COMMANDS)
def test_every_call_that_writes_fails_once(tlx, tmp_path, monkeypatch, command, mnist_like, rng):
    words, some = COMMANDS[command]
    cache = tmp_path / "cache"
    monkeypatch.setenv("TLX_CACHE", str(cache))
    ask = (*words, "--dataset", mnist_like)

    def clean():
        for path in tmp_path.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    disk = Disk(monkeypatch, tmp_path)
    assert tlx(*ask)[0] == 0
    count = disk.calls
    assert count >= MUST_FAIL
    every = range(1, count + 1)
    numbers = every if some is None else sorted(rng.sample(every, some))
    for number in numbers:
        clean()
        disk.arm(
            number,
            random.Random(number).choice([errno.ENOSPC, errno.EIO, errno.EACCES, errno.EDQUOT]),
        )
        code, out, complained = tlx(*ask)
        where = (
            f"{command}, call {number} of {count}, {errno.errorcode[disk.error]}: {out} "
            f"{complained}"
        )
        assert code in (0, 5, 7), where
        assert "fault in tlx" not in complained + out, where
        assert "Traceback" not in complained + out, where
        assert code != 7 or "error[" in complained, where
        disk.arm(-1, 0)
        code, out, complained = tlx(*ask)
        assert code == 0, f"afterwards, {where} then {out} {complained}"


@pytest.fixture(scope="module")
def mnist_like(tmp_path_factory):
    return draw_images(tmp_path_factory.mktemp("data") / "images", per_class=6)


@pytest.mark.crash
@pytest.mark.parametrize(
    ("command", "kilobytes"),
    [("extract", 40), ("pretrain", 400), ("feature-extraction", 40), ("feature-extraction", 900)],
)
def test_a_disk_that_really_is_full(tmp_path, mnist_like, command, kilobytes):
    """A file system of so many kilobytes, with everything that a command writes on it, MLflow's
    database too.
    """
    small = tmp_path / "small"
    small.mkdir()
    words = [str(word) for word in COMMANDS[command][0] if word != "--no-tracking"]
    mount = f'mount -t tmpfs -o size={kilobytes}k tmpfs {small} && cd {small} && exec "$@"'
    environment = {
        **os.environ,
        "TLX_CACHE": str(small / "cache"),
        "MPLCONFIGDIR": str(tmp_path / "mpl"),
    }
    if subprocess.run(
        ["unshare", "-rm", "sh", "-c", f"mount -t tmpfs tmpfs {small}"], check=False
    ).returncode:
        pytest.skip("this user may not mount a small file system in a namespace of its own")
    done = subprocess.run(
        [
            "unshare",
            "-rm",
            "sh",
            "-c",
            mount,
            "sh",
            sys.executable,
            "-m",
            "tlx",
            *words,
            "--dataset",
            str(mnist_like),
        ],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode in (5, 7), said
    assert "fault in tlx" not in said
    assert "Traceback" not in said
    assert "space" in said
