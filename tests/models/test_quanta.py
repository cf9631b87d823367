"""The gate against numpy and finite differences; gated networks against networks written out; the
source untouched.
"""

from __future__ import annotations

import copy
import itertools

import h5py
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tlx.errors import BadDataError, TlxError, UnknownNameError, UsageError
from tlx.models import backbones
from tlx.models.quanta import gate as quanta_gate
from tlx.models.quanta.gate import Gated, GateSource, QuantaGate

RNG = np.random.default_rng(0)
ZS, ZT, WEIGHT = (RNG.normal(size=(3, 2, 4, 4)) for _ in range(3))
POSITIONS = ("conv1a", "conv1b", "conv2a", "conv2b", "conv3a", "conv3b", "dense")


def shares(form, v):
    """λ of source and target, written out."""
    if form == "softmax":
        powers = np.exp(np.array(v) - max(v))
        return powers / powers.sum()
    one = 1 / (1 + np.exp(-v[0]))
    return np.array([one, 1 - one])


def elu(x):
    return np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1)


def loss(form, v, zs, zt):
    source, target = shares(form, v)
    return float((elu(source * zs + target * zt) * WEIGHT).sum())


def gate_of(form, v, **more):
    return QuantaGate(form, v, activation=F.elu, **more).double()


@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
@pytest.mark.parametrize("v", [(1.1, -1.1), (0.01, -0.01), (-3.0, 2.0)])
def test_the_gate_by_numpy_and_its_gradients_by_finite_differences(form, v):
    gate = gate_of(form, v)
    zs, zt = (torch.tensor(z, requires_grad=True) for z in (ZS, ZT))
    found = gate(zs, zt)
    source, target = shares(form, gate.v.detach()[0].tolist())
    np.testing.assert_allclose(
        found.detach().numpy(), elu(source * ZS + target * ZT), rtol=1e-12, atol=1e-14
    )
    (found * torch.tensor(WEIGHT)).sum().backward()
    step = 1e-6
    at = np.array(gate.v.detach()[0].tolist())
    slopes = [
        (
            loss(form, at + step * np.eye(2)[i], ZS, ZT)
            - loss(form, at - step * np.eye(2)[i], ZS, ZT)
        )
        / (2 * step)
        for i in range(2)
    ]
    np.testing.assert_allclose(gate.v.grad.numpy()[0], slopes, rtol=1e-7, atol=1e-8)
    for mine, share in ((zs, source), (zt, target)):
        inner = source * ZS + target * ZT
        np.testing.assert_allclose(
            mine.grad.numpy(), WEIGHT * share * np.where(inner > 0, 1, np.exp(inner)), rtol=1e-10
        )


def test_lambdas_are_what_they_are_called():
    gate = QuantaGate(form="softmax", init=(1.1, -1.1))
    assert gate.v.shape == (1, 2)
    assert list(gate.state_dict()) == ["v"]
    assert (gate.source, gate.target) == pytest.approx((0.9002495, 0.0997505), abs=1e-6)
    assert QuantaGate("sigmoid", (0.01, -0.01)).source == pytest.approx(0.5025, abs=1e-6)
    for form in quanta_gate.FORMS:
        for v in ((1.1, -1.1), (200.0, -200.0), (-30.0, 12.5), (0.0, 0.0)):
            gate = QuantaGate(form, v)
            assert gate.source + gate.target == pytest.approx(1, abs=1e-15)
            assert float(gate.lambdas.detach().sum()) == pytest.approx(1, abs=2e-7)
            assert 0 <= gate.source <= 1


def test_the_activation_is_the_callers_unless_given():
    zs, zt = torch.tensor(ZS), torch.tensor(ZT)
    bare, with_elu = QuantaGate().double(), gate_of("softmax", (1.1, -1.1))
    torch.testing.assert_close(F.elu(bare(zs, zt)), with_elu(zs, zt))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_numbers_keep_their_width(dtype):
    gate = QuantaGate()
    assert gate(torch.ones(2, 3, dtype=dtype), torch.ones(2, 3, dtype=dtype)).dtype == dtype


def test_a_multiplier_multiplies_the_gradient_of_v_and_nothing_else():
    found = []
    for factor in (1.0, 1000.0, 0.0):
        gate = gate_of("softmax", (1.1, -1.1), multiplier=factor)
        zt = torch.tensor(ZT, requires_grad=True)
        out = gate(torch.tensor(ZS), zt)
        (out * torch.tensor(WEIGHT)).sum().backward()
        found.append((out.detach(), zt.grad, gate.v.grad))
    for out, below, slope in found[1:]:
        assert torch.equal(out, found[0][0])
        assert torch.equal(below, found[0][1])
        assert (slope / found[0][2]).tolist() in ([[pytest.approx(1000.0)] * 2], [[0.0, 0.0]])
    assert not found[2][2].any()


