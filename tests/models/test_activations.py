"""What is captured is what the network computes: against torchvision's graph extractor, plain
hooks, and no change.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from tlx.errors import ErrorGroup, UnknownNameError, UsageError
from tlx.models import backbones, folding
from tlx.models.activations import Capture, capture
from tlx.models.layers import everything, resolve
from tlx.models.network import Network

SIZES = {
    "mnist-cnn": None,
    "resnet18": 64,
    "vgg11": 32,
    "mobilenet_v2": 64,
    "efficientnet-lite0": 64,
    "vit": 32,
    "vit_b_16": None,
    "densenet121": 64,
    "swin_t": 64,
    "googlenet": 64,
}
TRACED = ["resnet18", "vgg11", "mobilenet_v2", "densenet121", "vit", "swin_t"]


def lively(network):
    """Batch norms as if trained: statistics and scales that matter."""
    random = torch.Generator().manual_seed(7)
    for module in network.net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=random)
            module.running_var.uniform_(0.5, 1.5, generator=random)
            if module.affine:
                nn.init.uniform_(module.weight, 0.7, 1.3, generator=random)
                nn.init.normal_(module.bias, 0, 0.2, generator=random)
    return network


@pytest.fixture(scope="module")
def networks():
    made: dict[str, object] = {}

    def get(name):
        if name not in made:
            made[name] = (
                small_transformer()
                if name == "vit"
                else lively(
                    backbones.load(
                        name,
                        weights=None,
                        classes=5,
                        head="linear",
                        seed=1,
                        input_size=SIZES.get(name),
                    )
                )
            )
        return made[name]

    return get


def images(network, n=2, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(
        n, network.channels, network.input_size, network.input_size, generator=random
    )


def wrap(net, size=8, channels=3):
    """A small module of the test's own as a Network."""
    row = backbones.BackboneRow(
        title="small", model="small", input_size=size, mean=(0.0,) * channels, std=(1.0,) * channels
    )
    last = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)][-1]
    return Network(net, row, (last,))


def small_transformer():
    """vit_b_16's own class, 4 layers of 64 on 2 × 2 patches."""
    torch.manual_seed(3)
    return wrap(
        VisionTransformer(
            32, 16, num_layers=4, num_heads=4, hidden_dim=64, mlp_dim=128, num_classes=5
        ),
        32,
    )


def without_inplace(net):
    """A copy none of whose layers writes over its input: what each gives can be read afterwards."""
    made = copy.deepcopy(net)
    for module in made.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return made


# ---------------------------------------------------------------- exactness


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACED)
def test_every_layer_is_what_the_graph_extractor_gives(networks, name):
    network, x = networks(name), images(networks(name))
    nodes, rows = set(get_graph_node_names(network.net)[1]), rows_given(network, x)
    wanted = [
        layer
        for layer in network.layers()
        if rows[layer] == len(x) and layer in nodes and layer != "features.norm5"
    ]  # a function writes over it: the next test reads it
    oracle = create_feature_extractor(
        without_inplace(network.net), {node(w, nodes): w for w in wanted}
    ).eval()
    with torch.no_grad():
        expected = oracle(x)
    found = capture(network, x, wanted)
    assert len(wanted) >= 15
    for layer in wanted:
        assert torch.equal(found[layer], expected[layer]), layer


def node(layer, nodes):
    """The extractor's name of a layer: of the last call of one that runs twice, of ln_1 and ln_2 in
    a transformer.
    """
    stem, _, number = layer.rpartition(".ln_")
    if stem and number in ("1", "2"):
        return f"{stem}.ln" if number == "1" else f"{stem}.ln_1"
    return f"{layer}_1" if f"{layer}_1" in nodes else layer


def rows_given(network, x):
    """Layer → rows of its output for the batch x; 0 if that is no tensor."""
    rows = {}
    hooks = [
        module.register_forward_hook(
            lambda _m, _i, out, name=name: rows.__setitem__(
                name, len(out) if isinstance(out, torch.Tensor) and out.ndim > 1 else 0
            )
        )
        for name, module in network.layers().items()
    ]
    with torch.no_grad():
        network.eval()(x)
    for hook in hooks:
        hook.remove()
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_blocks_are_what_a_plain_hook_sees_and_the_logits_stay(networks, name):
    network = networks(name)
    x = images(network)
    plain = without_inplace(network.net)
    seen, wanted = {}, resolve(network, range(1, len(network.blocks) + 1))
    for layer in wanted:
        plain.get_submodule(layer).register_forward_hook(
            lambda _m, _i, out, layer=layer: seen.__setitem__(layer, out.clone())
        )
    with torch.no_grad():
        logits = plain.eval()(x)
    found = capture(network, x, range(1, len(network.blocks) + 1))
    assert list(found) == list(wanted)
    for layer, value in found.items():
        assert torch.equal(value, seen[layer]), layer
        assert value.is_contiguous()
    with torch.no_grad():
        assert torch.equal(network(x), logits)


