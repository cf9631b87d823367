"""A small extraction that can be killed: pixels in memory, a network of a moment, a driver that
forks and kills.

Run as a program (argv: mode, root, seed or call): it forks, so that one import of torch serves all
the deaths.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch

from tlx import files
from tlx.features import cuts, parts
from tlx.features.dump import ExtractionConfig
from tlx.features.extract import ExtractionContext, extract
from tlx.models import backbones

LAYERS = ["conv1", "relu2", "fc1"]
HOW = ExtractionConfig(batch=8, reduce="flat")


class Pictures:
    """n images of c crops as uint8 noise, what data.pixels.Pixels is to an extraction."""

    def __init__(self, n=6, crops=1, size=28, channels=1, seed=0):
        self.shape, self.crops = (n, crops, size, size, channels), crops
        self.digest = f"noise {self.shape} {seed}"
        self.rows = np.random.default_rng(seed).integers(
            0, 256, (n * crops, size, size, channels), dtype=np.uint8
        )
        self.taken: list[int] = []

    def __len__(self):
        return self.shape[0]

    def take(self, rows):
        self.taken.extend(map(int, rows))
        return self.rows[rows]

    def prefetch(self, rows):
        pass


def network(seed=0):
    return backbones.load("mnist-cnn", weights=None, classes=10, seed=seed)


def sums(root: Path) -> dict[str, str]:
    """File → SHA-256 of every array and list in every dump under root, and what is left over."""
    return {
        str(path.relative_to(root)): files.sha256(path) if path.suffix == ".npy" else ""
        for path in sorted(Path(root).rglob("*"))
        if path.is_file() and path.parent.name != "locks"
    }


def once(root: Path, rows: int) -> None:
    extract(net, "random", Pictures(rows), LAYERS, ExtractionContext(root), HOW).verify()


def child(work) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:  # whatever it is, the parent must hear of it
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return pid


def ended(pid: int) -> str:
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return {0: "whole", -signal.SIGKILL: "killed"}.get(status, f"failed {status}")


def kill_at_random(root: Path, seed: int, wanted: int, rows: int = 200) -> dict:
    """Extract again and again, killed after a random time, until `wanted` were killed and a dump is
    whole.
    """
    chance, kills, found = random.Random(seed), 0, []
    while kills < wanted or not found:
        pid = child(lambda: once(root / str(len(found)), rows))
        time.sleep(chance.uniform(0, 0.25))
        os.kill(pid, signal.SIGKILL)
        how = ended(pid)
        kills += how == "killed"
        if how not in ("killed", "whole"):
            return {"failed": how}
        if how == "whole":
            found.append(sums(root / str(len(found))))
    if (root / str(len(found))).exists():
        assert ended(child(lambda: once(root / str(len(found)), rows))) == "whole"
        found.append(sums(root / str(len(found))))
    assert ended(child(lambda: once(root / "undisturbed", rows))) == "whole"
    return {"kills": kills, "found": found, "undisturbed": sums(root / "undisturbed")}


def kill_at_every_call(root: Path, rows: int = 10, first: int = 0, step: int = 1) -> dict:
    """Killed just before each call to the disk (or each few); then continued."""
    found = []
    assert ended(child(lambda: once(root / "undisturbed", rows))) == "whole"
    for number in range(first, 1000, step):
        folder = root / str(number)
        how = ended(child(lambda f=folder, n=number: (deadly(n), once(f, rows))))
        if how == "whole":
            break
        if how != "killed" or ended(child(lambda f=folder: once(f, rows))) != "whole":
            return {"failed": f"{how} at call {number}"}
        found.append(sums(folder))
    return {"kills": len(found), "found": found, "undisturbed": sums(root / "undisturbed")}


def deadly(number: int) -> None:
    """The call of that number to the disk is never made: this process dies before it; half a write
    is made.
    """
    left = [number]

    def counted(name, call):
        def counting(*args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                if name == "write":
                    call(args[0], args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return counting

    for name in (
        *("fsync", "replace", "rename", "link", "write", "ftruncate", "mkdir", "unlink", "rmdir"),
    ):
        setattr(os, name, counted(name, getattr(os, name)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    parts.MARK_S = 0.0  # a mark after every batch
    net = network()
    mode, place = sys.argv[1], Path(sys.argv[2])
    if "shard" in mode:
        cuts.SHARD_BYTES = 1 << 20  # two batches of conv1
    modes = {
        "every": lambda: kill_at_every_call(place),
        "random": lambda: kill_at_random(place, int(sys.argv[3]), 25),
        "each third shard call": lambda: kill_at_every_call(place, 17, int(sys.argv[3]) % 3, 3),
        "shards": lambda: kill_at_random(place, int(sys.argv[3]), 5, rows=41),
    }
    print(json.dumps(modes[mode]()))
