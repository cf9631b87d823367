"""Blocks 1…N of any network, counted from the input, derived from its structure and run order.

Going down from the root, containers are opened and everything else is a unit: a residual block, an
encoder layer, a lone convolution. Units are put in the order in which they first run. A unit with a
parameter of two or more dimensions (a convolution, a dense layer, a residual block) begins a block;
normalisations, activations and pools that follow join it. A parameter that is bare in an opened
module (a class token, a position embedding) joins the block in which that module first runs.
Dropout that feeds the head stays with the head, and so does what runs after the head and has no
tensors (a flattening, the pool of SqueezeNet's logits). Of a network with several heads, what feeds
a later head (a batch norm of its own) joins the last block, ahead of that block's end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
DROPOUTS = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)


@dataclass(frozen=True)
class Block:
    """Step from the image to the head.

    name        of the module that begins it
    modules     names of the modules in it, in the order in which they run; none is inside another
    parameters  names of parameters and buffers in it that no module of `modules` holds
    """

    name: str
    modules: tuple[str, ...]
    parameters: tuple[str, ...] = ()


@dataclass
class _Unit:
    name: str
    module: nn.Module
    turn: float = float("inf")
    bare: tuple[str, ...] = ()


def execution(net: nn.Module, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Return module names of `net` in order of their first run on a batch of `shape`.

    Runs on the meta device: nothing is computed and no memory is taken. The network is left in
    evaluation mode. Raises what the network raises when it cannot take that shape.
    """
    seen: dict[str, None] = {}
    hooks = [
        module.register_forward_pre_hook(lambda _m, _i, name=name: seen.setdefault(name))
        for name, module in net.named_modules()
    ]
    net.eval()
    try:
        run_on_shapes(net, torch.zeros(shape, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(seen)


def run_on_shapes(net: nn.Module, x: torch.Tensor) -> None:
    """Run `net` on x of the meta device: hooks see shapes, nothing is computed.

    Every tensor of `net` is kept.

    functional_call alone leaves meta tensors in a module that is registered under two names (CoaT's
    shared position encodings), so every module's own tensors are put back afterwards.
    """
    kept = [(module, dict(module._parameters), dict(module._buffers)) for module in net.modules()]
    tensors = {
        name: t.to("meta")
        for source in (net.named_parameters(), net.named_buffers())
        for name, t in source
    }
    try:
        with torch.no_grad():
            functional_call(net, tensors, (x,))
    finally:
        for module, parameters, buffers in kept:
            module._parameters.update(parameters)
            module._buffers.update(buffers)


def derive(net: nn.Module, head_names: Iterable[str], order: Iterable[str]) -> tuple[Block, ...]:
    """Derive the blocks of `net` without its head; `order` is what `execution` returns."""
    head = set(head_names)
    units, bare = _units(net, head)
    turns = {name: turn for turn, name in enumerate(order)}
    _set_turns(units, turns)
    for holder, names in bare.items():
        inside = [u for u in units if _within(u.name, holder) and u.name not in head] or units
        first = min(inside, key=lambda u: u.turn)
        first.bare += names
    logits = min((turns[name] for name in head if name in turns), default=float("inf"))
    body = sorted((u for u in units if u.name not in head), key=lambda u: u.turn)
    late = [u for u in body if u.turn > logits and (_has_tensors(u.module) or u.bare)]
    body = [u for u in body if u.turn <= logits]
    while body and isinstance(body[-1].module, DROPOUTS):
        body.pop()
    begun = max((place for place, u in enumerate(body) if _begins(u.module)), default=-1)
    return _grouped([*body[: begun + 1], *late, *body[begun + 1 :]])


def tensors(net: nn.Module, block: Block) -> dict[str, torch.Tensor]:
    """Return the parameters and buffers of one block, name → tensor."""
    result: dict[str, torch.Tensor] = {}
    for name in block.modules:
        module = net.get_submodule(name)
        for source in (module.named_parameters(), module.named_buffers()):
            result.update({f"{name}.{key}": value for key, value in source})
    if not block.parameters:
        return result
    every = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    return {**result, **{name: every[name] for name in block.parameters}}


def _units(net: nn.Module, head: set[str]) -> tuple[list[_Unit], dict[str, tuple[str, ...]]]:
    """Return the units in order of declaration, and the bare tensors of each opened module."""
    units: list[_Unit] = []
    bare: dict[str, tuple[str, ...]] = {}
    opened: set[int] = set()

    def visit(name: str, module: nn.Module) -> None:
        if id(module) in opened:  # one module under two names
            return
        opened.add(id(module))
        children = list(module.named_children())
        if name in head or not children or not (name == "" or _opens(name, module, head)):
            units.append(_Unit(name, module))
            return
        own = [
            *dict(module.named_parameters(recurse=False)),
            *dict(module.named_buffers(recurse=False)),
        ]
        if own:
            bare[name] = tuple(f"{name}.{key}".lstrip(".") for key in own)
        for key, child in children:
            visit(f"{name}.{key}".lstrip("."), child)

    visit("", net)
    shared = {id(inner) for u in units for inner in u.module.modules() if inner is not u.module}
    units = [
        u for u in units if not (id(u.module) in shared and _has_tensors(u.module))
    ]  # part of another unit
    return units, bare


def _opens(name: str, module: nn.Module, head: set[str]) -> bool:
    """Return whether a module is a stage, to be opened, rather than a unit."""
    if any(_within(h, name) for h in head):
        return True
    if isinstance(module, CONTAINERS):
        return not _one_layer(module)
    return sum(_repeats(child) for child in module.children()) == 1


def _one_layer(container: nn.Module) -> bool:
    """Return whether a container is one convolution or dense layer with its attachments."""
    children = list(container.children())
    return not any(list(c.children()) for c in children) and sum(map(_begins, children)) == 1


def _repeats(module: nn.Module) -> bool:
    """Return whether a module is a container of two or more like blocks."""
    kinds = [
        type(c) for c in module.children() if list(c.children()) and not isinstance(c, CONTAINERS)
    ]
    return isinstance(module, CONTAINERS) and any(kinds.count(kind) > 1 for kind in kinds)


def _has_tensors(module: nn.Module) -> bool:
    return any(True for _ in module.parameters()) or any(True for _ in module.buffers())


def _begins(module: nn.Module) -> bool:
    return any(p.ndim >= 2 for p in module.parameters())


def _within(name: str, holder: str) -> bool:
    return holder in ("", name) or name.startswith(holder + ".")


def _set_turns(units: list[_Unit], turns: dict[str, int]) -> None:
    """Set when each unit first runs.

    One that never runs as a module goes with the one declared before it.
    """
    previous = -1.0
    for unit in units:
        inside = (
            turns.get(f"{unit.name}.{key}".rstrip("."), float("inf"))
            for key, _ in unit.module.named_modules()
        )
        unit.turn = min(inside)
        if unit.turn == float("inf"):
            unit.turn = previous
        previous = unit.turn


def _grouped(body: list[_Unit]) -> tuple[Block, ...]:
    return tuple(
        Block(
            next((u.name for u in group if _begins(u.module)), group[0].name),
            tuple(u.name for u in group),
            tuple(n for u in group for n in u.bare),
        )
        for group in _groups(body)
    )


def _groups(body: list[_Unit]) -> Iterator[list[_Unit]]:
    group: list[_Unit] = []
    begun = False
    for unit in body:
        if _begins(unit.module):
            if begun:
                yield group
                group = []
            begun = True
        group.append(unit)
    if group:
        yield group
