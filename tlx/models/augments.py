"""Random augmentation, each image by itself: crop, rotate, shift, shear, zoom and flip."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2


def _originals(size: int) -> v2.Transform:
    """Use the settings given to Keras's ImageDataGenerator in 2020.

    Up to 45°, a tenth of the size either way, shear by up to 0.1° (its shear range is in degrees),
    zoom 0.9 to 1.1, both flips, borders continued.
    """
    return _moved(size, 45.0, 0.1, "edge")


def _later(size: int) -> v2.Transform:
    """Use the settings of Keras's layers.

    Up to 36°, a tenth of the size either way, zoom 0.9 to 1.1, both flips, borders mirrored.
    """
    return _moved(size, 36.0, 0.0, "reflect")


def _moved(size: int, degrees: float, shear: float, border: str) -> v2.Transform:
    room = size // 2
    return v2.Compose(
        [
            v2.Pad(room, padding_mode=border),
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.RandomAffine(
                degrees,
                (0.1 * size / (size + 2 * room),) * 2,
                (0.9, 1.1),
                (-shear, shear),
                InterpolationMode.BILINEAR,
            ),
            v2.CenterCrop(size),
        ]
    )


def _crop_flip(size: int) -> v2.Transform:
    """Use what ImageNet networks are trained with: 8 to 100 % of the area, 3:4 to 4:3, mirrored."""
    return v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()])


AUGMENTS: dict[str, Callable[[int], v2.Transform]] = {
    "crop-flip": _crop_flip,
    "2020": _originals,
    "2025": _later,
}


def augmented(x: Tensor, name: str, seed: int) -> Tensor:
    """Return x (n, channels, s, s) augmented by a row of AUGMENTS, each image by itself.

    "none" returns x. Draws from random numbers of its own: the same seed gives the same images, and
    no other random state changes.
    """
    if name == "none":
        return x
    transform = AUGMENTS[name](x.shape[-1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.stack([transform(image) for image in x])
