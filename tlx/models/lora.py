"""Low-rank adapters (LoRA, Hu et al. 2022) by the peft library: attached, trained, merged.

A dense layer or 1 × 1 convolution W learns a product of two small matrices, W + (alpha / r) · B·A,
with A (r, inputs) drawn at random and B (outputs, r) zero, so that training begins at the source.
After training the product is added to W, and the network has its own layers again.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import torch
from torch import nn

from ..errors import ResourceError
from ..spec import derive_seed
from .network import Network
from .tune_choices import Tune, TuneLora

PACKAGE = "peft"
PART = ".lora_"  # in the name of every parameter of an adapter


def check(network: Network, tune: Tune) -> None:
    """Raise ResourceError where peft is not installed."""
    try:
        import peft  # noqa: F401 — whether it is there
    except ImportError as error:
        raise ResourceError(
            "package-missing", "peft is not installed", remedy="pip install 'tlx[lora]'"
        ) from error


def names(network: Network, tune: Tune) -> set[str]:
    """Return the parameters of the adapters; before they are attached, the weights they act on."""
    attached = {name for name, _ in network.net.named_parameters() if PART in name}
    return attached or {f"{name}.weight" for name in targets(network)}


def targets(network: Network) -> list[str]:
    """Return the names of dense layers and 1 × 1 convolutions of blocks that can have an adapter.

    Only layers that run as modules: whose weight alone is read (nn.MultiheadAttention's own) would
    pass by an adapter. None whose weight another layer shares or that computes it anew (weight
    standardisation): there the product cannot be merged.
    """
    modules = dict(network.net.named_modules())
    owners = Counter(id(p) for _, p in network.net.named_parameters(remove_duplicate=False))
    in_blocks = {name for block in network.blocks for name in network.tensors(block)}
    return [
        name
        for name in network.order
        if f"{name}.weight" in in_blocks
        and _can_merge(modules[name])
        and owners[id(modules[name].weight)] == 1
    ]


def _can_merge(module: nn.Module) -> bool:
    if type(module) is nn.Linear:
        return True
    return type(module) is nn.Conv2d and module.kernel_size == (1, 1) and module.groups == 1


def attach(network: Network, tune: Tune, seed: int) -> None:
    """Attach an adapter to every target whose weight is not frozen now."""
    from peft import LoraConfig, inject_adapter_in_model

    assert isinstance(tune, TuneLora)
    learning = [
        name for name in targets(network) if network.net.get_submodule(name).weight.requires_grad
    ]
    if not learning:
        return
    config = LoraConfig(
        r=tune.r,
        lora_alpha=tune.r if tune.alpha is None else tune.alpha,
        target_modules=f"(?:{'|'.join(map(re.escape, learning))})",  # the whole of a name
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "lora"))
        inject_adapter_in_model(config, network.net)
    for name in learning:
        _show_settings(network.net.get_submodule(name))
    network.train(network.training)


def _show_settings(adapter: nn.Module) -> None:
    """Let a network read settings of its layer (`conv.stride`) also where an adapter wraps it."""
    for name, value in vars(adapter.get_submodule("base_layer")).items():
        if not name.startswith("_") and not hasattr(adapter, name):
            adapter.__dict__[name] = value


def merge(network: Network, *, keep: bool) -> bool:
    """Give the network its own layers again; return whether there was any adapter.

    keep  add what the adapters learnt to the weights, else leave it out
    """
    from peft.tuners.lora import LoraLayer

    adapters: dict[str, Any] = {
        name: module
        for name, module in network.net.named_modules()
        if isinstance(module, LoraLayer)
    }
    for name, module in adapters.items():
        if keep:
            module.merge(safe_merge=True)
        network.net.set_submodule(name, module.get_base_layer())
    return bool(adapters)
