"""Settings of one fine-tuning trial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...models.recipe import Recipe
from ...models.tune_choices import format_tune, parse_tune
from ...spec import setting
from ..few_shot import FewShotTrial, split_params

EXPERIMENT = "Fine-tuning"


@dataclass(frozen=True, kw_only=True)
class FineTuning(Recipe, FewShotTrial):
    """One fine-tuning: a network, a few-shot split of a data set, a recipe."""

    kind: ClassVar[str] = "fine-tuning"

    configuration: int | None = setting(
        None,
        low=0,
        high=3,
        short="c",
        help="the seeds' frozen convolutions of VGG16, "
        "ResNet50 and ResNet152. Default there: 1, unless --freeze is given",
    )
    head: str = setting("auto", search=("linear", "mlp256"), help="auto, linear, or mlp256")
    tune: str = setting(
        "all",
        search=False,
        help="what learns of the blocks that are not frozen, beside the head: all, norm (scales "
        "and shifts of normalisation layers), bias (biases of all layers), head-then-all (the "
        "head alone for 10 epochs, then all; head-then-all:epochs=5 for 5), or lora (adapters of "
        "rank 8, merged afterwards; lora:r=4,alpha=16; needs tlx[lora])",
    )

    reinit_blocks: int = setting(
        0,
        low=0,
        search=False,
        help="blocks below the head that are drawn anew, as the architecture starts; the head "
        "always is",
    )
    val_crops: int | None = setting(
        None,
        low=1,
        high=9,
        search=False,
        help="crops of each validation image that choose the epoch and when to stop: the centre, "
        "its mirror image, then corners. Default: all ten. The test always uses all",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "tune", format_tune(parse_tune(self.tune)))  # one text, one key

    @property
    def most_epochs(self) -> int:
        """Return the epochs of all phases, if no training stops early."""
        return self.epochs + parse_tune(self.tune).head_first

    @property
    def _least_epochs(self) -> object:
        """Return the epochs before which early stopping does not look; "-" without it."""
        from ...models.stopping import EARLIEST_STOP, EPOCHS_WITHOUT

        if not self.early_stopping:
            return "-"
        return EARLIEST_STOP if self.stopping == "losses" else EPOCHS_WITHOUT

    def mlflow_params(self) -> dict[str, object]:
        """Return the settings under the original study's names in MLflow."""
        params: dict[str, object] = {
            "Architecture": self.architecture,
            "Source": self.source or "-",
            "Model": self.model or "-",
            "Dataset": self.dataset,
            "Using crops": self.use_crops,
            "Crops path": self.precomputed_crops or "-",
            "Samples per class": self.shots,
            "Split": self.split,
            **split_params(self),
            "Minimum epochs": self._least_epochs,
            "Maximum epochs": self.epochs,
            "Model selection": self.model_selection,
            **({} if self.val_crops is None else {"Validation crops": self.val_crops}),
            "Batch size": self.batch_size,
            "Configuration": "-" if self.configuration is None else self.configuration,
            "Optimizer": self.optimizer,
            "Learning rate": self.learning_rate,
            "Momentum": self.momentum,
            "Weight decay": self.weight_decay if self.optimizer in ("sgd", "sgd-l2") else "-",
        }
        if self.reinit_blocks:
            params["Blocks drawn anew"] = self.reinit_blocks
        if self.tune != self.defaults()["tune"]:
            params["Tune"] = self.tune
        return params | self.replica_params()
