"""Network split after block m: the part before, and the part after, of the one crossing tensor.

Nothing is copied or rebuilt. Both parts run the network's own forward: the first stops as soon as
block m has answered; in the second the modules of blocks 1…m are passed over and the answer kept
from block m is given in their place. So parameters, their names and the modes set on the network
are the network's own in both parts.

Only one tensor may cross. What else a passed module would have given is a shape without numbers,
and so is all that is computed from it: logits that come out as such a shape say that a later layer
read past the cut.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry

from ..network import Network


class CannotSplit(Exception):  # noqa: N818 — a finding: the whole network runs instead
    """Reason why a network cannot be split there, in words."""


@dataclass(frozen=True)
class SplitPoint:
    """Point after block `depth`.

    last      name in `net` of the module whose output crosses
    passed    name → what each module of blocks 1…depth gives, in shapes of one row (tensors without
              numbers)
    image     shape of a row of the input
    flops     multiplications and additions a row of both parts, forwards (convolutions, products,
              attention)
    """

    depth: int
    last: str
    passed: dict[str, Any]
    image: tuple[int, ...]
    flops: tuple[int, int] = (0, 0)

    def before(self, network: nn.Module, x: Tensor) -> Tensor:
        """Return the output of block `depth` for x (n, channels, h, w): (n, …), without gradient.

        In the memory layout of the network.
        """
        crossing: list[Tensor] = []

        def stop(module: nn.Module, args: object, output: Tensor) -> None:
            crossing.append(output)
            raise _EndReached

        hook = _inside(network, self.last).register_forward_hook(stop, prepend=True)
        try:
            with torch.no_grad(), contextlib.suppress(_EndReached):
                network(x)
        finally:
            hook.remove()
        return crossing[0]

    def after(self, network: nn.Module, z: Tensor) -> Tensor:
        """Return the logits (n, classes) of the output of `before`."""
        with self._passing_over(network, z):
            result: Tensor = network(_Shape.of((len(z), *self.image)))
            return result

    @contextlib.contextmanager
    def _passing_over(self, network: nn.Module, z: Tensor) -> Iterator[None]:
        modules = {name: _inside(network, name) for name in self.passed}
        try:
            for name, module in modules.items():
                module.__dict__["forward"] = (
                    (lambda *_, **__: z) if name == self.last else self._stand_in(name, len(z))
                )
            yield
        finally:
            for module in modules.values():
                module.__dict__.pop("forward", None)

    def _stand_in(self, name: str, n: int) -> Callable[..., Any]:
        return lambda *_, **__: tree_map_only(
            Tensor, lambda row: _Shape.of((n, *row.shape)), self.passed[name]
        )


def find(network: Network, depth: int, x: Tensor) -> SplitPoint:
    """Find the split after block `depth`, tested on the rows x.

    Both parts together give the bits of the whole. Raises CannotSplit. The network is left in
    evaluation mode.
    """
    network.eval()
    with torch.no_grad():
        cut = _drawn(network, depth, x[:2])
        whole = network(x)
        z = cut.before(network, x)
        if len(z) != len(x):
            raise CannotSplit(f"the output of block {depth} is not stored row by row")
        try:
            parts = cut.after(network, z.clone())
        except (
            Exception
        ) as error:  # whatever a network raises that is given shapes instead of numbers
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise CannotSplit(
                f"what follows block {depth} does not run by itself ({reason})"
            ) from error
    if not isinstance(parts, Tensor) or isinstance(parts, _Shape):
        raise CannotSplit(f"more than the output of block {depth} is read after it")
    if not same_bits(whole, parts):
        raise CannotSplit(f"the two parts at block {depth} do not give the bits of the whole")
    return cut


def last(network: Network, most: int, x: Tensor) -> SplitPoint:
    """Find the deepest split after block `most` or before it.

    Raises the CannotSplit of `most` if there is none.
    """
    try:
        return find(network, most, x)
    except CannotSplit as refusal:
        for depth in range(most - 1, 0, -1):
            with contextlib.suppress(CannotSplit):
                find(network, depth, x[:2])  # cheaply first
                return find(network, depth, x)
        raise refusal


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors agree in every bit: NaN equals itself, 0 is not −0."""
    return (
        a.shape == b.shape
        and a.dtype == b.dtype
        and torch.equal(
            a.contiguous().reshape(-1).view(torch.uint8),
            b.contiguous().reshape(-1).view(torch.uint8),
        )
    )


# ---------------------------------------------------------------- what a run shows


def _drawn(network: Network, depth: int, x: Tensor) -> SplitPoint:
    """Derive the split from one run of the whole network."""
    inside = {name for block in network.blocks[:depth] for name in block.modules}
    runs = [name for name in network.order if name in inside]
    if not runs:
        raise CannotSplit(f"blocks 1 to {depth} never run as modules")
    last, given, counted = _end(network, depth), dict[str, Any](), _Flops()
    before = 0

    def look(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: object, output: object) -> None:
            nonlocal before
            if name in given:
                raise CannotSplit(f"{name} runs more than once")
            given[name] = tree_map_only(
                Tensor, lambda t: torch.empty(t.shape[1:], device="meta"), output
            )
            before = counted.total

        return hook

    with contextlib.ExitStack() as hooks:
        for name in runs:
            hooks.callback(
                _inside(network, name).register_forward_hook(look(name), prepend=True).remove
            )
        with _unfused(), counted:
            network(x)
    if not isinstance(given[last], Tensor):
        raise CannotSplit(f"{last} does not give one tensor")
    flops = before // len(x), (counted.total - before) // len(x)
    return SplitPoint(depth, last, given, tuple(x.shape[1:]), flops)


def _end(network: Network, depth: int) -> str:
    """Return the module that ends the deepest of blocks 1…depth that runs as a module."""
    ends = [network.end_of_block(number) for number in range(depth, 0, -1)]
    return next(end for end in ends if end is not None)


class _Flops(TorchDispatchMode):
    """Counter of the arithmetic of convolutions, products and attention that run inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        self.total += int(count(*args, **(kwargs or {}), out_val=result)) if count else 0
        return result


@contextlib.contextmanager
def _unfused() -> Iterator[None]:
    """Compute attention step by step: the fused form hides its arithmetic from the counter."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def _inside(network: nn.Module, name: str) -> nn.Module:
    return network.get_submodule(f"net.{name}")


class _EndReached(Exception):  # noqa: N818 — a signal: the pass ends early
    """Signal that block m has run."""


class _Shape(Tensor):
    """Tensor without numbers; every function of it gives one too."""

    @staticmethod
    def of(shape: tuple[int, ...]) -> Tensor:
        return torch.empty(shape, device="meta").as_subclass(_Shape)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass(), torch.no_grad():
            args, kwargs = tree_map_only(Tensor, lambda t: t.to("meta"), (args, kwargs or {}))
            return tree_map_only(Tensor, lambda t: t.as_subclass(cls), func(*args, **kwargs))
