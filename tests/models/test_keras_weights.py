"""Keras' weight files as torchvision networks: written here in Keras' layouts, and computed by
Keras' rules.
"""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tlx.errors import BadDataError
from tlx.models import backbones
from tlx.models.weights import keras as weights_keras
from tlx.models.weights import reader as weights_reader

VGG_NAMES = [f"block{b}_conv{c}" for b, n in enumerate((2, 2, 3, 3, 3), 1) for c in range(1, n + 1)]


def put(file, layer, **variables):
    for name, array in variables.items():
        file[f"{layer}/{layer}/{name}:0"] = np.asarray(array, "f4")


def keras_vgg16(path, rng):
    """A small-numbered VGG16 as Keras lays it out: kernels (h, w, in, out), dense (in, out), layers
    by name.
    """
    channels, layers = 3, {}
    with h5py.File(path, "w") as file:
        for name, width in zip(
            VGG_NAMES, [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6, strict=True
        ):
            layers[name] = (
                rng.normal(0, (2 / 9 / channels) ** 0.5, (3, 3, channels, width)),
                rng.normal(0, 0.1, width),
            )
            put(file, name, kernel=layers[name][0], bias=layers[name][1])
            channels = width
    return layers


@pytest.mark.slow
def test_vgg16_computes_what_keras_would(tmp_path):
    rng = np.random.default_rng(0)
    layers = keras_vgg16(tmp_path / "vgg16.h5", rng)
    network = backbones.load(
        "VGG16", weights=tmp_path / "vgg16.h5", classes=3, seed=0, input_size=32
    )
    assert network.match.share == 1
    rgb = rng.integers(0, 256, (1, 32, 32, 3)).astype("f8")
    x = torch.from_numpy(rgb[..., ::-1] - np.array([103.939, 116.779, 123.68])).permute(
        0, 3, 1, 2
    )  # Keras' preprocess
    for name in VGG_NAMES:
        kernel, bias = (torch.from_numpy(a.astype("f4").astype("f8")) for a in layers[name])
        x = F.relu(F.conv2d(x, kernel.permute(3, 2, 0, 1), bias, padding=1))
        if name in ("block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3"):
            x = F.max_pool2d(x, 2)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (network.mean, network.std))
    seen = (torch.from_numpy(rgb).permute(0, 3, 1, 2).float() / 255 - mean) / std
    with torch.no_grad():
        found = network.net.features(seen)
    assert torch.allclose(found.double(), x, rtol=1e-3, atol=1e-3 * float(x.abs().max()))


def test_dense_layers_are_turned_and_reordered_from_height_width_channels():
    rng = np.random.default_rng(0)
    net = nn.Module()
    net.features = nn.Sequential(nn.Conv2d(3, 512, 1))
    maps, kernel = (
        rng.normal(size=(7, 7, 512)).astype("f4"),
        rng.normal(size=(7 * 7 * 512, 5)).astype("f4"),
    )
    weights = weights_reader.Weights(
        {"fc1.weight": torch.from_numpy(kernel.T.copy())}, kind="keras"
    )
    found = weights_keras.translated(weights, net, "vgg16")["classifier.0.weight"]
    flat = torch.from_numpy(maps).permute(2, 0, 1).flatten()
    assert torch.allclose(
        found @ flat, torch.from_numpy(maps.reshape(-1) @ kernel), rtol=1e-3, atol=1e-2
    )


def resnet_layers(net, style):
    """(Keras layer of the convolution, of its batch norm, torchvision's names of both), for a
    ResNet50.
    """
    yield (
        ("conv1_conv", "conv1_bn", "conv1", "bn1")
        if style == "new"
        else ("conv1", "bn_conv1", "conv1", "bn1")
    )
    for stage in range(1, 5):
        for block in range(len(net.get_submodule(f"layer{stage}"))):
            parts = ("1", "2", "3", "0") if block == 0 else ("1", "2", "3")
            for part in parts:
                holder = f"layer{stage}.{block}"
                names = (
                    (f"{holder}.downsample.0", f"{holder}.downsample.1")
                    if part == "0"
                    else (f"{holder}.conv{part}", f"{holder}.bn{part}")
                )
                if style == "new":
                    stem = f"conv{stage + 1}_block{block + 1}_{part}"
                    yield (f"{stem}_conv", f"{stem}_bn", *names)
                else:
                    branch = {"0": "1", "1": "2a", "2": "2b", "3": "2c"}[part]
                    stem = f"{stage + 1}{'abcdef'[block]}_branch{branch}"
                    yield (f"res{stem}", f"bn{stem}", *names)


