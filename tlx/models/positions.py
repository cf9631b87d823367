"""Transfer of position embeddings to the same network at another image size.

Vision transformers have an embedding for every patch position. For another number of patches it is
interpolated (bicubic) over the grid of patches, as torchvision and timm do; tokens before the
patches (a class token) stay.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from torch import Tensor, nn

from .weights.container import Weights

TORCHVISION_VIT = "encoder.pos_embedding"


def resized(weights: Weights, net: nn.Module) -> Weights:
    """Return the weights at the size of `net`.

    Unchanged where their shapes fit, or where no way to resize is known.
    """
    own = net.state_dict()
    other = [
        name
        for name, t in weights.items()
        if name in own and t.shape != own[name].shape and _of_positions(name)
    ]
    if not other:
        return weights
    resized_weights = (
        _torchvision(weights, net) if TORCHVISION_VIT in other else _timm(weights, net)
    )
    done = [
        name
        for name in other
        if name in resized_weights and resized_weights[name].shape == own[name].shape
    ]
    if not done:
        return weights
    shapes = f"{tuple(weights[done[0]].shape)} to {tuple(own[done[0]].shape)}"
    return weights.renamed(
        resized_weights, f"positions interpolated for another image size: '{done[0]}' from {shapes}"
    )


def _of_positions(name: str) -> bool:
    return any(word in name for word in ("pos", "rel_", "relative", "freqs", "attn_mask"))


def _torchvision(weights: Weights, net: nn.Module) -> Mapping[str, Tensor]:
    from torchvision.models.vision_transformer import interpolate_embeddings

    size, patch = int(net.image_size), int(net.patch_size)  # type: ignore[arg-type]
    positions = interpolate_embeddings(size, patch, {TORCHVISION_VIT: weights[TORCHVISION_VIT]})
    return {**weights, TORCHVISION_VIT: positions[TORCHVISION_VIT]}


def _timm(weights: Weights, net: nn.Module) -> Mapping[str, Tensor]:
    """Return the weights resized by the model's own filter of timm."""
    convert = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return weights
    converted = convert(dict(weights), net)
    return {**weights, **{name: converted[name] for name in weights if name in converted}}
