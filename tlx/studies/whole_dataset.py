"""Common parts of trials on whole data sets: declarations only, read without loading torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..models.recipe import Recipe
from ..spec import setting
from .few_shot import Inputs

BALANCES = ("none", "undersampling", "equals")


@dataclass(frozen=True, kw_only=True)
class WholeDataset(Recipe):
    """Training on all images of a data set, as in 'feature-transfer'.

    SGD at 0.01 with momentum, 64 rows a step.
    """

    epochs: int = setting(15, low=1, high=100_000, short="e", help="most epochs to train")
    weight_decay: float = setting(
        0.0, low=0.0, high=0.5, help="sgd: share of each weight taken away a step"
    )
    clip_norm: float = setting(
        0.0, low=0.0, help="largest L2 norm of each tensor's gradient; 0 turns it off"
    )
    architecture: str = setting(
        "mnist-cnn",
        short="a",
        help="backbone: a row of `tlx backbones`, a torchvision or timm: name",
    )
    dataset: str = setting(
        "digits",
        identity=False,
        short="d",
        help="a name of `tlx datasets` (name:/path for one that is "
        "elsewhere), or a folder: of images, IDX files or arrays of frames (train_data.npy, …)",
    )
    model: str | None = setting(
        None,
        identity=False,
        short="m",
        help="weight file of the source (.safetensors, .pth, .pt, .h5)",
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
    seed: int = setting(
        0,
        low=0,
        high=2**63 - 1,
        help="random seed; each repeat uses a stream of its own",
    )
    images: str = setting("", cli=False, help="digest of the images, labels and sizing that enter")
    weights: str = setting("", cli=False, help="digest of the weights that enter")
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

    def mlflow_params(self) -> dict[str, Any]:
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
        }


WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class TrainingInputs:
    """Inputs of a trial, and the weights that it starts from: a file, "default", or None."""

    data: Inputs
    weights: str | None = None
    source: str | None = None
