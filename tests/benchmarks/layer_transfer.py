"""Layer transfer on real pairs: halves of the classes of MNIST and of CIFAR-10, every n, every
treatment, three ways of batch norm; and what was published of it.

    python tests/benchmarks/layer_transfer.py [--pair mnist5k] [--repeats 5] [--out FOLDER]

mnist5k       mnist-cnn, digits 0 to 4 → 5 to 9: it has no batch norm
cifar10-mini  resnet20-cifar, five classes → the other five: batch norm in every block
mnist-shift   resnet20-cifar, digits 0 to 4 → 5 to 9 in other brightness and contrast, so that A's
              statistics are wrong
              for B as ImageNet's are for another world

Ends with two claims held against the tables: under `keras2` AnB falls far below baseB while BnB
does not; under `frozen` AnB does not fall as far. Leaves tables and figures under --out. Commands
go through `tlx layer-transfer`.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

DATA = Path(
    os.environ.get("TLX_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")
)


@dataclass(frozen=True)
class Pair:
    """A network, images, and what is asked beside."""

    architecture: str
    bn: str
    depths: str
    epochs: int | str
    rate: float
    more: tuple[str, ...] = ()


PAIRS = {
    "mnist5k": Pair("mnist-cnn", "frozen", "1,2,3", 15, 0.01),
    "cifar10-mini": Pair(
        "resnet20-cifar",
        "frozen,adapt,keras2",
        "1,2,3,4,5,6,7,8,9,10",
        15,
        0.01,
        ("--val-per-class", "30"),
    ),
    "mnist-shift": Pair(
        "resnet20-cifar",
        "frozen,adapt,keras2",
        "1,2,4,6,8,10",
        10,
        0.05,
        ("--train-per-class", "150", "--input-size", "16"),
    ),
}


def idx(path: Path) -> np.ndarray:
    raw = gzip.decompress(path.read_bytes())
    axes = raw[3]
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i]) for i in range(axes)]
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape)


def shifted(root: Path) -> Path:
    """MNIST's digits as images; 5 to 9 at a third of the contrast, on a bright ground."""
    for split, stem in (("train", "train"), ("test", "t10k")):
        pixels = idx(DATA / "mnist5k" / f"{stem}-images-idx3-ubyte.gz")
        labels = idx(DATA / "mnist5k" / f"{stem}-labels-idx1-ubyte.gz")
        for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            folder = root / split / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray((170 + image // 3).astype(np.uint8) if label >= 5 else image).save(
                folder / f"{number:05d}.png"
            )
    return root


def run(
    name: str, pair: Pair, dataset: Path, repeats: int, workers: int, base: Path
) -> list[dict[str, str]]:
    folder = base / name
    folder.mkdir()
    words = [
        sys.executable,
        "-m",
        "tlx",
        "layer-transfer",
        "--dataset",
        str(dataset),
        "--architecture",
        pair.architecture,
        "--bn",
        pair.bn,
        "--depths",
        pair.depths,
        "--epochs",
        str(pair.epochs),
        "--learning-rate",
        str(pair.rate),
        "--repeats",
        str(repeats),
        "--workers",
        str(workers),
        "--no-tracking",
        *pair.more,
    ]
    print("\n$ tlx " + " ".join(words[3:]), flush=True)
    began = time.perf_counter()
    done = subprocess.run(
        words,
        cwd=folder,
        text=True,
        capture_output=True,
        check=False,
        env={**os.environ, "TLX_CACHE": str(base / "cache")},
    )
    said = [
        line for line in done.stdout.splitlines() if "epoch" not in line and "reading" not in line
    ]
    print(
        "\n".join(said),
        done.stderr,
        f"{time.perf_counter() - began:.0f} s, everything included",
        sep="\n",
    )
    done.check_returncode()
    text = next(folder.glob("tlx-runs/studies/*/layer_transfer.csv")).read_text()
    return list(csv.DictReader(text.splitlines()))


def claims(rows: list[dict[str, str]]) -> None:
    """AnB and BnB against baseB, over all n, by way of batch norm."""
    for bn in ("frozen", "adapt", "keras2"):
        for treatment in ("AnB", "BnB"):
            below = [
                100 * float(row["against_baseB"])
                for row in rows
                if (row["treatment"], row["bn"]) == (treatment, bn) and row["against_baseB"]
            ]
            if below:
                print(
                    f"{treatment} {bn:<7} against baseB, in points: mean over n "
                    f"{np.mean(below):+.1f}, "
                    f"worst {min(below):+.1f}"
                )


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--pair", choices=PAIRS, action="append")
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--workers", type=int, default=2)
    for name in ("depths", "epochs", "train-per-class", "treatments"):
        options.add_argument(f"--{name}", help="instead of the pair's own, for a quicker look")
    options.add_argument("--out", type=Path)
    asked = options.parse_args()
    base = Path(tempfile.mkdtemp())
    try:
        for name in asked.pair or PAIRS:
            given = PAIRS[name]
            more = [
                f"--{word.replace('_', '-')}={value}"
                for word in ("treatments", "train_per_class")
                if (value := getattr(asked, word))
            ]
            pair = replace(
                given,
                depths=asked.depths or given.depths,
                epochs=asked.epochs or given.epochs,
                more=(*given.more, *more),
            )
            dataset = shifted(base / "shifted") if name == "mnist-shift" else DATA / name
            claims(run(name, pair, dataset, asked.repeats, asked.workers, base))
            if asked.out:
                asked.out.mkdir(parents=True, exist_ok=True)
                for ending in ("csv", "md", "png"):
                    found = next((base / name).glob(f"tlx-runs/studies/*/layer_transfer.{ending}"))
                    shutil.copy(found, asked.out / f"{name}.{ending}")
    finally:
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    main()