def test_equal_inputs_give_no_slope_and_pass_unchanged():
    gate = gate_of("softmax", (1.1, -1.1))
    z = torch.tensor(ZS)
    out = gate(z, z)
    torch.testing.assert_close(out, F.elu(z))
    out.sum().backward()
    assert gate.v.grad.abs().max() < 1e-12


@pytest.mark.parametrize(
    ("made", "error"),
    [
        (lambda: QuantaGate("softmx"), UnknownNameError),
        (lambda: QuantaGate(init=(1.0,)), UsageError),
        (lambda: QuantaGate()(torch.ones(2, 3), torch.ones(3)), UsageError),
        (lambda: QuantaGate()(torch.ones(2, 3), torch.ones(2, 1)), UsageError),
    ],
)
def test_what_no_gate_can_do_is_refused(made, error):
    with pytest.raises(error):
        made()


# ---------------------------------------------------------------- the original's network


@pytest.mark.parametrize(
    ("name", "classes", "numbers"),
    [
        ("quanta-cnn", 10, 5_354_570),
        ("quanta-cnn", 100, 5_446_820),
        ("quanta-cnn-2020", 10, 20_015_690),
        ("quanta-cnn-2020", 100, 20_200_100),
    ],
)
def test_it_has_as_many_numbers_as_in_keras(name, classes, numbers):
    net = backbones.load(name, weights=None, classes=classes, seed=0)
    kept = [t for n, t in net.named_buffers() if not n.endswith("tracked")]
    assert sum(t.numel() for t in (*net.parameters(), *kept)) == numbers
    assert tuple(block.name for block in net.blocks) == POSITIONS
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, classes)


def test_it_starts_and_normalises_as_keras_does():
    net = backbones.load("quanta-cnn", weights=None, classes=10, seed=0).net
    for name, fans in {"conv2a": 9 * (64 + 128), "dense": 4096 + 1024, "head": 1024 + 10}.items():
        layer, bound = net.get_submodule(name), (6 / fans) ** 0.5
        weight = layer.weight.detach()
        assert 0.97 * bound < weight.abs().max() <= bound
        assert float(weight.std()) == pytest.approx(bound / 3**0.5, rel=0.03)
        assert not layer.bias.any()
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.01)}
    assert [m.p for m in net.modules() if isinstance(m, torch.nn.Dropout)] == [0.3, 0.3, 0.3, 0.5]


def written_out(source, target, x, gates):
    """Logits of the target with gates at some of the seven positions, layer after layer by hand, in
    evaluation.
    """
    zs, s, t = {}, x, x
    for name, layer in source.net.named_children():
        s = layer(s)
        zs[name] = s
    for name, layer in target.net.named_children():
        t = layer(t)
        if name in gates:
            first, second = shares("softmax", gates[name])
            t = float(first) * zs[name] + float(second) * t
    return t


@pytest.fixture(scope="module")
def pair():
    made = [backbones.load("quanta-cnn", weights=None, classes=10, seed=seed) for seed in (1, 2)]
    for net in made:
        for norm in net.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                norm.running_mean.normal_(generator=torch.Generator().manual_seed(3))
                norm.running_var.uniform_(0.5, 2, generator=torch.Generator().manual_seed(4))
    return [net.double().eval() for net in made]


@pytest.mark.parametrize("names", [*((name,) for name in POSITIONS), POSITIONS])
def test_a_gated_network_is_the_one_written_out(pair, names):
    source, target = copy.deepcopy(pair)
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    gated = Gated(target, names).double().eval()
    with torch.no_grad():
        found = gated(x, GateSource(source, names)(x))
        want = written_out(*copy.deepcopy(pair), x, dict.fromkeys(names, (1.1, -1.1)))
    torch.testing.assert_close(found, want, rtol=1e-6, atol=1e-8)
    with torch.no_grad():
        alone = pair[1](x)
    assert (found - alone).abs().max() > 1e-3, "the gate does something"


def test_a_gate_closed_to_one_side_leaves_the_other_alone(pair):
    source, target = copy.deepcopy(pair)
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        given = GateSource(source, ["dense"])(x)
        shut = (
            Gated(copy.deepcopy(target), ["dense"], lambda: QuantaGate(init=(-2000, 2000)))
            .double()
            .eval()
        )
        assert torch.equal(shut(x, given), target(x))
        wide = (
            Gated(copy.deepcopy(target), ["dense"], lambda: QuantaGate(init=(2000, -2000)))
            .double()
            .eval()
        )
        assert torch.equal(wide(x, given), target.net.head(F.elu(given[0])))
        same = Gated(copy.deepcopy(source), POSITIONS).double().eval()
        torch.testing.assert_close(
            same(x, GateSource(source, POSITIONS)(x)), source(x), msg="source and target are one"
        )


