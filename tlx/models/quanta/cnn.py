"""QUANTA's network (Keras, 2020 and later), with that library's initialisation and settings."""

from __future__ import annotations

import re

import torch
from torch import nn

from ...errors import BadDataError
from ..weights.container import Weights


class QuantaCnn(nn.Module):
    """CNN of three blocks of two convolutions, and a dense layer.

    It has seven places for a gate, counted from 0 (blocks 1 to 7).

    Each convolution is followed by ELU, then batch norm; each block by a pool and dropout. Kernels
    start Glorot-uniform, biases at zero; batch norm has Keras's ε = 10⁻³ and momentum 0.99. With
    the stored statistics counted, as Keras does, 5,354,570 numbers for ten classes and 5,446,820
    for a hundred. The original of 2020 put a fourth block under a gate in its third one (positions
    4 and 5); this one has three.

    x  (n, 3, 32, 32) float32 in 0-1  →  logits (n, classes) float32; the softmax belongs to the
    loss
    """

    def __init__(
        self, classes: int = 10, widths: tuple[int, int, int] = (64, 128, 256), dense: int = 1024
    ):
        super().__init__()
        before = 3
        for number, width in enumerate(widths, 1):
            for part in ("a", "b"):
                self.add_module(f"conv{number}{part}", nn.Conv2d(before, width, 3, padding=1))
                self.add_module(f"elu{number}{part}", nn.ELU())
                self.add_module(f"bn{number}{part}", nn.BatchNorm2d(width, eps=1e-3, momentum=0.01))
                before = width
            self.add_module(f"pool{number}", nn.MaxPool2d(2))
            self.add_module(f"drop{number}", nn.Dropout(0.3))
        self.flatten = nn.Flatten()
        self.dense = nn.Linear(16 * before, dense)
        self.elu = nn.ELU()
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(dense, classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, classes) of x (n, 3, 32, 32)."""
        for layer in self.children():
            x = layer(x)
        return x


class QuantaCnn2020(QuantaCnn):
    """The same network with the paper's widths, 512 and 2,048.

    20,015,690 numbers for ten classes, 20,200,100 for a hundred.
    """

    def __init__(self, classes: int = 10):
        super().__init__(classes, (64, 128, 512), 2048)


# ---------------------------------------------------------------- the original's weight files

PARTS = [f"{number}{part}" for number in (1, 2, 3) for part in ("a", "b")]
NAMES = {
    "convolutions": [f"conv{p}" for p in PARTS],
    "batch norms": [f"bn{p}" for p in PARTS],
    "dense layers": ["dense", "head"],
}


def from_keras(weights: Weights) -> Weights:
    """Return Keras weights of this network (SourceModel.h5 and similar) under its names here.

    Layers are matched by their numbers.

    Raises BadDataError unless there are six convolutions, six batch norms and two dense layers.
    """
    layers = sorted({key.rpartition(".")[0] for key in weights}, key=_number)
    axes = {
        layer: weights[f"{layer}.weight"].ndim for layer in layers if f"{layer}.weight" in weights
    }
    theirs = {
        "convolutions": [n for n in layers if axes.get(n) == 4],
        "dense layers": [n for n in layers if axes.get(n) == 2],
        "batch norms": [n for n in layers if f"{n}.running_mean" in weights],
    }
    counts = ", ".join(f"{len(group)} {what}" for what, group in theirs.items())
    if any(len(theirs[what]) != len(own) for what, own in NAMES.items()):
        raise BadDataError(
            "weights-keras", counts, expected="6 convolutions, 2 dense layers, 6 batch norms"
        )
    state = {
        f"{own}.{role}": weights[f"{their}.{role}"]
        for what in NAMES
        for own, their in zip(NAMES[what], theirs[what], strict=True)
        for role in ("weight", "bias", "running_mean", "running_var")
        if f"{their}.{role}" in weights
    }
    width = len(state["conv3b.weight"])
    flat = state["dense.weight"]  # Keras flattens height, width, channels
    if flat.shape[1] == 16 * width:
        state["dense.weight"] = (
            flat.view(-1, 4, 4, width).permute(0, 3, 1, 2).reshape(flat.shape).contiguous()
        )
    return weights.renamed(state, "Keras layers under this network's names")


def _number(layer: str) -> tuple[str, int]:
    name, number = re.fullmatch(r"(.*?)(?:_(\d+))?", layer).groups()  # type: ignore[union-attr]
    return name, int(number or 0)
