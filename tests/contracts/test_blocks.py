"""Blocks of every torchvision model and of one small model of every timm family: what lies before
the head, once.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tlx.errors import ErrorGroup, UsageError
from tlx.features import voting
from tlx.models import backbones, blocks, folding, freezing, layers, network, training
from tlx.models.recipe import Recipe
from tlx.models.samples import Samples
from tlx.studies import activations

SMALLER = {
    "timm:sequencer2d_s": 64
}  # pixels where the usual size takes long: its LSTMs run pixel by pixel
CLASSES = 7  # a width that no layer before the head has
FAMILIES = """
    beit_base_patch16_224 eca_halonext26ts test_byobnet cait_xxs24_224 coat_tiny convit_tiny
    convmixer_768_32 test_convnext cpubone_nano crossvit_tiny_240 csatv2 cspresnext50 cspnext_s
    davit_tiny deepseek_vit_412m deit_tiny_patch16_224 densenet121 dla34 dpn68 edgenext_xx_small
    efficientformer_l1 efficientformerv2_s0 test_efficientnet efficientvim_m1 efficientvit_b0
    efficientvit_m0 eva02_tiny_patch14_224 fasternet_t0 fastvit_t8 focalnet_tiny_lrf gcvit_xxtiny
    gemma4_vit_167m ghostnet_100 hardcorenas_a hgnet_tiny hiera_tiny_224 sam2_hiera_tiny
    hrnet_w18_small iformer_t inception_next_atto inception_resnet_v2 inception_v3 inception_v4
    lcnetv2_small levit_128s lowformer_b0 test_mambaout test_maxvit caformer_s18 gmlp_b16_224
    tf_mobilenetv3_large_minimal_100 mobilenetv5_300m mobilevit_xxs mvitv2_tiny
    naflexvit_base_patch16_gap nasnetalarge nest_tiny nextvit_small test_nfnet pit_xs_224
    pnasnet5large pvt_v2_b0 qwen3_vit_88m rdnet_tiny regnetx_002 repghostnet_111 repvit_m0_9
    res2next50 resnest26d test_resnet resnetv2_18 rexnet_100 selecsls42 legacy_seresnext26_32x4d
    sequencer2d_s shvit_s1 skresnext50_32x4d starnet_s050 swiftformer_xs swin_s3_tiny_224
    swinv2_tiny_window8_256 swinv2_cr_tiny_224 tiny_vit_5m_224 tnt_s_patch16_224 tresnet_m
    twins_svt_small vgg11 visformer_tiny test_vit vit_tiny_r_s16_p8_224 test_vit_relpos
    samvit_base_patch16 vitamin_small_224 volo_d1_224 vovnet39a legacy_xception xception41
    xcit_nano_12_p8_224
