"""Rules for which tensors are compared: the rows of RULES.

They need names and numbers only and do not load torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from ...models.network import Network

Takes = Callable[
    [str, int, bool], bool
]  # (name, dimensions, in the head?) of a parameter → whether it is compared
HEADS = ("match", "skip")


def weights(name: str, dimensions: int, head: bool = False) -> bool:
    """Return whether it is a kernel: of two or more dimensions and named a weight.

    Neither biases nor normalisations, tokens, positions.
    """
    return dimensions > 1 and name.endswith("weight")


def parameters(name: str, dimensions: int, head: bool = False) -> bool:
    """Return whether it is learned: kernels, biases, normalisations' scales and shifts, tokens.

    No buffers.
    """
    return True


def _convolutions(name: str, dimensions: int, head: bool) -> bool:
    return (head or "conv" in name) and weights(name, dimensions)


def _encoder(name: str, dimensions: int, head: bool) -> bool:
    return name.startswith("blocks.") and weights(name, dimensions)


ORIGINAL: dict[str, Takes] = {  # torchvision's or timm's name → what the method was published with
    # and the head; a shortcut's convolution has no "conv" in its name, so it is out
    "resnet50": _convolutions,
    "resnet34": _convolutions,
    "densenet121": _convolutions,
    "vit_small": _encoder,  # inferred from published profiles
}
# T of the 17 layers of ResNet-50 below its head, ImageNet to CIFAR-10, as published
PUBLISHED_PROFILE = (
    *(3.44, 7.76, 8.59, 7.3, 5.42, 9.2, 6.1, 5.52, 4.23),
    *(7.65, 8.3, 8.32, 8.86, 8.88, 5.96, 13.0, 13.81),
)
PUBLISHED_MEAN = 7.79  # of unrounded T
RULES: dict[str, Takes | None] = {"original": None, "weights": weights, "parameters": parameters}


def rule_of(rule: str, network: Network | None) -> tuple[str, Takes]:
    """Return the row of RULES of this name.

    "auto" is "original" for the networks of ORIGINAL, "weights" for others.
    """
    model = re.split(r"\.|_patch", network.row.model)[0] if network else ""
    if rule == "auto":
        rule = "original" if model in ORIGINAL else "weights"
    if rule not in RULES:
        raise UnknownNameError("rule", rule, ["auto", *RULES])
    if takes := RULES[rule]:
        return rule, takes
    if model not in ORIGINAL:
        raise UsageError(
            "rule",
            f"'{rule}' for {network.row.title if network else 'an unknown network'}",
            where="rule",
            expected=f"one of {', '.join(ORIGINAL)}",
            remedy="take the rule 'weights'",
        )
    return rule, ORIGINAL[model]