def test_an_inplace_layer_behind_changes_nothing():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 2))
    network = wrap(net)
    x = images(network)
    found = capture(network, x, ["0", "1", "2"])
    assert (found["0"] < 0).any()
    assert torch.equal(found["0"].clamp(min=0), found["1"])
    assert torch.equal(found["1"].flatten(1), found["2"])
    pointers = {value.untyped_storage().data_ptr() for value in found.values()}
    assert len(pointers) == 3


def test_what_passes_its_input_on_gives_a_copy_of_it():
    network = wrap(nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(192, 2)))
    x = images(network)
    for reduce in ("raw", "flat"):
        found = capture(network, x, ["0"], reduce=reduce)["0"]
        assert torch.equal(found.flatten(), x.flatten())
        assert found.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()


# ---------------------------------------------------------------- the pass


def test_the_pass_ends_with_the_last_layer_asked_for(networks):
    network = networks("resnet18")
    ran = []
    hooks = [
        module.register_forward_pre_hook(lambda _m, _i, name=name: ran.append(name))
        for name, module in network.layers().items()
    ]
    capture(network, images(network), ["layer1.1", "bn1"])
    for hook in hooks:
        hook.remove()
    ran = ran[len(ran) - ran[::-1].index("conv1") - 1 :]  # without the passes over shapes
    assert "layer1.1.conv2" in ran
    assert not any(name.startswith("layer2") for name in ran)


def test_modes_and_hooks_are_left_as_they_were(networks):
    network = copy.deepcopy(networks("resnet18"))
    network.train()
    network.net.layer1.eval()
    modes = [module.training for module in network.modules()]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    tap = Capture(network, ["layer2.0"])
    tap(images(network))
    with pytest.raises(RuntimeError):
        tap(torch.zeros(1, 5, 64, 64))
    assert [module.training for module in network.modules()] == modes
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in network.modules()
    )
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_dropout_is_off_and_no_gradient_is_kept(networks):
    network = networks("mnist-cnn")
    network.train()
    a, b = (capture(network, images(network), ["fc1", "drop2"]) for _ in range(2))
    network.eval()
    assert torch.equal(a["drop2"], b["drop2"])
    assert not a["fc1"].requires_grad


# ---------------------------------------------------------------- rules: calls, tuples, names


class Odd(nn.Module):
    """A layer that runs three times, one that gives a tuple, one that gives a dictionary, one that
    folds the batch.
    """

    def __init__(self):
        super().__init__()
        self.shared, self.pair, self.named, self.windows = nn.ReLU(), Pair(), Named(), Windows()
        self.fc = nn.Linear(192, 2)

    def forward(self, x):
        x = self.shared(x - 0.5)
        x = self.shared(x - 0.5)
        first, _ = self.pair(self.shared(x - 0.5))
        self.windows(first)
        return self.fc(self.named(first)["x"].flatten(1))


class Pair(nn.Module):
    def forward(self, x):
        return x + 1, x.sum()


class Named(nn.Module):
    def forward(self, x):
        return {"x": x}


class Windows(nn.Module):
    def forward(self, x):
        return x.reshape(len(x) * 2, -1)


def test_a_layer_that_runs_several_times():
    network = wrap(Odd())
    x = images(network)
    found = capture(network, x, ["shared@1", "shared@2", "shared"])
    one = torch.relu(x - 0.5)
    two = torch.relu(one - 0.5)
    assert torch.equal(found["shared@1"], one)
    assert torch.equal(found["shared@2"], two)
    assert torch.equal(found["shared"], torch.relu(two - 0.5))
    assert resolve(network, ["shared@3"]) == ("shared",)
    with pytest.raises(UsageError, match="1 to 3"):
        resolve(network, ["shared@4"])


def test_of_a_tuple_the_first_tensor_counts():
    network = wrap(Odd())
    x = images(network)
    found = capture(network, x, ["pair", "shared"])
    assert torch.equal(found["pair"], found["shared"] + 1)


