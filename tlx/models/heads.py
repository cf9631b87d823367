"""Heads on a backbone: the layers that give one logit a class, freshly initialised.

Fresh heads start as Keras' do, as in the study they come from: weights Glorot-uniform, biases zero.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ..errors import UsageError

HIDDEN = 256  # width of the two hidden layers of mlp256


def linear(
    net: nn.Module, names: tuple[str, ...], classes: int, generator: torch.Generator
) -> tuple[str, ...]:
    """Build one dense layer on the features before the old head.

    A 1×1 convolution where the old head was one.
    """
    for name in names:
        old = net.get_submodule(name)
        if isinstance(old, nn.Conv2d):
            new: nn.Module = nn.Conv2d(old.in_channels, classes, 1)
        else:
            new = nn.Linear(_width(old, name), classes)
        _place(net, name, new, generator)
    return names


def mlp256(
    net: nn.Module, names: tuple[str, ...], classes: int, generator: torch.Generator
) -> tuple[str, ...]:
    """Build two hidden layers of 256 and an output layer, without dropout.

    They replace all dense layers at the end.
    """
    name = _dense_tail(net, names)
    old = net.get_submodule(name)
    first = next(m for m in old.modules() if isinstance(m, nn.Linear)) if name not in names else old
    new = nn.Sequential(
        nn.Linear(_width(first, name), HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, classes),
    )
    _place(net, name, new, generator)
    return (name,)


def gap_linear(
    net: nn.Module, names: tuple[str, ...], classes: int, generator: torch.Generator
) -> tuple[str, ...]:
    """Build one dense layer on the mean of each last feature map."""
    name = _dense_tail(net, names)
    if name in names:  # it ends in one layer already, after its own global average
        return linear(net, names, classes, generator)
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    net.set_submodule("avgpool", nn.AdaptiveAvgPool2d(1))
    _place(net, name, nn.Linear(convolutions[-1].out_channels, classes), generator)
    return (name,)


def keep(
    net: nn.Module, names: tuple[str, ...], classes: int, generator: torch.Generator
) -> tuple[str, ...]:
    """Keep the head of the weights; it must have that number of classes."""
    for name in names:
        layer = net.get_submodule(name)
        width = getattr(layer, "out_features", None) or getattr(layer, "out_channels", None)
        if width != classes:
            raise UsageError(
                "head-classes",
                f"the head has {width} outputs",
                where="head",
                expected=f"{classes}",
                remedy="take a fresh head: linear",
            )
    return names


Head = Callable[[nn.Module, tuple[str, ...], int, torch.Generator], tuple[str, ...]]
HEADS: dict[str, Head] = {
    "linear": linear,
    "mlp256": mlp256,
    "gap-linear": gap_linear,
    "keep": keep,
}


def replaced(net: nn.Module, names: tuple[str, ...], head: str) -> tuple[str, ...]:
    """Return the modules that a head of this kind replaces."""
    return (_dense_tail(net, names),) if head in ("mlp256", "gap-linear") else names


def _dense_tail(net: nn.Module, names: tuple[str, ...]) -> str:
    """Return the module with all dense layers at the end, or the last one.

    VGG's and AlexNet's `classifier`, else the one layer.
    """
    tail = getattr(net, "classifier", None)
    several = (
        isinstance(tail, nn.Sequential)
        and sum(isinstance(m, nn.Linear) for m in tail.modules()) > 1
    )
    if len(names) != 1:
        raise UsageError(
            "head-several", f"this network has {len(names)} heads", expected="--head linear"
        )
    return "classifier" if several and hasattr(net, "avgpool") else names[0]


def _width(layer: nn.Module, name: str) -> int:
    width = getattr(layer, "in_features", None)
    if not isinstance(width, int):
        raise UsageError(
            "head-kind", f"the head '{name}' is a {type(layer).__name__}", expected="a dense layer"
        )
    return width


def _place(net: nn.Module, name: str, new: nn.Module, generator: torch.Generator) -> None:
    for layer in new.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            if layer.weight.device.type != "meta":
                nn.init.xavier_uniform_(layer.weight, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    net.set_submodule(name, new)
