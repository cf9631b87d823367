"""Weights of a pretraining as a file of their own, with the record of how they were made."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ... import files
from ...errors import UsageError
from ...models import backbones
from ...models.weights import promises, reader
from ...result import Result
from ...spec import derive_seed
from ..pretraining_spec import CHECKPOINTS
from ..whole_dataset import WEIGHTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from ...lab.store import Store
    from ..base import Stage

PICKLED = (".pth", ".pt")  # endings of what torch.save writes


def publish(result: Result, study: Stage, store: Store, out: Path, note: str = "") -> Path:
    """Copy the weights of a finished pre-training to `out`, and their record.

    Checkpoints go to <stem>-checkpoints/<tag>.safetensors, the record to <stem>.json; `note` is a
    sentence for it. A file that ends in .pth or .pt is written by torch.save, any other is
    safetensors.
    """
    target = weight_path(out)
    target.with_suffix(".json").unlink(
        missing_ok=True
    )  # an older record does not describe the new weights
    if target.suffix in PICKLED:
        _save(reader.read(store.file(result.key, WEIGHTS)), target)
    else:
        _copy(store.file(result.key, WEIGHTS), target)
    checkpoints: dict[str, str] = {}  # tag → SHA-256
    for tag in result.details.get("checkpoints", ()):
        checkpoint = target.with_name(target.stem + promises.CHECKPOINTS) / f"{tag}.safetensors"
        _copy(store.file(result.key, f"{CHECKPOINTS}/{tag}.safetensors"), checkpoint)
        checkpoints[tag] = files.sha256(checkpoint)
    environment = {
        name: result.environment.get(name)
        for name in ("versions", "git")
        if name in result.environment
    }
    data = [{name: row[name] for name in ("name", "digest")} for row in study.inputs]
    spec = {name: value for name, value in result.spec.items() if name != "dataset"}
    files.write_json(
        target.with_suffix(".json"),
        {
            "note": note,
            "file": target.name,
            "sha256": files.sha256(target),
            "checkpoints": checkpoints,
            "spec": spec,
            "key": result.key,
            "data": data,
            "scores": {
                name: value for name, value in result.scores.items() if not name.endswith("_s")
            },
            "images": {name: result.details[f"{name}_images"] for name in ("train", "val", "test")},
            "epochs": result.details["epochs"],
            "best_epoch": result.details["best_epoch"],
            "environment": environment,
        },
    )
    return target


def publish_start(result: Result, out: Path) -> Path:
    """Write the random weights that a pre-training began from, made again from its seed.

    A file that ends in .pth or .pt is written by torch.save, any other is safetensors.
    """
    spec, target = result.spec, weight_path(out)
    network = backbones.load(
        str(spec["architecture"]),
        weights=None,
        classes=len(result.details["classes"]),
        seed=derive_seed(int(spec["seed"]), "weights"),
        input_size=spec["input_size"],
    )
    state = network.net.state_dict()
    files.make_folder(target.parent)
    if target.suffix in PICKLED:
        _save(state, target)
    else:
        reader.write(target, state, {"format": "pt"})
    return target


def weight_path(out: Path) -> Path:
    """Return the absolute path of a weight file, .safetensors unless it says .pth or .pt."""
    target = Path(out).expanduser().absolute()
    return target if target.suffix in PICKLED else target.with_suffix(".safetensors")


def check_apart(out: Path, random_out: Path) -> None:
    """Raise UsageError where trained and random weights would be written to the same file."""
    target = weight_path(out)
    if target.resolve() == weight_path(random_out).resolve():
        raise UsageError(
            "conflict",
            "the trained weights and the random ones are to be in the same file",
            where=target,
            expected="two files",
            remedy="name another one for --random-out",
        )


def _save(tensors: Mapping[str, Tensor], target: Path) -> None:
    import torch

    files.make_folder(target.parent)
    with files.atomic_write(target) as file:
        torch.save(dict(tensors), file)


def _copy(source: Path, target: Path) -> None:
    files.make_folder(target.parent)
    with files.atomic_write(target) as file, open(source, "rb") as whole:
        shutil.copyfileobj(whole, file)