def test_what_gives_no_row_an_image_is_refused():
    with pytest.raises(ErrorGroup) as caught:
        capture(wrap(Odd()), torch.zeros(1, 3, 8, 8), ["named", "windows"])
    assert [p.code for p in caught.value.problems] == ["layer-output"] * 2


def test_unknown_layers_are_all_told_with_the_nearest(networks):
    network = networks("resnet18")
    with pytest.raises(ErrorGroup) as caught:
        resolve(network, ["layer1.0.convv1", "layer4.1", 99, "0"])
    first, *others = caught.value.problems
    assert isinstance(first, UnknownNameError)
    assert "layer1.0.conv1" in str(first)
    assert [p.code for p in others] == ["out-of-range"] * 2
    assert first.exit_code == 2


def test_a_layer_twice_or_none_is_refused(networks):
    network = networks("resnet18")
    with pytest.raises(UsageError, match="same layer"):
        resolve(network, ["layer1.0", 2])
    with pytest.raises(UsageError, match="no layer"):
        resolve(network, [])


def test_a_number_means_the_block_and_a_name_the_module(networks):
    network = networks("vgg11")
    assert resolve(network, [1, "2", "features.0"]) == ("features.2", "features.5", "features.0")


# ---------------------------------------------------------------- reductions and types


def test_pooled_is_the_mean_over_the_image(networks):
    network = networks("mobilenet_v2")
    x = images(network, n=3)
    raw, mean, flat = (
        capture(network, x, [2, "classifier.1"], reduce=r) for r in ("raw", "pooled", "flat")
    )
    name = next(iter(raw))
    np.testing.assert_allclose(
        mean[name].numpy(), raw[name].double().mean((2, 3)).numpy(), rtol=1e-5, atol=1e-6
    )
    assert torch.equal(mean["classifier.1"], raw["classifier.1"])
    assert torch.equal(flat[name], raw[name].reshape(3, -1))


def test_tokens_of_the_image_are_pooled_without_the_class_token(networks):
    network = networks("vit")
    x, layer = images(network), "encoder.layers.encoder_layer_2"
    raw, mean, token = (
        capture(network, x, [layer], reduce=r)[layer] for r in ("raw", "pooled", "first-token")
    )
    assert raw.shape == (2, 5, 64)
    np.testing.assert_allclose(
        mean.numpy(), raw[:, 1:].double().mean(1).numpy(), rtol=1e-5, atol=1e-6
    )
    assert torch.equal(token, raw[:, 0])


def test_channels_that_come_last_are_pooled_as_channels(networks):
    network = networks("swin_t")
    x = images(network)
    raw, mean = (
        capture(network, x, ["features.1", "permute"], reduce=r) for r in ("raw", "pooled")
    )
    assert raw["features.1"].shape == (2, 16, 16, 96)
    np.testing.assert_allclose(
        mean["features.1"].numpy(),
        raw["features.1"].double().mean((1, 2)).numpy(),
        rtol=1e-4,
        atol=1e-6,
    )
    assert mean["permute"].shape == (2, 768)


def test_float16_is_the_nearest_to_float32(networks):
    network = networks("mnist-cnn")
    x = images(network)
    for reduce in ("pooled", "flat", "raw"):
        wide, narrow = (
            capture(network, x, [1, 2], reduce=reduce, dtype=d) for d in ("float32", "float16")
        )
        assert all(torch.equal(narrow[k], wide[k].half()) for k in wide)


@pytest.mark.slow
def test_shapes_are_known_before_the_pass(networks):
    for name in ("mnist-cnn", "resnet18", "vit", "swin_t"):
        network = networks(name)
        for reduce in ("pooled", "first-token", "flat", "raw"):
            tap = Capture(network, range(1, len(network.blocks) + 1), reduce=reduce)
            found = tap(images(network, n=1))
            assert {k: tuple(v.shape[1:]) for k, v in found.items()} == tap.shapes, (name, reduce)


@pytest.mark.parametrize(("option", "value"), [("reduce", "poled"), ("dtype", "float64")])
def test_unknown_reductions_and_types(networks, option, value):
    with pytest.raises(UnknownNameError):
        Capture(networks("mnist-cnn"), [1], **{option: value})


# ---------------------------------------------------------------- folded batch norm

