"""Settings of parameter distance and of the fine-tuning that it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...spec import Spec, setting
from ..whole_dataset import DEFAULT, WholeDataset

EXPERIMENT = "Parameter distance"
NORMS = (
    "mean_abs",
    "l1",
    "l2",
    "rms",
    "cosine",
    "chord",
    "filter_cosine",
    "relative_l1",
    "relative_l2",
)
RULES, HEADS = (
    ("original", "weights", "parameters"),
    ("match", "skip"),
)  # a test holds all three to tlx.metrics' tables
AUTO, START, RANDOM, UNKNOWN, DRAWN = "auto", "start", "random", "none", "drawn"
LAYER = (
    "random_pretrained",
    "pretrained_finetuned",
    "random_finetuned",
    "transferability",
    "movement",
)
BACKBONE = "backbone: a row of `tlx backbones`, a torchvision or timm: name"


@dataclass(frozen=True, kw_only=True)
class ParameterDistance(Spec):
    """Distances and transferability between three states of one network, in one norm."""

    kind: ClassVar[str] = "parameter-distance"

    random: str = setting(
        AUTO,
        identity=False,
        short="r",
        help="weights at random initialisation: a file (.safetensors, "
        ".pth, .pt, .h5); start: what pre-training began from, known of weights of tlx pretrain "
        "and of "
        "those that come with tlx; random: drawn as the architecture starts; auto: start where it "
        "is "
        "known, else random",
    )
    pretrained: str = setting(
        DEFAULT,
        identity=False,
        short="a",
        help="weights after pre-training: a file, a finished trial "
        "that keeps weights (its folder, or its key or the beginning of it), or default: the "
        "backbone's own",
    )
    architecture: str = setting(
        "",
        help=f"{BACKBONE}; none: modules are the layers. Default: that of a trial given, "
        "resnet50 where -b is a file, as in the original, else mnist-cnn",
    )
    rule: str = setting(
        "auto",
        choices=("auto", *RULES),
        help="which tensors: weights (kernels), parameters (everything "
        "learned), original (as published, for resnet50, resnet34, densenet121 and timm's "
        "vit_small); "
        "auto: original for these, weights for others",
    )
    head: str = setting(
        HEADS[0],
        choices=HEADS,
        help="the head: match (measured where it has one shape in all three; it "
        "never counts overall) or skip",
    )
    seed: int = setting(
        0,
        low=0,
        high=2**63 - 1,
        help="random seed; each repeat uses a stream of its own",
    )
    norm: str = setting("mean_abs", cli=False)
    draw: int | None = setting(
        None, low=0, cli=False, help="number of the random state, where it is drawn"
    )
    start: int | None = setting(
        None, low=0, cli=False, help="seed of the pre-training, where its start is meant"
    )
    states: tuple[str, ...] = setting(
        (), cli=False, help="digests of the weights: random (or drawn), pre-trained, fine-tuned"
    )
    target: str = setting("", identity=False, cli=False, help="what it was fine-tuned on")
    images: str = setting(
        "", identity=False, cli=False, help="digest of its images, where they are known"
    )
    finetuned: str = setting("", identity=False, cli=False)
    repeat: int = setting(0, identity=False, cli=False)

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
        return f"{self.target}, {self.norm}, repeat {self.repeat}"

    @property
    def run_name(self) -> str:
        """Return the name of its run."""
        return self.title

    def mlflow_params(self) -> dict[str, object]:
        """Return the settings under the names that MLflow shows."""
        return {
            "Architecture": self.architecture,
            "Target": self.target,
            "Repeat": self.repeat,
            "Norm": self.norm,
            "Rule": self.rule,
            "Head": self.head,
            "Random": self.random,
            "Pre-trained": self.pretrained,
            "Fine-tuned": self.finetuned,
        }


@dataclass(frozen=True, kw_only=True)
class ParameterDistanceGrid(Spec):
    """Grid of the triples of a study, and the analysis of their data."""

    kind: ClassVar[str] = "parameter-distance-grid"

    norms: tuple[str, ...] = setting(
        (),
        help=f"distances, comma-separated, or all: {', '.join(NORMS)}. Default: "
        "mean_abs, the published one",
    )
    seeds: int = setting(
        5,
        low=1,
        high=10_000,
        help="repeats: random states drawn, and fine-tunings where they are trained here",
    )
    source_images: str | None = setting(
        None,
        identity=False,
        help="images that the network was pre-trained on, for the "
        "domain gap: a name of `tlx datasets`, or a folder; as many are drawn as the "
        "target has for training",
    )
    gap: str = setting(
        "frechet",
        only_with={"source_images": ()},
        help="how the gap is measured, on features of the last block: frechet, mmd, emd or "
        "sliced, with settings as in mmd:sigma=3",
    )
    finetuned: tuple[str, ...] = setting(
        (),
        short="b",
        identity=False,
        repeated=True,
        help="[NAME=]B,…: weights after fine-tuning, files or finished trials that keep weights, "
        "as for -a; comma-separated, or the option again. Of one NAME they are repeats of one "
        "target. Default: fine-tuned here, on --dataset",
    )
    num_classes: int | None = setting(
        None,
        low=1,
        identity=False,
        help="classes of the head of -b, to be checked. Default: those it has",
    )
    out: str = setting(
        "",
        identity=False,
        writes="folder",
        help="also write the tables and figures into this folder",
    )


@dataclass(frozen=True, kw_only=True)
class TargetTuning(WholeDataset):
    """Fine-tuning of the pre-trained network on a whole data set; its weights are kept."""

    kind: ClassVar[str] = "target-tuning"

    architecture: str = setting("mnist-cnn", help=BACKBONE)
    batch_size: int = setting(64, low=1, high=65_536, help="rows a step")
    dataset: str = setting(
        "",
        identity=False,
        short="d",
        help="fine-tune on this data set, a name of `tlx datasets` or a "
        "folder; beside one -b: what that was fine-tuned on, measured and not trained on. Default: "
        "digits where there is no -b",
    )
    model: str | None = setting(None, identity=False, cli=False)
    depth: int = setting(0, identity=False, cli=False, help="blocks of the network")
    target: str = setting("", identity=False, cli=False)

    @property
    def title(self) -> str:
        """Return a short name of this trial among its siblings."""
        return f"fine-tuned on {self.target}, repeat {self.split}"

    def mlflow_params(self) -> dict[str, object]:
        """Return the settings under the names that MLflow shows."""
        return {
            **super().mlflow_params(),
            "Target": self.target,
            "Weight decay": self.weight_decay,
            "Frozen": self.freeze,
        }
