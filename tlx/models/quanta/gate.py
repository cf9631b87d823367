"""QUANTA gate: two numbers that mix a frozen source and a trained target at one place.

What the target's layer gives is replaced by λ_S · Z_S + λ_T · Z_T, of source and target on the same
images, before the activation. λ_S + λ_T = 1; how large λ_S becomes in training is taken as how much
of the source's layer transfers.

`places` finds where a gate can be in any network: at a block that is one convolution or dense
layer (with its normalisation, activation and pool) it is that layer's output, before all of these;
at a block of several such layers (a residual block, an Inception module, an encoder layer) the
output of the whole block, since a shortcut would lead past a gate inside. Position p, counted from
0 as in the original, is block p + 1.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import TlxError, UnknownNameError, UsageError
from .. import layers
from ..blocks import DROPOUTS
from ..network import Network


class _Multiplied(torch.autograd.Function):
    """Identity whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return v.view_as(v)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def _softmax(v: Tensor) -> Tensor:
    return torch.softmax(v, -1)


def _sigmoid(v: Tensor) -> Tensor:
    source = torch.sigmoid(v[:1])
    return torch.cat((source, 1 - source))


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": _softmax,
    "sigmoid": _sigmoid,
}  # v (2,) → λ (2,)


class QuantaGate(nn.Module):
    """Gate A = f(λ_S · Z_S + λ_T · Z_T), called with two tensors of one shape.

    Called with (z_source, z_target).

    form        "softmax": λ = softmax(v); "sigmoid", the older one: λ_S = σ(v_S), λ_T = 1 − λ_S
    init        v of source and target at the start; 1.1 and −1.1 make λ_S = 0.900
    multiplier  factor on the gradient of v
    activation  f; None: the caller applies it
    v           (1, 2) — the parameter: source, target

    >>> gate = QuantaGate()
    >>> round(gate.source, 5), round(gate.target, 5)
    (0.90025, 0.09975)
    """

    def __init__(
        self,
        form: str = "softmax",
        init: Sequence[float] = (1.1, -1.1),
        *,
        multiplier: float = 1.0,
        activation: Callable[[Tensor], Tensor] | None = None,
    ):
        super().__init__()
        if form not in FORMS:
            raise UnknownNameError("form", form, FORMS)
        if len(init) != 2:
            raise UsageError(
                "quanta-init",
                f"{len(init)} numbers",
                where="quanta-init",
                expected="v of source and target",
            )
        self.form, self.multiplier, self.activation = form, multiplier, activation
        self.v = nn.Parameter(
            torch.tensor([list(map(float, init))], dtype=torch.get_default_dtype())
        )

    @property
    def lambdas(self) -> Tensor:
        """Return λ of source and target (2,), which add up to 1.

        Gradients flow through to v.
        """
        v = self.v if self.multiplier == 1.0 else _Multiplied.apply(self.v, self.multiplier)
        return FORMS[self.form](v[0])

    @property
    def numbers(self) -> tuple[float, float]:
        """Return λ of source and target in double precision, from the current v."""
        source, target = FORMS[self.form](self.v.detach()[0].double()).tolist()
        return source, target

    @property
    def source(self) -> float:
        """Return λ of the source."""
        return self.numbers[0]

    @property
    def target(self) -> float:
        """Return λ of the target."""
        return self.numbers[1]

    def forward(self, z_source: Tensor, z_target: Tensor) -> Tensor:
        """Mix the activations of source and target."""
        if z_source.shape != z_target.shape:
            raise UsageError(
                "gate-shapes",
                f"the source gives {tuple(z_source.shape)}, the target {tuple(z_target.shape)}",
                expected="one shape",
            )
        source, target = self.lambdas
        mixed = source * z_source + target * z_target
        return mixed if self.activation is None else self.activation(mixed)

    def extra_repr(self) -> str:
        """Return the settings for the module's representation."""
        return f"form={self.form}, λ_S={self.source:.4f}"


# ---------------------------------------------------------------- places of gates


@dataclass(frozen=True)
class GatePlace:
    """Output that a gate can replace: of which module, and its shape for one image."""

    block: int
    module: str
    shape: tuple[int, ...]


def places(network: Network) -> tuple[GatePlace | None, ...]:
    """Return for each block the output that a gate replaces.

    None where the block gives no tensor, or gives it twice.
    """
    modules = [_gated(network, block.modules) for block in network.blocks]
    try:
        rows: list[layers.Layer | None] = list(layers.survey(network, modules))
    except TlxError:  # of some
        rows = [_surveyed(network, module) for module in modules]
    return tuple(
        GatePlace(number, row.name, row.shape) if row is not None and row.call == 1 else None
        for number, row in enumerate(rows, 1)
    )


