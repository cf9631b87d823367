"""Settings of a pretraining, which other studies run too: a declaration only, without torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..errors import UsageError
from ..models.recipe import Recipe
from ..spec import setting, setting_of
from .few_shot import FewShotTrial
from .whole_dataset import WholeDataset

EXPERIMENT = "Pre-training"
CHECKPOINTS = "checkpoints"
THESIS = ("0", "0_1", "0_3", "0_10", "0_30", "0_100", "0_300", "1", "3", "10", "30", "100")


def checkpoint_steps(tags: Sequence[str], steps: int, epochs: int) -> dict[int, str]:
    """Return steps done → tag, ascending.

    "0_K" is after K batches, "E" after E epochs of `steps` batches.

    Of two that fall together the later one counts. UsageError for a tag that is none, or beyond
    the last epoch.
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

    epochs: int = setting_of(Recipe, "epochs", 100, help="epochs to train")
    optimizer: str = setting_of(Recipe, "optimizer", "adam")
    learning_rate: float = setting_of(Recipe, "learning_rate", 1e-4)
    weight_decay: float = setting_of(Recipe, "weight_decay", 0.0)
    clip_norm: float = setting_of(Recipe, "clip_norm", 0.0)
    early_stopping: bool = setting_of(Recipe, "early_stopping", False)
    architecture: str = setting_of(FewShotTrial, "architecture")
    dataset: str = setting(
        "mnist",
        identity=False,
        short="d",
        help="a name of `tlx datasets` (name:/path for one stored elsewhere), or a folder",
    )
    input_size: int | None = setting_of(FewShotTrial, "input_size")
    sizing: str = setting_of(FewShotTrial, "sizing")
    val_per_class: int = setting(
        50, low=1, help="training images per class held back to choose the epoch"
    )
    train_per_class: int = setting(
        0, low=0, help="so many training images per class, the first that are left; 0: all"
    )
    seed: int = setting_of(FewShotTrial, "seed", help="seed of weights, shuffles and dropout")
    checkpoints: tuple[str, ...] = setting(
        (),
        help="moments whose weights are kept: thesis (its twelve), or 0 "
        "(untrained), 0_K (after K batches), E (after E epochs), comma-separated",
    )
    normalisation: tuple[float, ...] = setting(
        (), cli=False, help="mean and standard deviation of the input; (): the network's"
    )
    images: str = setting_of(FewShotTrial, "images")
    shots: int = setting_of(WholeDataset, "shots")
    split: int = setting(0, cli=False, identity=False)

    @property
    def title(self) -> str:
        """Return a short name of this trial among its siblings."""
        return f"{self.architecture} seed {self.seed}"

    @property
    def run_name(self) -> str:
        """Return the name of its run."""
        return self.title

    def mlflow_params(self) -> dict[str, object]:
        """Return the settings under the names that MLflow shows."""
        return {
            "Architecture": self.architecture,
            "Dataset": self.dataset,
            "Batch size": self.batch_size,
            "Learning rate": self.learning_rate,
            "Maximum epochs": self.epochs,
            **self.replica_params(),
        }
