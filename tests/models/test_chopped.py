"""Networks put together, chopped, measured and pruned: against what the whole network and plain
torch say.
"""

from __future__ import annotations

import copy
import json

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tlx.errors import BadDataError, IntegrityError, UnknownNameError, UsageError
from tlx.features import voting
from tlx.models import backbones, chopped, footprint, masks, training
from tlx.models.activations import capture
from tlx.models.optimizers import OPTIMIZERS
from tlx.models.recipe import Recipe
from tlx.models.samples import Samples
from tlx.models.transferred import transferred


def images(network, n=3):
    generator = torch.Generator().manual_seed(7)
    return torch.randn(
        n, network.channels, network.input_size, network.input_size, generator=generator
    )


def state(network):
    return {name: t.clone() for name, t in network.net.state_dict().items()}


class Noise:
    """Pixels of random images."""

    crops = 1

    def __init__(self, n, channels, size):
        self._array = np.random.default_rng(n).integers(
            0, 256, (n, size, size, channels), dtype=np.uint8
        )

    def take(self, rows):
        return self._array[rows]


def parts(network, train=24, val=8):
    noise, labels = (
        Noise(train + val, network.channels, network.input_size),
        np.arange(train + val) % 3,
    )
    return [
        Samples(noise, rows, labels[rows])
        for rows in (np.arange(train), np.arange(train, train + val))
    ]


def fit(network, recipe):
    return training.fit(network, *parts(network), recipe, seed=1, score=voting.accuracy)


# ---------------------------------------------------------------- MobileNet v1


def test_mobilenet_has_the_parameters_that_keras_counts():
    network = backbones.load("mobilenet-v1", weights=None, classes=3, seed=0, input_size=64)
    assert footprint.footprint(network, Recipe()).numbers == 3_231_939
    assert [block.name for block in network.blocks] == [f"block{n}" for n in range(1, 14)]
    assert network.blocks[0].modules == ("block1",), "the first convolution goes with block 1"
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 27
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.01)}
    assert [
        m.stride[0]
        for m in network.modules()
        if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)
    ] == [2, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]


def test_mobilenet_cut_at_11_has_the_size_of_the_study():
    network = chopped.chop(
        backbones.load("mobilenet-v1", weights=None, classes=3, seed=0, input_size=64), 11, 3, 0
    )
    assert footprint.footprint(network, Recipe()).numbers == pytest.approx(1.63e6, rel=0.005)


@pytest.mark.parametrize("alpha", ["0.25", "0.5", "0.75"])
def test_a_smaller_alpha_is_a_narrower_mobilenet(alpha):
    network = backbones.load(
        f"mobilenet-v1-{alpha}", weights=None, classes=3, seed=0, input_size=32
    )
    assert network.head.in_channels == 1024 * float(alpha)
    assert network.net.block1.first.conv.out_channels == 32 * float(alpha)


def test_mobilenet_pads_below_and_to_the_right_at_stride_two():
    network = backbones.load("mobilenet-v1-0.25", weights=None, classes=3, seed=0, input_size=32)
    convolution = network.net.block1.first
    x = torch.zeros(1, 3, 32, 32)
    x[0, :, 0, 0] = 1  # the upper left corner is seen by one window only: nothing is padded there
    found = convolution.conv(nn.functional.pad(x, (0, 1, 0, 1)))
    assert found.shape[-1] == 16
    with torch.no_grad():
        assert torch.equal(convolution.eval()(x), convolution.relu(convolution.bn(found)))
    assert torch.count_nonzero(found.sum(1)) == 1


def test_keras_weights_of_a_mobilenet_have_names_here(tmp_path):
    from tlx.models import mobilenet_v1
    from tlx.models.weights import reader as weights_reader

    network = backbones.load("mobilenet-v1-0.25", weights=None, classes=3, seed=3, input_size=32)
    roles = {
        "weight": "gamma",
        "bias": "beta",
        "running_mean": "moving_mean",
        "running_var": "moving_variance",
    }
    with h5py.File(tmp_path / "m.h5", "w") as file:
        for name, tensor in network.net.state_dict().items():
            block, _, role = name.rpartition(".")
            if role == "num_batches_tracked":
                continue
            layer, array = keras_layer(block), tensor.numpy()
            if block.endswith("bn"):
                role = roles[role]
            elif role == "weight":
                role = "depthwise_kernel" if "_dw_" in layer else "kernel"
                array = (
                    array.transpose(2, 3, 0, 1) if "_dw_" in layer else array.transpose(2, 3, 1, 0)
                )
            file[f"{layer}/{layer}/{role}:0"] = array
    found = mobilenet_v1.from_keras(weights_reader.read(tmp_path / "m.h5"))
    other = backbones.load("mobilenet-v1-0.25", weights=None, classes=3, seed=4, input_size=32)
    assert weights_reader.load_into(other.net, found, least=1.0).share == 1
    with torch.no_grad():
        assert torch.equal(other(images(other)), network(images(network)))


