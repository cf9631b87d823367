"""Layers: which outputs of a network are requested, and how large they are.

A layer is requested by

- the name of a module, as `network.layers()` lists them: the output of that module (not of the
  block it begins);
- a block's number, 1…N, as a number or as digits: the output of the last module of that block;
- "input": what the network is given, normalised;
- `name@k`: the output of the k-th call of a module that runs several times (a ReLU that a residual
  block shares). The
  name alone means the last call;
- `name:relu`, `name:log_softmax`: the output after this function, which the network itself does not
  apply there. It may
  follow any name above.

Of an output that is a tuple or a list the first tensor counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from ..errors import TlxError, UnknownNameError, UsageError, nearest, raise_all
from .blocks import run_on_shapes
from .network import Network

INPUT = "input"  # the layer before the first
FUNCTIONS: dict[
    str, Callable[[Tensor, int], Tensor]
] = {  # of an output and the axis of its channels
    "relu": lambda x, axis: x.relu(),
    "log_softmax": lambda x, axis: x.log_softmax(axis),
}
PROBE = 2  # images of the pass over shapes that finds the layers' widths


@dataclass(frozen=True)
class Layer:
    """One output of one layer.

    name      as dumps know it: `module`, or `module@call` where that call is not the module's last
    call      counted from 1
    shape     of the output for one image, for images of the network's own size
    channels  the axis of the channels, counting the images' as 0; where it is 1 or -1, by number of
              axes
    prefix    tokens before those of the image (a class token), for outputs (n, tokens, width)
    function  a row of FUNCTIONS that is applied to the output, or ""
    """

    name: str
    module: str
    call: int
    shape: tuple[int, ...]
    channels: int
    prefix: int
    function: str = ""

    def applied(self, output: Tensor) -> Tensor:
        """Apply the layer's function to the output."""
        return FUNCTIONS[self.function](output, self.channels) if self.function else output


# ---------------------------------------------------------------- names


def resolve(network: Network, layers: Sequence[str | int]) -> tuple[str, ...]:
    """Return the names of these layers as dumps use them, in the order requested.

    Raises UnknownNameError with the nearest, or UsageError for a layer requested twice, with all
    that is wrong.
    """
    problems: list[TlxError] = []
    resolved: dict[str, str | int] = {}
    known = network.layers()
    for requested in layers:
        try:
            name = _canonical(network, known, requested)
        except TlxError as error:
            problems.append(error)
            continue
        if name in resolved:
            problems.append(
                UsageError(
                    "layer-twice",
                    f"'{resolved[name]}' and '{requested}' are the same layer, {name}",
                )
            )
        resolved[name] = requested
    raise_all(problems)
    if not resolved:
        raise UsageError(
            "no-layers", "no layer was requested", expected="at least one name or block number"
        )
    return tuple(resolved)


def _canonical(network: Network, known: Mapping[str, nn.Module], requested: str | int) -> str:
    text = str(requested)
    if text in known or text == INPUT:
        return text
    inner, colon, function = text.rpartition(":")
    if colon and function in FUNCTIONS:
        return f"{_canonical(network, known, inner)}:{function}"
    if text.isascii() and text.isdigit():
        return _end_of_block(network, int(text))
    module, at, call = text.rpartition("@")
    if at and module in known and call.isascii() and call.isdigit():
        calls = _run(network, [module]).count(module)
        if not 1 <= int(call) <= calls:
            raise UsageError(
                "out-of-range", f"call {call} of {module}", where="layers", expected=f"1 to {calls}"
            )
        return module if int(call) == calls else f"{module}@{int(call)}"
    near = nearest(text, known, 5)
    raise UnknownNameError(
        "layer",
        text,
        known,
        remedy=f"a block's number 1 to {len(network.blocks)} will do too"
        + (f"; near names: {', '.join(near)}" if near else ""),
    )


def _end_of_block(network: Network, number: int) -> str:
    if not 1 <= number <= len(network.blocks):
        raise UsageError(
            "out-of-range",
            f"block {number}",
            where="layers",
            expected=f"1 to {len(network.blocks)}, the blocks of {network.row.title}",
        )
    end = network.end_of_block(number)
    if end is None:
        raise UsageError(
            "block-without-output", f"no module of block {number} runs by itself", where="layers"
        )
    return end


# ---------------------------------------------------------------- a pass over shapes


class _Calls(list[tuple[str, Any]]):
    """List of (module, output) of every call, in the order in which they ended."""

    def count(self, module: object) -> int:
        return sum(name == module for name, _ in self)


