"""Choices of what a fine-tuning trains: declarations only, read without loading torch.

What each does to a network is in tuned_parts.py; a test compares the two tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..spec import Spec, format_spec, parse_spec, setting

NOTHING_TO_TUNE = "nothing-to-tune"  # code of the error of a network without the part of a choice
HEAD_EPOCHS = 10  # of head-then-all, before the whole network learns


@dataclass(frozen=True, kw_only=True)
class Tune(Spec):
    """Base of the rows of TUNES.

    trained  what learns, in words; what --freeze freezes never does
    part     what of a network it needs, in words
    """

    trained: ClassVar[str] = ""
    part: ClassVar[str] = "parameter"

    @property
    def head_first(self) -> int:
        """Return the epochs of a first phase that trains the head alone; 0: there is none."""
        return 0


@dataclass(frozen=True, kw_only=True)
class TuneAll(Tune):
    """Every parameter."""

    kind: ClassVar[str] = "tune-all"
    trained: ClassVar[str] = "every parameter"


@dataclass(frozen=True, kw_only=True)
class TuneNorm(Tune):
    """Parameters of normalisation layers (Frankle et al. 2021, for batch norm)."""

    kind: ClassVar[str] = "tune-norm"
    trained: ClassVar[str] = "the head, and scales and shifts of normalisation layers"
    part: ClassVar[str] = "normalisation layer"


@dataclass(frozen=True, kw_only=True)
class TuneBias(Tune):
    """Biases of all layers (Ben Zaken et al. 2022)."""

    kind: ClassVar[str] = "tune-bias"
    trained: ClassVar[str] = "the head, and the biases of all layers"
    part: ClassVar[str] = "bias"


@dataclass(frozen=True, kw_only=True)
class TuneHeadThenAll(Tune):
    """Head on frozen features first, then every parameter (LP-FT, Kumar et al. 2022)."""

    kind: ClassVar[str] = "tune-head-then-all"
    trained: ClassVar[str] = "the head on frozen features first, then every parameter"

    epochs: int = setting(
        HEAD_EPOCHS, low=1, high=100_000, help="epochs of the head, before those of --epochs"
    )

    @property
    def head_first(self) -> int:
        """Return the epochs of the head."""
        return self.epochs


@dataclass(frozen=True, kw_only=True)
class TuneLora(Tune):
    """Low-rank adapters of dense layers and 1 × 1 convolutions (Hu et al. 2022)."""

    kind: ClassVar[str] = "tune-lora"
    trained: ClassVar[str] = "the head, and low-rank adapters that are merged afterwards"
    part: ClassVar[str] = "dense layer or 1 × 1 convolution that an adapter fits"

    r: int = setting(8, low=1, high=1024, help="rank of an adapter")
    alpha: int | None = setting(
        None, low=1, high=65_536, help="an adapter is scaled by alpha / r. Default: r"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha == self.r:
            object.__setattr__(self, "alpha", None)  # one meaning, one text


TUNES: dict[str, type[Tune]] = {
    "all": TuneAll,
    "norm": TuneNorm,
    "bias": TuneBias,
    "head-then-all": TuneHeadThenAll,
    "lora": TuneLora,
}


def parse_tune(text: str) -> Tune:
    """Return the choice of 'name' or 'name:setting=value,…'.

    Raises UnknownNameError or UsageError.
    """
    tune = parse_spec(dict[str, type[Spec]](TUNES), text, "tune")
    assert isinstance(tune, Tune)
    return tune


def format_tune(tune: Tune) -> str:
    """Return the text that `parse_tune` reads, without settings at their defaults."""
    name = next(name for name, row in TUNES.items() if row is type(tune))
    return format_spec(name, tune)
