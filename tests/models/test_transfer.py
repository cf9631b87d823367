"""Freezing, the three ways of batch norm, heads, the seed's configurations, layer-wise learning
rates.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tlx import models
from tlx.errors import ErrorGroup, UnknownNameError, UsageError
from tlx.models import backbones, freezing
from tlx.models.weights import keras as weights_keras


def resnet(seed=0, **options):
    return backbones.load("resnet20-cifar", weights=None, classes=3, seed=seed, **options)


def batch(network, shift=0.0, n=4):
    generator = torch.Generator().manual_seed(3)
    return (
        torch.randn(
            n, network.channels, network.input_size, network.input_size, generator=generator
        )
        + shift
    )


def statistics(network):
    return {k: b.clone() for k, b in network.net.named_buffers()}


def weights(network, names):
    return {k: p.detach().clone() for k, p in network.net.named_parameters() if k.startswith(names)}


# ---------------------------------------------------------------- batch norm


def test_frozen_batch_norm_uses_and_keeps_the_sources_statistics():
    network = resnet()
    hold = freezing.freeze(network, 1)
    network.eval()
    at_test = network.net.bn1(network.net.conv1(batch(network, 5.0)))
    before = statistics(network)
    hold.train()
    in_training = network.net.bn1(network.net.conv1(batch(network, 5.0)))
    network(batch(network, 5.0))
    assert torch.equal(at_test, in_training)
    after = statistics(network)
    assert all(torch.equal(before[k], after[k]) for k in before if k.startswith("bn1."))
    assert any(not torch.equal(before[k], after[k]) for k in before if k.startswith("layer3."))


def test_adapt_moves_the_statistics_and_nothing_else():
    network = resnet()
    hold = freezing.freeze(network, 4, bn="adapt")
    before, held = statistics(network), weights(network, ("conv1", "bn1", "layer1"))
    optimizer = torch.optim.SGD(
        [p for p in network.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1
    )
    hold.train()
    network(batch(network, 5.0)).square().sum().backward()
    optimizer.step()
    after = statistics(network)
    assert not torch.equal(before["bn1.running_mean"], after["bn1.running_mean"])
    assert not torch.equal(before["layer1.2.bn2.running_var"], after["layer1.2.bn2.running_var"])
    assert all(torch.equal(v, network.net.get_parameter(k)) for k, v in held.items())


def test_keras2_trains_on_batch_statistics_and_tests_on_the_sources():
    network = resnet()
    hold = freezing.freeze(network, 1, bn="keras2")
    features = network.net.conv1(batch(network, 5.0))
    before = statistics(network)
    hold.train()
    in_training = network.net.bn1(features)
    network(batch(network, 5.0))
    mean = in_training.mean(dim=(0, 2, 3))
    assert torch.allclose(mean, torch.zeros_like(mean), atol=1e-4)  # normalised by the batch itself
    after = statistics(network)
    assert all(torch.equal(before[k], after[k]) for k in before if k.startswith("bn1."))
    network.eval()
    expected = (
        features / (1 + network.net.bn1.eps) ** 0.5
    )  # stored statistics of a fresh network: mean 0, variance 1
    assert torch.allclose(network.net.bn1(features), expected, atol=1e-5)


def test_another_way_of_batch_norm_forgets_the_one_before():
    network = resnet()
    freezing.freeze(network, 4, bn="keras2")
    hold = freezing.freeze(network, 0)
    before = statistics(network)
    hold.train()
    network(batch(network, 5.0))
    after = statistics(network)
    assert not torch.equal(before["bn1.running_mean"], after["bn1.running_mean"])
    assert all(p.requires_grad for p in network.parameters())


def test_dropout_in_frozen_blocks_is_off_and_in_the_head_on():
    network = backbones.load("mnist-cnn", weights=None, classes=10, seed=0)
    freezing.freeze(network, 3).train()
    assert not network.net.drop1.training
    assert network.net.drop2.training


def test_the_mode_is_frozen_by_default_and_an_unknown_one_is_named():
    assert freezing.freeze(resnet(), 2).hold.bn == "frozen"
    with pytest.raises(UnknownNameError, match="keras2"):
        freezing.freeze(resnet(), 2, bn="keras")


# ---------------------------------------------------------------- what can be frozen


def test_names_of_modules_and_bare_parameters_freeze():
    network = backbones.load("vit_b_32", weights=None, classes=2, seed=0)
    freezing.freeze(network, ["class_token", "encoder.layers.encoder_layer_3", "encoder.ln"])
    held = {k for k, p in network.net.named_parameters() if not p.requires_grad}
    assert "class_token" in held
    assert {k for k in held if k.startswith("encoder.layers.")} == {
        k
        for k, _ in network.net.named_parameters()
        if k.startswith("encoder.layers.encoder_layer_3.")
    }
    assert "conv_proj.weight" not in held


def test_a_name_that_is_not_there_is_refused_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"nearest: layer1\.\d"):
        freezing.freeze(resnet(), ["layer1.O"])
    with pytest.raises(ErrorGroup):
        freezing.freeze(resnet(), ["nothing", "like this"])


@pytest.mark.parametrize("n", [-1, 11])
def test_a_number_of_blocks_out_of_range_is_refused(n):
    with pytest.raises(UsageError, match="0 to 10"):
        freezing.freeze(resnet(), n)


def test_going_back_to_training_keeps_what_is_frozen():
    network = freezing.freeze(resnet(), 4)
    network.eval()
    before = statistics(network)
    network.train()
    network(batch(network, 2.0))
    moved = {
        k
        for k, b in statistics(network).items()
        if not torch.equal(b, before[k]) and "running" in k
    }
    assert moved
    assert not moved & {k for block in network.blocks[:4] for k in network.tensors(block)}


def test_blocks_are_copied_with_their_statistics():
    network, source = resnet(0), resnet(1)
    source.train()
    source(batch(source, 2.0))
    own = {k: t.clone() for k, t in network.net.state_dict().items()}
    freezing.copy_blocks(network, source, 4, 10)
    theirs = source.net.state_dict()
    for k, t in network.net.state_dict().items():
        first = k.startswith(("conv1", "bn1", "layer1.0", "layer1.1", "linear"))
        assert torch.equal(t, (own if first else theirs)[k]), k
    assert not torch.equal(own["layer3.2.conv2.weight"], theirs["layer3.2.conv2.weight"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("copied", "frozen", "cut"),
    [
        (0, 0, None),
        (None, 0, None),
        (None, 10, None),
        (4, 4, None),
        (4, 0, None),
        (6, 2, 5),
        (3, 3, 3),
    ],
)
def test_a_condition_is_one_call(copied, frozen, cut):
    source = resnet(1).train()
    source(batch(source, 2.0))
    before = {k: t.clone() for k, t in source.net.state_dict().items()}
    network = models.transfer(source, copied, frozen, cut, classes=5, seed=7)
    fresh = backbones.load("resnet20-cifar", weights=None, classes=5, seed=7)
    n, kept = 10 if copied is None else copied, 10 if cut is None else cut
    assert len(network.blocks) == kept
    assert network.training
    for number, block in enumerate(network.blocks, 1):
        theirs = (source if number <= n else fresh).net.state_dict()
        for name, tensor in network.tensors(block).items():
            assert torch.equal(tensor, theirs[name.removeprefix("body.")]), name
            if isinstance(tensor, nn.Parameter):
                assert tensor.requires_grad == (number > frozen), name
    if cut is None:
        assert torch.equal(network.head.weight, fresh.head.weight)
    running = statistics(network)
    assert network(batch(network, 1.0)).shape == (4, 5)
    moved = {
        k
        for k, b in statistics(network).items()
        if not torch.equal(b, running[k]) and "running" in k
    }
    held = {k for block in network.blocks[:frozen] for k in network.tensors(block)}
    reached = {k for block in network.blocks[frozen:] for k in network.tensors(block)}
    assert not moved & held
    assert bool(moved) == any("running" in k for k in reached)
    assert all(torch.equal(t, before[k]) for k, t in source.net.state_dict().items())
    assert source.hold is None


def test_a_condition_of_a_named_backbone_has_its_own_weights_and_as_many_classes():
    network = models.transfer("mnist-cnn", 2, 1)
    own = backbones.load("mnist-cnn", weights="default", classes=None, seed=0)
    assert network.head.out_features == 10
    for block in network.blocks[:2]:
        for name, tensor in network.tensors(block).items():
            assert torch.equal(tensor, own.net.state_dict()[name])
    assert not torch.equal(network.net.fc1.weight, own.net.fc1.weight)
    assert not torch.equal(network.head.weight, own.head.weight)


@pytest.mark.parametrize(
    "asked",
    [
        {"copied": 2, "frozen": 3},
        {"copied": 2, "frozen": -1},
        {"copied": 11},
        {"frozen": 4, "cut": 3},
        {"cut": 0},
        {"copied": -1},
    ],
)
def test_a_condition_that_cannot_be_is_refused(asked):
    with pytest.raises(UsageError):
        models.transfer(resnet(), **asked)


def test_a_condition_of_a_network_with_another_head_is_refused():
    source = backbones.load("vgg11", weights=None, classes=3, seed=0, head="mlp256")
    with pytest.raises(UsageError, match=r"classifier\.6"):
        models.transfer(source, 2)


@pytest.mark.parametrize(
    "name", ["mnist-cnn", "efficientnet-lite0", "vgg16", "resnet18", "timm:resnet18"]
)
def test_a_row_is_found_again_by_its_name(name):
    row = backbones.lookup(name)
    assert backbones.lookup(backbones.name_of(row)) == row


def test_blocks_of_another_architecture_are_not_copied():
    with pytest.raises(UsageError):
        freezing.copy_blocks(
            resnet(), backbones.load("mnist-cnn", weights=None, classes=3, seed=0), 1, 2
        )


# ---------------------------------------------------------------- the seed's configurations


@pytest.mark.parametrize(
    ("name", "counts"),
    [("VGG16", (0, 4, 8, 12)), ("ResNet50", (0, 13, 28, 40)), ("ResNet152", (0, 38, 76, 114))],
)
def test_configurations_hold_the_first_convolutions(name, counts):
    sketch = backbones.meta_model(name)
    convolutions = {k for k, m in sketch.net.named_modules() if isinstance(m, nn.Conv2d)}
    for configuration, count in enumerate(counts):
        names = freezing.published_configuration(name, configuration)
        assert len(set(names)) == len(names) == count
        assert set(names) <= convolutions
    order = freezing._keras_order(name.lower())
    shortcuts = {k for k in convolutions if "downsample" in k} if name == "ResNet152" else set()
    assert set(order) == convolutions - shortcuts  # the whole order: nothing missed
    assert len(set(order)) == len(order)


def test_the_configurations_of_resnet152_are_those_of_the_original_list():
    """Its list names Keras' layers conv1_conv, then _1_conv, _2_conv, _3_conv of every block: no
    shortcut, _0_conv.
    """
    listed = ["conv1_conv"] + [
        f"conv{stage}_block{block}_{number}_conv"
        for stage, depth in ((2, 3), (3, 8), (4, 36), (5, 3))
        for block in range(1, depth + 1)
        for number in (1, 2, 3)
    ]
    assert len(listed) == 151
    for configuration in range(4):
        names = freezing.published_configuration("ResNet152", configuration)
        assert names == tuple(
            weights_keras._resnet_name(layer) for layer in listed[: 38 * configuration]
        )
    assert freezing.published_configuration("ResNet152", 1)[-1] == "layer3.1.conv1"


def test_the_order_is_that_of_keras_layers():
    assert freezing.published_configuration("VGG16", 1) == (
        "features.0",
        "features.2",
        "features.5",
        "features.7",
    )
    assert freezing.published_configuration("ResNet50", 1) == (
        "conv1",
        "layer1.0.conv1",
        "layer1.0.conv2",
        "layer1.0.downsample.0",
        "layer1.0.conv3",
        "layer1.1.conv1",
        "layer1.1.conv2",
        "layer1.1.conv3",
        "layer1.2.conv1",
        "layer1.2.conv2",
        "layer1.2.conv3",
        "layer2.0.conv1",
        "layer2.0.conv2",
    )


def test_a_configuration_freezes_convolutions_and_never_batch_norm():
    network = backbones.load("resnet50", weights=None, classes=2, seed=0, input_size=32)
    hold = freezing.freeze(network, freezing.published_configuration("ResNet50", 3))
    before = statistics(network)
    hold.train()
    network(batch(network, 2.0))
    held = {k for k, p in network.net.named_parameters() if not p.requires_grad}
    assert held == {f"{n}.weight" for n in freezing.published_configuration("ResNet50", 3)}
    after = statistics(network)
    assert all(not torch.equal(before[k], after[k]) for k in before if k.endswith("running_mean"))


def test_other_architectures_are_sent_to_freeze():
    with pytest.raises(UsageError, match="--freeze"):
        freezing.published_configuration("mnist-cnn", 1)
    with pytest.raises(UsageError, match="0, 1, 2 or 3"):
        freezing.published_configuration("VGG16", 4)


# ---------------------------------------------------------------- heads


def test_the_seeds_head_on_vgg16():
    network = backbones.load("VGG16", weights=None, classes=7, seed=0, input_size=32)
    assert [tuple(m.weight.shape) for m in network.head if isinstance(m, nn.Linear)] == [
        (256, 25088),
        (256, 256),
        (7, 256),
    ]
    assert not any(isinstance(m, nn.Dropout) for m in network.net.modules())
    assert [b.name for b in network.blocks] == [
        f"features.{i}" for i in freezing.VGG16_CONVOLUTIONS
    ]
    for layer in network.head:
        if isinstance(
            layer, nn.Linear
        ):  # Glorot: uniform within √(6 / (in + out)), so of standard deviation bound/√3
            bound = (6 / sum(layer.weight.shape)) ** 0.5
            assert layer.weight.abs().max() <= bound
            assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
            assert not layer.bias.any()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "head", "shapes"),
    [
        ("resnet18", "auto", [(5, 512)]),
        ("resnet18", "gap-linear", [(5, 512)]),
        ("resnet18", "mlp256", [(256, 512), (256, 256), (5, 256)]),
        ("vgg11", "gap-linear", [(5, 512)]),
        ("vgg11", "auto", [(5, 4096)]),
        ("squeezenet1_1", "linear", [(5, 512, 1, 1)]),
        ("mnist-cnn", "auto", [(5, 128)]),
        ("mnist-cnn", "mlp256", [(256, 128), (256, 256), (5, 256)]),
    ],
)
def test_heads(name, head, shapes):
    size = 28 if name == "mnist-cnn" else 64
    network = backbones.load(name, weights=None, classes=5, head=head, seed=0, input_size=size)
    layers = [m for m in network.head.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    assert [tuple(m.weight.shape) for m in layers] == shapes
    network.eval()
    assert network(batch(network)).shape == (4, 5)


def test_fresh_heads_follow_the_seed():
    a, b, c = (resnet(seed, head="mlp256").head[0].weight for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_an_unknown_head_is_named():
    with pytest.raises(UnknownNameError, match="mlp256"):
        resnet(head="mlp265")


# ---------------------------------------------------------------- layer-wise learning rates


def test_learning_rates_fall_with_the_distance_from_the_head():
    network = backbones.load("mnist-cnn", weights=None, classes=10, seed=0)
    groups = freezing.parameter_groups(network, 0.8, 0.5)
    assert [(g["name"], g["lr"]) for g in groups] == [
        ("head", 0.8),
        ("fc1", 0.4),
        ("conv2", 0.2),
        ("conv1", 0.1),
    ]
    assert sum(p.numel() for g in groups for p in g["params"]) == 225_034
    freezing.freeze(network, 2)
    assert [g["name"] for g in freezing.parameter_groups(network, 0.8, 0.5)] == ["head", "fc1"]
    assert len({id(p) for g in groups for p in g["params"]}) == len(list(network.parameters()))
