"""Small networks of the literature: an MNIST CNN, ResNet-20 for CIFAR, a dense network."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class MnistCnn(nn.Module):
    """CNN of two convolutions and two dense layers.

    225,034 parameters for ten classes; PyTorch's default initialisation.

    x  (n, 1, 28, 28) float32  →  logits (n, classes) float32; the log-softmax belongs to the loss
    """

    def __init__(self, classes: int = 10):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3)
        self.pool1 = nn.MaxPool2d(2)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.pool2 = nn.MaxPool2d(2)
        self.relu2 = nn.ReLU()
        self.drop1 = nn.Dropout2d(0.25)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(1600, 128)
        self.relu3 = nn.ReLU()
        self.drop2 = nn.Dropout(0.5)
        self.fc2 = nn.Linear(128, classes)
        self.to(
            memory_format=torch.channels_last
        )  # the same sums; on a CPU 2 (training) to 5 times (scoring) as fast

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, classes) of x (n, 1, 28, 28)."""
        x = self.relu1(self.pool1(self.conv1(x)))
        x = self.flatten(self.drop1(self.relu2(self.pool2(self.conv2(x)))))
        result: torch.Tensor = self.fc2(self.drop2(self.relu3(self.fc1(x))))
        return result


class DenseNetwork(nn.Module):
    """Network of dense layers on all pixels, as 'feature-transfer' prunes one of 10800-1333-200-3.

    PyTorch's default initialisation.

    x  (n, 3, 60, 60) float32  →  logits (n, classes) float32
    """

    INPUTS = 3 * 60 * 60  # 10,800: the original's frames of 45 × 80 pixels have as many

    def __init__(self, classes: int = 3, widths: tuple[int, int] = (1333, 200)):
        super().__init__()
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(self.INPUTS, widths[0])
        self.relu1 = nn.ReLU()
        self.fc2 = nn.Linear(widths[0], widths[1])
        self.relu2 = nn.ReLU()
        self.fc3 = nn.Linear(widths[1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, classes) of x (n, 3, 60, 60)."""
        x = self.relu1(self.fc1(self.flatten(x)))
        result: torch.Tensor = self.fc3(self.relu2(self.fc2(x)))
        return result


class ShortcutBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut without parameters.

    Where the shape changes, the shortcut takes every second pixel of every second row, with zeros
    for the new channels on both sides (option A of He et al. 2015, section 4.2).
    """

    def __init__(self, width_in: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.padding = stride, (width - width_in) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's activation of x (n, c, h, w)."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = F.pad(
            x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding)
        )
        return F.relu(y + shortcut)


class CifarResNet(nn.Module):
    """Residual network of 6·depth + 2 layers for 32×32 images.

    He et al. 2015, arXiv:1512.03385, section 4.2.

    x  (n, 3, s, s) float32  →  logits (n, classes) float32
    """

    def __init__(self, classes: int = 10, depth: int = 3):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = self._stage(16, 16, 1, depth)
        self.layer2 = self._stage(16, 32, 2, depth)
        self.layer3 = self._stage(32, 64, 2, depth)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(width_in: int, width: int, stride: int, depth: int) -> nn.Sequential:
        first = ShortcutBlock(width_in, width, stride)
        return nn.Sequential(first, *(ShortcutBlock(width, width, 1) for _ in range(depth - 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, classes) of x (n, 3, s, s)."""
        x = self.relu(self.bn1(self.conv1(x)))
        result: torch.Tensor = self.linear(
            self.flatten(self.pool(self.layer3(self.layer2(self.layer1(x)))))
        )
        return result
