"""Settings of an analysis: a declaration only, read without loading torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...spec import Spec, setting
from ..activations_spec import Extraction
from ..layer_measures import DISSIMILARITIES


@dataclass(frozen=True, kw_only=True)
class Observed(Extraction):
    """Images and layers that are analysed, where they are not those of a dump."""

    kind: ClassVar[str] = "observed-layers"

    reduce: str = setting(
        "flat",
        choices=("pooled", "flat", "first-token"),
        help="what is kept of a layer: everything "
        "as one row, its spatial mean, or a transformer's class token",
    )
    layers: tuple[str, ...] = setting(
        (),
        help="layers by name or block number, comma-separated, or a set: blocks, last, "
        "all, thesis, model_25 … model_100. Default: thesis, where it names layers of the "
        "network; else the input and all blocks",
    )
    part: str = setting(
        "auto",
        choices=("auto", "all", "train", "val", "test"),
        help="images of which split folder; auto: test where there is one, else all",
    )
    samples: int = setting(
        500,
        low=0,
        help="so many images, as many of each class: the first of each; 0: all. "
        "Default: 500, or what there is of classes that have fewer",
    )


EXPERIMENT = "Layer metrics"


@dataclass(frozen=True, kw_only=True)
class LayerMetrics(Spec):
    """Metrics of every layer of one network on one set of images."""

    kind: ClassVar[str] = "layer-metrics"

    rdm: str = setting("correlation", choices=DISSIMILARITIES, help="dissimilarity of two rows")
    fraction: float = setting(
        0.9,
        low=0.01,
        high=1.0,
        help="intrinsic dimension: share of the ratios that is fitted, and "
        "of the rows in each resampling",
    )
    resamplings: int = setting(
        50,
        low=2,
        high=100_000,
        help="intrinsic dimension: subsets of the rows, without replacement",
    )
    max_rows: int = setting(
        5_000,
        low=100,
        help="rows that are compared with each other; of more, so many, evenly "
        "spaced over the classes (fewer of layers above 1.5 GiB, so that memory holds)",
    )
    block_rows: int = setting(
        0,
        low=0,
        help="layers with more rows than this are measured block by block, of so many rows each, "
        "and layers above 1.5 GiB are then compared in all of --max-rows. With a cluster, or "
        "--workers 2 and more, other processes measure the blocks. "
        "Default (0): what fits in half of the memory",
    )
    seed: int = setting(0, low=0, high=2**63 - 1, help="seed of the resamplings")
    dump: str = setting(
        "", cli=False, help="key of the dump: images, weights and how they were taken"
    )
    layers: tuple[str, ...] = setting((), cli=False)
    labels: str = setting("", cli=False, help="digest of the images' labels")
    model: str = setting("", cli=False, identity=False, help="what the network is called in tables")
    trained_on: str = setting("", cli=False, identity=False)
    checkpoint: str = setting("", cli=False, identity=False)
    dataset: str = setting("", cli=False, identity=False)
    shots: int = setting(0, cli=False, identity=False)
    split: int = setting(0, cli=False, identity=False)

    @property
    def title(self) -> str:
        """Return a short name of the network and the images."""
        return f"{self.model} on {self.dataset}"

    @property
    def run_name(self) -> str:
        """Return the name of its run."""
        return self.title

    @property
    def epochs(self) -> int:
        """Return the steps of its progress: one a layer."""
        return len(self.layers)

    def mlflow_params(self) -> dict[str, object]:
        """Return the settings under the names that MLflow shows."""
        return {
            "Model": self.model,
            "Trained on": self.trained_on or "-",
            "Checkpoint": self.checkpoint or "-",
            "Dataset": self.dataset,
            "Layers": ", ".join(self.layers),
            "Dump": self.dump[:12],
        }


@dataclass(frozen=True, kw_only=True)
class LayerMetricsGrid(Spec):
    """Networks to measure, and outputs of the results."""

    kind: ClassVar[str] = "layer-metrics-grid"

    networks: tuple[str, ...] = setting(
        (),
        identity=False,
        argument=True,
        help="what to analyse: weight files, folders of them (checkpoints), dumps (folders or "
        "keys), or what a network was trained on (mnist, random_init, vgg16/imagenet), "
        "comma-separated. Default: what --architecture, --model and --source say",
    )
    bootstrap: int = setting(
        0,
        low=0,
        identity=False,
        help="draws of the images for confidence intervals of the comparisons of dissimilarities: "
        "of layers, of networks, with the classes. For 500 images 2 ms a draw and layer; 0: none",
    )
    out: str = setting(
        "",
        identity=False,
        writes="folder",
        help="also write the table, layer_metrics.csv and .parquet, into this folder",
    )
    corr_dict: str = setting(
        "",
        identity=False,
        writes="folder",
        help="also write the dissimilarities of every layer into this folder, model → matrix, as "
        "the thesis' <data set>_sorted_corr_dict_layer<k>, as .npz",
    )