def test_nothing_flows_into_the_source_and_nothing_of_it_moves(pair):
    source, target = copy.deepcopy(pair)
    before = {name: t.clone() for name, t in source.state_dict().items()}
    branch = GateSource(source.train(), POSITIONS, dropout=True)
    branch.training = True
    gated = Gated(target, POSITIONS).double().train()
    optimizer = torch.optim.SGD(gated.parameters(), lr=0.1)
    for _ in range(2):
        x = torch.rand(4, 3, 32, 32, dtype=torch.float64)
        given = branch(x)
        assert not any(z.requires_grad for z in given)
        F.cross_entropy(gated(x, given), torch.arange(4)).backward()
        optimizer.step()
    assert all(p.grad is None and not p.requires_grad for p in source.parameters())
    assert all(torch.equal(before[name], t) for name, t in source.state_dict().items()), (
        "batch norm included"
    )
    assert all(gate.v.grad.any() for gate in gated.gates)
    assert all(
        p.grad is not None and p.grad.any()
        for n, p in target.named_parameters()
        if n.endswith("weight")
    )


def test_the_sources_dropout_is_on_only_where_it_is_asked_for(pair):
    source, x = copy.deepcopy(pair[0]), torch.rand(2, 3, 32, 32, dtype=torch.float64)
    quiet, noisy = GateSource(source, ["dense"]), GateSource(source, ["dense"], dropout=True)
    quiet.training = noisy.training = True
    assert torch.equal(quiet(x)[0], quiet(x)[0])
    assert not torch.equal(noisy(x)[0], noisy(x)[0])
    assert not any(m.training for m in source.modules() if isinstance(m, torch.nn.BatchNorm2d))
    noisy.training = False
    assert torch.equal(noisy(x)[0], quiet(x)[0])


@pytest.mark.slow
def test_outputs_are_taken_before_what_works_in_place():
    net = backbones.load("vgg11", weights=None, classes=3, head="gap-linear", seed=0, input_size=32)
    first = GateSource(net, ["features.0", "features.3"])(torch.rand(2, 3, 32, 32))[0]
    assert (first < 0).any(), "ReLU behind it has not been there"


def test_root_mean_squares_of_what_the_gates_are_given(pair):
    source, target = copy.deepcopy(pair)
    gated, branch = (
        Gated(target, ["conv1a", "dense"]).double().eval(),
        GateSource(source, ["conv1a", "dense"]),
    )
    gated.measure()
    batches = [torch.rand(n, 3, 32, 32, dtype=torch.float64) for n in (3, 1)]
    with torch.no_grad():
        for x in batches:
            gated(x, branch(x))
        x = torch.cat(batches)
        want = [
            float(z.square().mean()) ** 0.5
            for z in (branch(x)[0], pair[1].net.conv1a(x), branch(x)[1])
        ]
    assert [gated.rms[0][0], gated.rms[0][1], gated.rms[1][0]] == pytest.approx(want, rel=1e-9)
    gated.measuring = False
    with torch.no_grad():
        gated(x, [z * 100 for z in branch(x)])
    assert gated.rms[0][0] == pytest.approx(want[0], rel=1e-9), "only while it measures"


