"""What learns in a fine-tuning, beside the head: one row for each choice of --tune.

Only parameters are chosen here. Batch norm and dropout act as they do where everything learns: in
blocks that are not frozen batch norm uses the statistics of the batch, and its running statistics
follow. Blocks that are frozen stay as they are, whatever is chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from ..errors import UsageError
from . import lora
from .network import Network
from .tune_choices import NOTHING_TO_TUNE, Tune, format_tune

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def _nothing_to_check(network: Network, tune: Tune) -> None:
    return


def _attach_nothing(network: Network, tune: Tune, seed: int) -> None:
    return


def _merge_nothing(network: Network, *, keep: bool) -> bool:
    return False


@dataclass(frozen=True)
class TunedPart:
    """What a choice trains.

    names   network, its choice → names in `net` of the parameters of blocks that learn; None: all
    check   raises where it cannot be done here
    attach  network as it is frozen, choice, seed: adds what learns in place of the weights
    merge   network, whether to keep what was learnt: gives it its own layers again, and returns
            whether it had others
    package that it needs, for workers to import once; "": none
    """

    names: Callable[[Network, Tune], set[str] | None]
    check: Callable[[Network, Tune], None] = _nothing_to_check
    attach: Callable[[Network, Tune, int], None] = _attach_nothing
    merge: Callable[..., bool] = _merge_nothing
    package: str = ""


def everything(network: Network, tune: Tune) -> None:
    """Choose every parameter."""
    return


def of_norms(network: Network, tune: Tune) -> set[str]:
    """Return the parameters of normalisation layers: scales and shifts."""
    return {
        f"{name}.{parameter}"
        for name, module in network.net.named_modules()
        if _is_norm(module)
        for parameter, _ in module.named_parameters(recurse=False)
    }


def biases(network: Network, tune: Tune) -> set[str]:
    """Return the biases of all layers: vectors that are added, also in normalisation layers."""
    return {
        name
        for name, parameter in network.net.named_parameters()
        if name.endswith("bias") and parameter.ndim == 1
    }


TUNED_PARTS: dict[str, TunedPart] = {
    "all": TunedPart(everything),
    "norm": TunedPart(of_norms),
    "bias": TunedPart(biases),
    "head-then-all": TunedPart(everything),
    "lora": TunedPart(lora.names, lora.check, lora.attach, lora.merge, lora.PACKAGE),
}


def part_of(tune: Tune) -> TunedPart:
    """Return the row of a choice."""
    return TUNED_PARTS[format_tune(tune).partition(":")[0]]


def restrict(network: Network, tune: Tune) -> None:
    """Let only the head and what `tune` names learn, of what is not frozen.

    Call after `freezing.freeze`. Raises UsageError if no block has anything to choose.
    """
    names = part_of(tune).names(network, tune)
    if names is None:
        return
    in_blocks = {name for block in network.blocks for name in network.tensors(block)}
    if not names & in_blocks:
        raise _nothing(network, tune)
    for name, parameter in network.net.named_parameters():
        if name in in_blocks and name not in names:
            parameter.requires_grad_(False)


def attach(network: Network, tune: Tune, seed: int) -> None:
    """Add to a frozen and restricted network what learns in place of its weights, if anything.

    Call `restrict` again afterwards, and `merge` after training. Raises ResourceError where a
    package is missing.
    """
    part = part_of(tune)
    part.check(network, tune)
    part.attach(network, tune, seed)


def merge(network: Network, tune: Tune, *, keep: bool = True) -> bool:
    """Give the network its own layers, with what was learnt; return whether it had others."""
    return part_of(tune).merge(network, keep=keep)


def _is_norm(module: nn.Module) -> bool:
    """Return whether a module normalises: one of PyTorch's, or one that is named so.

    A wrapper of other layers is none, whatever its name (timm's NormFreeBlock).
    """
    if isinstance(module, NORMS):
        return True
    holds_others = any(list(child.parameters()) for child in module.children())
    return "norm" in type(module).__name__.lower() and not holds_others


def _nothing(network: Network, tune: Tune) -> UsageError:
    inside = {
        type(network.net.get_submodule(name.rpartition(".")[0])).__name__
        for block in network.blocks
        for name in network.tensors(block)
    }
    return UsageError(
        NOTHING_TO_TUNE,
        f"{network.row.title} has no {tune.part} before its head: its parameters there are of "
        f"{', '.join(sorted(inside))}",
        where=f"--tune {format_tune(tune)}",
        expected=f"a network with at least one {tune.part}",
        remedy="choose another network, or --tune all",
    )
