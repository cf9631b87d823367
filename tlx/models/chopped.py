"""Network truncated after a block, with global average pooling and one dense layer.

The dense layer on the channel means is the 1×1 convolution of the study 'feature-transfer'. What
followed the block is removed, from memory and from files; blocks 1…n keep their numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import torch
from torch import nn

from .. import files
from ..errors import BadDataError, UsageError, counted
from . import backbones, heads, layers
from .activations import pooled
from .blocks import DROPOUTS, Block
from .layers import Layer
from .network import Network, generator
from .weights import promises
from .weights import reader as weights_reader

FORMAT = 1  # of the record of a chopped network's weights
BODY = "body."  # before the names of what stays of a cut network
ADAPTED = ("eps", "stride")  # what translated weights change of a module


class _CutReached(Exception):  # noqa: N818 — a signal: the pass ends early
    """Signal that the last layer has run."""

    def __init__(self, output: torch.Tensor):
        super().__init__()
        self.output = output


def _stop(module: nn.Module, args: object, output: object) -> None:
    tensor = layers.tensor_of(output)
    assert tensor is not None
    raise _CutReached(tensor)


class Chopped(nn.Module):
    """Truncated network: body up to module `last`, mean over the image, dense layer.

    x (n, c, h, w) → logits (n, classes).
    """

    def __init__(self, body: nn.Module, last: Layer, head: nn.Linear):
        super().__init__()
        self.body, self.last, self.head = body, last, head
        body.get_submodule(last.module).register_forward_hook(_stop)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, width), the last block's output averaged over the image."""
        try:
            self.body(x)
        except _CutReached as reached:
            return pooled(reached.output, self.last)
        raise RuntimeError(f"{self.last.module} did not run")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, classes) of x (n, c, h, w)."""
        result: torch.Tensor = self.head(self.features(x))
        return result


def chop(network: Network, depth: int, classes: int, seed: int) -> Network:
    """Truncate `network` after block `depth` and add a fresh head.

    The head is Glorot-uniform with zero biases; the network given is consumed.

    Raises UsageError for a block that is not there, or that runs more than once or gives no tensor
    of one row an image.
    """
    if not 1 <= depth <= len(network.blocks):
        raise UsageError(
            "out-of-range",
            f"cut behind block {depth}",
            where="cut",
            expected=f"1 to {len(network.blocks)}, the blocks of {network.row.title}",
        )
    last = _last(network, depth)
    width = pooled(torch.empty(1, *last.shape, device="meta"), last).shape[1]
    for block in network.blocks[depth:]:
        for name in block.modules:
            network.net.set_submodule(name, nn.Identity())
        for name in block.parameters:
            holder, _, leaf = name.rpartition(".")
            setattr(network.net.get_submodule(holder), leaf, None)
    for name in network.head_names:
        network.net.set_submodule(name, nn.Identity())
    head = nn.Linear(width, classes)
    if head.weight.device.type != "meta":
        nn.init.xavier_uniform_(head.weight, generator=generator(seed, "head"))
        nn.init.zeros_(head.bias)
    chopped = Network(
        Chopped(network.net, last, head),
        network.row,
        ("head",),
        match=network.match,
        notes=network.notes,
        weights=network.weights,
    )
    chopped.blocks = tuple(
        Block(
            f"body.{block.name}",
            *(
                tuple(f"body.{name}" for name in names)
                for names in (block.modules, block.parameters)
            ),
        )
        for block in network.blocks[:depth]
    )
    return chopped


def _last(network: Network, depth: int) -> Layer:
    """Return the layer that ends block `depth`.

    It is the last module before the head, except for dropout, which belongs to what follows, and
    for what only flattens, which would leave no image to average over.
    """
    order = network.order[: network.order.index(network.head_names[0])]
    inside = [name for name in order if name in network.blocks[depth - 1].modules]
    while len(inside) > 1 and isinstance(
        network.net.get_submodule(inside[-1]), (nn.Flatten, *DROPOUTS)
    ):
        inside.pop()
    if not inside:
        raise UsageError(
            "block-without-output", f"no module of block {depth} runs by itself", where="cut"
        )
    (layer,) = layers.survey(network, inside[-1:])
    if layer.call > 1:
        raise UsageError(
            "cut-twice",
            f"{layer.module}, the end of block {depth}, runs {layer.call} times",
            where="cut",
            remedy="cut behind another block",
        )
    return layer


# ---------------------------------------------------------------- kept and read again


def write(
    path: Path, network: Network, *, architecture: str, cut: int | None, classes: tuple[str, ...]
) -> Path:
    """Write weights to <path>.safetensors and their record to <path>.json; return the latter.

    cut None: not chopped.
    """
    weights, record = path.with_suffix(".safetensors"), path.with_suffix(".json")
    weights_reader.write(weights, network.net.state_dict(), {"format": "pt"})
    like = _built(architecture, cut, len(classes), network.input_size)
    adapted = {
        name: {what: getattr(module, what) for what in ADAPTED if _differs(module, twin, what)}
        for (name, module), twin in zip(
            network.net.named_modules(), like.net.modules(), strict=True
        )
    }
    files.write_json(
        record,
        {
            "format": FORMAT,
            "architecture": architecture,
            "cut": cut,
            "classes": list(classes),
            "input_size": network.input_size,
            "mean": list(network.mean),
            "std": list(network.std),
            "adapted": {name: changes for name, changes in adapted.items() if changes},
            "file": weights.name,
            "sha256": files.sha256(weights),
        },
    )
    return record


def is_recorded(path: Path) -> bool:
    """Return whether `path` is a weight file of `write`.

    The record next to the file has its name and its architecture.
    """
    return bool(_record(path))


def described(path: Path) -> tuple[str, tuple[str, ...]] | None:
    """Return architecture and classes of a weight file of `write`; None for any other file."""
    record = _record(path)
    if not record:
        return None
    return str(record["architecture"]), tuple(map(str, record.get("classes", ())))


def is_cut(path: Path) -> bool:
    """Return whether it is a weight file of a truncated network, not of a whole one."""
    return _record(path).get("cut") is not None


def blocks_of(path: Path) -> int | None:
    """Return how many blocks the network of a weight file has; None unless it was cut."""
    cut = _record(path).get("cut")
    return None if cut is None else int(cut)


@overload
def most_blocks(model: str | None, depth: int) -> int: ...
@overload
def most_blocks(model: str | None, depth: None) -> int | None: ...
def most_blocks(model: str | None, depth: int | None) -> int | None:
    """Return how many blocks can be taken from a weight file.

    That is `depth`, or fewer of a network that was truncated.
    """
    cut = blocks_of(Path(model).expanduser()) if model else None
    return depth if cut is None else cut


def too_deep(model: str | None, depths: Iterable[int]) -> list[UsageError]:
    """Return a refusal for every one of these blocks that a cut network does not have."""
    path = Path(model).expanduser() if model else None
    blocks = blocks_of(path) if path is not None else None
    return (
        [] if path is None or blocks is None else [too_short(path, n) for n in depths if n > blocks]
    )


def too_short(path: Path, depth: int) -> UsageError:
    """Return the refusal of a block that a cut network does not have."""
    blocks = blocks_of(path)
    return UsageError(
        "chopped",
        f"block {depth} of {path.name}, which is chopped behind block {blocks}",
        where="--model",
        expected=f"blocks 1 to {blocks}",
        remedy="give a smaller --depths, or the weights of a whole network",
    )


def copy_blocks(network: Network, cut: Network, count: int) -> None:
    """Copy blocks 1…count of a truncated network into one of the same architecture.

    The other may be whole or truncated; it takes over the normalisation of the truncated one.
    """
    modules = {name.removeprefix(BODY): module for name, module in cut.net.named_modules()}
    with torch.no_grad():
        for target, theirs in zip(network.blocks[:count], cut.blocks[:count], strict=True):
            given = {
                name.removeprefix(BODY): tensor for name, tensor in cut.tensors(theirs).items()
            }
            for name, tensor in network.tensors(target).items():
                tensor.copy_(given[name.removeprefix(BODY)])
            for name in target.modules:
                for inner, module in network.net.get_submodule(name).named_modules(prefix=name):
                    _adapt(module, modules[inner.removeprefix(BODY)])
    network.mean, network.std = cut.mean, cut.std
    network.row = replace(network.row, mean=cut.row.mean, std=cut.row.std)
    network.match, network.weights, network.notes = cut.match, cut.weights, cut.notes


def _adapt(module: nn.Module, like: nn.Module) -> None:
    for what in ADAPTED:
        if hasattr(like, what):
            setattr(module, what, getattr(like, what))


def _record(path: Path) -> dict[str, Any]:
    beside = path.with_suffix(".json")
    try:
        record = files.read_json(beside) if beside.is_file() else None
    except (BadDataError, OSError):
        return {}
    if (
        not isinstance(record, dict)
        or record.get("file") != path.name
        or not {"architecture", "cut"} <= record.keys()
    ):
        return {}
    return record


def backbone(
    path: Path,
    architecture: str,
    classes: int | None,
    *,
    head: str,
    seed: int,
    input_size: int | None,
    sha256: str | None,
) -> Network:
    """Return the network of such a file as a backbone.

    With its own head (classes None, or head "keep"), or a fresh one.

    Raises UsageError if it is of another architecture than `architecture`, IntegrityError if it is
    not the file of `sha256`.
    """
    promises.check(path, sha256)
    record = _record(path)
    of, cut = str(record["architecture"]), record["cut"]
    what = f"{of} chopped behind block {cut}" if cut is not None else f"the whole {of}, by tlx chop"
    if backbones.lookup(of) != backbones.lookup(architecture):
        raise UsageError(
            "weights-architecture",
            f"{path.name} is {what}",
            where="--model",
            expected=f"weights of {backbones.lookup(architecture).title}",
            remedy=f"type --architecture {of}",
        )
    chopped, names = read(path, input_size)
    notes = [
        *chopped.notes,
        f"{path.name} is {what}, trained on {counted(len(names), 'class', 'classes')}",
    ]
    head_names = chopped.head_names
    if classes is not None and (head != "keep" or classes != len(names)):
        head_names = heads.HEADS[head](chopped.net, head_names, classes, generator(seed, "head"))
    network = Network(
        chopped.net,
        chopped.row,
        head_names,
        match=chopped.match,
        notes=notes,
        weights=chopped.weights,
    )
    network.blocks = chopped.blocks
    return network


def read(path: Path, input_size: int | None = None) -> tuple[Network, tuple[str, ...]]:
    """Read the network of a record of `write`, in evaluation mode, and its classes.

    Raises BadDataError, MissingError or IntegrityError.
    """
    record = files.read_json(path.with_suffix(".json"))
    try:
        if record["format"] > FORMAT:
            raise BadDataError(
                "newer-format",
                f"format {record['format']}",
                where=path,
                expected=f"{FORMAT} or older",
            )
        classes = tuple(map(str, record["classes"]))
        size = input_size or int(record["input_size"])
        network = _built(str(record["architecture"]), record["cut"], len(classes), size)
        views = {name: tuple(map(float, record[name])) for name in ("mean", "std")}
        for name, changes in record["adapted"].items():
            for what in ADAPTED:
                if what in changes:
                    value = changes[what]
                    setattr(
                        network.net.get_submodule(name),
                        what,
                        tuple(value) if isinstance(value, list) else value,
                    )
        weights = path.with_name(Path(record["file"]).name)
        expected = str(record["sha256"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadDataError("record", f"no record of a network ({error!r})", where=path) from error
    tensors = weights_reader.read(weights, sha256=expected, like=network.net)
    network.match = weights_reader.load_into(network.net, tensors, least=1.0)
    network.weights = expected
    network.mean, network.std = views["mean"], views["std"]
    network.row = replace(network.row, mean=views["mean"], std=views["std"])
    return network, classes


def _built(architecture: str, cut: int | None, classes: int, input_size: int) -> Network:
    network = backbones.load(
        architecture, weights=None, classes=classes, seed=0, input_size=input_size
    )
    return network if cut is None else chop(network, int(cut), classes, 0).eval()


def _differs(module: nn.Module, twin: nn.Module, what: str) -> bool:
    return hasattr(module, what) and getattr(module, what) != getattr(twin, what)
