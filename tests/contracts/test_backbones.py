"""Every row of the backbones: blocks cover everything once, in the order in which it runs; frozen
stays to the bit.
"""

from __future__ import annotations

import copy

import pytest
import torch

from tlx.models import backbones, freezing

SMALL = {  # name → pixels: real training steps that one core can afford
    "mnist-cnn": 28,
    "resnet20-cifar": 32,
    "efficientnet-lite0": 64,
    "vgg11": 32,
    "resnet18": 48,
    "mobilenet_v2": 48,
    "efficientnet_b0": 48,
    "shufflenet_v2_x0_5": 48,
    "squeezenet1_1": 48,
    "densenet121": 48,
    "convnext_tiny": 32,
    "mnasnet0_5": 48,
    "regnet_y_400mf": 48,
    "swin_t": 32,
    "vit_b_32": 224,
    "googlenet": 64,
    "inception_v3": 96,
    "timm:resnet10t": 48,
    "timm:mobilenetv3_small_050": 48,
}


def everything():
    return backbones.names() + [
        n for n in backbones._torchvision_names() if n not in backbones.BACKBONES
    ]


def images(network, n=3):
    generator = torch.Generator().manual_seed(7)
    return torch.randn(
        n, network.channels, network.input_size, network.input_size, generator=generator
    )


@pytest.fixture(scope="module", params=SMALL)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def built(name):
    if "timm" in name or "lite0" in name:
        pytest.importorskip("timm")
    head = (
        "gap-linear" if name.startswith("vgg") else "auto"
    )  # without 120 million numbers of dense layers
    network = backbones.load(
        name, weights=None, classes=4, head=head, seed=1, input_size=SMALL[name]
    )
    for p in network.head.parameters():  # some start at zero, which lets no gradient through
        torch.nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(5))
    return network, copy.deepcopy(network.state_dict())


@pytest.fixture
def network(built):
    network, start = built
    network.load_state_dict(start)
    return network


@pytest.mark.slow
@pytest.mark.sampled(24)
@pytest.mark.parametrize("name", everything())
def test_blocks_cover_every_tensor_once_in_the_order_of_the_run(name):
    if "lite0" in name:
        pytest.importorskip("timm")
    sketch = backbones.meta_model(name)
    owner: dict[str, str] = {}
    for block in sketch.blocks:
        for tensor in sketch.tensors(block):
            assert tensor not in owner, f"{tensor} lies in {owner[tensor]} and {block.name}"
            owner[tensor] = block.name
    tensors = {**dict(sketch.net.named_parameters()), **dict(sketch.net.named_buffers())}
    outside = [t for t in tensors if t not in owner]
    assert outside
    assert all(t.startswith(tuple(f"{h}." for h in sketch.head_names)) for t in outside), outside
    assert len({block.name for block in sketch.blocks}) == len(sketch.blocks) >= 2
    assert all(t.device.type == "meta" for t in sketch.net.parameters())


@pytest.mark.parametrize("name", everything())
def test_a_row_says_what_it_sees(name):
    row = backbones.lookup(name)
    assert len(row.mean) == len(row.std) == row.channels in (1, 3)
    assert all(0 < s <= 1 for s in row.std)
    assert all(0 <= m < 1 for m in row.mean)
    assert row.input_size >= 28


@pytest.mark.slow
def test_blocks_run_one_after_the_other(network):
    """In a real forward pass, no module of a block has its first run before every earlier block
    began.
    """
    first: dict[int, int] = {}
    owner = {
        id(m): i
        for i, block in enumerate(network.blocks)
        for top in block.modules
        for m in network.net.get_submodule(top).modules()
    }

    def note(module, _):
        first.setdefault(id(module), len(first))

    hooks = [m.register_forward_pre_hook(note) for m in network.net.modules() if id(m) in owner]
    network.eval()
    with torch.no_grad():
        assert network(images(network)).shape == (3, 4)
    for hook in hooks:
        hook.remove()
    begun = [
        min(turn for m, turn in first.items() if owner[m] == i) for i in range(len(network.blocks))
    ]
    assert begun == sorted(begun)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["none", "some", "all"])
def test_frozen_blocks_stay_to_the_bit_and_the_others_learn(network, where):
    total = len(network.blocks)
    n = {"none": 0, "some": (total + 1) // 2, "all": total}[where]
    hold = freezing.freeze(network, n)
    before = [{k: t.clone() for k, t in network.tensors(b).items()} for b in network.blocks]
    head = [p.clone() for p in network.head.parameters()]
    step(network, hold)
    for number, (block, old) in enumerate(zip(network.blocks, before, strict=True), 1):
        new = network.tensors(block)
        if number <= n:
            assert all(torch.equal(new[k], old[k]) for k in old), (
                f"block {number}, {block.name}, moved"
            )
        else:
            assert any(not torch.equal(new[k], old[k]) for k in old), (
                f"block {number}, {block.name}, did not learn"
            )
    assert any(not torch.equal(a, b) for a, b in zip(head, network.head.parameters(), strict=True))


def step(network, hold):
    """One step of plain descent."""
    learning = [p for p in network.parameters() if p.requires_grad]
    torch.manual_seed(0)
    hold.train()
    torch.nn.functional.cross_entropy(network(images(network)), torch.tensor([0, 1, 2])).backward()
    torch.optim.SGD(learning, lr=0.1).step()
    network.zero_grad()
    assert all(torch.isfinite(p).all() for p in learning)


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "convnext_tiny", "regnetx_002", "levit_128"]
)
def test_timm_models_have_blocks_too(name):
    pytest.importorskip("timm")
    sketch = backbones.meta_model(f"timm:{name}")
    held = {t for block in sketch.blocks for t in sketch.tensors(block)}
    every = {**dict(sketch.net.named_parameters()), **dict(sketch.net.named_buffers())}
    assert all(t.startswith(sketch.head_names) for t in every.keys() - held)
    assert len(sketch.blocks) >= 5