@pytest.mark.slow
@pytest.mark.parametrize(("style", "epsilon"), [("new", 1.001e-5), ("old", 1e-3)])
def test_resnet50_computes_what_keras_would(tmp_path, style, epsilon):
    """Biases before batch norm, the stride in the first convolution of a block, Keras' epsilon."""
    rng = np.random.default_rng(0)
    sketch = backbones.meta_model("resnet50").net
    arrays = {}
    with h5py.File(tmp_path / "r.h5", "w") as file:
        for conv, norm, name, _ in resnet_layers(sketch, style):
            out, into, high, wide = sketch.get_submodule(name).weight.shape
            kernel = rng.normal(0, (2 / into / high / wide) ** 0.5, (high, wide, into, out))
            rows = {k: rng.normal(0, 0.2, out) for k in ("bias", "beta", "moving_mean")}
            rows |= {
                "gamma": rng.uniform(0.2, 0.5, out),
                "moving_variance": rng.uniform(0.5, 2, out),
            }
            arrays[name] = [
                torch.from_numpy(np.float32(a)).double()
                for a in (
                    kernel.transpose(3, 2, 0, 1),
                    *(rows[k] for k in ("bias", "moving_mean", "moving_variance", "gamma", "beta")),
                )
            ]
            put(file, conv, kernel=kernel, bias=rows.pop("bias"))
            put(file, norm, **rows)
    network = backbones.load(
        "ResNet50", weights=tmp_path / "r.h5", classes=3, seed=0, input_size=64
    )
    assert network.match.share == 1
    rgb = rng.integers(0, 256, (1, 64, 64, 3)).astype("f8")
    x = torch.from_numpy(rgb[..., ::-1] - np.array([103.939, 116.779, 123.68])).permute(0, 3, 1, 2)

    def layer(name, x, stride=1, padding=0):
        kernel, bias, mean, variance, gamma, beta = arrays[name]
        x = F.conv2d(x, kernel, bias, stride, padding)
        return F.batch_norm(x, mean, variance, gamma, beta, eps=epsilon)

    x = F.max_pool2d(F.pad(F.relu(layer("conv1", x, 2, 3)), (1, 1, 1, 1)), 3, 2)
    for stage in range(1, 5):
        for block in range(len(sketch.get_submodule(f"layer{stage}"))):
            name, stride = f"layer{stage}.{block}", 2 if block == 0 and stage > 1 else 1
            short = layer(f"{name}.downsample.0", x, stride) if block == 0 else x
            y = F.relu(layer(f"{name}.conv1", x, stride))
            y = layer(f"{name}.conv3", F.relu(layer(f"{name}.conv2", y, 1, 1)))
            x = F.relu(y + short)
    features = []
    network.net.layer4.register_forward_hook(lambda m, i, o: features.append(o))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (network.mean, network.std))
    with torch.no_grad():
        network((torch.from_numpy(rgb).permute(0, 3, 1, 2).float() / 255 - mean) / std)
    assert torch.allclose(features[0].double(), x, rtol=1e-3, atol=1e-3 * float(x.abs().max()))


def test_old_variable_names_and_other_layouts(tmp_path):
    rng = np.random.default_rng(0)
    depthwise, one_d = rng.normal(size=(3, 3, 4, 2)), rng.normal(size=(5, 3, 2))
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["block1_conv1/block1_conv1_W_1:0"] = rng.normal(size=(3, 3, 3, 64)).astype("f4")
        file["block1_conv1/block1_conv1_b_1:0"] = np.zeros(64, "f4")
        put(file, "dw", depthwise_kernel=depthwise)
        put(file, "line", kernel=one_d)
        put(file, "strange", alpha=np.ones(3))
    found = weights_reader.read(tmp_path / "w.h5")
    assert found["block1_conv1.weight"].shape == (64, 3, 3, 3)
    assert found["block1_conv1.bias"].shape == (64,)
    assert found["line.weight"].shape == (2, 3, 5)
    assert any("strange" in note for note in found.notes)
    x = torch.from_numpy(rng.normal(size=(1, 4, 3, 3)).astype("f4"))
    out = F.conv2d(x, found["dw.weight"], groups=4).flatten()
    expected = [
        sum(x[0, c, i, j].item() * depthwise[i, j, c, m] for i in range(3) for j in range(3))
        for c in range(4)
        for m in range(2)
    ]  # Keras' order of outputs: channel, then multiplier
    assert np.allclose(out.numpy(), expected, atol=1e-4)


def test_keras_weights_for_another_network_are_refused(tmp_path):
    keras_vgg16(tmp_path / "vgg16.h5", np.random.default_rng(0))
    with pytest.raises(BadDataError, match="Keras weights for 'resnet18'"):
        backbones.load("resnet18", weights=tmp_path / "vgg16.h5", classes=3, seed=0)
    with pytest.raises(BadDataError, match="tensors matched"):
        backbones.load("resnet50", weights=tmp_path / "vgg16.h5", classes=3, seed=0)


@pytest.mark.parametrize("layer", ["conv_dw_3", "depthwise_conv2d_1", "block_1_depthwise"])
@pytest.mark.parametrize("described", [False, True])
def test_the_kernel_of_a_depthwise_layer_is_read_under_both_of_its_names(
    tmp_path, layer, described
):
    """Keras 2 calls it depthwise_kernel, Keras 3 kernel. Other layers are known by the description
    of the model.
    """
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 2)).astype("f4")
    name = "middle" if described else layer
    found = []
    for variable in ("depthwise_kernel", "kernel"):
        with h5py.File(tmp_path / f"{variable}.h5", "w") as file:
            if described:
                file.attrs["model_config"] = json.dumps(
                    {
                        "class_name": "Functional",
                        "config": {
                            "layers": [{"class_name": "DepthwiseConv2D", "config": {"name": name}}]
                        },
                    }
                )
            file[f"model_weights/{name}/{name}/{variable}"] = kernel
            file["model_weights/plain/plain/kernel"] = kernel
        found.append(weights_reader.read(tmp_path / f"{variable}.h5"))
    assert all(
        torch.equal(weights[f"{name}.weight"], found[0][f"{name}.weight"]) for weights in found
    )
    assert found[1][f"{name}.weight"].shape == (8, 1, 3, 3)
    assert found[1]["plain.weight"].shape == (2, 4, 3, 3), (
        "any other layer's kernel is turned as before"
    )
