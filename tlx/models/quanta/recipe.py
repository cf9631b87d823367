"""Recipe of a QUANTA training: a declaration only, read without loading torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...spec import Spec, setting, setting_of
from ..recipe import AUGMENTS, Recipe

INITS = {"softmax": (1.1, -1.1), "sigmoid": (0.01, -0.01)}


@dataclass(frozen=True, kw_only=True)
class QuantaRecipe(Spec):
    """Training settings of a target with gates.

    The defaults are those of QUANTA, 2020, without its augmentation.
    """

    kind: ClassVar[str] = "quanta-recipe"

    quanta_form: str = setting(
        "softmax",
        choices=tuple(INITS),
        help="softmax: λ of source and target are the softmax of "
        "v; sigmoid, the older one: the source's is σ(v of source), the target's the rest",
    )
    quanta_init: tuple[float, ...] = setting(
        (),
        help="v of source and target at the start. Default: 1.1,-1.1 (λ of "
        "source 0.900); sigmoid: 0.01,-0.01 (0.5025)",
    )
    multiplier: float = setting(
        1.0,
        low=0.0,
        help="factor on the gradient of v. Adam divides each gradient by its usual "
        "size, which undoes a factor that is not 0: see --gate-rate",
    )
    gate_rate: float | None = setting(
        None,
        low=0.0,
        high=1e3,
        help="learning rate of v. Default: as everything else "
        "(then v moves by about 2e-4 a step at most)",
    )
    epochs: int = setting_of(Recipe, "epochs", 60, help="epochs to train")
    batch_size: int = setting_of(Recipe, "batch_size", 32, help="images a step")
    learning_rate: float = setting_of(Recipe, "learning_rate", 2e-4, help="Adam's learning rate")
    rate_decay: float = setting_of(
        Recipe, "rate_decay", 1e-6, help="d in rate / (1 + d · steps done)"
    )
    weight_decay: float = setting_of(
        Recipe,
        "weight_decay",
        0.0,
        help="decoupled weight decay, multiplied by the rate (1e-6 in "
        "later versions of the original)",
    )
    augment: str = setting(
        "none",
        choices=AUGMENTS,
        help="training images turned, moved, sheared, zoomed and flipped at random, the same for "
        "both branches: as the original did in 2020, or in 2025; crop-flip: a random part at its "
        "size, and mirrored",
    )
    source_dropout: bool = setting(
        False,
        help="leave the source's dropout on while the target trains, as the original "
        "did without meaning to",
    )

    @property
    def start(self) -> tuple[float, ...]:
        """Return v of source and target at the start."""
        return self.quanta_init or INITS[self.quanta_form]
