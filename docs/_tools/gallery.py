"""Make the figures of the gallery: small studies of scikit-learn's digits, nothing to download.

    python docs/_tools/gallery.py [--only NAME,NAME] [--work FOLDER]

Runs the commands below in one folder (a temporary one unless --work is given; kept results are
found again) and copies one figure of each study to docs/gallery/. About ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

GALLERY = Path(__file__).resolve().parents[1] / "gallery"
TRAINING = ("--train-per-class", "60", "--epochs", "8")


@dataclass(frozen=True)
class Figure:
    """One figure of the gallery: the command that makes it and the file that shows it.

    name     stem of the file in docs/gallery
    command  words after `tlx`
    file     pattern of the figure's name in the study's folder; the first match is taken
    caption  what the figure shows, one sentence
    """

    name: str
    command: tuple[str, ...]
    file: str
    caption: str


FIGURES = (
    Figure(
        "fine-tuning",
        ("fine-tuning", "--splits", "4", "--shots", "1,5,10"),
        "few_shot_curve",
        "Test accuracy of fine-tuning over training images per class, with 95 % CI over draws and "
        "test images.",
    ),
    Figure(
        "feature-extraction",
        ("feature-extraction", "--splits", "5", "--classifier", "linear-svc knn ncm lda"),
        "few_shot_curve",
        "Four classifiers on the features of the frozen network.",
    ),
    Figure(
        "layer-metrics",
        ("analyze", "mnist", "random_init"),
        "ss_ratio",
        "Within-class share of the sum of squares by layer: trained on MNIST, and untrained.",
    ),
    Figure(
        "tuning",
        ("tune", "--trials", "20", "--shots", "5", "--splits", "3"),
        "history",
        "A search over classifiers and their settings.",
    ),
    Figure(
        "quanta",
        ("quanta", "--repeats", "3", *TRAINING),
        "lambda_source_final",
        "Learned share λ of the source at each position of the gate.",
    ),
    Figure(
        "layer-transfer",
        ("layer-transfer", "--repeats", "3", *TRAINING),
        "layer_transfer",
        "AnB, BnB, AnB+ and BnB+ over the number of copied blocks.",
    ),
    Figure(
        "chop",
        ("chop", "--repeats", "3", *TRAINING),
        "chop",
        "Accuracy and size of networks that are cut behind each block.",
    ),
    Figure(
        "pruning",
        ("prune", "--repeats", "3", "--iterations", "5", *TRAINING),
        "pruning",
        "Accuracy over the share of weights that are kept.",
    ),
    Figure(
        "parameter-distance",
        ("parameter-distance", "--dataset", "digits", "--seeds", "3", *TRAINING),
        "parameter_distance_mean_abs_digits",
        "Transferability T of every layer.",
    ),
    Figure(
        "checkpoints",
        ("checkpoints",),
        "spearman_all",
        "Correlation of layer metrics with transfer performance.",
    ),
    Figure(
        "atlas",
        ("atlas",),
        "atlas",
        "All that is known of one network and one target, over the blocks.",
    ),
)


def run(figure: Figure, work: Path) -> Path:
    """Run a figure's command and return the path of the figure in the study's folder.

    Raises SystemExit where the command fails or makes no such figure.
    """
    store = work / "tlx-runs"
    before = studies(store)
    command = [sys.executable, "-m", "tlx", *figure.command, "--no-tracking", "--store", str(store)]
    environment = os.environ | {
        "TLX_CACHE": str(work / "cache"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    done = subprocess.run(  # noqa: S603 — the commands of the table above
        command, cwd=work, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"tlx {' '.join(figure.command)} failed:\n{done.stderr[-2000:]}")
    changed = [path for path, stamp in studies(store).items() if before.get(path) != stamp]
    for folder in changed:
        pictures = sorted(folder.rglob(f"{figure.file}.png"))
        if pictures:
            return pictures[0]
    sys.exit(f"tlx {' '.join(figure.command)} made no figure named {figure.file}.png")


def shrink(picture: Path, target: Path) -> None:
    """Save a figure with a palette of 256 colours: a third of the bytes, the same to the eye."""
    with Image.open(picture) as image:
        image.convert("RGB").quantize(256).save(target, optimize=True)


def studies(store: Path) -> dict[Path, int]:
    """Return the folders of the studies in a store and when their manifests were written, in ns."""
    manifests = store.glob("studies/*/MANIFEST.json")
    return {path.parent: path.stat().st_mtime_ns for path in manifests}


def main() -> None:
    """Make the figures that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="names of figures, comma-separated")
    parser.add_argument("--work", type=Path, help="folder of the results. Default: a temporary one")
    options = parser.parse_args()
    chosen = set(filter(None, options.only.split(",")))
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        for figure in FIGURES:
            if chosen and figure.name not in chosen:
                continue
            picture = run(figure, work)
            shrink(picture, GALLERY / f"{figure.name}.png")
            print(
                f"{figure.name}: {picture.name}, {picture.stat().st_size / 1000:.0f} kB", flush=True
            )


if __name__ == "__main__":
    main()
