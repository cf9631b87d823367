"""MobileNet v1 as in Keras: 13 blocks of a depthwise and a 1×1 convolution, widths times α.

Howard et al. 2017 (arXiv:1704.04861), table 1, with Keras' paddings (at stride 2 only below and to
the right), batch norms and head (a 1×1 convolution), so that Keras' weights give Keras' numbers.
The first convolution is part of block 1, as in the study 'feature-transfer', which copies and
freezes the two together: its n is the number of a block here.
"""

from __future__ import annotations

import re
from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F

from .weights.container import Weights

FIRST = 32  # channels of the first convolution
WIDTHS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
KERAS = {"conv1": "block1.first.conv", "conv1_bn": "block1.first.bn", "conv_preds": "head"}
KERAS_PARTS = {"dw": "depthwise", "pw": "pointwise"}


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, and ReLU6."""

    def __init__(self, width_in: int, width: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__()
        padding = kernel // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(width_in, width, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)
        self.relu = nn.ReLU6()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the activation of x (n, c, h, w)."""
        result: torch.Tensor = self.relu(
            self.bn(self.conv(F.pad(x, (0, 1, 0, 1)) if self.conv.stride[0] == 2 else x))
        )
        return result


class SeparableBlock(nn.Module):
    """Depthwise 3×3 convolution and 1×1 convolution; in block 1 after the first convolution."""

    def __init__(self, width_in: int, width: int, stride: int, first: ConvNorm | None = None):
        super().__init__()
        if first is not None:
            self.first = first
        self.depthwise = ConvNorm(width_in, width_in, 3, stride, groups=width_in)
        self.pointwise = ConvNorm(width_in, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's activation of x (n, c, h, w)."""
        if hasattr(self, "first"):
            x = self.first(x)
        result: torch.Tensor = self.pointwise(self.depthwise(x))
        return result


class MobileNetV1(nn.Module):
    """MobileNet v1.

    For α = 1 and three classes Keras counts 3,231,939 parameters, statistics of batch norm
    included.

    x  (n, 3, s, s) float32  →  logits (n, classes) float32
    """

    def __init__(self, classes: int = 1000, alpha: float = 1.0):
        super().__init__()
        width, layers = int(FIRST * alpha), OrderedDict[str, nn.Module]()
        for number, (full, stride) in enumerate(zip(WIDTHS, STRIDES, strict=True), 1):
            first = ConvNorm(3, width, 3, 2) if number == 1 else None
            layers[f"block{number}"] = SeparableBlock(width, int(full * alpha), stride, first)
            width = int(full * alpha)
        for name, block in layers.items():
            self.add_module(name, block)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(1e-3)
        self.head = nn.Conv2d(width, classes, 1)
        self.flatten = nn.Flatten()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, classes) of x (n, 3, s, s)."""
        for number in range(1, len(WIDTHS) + 1):
            x = self.get_submodule(f"block{number}")(x)
        result: torch.Tensor = self.flatten(self.head(self.drop(self.pool(x))))
        return result


def from_keras(weights: Weights) -> Weights:
    """Return Keras' weights of a MobileNet under the names here.

    They expect red-green-blue from −1 to 1, as the row has it.
    """
    return weights.renamed(
        {_name(key): tensor for key, tensor in weights.items()}, "Keras' layers of MobileNet v1"
    )


def _name(key: str) -> str:
    layer, _, role = key.rpartition(".")
    if match := re.fullmatch(r"conv_(dw|pw)_(\d+)(_bn)?", layer):
        layer = f"block{match[2]}.{KERAS_PARTS[match[1]]}.{'bn' if match[3] else 'conv'}"
    return f"{KERAS.get(layer, layer)}.{role}"
