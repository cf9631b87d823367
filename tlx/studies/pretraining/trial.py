"""Trial: train a network from random weights on a whole data set, and keep the weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import files
from ...models.weights import promises
from ...result import DIVERGED, Result
from ...spec import derive_seed
from ..few_shot import Inputs
from ..training import best_scores, fit_details, score_test, train_seconds, training_context
from ..whole_dataset import WEIGHTS
from .spec import CHECKPOINTS, PreTraining, checkpoint_steps

if TYPE_CHECKING:
    from ...lab.store import Store
    from ..base import Stage, TrialContext


def run(spec: PreTraining, inputs: Inputs, context: TrialContext) -> Result:
    """Train from random weights, select the epoch on inputs.val, score inputs.test, save."""
    from ...features import voting
    from ...models import backbones, training
    from ...models.weights import reader as checkpoints

    network = backbones.load(
        spec.architecture,
        weights=None,
        classes=len(inputs.classes),
        seed=derive_seed(spec.seed, "weights"),
        input_size=spec.input_size,
    )
    steps = -(-len(inputs.train.rows) // spec.batch_size)
    kept = checkpoint_steps(spec.checkpoints, steps, spec.epochs)

    def keep(step: int, net: Any) -> None:
        state = getattr(net, "net", net).state_dict()
        checkpoints.write(
            context.folder / CHECKPOINTS / f"{kept[step]}.safetensors",
            state,
            {"format": "pt", "step": str(step), "epochs": f"{step / steps:.6g}"},
        )

    if kept:
        files.make_folder(context.folder / CHECKPOINTS)
    place = training_context(
        context,
        moments=frozenset(kept),
        on_moment=keep,
    )
    fitted = training.fit(
        network,
        inputs.train,
        inputs.val,
        spec,
        seed=derive_seed(spec.seed, "fit"),
        score=voting.accuracy,
        place=place,
    )
    details = fit_details(network, inputs, fitted)
    details |= {"best_epoch": fitted.best_epoch, "checkpoints": list(kept.values())}
    scores = train_seconds(fitted)
    if fitted.ended == "diverged":
        return Result.of(spec, status=DIVERGED, scores=scores, details=details)
    scores |= best_scores(fitted)
    if inputs.test is not None:
        scores |= score_test(network, inputs, spec, place, details)
    checkpoints.write(context.folder / WEIGHTS, network.net.state_dict(), {"format": "pt"})
    return Result.of(spec, scores=scores, details=details)


def publish(result: Result, study: Stage, store: Store, out: Path, note: str = "") -> Path:
    """Copy the weights of a finished pre-training to `out`, and their record.

    Checkpoints go to <stem>-checkpoints/<tag>.safetensors, the record to <stem>.json; `note` is a
    sentence for it.
    """
    target = Path(out).expanduser().absolute().with_suffix(".safetensors")
    target.with_suffix(".json").unlink(
        missing_ok=True
    )  # an older record does not describe the new weights
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


def _copy(source: Path, target: Path) -> None:
    files.make_folder(target.parent)
    with files.atomic_write(target) as file, open(source, "rb") as whole:
        shutil.copyfileobj(whole, file)
