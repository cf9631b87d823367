"""Transformers at other image sizes than their own: built for that size, their positions
interpolated.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tlx.errors import UsageError
from tlx.models import backbones
from tlx.models.weights import reader as weights_reader


def images(network):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, network.input_size, network.input_size, generator=generator)


def grid(embedding, prefix=1):
    """(tokens, width) → the grid of patches (width, side, side)."""
    patches = embedding[0, prefix:]
    side = round(len(patches) ** 0.5)
    return patches.T.reshape(-1, side, side)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "before", "after", "key"),
    [
        ("vit_b_32", 224, 96, "encoder.pos_embedding"),
        ("vit_b_32", 64, 224, "encoder.pos_embedding"),
        ("timm:vit_small_patch14_dinov2", 518, 224, "pos_embed"),
        ("timm:deit_tiny_patch16_224", 224, 64, "pos_embed"),
    ],
)
def test_weights_of_one_size_are_used_at_another(name, before, after, key, tmp_path):
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    source = backbones.load(name, weights=None, classes=3, seed=0, input_size=before)
    positions = source.net.state_dict()[key]
    torch.nn.init.normal_(positions, generator=torch.Generator().manual_seed(1))
    path = tmp_path / "w.safetensors"
    weights_reader.write(path, source.net.state_dict())
    network = backbones.load(
        name, weights=path, classes=None, head="keep", seed=1, input_size=after
    )
    with torch.no_grad():
        assert len(network(images(network))) == 2
    state = network.net.state_dict()
    assert all(
        torch.equal(state[k], value) for k, value in source.net.state_dict().items() if k != key
    )
    assert "interpolated" in " ".join(network.notes)
    given, found = grid(positions), grid(state[key])
    assert found.shape[1] == after // (before // given.shape[1])
    assert torch.equal(state[key][0, 0], positions[0, 0]), "the class token stays"
    own = F.interpolate(
        given[None],
        size=found.shape[1:],
        mode="bicubic",
        align_corners=name == "vit_b_32",
        antialias=name != "vit_b_32",
    )[0]
    assert torch.allclose(found, own, atol=1e-4)
    again = backbones.load(name, weights=path, classes=None, head="keep", seed=1, input_size=before)
    assert torch.equal(again.net.state_dict()[key], positions)
    assert not any("interpolated" in note for note in again.notes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("timm:swin_tiny_patch4_window7_224", 96),
        ("maxvit_t", 448),
        ("timm:test_vit", 96),
        ("swin_t", 96),
        ("resnet18", 96),
    ],
)
def test_other_families_are_built_for_the_size_that_is_asked_for(name, size):
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    network = backbones.load(name, weights=None, classes=3, seed=0, input_size=size)
    with torch.no_grad():
        assert network.eval()(images(network)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "size"), [("vit_b_32", 100), ("timm:vit_small_patch14_dinov2", 100)]
)
def test_a_size_that_patches_do_not_divide_is_refused_with_words(name, size):
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    with pytest.raises(UsageError, match="cannot take images of 100 pixels") as refused:
        backbones.load(name, weights=None, classes=3, seed=0, input_size=size)
    assert refused.value.exit_code == 2
