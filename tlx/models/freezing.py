"""Copying and freezing of blocks: what comes from the source, what learns, how batch norm acts.

Frozen means that nothing of it changes: its parameters take no gradient and its batch norm keeps
the source's statistics (`bn="frozen"`). Two other ways are offered for comparison: "adapt" lets the
statistics, and nothing else, follow the target; "keras2" is what Keras up to 2.2 did, batch
statistics in training and the source's at test time, which by itself made a published curve look
like negative transfer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import UnknownNameError, UsageError, counted, raise_all
from .recipe import BN_MODES

if TYPE_CHECKING:
    from .network import Network

__all__ = [
    "BN_MODES",
    "Freeze",
    "copy_blocks",
    "freeze",
    "parameter_groups",
    "published_configuration",
]


def copy_blocks(network: Network, source: Network, first: int, last: int) -> None:
    """Copy blocks first…last of `source` into `network`.

    Raises UsageError unless both are of the same architecture.

    What AnB needs: a pre-trained network whose blocks n+1…N come from one with random weights.
    """
    _check_count(network, last)
    targets, theirs = network.blocks[first - 1 : last], source.blocks[first - 1 : last]
    if targets != theirs:
        raise UsageError(
            "transfer", f"{source.row.title} has other blocks than {network.row.title}"
        )
    with torch.no_grad():
        for block in targets:
            given = source.tensors(block)
            for name, tensor in network.tensors(block).items():
                tensor.copy_(given[name])


@dataclass(frozen=True)
class Freeze:
    """Frozen modules of a network, and the mode of their batch norm."""

    modules: tuple[nn.Module, ...]
    bn: str

    def settle(self) -> None:
        """Restore the frozen modules' modes after the network was put in training mode.

        Their dropout is off, and their batch norm as `bn` says.
        """
        for module in self.modules:
            module.eval()
        if self.bn != "frozen":
            for norm in _norms(self.modules):
                norm.train()


def freeze(network: Network, frozen: int | Sequence[str], bn: str = "frozen") -> Network:
    """Freeze blocks 1…frozen, or the modules named; everything else learns.

    `network.train()` keeps to it.

    frozen  a number of blocks, or names of modules or parameters in `network.net` (a name means
    that module, not
            the whole block that it begins)
    bn      "frozen", "adapt" or "keras2", of the batch norms inside what is frozen
    A second call replaces the first. Raises UnknownNameError or UsageError.
    """
    if bn not in BN_MODES:
        raise UnknownNameError("bn", bn, BN_MODES)
    modules, bare = _count(network, frozen) if isinstance(frozen, int) else _named(network, frozen)
    held = {id(p) for m in modules for p in m.parameters()} | {id(p) for p in bare}
    for parameter in network.parameters():
        parameter.requires_grad_(id(parameter) not in held and parameter.is_floating_point())
    for norm in _norms(network.net.modules()):
        if norm.running_mean is not None:
            norm.track_running_stats = True
    if bn == "keras2":
        for norm in _norms(modules):
            norm.track_running_stats = (
                False  # in training: batch statistics, the stored ones untouched; else stored
            )
    network.hold = Freeze(modules, bn)
    return network


def published_configuration(name: str, configuration: int) -> tuple[str, ...]:
    """Return the convolutions that a published configuration 0–3 freezes.

    Of VGG16, ResNet50 or ResNet152, as names in torchvision's module. They alone are frozen; batch
    norm learns and stays in training mode.
    """
    key = name.strip().lower()
    if key not in SEED_COUNTS:
        raise UsageError(
            "configuration",
            f"'{name}' has no configurations",
            where="configuration",
            expected="VGG16, ResNet50 or ResNet152",
            remedy="say how many blocks to hold: --freeze",
        )
    if configuration not in range(4):
        raise UsageError(
            "out-of-range", f"{configuration}", where="configuration", expected="0, 1, 2 or 3"
        )
    return _keras_order(key)[: SEED_COUNTS[key][configuration]]


def parameter_groups(
    network: Network, lr: float, decay: float = 1.0, *, classifier_rate: float | None = None
) -> list[dict[str, object]]:
    """Return an optimizer's groups of trainable parameters: one for the head and each block.

    The head learns at `lr`, block N at lr · decay, block N − 1 at lr · decay², … Frozen parameters
    are left out.

    classifier_rate  in place of `lr` for the head and blocks directly below it that are one dense
                     layer each; None: as all
    """
    in_blocks = [(block.name, network.tensors(block).values()) for block in network.blocks]
    placed = {id(t) for _, tensors in in_blocks for t in tensors}
    head: list[torch.Tensor] = [p for p in network.parameters() if id(p) not in placed]
    members: list[tuple[str, list[torch.Tensor]]] = [("head", head)]
    members += [(name, list(tensors)) for name, tensors in reversed(in_blocks)]
    dense = 1 + _dense_below_head(network)
    groups: list[dict[str, object]] = []
    for distance, (name, tensors) in enumerate(members):
        trainable = [tensor for tensor in tensors if tensor.requires_grad]
        rate = lr if classifier_rate is None or distance >= dense else classifier_rate
        if trainable:
            groups.append({"name": name, "params": trainable, "lr": rate * decay**distance})
    return groups


def _dense_below_head(network: Network) -> int:
    """Count the blocks directly below the head that are one dense layer each."""
    count = 0
    for block in reversed(network.blocks):
        inside = [m for name in block.modules for m in network.net.get_submodule(name).modules()]
        weighted = [module for module in inside if list(module.parameters(recurse=False))]
        if [type(module) for module in weighted] != [nn.Linear]:
            break
        count += 1
    return count


# ---------------------------------------------------------------- what is frozen

Held = tuple[tuple[nn.Module, ...], tuple[torch.Tensor, ...]]


def _count(network: Network, n: int) -> Held:
    _check_count(network, n)
    blocks = network.blocks[:n]
    modules = tuple(network.net.get_submodule(name) for block in blocks for name in block.modules)
    parameters = dict(network.net.named_parameters())
    return modules, tuple(
        parameters[name] for block in blocks for name in block.parameters if name in parameters
    )


def _check_count(network: Network, n: int) -> None:
    if not 0 <= n <= len(network.blocks):
        raise UsageError(
            "out-of-range",
            f"{counted(n, 'block')}",
            where="freeze",
            expected=f"0 to {len(network.blocks)}, the blocks of {network.row.title}",
        )


def _named(network: Network, names: Sequence[str]) -> Held:
    if isinstance(names, str):
        names = (names,)
    modules, parameters = dict(network.net.named_modules()), dict(network.net.named_parameters())
    raise_all(
        [
            UnknownNameError("layer", n, [m for m in modules if m])
            for n in names
            if not n or (n not in modules and n not in parameters)
        ]
    )
    return (
        tuple(modules[n] for n in names if n in modules),
        tuple(parameters[n] for n in names if n in parameters),
    )


def _norms(modules: Iterable[nn.Module]) -> list[_BatchNorm]:
    return [m for top in modules for m in top.modules() if isinstance(m, _BatchNorm)]


# ---------------------------------------------------------------- the seed's configurations

SEED_COUNTS = {  # convolutions held by configuration 0, 1, 2, 3
    "vgg16": (0, 4, 8, 12),
    "resnet50": (0, 13, 28, 40),
    "resnet152": (0, 38, 76, 114),
}
VGG16_CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
RESNET_DEPTHS = {"resnet50": (3, 4, 6, 3), "resnet152": (3, 8, 36, 3)}


def _keras_order(key: str) -> tuple[str, ...]:
    """Return the convolutions that configurations count, in Keras' order of layers.

    In a block of ResNet50 with a projection the shortcut's convolution comes before the third one,
    neither first nor last. The original's list for ResNet152 has the main path alone: no shortcut's
    convolution is ever frozen.
    """
    if key == "vgg16":
        return tuple(f"features.{i}" for i in VGG16_CONVOLUTIONS)
    names = ["conv1"]
    for stage, depth in enumerate(RESNET_DEPTHS[key], 1):
        for block in range(depth):
            last = ("downsample.0", "conv3") if block == 0 and key == "resnet50" else ("conv3",)
            names += [f"layer{stage}.{block}.{part}" for part in ("conv1", "conv2", *last)]
    return tuple(names)
