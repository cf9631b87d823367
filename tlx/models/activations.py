"""Activations of named layers of a network, several in one pass.

See layers.py for the names of layers. The activations are copies, made in the hook, so that an
in-place layer after it changes nothing. The pass ends with the last requested layer.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnknownNameError
from .layers import Layer, evaluating, is_input, resolve, survey, tensor_of
from .network import Network

__all__ = ["DTYPES", "REDUCTIONS", "Capture", "capture", "resolve"]

DTYPES = {"float32": torch.float32, "float16": torch.float16}


# ---------------------------------------------------------------- reductions


def pooled(x: Tensor, layer: Layer) -> Tensor:
    """Return (n, d), the mean over the image, in float32.

    (n, d, h, w): over h and w. (n, h, w, d), where the network keeps channels last as Swin does:
    the same. (n, tokens, d): over the tokens of the image; class, distillation and register tokens
    are left out. (n, d): as it is.
    """
    if x.ndim <= 2:
        return x
    if x.ndim == 3:
        return x[:, layer.prefix :].mean(1, dtype=torch.float32)
    axes = [axis for axis in range(1, x.ndim) if axis != layer.channels % x.ndim]
    return x.mean(axes, dtype=torch.float32)


def first_token(x: Tensor, layer: Layer) -> Tensor:
    """Return the first token of (n, tokens, d), the class token if there is one.

    Anything else is reduced as by `pooled`.
    """
    return x[:, 0] if x.ndim == 3 else pooled(x, layer)


def flat(x: Tensor, layer: Layer) -> Tensor:
    """Return (n, d), every number, in the order of the axes."""
    return x.flatten(1)


def raw(x: Tensor, layer: Layer) -> Tensor:
    """Return the activations unchanged."""
    return x


REDUCTIONS: dict[str, Callable[[Tensor, Layer], Tensor]] = {
    "pooled": pooled,
    "first-token": first_token,
    "flat": flat,
    "raw": raw,
}


# ---------------------------------------------------------------- capture


class _Enough(Exception):  # noqa: N818 — a signal: the pass ends early
    """Signal that the last wanted layer has run."""


class Capture:
    """Network with hooks on some layers: called with a batch, it returns their activations.

    layers   of `resolve`, or in any form that it takes
    reduce   a row of REDUCTIONS
    dtype    "float32" or "float16"
    """

    def __init__(
        self,
        network: Network,
        layers: Sequence[str | int],
        *,
        reduce: str = "raw",
        dtype: str = "float32",
    ):
        if reduce not in REDUCTIONS:
            raise UnknownNameError("reduction", reduce, REDUCTIONS)
        if dtype not in DTYPES:
            raise UnknownNameError("dtype", dtype, DTYPES)
        self.network, self.reduce, self.dtype = network, REDUCTIONS[reduce], DTYPES[dtype]
        self.layers = survey(network, resolve(network, layers))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return layer → shape of its activation for one image of the network's own size."""
        return {
            layer.name: tuple(
                self.reduce(torch.empty(1, *layer.shape, device="meta"), layer).shape[1:]
            )
            for layer in self.layers
        }

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        """Return layer → (n, …) for x (n, channels, h, w), contiguous, on the device of x.

        Does not wait for a GPU.
        """
        activations: dict[str, Tensor] = {}
        turns = Counter[str]()
        wanted: dict[tuple[str, int], list[Layer]] = {}
        for layer in self.layers:
            wanted.setdefault((layer.module, layer.call), []).append(layer)

        def hook(module: str) -> Callable[[nn.Module, Any, Any], None]:
            def take(_module: nn.Module, _inputs: object, output: object) -> None:
                turns[module] += 1
                layers = wanted.get((module, turns[module]), ())
                for layer in layers:
                    activations[layer.name] = self._copy(output, layer)
                if layers and len(activations) == len(self.layers):
                    raise _Enough

            return take

        net = self.network.net
        with contextlib.ExitStack() as stack:
            stack.enter_context(evaluating(net))
            stack.enter_context(torch.inference_mode())
            for layer in self.layers:
                if is_input(self.network, layer.module):
                    activations[layer.name] = self._copy(x, layer)
            for module in {layer.module for layer in self.layers if layer.name not in activations}:
                stack.callback(
                    net.get_submodule(module)
                    .register_forward_hook(hook(module), prepend=True)
                    .remove
                )
            if len(activations) < len(self.layers):
                with contextlib.suppress(_Enough):
                    net(x)
        return {layer.name: activations[layer.name] for layer in self.layers}

    def _copy(self, output: object, layer: Layer) -> Tensor:
        tensor = tensor_of(output)
        assert tensor is not None
        reduced = self.reduce(layer.applied(tensor), layer)
        own = reduced.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr()
        return reduced.to(self.dtype, copy=not own, memory_format=torch.contiguous_format)


def capture(
    network: Network,
    x: Tensor,
    layers: Sequence[str | int],
    *,
    reduce: str = "raw",
    dtype: str = "float32",
) -> dict[str, Tensor]:
    """Return name → activation of `layers` for a batch x (n, channels, h, w).

    One pass, in evaluation mode.

    The names are those of `resolve`. See Capture, which does without the second survey for a second
    batch.
    """
    return Capture(network, layers, reduce=reduce, dtype=dtype)(x)
