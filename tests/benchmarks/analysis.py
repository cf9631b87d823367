"""A layer of many GiB, from extraction to the table: seconds and memory of `tlx analyze`. Run by
hand:

    python tests/benchmarks/analysis.py --gib 16 [--folder DIR]

Random pictures pass through the MNIST CNN, and its first convolution, 26 × 26 × 32 numbers a
picture, is kept raw until the file has so many GiB: that is what `extract` does with any data set,
only that the pictures are drawn. Then `tlx analyze` measures the dump in a process of its own,
tracked nowhere. Memory is that of the command and of all its workers, looked at every 20 ms: their
own pages (RssAnon), without the mapped pages of the file that the kernel keeps as long as nobody
else needs them.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from tlx.features.dump import ExtractionConfig
from tlx.features.extract import ExtractionContext, extract
from tlx.models import backbones

LAYER, ROW_BYTES = "conv1", 26 * 26 * 32 * 4
CLASSES = 10


class Drawn:
    """Pictures of ten classes that are drawn when they are asked for: row i is always the same."""

    crops, digest = 1, "0" * 64

    def __init__(self, count: int):
        self.shape = (count, 1, 28, 28, 1)
        self._means = np.random.default_rng(0).integers(
            0, 200, (CLASSES, 28, 28, 1), dtype=np.uint8
        )

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, rows: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(int(rows[0])).integers(
            0, 56, (len(rows), 28, 28, 1), dtype=np.uint8
        )
        return self._means[rows % CLASSES] + noise

    def prefetch(self, rows: np.ndarray) -> None:
        pass


def tree(pid: int) -> float:
    """MiB of own pages of a process and of all that it started."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        for process in (top := psutil.Process(pid), *top.children(recursive=True)):
            status = Path(f"/proc/{process.pid}/status").read_text()
            total += int(status.split("RssAnon:")[1].split()[0]) if "RssAnon:" in status else 0
    return total / 1024


def extracted(pictures: Drawn, folder: Path) -> Path:
    """The folder of their dump."""
    network = backbones.load("mnist-cnn", weights="default", classes=None, seed=0)
    place = ExtractionContext(
        folder,
        ids=[str(i) for i in range(len(pictures))],
        labels=[str(i % CLASSES) for i in range(len(pictures))],
        about={"backbone": "mnist-cnn"},
    )
    dump = extract(
        network,
        backbones.digest("mnist-cnn", "default"),
        pictures,
        [LAYER],
        place,
        ExtractionConfig(reduce="raw", batch=512),
    )
    dump.close()
    return dump.folder


def analyzed(dump: Path, folder: Path) -> tuple[float, float, dict[str, str]]:
    """Seconds, MiB at most, and the row of the table."""
    run = subprocess.Popen(
        [sys.executable, "-m", "tlx", "analyze", str(dump), "--no-tracking", "--out", "tables"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
    )
    most, started = 0.0, time.perf_counter()
    while run.poll() is None:
        most = max(most, tree(run.pid))
        time.sleep(0.02)
    assert run.returncode == 0
    (row,) = csv.DictReader((folder / "tables" / "layer_metrics.csv").open())
    return time.perf_counter() - started, most, row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gib", type=float, default=16)
    parser.add_argument(
        "--folder", help="where the file is put (default: the system's temporary folder)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        _, before, _ = analyzed(extracted(Drawn(100), folder / "few"), folder)
        started = time.perf_counter()
        pictures = Drawn(int(options.gib * 2**30) // ROW_BYTES)
        dump = extracted(pictures, folder / "dumps")
        print(
            f"{len(pictures):,} rows of {ROW_BYTES // 4:,} numbers, "
            f"{len(pictures) * ROW_BYTES / 2**30:.1f} GiB, "
            f"extracted in {time.perf_counter() - started:.0f} s",
            flush=True,
        )
        seconds, most, row = analyzed(dump, folder)
        extra = most - before
        print(
            f"analyze: {seconds:.0f} s, of which the layer's metrics {float(row['seconds']):.0f} "
            f"s; SSW/TSS "
            f"{float(row['ss_ratio']):.4f}, dimension {float(row['id']):.1f}\nown memory of all "
            f"processes: "
            f"{before:.0f} MiB for 100 rows, {most:.0f} MiB for all: {extra:.0f} MiB more (bar "
            f"2048: "
            f"{'met' if extra < 2048 else 'missed'}); the machine has "
            f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"
        )


if __name__ == "__main__":
    main()