def keras_layer(name):
    if name == "head":
        return "conv_preds"
    block, part, kind = name.split(".")
    ending = "_bn" * (kind == "bn")
    if part == "first":
        return "conv1" + ending
    short = {"depthwise": "dw", "pointwise": "pw"}[part]
    return f"conv_{short}_{block.removeprefix('block')}{ending}"


# ---------------------------------------------------------------- put together


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A ResNet-20 of five classes whose batch norms have seen something."""
    network = backbones.load("resnet20-cifar", weights=None, classes=5, seed=9)
    network.train()
    network(images(network, 4) * 2 + 1)
    path = tmp_path_factory.mktemp("source") / "a.safetensors"
    save_file(network.net.state_dict(), path)
    return str(path), network.eval()


@pytest.mark.parametrize("copied", [1, 4, 10])
def test_blocks_come_from_the_source_and_all_else_from_the_seed(source, copied):
    path, theirs = source
    network = transferred("resnet20-cifar", weights=path, copied=copied, classes=3, seed=2)
    fresh = backbones.load("resnet20-cifar", weights=None, classes=3, seed=2)
    given, drawn, found = theirs.net.state_dict(), fresh.net.state_dict(), network.net.state_dict()
    from_source = {name for block in network.blocks[:copied] for name in network.tensors(block)}
    for name, tensor in found.items():
        assert torch.equal(tensor, (given if name in from_source else drawn)[name]), name
    assert network.head.out_features == 3


def test_nothing_copied_is_the_random_network(source):
    fresh = backbones.load("resnet20-cifar", weights=None, classes=3, seed=2)
    none = transferred("resnet20-cifar", weights=source[0], copied=0, classes=3, seed=2)
    assert all(
        torch.equal(t, none.net.state_dict()[name]) for name, t in fresh.net.state_dict().items()
    )


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"copied": 11}, "0 to 10"),
        ({"copied": -1}, "0 to 10"),
        ({"copied": 2, "cut": 0}, "1 to 10"),
        ({"copied": 2, "cut": 11}, "1 to 10"),
    ],
)
def test_blocks_that_are_not_there_are_refused(source, settings, says):
    with pytest.raises(UsageError, match=says):
        transferred("resnet20-cifar", weights=source[0], classes=3, seed=0, **settings)


# ---------------------------------------------------------------- chopped

CHOPPED = [
    ("mnist-cnn", 28, (1, 2, 3)),
    ("resnet20-cifar", 32, (1, 5, 10)),
    ("mobilenet-v1-0.25", 64, (1, 7, 13)),
    ("densenet121", 32, (1, 40)),
    ("vit_b_32", 224, (2,)),
    ("swin_t", 32, (1, 9)),
    ("squeezenet1_1", 48, (9,)),
    ("vgg11", 32, (4,)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size", "depths"), CHOPPED, ids=[row[0] for row in CHOPPED])
def test_what_a_chopped_network_sees_is_what_the_whole_one_saw(name, size, depths):
    head = "gap-linear" if name == "vgg11" else "auto"
    whole = backbones.load(name, weights=None, classes=4, head=head, seed=1, input_size=size)
    x = images(whole, 2)
    for depth in depths:
        network = chopped.chop(copy.deepcopy(whole), depth, 5, seed=0).eval()
        layer = network.net.last.module
        expected = capture(whole, x, [layer], reduce="pooled")[layer]
        with torch.no_grad():
            assert torch.equal(network.net.features(x), expected)
            assert torch.equal(network(x), network.head(expected))
        assert len(network.blocks) == depth
        held = {name for block in network.blocks for name in network.tensors(block)}
        every = {*dict(network.net.named_parameters()), *dict(network.net.named_buffers())}
        assert every - held == {"head.weight", "head.bias"}, "what followed the cut is gone"
        kept = network.net.state_dict()
        for block in whole.blocks[:depth]:
            assert all(torch.equal(t, kept[f"body.{n}"]) for n, t in whole.tensors(block).items())


def test_the_cut_stands_before_dropout_and_before_flattening():
    network = chopped.chop(backbones.load("mnist-cnn", weights=None, classes=3, seed=0), 2, 3, 0)
    assert network.net.last.module == "relu2"
    assert network.head.in_features == 64, "averaged over the image, not 1600 numbers in a row"


@pytest.mark.parametrize("frozen", [0, 2])
def test_a_chopped_network_learns_and_what_is_frozen_stays(frozen):
    network = chopped.chop(
        backbones.load("resnet20-cifar", weights=None, classes=3, seed=0), 4, 3, 0
    )
    before = state(network)
    outcome = fit(network, Recipe(epochs=2, batch_size=8, freeze=frozen))
    after = network.net.state_dict()
    held = {name for block in network.blocks[:frozen] for name in network.tensors(block)}
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not held & moved
    assert {name for name in before if name.endswith("weight")} - held <= moved
    assert len(outcome.prefixes) == (frozen > 0)


@pytest.mark.slow
@pytest.mark.parametrize("cut", [None, 3])
def test_a_network_is_kept_and_read_again(tmp_path, cut):
    network = transferred(
        "resnet20-cifar", weights=None, copied=0, classes=3, seed=0, cut=cut, input_size=24
    )
    network.train()
    network(images(network))
    network.net.get_submodule("bn1" if cut is None else "body.bn1").eps = 1e-3
    record = chopped.write(
        tmp_path / "small", network, architecture="resnet20-cifar", cut=cut, classes=("a", "b", "c")
    )
    again, classes = chopped.read(record)
    assert classes == ("a", "b", "c")
    with torch.no_grad():
        assert torch.equal(again(images(network)), network.eval()(images(network)))
    assert (again.mean, again.std, again.input_size) == (network.mean, network.std, 24)
    json.loads(record.read_text())
    (tmp_path / "small.safetensors").write_bytes(
        (tmp_path / "small.safetensors").read_bytes()[:-1] + b"\1"
    )
    with pytest.raises(IntegrityError):
        chopped.read(record)
    record.write_text('{"format": 1}')
    with pytest.raises(BadDataError, match="no record of a network"):
        chopped.read(record)


# ---------------------------------------------------------------- measured


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "cut"),
    [
        ("mnist-cnn", None),
        ("resnet20-cifar", None),
        ("resnet20-cifar", 4),
        ("mobilenet-v1-0.25", 5),
    ],
)
def test_arithmetic_is_half_of_what_torch_counts(name, cut):
    network = transferred(name, weights=None, copied=0, classes=3, seed=0, cut=cut, input_size=None)
    network.eval()
    if cut is None:
        with FlopCounterMode(display=False) as counted, torch.no_grad():
            network(images(network, 1))
        expected = counted.get_total_flops() / 2
    else:  # by hand: the counter loses its place when a run ends inside a module
        whole = backbones.load(name, weights=None, classes=3, seed=0)
        seen = []
        tops = [
            whole.net.get_submodule(name) for block in whole.blocks[:cut] for name in block.modules
        ]
        for module in [m for top in tops for m in top.modules()]:
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(
                    lambda m, i, out: seen.append(out[0].numel() * m.weight[0].numel())
                )
        whole(images(whole, 1))
        expected = sum(seen) + network.head.weight.numel()
    assert footprint.macs(network) == expected


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_bytes_with_the_optimizer_are_those_of_its_state(optimizer):
    network = backbones.load("resnet20-cifar", weights=None, classes=3, seed=0)
    recipe = Recipe(optimizer=optimizer)
    found = footprint.footprint(network, recipe)
    made = OPTIMIZERS[optimizer]([{"params": list(network.parameters()), "lr": 0.1}], recipe)
    network(images(network)).sum().backward()
    made.step()
    held = sum(
        t.numel() * t.element_size() for s in made.state.values() for t in s.values() if t.ndim
    )
    grown = found.training_bytes - found.weights_bytes
    names = 130 * len(list(network.parameters())) * (1 if optimizer == "sgd" else 2)
    assert held <= grown <= held + names
    assert footprint.footprint(network, Recipe(momentum=0.0)).training_bytes == found.weights_bytes


def test_latency_is_measured_for_every_network_alike():
    networks = {
        str(n): transferred("mnist-cnn", weights=None, copied=0, classes=3, seed=0, cut=n)
        for n in (1, 2)
    }
    for batch in (1, 4):
        found = footprint.latency(networks, batch, budget_s=0.01)
        assert found.keys() == networks.keys()
        assert all(0 < seconds < 10 for seconds in found.values())
    assert footprint.latency(networks, 1, stopping=lambda: True) == {}


# ---------------------------------------------------------------- pruned


@pytest.mark.slow
def test_only_weights_are_pruned():
    net = backbones.load("vit_b_32", weights=None, classes=2, seed=0).net
    names = set(masks.prunable(net))
    assert "conv_proj.weight" in names
    assert "encoder.layers.encoder_layer_0.self_attention.in_proj_weight" in names
    assert not [
        n
        for n in names
        if n.endswith("bias") or "ln" in n or n in ("class_token", "encoder.pos_embedding")
    ]


@pytest.mark.parametrize("keep", [0.7, 0.343, 0.01])
def test_one_threshold_over_all_weights_or_one_for_each(keep):
    generator = torch.Generator().manual_seed(0)
    weights = {
        "a": torch.randn(40, 10, generator=generator),
        "b": 5 * torch.randn(20, 5, generator=generator),
    }
    whole = masks.magnitude(weights, keep)
    assert sum(int(m.sum()) for m in whole.values()) == round(500 * keep)
    lowest = min(float(w[whole[n]].abs().min()) for n, w in weights.items() if whole[n].any())
    assert all(
        float(w[~whole[n]].abs().max()) <= lowest for n, w in weights.items() if (~whole[n]).any()
    )
    each = masks.magnitude(weights, keep, "layer")
    assert {n: int(m.sum()) for n, m in each.items()} == {
        "a": round(400 * keep),
        "b": round(100 * keep),
    }
    assert whole["a"].float().mean() < each["a"].float().mean(), (
        "smaller weights lose more under one threshold"
    )


def test_equal_magnitudes_and_zeros_keep_their_count():
    stays = masks.magnitude({"w": torch.tensor([[1.0, -1.0, 1.0, 1.0]])}, 0.5)["w"]
    assert stays.tolist() == [[True, True, False, False]]
    stays = masks.magnitude({"w": torch.tensor([[0.0, 2.0, 0.0, -3.0]])}, 0.75)["w"]
    assert stays.tolist() == [[False, True, False, True]], "what was pruned stays pruned"
    assert masks.magnitude({"w": torch.tensor([[3.0, 1.0]])}, 0.01, "layer")["w"].tolist() == [
        [True, False]
    ]
    with pytest.raises(UnknownNameError, match="layer"):
        masks.magnitude({"w": torch.ones(1, 1)}, 0.5, "local")


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"optimizer": "adam"},
        {"optimizer": "adamw"},
        {"ema": 0.5},
        {"freeze": 2},
        {"head_epochs": 1},
        {"channels_last": True},
    ],
    ids=str,
)
def test_masks_hold_at_every_step(settings):
    network = backbones.load("resnet20-cifar", weights=None, classes=3, seed=0)
    mask = masks.magnitude(masks.prunable(network.net), 0.3)
    masks.enforce(network.net, mask)
    broken = []

    def look(done, of):
        parameters = dict(network.net.named_parameters())
        broken.extend(n for n, m in mask.items() if torch.count_nonzero(parameters[n][~m]))

    training.fit(
        network,
        *parts(network),
        Recipe(**{"epochs": 2, "batch_size": 8, "learning_rate": 0.01} | settings),
        seed=1,
        score=voting.accuracy,
        place=training.TrainingContext(on_batch=look),
    )
    assert broken == []
    parameters = dict(network.net.named_parameters())
    assert not any(torch.count_nonzero(parameters[n][~m]) for n, m in mask.items())
    assert all(torch.count_nonzero(parameters[n]) > 0 for n in mask)


def test_the_dense_network_has_the_originals_widths():
    network = backbones.load("dense-1333-200", weights=None, classes=3, seed=0)
    shapes = [tuple(p.shape) for p in network.net.parameters() if p.ndim == 2]
    assert shapes == [(1333, 10_800), (200, 1333), (3, 200)]
    assert footprint.footprint(network, Recipe()).numbers == 14_665_136
