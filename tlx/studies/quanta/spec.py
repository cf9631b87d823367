"""Settings of QUANTA: one gated training, and the grid of a study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...models.quanta.recipe import QuantaRecipe
from ...spec import Spec, setting, setting_of
from ..few_shot import FewShotTrial
from ..whole_dataset import WholeDataset

EXPERIMENT = "QUANTA"
CO, WITNESS = "co", "witness"


@dataclass(frozen=True, kw_only=True)
class Quanta(QuantaRecipe):
    """Target trained with a source, with a gate at one position, at all of them, or at none."""

    kind: ClassVar[str] = "quanta"
    tests_every_epoch: ClassVar[bool] = True

    architecture: str = setting_of(
        FewShotTrial,
        "architecture",
        help="backbone of target and source: quanta-cnn (the original's, "
        "seven positions), quanta-cnn-2020 (the paper's widths), a row of `tlx backbones`, a "
        "torchvision or timm: name",
    )
    source_architecture: str | None = setting(
        None,
        help="backbone of the source, where it is another: gated outputs "
        "must have one shape. Default: the target's",
    )
    source: str | None = setting(
        None,
        identity=False,
        help="what the source's weights were trained on; random: not at all, "
        "as a control. Default: the backbone's own",
    )
    model: str | None = setting_of(WholeDataset, "model")
    dataset: str = setting(
        "digits",
        identity=False,
        short="d",
        help="the target's: a name of `tlx datasets`, or a folder",
    )
    input_size: int | None = setting_of(
        FewShotTrial,
        "input_size",
        help="pixels of the square the networks see. Default: the backbone's",
    )
    sizing: str = setting_of(FewShotTrial, "sizing")
    train_per_class: int = setting(
        0, low=0, help="so many training images of each class, the first ones; 0: all"
    )
    test_per_class: int = setting(
        0, low=0, help="so many test images of each class, the first ones; 0: all"
    )
    val_per_class: int = setting(
        10,
        low=1,
        help="training images per class held back for validation, where there is no val folder",
    )
    seed: int = setting_of(FewShotTrial, "seed")
    images: str = setting_of(FewShotTrial, "images")
    weights: str = setting("", cli=False, help="digest of the source's weights")
    position: str = setting("", cli=False, help="number from 0, co or witness")
    repeat: int = setting(0, cli=False)

    @property
    def shots(self) -> int:
        """Return 0: all images."""
        return 0

    @property
    def split(self) -> int:
        """Return its place in a study's list."""
        return self.repeat

    @property
    def title(self) -> str:
        """Return a short name of this trial among its siblings."""
        place = (
            self.position if self.position in (CO, WITNESS) else f"block {int(self.position) + 1}"
        )
        return f"{'all blocks' if place == CO else place} repeat {self.repeat}"

    @property
    def run_name(self) -> str:
        """Return the name of its run."""
        return self.title

    @property
    def alone(self) -> Quanta:
        """Return the witness of this trial.

        The settings of gate and source are no part of it.
        """
        own = {
            name: self.defaults()[name]
            for name in (
                "quanta_form",
                "quanta_init",
                "multiplier",
                "gate_rate",
                "source_dropout",
                "source_architecture",
                "source",
                "model",
            )
        }
        return self.replace(**own, weights="", position=WITNESS)

    def mlflow_params(self) -> dict[str, object]:
        """Return the settings under the original's names, as MLflow shows them."""
        return {
            "Architecture": self.architecture,
            "Target task": self.dataset,
            "Layer": self.position,
            "Run": self.repeat,
            "Form": self.quanta_form,
            "v": ", ".join(map(str, self.start)),
            "Batch size": self.batch_size,
            "Eta": self.learning_rate,
            "Eta decay": self.rate_decay,
            "LRM": self.multiplier,
            "Maximum epochs": self.epochs,
        }


TRAINED_SOURCE: dict[str, tuple[object, ...]] = {"source_dataset": (), "halves": (True,)}


@dataclass(frozen=True, kw_only=True)
class QuantaGrid(Spec):
    """Grid of the QUANTA trials of a study, and the origin of their source."""

    kind: ClassVar[str] = "quanta-grid"

    positions: tuple[str, ...] = setting(
        (),
        short="l",
        help="positions of gates: numbers from 0 (position 0 is block 1), "
        "all: each by itself, co or a negative number: everywhere at once. Default: "
        "all,co",
    )
    repeats: int = setting(
        5,
        low=1,
        high=10_000,
        short="r",
        help="trainings of each from other random starts (30 in the original)",
    )
    witness: bool = setting(True, help="also train the target alone, once a repeat")
    source_dataset: str | None = setting(
        None,
        identity=False,
        help="train the source on this data set first: a name of `tlx datasets`, or a folder",
    )
    halves: bool = setting(
        False,
        help="source and target learn one half each of the classes of --dataset, drawn by --seed",
    )
    source_epochs: int | None = setting(
        None,
        low=1,
        high=100_000,
        only_with=TRAINED_SOURCE,
        help="epochs to train the source; that of the best "
        "validation accuracy counts. Default: as many as the target's",
    )
    source_rate: float | None = setting(
        None,
        low=1e-8,
        high=1e3,
        only_with=TRAINED_SOURCE,
        help="learning rate of the source. Default: the target's",
    )
    job: int = setting(0, low=0, identity=False, help="a number of your own, shown with the runs")
    export: str = setting(
        "",
        short="o",
        identity=False,
        writes="folder",
        help="also write the original's files into this folder: <r>.txt, <r>_raw.txt, metrics of "
        "target and source, expe_summary.txt, quantas_….jsonl",
    )
    show_only_build: bool = setting(
        False, identity=False, help="show the networks and gates, and train nothing"
    )
