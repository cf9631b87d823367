"""Train a network from random weights on all of a data set, and keep the weights for others to start from."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import files
from ..errors import Usage
from ..models import promises
from ..models.recipe import Recipe
from ..result import DIVERGED, Result
from ..spec import knob, stream
from .fewshot import Inputs
from .fitted import score_test

if TYPE_CHECKING:
    from ..lab.store import Store
    from .study import Bench, Study

EXPERIMENT = "Pre-training"
WEIGHTS, CHECKPOINTS = "weights.safetensors", "checkpoints"


THESIS = ("0", "0_1", "0_3", "0_10", "0_30", "0_100", "0_300", "1", "3", "10", "30", "100")


def moments(tags: Sequence[str], steps: int, epochs: int) -> dict[int, str]:
    """Steps done → tag, ascending: "0_K" is after K batches, "E" after E epochs of `steps` batches.

    Of two that fall together the later one counts. Usage for a tag that is none, or beyond the last epoch.
    """
    found: dict[int, str] = {}
    for tag in THESIS if tuple(tags) == ("thesis",) else tags:
        begin, _, batches = tag.partition("_")
        if not re.fullmatch(r"0_[1-9]\d*|0|[1-9]\d*", tag, re.ASCII):
            raise Usage("checkpoint", f"'{tag}'", where="--checkpoints",
                        expected="thesis, or 0, 0_K (batches) and E (epochs)")
        done = int(batches) if batches else int(begin) * steps
        if done > epochs * steps:
            raise Usage("checkpoint", f"'{tag}' is after {done} batches, the training ends after {epochs * steps}",
                        where="--checkpoints", remedy="give more --epochs, or name the moments one by one")
        found[done] = tag
    return dict(sorted(found.items()))


@dataclass(frozen=True, kw_only=True)
class PreTraining(Recipe):
    """One pre-training, by default as in 'Transferability in DNN': Adam at 1e-4, 100 epochs, nothing frozen."""

    epochs: int = knob(100, low=1, high=100_000, short="e", help="epochs to train")
    optimizer: str = knob("adam", choices=("sgd", "adam", "adamw"), help="sgd (decoupled decay), adam or adamw")
    learning_rate: float = knob(1e-4, low=1e-8, high=1e3, log=True, help="learning rate")
    weight_decay: float = knob(0.0, low=0.0, high=0.5, help="sgd: share of each weight taken away a step")
    clip_norm: float = knob(0.0, low=0.0, help="largest L2 norm of each tensor's gradient; 0 turns it off")
    early_stopping: bool = knob(False, help="stop as --stopping says")
    architecture: str = knob("mnist-cnn", short="a", help="backbone: a row of `tlx backbones`, a torchvision or "
                             "timm: name")
    dataset: str = knob("mnist", place=True, short="d", help="a name of `tlx datasets` (name:/path for one that lies "
                        "elsewhere), or a folder")
    input_size: int | None = knob(None, low=8, high=4096, help="pixels of the square the network sees. "
                                  "Default: the backbone's")
    sizing: str = knob("squash", choices=("squash", "aspect"), help="resize to a square, or keep the aspect")
    val_per_class: int = knob(50, low=1, help="training images per class held back to choose the epoch")
    train_per_class: int = knob(0, low=0, help="so many training images per class, the first that are left; 0: all")
    seed: int = knob(0, low=0, high=2**63 - 1, help="seed of weights, shuffles and dropout")
    checkpoints: tuple[str, ...] = knob((), help="moments whose weights are kept: thesis (its twelve), or 0 "
                                        "(untrained), 0_K (after K batches), E (after E epochs), comma-separated")
    images: str = knob("", derived=True, help="digest of the images, labels and sizing that enter")
    shots: int = knob(0, derived=True, place=True, help="0: all images")
    split: int = knob(0, derived=True, place=True)

    @property
    def title(self) -> str:
        """Few words that name this trial among its siblings."""
        return f"{self.architecture} seed {self.seed}"

    @property
    def run_name(self) -> str:
        """What its run is called."""
        return self.title

    def named(self) -> dict[str, Any]:
        """The settings under the names that MLflow shows."""
        return {"Architecture": self.architecture, "Dataset": self.dataset, "Batch size": self.batch_size,
                "Learning rate": self.learning_rate, "Maximum epochs": self.epochs}


def run(spec: PreTraining, inputs: Inputs, bench: Bench) -> Result:
    """Train from random weights, choose the epoch on inputs.val, score on inputs.test, write the weights."""
    from ..features import voting
    from ..models import backbones, checkpoints, training

    network = backbones.load(spec.architecture, weights=None, classes=len(inputs.classes),
                             seed=stream(spec.seed, "weights"), input_size=spec.input_size)
    steps = -(-len(inputs.train.rows) // spec.batch_size)
    kept = moments(spec.checkpoints, steps, spec.epochs)

    def keep(step: int, net: Any) -> None:
        state = getattr(net, "net", net).state_dict()
        checkpoints.write(bench.folder / CHECKPOINTS / f"{kept[step]}.safetensors", state,
                          {"format": "pt", "step": str(step), "epochs": f"{step / steps:.6g}"})

    if kept:
        files.make_folder(bench.folder / CHECKPOINTS)
    place = training.Place(bench.device, bench.folder / "training.safetensors", bench.log, bench.tell, bench.stopping,
                           moments=frozenset(kept), on_moment=keep)
    fitted = training.fit(network, inputs.train, inputs.val, spec, seed=stream(spec.seed, "fit"),
                          score=voting.accuracy, place=place)
    details = {"classes": list(inputs.classes), "ended": fitted.ended, "epochs": len(fitted.history),
               "best_epoch": fitted.best_epoch, "train_images": len(inputs.train), "val_images": len(inputs.val),
               "test_images": len(inputs.test) if inputs.test else 0,
               "checkpoints": list(kept.values()), "parameters": sum(p.numel() for p in network.parameters())}
    scores = {"train_s": sum(v["train_epoch_s"] + v["val_epoch_s"] for v in fitted.history)}
    if fitted.ended == "diverged":
        return Result.of(spec, status=DIVERGED, scores=scores, details=details)
    scores |= {f"best_{name}": fitted.history[fitted.best_epoch][name] for name in ("val_accuracy", "val_loss")}
    if inputs.test is not None:
        scores |= score_test(network, inputs, spec, place, details)
    checkpoints.write(bench.folder / WEIGHTS, network.net.state_dict(), {"format": "pt"})
    return Result.of(spec, scores=scores, details=details)


def publish(result: Result, study: Study, store: Store, out: Path, note: str = "") -> Path:
    """Copy the weights of a finished pre-training to `out`, its checkpoints to <stem>-checkpoints/<tag>.safetensors,
    and put the record of how they were made beside them, as <stem>.json; `note` is a sentence for it."""
    target = Path(out).expanduser().absolute().with_suffix(".safetensors")
    target.with_suffix(".json").unlink(missing_ok=True)  # an older record does not describe the new weights
    _copy(store.file(result.key, WEIGHTS), target)
    checkpoints: dict[str, str] = {}  # tag → SHA-256
    for tag in result.details.get("checkpoints", ()):
        checkpoint = target.with_name(target.stem + promises.CHECKPOINTS) / f"{tag}.safetensors"
        _copy(store.file(result.key, f"{CHECKPOINTS}/{tag}.safetensors"), checkpoint)
        checkpoints[tag] = files.sha256(checkpoint)
    environment = {name: result.environment.get(name) for name in ("versions", "git") if name in result.environment}
    data = [{name: row[name] for name in ("name", "digest")} for row in study.inputs]
    spec = {name: value for name, value in result.spec.items() if name != "dataset"}
    files.write_json(target.with_suffix(".json"), {
        "note": note, "file": target.name, "sha256": files.sha256(target), "checkpoints": checkpoints, "spec": spec,
        "key": result.key, "data": data,
        "scores": {name: value for name, value in result.scores.items() if not name.endswith("_s")},
        "images": {name: result.details[f"{name}_images"] for name in ("train", "val", "test")},
        "epochs": result.details["epochs"], "best_epoch": result.details["best_epoch"], "environment": environment})
    return target


def _copy(source: Path, target: Path) -> None:
    files.make_folder(target.parent)
    with files.replacing(target) as file, open(source, "rb") as whole:
        shutil.copyfileobj(whole, file)
