"""Settings of the atlas: activations, measures of a block, panels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...spec import Spec, knob
from ..layer_metrics.spec import DISSIMILARITIES, Observed

if TYPE_CHECKING:
    pass


EXPERIMENT = "Atlas"


@dataclass(frozen=True, kw_only=True)
class Atlas(Observed):
    """The network and the images of an atlas."""

    layers: tuple[str, ...] = knob((), derived=True)
    model_description: str | None = knob(None, derived=True, place=True)
    use_crops: bool = knob(False, derived=True)
    precomputed_crops: str | None = knob(None, derived=True, place=True)
    samples: int = knob(500, low=0, help="at most so many images, as many of each class: the first of each; 0: all")
    reduce: str = knob("auto", choices=("auto", "flat", "pooled", "first-token"), help="what is kept of a block's "
                       "output: everything as one row, its spatial mean, or a transformer's class token; auto: "
                       "everything, the spatial mean where all blocks would take more than 1 GiB")


@dataclass(frozen=True, kw_only=True)
class BlockMeasures(Spec):
    """What is measured of every block's outputs, and how sure it is."""

    rdm: str = knob("correlation", choices=DISSIMILARITIES,
                    help="dissimilarity of two rows")
    fraction: float = knob(0.9, low=0.01, high=1.0, help="share of the rows in each resampling, without replacement")
    resamplings: int = knob(50, low=2, high=100_000, help="random parts of the rows, from which the 95 % CI come")
    k: int = knob(5, low=1, high=200, help="nearest rows that vote on a row's class")
    folds: int = knob(10, low=2, high=1000, help="kNN: parts of the rows; each is told by the others")
    seed: int = knob(0, low=0, high=2**63 - 1, help="seed of resamplings and folds")
    dump: str = knob("", derived=True, help="key of the dump: images, weights and how they were taken")
    against: str = knob("", derived=True, help="key of the dump of the network trained on the target; else none")
    layers: tuple[str, ...] = knob((), derived=True)
    labels: str = knob("", derived=True, help="digest of the images' labels")
    model: str = knob("", derived=True, place=True, help="what the network is called in tables")
    dataset: str = knob("", derived=True, place=True)
    shots: int = knob(0, derived=True, place=True)
    split: int = knob(0, derived=True, place=True)

    @property
    def title(self) -> str:
        """Few words that name the network and the images."""
        return f"{self.model} on {self.dataset}{': trained on it, against the source' * bool(self.against)}"

    @property
    def run_name(self) -> str:
        """What its run is called."""
        return self.title

    @property
    def epochs(self) -> int:
        """Steps of its progress: 0, and one a block."""
        return len(self.layers) + 1

    def named(self) -> dict[str, Any]:
        """The settings under the names that MLflow shows."""
        return {"Model": self.model, "Dataset": self.dataset, "Blocks": len(self.layers), "Dump": self.dump[:12],
                "Against": self.against[:12] or "-"}


@dataclass(frozen=True, kw_only=True)
class AtlasParts(Spec):
    """Which panels an atlas has, and where what is looked up comes from: no part of what is measured."""

    panels: tuple[str, ...] = knob((), place=True, help="panels to show: ss_ratio, id, rsa_contrast, cka_label, "
                                   "cka_source, knn, quanta, quanta_accuracy, distance, transfer, comma-separated. "
                                   "Default: all")
    study: tuple[str, ...] = knob((), place=True, help="keys of studies to take (their beginnings will do), where "
                                  "several are of this network and target. Default: the newest of each kind")
    finetuned: str | None = knob(None, place=True, help="weight file of the network fine-tuned on the target, for "
                                 "CKA to the source. Default: that of a study of parameter distance")
    run: bool = knob(False, place=True, help="run what is missing first, by the commands that are named for it")
    epochs: int | None = knob(None, place=True, low=1, high=100_000, help="with --run: epochs of every training. "
                              "Default: each command's own")
    repeats: int | None = knob(None, place=True, low=1, high=10_000, help="with --run: repeats of every study. "
                               "Default: each command's own")
