"""Model descriptions: which layers of a network to take, as JSON.

    {"description": "VGG16 trained on ImageNet, last quarter", "input_reshape": [224, 224],
    "input_tensor": "input_2:0",
     "target_tensors": ["block5_conv3/Relu:0", "fc1/Relu:0", "fc2/Relu:0"]}

input_reshape   height and width that images are scaled to; [] for the network's own
input_tensor    kept for the record; there is one input
target_tensors  layers in the order of the features: names of the network's own, or for a VGG those
                of Keras'
                ("block5_conv3", the activation) or of its TensorFlow graph ("block5_conv3/Relu:0")
target_shapes   may be left out: of each, what it gives for one image, channels first; checked
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import files
from ..errors import BadDataError, MissingError, TlxError, UnknownNameError, nearest, raise_all
from . import layers
from .network import Network
from .weights.promises import permitted


@dataclass(frozen=True)
class Description:
    """Layers to take, and image size; input_reshape () for the network's own."""

    description: str
    input_reshape: tuple[int, ...]
    input_tensor: str
    target_tensors: tuple[str, ...]
    target_shapes: tuple[tuple[int, ...], ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return the JSON that `read` reads back."""
        shapes = (
            {"target_shapes": [list(shape) for shape in self.target_shapes]}
            if self.target_shapes
            else {}
        )
        return {
            "description": self.description,
            "input_reshape": list(self.input_reshape),
            "input_tensor": self.input_tensor,
            "target_tensors": list(self.target_tensors),
            **shapes,
        }


def _vgg16(first: str) -> tuple[str, ...]:
    every = [
        f"block{block}_conv{number}"
        for block, depth in enumerate(VGG_DEPTHS["vgg16"], 1)
        for number in range(1, depth + 1)
    ] + ["fc1", "fc2"]
    return tuple(f"{name}/Relu:0" for name in every[every.index(first) :])


VGG_DEPTHS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}

# the last quarter, half, three quarters of VGG16's convolutions and all of them, with fc1 and fc2
LAYER_SETS = {
    "model_25": _vgg16("block5_conv3"),  # 3 layers, 8,704 features
    "model_50": _vgg16("block4_conv2"),  # 7, 10,752
    "model_75": _vgg16("block3_conv1"),  # 11, 12,032
    "model_100": _vgg16("block1_conv1"),  # 15, 12,416
}


VGG16_POOLS = tuple(f"features.{i}" for i in (4, 9, 16, 23, 30))
VGG16_DENSE = ("classifier.1", "classifier.4", "classifier.6:relu")
# of 'Transferability in DNN': input, what each stage gives, output as its networks give it; of
# VGG19 (CIFAR-10) and VGG16-BN (SegNet's encoder) it measured no dense layer
THESIS_LAYERS = {
    "mnist-cnn": ("input", "conv1", "relu1", "conv2", "relu2", "relu3", "fc2:log_softmax"),
    "vgg16": ("input", *VGG16_POOLS, *VGG16_DENSE),
    "vgg16-4096": ("input", *VGG16_POOLS, *VGG16_DENSE),
    "vgg19": ("input", *(f"features.{i}" for i in (4, 9, 18, 27, 36))),
    "vgg16_bn": ("input", *(f"features.{i}" for i in (6, 13, 23, 33, 43))),
}


# ---------------------------------------------------------------- the file


def read(path: Path) -> Description:
    """Read the description in a JSON file.

    Raises MissingError, or BadDataError with everything that is wrong with it.
    """
    path = Path(path)
    with permitted(path, "model description"):
        if not path.is_file():
            if path.exists():
                raise BadDataError("not-a-file", "a model description is a JSON file", where=path)
            raise MissingError("model description", path)
        content = files.read_json(path)
    if not isinstance(content, dict):
        raise BadDataError(
            "json-type", f"{_kind(content)} at the top", where=path, expected="an object"
        )
    problems = [
        _unknown(key, path) for key in content if key not in KEYS and key != "target_shapes"
    ]
    problems += [
        BadDataError("json-key-missing", f"no '{key}'", where=path)
        for key in KEYS
        if key not in content
    ]
    for key, (fits, expected) in {**KEYS, "target_shapes": SHAPES}.items():
        if key in content and not fits(content[key]):
            problems.append(
                BadDataError(
                    "json-type", f"'{key}' is {_kind(content[key])}", where=path, expected=expected
                )
            )
    raise_all(problems)
    shapes = content.get("target_shapes", [])
    if shapes and len(shapes) != len(content["target_tensors"]):
        raise BadDataError(
            "json-count",
            f"{len(shapes)} target_shapes for {len(content['target_tensors'])} target_tensors",
            where=path,
        )
    return Description(
        content["description"],
        tuple(content["input_reshape"]),
        content["input_tensor"],
        tuple(content["target_tensors"]),
        tuple(map(tuple, shapes)),
    )


def _is_sizes(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in value
    )


def _is_names(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) and v for v in value)


KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "description": (lambda v: isinstance(v, str), "text"),
    "input_reshape": (
        lambda v: _is_sizes(v) and len(v) in (0, 2),
        "[height, width] in whole pixels, or []",
    ),
    "input_tensor": (lambda v: isinstance(v, str), "text"),
    "target_tensors": (_is_names, "a list of one or more layer names"),
}
SHAPES = (
    lambda v: isinstance(v, list) and all(_is_sizes(s) and s for s in v),
    "a list of lists of whole numbers",
)
KINDS = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}


def _kind(value: object) -> str:
    shown = repr(value)
    return (
        f"{KINDS.get(type(value), 'a number')}, {shown if len(shown) <= 60 else shown[:57] + '...'}"
    )


def _unknown(key: str, path: Path) -> TlxError:
    near = nearest(key, [*KEYS, "target_shapes"])
    return BadDataError(
        "json-unknown-key",
        f"unknown key '{key}'",
        where=path,
        expected=f"one of {', '.join(KEYS)}" + (f"; nearest: {near[0]}" if near else ""),
    )


# ---------------------------------------------------------------- the layers that it means


def modules(network: Network, names: Sequence[str | int]) -> tuple[str, ...]:
    """Return the layers of `network` with these names, those of Keras and TensorFlow included.

    See `layers.resolve`. Raises UnknownNameError, or UsageError for a layer requested twice, with
    all that is wrong.
    """
    known, foreign = network.layers(), keras_names(network)
    return layers.resolve(
        network, [name if name in known else foreign.get(_bare(name), name) for name in names]
    )


def described(network: Network, description: Description, where: object = "") -> tuple[str, ...]:
    """Return the layers of a description in `network`.

    Raises BadDataError if it does not have all of them, or takes or gives other shapes.
    """
    size = description.input_reshape
    if size and size != (network.input_size, network.input_size):
        raise BadDataError(
            "input-shape",
            f"input_reshape is {list(size)}",
            where=where,
            expected=f"[{network.input_size}, {network.input_size}], which {network.row.title} was "
            f"made for, "
            "or [] for the network's own",
        )
    names: list[str] = []
    problems: list[TlxError] = []
    for name in description.target_tensors:
        try:
            names += modules(network, [name])
        except UnknownNameError:
            problems.append(_not_there(network, name, where))
        except TlxError as error:
            problems.append(_as_data(error, where))
    raise_all(problems)
    try:
        layers.resolve(network, names)
    except TlxError as error:
        raise _as_data(error, where) from error
    if description.target_shapes:
        _check_shapes(network, description, names, where)
    return tuple(names)


def _check_shapes(
    network: Network, description: Description, names: Sequence[str], where: object
) -> None:
    problems = []
    rows = zip(
        description.target_tensors,
        description.target_shapes,
        layers.survey(network, names),
        strict=True,
    )
    for name, shape, layer in rows:
        if shape != layer.shape:
            problems.append(
                BadDataError(
                    "output-shape",
                    f"{name} gives {list(layer.shape)}",
                    where=where,
                    expected=f"{list(shape)}, as the description says",
                )
            )
    raise_all(problems)


def _not_there(network: Network, name: str, where: object) -> TlxError:
    known = [*network.layers(), *keras_names(network)]
    near = nearest(name, known, 5) or known[-5:]
    return BadDataError(
        "unknown-layer",
        f"{network.row.title} has no layer '{name}'",
        where=where,
        expected=f"one like {', '.join(near)}",
        remedy=f"or a block's number, 1 to {len(network.blocks)} (tlx backbones "
        f"{network.row.model} lists "
        "the blocks)",
    )


def _as_data(error: TlxError, where: object) -> TlxError:
    return BadDataError(
        error.code, error.what, where=where, expected=error.expected, remedy=error.remedy
    )


# ---------------------------------------------------------------- names of Keras and TensorFlow


def _bare(name: str | int) -> str:
    """Return a tensor's name without scope and output number.

    vgg16/block1_conv1/Relu:0 → block1_conv1/Relu.
    """
    text = str(name).removesuffix(":0")
    scope, _, operation = text.partition("/")
    return operation if scope.lower().startswith("vgg") and operation else text


def keras_names(network: Network) -> Mapping[str, str]:
    """Return name in Keras, or of an operation in its graph → layer, for VGGs without batch norm.

    {} for other networks.

    Of a Keras layer by its plain name the activation is meant, which is part of it there. A network
    whose dense layers were replaced has no fc1 and fc2.
    """
    names, at = dict[str, str](), 0
    for block, depth in enumerate(VGG_DEPTHS.get(network.row.model, ()), 1):
        for number in range(1, depth + 1):
            names |= _dense(f"block{block}_conv{number}", f"features.{at}", f"features.{at + 1}")
            at += 2
        names |= dict.fromkeys(
            (f"block{block}_pool", f"block{block}_pool/MaxPool"), f"features.{at}"
        )
        at += 1
    if names and "classifier.6" in network.layers():
        names |= _dense("fc1", "classifier.0", "classifier.1") | _dense(
            "fc2", "classifier.3", "classifier.4"
        )
        names["predictions/BiasAdd"] = "classifier.6"
    return names


def _dense(name: str, linear: str, activation: str) -> dict[str, str]:
    return {name: activation, f"{name}/Relu": activation, f"{name}/BiasAdd": linear}
