"""Settings of layer transfer: one network, and the grid of networks of a study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...models.recipe import BN_MODES
from ...spec import Spec, setting
from ..whole_dataset import DEFAULT, WholeDataset

EXPERIMENT = "Layer transfer"
HALF = "half"
TREATMENTS = ("baseA", "baseB", "baseB+", "AnB", "BnB", "AnB+", "BnB+")


@dataclass(frozen=True, kw_only=True)
class LayerTransfer(WholeDataset):
    """One network of a layer-transfer study."""

    kind: ClassVar[str] = "layer-transfer"

    source: str = setting(
        HALF,
        identity=False,
        help="what A is: half (a half of the classes, trained here; B is the other "
        "half), default (the backbone's own weights), or what these were trained on (ImageNet, "
        "MNIST)",
    )
    halves: str = setting(
        "first",
        choices=("first", "second", "random"),
        identity=False,
        only_with={"source": ("half",)},
        help="with --source half: the classes of A, by their order, or drawn once for all repeats",
    )
    copied: int = setting(0, low=0, cli=False, help="blocks that come from the source")
    keep_weights: bool = setting(
        False, identity=False, cli=False, help="whether its weights are kept"
    )
    freeze: int = setting(0, low=0, cli=False)
    bn: str = setting("frozen", choices=BN_MODES, cli=False)
    of: str = setting(
        "",
        choices=("", "A", "B"),
        identity=False,
        cli=False,
        help="which base network the blocks are of",
    )
    task: str = setting("B", choices=("A", "B"), identity=False, cli=False)
    depth: int = setting(0, identity=False, cli=False, help="blocks of the whole network")

    @property
    def network(self) -> str:
        """Return the network's name, such as A3B, B3B+ or baseB."""
        if not self.copied:
            return f"base{self.task}"
        plus = "" if self.freeze else "+"
        return (
            "baseB+"
            if plus and self.of == "A" and self.copied == self.depth
            else f"{self.of}{self.copied}B{plus}"
        )

    @property
    def title(self) -> str:
        """Return a short name of this trial among its siblings."""
        return f"{self.network}{f' {self.bn}' if self.bn != 'frozen' else ''}, repeat {self.split}"

    @property
    def start_from(self) -> str | None:
        """Return the weights for `backbones.load`.

        None while the source is a half that is to be trained.
        """
        return self.model or (None if self.source.lower() == HALF else DEFAULT)

    @property
    def weight_source(self) -> str | None:
        """Return the source that the backbone's own weights must have; None: any."""
        named = not self.model and self.source.lower() not in (HALF, DEFAULT)
        return self.source if named else None

    def mlflow_params(self) -> dict[str, object]:
        """Return the settings under the names that MLflow shows."""
        return {
            **super().mlflow_params(),
            "Network": self.network,
            "Copied": self.copied,
            "Frozen": self.freeze,
            "Batch norm": self.bn if self.freeze else "-",
            "Source": self.model or self.source,
        }


@dataclass(frozen=True, kw_only=True)
class LayerTransferGrid(Spec):
    """Grid of the networks of a layer-transfer study."""

    kind: ClassVar[str] = "layer-transfer-grid"

    treatments: tuple[str, ...] = setting(
        (),
        help="baseA, baseB, baseB+, AnB, BnB, AnB+, BnB+, comma-separated. AnB "
        "needs A, BnB the network baseB of the same repeat: these are trained first, "
        "asked for or not. Default: all",
    )
    depths: tuple[int, ...] = setting(
        (), low=0, help="n: blocks that are copied. Default: every one"
    )
    bn: tuple[str, ...] = setting(
        (),
        help="batch norm of frozen blocks: frozen (the source's statistics), adapt (they "
        "follow B), keras2 (batch statistics in training, the source's at test: the fault of "
        "Keras up to 2.2); several are compared. Default: frozen",
    )
    repeats: int = setting(
        5, low=1, high=10_000, help="networks of each kind, which differ by their seeds"
    )
    export: str = setting(
        "",
        identity=False,
        writes="folder",
        help="also keep the weights of all networks, and write them into this folder as the "
        "original names them: A3B-mobilenet.safetensors, which tlx evaluate reads",
    )
