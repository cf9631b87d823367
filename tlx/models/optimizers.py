"""Optimizers and learning-rate schedules, one row each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from .recipe import Recipe


Drop = tuple[int, float]  # steps after which the rate falls, and its factor
NO_DROP: Drop = (1, 1.0)


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


def sgd_l2(groups: list[dict[str, object]], recipe: Recipe) -> torch.optim.Optimizer:
    """Build PyTorch's SGD: the decay is added to the gradient, as the derivative of an L2 penalty.

    It passes through the momentum, and is multiplied by the learning rate.
    """
    return torch.optim.SGD(
        groups,
        lr=0.0,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        foreach=True,
    )


def adam(groups: list[dict[str, object]], recipe: Recipe) -> torch.optim.Optimizer:
    """Build Adam with Keras's epsilon (1e-7) and no decay."""
    return torch.optim.Adam(groups, lr=0.0, eps=1e-7, foreach=True)


def adamw(groups: list[dict[str, object]], recipe: Recipe) -> torch.optim.Optimizer:
    """Build AdamW: decay multiplied by the learning rate, as in PyTorch."""
    return torch.optim.AdamW(groups, lr=0.0, weight_decay=recipe.weight_decay, foreach=True)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": sgd,
    "sgd-l2": sgd_l2,
    "adam": adam,
    "adamw": adamw,
}


@dataclass(frozen=True)
class Course:
    """Where a training is in its schedule.

    done, total  steps since the warm-up, and all steps after it
    every, factor  steps after which the rate is multiplied by the factor (schedule "step")
    """

    done: int
    total: int
    every: int = 0
    factor: float = 1.0

    @property
    def progress(self) -> float:
        """Return the share of the steps that are done, 0…1."""
        return self.done / max(1, self.total)


def constant(course: Course) -> float:
    """Return 1: the same rate throughout."""
    return 1.0


def cosine(course: Course) -> float:
    """Return half a cosine from 1 to 0 over the whole training."""
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, course.progress)))


def stepwise(course: Course) -> float:
    """Return the factor once for each completed run of `every` steps (torch's StepLR)."""
    return float(course.factor ** (course.done // max(1, course.every)))


SCHEDULES: dict[str, Callable[[Course], float]] = {
    "constant": constant,
    "cosine": cosine,
    "step": stepwise,
}


def rate_factor(
    schedule: str, step: int, warmup: int, total: int, decay: float = 0.0, *, drop: Drop = NO_DROP
) -> float:
    """Return the factor of the learning rate at this step.

    Linear from 1/warmup to 1, then the schedule; with a decay also 1 / (1 + decay · steps done), as
    Keras up to 2.2 has it.

    drop  (steps, factor) of the schedule "step"
    """
    slowed = 1.0 / (1.0 + decay * step)
    if step < warmup:
        return (step + 1) / warmup * slowed
    return SCHEDULES[schedule](Course(step - warmup, total - warmup, *drop)) * slowed
