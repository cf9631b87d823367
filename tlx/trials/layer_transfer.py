"""Layer transfer: blocks 1…n of a network trained on A or on B, the rest drawn anew, trained on B.

Yosinski et al. 2014 (arXiv:1411.1792) and 'feature-transfer'. A treatment is a row of a table of what is copied from
where and what of it is held:

    baseA, baseB   nothing is copied; trained on A, on B      baseB+   everything from A, nothing held
    AnB, BnB       blocks 1…n from A, from B, and held        AnB+, BnB+   the same, not held

So A0B is baseB, and ANB+ is baseB+: the same trial, run once. What is not copied is drawn from a stream of its own, so
that BnB's upper blocks do not start from where those of the base network did that its lower blocks grew up with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..result import FINISHED, Result
from ..spec import Spec, knob, stream
from .fewshot import Inputs
from .whole_data import WholeData

if TYPE_CHECKING:
    from .study import Bench

EXPERIMENT = "Layer transfer"
WEIGHTS = "weights.safetensors"
HALF, DEFAULT = "half", "default"
TREATMENTS = ("baseA", "baseB", "baseB+", "AnB", "BnB", "AnB+", "BnB+")
BN_MODES = ("frozen", "adapt", "keras2")


@dataclass(frozen=True, kw_only=True)
class LayerTransfer(WholeData):
    """One network of a layer-transfer study."""

    source: str = knob(HALF, place=True, help="what A is: half (a half of the classes, trained here; B is the other "
                       "half), default (the backbone's own weights), or what these were trained on (ImageNet, MNIST)")
    halves: str = knob("first", choices=("first", "second", "random"), place=True, help="with --source half: the "
                       "classes of A, by their order, or drawn once for all repeats")
    copied: int = knob(0, low=0, derived=True, help="blocks that come from the source")
    freeze: int = knob(0, low=0, derived=True)
    bn: str = knob("frozen", choices=BN_MODES, derived=True)
    of: str = knob("", choices=("", "A", "B"), place=True, derived=True, help="which base network the blocks are of")
    task: str = knob("B", choices=("A", "B"), place=True, derived=True)
    depth: int = knob(0, place=True, derived=True, help="blocks of the whole network")

    @property
    def network(self) -> str:
        """A3B, B3B+, baseB, …"""
        if not self.copied:
            return f"base{self.task}"
        plus = "" if self.freeze else "+"
        return "baseB+" if plus and self.of == "A" and self.copied == self.depth else f"{self.of}{self.copied}B{plus}"

    @property
    def title(self) -> str:
        """Few words that name this trial among its siblings."""
        return f"{self.network}{f' {self.bn}' * (self.bn != 'frozen')}, repeat {self.split}"

    @property
    def start_from(self) -> str | None:
        """What `backbones.load` is asked for; None while the source is a half that is to be trained."""
        return self.model or (None if self.source.lower() == HALF else DEFAULT)

    @property
    def weight_source(self) -> str | None:
        """The source that the backbone's own weights must have; None: whatever theirs is."""
        named = not self.model and self.source.lower() not in (HALF, DEFAULT)
        return self.source if named else None

    def named(self) -> dict[str, Any]:
        """The settings under the names that MLflow shows."""
        return {**super().named(), "Network": self.network, "Copied": self.copied, "Frozen": self.freeze,
                "Batch norm": self.bn if self.freeze else "-", "Source": self.model or self.source}


@dataclass(frozen=True, kw_only=True)
class Treatments(Spec):
    """Which networks make a layer-transfer study."""

    treatments: tuple[str, ...] = knob((), help="baseA, baseB, baseB+, AnB, BnB, AnB+, BnB+, comma-separated. AnB "
                                       "needs A, BnB the network baseB of the same repeat: these are trained first, "
                                       "asked for or not. Default: all")
    depths: tuple[int, ...] = knob((), low=0, help="n: blocks that are copied. Default: every one")
    bn: tuple[str, ...] = knob((), help="batch norm of frozen blocks: frozen (the source's statistics), adapt (they "
                               "follow B), keras2 (batch statistics in training, the source's at test: the fault of "
                               "Keras up to 2.2); several are compared. Default: frozen")
    repeats: int = knob(5, low=1, high=10_000, help="networks of each kind, which differ by their seeds")


@dataclass(frozen=True)
class Sourced:
    """What a trial runs on, and the weights that it starts from: a file, "default", or None."""

    data: Inputs
    weights: str | None = None
    source: str | None = None


def run(spec: LayerTransfer, inputs: Sourced, bench: Bench) -> Result:
    """Put the network together, train it, score it on the test images; a base network's weights are kept."""
    from ..models import checkpoints
    from ..models.transferred import transferred
    from .fitted import fit_and_score

    network = transferred(spec.architecture, weights=inputs.weights, copied=spec.copied, source=inputs.source,
                          classes=len(inputs.data.classes), input_size=spec.input_size, sha256=spec.weights,
                          seed=stream(spec.seed, "rest" if spec.copied else "weights", spec.split))
    status, scores, details = fit_and_score(spec, network, inputs.data, bench, stream(spec.seed, "fit", spec.split))
    if status == FINISHED and not spec.copied:
        checkpoints.write(bench.folder / WEIGHTS, network.net.state_dict(), {"format": "pt"})
    made_from = {f"weights of {spec.of}": spec.weights} if spec.copied else {}
    return Result.of(spec, status=status, scores=scores, details=details, made_from=made_from)

