"""Copy of a network for inference, batch norm folded into the preceding convolutions.

In evaluation mode batch norm is y = s·x + t with s = γ/√(σ² + ε), t = β − s·μ, which a convolution
just before it can do itself: W ← s·W, b ← s·b + t. In exact arithmetic nothing changes; in float32
outputs differ in the last bits (a few 10⁻⁶ of a layer's largest value), since the products are
rounded elsewhere.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as trees

from .blocks import run_on_shapes
from .layers import evaluating
from .network import Network

NORMS = ("torch.nn.modules.batchnorm.BatchNorm2d", "timm.layers.norm_act.BatchNormAct2d")
CONVOLUTIONS = ("torch.nn.modules.conv.Conv2d", "timm.layers.conv2d_same.Conv2dSame")


def for_inference(network: Network, *, fold: bool = True) -> tuple[Network, frozenset[str]]:
    """Return a copy in evaluation mode, channels last, batch norms folded into convolutions.

    Names stay; what a folded convolution gives is what its batch norm gave. The copy shares what it
    does not change.
    """
    memo: dict[int, Any] = {
        id(p): nn.Parameter(p.detach(), requires_grad=False) for p in network.parameters()
    }
    memo |= {id(b): b.detach() for b in network.buffers()}
    folded = copy.deepcopy(network, memo).eval()
    pairs = foldable(folded) if fold else {}
    for convolution, norm in pairs.items():
        _fold(folded.net, convolution, norm)
    return folded.to(memory_format=torch.channels_last), frozenset(pairs)


def foldable(network: Network) -> dict[str, str]:
    """Return convolution → the batch norm that is the only consumer of its output.

    Nothing is computed.
    """
    net, seen = network.net, _Uses()
    modules = dict(net.named_modules())
    convolutions = [name for name, module in modules.items() if _kind(module) in CONVOLUTIONS]
    norms = [name for name, module in modules.items() if _kind(module) in NORMS and _fixed(module)]
    turns = Counter[str]()
    made_by: dict[int, str] = {}
    pairs: dict[str, tuple[str, Tensor]] = {}

    def ran(name: str, output: object) -> None:
        turns[name] += 1
        made_by[id(output)] = name
        seen.kept.append(output)  # an id is a tensor's own only while that lives

    def entered(name: str, inputs: tuple[Any, ...]) -> None:
        turns[name] += 1
        if (source := made_by.get(id(inputs[0]))) is not None:
            pairs[source] = (name, inputs[0])

    hooks = [
        modules[n].register_forward_hook(lambda _m, _i, out, n=n: ran(n, out)) for n in convolutions
    ]
    hooks += [modules[n].register_forward_pre_hook(lambda _m, i, n=n: entered(n, i)) for n in norms]
    size = network.input_size
    x = torch.zeros(2, network.channels, size, size, device="meta")
    try:
        with evaluating(net), seen:
            run_on_shapes(net, x)
    finally:
        for hook in hooks:
            hook.remove()
    return {
        source: norm
        for source, (norm, tensor) in pairs.items()
        if turns[source] == turns[norm] == 1 and seen.uses[id(tensor)] == 1
    }


class _Uses(TorchFunctionMode):
    """Counter of the operations that use each tensor to compute others."""

    def __init__(self) -> None:
        super().__init__()
        self.uses, self.kept = Counter[int](), list[Any]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in trees.tree_leaves(result)):
            leaves = [
                leaf for leaf in trees.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)
            ]
            self.kept.extend(leaves)
            self.uses.update({id(leaf) for leaf in leaves})
        return result


def _kind(module: nn.Module) -> str:
    return (
        f"{type(module).__module__}.{type(module).__qualname__}"  # a subclass may compute otherwise
    )


def _fixed(norm: Any) -> bool:
    return norm.running_mean is not None and norm.running_var is not None


class _Rest(nn.Module):
    """Remainder of a batch norm with an activation, under the same names."""

    def __init__(self, norm: Any):
        super().__init__()
        self.drop, self.act = norm.drop, norm.act

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.act(self.drop(x))
        return result


def _fold(net: nn.Module, convolution: str, norm: str) -> None:
    conv: Any = net.get_submodule(convolution)
    bn: Any = net.get_submodule(norm)
    var, mean = bn.running_var.double(), bn.running_mean.double()
    scale = torch.rsqrt(var + bn.eps) * (1 if bn.weight is None else bn.weight.double())
    shift = (0 if bn.bias is None else bn.bias.double()) - scale * mean
    if conv.bias is not None:
        shift = shift + scale * conv.bias.double()
    weight = conv.weight.double() * scale.view(-1, 1, 1, 1)
    conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
    conv.bias = nn.Parameter(shift.to(conv.weight.dtype), requires_grad=False)
    net.set_submodule(norm, _Rest(bn) if hasattr(bn, "act") else nn.Identity())