FOLDED = {
    "resnet18": 20,
    "mobilenet_v2": 52,
    "efficientnet-lite0": 49,
    "densenet121": 59,
    "vgg11": 0,
    "vit": 0,
    "mnist-cnn": 0,
    "googlenet": 57,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDED)
def test_folding_changes_the_last_bits_only(networks, name):
    network = networks(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    made, folded = folding.for_inference(network)
    assert len(folded) == FOLDED[name]
    x, blocks = images(network, n=3), range(1, len(network.blocks) + 1)
    exact, fast = capture(network, x, blocks), capture(made, x, blocks)
    for layer, value in exact.items():
        scale = value.abs().max()
        assert (fast[layer] - value).abs().max() <= 2e-5 * scale, layer
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert (
        not any(isinstance(p, nn.BatchNorm2d) for n, p in made.net.named_modules())
        or name == "densenet121"
    )


def test_without_folding_nothing_but_the_layout_in_memory_changes(networks):
    network = networks("resnet18")
    made, folded = folding.for_inference(network, fold=False)
    assert folded == frozenset()
    assert all(
        torch.equal(value, network.state_dict()[key]) for key, value in made.state_dict().items()
    )
    shared = made.net.fc.weight
    assert (
        shared.data_ptr() == network.net.fc.weight.data_ptr()
    )  # a large dense layer is not held twice


class Fork(nn.Module):
    """Convolutions whose batch norm may not be folded in: read twice, run twice, or another
    kind.
    """

    def __init__(self):
        super().__init__()
        self.seen, self.seen_norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.twice, self.twice_norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.own, self.own_norm = Standardised(3, 3, 1), nn.BatchNorm2d(3)
        self.good, self.good_norm = nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3, affine=False)
        self.fc = nn.Linear(192, 2)

    def forward(self, x):
        seen = self.seen(x)
        x = self.seen_norm(seen) + seen
        for _ in range(2):
            x = self.twice_norm(self.twice(x))
        x = self.own_norm(self.own(x))
        return self.fc(self.good_norm(self.good(x)).flatten(1))


class Standardised(nn.Conv2d):
    def forward(self, x):
        weight = self.weight / self.weight.std()
        return nn.functional.conv2d(x, weight, self.bias)


def test_only_what_may_be_folded_is():
    torch.manual_seed(0)
    network = lively(wrap(Fork()))
    assert folding.foldable(network) == {"good": "good_norm"}
    made, _ = folding.for_inference(network)
    x = images(network)
    a, b = (capture(n, x, ["fc"])["fc"] for n in (network, made))
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_bfloat16_comes_out_as_float32(networks):
    network = networks("resnet18")
    x = images(network)
    with torch.autocast("cpu", torch.bfloat16):
        low = capture(network, x, ["layer4.1"], reduce="pooled")["layer4.1"]
    full = capture(network, x, ["layer4.1"], reduce="pooled")["layer4.1"]
    assert low.dtype == torch.float32
    assert 0 < (low - full).abs().max() < 0.1 * full.abs().max()


# ---------------------------------------------------------------- the input as a layer


def test_the_input_is_a_layer_of_its_own(networks):
    network = networks("mnist-cnn")
    x = images(network).to(memory_format=torch.channels_last)
    before = x.clone()
    found = capture(network, x, ["input", "relu1"], reduce="flat")
    np.testing.assert_array_equal(found["input"], before.flatten(1))
    assert list(found) == ["input", "relu1"]
    found["input"].numpy()[:] = 0
    torch.testing.assert_close(x, before, rtol=0, atol=0)


def test_the_input_alone_needs_no_pass(networks, monkeypatch):
    network = networks("mnist-cnn")
    monkeypatch.setattr(network.net, "forward", lambda x: pytest.fail("the network ran"))
    assert capture(network, images(network), ["input"])["input"].shape == (2, 1, 28, 28)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist-cnn", "resnet18", "vit"])
def test_everything_is_the_input_and_every_module_without_others_in_it(networks, name):
    network = networks(name)
    names = everything(network)
    leaves = {n for n, module in network.net.named_modules() if not list(module.children())}
    assert names[0] == "input"
    assert set(names[1:]) <= leaves
    assert {
        n
        for n in leaves
        if isinstance(network.net.get_submodule(n), (nn.Conv2d, nn.Linear)) and n in network.order
    } <= set(names) | {"conv_proj"}
    assert set(capture(network, images(network), names, reduce="pooled")) == set(names)