""".split()  # noqa: SIM905 — a list of strings would take a page


class Noise:
    """Pixels of random images; class k is brighter in row k."""

    def __init__(self, n, crops, channels, size):
        self.crops, self.labels = crops, np.arange(n) % 3
        self.array = np.random.default_rng(n).integers(
            0, 200, (n, size, size, channels), dtype=np.uint8
        )
        for image, label in enumerate(self.labels):
            self.array[image, 4 + 6 * label : 8 + 6 * label] += 50

    def take(self, rows):
        return self.array[rows]

    def samples(self, chosen):
        images = np.arange(len(self.labels))[chosen]
        return Samples(self, images, self.labels[images])


def torchvision_names():
    return [n for n in backbones.names() if "lite0" not in n] + [
        n for n in backbones._torchvision_names() if n not in backbones.BACKBONES
    ]


def check(name):
    """The contract, on shapes alone."""
    with network.meta_device():
        net = backbones.load(
            name, weights=None, classes=CLASSES, seed=0, input_size=SMALLER.get(name)
        )
    count = len(net.blocks)
    turns = {module: turn for turn, module in enumerate(net.order)}
    head = min(turns[module] for module in net.head_names)
    ends = [net.end_of_block(number) for number in range(1, count + 1)]
    assert all(end is None or turns[end] < head for end in ends), "a block ends behind the head"
    assert ends[-1] is not None
    for module in net.blocks[-1].modules:
        assert turns.get(module, 0) < head or list(net.net.get_submodule(module).parameters()), (
            f"{module}: no feature"
        )
    # every parameter once: in one block, or in the head
    inside = [
        {id(p) for p in net.tensors(block).values() if isinstance(p, torch.nn.Parameter)}
        for block in net.blocks
    ]
    of_head = {
        id(p) for module in net.head_names for p in net.net.get_submodule(module).parameters()
    }
    every = {id(p) for p in net.net.parameters()}
    assert sum(map(len, inside)) == len(set().union(*inside)), "a parameter in two blocks"
    assert set().union(*inside) == every - of_head
    # the last block's output is not the logits
    seen = {}
    hook = net.net.get_submodule(ends[-1]).register_forward_hook(
        lambda _m, _i, output: seen.update(end=output)
    )
    blocks.run_on_shapes(
        net.net, torch.zeros(2, net.channels, net.input_size, net.input_size, device="meta")
    )
    hook.remove()
    outputs = [
        t
        for t in (seen["end"] if isinstance(seen["end"], (tuple, list)) else [seen["end"]])
        if isinstance(t, torch.Tensor)
    ]
    assert all(
        CLASSES not in (t.shape[1], t.shape[-1]) or (t.ndim == 4 and t.shape[1] > CLASSES)
        for t in outputs
    )
    # frozen 0…N: exactly the rest learns, and the optimizer is given all of that, once
    float_rows = {id(p) for p in net.net.parameters() if p.is_floating_point()}
    for frozen in {0, 1, count // 2, count - 1, count}:
        freezing.freeze(net, frozen)
        learning = {id(p) for p in net.net.parameters() if p.requires_grad}
        assert learning == float_rows - set().union(*inside[:frozen]), f"{frozen} blocks frozen"
        if frozen in (0, count):
            groups = freezing.parameter_groups(net, 0.1, 0.9)
            given = [id(p) for group in groups for p in group["params"]]
            assert sorted(given) == sorted(learning)
            assert {id(p) for p in groups[0]["params"]} == of_head & learning
        net.train()
        assert all(
            not net.net.get_submodule(m).training
            for block in net.blocks[:frozen]
            for m in block.modules
        )
        net.eval()


@pytest.mark.slow
@pytest.mark.sampled(24)
@pytest.mark.parametrize("name", torchvision_names())
def test_blocks_of_torchvision_and_of_our_own_are_features_and_cover_all(name):
    check(name)


@pytest.mark.slow
@pytest.mark.sampled(32)
@pytest.mark.parametrize("name", FAMILIES)
def test_blocks_of_every_family_of_timm_are_features_and_cover_all(name):
    timm = pytest.importorskip("timm")
    if not timm.is_model(name):
        pytest.skip(f"this timm has no {name}")
    check(f"timm:{name}")


# ---------------------------------------------------------------- with numbers


def parameters(net):
    return {name: p.detach().clone() for name, p in net.named_parameters()}


@pytest.mark.parametrize(
    ("name", "size", "recipe"),
    [
        *(
            (name, size, recipe)
            for name, size in (("mobilenet-v1-0.25", 32), ("squeezenet1_1", 40))
            for recipe in ({"head_epochs": 2}, {"freeze": "all"}, {"freeze": "all but one"})
        ),
        ("timm:levit_128s", 224, {"freeze": "all"}),
        ("timm:regnetx_002", 32, {"freeze": "all"}),
    ],
)
def test_training_behind_frozen_blocks_moves_exactly_the_rest(name, size, recipe):
    """Through the training loop, which cuts a network behind its frozen blocks."""
    net = backbones.load(name, weights=None, classes=3, seed=0, input_size=size)
    count = len(net.blocks)
    frozen = count - (recipe.get("freeze") == "all but one")
    how = {name: value for name, value in recipe.items() if name != "freeze"}
    if "freeze" in recipe:
        how["freeze"] = frozen
    rows = Noise(8, crops=1, channels=3, size=size)
    before = parameters(net.net)
    outcome = training.fit(
        net,
        rows.samples(slice(0, 6)),
        rows.samples(slice(6, 8)),
        Recipe(epochs=2, batch_size=3, learning_rate=0.5, **how),
        seed=0,
        score=voting.accuracy,
    )
    assert outcome.ended == "epochs"
    names = {id(p): name for name, p in net.net.named_parameters()}
    held = {
        names[id(p)]
        for block in net.blocks[:frozen]
        for p in net.tensors(block).values()
        if id(p) in names
    }
    moved = {name for name, p in parameters(net.net).items() if not torch.equal(p, before[name])}
    assert not moved & held
    heads = tuple(f"{module}." for module in net.head_names)
    assert moved
    assert {name for name in before if name.startswith(heads) and name.endswith("bias")} <= moved


def test_a_network_with_tied_parameters_keeps_its_numbers():
    """Looking at it on shapes leaves every tensor as it was, also in a module that has two
    names.
    """
    pytest.importorskip("timm")
    net = backbones.load("timm:coat_lite_tiny", weights=None, classes=3, seed=0)
    assert all(not p.is_meta for p in net.parameters())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    layers.survey(net, [net.end_of_block(1)])
    folding.foldable(net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    with torch.no_grad():
        assert torch.isfinite(
            net(torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)))
        ).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hrnet_w18_small", "mobilevit_xxs", "tnt_s_patch16_224"])
def test_default_layers_leave_out_blocks_without_a_row_for_each_image_and_say_so(name):
    pytest.importorskip("timm")
    net = backbones.meta_model(f"timm:{name}")
    with pytest.raises((UsageError, ErrorGroup)):
        layers.survey(net, layers.resolve(net, range(1, len(net.blocks) + 1)))
    taken = activations.layers_of(net, (), None)
    assert 0 < len(taken) < len(net.blocks)
    assert all(len(layer.shape) >= 1 for layer in layers.survey(net, taken))
    (note,) = [note for note in net.notes if "no row" in note]
    left_out = [n for n in range(1, len(net.blocks) + 1) if net.end_of_block(n) not in taken]
    assert all(str(n) in note for n in left_out)
    assert activations.layers_of(backbones.meta_model("resnet18"), (), None) == layers.resolve(
        backbones.meta_model("resnet18"), range(1, 10)
    ), "nothing is left out where every block has rows"
