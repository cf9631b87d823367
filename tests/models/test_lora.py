"""Adapters: what they are, what is left of them, and what they cannot be attached to."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from models.test_tuned_parts import arrays, data_of, differing, fit, network, same
from torch import nn
from torchvision.models import VisionTransformer

from tlx.errors import ResourceError, UsageError
from tlx.models import backbones, lora, training, tuned_parts
from tlx.models.backbones import BackboneRow
from tlx.models.network import Network
from tlx.models.recipe import Recipe
from tlx.models.tune_choices import parse_tune

LAST = Recipe(epochs=2, learning_rate=0.05, keep_epoch="last", batch_size=4, early_stopping=False)


@pytest.fixture
def peft():
    return pytest.importorskip("peft")


def small_vit() -> Network:
    """The class of torchvision's vit_b_16, for smaller images: its attention is PyTorch's own."""
    row = BackboneRow(title="vit", model="vit", input_size=32, classes=3)
    torch.manual_seed(0)
    net = VisionTransformer(
        image_size=32,
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=32,
        num_classes=3,
    )
    return Network(net, row, ("heads.head",))


def products(net):
    """Layer → (A, B) of its adapter."""
    return {
        name: (module.lora_A["default"].weight, module.lora_B["default"].weight)
        for name, module in net.net.named_modules()
        if hasattr(module, "lora_A")
    }


# ---------------------------------------------------------------- what an adapter computes


@pytest.mark.parametrize(("text", "scale"), [("lora:r=2", 1.0), ("lora:r=2,alpha=6", 3.0)])
def test_an_adapter_adds_a_scaled_product_and_the_merged_layer_computes_the_same(peft, text, scale):
    net = network()
    tuned_parts.attach(net, parse_tune(text), seed=1)
    (a, b) = products(net)["fc1"]
    assert a.shape == (2, 1600)
    assert b.shape == (128, 2)
    assert not b.detach().any(), "training begins at the source"
    rng = np.random.default_rng(0)
    with torch.no_grad():
        b.copy_(torch.tensor(rng.normal(size=(128, 2))))
    weight = net.net.state_dict()["fc1.base_layer.weight"].numpy().astype(float)
    bias = net.net.state_dict()["fc1.base_layer.bias"].numpy()
    x = rng.normal(size=(5, 1600)).astype(np.float32)
    whole = weight + scale * b.detach().numpy().astype(float) @ a.detach().numpy()
    wanted = x @ whole.T + bias
    with torch.no_grad():
        np.testing.assert_allclose(net.net.fc1(torch.tensor(x)), wanted, rtol=1e-3, atol=1e-3)
        assert tuned_parts.merge(net, parse_tune(text))
        np.testing.assert_allclose(net.net.fc1(torch.tensor(x)), wanted, rtol=1e-3, atol=1e-3)
    assert type(net.net.fc1) is nn.Linear
    np.testing.assert_allclose(net.net.fc1.weight.detach(), whole, rtol=1e-4, atol=1e-5)


def test_adapters_are_drawn_from_the_seed_alone(peft):
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(drawn))
        state = torch.get_rng_state()
        net = network()
        tuned_parts.attach(net, parse_tune("lora"), seed)
        assert torch.equal(torch.get_rng_state(), state), "no other stream of chance is moved"
        drawn.append(products(net)["fc1"][0].detach().numpy())
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("mobilenet-v1-0.25", 32),  # reads the stride of its convolutions
        ("squeezenet1_1", 32),
        ("googlenet", 64),
        pytest.param("swin_v2_t", 32, marks=pytest.mark.slow),
        ("timm:test_convnext", None),
    ],
)
def test_every_adapter_is_on_the_way_from_image_to_logits(peft, name, size):
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    net = backbones.load(name, weights=None, classes=3, seed=0, input_size=size)
    before, wanted = net.net.state_dict(), len(lora.targets(net))
    x = torch.randn(2, net.channels, net.input_size, net.input_size)
    tuned_parts.attach(net, parse_tune("lora:r=2"), seed=0)
    net.eval()
    assert len(products(net)) == wanted
    net(x).square().sum().backward()
    for _, b in products(net).values():
        assert b.grad.any()
        b.data.normal_(0, 0.02)
    with torch.no_grad():
        adapted = net(x)
        assert tuned_parts.merge(net, parse_tune("lora:r=2"))
        torch.testing.assert_close(net(x), adapted, rtol=1e-3, atol=1e-5)
    assert net.net.state_dict().keys() == before.keys()


# ---------------------------------------------------------------- after a training


@pytest.mark.parametrize("name", ["mnist-cnn", "timm:test_efficientnet"])
def test_the_weights_differ_by_a_matrix_of_the_rank_and_the_network_is_a_plain_one(peft, name):
    net, plain = network(name), network(name)
    before = arrays(net)
    outcome = fit(net, LAST, "lora:r=2")
    after = arrays(net)
    assert after.keys() == before.keys()
    assert not products(net)
    learnt = 0
    for key in differing(before, after):
        shape = before[key].shape
        is_head = key.startswith(("fc2.", "classifier."))
        if is_head:
            learnt += before[key].size
        elif key in dict(net.net.named_parameters()):
            change = (after[key].astype(float) - before[key]).reshape(shape[0], -1)
            values = np.linalg.svd(change, compute_uv=False)
            assert values[0] > 0
            assert (values[2:] < 1e-4 * values[0]).all(), key
            learnt += 2 * (change.shape[0] + change.shape[1])
    assert outcome.trainable_parameters == learnt
    plain.net.load_state_dict(net.net.state_dict(), strict=True)
    _, val = data_of(net)
    logits = training.predict(net, val, LAST)
    assert logits.tobytes() == training.predict(plain, val, LAST).tobytes()
    values = outcome.merged_values
    assert values["val_loss"] == training.cross_entropy(logits, val.row_labels)
    assert values["val_loss"] == pytest.approx(outcome.history[-1]["val_loss"], rel=1e-4)


@pytest.mark.parametrize("settings", [{}, {"ema": 0.8}, {"head_epochs": 1, "freeze": 3}], ids=str)
@pytest.mark.crash
def test_killed_and_continued_is_the_same_to_the_bit(peft, tmp_path, settings):
    recipe = LAST.replace(keep_epoch="best", **settings)
    whole = network("resnet18")
    outcome = fit(whole, recipe, "lora:r=2")

    class Killed(BaseException):
        pass

    def die_in_the_second(number, values):
        if number == 1:
            raise Killed

    file = tmp_path / "training.safetensors"
    place = training.TrainingContext(checkpoint=file, on_epoch=die_in_the_second)
    with pytest.raises(Killed):
        fit(network("resnet18"), recipe, "lora:r=2", place=place)
    for _ in range(2):  # continued, and found finished
        resumed = network("resnet18")
        place = training.TrainingContext(checkpoint=file)
        again = fit(resumed, recipe, "lora:r=2", place=place)
        assert again.merged_values == outcome.merged_values
        assert same(arrays(resumed), arrays(whole))


def test_what_is_frozen_has_no_adapter_and_keeps_its_bits(peft):
    net = network("resnet18")
    before = arrays(net)
    fit(net, LAST.replace(freeze=7), "lora:r=2")
    moved = {name for name in differing(before, arrays(net)) if name.endswith("weight")}
    assert moved == {"layer4.0.downsample.0.weight", "fc.weight"}


def test_a_frozen_prefix_gives_the_same_bits_kept_or_not(peft):
    results = []
    for kept_bytes in (0, 1 << 30):
        net = network("resnet18")
        place = training.TrainingContext(prefix_bytes=kept_bytes)
        outcome = fit(net, LAST.replace(freeze=5), "lora:r=2", place=place)
        results.append((arrays(net), outcome.merged_values))
    assert same(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


def test_a_diverged_training_leaves_the_networks_own_layers(peft):
    net = network()
    before = arrays(net)
    recipe = LAST.replace(learning_rate=1e3, clip_norm=0.0, epochs=30)
    outcome = fit(net, recipe, "lora")
    assert outcome.ended == "diverged"
    assert outcome.merged_values is None
    assert arrays(net).keys() == before.keys()
    assert "fc1.weight" not in differing(before, arrays(net))


# ---------------------------------------------------------------- where none fits


def test_attention_that_reads_its_weights_itself_has_no_adapter(peft):
    net = small_vit()
    names = lora.targets(net)
    assert len(names) == 4
    assert all(".mlp." in name for name in names)
    before = arrays(net)
    fit(net, LAST, "lora:r=2")
    moved = {name.rpartition(".")[0] for name in differing(before, arrays(net))}
    assert moved == {*names, "heads.head"}


def test_weights_that_are_shared_or_computed_anew_have_no_adapter():
    class Standardised(nn.Conv2d):
        pass

    net = network("resnet18")
    assert lora._can_merge(nn.Conv2d(4, 6, 1, stride=2))
    assert not lora._can_merge(nn.Conv2d(4, 6, 1, groups=2))
    assert not lora._can_merge(nn.Conv2d(4, 6, 3))
    assert not lora._can_merge(Standardised(4, 6, 1))
    assert not lora._can_merge(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
    assert "layer2.0.downsample.0" in lora.targets(net)
    net.net.layer1[0].second = nn.Module()
    net.net.layer1[0].second.weight = net.net.layer2[0].downsample[0].weight
    assert "layer2.0.downsample.0" not in lora.targets(net)


def test_a_network_without_any_such_layer_is_refused(peft):
    net = backbones.load("resnet20-cifar", weights=None, classes=3, seed=0)
    if lora.targets(net):
        pytest.skip("it has one")
    with pytest.raises(UsageError, match="no dense layer or 1 × 1 convolution"):
        tuned_parts.restrict(net, parse_tune("lora"))


def test_a_missing_package_is_said_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ResourceError, match=r"tlx\[lora\]") as refused:
        tuned_parts.attach(network(), parse_tune("lora"), 0)
    assert refused.value.exit_code == 5
