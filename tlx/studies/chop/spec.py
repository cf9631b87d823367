"""Settings of chopping and of pruning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...models.weights.given import given_file
from ...spec import Spec, setting
from ..few_shot import RANDOM
from ..whole_dataset import DEFAULT, WholeDataset

LATENCY = "latency.json"  # in the study's folder
NETWORK = "network"  # stem of the chopped network's files


@dataclass(frozen=True, kw_only=True)
class FromWeights(WholeDataset):
    """Training that starts from the weights of a source, or from random ones."""

    source: str | None = setting(
        None,
        identity=False,
        help="what the weights were trained on (ImageNet, MNIST); random: no "
        "pre-training. Default: the backbone's own",
    )
    depth: int = setting(0, identity=False, cli=False, help="blocks of the whole network")

    @property
    def start_from(self) -> str | None:
        """Return the weights for `backbones.load`: a file, "default", or None (random)."""
        if self.model:
            return given_file(self.model, self.architecture, self.source)
        return None if (self.source or "").lower() == RANDOM else DEFAULT

    @property
    def weight_source(self) -> str | None:
        """Return the source that "default" weights must have; None: any."""
        return self.source if self.start_from == DEFAULT else None


@dataclass(frozen=True, kw_only=True)
class Chop(FromWeights):
    """One chopped network, or the whole one."""

    kind: ClassVar[str] = "chop"

    cut: int | None = setting(
        None, low=1, cli=False, help="the last block that stays; None: the whole network"
    )

    @property
    def title(self) -> str:
        """Return a short name of this trial among its siblings."""
        where = "whole" if self.cut is None else f"cut behind block {self.cut}"
        return f"{where}, repeat {self.split}"

    def mlflow_params(self) -> dict[str, object]:
        """Return the settings under the names that MLflow shows."""
        return {
            **super().mlflow_params(),
            "Cut": self.cut or "-",
            "Frozen": self.freeze,
            "Source": self.model or self.source or "-",
        }


@dataclass(frozen=True, kw_only=True)
class ChopGrid(Spec):
    """Grid of the chopped networks of a study."""

    kind: ClassVar[str] = "chop-grid"

    depths: tuple[int, ...] = setting((), low=1, help="n: blocks that stay. Default: every one")
    repeats: int = setting(
        3, low=1, high=10_000, help="networks of each n, which differ by their seeds"
    )
    tolerance: float = setting(
        0.01,
        low=0.0,
        high=1.0,
        identity=False,
        help="validation accuracy that the smallest network "
        "named may lose against the best, a fraction: 0.01 is one point",
    )
    out: str = setting(
        "",
        identity=False,
        writes="file",
        help="file for the smallest good network (.safetensors), with a .json next to it "
        "from which it is loaded. Default: left in its run's folder",
    )


@dataclass(frozen=True, kw_only=True)
class Pruning(FromWeights):
    """One round of iterative magnitude pruning; round 0 trains all weights."""

    kind: ClassVar[str] = "pruning"

    keep: float = setting(
        0.7, low=0.01, high=0.999, help="share of the weights that a round leaves"
    )
    scope: str = setting(
        "global", choices=("global", "layer"), help="one threshold for all layers, or one for each"
    )
    rewind: str = setting(
        "none",
        choices=("none", "start"),
        help="each round starts from the trained weights, or from those before any training",
    )
    round: int = setting(0, low=0, cli=False, help="how often weights were dropped")
    before: str = setting("", cli=False, help="digest of the weights that the round before came to")

    @property
    def kept(self) -> float:
        """Return the share of all weights that is left."""
        return self.keep**self.round

    @property
    def title(self) -> str:
        """Return a short name of this trial among its siblings."""
        return f"{100 * self.kept:.0f} % of the weights, repeat {self.split}"

    def mlflow_params(self) -> dict[str, object]:
        """Return the settings under the names that MLflow shows."""
        return {
            **super().mlflow_params(),
            "Round": self.round,
            "Kept": f"{self.kept:.4g}",
            "Scope": self.scope,
            "Rewind": self.rewind,
            "Source": self.model or self.source or "-",
        }


@dataclass(frozen=True, kw_only=True)
class PruningGrid(Spec):
    """Rounds and repeats of a study of pruning."""

    kind: ClassVar[str] = "pruning-grid"

    iterations: int = setting(5, low=1, high=1000, help="how often weights are dropped")
    repeats: int = setting(
        3, low=1, high=10_000, help="networks that are pruned, which differ by their seeds"
    )
