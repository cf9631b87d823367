"""Regression of transferability on targets of one's own: ResNet-20 of CIFAR-10 on thirteen sets.

    python tests/benchmarks/own_regression.py FOLDER [--epochs 8]    run what is missing, regress

Every target is fine-tuned with one recipe from the checkpoint in $TLX_TEST_DATA; halves,
pairs of classes and fewer images of the real data sets there are targets of their own. The domain
gap is that to the CIFAR-10 images the checkpoint is of. At 8 epochs it takes half an hour on one
core, at 20 more than an hour; the same command continues. FOLDER/targets.csv and
FOLDER/regression.csv have what came out.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DATA = Path(os.environ.get("TLX_TEST_DATA", Path(__file__).resolve().parents[3] / "shared/data"))
RECIPE = ("--no-early-stopping", "--schedule", "cosine", "--lr", "0.01")
RECIPE += ("--seeds", "3", "--weight-decay", "0.0", "--val-per-class", "20")


@dataclass(frozen=True)
class Target:
    """Data set to fine-tune on.

    dataset    folder or name, as `tlx parameter-distance --dataset` takes it
    per_class  training images of each class; 0: all
    """

    name: str
    dataset: str
    per_class: int = 0


def targets(folder: Path) -> Iterator[Target]:
    """Write the folders of derived targets and return all targets."""
    cifar = DATA / "cifar10-mini"
    classes = sorted(path.name for path in (cifar / "train").iterdir())
    parts = {
        "cifar10-mini-first": classes[:5],
        "cifar10-mini-second": classes[5:],
        "cifar10-mini-pair": ["cat", "dog"],
    }
    yield Target("cifar10-mini", str(cifar))
    yield Target("cifar10-mini-40", str(linked(folder / "cifar10-mini-40", cifar, classes)), 40)
    for name, chosen in parts.items():
        yield Target(name, str(linked(folder / name, cifar, chosen)))
    yield Target("sign-digits", str(DATA / "sign-digits"))
    signs = DATA / "sign-digits"
    for name, chosen in (("sign-digits-low", "01234"), ("sign-digits-high", "56789")):
        yield Target(name, str(linked(folder / name, signs, chosen, splits=())))
    yield Target("fashion-mnist", str(DATA / "fashion-mnist"), 300)
    yield Target("mnist5k", str(DATA / "mnist5k"))
    yield Target("digits", "digits")
    yield Target("digits_split1", "digits_split1")
    yield Target("digits_noise", "digits_noise")


def linked(
    folder: Path, source: Path, classes: object, splits: tuple[str, ...] = ("train", "test")
) -> Path:
    """Return a copy of some classes of an image folder."""
    for part in splits or ("",):
        for name in classes:  # type: ignore[attr-defined]
            copy = folder / part / name
            if not copy.exists():
                shutil.copytree(source / part / name, copy)
    return folder


def join(tables: list[Path], out: Path) -> None:
    """Write the rows of all studies: a number of images per class makes a study of its own."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for table in tables:
        with open(table, newline="", encoding="utf-8") as file:
            rows |= {(row["target"], row["N"]): row for row in csv.DictReader(file)}
    with open(out, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(next(iter(rows.values()))))
        writer.writeheader()
        writer.writerows(rows.values())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=20)
    given = parser.parse_args()
    folder, epochs = given.folder.resolve(), str(given.epochs)
    tlx = Path(sys.executable).with_name("tlx")
    for target in targets(folder / "images"):
        words = ["--architecture", "resnet20-cifar", "--source-images", str(DATA / "cifar10-mini")]
        words += ["--pretrained", str(DATA / "checkpoints/resnet20-cifar10.th")]
        words += ["--dataset", target.dataset, "--train-per-class", str(target.per_class)]
        words += ["--store", str(folder / "runs"), "--no-tracking"]
        allowed = ("--allow-outside", str(DATA))
        print(f"== {target.name}", flush=True)
        subprocess.run(
            [tlx, "parameter-distance", *words, *RECIPE, "--epochs", epochs, *allowed], check=True
        )
    table = folder / "targets.csv"
    join(sorted((folder / "runs" / "studies").glob("*/targets.csv")), table)
    subprocess.run([tlx, "regression", table, "--out", folder], check=True)
    subprocess.run([tlx, "regression", table, "--raw"], check=True)


if __name__ == "__main__":
    main()
