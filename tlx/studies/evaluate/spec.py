"""Settings of an evaluation of given models: a declaration only, read without loading torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ...spec import Spec, setting, setting_of
from ..export_options import SERVED
from ..few_shot import FewShotTrial
from ..whole_dataset import WholeDataset

EXPERIMENT = "Evaluation"
PARTS = ("test", "val", "train", "all")


@dataclass(frozen=True, kw_only=True)
class Evaluation(Spec):
    """One model on the images of one part of a data set."""

    kind: ClassVar[str] = "evaluation"

    architecture: str | None = setting(
        None,
        short="a",
        help="backbone of weight files: a row of `tlx backbones`, a torchvision or timm: name. "
        "Exports and networks of tlx chop know theirs",
    )
    dataset: str = setting_of(WholeDataset, "dataset")
    part: str = setting(
        "test",
        choices=PARTS,
        help="images that are labelled; where there is no folder of that name, as many per class "
        "as --val-per-class and --test-per-class say are drawn",
    )
    balance: str = setting_of(
        WholeDataset,
        "balance",
        help="images: all; the largest class cut to the second largest (undersampling); or all "
        "cut to the smallest (equals); drawn",
    )
    val_per_class: int = setting_of(WholeDataset, "val_per_class")
    test_per_class: int = setting_of(WholeDataset, "test_per_class")
    use_crops: bool = setting(
        False, help="ten crops an image, which vote; an export has its own rule"
    )
    vote: str = setting_of(FewShotTrial, "vote")
    sizing: str = setting_of(FewShotTrial, "sizing")
    input_size: int | None = setting_of(FewShotTrial, "input_size")
    precision: str = setting_of(WholeDataset, "precision")
    seed: int = setting_of(FewShotTrial, "seed", help="seed of what is drawn")
    images: str = setting_of(FewShotTrial, "images")
    weights: str = setting_of(FewShotTrial, "weights")
    model: str = setting("", identity=False, cli=False, help="weight file, or folder of an export")
    shots: int = setting_of(WholeDataset, "shots")
    split: int = setting(0, identity=False, cli=False, help="number of the model")

    @property
    def title(self) -> str:
        """Return a short name of this trial among its siblings."""
        return self.label

    @property
    def label(self) -> str:
        """Return the name of the model: its file, with the folder where that says more."""
        path = Path(self.model)
        if path.parent.name == SERVED:  # of a trial, by its key
            return f"trial {path.name[:12]}"
        has_folder = not path.suffix and path.parent.name
        return f"{path.parent.name}/{path.name}" if has_folder else path.name

    @property
    def run_name(self) -> str:
        """Return the name of its run."""
        return self.title

    def mlflow_params(self) -> dict[str, object]:
        """Return the settings under the names that MLflow shows."""
        return {
            "Model": self.model,
            "Architecture": self.architecture or "-",
            "Dataset": self.dataset,
            "Part": self.part,
            "Balance": self.balance,
            "Using crops": self.use_crops,
        }


@dataclass(frozen=True, kw_only=True)
class EvaluationGrid(Spec):
    """Models of a study of evaluations."""

    kind: ClassVar[str] = "evaluation-grid"

    models: tuple[str, ...] = setting(
        (),
        identity=False,
        argument=True,
        help="models: weight files (.safetensors, .pth, .pt, .h5), networks of tlx chop, folders "
        "of tlx export, keys of finished few-shot trials",
    )
    out: str = setting(
        "", identity=False, writes="folder", help="also write the tables and figures to this folder"
    )