def _surveyed(network: Network, module: str) -> layers.Layer | None:
    try:
        return layers.survey(network, [module])[0]
    except TlxError:
        return None


def _gated(network: Network, names: Sequence[str]) -> str:
    """Return the only layer with weights among these modules, or the last such to run."""
    weighted = [
        (
            name,
            [
                f"{name}.{key}".rstrip(".")
                for key, m in network.net.get_submodule(name).named_modules()
                if any(p.ndim >= 2 for p in m.parameters(recurse=False))
            ],
        )
        for name in names
    ]
    weighted = [(name, inside) for name, inside in weighted if inside and name in network.order]
    every = [layer for _, inside in weighted for layer in inside]
    lone = len(every) == 1 and isinstance(network.net.get_submodule(every[0]), LONE)
    if lone:
        return every[0]
    return weighted[-1][0] if weighted else names[-1]


LONE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


# ---------------------------------------------------------------- the two branches


class GateSource:
    """Frozen branch: its layers' activations of a batch, (n, …) tensors without gradient.

    dropout  leaves its dropout on while `training` is set; batch norm keeps its stored statistics
    in any case
    """

    def __init__(self, network: Network, modules: Sequence[str], *, dropout: bool = False):
        self.network, self.modules, self.training = (
            network.eval().requires_grad_(False),
            tuple(modules),
            False,
        )
        self.last = max(self.modules, key=network.order.index)
        self.dropouts = [m for m in network.modules() if isinstance(m, DROPOUTS)] if dropout else []

    def __call__(self, x: Tensor) -> list[Tensor]:
        """Return the activations in the order of `modules`.

        The pass ends with the deepest of them.
        """
        activations: dict[str, Tensor] = {}

        def take(name: str, _module: nn.Module, _inputs: object, output: object) -> None:
            tensor = layers.tensor_of(output)
            assert tensor is not None
            if name == self.last:
                activations[name] = tensor
                raise _AllCaptured
            activations[name] = tensor.clone()  # a layer behind it may work in place

        for module in self.dropouts:
            module.train(self.training)
        with contextlib.ExitStack() as stack:
            for name in self.modules:
                hook = functools.partial(take, name)
                stack.callback(
                    self.network.net.get_submodule(name).register_forward_hook(hook).remove
                )
            stack.enter_context(torch.no_grad())
            stack.enter_context(contextlib.suppress(_AllCaptured))
            self.network(x)
        return [activations[name] for name in self.modules]


class _AllCaptured(Exception):  # noqa: N818 — a signal: the pass ends early
    """Signal that the last wanted layer has run."""


class Gated(nn.Module):
    """Target with gates: called with images and source activations, it gives the target's logits.

    modules  whose outputs are gated, a gate each; none: the target as it is
    rms      while `measuring`: of each gate, the root mean square of Z_S and Z_T over the images
             seen since `measure`
    """

    def __init__(
        self,
        target: Network,
        modules: Sequence[str] = (),
        gate: Callable[[], QuantaGate] = QuantaGate,
    ):
        super().__init__()
        self.target, self.gates = target, nn.ModuleList(gate() for _ in modules)
        self.measuring = False
        self._given: dict[int, Tensor] = {}
        self._sums = [[0.0, 0.0, 0] for _ in modules]
        for number, name in enumerate(modules):
            target.net.get_submodule(name).register_forward_hook(
                functools.partial(self._mix, number)
            )

    def forward(self, x: Tensor, given: Sequence[Tensor] = ()) -> Tensor:
        """Return the logits (n, classes) of x, given the source's activations at the gates."""
        if len(given) != len(self.gates):
            raise UsageError(
                "gates",
                f"{len(given)} outputs of the source",
                expected=f"{len(self.gates)}, one a gate",
            )
        self._given = dict(enumerate(given))
        result: Tensor = self.target(x)
        return result

    def _mix(self, number: int, _module: nn.Module, _inputs: object, z_target: Tensor) -> Tensor:
        z_source = self._given.pop(number)  # a second call in one pass has none
        if self.measuring:
            for i, z in enumerate((z_source, z_target)):
                self._sums[number][i] += (
                    float(torch.linalg.vector_norm(z, dtype=torch.float64)) ** 2
                )
            self._sums[number][2] += z_target.numel()
        result: Tensor = self.gates[number](z_source, z_target)
        return result

    def measure(self) -> None:
        """Start measuring root mean squares anew."""
        self._sums, self.measuring = [[0.0, 0.0, 0] for _ in self.gates], True

    @property
    def rms(self) -> list[tuple[float, float]]:
        """Return root mean squares of Z_S and Z_T, gate by gate."""
        return [((s / n) ** 0.5, (t / n) ** 0.5) if n else (0.0, 0.0) for s, t, n in self._sums]
