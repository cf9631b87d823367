"""Settings of pretraining."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ...errors import UsageError
from ...models.recipe import Recipe
from ...spec import Spec, setting

EXPERIMENT = "Pre-training"
WEIGHTS, CHECKPOINTS = "weights.safetensors", "checkpoints"
THESIS = ("0", "0_1", "0_3", "0_10", "0_30", "0_100", "0_300", "1", "3", "10", "30", "100")


def checkpoint_steps(tags: Sequence[str], steps: int, epochs: int) -> dict[int, str]:
    """Return steps done → tag, ascending.

    "0_K" is after K batches, "E" after E epochs of `steps` batches.

    Of two that fall together the later one counts. Usage for a tag that is none, or beyond the last
    epoch.
    """
    result: dict[int, str] = {}
    for tag in THESIS if tuple(tags) == ("thesis",) else tags:
        begin, _, batches = tag.partition("_")
        if not re.fullmatch(r"0_[1-9]\d*|0|[1-9]\d*", tag, re.ASCII):
            raise UsageError(
                "checkpoint",
                f"'{tag}'",
                where="--checkpoints",
                expected="thesis, or 0, 0_K (batches) and E (epochs)",
            )
        done = int(batches) if batches else int(begin) * steps
        if done > epochs * steps:
            raise UsageError(
                "checkpoint",
                f"'{tag}' is after {done} batches, the training ends after {epochs * steps}",
                where="--checkpoints",
                remedy="give more --epochs, or name the moments one by one",
            )
        result[done] = tag
    return dict(sorted(result.items()))


@dataclass(frozen=True, kw_only=True)
class PreTraining(Recipe):
    """One pre-training, by default as in 'Transferability in DNN'.

    Adam at 1e-4, 100 epochs, nothing frozen.
    """

    kind: ClassVar[str] = "pretraining"

    epochs: int = setting(100, low=1, high=100_000, short="e", help="epochs to train")
    optimizer: str = setting(
        "adam", choices=("sgd", "adam", "adamw"), help="sgd (decoupled decay), adam or adamw"
    )
    learning_rate: float = setting(1e-4, low=1e-8, high=1e3, log=True, help="learning rate")
    weight_decay: float = setting(
        0.0, low=0.0, high=0.5, help="sgd: share of each weight taken away a step"
    )
    clip_norm: float = setting(
        0.0, low=0.0, help="largest L2 norm of each tensor's gradient; 0 turns it off"
    )
    early_stopping: bool = setting(False, help="stop as --stopping says")
    architecture: str = setting(
        "mnist-cnn",
        short="a",
        help="backbone: a row of `tlx backbones`, a torchvision or timm: name",
    )
    dataset: str = setting(
        "mnist",
        identity=False,
        short="d",
        help="a name of `tlx datasets` (name:/path for one stored elsewhere), or a folder",
    )
    input_size: int | None = setting(
        None,
        low=8,
        high=4096,
        help="pixels of the square the network sees. Default: the backbone's",
    )
    sizing: str = setting(
        "squash", choices=("squash", "aspect"), help="resize to a square, or keep the aspect"
    )
    val_per_class: int = setting(
        50, low=1, help="training images per class held back to choose the epoch"
    )
    train_per_class: int = setting(
        0, low=0, help="so many training images per class, the first that are left; 0: all"
    )
    seed: int = setting(0, low=0, high=2**63 - 1, help="seed of weights, shuffles and dropout")
    checkpoints: tuple[str, ...] = setting(
        (),
        help="moments whose weights are kept: thesis (its twelve), or 0 "
        "(untrained), 0_K (after K batches), E (after E epochs), comma-separated",
    )
    images: str = setting("", cli=False, help="digest of the images, labels and sizing that enter")
    shots: int = setting(0, cli=False, identity=False, help="0: all images")
    split: int = setting(0, cli=False, identity=False)

    @property
    def title(self) -> str:
        """Return a short name of this trial among its siblings."""
        return f"{self.architecture} seed {self.seed}"

    @property
    def run_name(self) -> str:
        """Return the name of its run."""
        return self.title

    def mlflow_params(self) -> dict[str, Any]:
        """Return the settings under the names that MLflow shows."""
        return {
            "Architecture": self.architecture,
            "Dataset": self.dataset,
            "Batch size": self.batch_size,
            "Learning rate": self.learning_rate,
            "Maximum epochs": self.epochs,
        }


@dataclass(frozen=True, kw_only=True)
class PreTrainingOutput(Spec):
    """Output file of the weights of a pretraining."""

    kind: ClassVar[str] = "pretraining-output"

    out: str = setting(
        "",
        identity=False,
        help="file for the weights (.safetensors), with a record of how they were made next to "
        "it. Default: left in the run's folder",
    )
    note: str = setting(
        "", identity=False, help="a sentence for that record, e.g. which images these were"
    )
