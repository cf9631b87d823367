"""Common parts of few-shot trials: declarations only, read without loading torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..spec import Spec, setting

if TYPE_CHECKING:
    from ..models.samples import Samples

RANDOM = "random"  # the source that means: no pre-training


@dataclass(frozen=True, kw_only=True)
class FewShotTrial(Spec):
    """Network and few-shot split of a data set, the base of every few-shot trial."""

    architecture: str = setting(
        "mnist-cnn",
        short="a",
        help="backbone: a row of `tlx backbones`, a torchvision or timm: name",
    )
    source: str | None = setting(
        None,
        identity=False,
        help="what the weights were trained on (ImageNet, Places365, MNIST); "
        "random: no pre-training. Default: the backbone's own",
    )
    model: str | None = setting(
        None,
        identity=False,
        short="m",
        help="weight file (.safetensors, .pth, .pt, .h5), or a folder with that of --architecture "
        "and --source",
    )
    dataset: str = setting(
        "digits",
        identity=False,
        short="d",
        help="a name of `tlx datasets`, a folder "
        "root/<split>/<label>/<image> or root/<label>/<image>, or a folder of IDX files",
    )
    split_path: str | None = setting(
        None, identity=False, help="folder of split CSVs. Default: shipped ones, or drawn"
    )
    shots: int = setting(1, low=1, cli=False, help="training images per class")
    split: int = setting(0, low=0, cli=False, help="number of the draw")
    use_crops: bool = setting(True, help="ten crops an image, which vote at test time")
    precomputed_crops: str | None = setting(
        None, identity=False, help="folder of crops made elsewhere, <stem>_crop_<0..9><ext>"
    )
    sizing: str = setting(
        "squash",
        choices=("squash", "aspect", "nearest"),
        help="resize to a square, keep the aspect, or resize to a square by nearest neighbour",
    )
    input_size: int | None = setting(
        None,
        low=8,
        high=4096,
        help="pixels of the square the network sees. Default: the backbone's",
    )
    model_selection: bool = setting(False, help="largest shots, split 0, scored on val only")
    vote: str = setting(
        "majority",
        choices=("majority", "mean-probability"),
        help="how predictions of the ten crops are combined",
    )
    seed: int = setting(0, low=0, high=2**63 - 1, help="random seed")
    images: str = setting("", cli=False, help="digest of the images, labels and sizing that enter")
    weights: str = setting("", cli=False, help="digest of the weights that enter")

    @property
    def title(self) -> str:
        """Return a short name of the draw."""
        return f"{self.shots}-shot split {self.split}"

    @property
    def run_name(self) -> str:
        """Return the name of its run."""
        return self.title

    @property
    def start_from(self) -> str | None:
        """Return the weights for `backbones.load`: a file, "default", or None (random)."""
        from ..models.weights.given import given_file

        if self.model:
            return given_file(self.model, self.architecture, self.source)
        return None if (self.source or "").lower() == RANDOM else "default"

    @property
    def weight_source(self) -> str | None:
        """Return the source that "default" weights must have; None: any."""
        return self.source if self.start_from == "default" else None


def split_params(spec: FewShotTrial) -> dict[str, object]:
    """Return the split files of a trial as the trade-off study logs them, "-" for none."""
    from ..data.draws import train_name

    folder = f"{spec.split_path.rstrip('/')}/" if spec.split_path else ""
    return {
        "Train split": folder + train_name(spec.shots, spec.split),
        "Validation split": f"{folder}val.csv",
        "Test split": "-" if spec.model_selection else f"{folder}test.csv",
    }


@dataclass(frozen=True, kw_only=True)
class FewShotGrid(Spec):
    """Grid of the few-shot trials of a study."""

    kind: ClassVar[str] = "few-shot-grid"
    draws_more: ClassVar[bool] = False  # than published splits have, if there are too few of them

    shots: tuple[int, ...] = setting(
        (), low=1, help="training images per class. Default: those of the splits"
    )
    splits: int = setting(
        5, low=1, high=10_000, help="independent draws of each shots; fewer where there are fewer"
    )
    val_per_class: int = setting(
        10, low=1, help="validation images per class, where splits are drawn"
    )
    test_per_class: int | None = setting(
        None,
        low=1,
        help="test images per class, where splits are drawn. Default: the "
        "whole test folder, 50 where there is none",
    )
    split_seed: int = setting(0, low=0, high=2**63 - 1, help="seed of the splits that are drawn")
    job: int = setting(0, low=0, identity=False, help="a number of your own, shown with the runs")


@dataclass(frozen=True)
class Inputs:
    """Inputs of a training; labels index `classes`.

    test_digest  of the test images and their labels; trials with the same one can be paired
    pool         training images per class that draws are made from, of the smallest class
    """

    classes: tuple[str, ...]
    train: Samples
    val: Samples
    test: Samples | None
    test_digest: str = ""
    pool: int | None = None

    def pairing(self) -> dict[str, Any]:
        """Return what a trial records so that it can be paired with others."""
        return {"test_digest": self.test_digest, "pool": self.pool} if self.test_digest else {}
