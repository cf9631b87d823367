"""A network chopped behind a block: the mean of each channel over the image, one dense layer, and
nothing after.

The dense layer on the means is the 1×1 convolution of the study 'feature-transfer'. What followed
the block is gone, from memory and from files; blocks 1…n keep their numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import torch
from torch import nn

from .. import files
from ..errors import BadDataError, UsageError
from . import backbones, heads, layers
from .activations import pooled
from .blocks import DROPOUTS, Block
from .layers import Layer
from .network import Network, generator
from .weights import promises
from .weights import reader as weights_reader

FORMAT = 1  # of the record beside a chopped network's weights
BODY = "body."  # before the names of what stays of a cut network
ADAPTED = ("eps", "stride")  # what translated weights change of a module


class _CutReached(Exception):
    """The last layer has answered: ends a run that goes no further."""

    def __init__(self, output: torch.Tensor):
        super().__init__()
        self.output = output


def _stop(module: nn.Module, args: Any, output: Any) -> None:
    tensor = layers.tensor_of(output)
    assert tensor is not None
    raise _CutReached(tensor)


class Chopped(nn.Module):
    """body up to its module `last`, the mean over the image, a dense layer: x (n, c, h, w) → logits
    (n, classes).
    """

    def __init__(self, body: nn.Module, last: Layer, head: nn.Linear):
        super().__init__()
        self.body, self.last, self.head = body, last, head
        body.get_submodule(last.module).register_forward_hook(_stop)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(n, width): what the last block gives, averaged over the image."""
        try:
            self.body(x)
        except _CutReached as reached:
            return pooled(reached.output, self.last)
        raise RuntimeError(f"{self.last.module} did not run")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.features(x))
        return result


def chop(network: Network, depth: int, classes: int, seed: int) -> Network:
    """`network` up to block `depth` with a fresh head (Glorot-uniform, zero biases); the network
    given is used up.

    Raises Usage for a block that is not there, or that runs more than once or gives no tensor of
    one row an image.
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
    made = Network(
        Chopped(network.net, last, head),
        network.row,
        ("head",),
        match=network.match,
        notes=network.notes,
        weights=network.weights,
    )
    made.blocks = tuple(
        Block(
            f"body.{block.name}",
            *(
                tuple(f"body.{name}" for name in names)
                for names in (block.modules, block.parameters)
            ),
        )
        for block in network.blocks[:depth]
    )
    return made


def _last(network: Network, depth: int) -> Layer:
    """The layer that ends block `depth`: its last module before the head, but for dropout, which
    belongs to what follows, and for what only flattens, which would leave no image to average over.
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
    """Weights at <path>.safetensors, what they belong to at <path>.json, which is returned. cut
    None: not chopped.
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
    """Whether `path` is a weight file that `write` made: the record beside it names the file and
    its architecture.
    """
    return bool(_record(path))


def is_cut(path: Path) -> bool:
    """Whether it is one of a network that was cut, not of a whole one."""
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
    """Return how many blocks can be taken from a weight file: `depth`, or fewer of a network that
    was cut.
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
    """Put blocks 1…count of a network that was cut into one of the same architecture, whole or cut;
    it then sees images as the cut one does.
    """
    modules = {name.removeprefix(BODY): module for name, module in cut.net.named_modules()}
    with torch.no_grad():
        for mine, theirs in zip(network.blocks[:count], cut.blocks[:count], strict=True):
            given = {
                name.removeprefix(BODY): tensor for name, tensor in cut.tensors(theirs).items()
            }
            for name, tensor in network.tensors(mine).items():
                tensor.copy_(given[name.removeprefix(BODY)])
            for name in mine.modules:
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
    head: str,
    seed: int,
    input_size: int | None,
    sha256: str | None,
) -> Network:
    """The network of such a file as a backbone: with its own head (classes None, or head "keep"),
    or a fresh one.

    Raises Usage if it is of another architecture than `architecture`, Integrity if it is not the
    file of `sha256`.
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
    found, names = read(path, input_size)
    notes = [*found.notes, f"{path.name} is {what}, trained on {len(names)} classes"]
    head_names = found.head_names
    if classes is not None and (head != "keep" or classes != len(names)):
        head_names = heads.HEADS[head](found.net, head_names, classes, generator(seed, "head"))
    network = Network(
        found.net, found.row, head_names, match=found.match, notes=notes, weights=found.weights
    )
    network.blocks = found.blocks
    return network


def read(path: Path, input_size: int | None = None) -> tuple[Network, tuple[str, ...]]:
    """The network of a record that `write` made, in evaluation mode, and its classes. BadData,
    Missing or Integrity.
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
