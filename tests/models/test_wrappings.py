"""Checkpoints as frameworks write them: whatever is wrapped around a network's state_dict is
removed, and said.
"""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from tlx.errors import BadDataError
from tlx.models import backbones
from tlx.models.weights import reader as weights_reader


@pytest.fixture(scope="module")
def source():
    return backbones.load("mnist-cnn", weights=None, classes=10, seed=3)


def prefixed(state, *pieces):
    return {
        "".join(f"{piece}." for piece in pieces) + name: tensor for name, tensor in state.items()
    }


def other(state):
    """As many tensors of the same names and shapes, which are not meant."""
    return {name: torch.zeros_like(tensor) + 0.5 for name, tensor in state.items()}


def lightning(state):
    return {
        "epoch": 1,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {
            **prefixed(state, "backbone"),
            "projection_head.weight": torch.ones(4, 4).tril(),
        },
    }


def moco(state):
    return {
        "arch": "x",
        "state_dict": {
            **prefixed(state, "module", "encoder_q"),
            "module.queue": torch.randn(3, 5),
            **prefixed(other(state), "module", "encoder_k"),
        },
    }


WRAPPINGS = {
    "plain": (dict, ()),
    "ddp": (lambda s: prefixed(s, "module"), ("module.",)),
    "compiled ddp": (lambda s: prefixed(s, "_orig_mod", "module"), ("_orig_mod.module.",)),
    "ddp compiled": (lambda s: prefixed(s, "module", "_orig_mod"), ("module.",)),
    "twice": (lambda s: prefixed(s, "module", "module"), ("module.module.",)),
    "compiled twice": (lambda s: prefixed(s, "_orig_mod", "_orig_mod"), ("_orig_mod.",)),
    "averaged": (lambda s: {"n_averaged": torch.tensor(7), **prefixed(s, "module")}, ("module.",)),
    "averaged inside": (
        lambda s: {
            "epoch": 3,
            "model_ema": {"n_averaged": torch.tensor(7), **prefixed(s, "module")},
        },
        ("model_ema", "module."),
    ),
    "lightning": (lightning, ("state_dict", "backbone.", "projection_head.weight")),
    "lightning model": (lambda s: {"state_dict": prefixed(s, "model")}, ("model.",)),
    "net": (lambda s: prefixed(s, "net"), ("net.",)),
    "network of ddp": (
        lambda s: {"network": prefixed(s, "module", "network")},
        ("module.network.",),
    ),
    "encoder": (
        lambda s: {**prefixed(s, "encoder"), "decoder.weight": torch.randn(3, 3)},
        ("encoder.",),
    ),
    "moco": (moco, ("module.encoder_q.",)),
    "dino": (
        lambda s: {
            "student": prefixed(other(s), "module", "backbone"),
            "teacher": prefixed(s, "backbone"),
        },
        ("teacher", "backbone."),
    ),
    "model and ema": (
        lambda s: {"model": dict(s), "model_ema": other(s), "best": 0.9},
        ("'model'", "model_ema"),
    ),
    "timm": (
        lambda s: {"state_dict": dict(s), "state_dict_ema": other(s), "arch": "x"},
        ("state_dict_ema",),
    ),
    "params": (lambda s: {"params": dict(s)}, ("params",)),
    "params_ema": (lambda s: {"params_ema": dict(s)}, ("params_ema",)),
    "deep": (
        lambda s: {"checkpoint": {"model": {"state_dict": prefixed(s, "net")}}},
        ("checkpoint.model.state_dict",),
    ),
    "unknown key": (lambda s: {"weights_of_friday": dict(s)}, ("weights_of_friday",)),
    "unknown prefix": (lambda s: prefixed(s, "tower", "trunk"), ("tower.trunk.",)),
    "ema_pytorch": (
        lambda s: {
            "initted": torch.tensor(True),
            "step": torch.tensor(4),
            **prefixed(s, "ema_model"),
            **prefixed(other(s), "online_model"),
        },
        ("ema_model.", "online_model."),
    ),
    "optimizer beside": (
        lambda s: {
            "net": dict(s),
            "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []},
        },
        ("net",),
    ),
    "compiled layers": (
        lambda s: {name.replace(".", "._orig_mod.", 1): t for name, t in s.items()},
        (),
    ),
}


FLAT = [
    name
    for name, (wrap, _) in WRAPPINGS.items()  # what a safetensors file can hold: tensors alone
    if all(isinstance(value, torch.Tensor) for value in wrap({"a.weight": torch.ones(2)}).values())
]


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        *((name, ending) for name in WRAPPINGS for ending in (".pth", ".ckpt")),
        *((name, ".safetensors") for name in FLAT),
    ],
)
def test_every_wrapping_gives_the_tensors_of_the_network(name, ending, source, tmp_path):
    wrap, words = WRAPPINGS[name]
    path, content = tmp_path / f"w{ending}", wrap(source.net.state_dict())
    if ending == ".safetensors":
        weights_reader.write(path, content)
    else:
        torch.save(content, path)
    network = backbones.load("mnist-cnn", weights=path, classes=10, head="keep", seed=0)
    for key, tensor in source.net.state_dict().items():
        assert torch.equal(network.net.state_dict()[key], tensor), key
    notes = " ".join(network.notes)
    assert all(word in notes for word in words), notes
    assert (
        backbones.load(
            "mnist-cnn", weights=path, classes=None, head="keep", seed=0
        ).head.out_features
        == 10
    )


def test_a_real_averaged_and_a_real_parallel_network_are_read(source, tmp_path):
    for number, wrapped in enumerate(
        (
            AveragedModel(source.net),
            nn.DataParallel(source.net),
            AveragedModel(nn.DataParallel(source.net)),
        )
    ):
        path = tmp_path / f"{number}.pth"
        torch.save({"model": OrderedDict(wrapped.state_dict())}, path)
        network = backbones.load("mnist-cnn", weights=path, classes=10, head="keep", seed=0)
        assert torch.equal(network.net.conv1.weight, source.net.conv1.weight)


def test_what_matches_decides_and_not_the_order_of_the_table(source, tmp_path):
    path = tmp_path / "w.pth"
    content = {
        "state_dict": {"a.weight": torch.randn(3, 3)},
        "anything": prefixed(source.net.state_dict(), "x"),
    }
    torch.save(content, path)
    network = backbones.load("mnist-cnn", weights=path, classes=10, head="keep", seed=0)
    assert torch.equal(network.net.conv2.weight, source.net.conv2.weight)
    assert "'anything'" in " ".join(network.notes)


def test_weights_of_another_network_are_refused_under_their_own_names(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(
        prefixed(
            backbones.load("resnet20-cifar", weights=None, classes=4, seed=0).net.state_dict(), "x"
        ),
        path,
    )
    with pytest.raises(BadDataError, match=r"of another architecture|another architecture"):
        backbones.load("mnist-cnn", weights=path, classes=10, head="keep", seed=0)


def test_a_file_without_tensors_says_so(tmp_path):
    torch.save({"state_dict": {}, "epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(BadDataError, match="holds no tensors"):
        weights_reader.read(tmp_path / "w.pth")
