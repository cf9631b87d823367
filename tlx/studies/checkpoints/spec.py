"""Settings of the chain of 'Transferability in DNN': a declaration only, without torch.

Pre-train sources, keep checkpoints, fine-tune each on targets, measure every layer of each on the
target's images, and correlate the two. A protocol is a row of a table of defaults.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from ...errors import UsageError
from ...models.recipe import Recipe
from ...spec import Spec, setting, setting_of
from ..few_shot import RANDOM, FewShotTrial
from ..pretraining_spec import THESIS, PreTraining
from ..whole_dataset import WholeDataset

ALL, LAST = "all", "last"
CHAIN, RESULTS = "chain.json", "checkpoints.json"  # files of a study's folder
PROTOCOLS: dict[str, dict[str, Any]] = {
    "quick": {  # about a minute on two cores
        "sources": ("digits", "digits_split1", "digits_split2", "digits_noise", RANDOM),
        "targets": ("digits",),
        "seeds": 2,
        "epochs": 10,
        "fine_tune_epochs": 3,
        "learning_rate": 1e-3,
        "fine_tune_rate": 1e-3,
        "checkpoints": ("0", "0_3", "0_10", "1", "3", "10"),
        "from_checkpoints": ("0", "0_10", "1", "10"),
        "fine_tune_checkpoints": ("0", "0_1", "0_3", "0_10", "1", "3"),
        "val_per_class": 20,
    },
    "thesis": {
        "sources": (
            "mnist",
            "mnist_split1",
            "mnist_split2",
            "fashionmnist",
            "mnist_noise",
            "mnist_noise_struct",
        ),
        "targets": ("mnist",),
        "seeds": 10,
        "epochs": 100,
        "fine_tune_epochs": 100,
        "learning_rate": 1e-4,
        "fine_tune_rate": 1e-4,
        "checkpoints": THESIS,
        "from_checkpoints": (ALL,),
        "fine_tune_checkpoints": THESIS,
        "val_per_class": 50,
    },
}
REDRAWN = {
    "mnist-cnn": 1
}  # blocks below the head that fine-tuning draws anew: the thesis replaces fc1 and fc2


@dataclass(frozen=True)
class DataValues:
    """Values of one data set: images a step, and the normalisation (mean, std) of its input.

    normalisation  (): the network's
    """

    batch_size: int
    normalisation: tuple[float, ...] = ()


MNIST, PLAIN = (0.1307, 0.3081), (0.0, 1.0)  # PLAIN: no normalisation, values in 0-1
THESIS_VALUES = {  # data set, as `name_of_data` gives it → its values in the thesis
    "mnist": DataValues(64, MNIST),
    "mnist2class": DataValues(64, MNIST),
    "mnist_split1": DataValues(64, MNIST),
    "mnist_split2": DataValues(64, MNIST),
    "mnist_noise": DataValues(64, PLAIN),
    "mnist_noise_struct": DataValues(64, PLAIN),
    "fashionmnist": DataValues(64, (0.2860, 0.3530)),
    "cifar10": DataValues(32),
    "custom3d": DataValues(12),
    "malaria": DataValues(22),
    "pets": DataValues(58),
}
COMMON, OF_THESIS = "common", "thesis"


def name_of_data(typed: str) -> str:
    """Return the name of a data set as THESIS_VALUES has it.

    >>> [name_of_data(typed) for typed in ("mnist_noise:/mnist", "/data/Pets", "fashion-mnist")]
    ['mnist_noise', 'pets', 'fashionmnist']
    """
    before, colon, _ = typed.partition(":")
    name = Path(before if colon else typed).name.lower()
    return "fashionmnist" if name.replace("_", "-") in ("fashion-mnist", "fashion") else name


@dataclass(frozen=True, kw_only=True)
class CheckpointGrid(Spec):
    """Grid of a study of checkpoints; None and () are as in the protocol."""

    kind: ClassVar[str] = "checkpoints"

    protocol: str = setting(
        "quick",
        choices=tuple(PROTOCOLS),
        help="what is not said otherwise: quick (on scikit-learn's "
        "digits, about a minute), thesis (six sources of MNIST, 10 seeds, 12 checkpoints, each "
        "fine-tuned for 100 epochs: days on a laptop)",
    )
    sources: tuple[str, ...] = setting(
        (),
        short="s",
        help="what networks are pre-trained on: names of `tlx datasets` "
        "(mnist_noise:/path/to/mnist for a copy of yours), folders, or random (not "
        "trained). Default: the protocol's",
    )
    targets: tuple[str, ...] = setting(
        (), short="t", help="what they are fine-tuned on and analyzed with. Default: the protocol's"
    )
    architecture: str = setting_of(FewShotTrial, "architecture")
    input_size: int | None = setting_of(FewShotTrial, "input_size")
    seeds: int | None = setting(
        None,
        low=1,
        high=10_000,
        help="pre-trainings of each source (and fine-tunings of each "
        "checkpoint). Default: the protocol's",
    )
    first_seed: int = setting(
        1, low=0, high=2**62, help="seed of the first of them; the others count on"
    )
    checkpoints: tuple[str, ...] = setting(
        (),
        help="moments of the pre-training whose weights are kept: thesis (its "
        "twelve), or 0 (untrained), 0_K (after K batches), E (after E epochs). "
        "Default: the protocol's",
    )
    from_checkpoints: tuple[str, ...] = setting(
        (),
        help="those of them that are fine-tuned: tags, all or last. Default: "
        "all of --checkpoints, the protocol's without it",
    )
    fine_tune_checkpoints: tuple[str, ...] = setting(
        (), help="moments of a fine-tuning at which it is scored. Default: the protocol's"
    )
    epochs: int | None = setting(
        None,
        low=1,
        high=100_000,
        short="e",
        help="epochs of the pre-training. Default: the protocol's",
    )
    fine_tune_epochs: int | None = setting(
        None, low=1, high=100_000, help="epochs of the fine-tuning. Default: the protocol's"
    )
    batch_size: int = setting_of(Recipe, "batch_size", help="images a step, of both")
    learning_rate: float | None = setting(
        None, low=1e-8, high=1e3, help="Adam's rate in pre-training. Default: the protocol's"
    )
    fine_tune_rate: float | None = setting(
        None, low=1e-8, high=1e3, help="Adam's rate in fine-tuning. Default: the protocol's"
    )
    reinit_blocks: int | None = setting(
        None,
        low=0,
        help="blocks below the head that fine-tuning draws anew; the head always "
        "is. Default: 1 for mnist-cnn (fc1, as in the thesis), else 0",
    )
    freeze: int = setting_of(
        Recipe,
        "freeze",
        help="number of blocks that fine-tuning freezes, counted from the input",
    )
    data_values: str = setting(
        COMMON,
        choices=(COMMON, OF_THESIS),
        help="batch size and normalisation of the input: common (--batch-size and the network's, "
        "for all data sets), or thesis (those of each data set: MNIST's mean and deviation, "
        "Fashion-MNIST's, none for noise; 64, 32 for CIFAR-10, 12 custom3D, 22 malaria, 58 pets)",
    )
    train_per_class: int = setting(
        0, low=0, help="pre-training: so many training images per class, the first; 0: all"
    )
    fine_tune_per_class: int = setting(
        0, low=0, help="fine-tuning: so many training images per class, drawn; 0: all"
    )
    val_per_class: int | None = setting(
        None,
        low=1,
        help="training images per class held back for validation, where "
        "there is no val folder. Default: the protocol's",
    )
    samples: int = setting(
        500,
        low=0,
        help="the target's test images that layers are measured on, as many of each "
        "class: the first of each; 0: all",
    )
    layers: tuple[str, ...] = setting(
        (),
        help="layers that are measured, as in tlx analyze. Default: thesis, where it "
        "names layers of the network; else the input and all blocks",
    )
    keep_dumps: bool = setting(
        False,
        identity=False,
        help="keep the activations, some 75 MB a checkpoint of mnist-cnn, as "
        "tlx analyze does; else they are removed once they are measured",
    )
    out: str = setting(
        "",
        short="o",
        identity=False,
        writes="folder",
        help="also copy tables and figures into this folder, with the thesis's "
        "<run>_train_stats.json beside them",
    )

    @property
    def resolved(self) -> Self:
        """Return the settings with all defaults of the protocol.

        Raises UsageError for duplicate names, or a single moment to score.
        """
        row = PROTOCOLS[self.protocol]
        grid = self.replace(
            **{name: value for name, value in row.items() if getattr(self, name) in (None, ())}
        )
        if (
            self.checkpoints and not self.from_checkpoints
        ):  # the protocol's are of its own checkpoints
            grid = grid.replace(from_checkpoints=(ALL,))
        redrawn = (
            REDRAWN.get(grid.architecture, 0) if grid.reinit_blocks is None else grid.reinit_blocks
        )
        for option, names in (("--sources", grid.sources), ("--targets", grid.targets)):
            twice = [name for name in names if names.count(name) > 1]
            if twice:
                raise UsageError(
                    "twice", f"'{twice[0]}' stands twice", where=option, expected="each once"
                )
        return grid.replace(
            reinit_blocks=redrawn,
            checkpoints=expand_tags(grid.checkpoints),
            fine_tune_checkpoints=expand_tags(grid.fine_tune_checkpoints),
        )

    def values_of(self, typed: str) -> DataValues:
        """Return batch size and normalisation of a data set, as it was typed."""
        common = DataValues(self.batch_size)
        if self.data_values == COMMON:
            return common
        return THESIS_VALUES.get(name_of_data(typed), common)

    @property
    def seed_numbers(self) -> range:
        """Return the seeds of the trainings."""
        return range(self.first_seed, self.first_seed + (self.seeds or 1))

    def chosen(self, tags: tuple[str, ...]) -> tuple[str, ...]:
        """Return which of a training's checkpoints are fine-tuned: a single one always is.

        Raises UsageError for one that is not kept.
        """
        requested = self.from_checkpoints
        if requested == (ALL,) or len(tags) == 1:
            return tags
        unknown = [tag for tag in requested if tag not in (*tags, ALL, LAST)]
        if unknown:
            raise UsageError(
                "checkpoint",
                f"'{unknown[0]}' is no checkpoint that is kept",
                where="--from-checkpoints",
                expected=f"all, last, or some of {', '.join(tags)}",
            )
        return tuple(
            tag
            for tag in tags
            if tag in requested or ALL in requested or (LAST in requested and tag == tags[-1])
        )


def expand_tags(tags: tuple[str, ...]) -> tuple[str, ...]:
    """Return tags one by one: "thesis" is its twelve."""
    return THESIS if tags == ("thesis",) else tags


EXPERIMENT = "Checkpoints"
UNTRAINED = "0"  # the tag of weights as they were drawn
# training images that are scored at a moment, evenly spaced: all of them would take longest
TRAIN_SCORED = 1000


@dataclass(frozen=True, kw_only=True)
class Untrained(Spec):
    """Randomly initialised network: the checkpoint 0 of a pre-training that is never begun."""

    kind: ClassVar[str] = "untrained"

    architecture: str = setting("mnist-cnn", cli=False)
    classes: int = setting(10, cli=False, help="of its head")
    input_size: int | None = setting(None, cli=False)
    seed: int = setting(0, cli=False)
    dataset: str = setting("random", identity=False, cli=False)
    shots: int = setting(0, identity=False, cli=False)
    split: int = setting(0, identity=False, cli=False)

    @property
    def title(self) -> str:
        """Return a short name of this trial among its siblings."""
        return f"{self.architecture} untrained, seed {self.seed}"

    @property
    def run_name(self) -> str:
        """Return the name of its run."""
        return self.title

    def mlflow_params(self) -> dict[str, object]:
        """Return the settings under the names that MLflow shows."""
        return {"Architecture": self.architecture, "Dataset": "-", "Seed": self.seed}


@dataclass(frozen=True, kw_only=True)
class CheckpointScores(Spec):
    """Checkpoints of one training, each scored on the images of that training."""

    kind: ClassVar[str] = "checkpoint-scores"

    architecture: str = setting("mnist-cnn", cli=False)
    input_size: int | None = setting(None, cli=False)
    images: str = setting("", cli=False, help="digest of the images and labels")
    weights: tuple[str, ...] = setting((), cli=False, help="digests of the checkpoints")
    checkpoints: tuple[str, ...] = setting((), identity=False, cli=False, help="their tags")
    normalisation: tuple[float, ...] = setting_of(PreTraining, "normalisation")
    source: str = setting("", identity=False, cli=False)
    seed: int = setting(0, identity=False, cli=False, help="of the training")
    shots: int = setting(0, identity=False, cli=False)
    split: int = setting(0, identity=False, cli=False)

    @property
    def title(self) -> str:
        """Return a short name of this trial among its siblings."""
        return f"checkpoints of {self.source} seed {self.seed} scored"

    @property
    def run_name(self) -> str:
        """Return the name of its run."""
        return self.title

    def mlflow_params(self) -> dict[str, object]:
        """Return the settings under the names that MLflow shows."""
        return {
            "Source": self.source,
            "Seed": self.seed,
            "Checkpoints": ", ".join(self.checkpoints),
        }


@dataclass(frozen=True, kw_only=True)
class CheckpointTuning(WholeDataset):
    """One checkpoint of a source fine-tuned on a target.

    Nothing is frozen; what is not copied and the head are fresh.
    """

    kind: ClassVar[str] = "checkpoint-tuning"

    epochs: int = setting(100, cli=False)
    optimizer: str = setting("adam", cli=False)
    learning_rate: float = setting(1e-4, cli=False)
    early_stopping: bool = setting(False, cli=False)
    checkpoint_steps: tuple[str, ...] = setting(
        (), cli=False, help="tags of the moments at which it is scored"
    )
    copied: int = setting(0, cli=False, help="blocks that come from the checkpoint")
    normalisation: tuple[float, ...] = setting_of(PreTraining, "normalisation")
    source: str = setting("", identity=False, cli=False)
    checkpoint: str = setting("", identity=False, cli=False)

    @property
    def title(self) -> str:
        """Return a short name of this trial among its siblings."""
        return f"{self.source} seed {self.seed} at {self.checkpoint} to {self.dataset}"

    def mlflow_params(self) -> dict[str, object]:
        """Return the settings under the names that MLflow shows."""
        return {
            **super().mlflow_params(),
            "Source": self.source,
            "Checkpoint": self.checkpoint,
            "Seed": self.seed,
            "Copied blocks": self.copied,
        }
