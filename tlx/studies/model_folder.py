"""Weight files of a folder, in the order of a training; the folders of the thesis.

'Transferability in DNN' keeps models/<source>/models_<seed>/model_<run>_<checkpoint>.pt. A
checkpoint is 0, 0_K (after K batches) or E (after E epochs); tlx names its files by it alone.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import MissingError, UsageError
from ..models.weights import archives

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".th", ".h5")
TAG = re.compile(r"\d+(_\d+)?", re.ASCII)
OF_THESIS = re.compile(r"model_(?P<run>.+?)_(?P<tag>(0_)?\d+)", re.ASCII)
MODELS, ALL = "models", "all"


def tag_of(path: Path) -> str:
    """Return the checkpoint that a file's name says, such as 0_30; "" for none.

    >>> [tag_of(Path(name)) for name in ("model_pre_mnist_0_30.pt", "0_30.safetensors", "x.pt")]
    ['0_30', '0_30', '']
    """
    if TAG.fullmatch(path.stem):
        return path.stem
    match = OF_THESIS.fullmatch(path.stem)
    return match["tag"] if match else ""


def run_of(path: Path) -> str:
    """Return the run that a file's name says, such as pre_mnist; "" for none."""
    match = OF_THESIS.fullmatch(path.stem)
    return match["run"] if match else ""


def moment(path: Path) -> tuple[str, float, str]:
    """Return a key that sorts checkpoints by run, and those of a run by training.

    By the steps that tlx pretrain writes into them, else by name (0, 0_1, 0_3, …, 1, 3, …); others
    after them, by name.
    """
    tag = tag_of(path)
    if not tag:
        return (run_of(path), float("inf"), path.name)
    if path.suffix == ".safetensors" and (
        epoch := archives.safetensors_metadata(path).get("epochs", "")
    ):
        return (run_of(path), float(epoch), path.name)
    epochs, _, batches = tag.partition("_")
    within = 1 - 1 / (1 + int(batches)) if batches else 0
    return (run_of(path), int(epochs) + within, path.name)


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a folder in order. Raises MissingError if there is none."""
    paths = [path for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES]
    if not paths:
        error = MissingError("weight file", folder)
        error.expected = f"files ending in {', '.join(WEIGHT_SUFFIXES)}"
        raise error
    return sorted(paths, key=moment)


def model_folders(given: str, trained_on: str | None) -> list[Path]:
    """Return the folders that --model-folder means.

    A folder; a number n: models/<trained_on>/models_<n> below the working directory, as the thesis
    has it; all: every one of these. Raises MissingError, or UsageError without --trained-on.
    """
    folder = Path(given).expanduser()
    if folder.is_dir():
        return [folder]
    if given != ALL and not (given.isascii() and given.isdigit()):
        raise MissingError("folder of weight files", folder)
    if not trained_on:
        raise UsageError(
            "conflict",
            f"--model-folder {given} without --trained-on",
            expected="what the networks were trained on, or a folder",
            remedy="--trained-on mnist, or --model-folder PATH",
        )
    parent = Path(MODELS) / trained_on
    pattern = "models_*" if given == ALL else f"models_{given}"
    folders = [path for path in parent.glob(pattern) if path.is_dir()]
    if not folders:
        raise MissingError("folder of weight files", parent / pattern)
    return sorted(folders, key=lambda path: (len(path.name), path.name))
