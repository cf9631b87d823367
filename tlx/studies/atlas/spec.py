"""Settings of the atlas: activations, measures of a block, panels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...spec import Spec, setting
from ..layer_measures import DISSIMILARITIES, LAYER_METRICS
from ..layer_metrics.spec import Observed

EXPERIMENT = "Atlas"
MEASURED = tuple(m.in_atlas.name for m in LAYER_METRICS.values() if m.in_atlas is not None)
PANEL_NAMES = (
    *MEASURED,
    "cka_source",
    "knn",
    "quanta",
    "quanta_accuracy",
    "distance",
    "transfer",
)  # in the order in which they are drawn


@dataclass(frozen=True, kw_only=True)
class Atlas(Observed):
    """Network and images of an atlas."""

    kind: ClassVar[str] = "atlas"

    layers: tuple[str, ...] = setting((), cli=False)
    model_description: str | None = setting(None, cli=False, identity=False)
    use_crops: bool = setting(False, cli=False)
    precomputed_crops: str | None = setting(None, cli=False, identity=False)
    samples: int = setting(
        500, low=0, help="at most so many images, as many of each class: the first of each; 0: all"
    )
    reduce: str = setting(
        "auto",
        choices=("auto", "flat", "pooled", "first-token"),
        help="what is kept of a block's "
        "output: everything as one row, its spatial mean, or a transformer's class token; auto: "
        "everything, the spatial mean where all blocks would take more than 1 GiB",
    )


@dataclass(frozen=True, kw_only=True)
class BlockMeasures(Spec):
    """Measures of every block's outputs, and their uncertainty."""

    kind: ClassVar[str] = "block-measures"

    rdm: str = setting("correlation", choices=DISSIMILARITIES, help="dissimilarity of two rows")
    fraction: float = setting(
        0.9, low=0.01, high=1.0, help="share of the rows in each resampling, without replacement"
    )
    resamplings: int = setting(
        50, low=2, high=100_000, help="random parts of the rows, from which the 95 % CI come"
    )
    k: int = setting(5, low=1, high=200, help="nearest rows that vote on a row's class")
    folds: int = setting(
        10, low=2, high=1000, help="kNN: folds of the rows; each is classified by the others"
    )
    seed: int = setting(0, low=0, high=2**63 - 1, help="seed of resamplings and folds")
    dump: str = setting(
        "", cli=False, help="key of the dump: images, weights and how they were taken"
    )
    against: str = setting(
        "", cli=False, help="key of the dump of the network trained on the target; else none"
    )
    layers: tuple[str, ...] = setting((), cli=False)
    numbers: tuple[int, ...] = setting(
        (), cli=False, identity=False
    )  # of the blocks that end in the layers
    labels: str = setting("", cli=False, help="digest of the images' labels")
    model: str = setting("", cli=False, identity=False, help="what the network is called in tables")
    dataset: str = setting("", cli=False, identity=False)
    shots: int = setting(0, cli=False, identity=False)
    split: int = setting(0, cli=False, identity=False)

    @property
    def title(self) -> str:
        """Return a short name of the network and the images."""
        return (
            f"{self.model} on "
            f"{self.dataset}{': trained on it, against the source' if self.against else ''}"
        )

    @property
    def run_name(self) -> str:
        """Return the name of its run."""
        return self.title

    @property
    def epochs(self) -> int:
        """Return the steps of its progress: 0, and one a block."""
        return len(self.layers) + 1

    def mlflow_params(self) -> dict[str, object]:
        """Return the settings under the names that MLflow shows."""
        return {
            "Model": self.model,
            "Dataset": self.dataset,
            "Blocks": len(self.layers),
            "Dump": self.dump[:12],
            "Against": self.against[:12] or "-",
        }


@dataclass(frozen=True, kw_only=True)
class AtlasGrid(Spec):
    """Panels of an atlas and where to look up their data: no part of what is measured."""

    kind: ClassVar[str] = "atlas-grid"

    panels: tuple[str, ...] = setting(
        (),
        identity=False,
        help=f"panels to show: {', '.join(PANEL_NAMES)}, comma-separated. Default: all",
    )
    study: tuple[str, ...] = setting(
        (),
        identity=False,
        help="keys of studies to take (their beginnings will do), where "
        "several are of this network and target. Default: the newest of each kind",
    )
    finetuned: str | None = setting(
        None,
        identity=False,
        help="weight file of the network fine-tuned on the target, for "
        "CKA to the source. Default: that of a study of parameter distance",
    )
    run: bool = setting(
        False,
        identity=False,
        help="run what is missing first, by the commands that are named for it",
    )
    epochs: int | None = setting(
        None,
        identity=False,
        low=1,
        high=100_000,
        help="with --run: epochs of every training. Default: each command's own",
    )
    repeats: int | None = setting(
        None,
        identity=False,
        low=1,
        high=10_000,
        help="with --run: repeats of every study. Default: each command's own",
    )
    out: str = setting(
        "",
        identity=False,
        writes="folder",
        help="also write figure and table (atlas.png, .csv, .json) into this folder",
    )
