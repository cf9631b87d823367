"""Which few-shot trials make a study: a declaration only, read without loading torch."""

from __future__ import annotations

from dataclasses import dataclass

from ..spec import Spec, knob


@dataclass(frozen=True, kw_only=True)
class FewShot(Spec):
    """Which few-shot trials make a study."""

    shots: tuple[int, ...] = knob((), low=1, help="training images per class. Default: those of the splits")
    splits: int = knob(5, low=1, high=10_000, help="independent draws of each shots; fewer where there are fewer")
    val_per_class: int = knob(10, low=1, help="validation images per class, where splits are drawn")
    test_per_class: int | None = knob(None, low=1, help="test images per class, where splits are drawn. Default: the "
                                      "whole test folder, 50 where there is none")
    split_seed: int = knob(0, low=0, high=2**63 - 1, help="seed of the splits that are drawn")
    job: int = knob(0, low=0, place=True, help="a number of your own, shown with the runs")
