"""Magnitude pruning: which weights are kept, and a training that holds the others at zero.

Only weights are ranked and pruned (parameters named `weight` of two or more dimensions:
convolutions, dense layers); biases, batch norms and the like stay as they are. A pruned weight is
zero at every step: its gradient is zero, so its momentum is, and decay keeps a zero. Han et al.
2015 (arXiv:1506.02626), section 3.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import UnknownNameError

SCOPES = ("global", "layer")


def prunable(net: nn.Module) -> dict[str, nn.Parameter]:
    """Return name → weight, in order."""
    return {
        name: p
        for name, p in net.named_parameters()
        if p.ndim >= 2 and name.rpartition(".")[2].endswith("weight")
    }


def magnitude(
    weights: Mapping[str, Tensor], keep: float, scope: str = "global"
) -> dict[str, Tensor]:
    """Return which weights are kept, name → bool: the share `keep` with largest magnitude.

    Zeros are never kept.

    scope  "global": one threshold over all weights; "layer": one for each, so that every layer
    keeps that share and
           at least one weight. Of equal magnitudes the earlier one stays, so counts are exact.
    """
    if scope not in SCOPES:
        raise UnknownNameError("scope", scope, SCOPES)
    if scope == "layer":
        return {name: _largest(w, max(1, round(w.numel() * keep))) for name, w in weights.items()}
    flat = torch.cat([w.detach().reshape(-1) for w in weights.values()])
    parts = _largest(flat, round(flat.numel() * keep)).split([w.numel() for w in weights.values()])
    return {
        name: part.view(w.shape) for (name, w), part in zip(weights.items(), parts, strict=True)
    }


def _largest(weights: Tensor, count: int) -> Tensor:
    size = weights.detach().abs().reshape(-1)
    order = torch.sort(size, descending=True, stable=True).indices
    stays = torch.zeros_like(size, dtype=torch.bool)
    stays[order[:count]] = True
    return (stays & (size != 0)).view(weights.shape)


def enforce(net: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set the other weights to zero, now and through every training of `net`."""
    parameters = dict(net.named_parameters())
    for name, mask in masks.items():
        weight = parameters[name]
        with torch.no_grad():
            weight.masked_fill_(~mask, 0.0)
        weight.requires_grad_(True).register_hook(GradientMask(mask))


class GradientMask:
    """Hook of a parameter that lets only the gradient of the weights pass that are kept."""

    def __init__(self, mask: Tensor):
        self.mask = mask

    def __call__(self, gradient: Tensor) -> Tensor:
        """Return the gradient, zero where the weight is pruned."""
        return gradient * self.mask.to(gradient.device)


def enforced(net: nn.Module) -> dict[str, Tensor]:
    """Return the masks that `enforce` was given, name → bool."""
    return {
        name: hook.mask
        for name, parameter in net.named_parameters()
        for hook in (getattr(parameter, "_backward_hooks", None) or {}).values()
        if isinstance(hook, GradientMask)
    }