def _run(network: Network, modules: Sequence[str], scale: int = 1) -> _Calls:
    """Return these modules' outputs for images of shapes only.

    The images have `scale` times the network's own size.
    """
    net, size, calls = network.net, network.input_size * scale, _Calls()
    hooks = [
        net.get_submodule(name).register_forward_hook(
            lambda _m, _i, output, name=name: calls.append((name, output)), prepend=True
        )
        for name in dict.fromkeys(modules)
        if not is_input(network, name)
    ]
    if not hooks:
        return calls
    try:
        with evaluating(net):
            run_on_shapes(net, torch.zeros(PROBE, network.channels, size, size, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def survey(network: Network, names: Sequence[str]) -> tuple[Layer, ...]:
    """Return where and how large the outputs of these layers are.

    The layers are those of `resolve`; nothing is computed.

    Raises UsageError for a layer whose output is no tensor of one row an image.
    """
    wanted = [_parted(name) for name in names]
    calls = _run(network, [module for module, _ in wanted])
    try:  # axes that grow with the image are its height and width
        larger = _run(network, [module for module, _ in wanted], scale=2)
    except (AssertionError, RuntimeError, ValueError):
        larger = calls
    layers, problems = [], []
    for name, (module, call) in zip(names, wanted, strict=True):
        function = function_of(name)
        if is_input(network, module):
            whole = network.channels, network.input_size, network.input_size
            layers.append(Layer(name, module, 1, whole, 1, 0, function))
            continue
        last = call or calls.count(module)
        shape, other = (_shape(ran, module, last) for ran in (calls, larger))
        if not _has_rows(shape):
            seen = "no tensor" if shape is None else f"the shape {shape} for {PROBE} images"
            problems.append(
                UsageError(
                    "layer-output",
                    f"{name} gives {seen}",
                    where="layers",
                    expected="a tensor with a row an image",
                    remedy="take the module around it",
                )
            )
            continue
        layers.append(
            Layer(
                name,
                module,
                last,
                shape[1:],
                _channel_axis(network, shape, other),
                _prefix(network),
                function,
            )
        )
    raise_all(problems)
    return tuple(layers)


def is_input(network: Network, name: str) -> bool:
    """Return whether this is the network's input, and no module of that name."""
    return name == INPUT and name not in network.layers()


def everything(network: Network) -> tuple[str, ...]:
    """Return the input and every leaf module that gives one row an image, in run order."""
    leaves = [name for name, module in network.layers().items() if not list(module.children())]
    names = [INPUT]
    for name in leaves:
        with contextlib.suppress(UsageError):
            names += [layer.name for layer in survey(network, [name])]
    return tuple(names)


def blocks_with_rows(network: Network) -> tuple[int, ...]:
    """Return the numbers of the blocks whose output is a tensor of one row an image.

    These are the default layers.

    Others work on windows or patches as rows (TNT, MobileViT) or on several resolutions at once
    (HRNet).
    """
    ends = {n: network.end_of_block(n) for n in range(1, len(network.blocks) + 1)}
    running = {n: end for n, end in ends.items() if end is not None}
    calls = _run(network, list(running.values()))
    return tuple(n for n, end in running.items() if _has_rows(_shape(calls, end, calls.count(end))))


def after(network: Network, names: Sequence[str]) -> tuple[str, ...]:
    """Return the modules that first run after all of these layers have; names as of `resolve`."""
    wanted = {module_of(name) for name in names}
    inside = [
        turn
        for turn, module in enumerate(network.order)
        if any(module == name or module.startswith(f"{name}.") for name in wanted)
    ]
    last = max(inside, default=-1)
    leaves = {name for name, module in network.layers().items() if not list(module.children())}
    return tuple(name for name in network.order[last + 1 :] if name in leaves)


def module_of(name: str) -> str:
    """Return the module whose output a layer's name means."""
    return _parted(name)[0]


def function_of(name: str) -> str:
    """Return the function in a layer's name, or ""."""
    _, colon, function = name.rpartition(":")
    return function if colon and function in FUNCTIONS else ""


def _parted(name: str) -> tuple[str, int]:
    """Split a name into module and call; 0 is the last call."""
    function = function_of(name)
    name = name.removesuffix(f":{function}") if function else name
    module, at, call = name.rpartition("@")
    return (module, int(call)) if at else (name, 0)


def _shape(calls: _Calls, module: str, call: int) -> tuple[int, ...] | None:
    outputs = [output for name, output in calls if name == module]
    tensor = tensor_of(outputs[call - 1]) if len(outputs) >= call else None
    return None if tensor is None else tuple(tensor.shape)


def _has_rows(shape: tuple[int, ...] | None) -> TypeGuard[tuple[int, ...]]:
    """Return whether an output of PROBE images has a row for each."""
    return shape is not None and len(shape) > 1 and shape[0] == PROBE


def _channel_axis(network: Network, shape: tuple[int, ...], larger: tuple[int, ...] | None) -> int:
    if len(shape) < 4 or larger is None:
        return 1
    grown = [axis for axis in range(1, len(shape)) if larger[axis] != shape[axis]]
    if grown:
        return -1 if 1 in grown and len(shape) - 1 not in grown else 1
    return (
        -1 if getattr(network.net, "output_fmt", "") == "NHWC" else 1
    )  # timm's word for what takes one size only


def _prefix(network: Network) -> int:
    """Return the number of tokens before those of the image.

    timm records it; torchvision's transformer has one.
    """
    return int(getattr(network.net, "num_prefix_tokens", hasattr(network.net, "class_token")))


def tensor_of(output: object) -> Tensor | None:
    """Return the first tensor of a module's output; None if there is none."""
    if isinstance(output, (tuple, list)):
        output = next((item for item in output if isinstance(item, Tensor)), None)
    return output if isinstance(output, Tensor) else None


@contextlib.contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Set evaluation mode inside, and restore every module's own mode afterwards."""
    training = [module for module in net.modules() if module.training]
    net.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
