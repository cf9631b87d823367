"""What an extraction of activations is asked for: a declaration only, read without loading torch."""

from __future__ import annotations

from dataclasses import dataclass

from ..spec import knob
from .fewshot import FewShotTrial


@dataclass(frozen=True, kw_only=True)
class Extraction(FewShotTrial):
    """Activations of some layers on all images of a data set."""

    split_path: str | None = knob(None, derived=True, place=True)
    model_selection: bool = knob(False, derived=True)
    vote: str = knob("majority", derived=True)
    use_crops: bool = knob(False, help="ten crops an image")
    layers: tuple[str, ...] = knob((), help="layers by name or block number, comma-separated, or a set: blocks (all of "
                                   "them), last, model_25, model_50, model_75, model_100. Default: blocks")
    model_description: str | None = knob(None, place=True, help="JSON of the original study that names the layers")
    reduce: str = knob("pooled", choices=("pooled", "flat", "first-token", "raw"), help="what is kept of a layer: its "
                       "spatial mean, everything as one row, a transformer's class token, or as it is")
    fold: bool = knob(True, help="fold batch norm into the convolutions: faster, other last bits")
    precision: str = knob("float32", choices=("float32", "bfloat16"), help="arithmetic of the forward pass")
    dtype: str = knob("float32", choices=("float32", "float16"), help="numbers kept")
