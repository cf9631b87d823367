"""Conversion of Keras' VGGs and ResNets to torchvision's: names, colours, biases, strides.

Keras' ImageNet weights expect blue-green-red 0-255 values less a mean. Reversing the first kernel's
channels and giving the network that mean makes them see the same from red-green-blue images. Its
ResNets stride in the first convolution of a block and have biases before batch norm; both are
carried over exactly.
"""

from __future__ import annotations

import re

import torch
from torch import nn

from ...errors import BadDataError
from .container import Weights

MEAN = (123.68 / 255, 116.779 / 255, 103.939 / 255)  # of red, green, blue, in 0-1
STD = (1 / 255, 1 / 255, 1 / 255)
DENSE = {"fc1": "classifier.0", "fc2": "classifier.3", "predictions": "classifier.6"}
NEW_NAME = re.compile(r"conv(\d)_block(\d+)_(\d)_(conv|bn)$")
OLD_NAME = re.compile(r"(res|bn)(\d)([a-z])(\d*)_branch(1|2a|2b|2c)$")
EPSILON = {"new": 1.001e-5, "old": 1e-3}


def translated(weights: Weights, net: nn.Module, name: str) -> Weights:
    """Return Keras weights under torchvision's names for `net`.

    `net` is adapted where the two libraries differ.
    """
    if re.fullmatch(r"vgg(11|13|16|19)", name):
        translation = _vgg(weights, net)
    elif re.fullmatch(r"resnet(50|101|152)", name):
        translation = _resnet(weights, net)
    else:
        raise BadDataError(
            "weights-keras",
            f"Keras weights for '{name}'",
            expected="vgg16, vgg19, resnet50, resnet101 or resnet152",
            remedy="save them as safetensors under this network's names",
        )
    first = next((key for key, t in translation.items() if t.ndim == 4), None)
    if first is not None and translation[first].shape[1] == 3:
        translation[first] = translation[first].flip(1).contiguous()
    return weights.renamed(
        translation, "Keras layers under torchvision's names, for blue-green-red less the mean"
    )


def _split(weights: Weights) -> list[tuple[str, str, torch.Tensor]]:
    return [(*key.rsplit(".", 1), tensor) for key, tensor in weights.items()]  # type: ignore[misc]


def _vgg(weights: Weights, net: nn.Module) -> dict[str, torch.Tensor]:
    convolutions = [n for n, m in net.named_modules() if isinstance(m, nn.Conv2d)]
    layers = sorted(
        {layer for layer, _, _ in _split(weights) if re.fullmatch(r"block\d_conv\d", layer)}
    )
    names = {**DENSE, **dict(zip(layers, convolutions, strict=False))}
    tensors = {
        f"{names.get(layer, layer)}.{role}": tensor for layer, role, tensor in _split(weights)
    }
    flat = tensors.get("classifier.0.weight")
    if flat is not None and flat.shape[1] == 512 * 49:  # Keras flattens height, width, channels
        tensors["classifier.0.weight"] = (
            flat.view(-1, 7, 7, 512).permute(0, 3, 1, 2).reshape(flat.shape).contiguous()
        )
    return dict(
        sorted(tensors.items(), key=lambda row: not row[0].startswith(convolutions[0] + "."))
    )


def _resnet(weights: Weights, net: nn.Module) -> dict[str, torch.Tensor]:
    tensors = {f"{_resnet_name(layer)}.{role}": tensor for layer, role, tensor in _split(weights)}
    era = "old" if any(OLD_NAME.match(layer) for layer, _, _ in _split(weights)) else "new"
    for name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = EPSILON[era]
        if (
            isinstance(module, nn.Conv2d)
            and (bias := tensors.pop(f"{name}.bias", None)) is not None
        ):
            norm = _norm_after(name) + ".running_mean"
            if norm in tensors:
                tensors[norm] = tensors[norm] - bias  # batch norm takes it away again
    for stage in ("layer2", "layer3", "layer4"):
        for part, stride in (("conv1", (2, 2)), ("conv2", (1, 1))):
            setattr(net.get_submodule(f"{stage}.0.{part}"), "stride", stride)  # noqa: B010 - mypy knows no stride
    return dict(sorted(tensors.items(), key=lambda row: not row[0].startswith("conv1.")))


def _norm_after(convolution: str) -> str:
    if convolution.endswith("downsample.0"):
        return convolution[:-1] + "1"
    holder, _, last = convolution.rpartition(".")
    return f"{holder}.{last.replace('conv', 'bn')}".lstrip(".")


def _resnet_name(layer: str) -> str:
    """Return torchvision's name of a layer of either generation of Keras' ResNets."""
    fixed = {
        "conv1_conv": "conv1",
        "conv1": "conv1",
        "conv1_bn": "bn1",
        "bn_conv1": "bn1",
        "probs": "fc",
        "predictions": "fc",
        "fc1000": "fc",
    }
    if layer in fixed:
        return fixed[layer]
    if new := NEW_NAME.match(layer):
        stage, block, number, kind = int(new[1]) - 1, int(new[2]) - 1, int(new[3]), new[4]
    elif old := OLD_NAME.match(layer):
        stage, block = int(old[2]) - 1, int(old[4]) if old[4] else ord(old[3]) - ord("a")
        number, kind = (
            {"1": 0, "2a": 1, "2b": 2, "2c": 3}[old[5]],
            "conv" if old[1] == "res" else "bn",
        )
    else:
        return layer
    if number == 0:
        return f"layer{stage}.{block}.downsample.{0 if kind == 'conv' else 1}"
    return f"layer{stage}.{block}.{kind}{number}"
