"""Chop: cut a network behind block n, put the mean over the image and one dense layer there, and fine-tune the rest."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..result import FINISHED, Result
from ..spec import Spec, knob, stream
from .fewshot import RANDOM
from .layer_transfer import DEFAULT, Sourced
from .whole_data import WholeData

if TYPE_CHECKING:
    from .study import Bench

EXPERIMENT = "Chop"
NETWORK = "network"  # stem of the chopped network's files


@dataclass(frozen=True, kw_only=True)
class FromWeights(WholeData):
    """A training that starts from the weights of a source, or from random ones."""

    source: str | None = knob(None, place=True, help="what the weights were trained on (ImageNet, MNIST); random: no "
                              "pre-training. Default: the backbone's own")
    depth: int = knob(0, place=True, derived=True, help="blocks of the whole network")

    @property
    def start_from(self) -> str | None:
        """What `backbones.load` is asked for: a weight file, "default", or None for random weights."""
        return self.model or (None if (self.source or "").lower() == RANDOM else DEFAULT)

    @property
    def weight_source(self) -> str | None:
        """The source that "default" weights must have; None: whatever theirs is."""
        return self.source if self.start_from == DEFAULT else None


@dataclass(frozen=True, kw_only=True)
class Chop(FromWeights):
    """One chopped network, or the whole one beside them."""

    cut: int | None = knob(None, low=1, derived=True, help="the last block that stays; None: the whole network")

    @property
    def title(self) -> str:
        """Few words that name this trial among its siblings."""
        where = "whole" if self.cut is None else f"cut behind block {self.cut}"
        return f"{where}, repeat {self.split}"

    def named(self) -> dict[str, Any]:
        """The settings under the names that MLflow shows."""
        return {**super().named(), "Cut": self.cut or "-", "Frozen": self.freeze,
                "Source": self.model or self.source or "-"}


@dataclass(frozen=True, kw_only=True)
class Chops(Spec):
    """Which chopped networks make a study."""

    depths: tuple[int, ...] = knob((), low=1, help="n: blocks that stay. Default: every one")
    repeats: int = knob(3, low=1, high=10_000, help="networks of each n, which differ by their seeds")
    within: float = knob(0.01, low=0.0, high=1.0, place=True, help="validation accuracy that the smallest network "
                         "named may lose against the best, a fraction: 0.01 is one point")


def run(spec: Chop, inputs: Sourced, bench: Bench) -> Result:
    """Cut, fine-tune, score on the test images; the network is kept with what is needed to load it again."""
    from ..models import chopped
    from ..models.footprint import footprint
    from ..models.transferred import transferred
    from .fitted import fit_and_score

    network = transferred(spec.architecture, weights=inputs.weights, copied=spec.depth if inputs.weights else 0,
                          classes=len(inputs.data.classes), seed=stream(spec.seed, "head", spec.split),
                          source=inputs.source, cut=spec.cut, input_size=spec.input_size, sha256=spec.weights)
    status, scores, details = fit_and_score(spec, network, inputs.data, bench, stream(spec.seed, "fit", spec.split))
    if status == FINISHED:
        chopped.write(bench.folder / NETWORK, network, architecture=spec.architecture, cut=spec.cut,
                      classes=inputs.data.classes)
        scores |= {name: float(value) for name, value in asdict(footprint(network, spec)).items()}
    return Result.of(spec, status=status, scores=scores, details=details, made_from={"weights": spec.weights})
