"""Which images and layers an analysis looks at: a declaration only, read without loading torch."""

from __future__ import annotations

from dataclasses import dataclass

from ..spec import knob
from .extraction import Extraction


@dataclass(frozen=True, kw_only=True)
class Observed(Extraction):
    """The images and layers that are looked at, where they are not those of a dump."""

    reduce: str = knob("flat", choices=("pooled", "flat", "first-token"), help="what is kept of a layer: everything "
                       "as one row, its spatial mean, or a transformer's class token")
    layers: tuple[str, ...] = knob((), help="layers by name or block number, comma-separated, or a set: blocks, last, "
                                   "all, thesis, model_25 … model_100. Default: thesis, where it names layers of the "
                                   "network; else the input and all blocks")
    part: str = knob("auto", choices=("auto", "all", "train", "val", "test"), help="images of which split folder; "
                     "auto: test where there is one, else all")
    samples: int = knob(500, low=0, help="so many images, as many of each class: the first of each; 0: all. "
                        "Default: 500, or what there is of classes that have fewer")
