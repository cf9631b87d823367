"""Trained networks as files of their own, named as 'feature-transfer' names them: A3B-mobilenet.

The original writes Keras' .h5; these are safetensors, with what is needed to build the network
again in their metadata, so that `tlx evaluate A3B-mobilenet.safetensors` asks for nothing more.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from safetensors.torch import load_file

from ... import files
from ...errors import UsageError, counted
from ...lab.store import Store
from ...models.weights import reader
from ...models.weights.described import WeightDescription
from ...result import FINISHED, Result
from ..base import Trial
from ..whole_dataset import WEIGHTS
from .spec import LayerTransfer

SHORT = {"mobilenet-v1": "mobilenet"}  # architecture → its name in the files of the original


def check(trials: Iterable[Trial], store: Store) -> None:
    """Raise UsageError for trials that were finished without their weights being kept."""
    lost = []
    for trial in trials:
        result = store.find_or_none(trial.spec.key)
        if result is None or result.status != FINISHED:
            continue
        if not (store.folder(trial.spec.key) / WEIGHTS).is_file():
            lost.append(trial.spec.title)
    if lost:
        raise UsageError(
            "not-kept",
            f"{lost[0]} and all of {counted(len(lost), 'network')} were trained without --export: "
            "their weights were not kept",
            where="--export",
            expected="networks that are trained with --export",
            remedy="train them into another store: --store runs-with-weights",
        )


def export(results: Iterable[Result], store: Store, folder: Path) -> list[Path]:
    """Write the weights of every finished network to `folder`; return the files."""
    files.make_folder(folder)
    paths = []
    for result in results:
        if result.status != FINISHED:
            continue
        spec = LayerTransfer.from_json(result.spec)
        path = folder / f"{file_stem(spec)}.safetensors"
        about = WeightDescription(
            spec.architecture, tuple(result.details["classes"]), spec.input_size
        )
        reader.write(path, load_file(store.file(result.key, WEIGHTS)), about.metadata())
        paths.append(path)
    return paths


def file_stem(spec: LayerTransfer) -> str:
    """Return the name of a network's file: A3B-mobilenet, B3B+-mobilenet, baseB-mobilenet.

    A way of batch norm that is not the usual one, and a repeat after the first, follow it.
    """
    architecture = SHORT.get(spec.architecture, spec.architecture)
    words = [spec.network, architecture.replace(":", "_")]
    if spec.bn != "frozen":
        words.append(spec.bn)
    if spec.split:
        words.append(f"repeat{spec.split}")
    return "-".join(words)
