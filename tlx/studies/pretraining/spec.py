"""Output of tlx pretrain; the settings of the training are in pretraining_spec.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...spec import Spec, setting


@dataclass(frozen=True, kw_only=True)
class PreTrainingOutput(Spec):
    """Output file of the weights of a pretraining."""

    kind: ClassVar[str] = "pretraining-output"

    out: str = setting(
        "",
        identity=False,
        writes="file",
        help="file for the weights (.safetensors, .pth, .pt), with a record of how they were made "
        "next to it. Default: left in the run's folder",
    )
    random_out: str = setting(
        "",
        short="r",
        identity=False,
        writes="file",
        help="file for the random weights that the training begins from (.safetensors, .pth, .pt)",
    )
    note: str = setting(
        "",
        identity=False,
        only_with={"out": ()},
        help="a sentence for that record, e.g. which images these were",
    )
