"""What an extraction of activations is asked for: a declaration only, read without loading torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ..errors import Usage
from ..spec import knob
from .few_shot import RANDOM, FewShotTrial


@dataclass(frozen=True, kw_only=True)
class Extraction(FewShotTrial):
    """Activations of some layers on all images of a data set."""

    split_path: str | None = knob(None, derived=True, place=True)
    model_selection: bool = knob(False, derived=True)
    vote: str = knob("majority", derived=True)
    use_crops: bool = knob(False, help="ten crops an image")
    trained_on: str | None = knob(None, place=True, help="what the weights were trained on, as in the thesis: a source "
                                  "(mnist, random_init), architecture/source (vgg16/imagenet), or a weight file")
    part: str = knob("all", choices=("all", "train", "val", "test"), help="images of which split folder")
    samples: int = knob(0, low=0, help="so many images, as many of each class: the first of each; 0: all")
    layers: tuple[str, ...] = knob((), help="layers by name or block number, comma-separated, or a set: blocks (all of "
                                   "them), last, all (input and every module), thesis, model_25, model_50, model_75, "
                                   "model_100. Default: blocks")
    model_description: str | None = knob(None, place=True, help="JSON of the original study that names the layers")
    reduce: str = knob("pooled", choices=("pooled", "flat", "first-token", "raw"), help="what is kept of a layer: its "
                       "spatial mean, everything as one row, a transformer's class token, or as it is")
    fold: bool = knob(True, help="fold batch norm into the convolutions: faster, other last bits")
    precision: str = knob("float32", choices=("float32", "bfloat16"), help="arithmetic of the forward pass")
    dtype: str = knob("float32", choices=("float32", "float16"), help="numbers kept")

    @property
    def resolved(self) -> Self:
        """With `trained_on` taken apart into architecture, source or weight file."""
        if self.trained_on is None:
            return self
        if self.model is not None or self.source is not None:
            raise Usage("conflict", "--trained-on with --model or --source", expected="one of them")
        given = self.but(trained_on=None)
        if Path(self.trained_on).expanduser().is_file():
            return given.but(model=self.trained_on)
        architecture, slash, source = self.trained_on.rpartition("/")
        source = RANDOM if source == "random_init" else source
        return given.but(source=source, **({"architecture": architecture} if slash else {}))
