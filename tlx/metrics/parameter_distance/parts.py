"""Choice of the tensors of three states to compare, and the layer and block of each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import BadDataError, TlxError, UnknownNameError, raise_all
from ...models import backbones, heads
from ...models.network import Network
from ...models.weights import reader as weights_reader
from ...models.weights import wrappings
from ...models.weights.matching import COUNTER, OLD_DENSENET
from .norms import finite
from .rules import HEADS, Takes, weights

States = Mapping[str, Mapping[str, Tensor]]  # "random", "pretrained", "finetuned" → name → tensor
AUX = (
    "aux1",
    "aux2",
    "AuxLogits",
)  # side heads in torchvision's files, which networks here are built without
BUFFERS = ("running_mean", "running_var", COUNTER)


@dataclass(frozen=True)
class LayerTensors:
    """Tensor to compare, of each state.

    block: 1…N, None in the head and where blocks are unknown.
    """

    name: str
    layer: str
    block: int | None
    head: bool


# ---------------------------------------------------------------- the three states


def state(given: object, network: Network | None) -> tuple[dict[str, Tensor], list[str]]:
    """Return name → tensor under the network's names, and notes on what was changed.

    given   a weight file (through the safe door), "default" (the backbone's own weights), a
    state_dict, a module
    """
    if isinstance(given, nn.Module):
        given = (given.net if isinstance(given, Network) else given).state_dict()
    if isinstance(given, Mapping):
        tensors, notes = _numbers(given), []
    else:
        read = _file(given, network)
        tensors, notes = dict(read), read.notes
    return {OLD_DENSENET.sub(r"\1\2.", name): t for name, t in tensors.items()}, notes


def _numbers(given: Mapping[str, Any]) -> dict[str, Tensor]:
    tensors = {
        str(k): torch.from_numpy(np.array(v)) if isinstance(v, np.ndarray) else v
        for k, v in given.items()
    }
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise BadDataError(
                "state-dict",
                f"'{name}' is a {type(value).__name__}",
                expected="names and tensors",
                remedy="give the state_dict in it, or the path of the file",
            )
    return wrappings.without_known_prefixes(tensors)[0]


def _file(given: Any, network: Network | None) -> weights_reader.Weights:
    path = backbones.default_file(network.row) if given == "default" and network else Path(given)
    return (
        backbones.named(network.net, network.row, path)[0] if network else weights_reader.read(path)
    )


# ---------------------------------------------------------------- what is compared


def parts(
    states: States, network: Network | None, takes: Takes, head: str
) -> tuple[list[LayerTensors], list[str]]:
    """Return the tensors to compare, in the network's order, and notes.

    Those of the head come last.

    head    "match": compared where it has one shape in all three, else left out and noted; "skip":
            left out
    raises  BadDataError: a tensor is missing, has several shapes, is not finite; one that the
            network has not
    """
    if head not in HEADS:
        raise UnknownNameError("head policy", head, HEADS)
    layers, notes = _of_network(states, network, takes) if network else _of_names(states, takes)
    in_head = [p for p in layers if p.head]
    if (
        in_head
        and head == "match"
        and (odd := [p.name for p in in_head if not _agrees(states, p.name)])
    ):
        notes.append(f"head left out: {_shapes(states, odd[0])}")
    if head == "skip" or not all(_agrees(states, p.name) for p in in_head):
        in_head = []
    body = [p for p in layers if not p.head]
    _check(states, [p.name for p in body], [p.name for p in body + in_head])
    if not body:
        raise BadDataError(
            "no-tensors", "no tensor to compare", expected="weights of two or more dimensions"
        )
    return body + in_head, notes


def _of_network(
    states: States, network: Network, takes: Takes
) -> tuple[list[LayerTensors], list[str]]:
    own = dict(network.net.named_parameters())
    head, notes = _head(states, network)
    problems = []
    for who, given in states.items():
        kernels = [n for n, t in given.items() if weights(n, t.ndim)]
        if odd := [n for n in kernels if n not in own and not _inside(n, (*head, *AUX))]:
            problems.append(
                BadDataError(
                    "weights-unexpected",
                    f"{_named(odd)} not in {network.row.title}",
                    where=who,
                    remedy="is it of another architecture?",
                )
            )
    raise_all(problems)
    places = {
        name: (number, block.name)
        for number, block in enumerate(network.blocks, 1)
        for name in network.tensors(block)
    }
    layers = []
    for name, tensor in own.items():
        holder = next((module for module in head if _inside(name, (module,))), None)
        if tensor.numel() and takes(name, tensor.ndim, holder is not None):
            block, layer = (
                (None, holder) if holder else places.get(name, (None, name.rpartition(".")[0]))
            )
            layers.append(LayerTensors(name, layer, block, holder is not None))
    return sorted(layers, key=lambda part: part.block or len(network.blocks) + 1), notes


def _head(states: States, network: Network) -> tuple[tuple[str, ...], list[str]]:
    """Return the head's modules: all dense layers at the end if the three differ in them."""
    names = network.head_names
    tail = heads.replaced(network.net, names, "mlp256") if len(names) == 1 else names
    inside = [
        n for n, p in network.net.named_parameters() if _inside(n, tail) and not _inside(n, names)
    ]
    if all(_agrees(states, name) for name in inside):
        return names, []
    return tail, [f"the head is all of '{tail[0]}': its dense layers are not the same in all three"]


def _of_names(states: States, takes: Takes) -> tuple[list[LayerTensors], list[str]]:
    """Treat each module as a layer; the one whose first axis alone differs is the head.

    This is the way without a network.
    """
    dimensions = {
        n: t.ndim
        for given in states.values()
        for n, t in given.items()
        if t.is_floating_point() and t.numel() and not n.endswith(BUFFERS)
    }
    names = [n for n in sorted(dimensions, key=_natural) if takes(n, dimensions[n], False)]
    classes = {
        n.rpartition(".")[0]
        for n in names
        if not _agrees(states, n) and _differs_in_classes(states, n)
    }
    head = classes if len(classes) == 1 else set()
    notes = (
        []
        if head
        else ["no architecture, and no layer whose number of outputs differs: every layer counts"]
    )
    return [LayerTensors(n, m := n.rpartition(".")[0], None, m in head) for n in names], notes


def _check(states: States, body: Sequence[str], compared: Sequence[str]) -> None:
    problems: list[TlxError] = []
    for who, given in states.items():
        if missing := [n for n in body if n not in given]:
            problems.append(
                BadDataError(
                    "weights-missing",
                    f"{_named(missing)} not found",
                    where=who,
                    remedy="is it of another architecture?",
                )
            )
    differing = [
        n for n in body if all(n in given for given in states.values()) and not _agrees(states, n)
    ]
    if differing:
        more = f", and {len(differing) - 1} more" if len(differing) > 1 else ""
        problems.append(
            BadDataError(
                "weights-shape",
                _shapes(states, differing[0]) + more,
                expected="one shape",
                remedy="only the head may differ; name the architecture whose head it is",
            )
        )
    raise_all(problems)
    for who, given in states.items():
        if bad := [n for n in compared if not finite(given[n])]:
            raise BadDataError(
                "weights-not-finite",
                f"{_named(bad)} not finite",
                where=who,
                expected="finite numbers",
            )


def _agrees(states: States, name: str) -> bool:
    shapes = {given[name].shape if name in given else None for given in states.values()}
    return len(shapes) == 1 and None not in shapes


def _differs_in_classes(states: States, name: str) -> bool:
    return (
        all(name in given for given in states.values())
        and len({g[name].shape[1:] for g in states.values()}) == 1
    )


def _shapes(states: States, name: str) -> str:
    each = (
        f"{tuple(given[name].shape) if name in given else 'absent'} in {who}"
        for who, given in states.items()
    )
    return f"'{name}' is {', '.join(each)}"


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{n}'" for n in names[:5])
    return f"{shown}, and {len(names) - 5} more" if len(names) > 5 else shown


def _inside(name: str, modules: Iterable[str]) -> bool:
    return any(name == m or name.startswith(m + ".") for m in modules)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts layer10 after layer2, whatever the order in a file."""
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part)
        for part in re.split(r"(\d+)", name)
        if part
    ]