# ---------------------------------------------------------------- any network


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("mnist-cnn", ["conv1", "conv2", "fc1"]),
        (
            "resnet20-cifar",
            [
                "conv1",
                "layer1.0",
                "layer1.1",
                "layer1.2",
                "layer2.0",
                "layer2.1",
                "layer2.2",
                "layer3.0",
                "layer3.1",
                "layer3.2",
            ],
        ),
        (
            "vgg11_bn",
            [
                "features.0",
                "features.4",
                "features.8",
                "features.11",
                "features.15",
                "features.18",
                "features.22",
                "features.25",
                "classifier.0",
                "classifier.3",
            ],
        ),
    ],
)
def test_where_gates_stand(name, modules):
    places = quanta_gate.places(backbones.meta_model(name))
    assert [p.module for p in places] == modules
    assert [p.block for p in places] == list(range(1, len(modules) + 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet20-cifar", "vgg11_bn", "mobilenet_v2", "densenet121", "vit_b_32"]
)
def test_every_place_of_any_network_takes_a_gate(name):
    size = {"vit_b_32": 224, "resnet20-cifar": 32}.get(name, 48)
    head = "gap-linear" if name.startswith("vgg") else "auto"
    source, target = (
        backbones.load(name, weights=None, classes=3, head=head, seed=s, input_size=size)
        for s in (0, 1)
    )
    places = [p for p in quanta_gate.places(target) if p is not None]
    modules = [p.module for p in places[:: max(1, len(places) // 6)]]
    x = torch.rand(2, 3, size, size)
    with torch.no_grad():
        alone, theirs = target(x), source(x)
        given = GateSource(source, modules)(x)
        shut = Gated(target, modules, lambda: QuantaGate(init=(-2000, 2000))).eval()
        assert torch.equal(shut(x, given), alone)
        assert [tuple(z.shape[1:]) for z in given] == [
            p.shape for p in places if p.module in modules
        ]
        last = Gated(copy.deepcopy(source), modules[-1:]).eval()
        torch.testing.assert_close(last(x, given[-1:]), theirs, rtol=1e-3, atol=1e-4)


def test_gates_want_an_output_each(pair):
    with pytest.raises(TlxError, match="one a gate"):
        Gated(copy.deepcopy(pair[1]), ["dense"])(torch.rand(1, 3, 32, 32, dtype=torch.float64))


def keras_cnn(path, rng, *, first=0, left_out=()):
    """The original's network as Keras lays it out, its layers numbered from `first`; small widths
    in the dense part.
    """
    kinds = {
        "conv2d": [(3, 3, a, b) for a, b in itertools.pairwise((3, 64, 64, 128, 128, 256, 256))],
        "dense": [(16 * 256, 1024), (1024, 4)],
    }
    with h5py.File(path, "w") as file:

        def put(kind, n, role, values):
            name = f"{kind}_{n + first}" if n + first else kind
            if name not in left_out:
                file[f"model_weights/{name}/{name}/{role}:0"] = values.astype("f4")

        for kind, shapes in kinds.items():
            for n, shape in enumerate(shapes):
                put(kind, n, "kernel", rng.normal(size=shape) * (2 / np.prod(shape[:-1])) ** 0.5)
                put(kind, n, "bias", rng.normal(size=shape[-1]) * 0.1)
        for n, shape in enumerate(kinds["conv2d"]):
            for role in ("gamma", "beta", "moving_mean", "moving_variance"):
                put("batch_normalization", n, role, rng.uniform(0.5, 1.5, shape[-1]))


def by_keras_rules(path, images):
    """Logits by numpy on (n, 32, 32, 3) images in 0-1: layers channels last, in the order of their
    numbers.
    """
    with h5py.File(path) as file:
        held = {
            n: {k.split(":")[0]: v[()].astype("f8") for k, v in g[n].items()}
            for n, g in file["model_weights"].items()
        }

    def by(kind):
        return [
            held[n]
            for n in sorted(
                (n for n in held if n.startswith(kind)),
                key=lambda n: int("0" + n.removeprefix(kind).lstrip("_")),
            )
        ]

    x = images
    for n, (layer, norm) in enumerate(zip(by("conv2d"), by("batch_normalization"), strict=True)):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        side = x.shape[1]
        x = sum(
            padded[:, i : i + side, j : j + side] @ layer["kernel"][i, j]
            for i in range(3)
            for j in range(3)
        )
        x = elu(x + layer["bias"])
        x = (
            norm["gamma"] * (x - norm["moving_mean"]) / np.sqrt(norm["moving_variance"] + 1e-3)
            + norm["beta"]
        )
        if n % 2:
            x = x.reshape(len(x), side // 2, 2, side // 2, 2, -1).max(axis=(2, 4))
    hidden, last = by("dense")
    return (
        elu(x.reshape(len(x), -1) @ hidden["kernel"] + hidden["bias"]) @ last["kernel"]
        + last["bias"]
    )


@pytest.mark.parametrize("first", [0, 7])
def test_the_originals_weights_compute_what_keras_would(tmp_path, first):
    from tlx.models.quanta import cnn as quanta_cnn
    from tlx.models.weights import reader as weights_reader

    rng = np.random.default_rng(0)
    keras_cnn(tmp_path / "SourceModel.h5", rng, first=first)
    net = backbones.load("quanta-cnn", weights=None, classes=4, seed=0)
    weights_reader.load_into(
        net.net, quanta_cnn.from_keras(weights_reader.read(tmp_path / "SourceModel.h5")), least=1.0
    )
    images = rng.uniform(size=(2, 32, 32, 3))
    with torch.no_grad():
        found = net.double()(torch.from_numpy(images).permute(0, 3, 1, 2))
    np.testing.assert_allclose(
        found.numpy(), by_keras_rules(tmp_path / "SourceModel.h5", images), rtol=1e-6
    )


def test_another_networks_keras_weights_are_refused(tmp_path):
    from tlx.models.quanta import cnn as quanta_cnn
    from tlx.models.weights import reader as weights_reader

    keras_cnn(tmp_path / "x.h5", np.random.default_rng(0), left_out=("conv2d_5",))
    with pytest.raises(BadDataError, match="5 convolutions"):
        quanta_cnn.from_keras(weights_reader.read(tmp_path / "x.h5"))
