"""Optimizers and learning-rate schedules, one row each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from .recipe import Recipe


def clip_each(parameters: Sequence[torch.Tensor], norm: float) -> None:
    """Scale every tensor's gradient to at most this L2 norm, each on its own (Keras's clipnorm)."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients or not norm:
        return
    scales = [torch.clamp(norm / (n + 1e-12), max=1.0) for n in torch._foreach_norm(gradients)]
    torch._foreach_mul_(gradients, scales)


class Sgdw(torch.optim.SGD):
    """SGD with momentum and decoupled decay: w ← w·(1 − decay) before each step.

    The decay is not multiplied by the rate.

    Loshchilov & Hutter 2019 (arXiv:1711.05101), Algorithm 1, with the schedule multiplier left at 1
    for the decay.
    """

    def __init__(self, groups: list[dict[str, object]], *, momentum: float, decay: float):
        super().__init__(groups, lr=0.0, momentum=momentum, foreach=True)
        self.decay = decay

    @torch.no_grad()
    def step(self, closure: object = None) -> Any:
        """Take one step; return the loss of `closure`, if given."""
        moving = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if self.decay and moving:
            torch._foreach_mul_(moving, 1.0 - self.decay)
        return super().step(closure)


def sgd(groups: list[dict[str, object]], recipe: Recipe) -> torch.optim.Optimizer:
    """Build SGDW with the recipe's momentum and weight decay."""
    return Sgdw(groups, momentum=recipe.momentum, decay=recipe.weight_decay)


def adam(groups: list[dict[str, object]], recipe: Recipe) -> torch.optim.Optimizer:
    """Build Adam with Keras's epsilon (1e-7) and no decay."""
    return torch.optim.Adam(groups, lr=0.0, eps=1e-7, foreach=True)


def adamw(groups: list[dict[str, object]], recipe: Recipe) -> torch.optim.Optimizer:
    """Build AdamW: decay multiplied by the learning rate, as in PyTorch."""
    return torch.optim.AdamW(groups, lr=0.0, weight_decay=recipe.weight_decay, foreach=True)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": sgd,
    "adam": adam,
    "adamw": adamw,
}


def constant(progress: float) -> float:
    """Return 1: the same rate throughout."""
    return 1.0


def cosine(progress: float) -> float:
    """Return half a cosine from 1 to 0 over the whole training (progress 0…1)."""
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


SCHEDULES: dict[str, Callable[[float], float]] = {"constant": constant, "cosine": cosine}


def rate_factor(schedule: str, step: int, warmup: int, total: int, decay: float = 0.0) -> float:
    """Return the factor of the learning rate at this step.

    Linear from 1/warmup to 1, then the schedule; with a decay also 1 / (1 + decay · steps done), as
    Keras up to 2.2 has it.
    """
    slowed = 1.0 / (1.0 + decay * step)
    if step < warmup:
        return (step + 1) / warmup * slowed
    return SCHEDULES[schedule]((step - warmup) / max(1, total - warmup)) * slowed
