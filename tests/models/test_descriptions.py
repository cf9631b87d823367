"""Model descriptions: the four sets of VGG16, names of Keras and TensorFlow, and every way a file
can be wrong.
"""

from __future__ import annotations

import itertools
import json

import pytest
import torch

from tlx.errors import BadDataError, ErrorGroup, MissingError, UnknownNameError, UsageError
from tlx.models import activations, backbones, descriptions
from tlx.models import network as networks
from tlx.models.activations import capture
from tlx.models.descriptions import LAYER_SETS, Description
from tlx.models.weights import keras as weights_keras
from tlx.studies import activations as inputs

GOOD = {
    "description": "the last quarter",
    "input_reshape": [224, 224],
    "input_tensor": "input_2:0",
    "target_tensors": ["block5_conv3/Relu:0", "fc1/Relu:0", "fc2/Relu:0"],
}


def outline(name, head="keep"):
    """A network of shapes only."""
    with networks.meta_device():
        return backbones.load(name, weights=None, classes=1000, head=head, seed=0)


@pytest.fixture(scope="module")
def vgg16():
    return outline("vgg16")


def written(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# ---------------------------------------------------------------- the sets


@pytest.mark.parametrize(
    ("name", "count", "features", "first"),
    [
        ("model_25", 3, 8704, "features.29"),
        ("model_50", 7, 10752, "features.20"),
        ("model_75", 11, 12032, "features.11"),
        ("model_100", 15, 12416, "features.1"),
    ],
)
def test_the_four_sets_of_vgg16(vgg16, name, count, features, first):
    found = descriptions.modules(vgg16, LAYER_SETS[name])
    assert found[0] == first
    assert found[-2:] == ("classifier.1", "classifier.4")
    tap = activations.Capture(vgg16, found, reduce="pooled")
    assert len(tap.shapes) == count
    assert sum(shape[0] for shape in tap.shapes.values()) == features
    assert all(type(vgg16.layers()[layer]) is torch.nn.ReLU for layer in found)


def test_each_set_ends_the_next():
    sets = [LAYER_SETS[f"model_{part}"] for part in (25, 50, 75, 100)]
    assert all(larger[-len(smaller) :] == smaller for smaller, larger in itertools.pairwise(sets))


@pytest.mark.parametrize("model", ["vgg11", "vgg13", "vgg16", "vgg19"])
def test_keras_names_are_the_convolutions_in_order(model):
    network = outline(model)
    names = descriptions.keras_names(network)
    convolutions = [n for n, m in network.layers().items() if isinstance(m, torch.nn.Conv2d)]
    assert [names[n] for n in names if "_conv" in n and n.endswith("/BiasAdd")] == convolutions
    pools = [n for n, m in network.layers().items() if isinstance(m, torch.nn.MaxPool2d)]
    assert [names[n] for n in names if n.endswith("/MaxPool")] == pools
    assert {type(network.layers()[names[n]]) for n in names if n.endswith("/Relu")} == {
        torch.nn.ReLU
    }


def test_names_are_taken_in_every_spelling(vgg16):
    spelled = [
        "block5_conv3/Relu:0",
        "block5_conv3/Relu",
        "block5_conv3",
        "vgg16/block5_conv3/Relu:0",
        "features.29",
    ]
    assert {descriptions.modules(vgg16, [name]) for name in spelled} == {("features.29",)}
    assert descriptions.modules(vgg16, ["block5_conv3/BiasAdd:0", 1]) == (
        "features.28",
        "features.1",
    )


def test_names_of_keras_are_no_names_of_others():
    network = backbones.meta_model("resnet50")
    assert descriptions.modules(network, ["layer1.0", 3]) == (
        "layer1.0",
        descriptions.modules(network, [3])[0],
    )
    with pytest.raises(UnknownNameError):
        descriptions.modules(network, ["block5_conv3/Relu:0"])
    assert descriptions.keras_names(network) == descriptions.keras_names(outline("vgg11_bn")) == {}


def test_a_network_without_its_dense_layers_has_no_fc1():
    network = outline(
        "vgg16", head="mlp256"
    )  # its classifier.1 and classifier.4 are something else
    assert descriptions.modules(network, ["block5_conv3"]) == ("features.29",)
    with pytest.raises(ErrorGroup) as caught:
        descriptions.modules(network, ["fc1/Relu:0", "fc2"])
    assert {type(p) for p in caught.value.problems} == {UnknownNameError}


def test_keras_weights_come_with_the_normalisation_that_they_need():
    assert len(weights_keras.MEAN) == 3  # a description says nothing of it: the weight file does


# ---------------------------------------------------------------- files


def test_a_good_file_goes_both_ways(tmp_path, vgg16):
    found = descriptions.read(written(tmp_path / "d.json", GOOD))
    assert found == Description(
        "the last quarter", (224, 224), "input_2:0", tuple(GOOD["target_tensors"])
    )
    assert found.to_json() == GOOD
    assert descriptions.described(vgg16, found) == ("features.29", "classifier.1", "classifier.4")
    own = GOOD | {"input_reshape": [], "target_shapes": [[512, 14, 14], [4096], [4096]]}
    found = descriptions.read(written(tmp_path / "d.json", own))
    assert found.to_json() == own
    assert descriptions.described(vgg16, found)


BAD = {  # content → code and what the message must name
    "not JSON": ("description: VGG16\n", "json-syntax", "line 1, column 1"),
    "a comma after the last": (
        '{"description": "x",\n "input_reshape": [1, 2],}',
        "json-syntax",
        "line 2",
    ),
    "a comment": ('{\n// layers\n"description": "x"}', "json-syntax", "line 2"),
    "single quotes": ("{'description': 'x'}", "json-syntax", "column 2"),
    "YAML": ("description: x\ntarget_tensors:\n - a\n", "json-syntax", "plain JSON"),
    "a key twice": (
        '{"description": "x", "description": "y"}',
        "json-duplicate-key",
        "description",
    ),
    "NaN": ('{"description": NaN}', "json-not-finite", "NaN"),
    "depth": ('{"description": ' + "[" * 200_000, "json-depth", "32"),
    "a list": ([GOOD], "json-type", "an object"),
    "unknown key": (GOOD | {"target_tensor": []}, "json-unknown-key", "nearest: target_tensors"),
    "a key that is not there": (
        {k: v for k, v in GOOD.items() if k != "input_tensor"},
        "json-key-missing",
        "input_tensor",
    ),
    "text for a number": (GOOD | {"input_reshape": ["224", 224]}, "json-type", "whole pixels"),
    "true for a number": (GOOD | {"input_reshape": [True, 224]}, "json-type", "input_reshape"),
    "three sizes": (GOOD | {"input_reshape": [224, 224, 3]}, "json-type", "input_reshape"),
    "a size of 0": (GOOD | {"input_reshape": [0, 224]}, "json-type", "input_reshape"),
    "a number for text": (GOOD | {"description": 5}, "json-type", "a number, 5"),
    "no layers": (GOOD | {"target_tensors": []}, "json-type", "one or more"),
    "one layer, no list": (GOOD | {"target_tensors": "fc1"}, "json-type", "text"),
    "too few shapes": (
        GOOD | {"target_shapes": [[512, 14, 14]]},
        "json-count",
        "1 target_shapes for 3",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_told_with_its_place(tmp_path, case):
    content, code, named = BAD[case]
    with pytest.raises(BadDataError) as caught:
        descriptions.read(written(tmp_path / "d.json", content))
    assert (caught.value.code, caught.value.exit_code) == (code, 3)
    assert named in str(caught.value)
    assert "d.json" in str(caught.value)


def test_everything_wrong_with_a_file_is_told_at_once(tmp_path):
    with pytest.raises(ErrorGroup) as caught:
        descriptions.read(
            written(
                tmp_path / "d.json",
                {
                    "descripton": "x",
                    "input_reshape": [1],
                    "input_tensor": 1,
                    "target_tensors": ["a"],
                },
            )
        )
    assert [p.code for p in caught.value.problems] == [
        "json-unknown-key",
        "json-key-missing",
        "json-type",
        "json-type",
    ]
    assert caught.value.exit_code == 3


def test_no_file_and_no_regular_file(tmp_path):
    with pytest.raises(MissingError):
        descriptions.read(tmp_path / "d.json")
    with pytest.raises(BadDataError):
        descriptions.read(tmp_path)


def test_a_file_beyond_the_limit_is_refused_unread(tmp_path):
    path = tmp_path / "d.json"
    with open(path, "wb") as file:
        file.truncate(5 << 30)
    with pytest.raises(BadDataError, match="at most"):
        descriptions.read(path)


# ---------------------------------------------------------------- against the network


def test_unknown_layers_are_bad_data_with_the_nearest(vgg16):
    content = Description("x", (), "", ("block5_conv4/Relu:0", "features.99", "fc1"))
    with pytest.raises(ErrorGroup) as caught:
        descriptions.described(vgg16, content, where="d.json")
    first, second = caught.value.problems
    assert (first.code, first.exit_code, first.where) == ("unknown-layer", 3, "d.json")
    assert "block5_conv3" in str(first)
    assert str(first).count(",") >= 4  # five names
    assert "features." in second.expected
    assert "tlx backbones vgg16" in second.remedy


def test_a_layer_under_two_names_is_told(vgg16):
    with pytest.raises(BadDataError, match="same layer"):
        descriptions.described(vgg16, Description("x", (), "", ("fc1", "classifier.1")))
    with pytest.raises(UsageError):
        descriptions.modules(vgg16, ["fc1", "classifier.1"])


def test_other_shapes_than_described_are_told(vgg16):
    with pytest.raises(BadDataError) as caught:
        descriptions.described(vgg16, Description("x", (299, 299), "", ("fc1",)))
    assert "[299, 299]" in str(caught.value)
    assert "[224, 224]" in str(caught.value)
    with pytest.raises(BadDataError) as caught:
        descriptions.described(
            vgg16, Description("x", (), "", ("fc1", "block5_conv3"), ((4096,), (512, 7, 7)))
        )
    assert caught.value.code == "output-shape"
    assert "[512, 14, 14]" in str(caught.value)
    assert "[512, 7, 7]" in str(caught.value)


# ---------------------------------------------------------------- layers of the thesis


def thesis_layers(name, size=None):
    network = backbones.load(name, weights=None, classes=None, head="keep", seed=0, input_size=size)
    x = torch.randn(
        3,
        network.channels,
        network.input_size,
        network.input_size,
        generator=torch.Generator().manual_seed(1),
    )
    found = capture(network, x, inputs.layers_of(network, ("thesis",), None), reduce="flat")
    with torch.no_grad():
        logits = network(x)
    return list(found.values()), logits


def test_the_output_of_the_thesis_network_is_its_log_softmax_and_stages_are_as_described():
    """In, conv1 before ReLU, pool1 after it, conv2 before, pool2 after, fc1 after ReLU, out:
    log-softmax.
    """
    found, logits = thesis_layers("mnist-cnn")
    assert [tuple(x.shape[1:]) for x in found[1:]] == [
        (32 * 26 * 26,),
        (32 * 13 * 13,),
        (64 * 11 * 11,),
        (1600,),
        (128,),
        (10,),
    ]
    for stage, negative in zip(found[1:6], (True, False, True, False, False), strict=True):
        assert bool((stage < 0).any()) is negative
    assert torch.allclose(found[-1], logits - torch.logsumexp(logits, 1, keepdim=True), atol=1e-6)


def test_every_layer_of_the_thesis_vgg_has_its_relu_the_output_too():
    found, logits = thesis_layers("vgg16", 32)
    assert len(found) == 9
    assert all(bool((stage >= 0).all()) for stage in found[1:])
    assert torch.equal(found[-1], logits.clamp(min=0))
    assert bool((logits < 0).any())


def test_a_function_of_a_layer_is_asked_for_beside_the_layer_itself():
    network = backbones.load("mnist-cnn", weights=None, classes=4, seed=0)
    x = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    found = capture(network, x, ("fc2", "fc2:relu", "input:relu", "conv1:relu", "1"))
    assert list(found)[:4] == ["fc2", "fc2:relu", "input:relu", "conv1:relu"]
    assert torch.equal(found["fc2:relu"], found["fc2"].relu())
    assert torch.equal(found["input:relu"], x.relu())
    with pytest.raises(UnknownNameError):
        capture(network, x, ("fc2:sigmoid",))


@pytest.mark.parametrize("name", ["vgg16", "vgg16-4096", "vgg19", "vgg16_bn"])
def test_the_stages_of_every_vgg_of_the_thesis_end_in_its_five_pools(name):
    """Sources: imagenet, places365, vggface and cars VGG16, cifar10 VGG19, segnet VGG16-BN."""
    network = backbones.meta_model(name)
    layers = inputs.layers_of(
        backbones.load(name, weights=None, classes=None, head="keep", seed=0), ("thesis",), None
    )
    pools = [n for n, m in network.layers().items() if type(m).__name__ == "MaxPool2d"]
    assert layers[:6] == ("input", *pools)
    assert len(layers) == (9 if name.startswith("vgg16") and "bn" not in name else 6)
