"""Common parts of trials on whole data sets: declarations only, read without loading torch."""

from __future__ import annotations

from dataclasses import dataclass

from ..models.recipe import Recipe
from ..spec import setting, setting_of
from .few_shot import FewShotTrial, Inputs

DEFAULT = "default"  # weights that a backbone comes with
BALANCES = ("none", "undersampling", "equals")


@dataclass(frozen=True, kw_only=True)
class WholeDataset(Recipe):
    """Training on all images of a data set, as in 'feature-transfer'.

    SGD at 0.01 with momentum, 64 rows a step.
    """

    epochs: int = setting_of(Recipe, "epochs", 15)
    weight_decay: float = setting_of(Recipe, "weight_decay", 0.0)
    clip_norm: float = setting_of(Recipe, "clip_norm", 0.0)
    architecture: str = setting_of(FewShotTrial, "architecture")
    dataset: str = setting(
        "digits",
        identity=False,
        short="d",
        help="a name of `tlx datasets` (name:/path for one that is "
        "elsewhere), or a folder: of images, IDX files or arrays of frames (train_data.npy, …)",
    )
    model: str | None = setting_of(
        FewShotTrial, "model", help="weight file of the source (.safetensors, .pth, .pt, .h5)"
    )
    input_size: int | None = setting_of(FewShotTrial, "input_size")
    sizing: str = setting_of(FewShotTrial, "sizing")
    train_per_class: int = setting(
        0, low=0, help="so many training images per class, drawn; 0: all"
    )
    val_per_class: int = setting(
        50,
        low=1,
        help="training images per class held back to choose the epoch, where there is "
        "no validation folder",
    )
    test_per_class: int = setting(
        50, low=1, help="images per class held back for the test, where there is no test folder"
    )
    balance: str = setting(
        "none",
        choices=BALANCES,
        help="training images: all; the largest class cut to the second "
        "largest (undersampling); or all cut to the smallest (equals); drawn",
    )
    balance_test: str = setting(
        "none",
        choices=BALANCES,
        help="the same of the test images; accuracy is the mean over classes either way",
    )
    seed: int = setting_of(
        FewShotTrial, "seed", help="random seed; each repeat uses a stream of its own"
    )
    images: str = setting_of(FewShotTrial, "images")
    weights: str = setting_of(FewShotTrial, "weights")
    split: int = setting(0, low=0, cli=False, help="number of the repeat")
    shots: int = setting(0, cli=False, identity=False, help="0: all images")

    @property
    def run_name(self) -> str:
        """Return the name of its run."""
        return self.title

    @property
    def title(self) -> str:
        """Return a short name of this trial among its siblings."""
        return f"{self.architecture}, repeat {self.split}"

    def mlflow_params(self) -> dict[str, object]:
        """Return the settings under the names that MLflow shows."""
        return {
            "Architecture": self.architecture,
            "Dataset": self.dataset,
            "Repeat": self.split,
            "Batch size": self.batch_size,
            "Optimizer": self.optimizer,
            "Learning rate": self.learning_rate,
            "Momentum": self.momentum,
            "Maximum epochs": self.epochs,
            **self.replica_params(),
        }


WEIGHTS = "weights.safetensors"  # in a trial's folder


@dataclass(frozen=True)
class TrainingInputs:
    """Inputs of a trial, and the weights that it starts from: a file, "default", or None."""

    data: Inputs
    weights: str | None = None
    source: str | None = None
