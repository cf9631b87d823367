"""The training beside a source: the same bits kept or computed, cut or whole; what the optimizer
and images get.
"""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch

from tlx.errors import Stopped
from tlx.models import augments, backbones, samples
from tlx.models.frozen_prefix import choice as frozen_prefix_choice
from tlx.models.frozen_prefix.choice import CacheRequest
from tlx.models.quanta import batches as quanta_batches
from tlx.models.quanta import training as quanta_training
from tlx.models.quanta.gate import GateSource
from tlx.models.quanta.recipe import QuantaRecipe
from tlx.models.quanta.training import Branches, TrainingContext, fit
from tlx.models.samples import BatchLoader, Samples
from tlx.spec import derive_seed

MNIST = ("conv1", "conv2", "fc1")


class Pictures:
    """Rows in memory."""

    crops = 1

    def __init__(self, n, size, channels, seed=0):
        rng = np.random.default_rng(seed)
        self.labels = np.arange(n) % 3
        self.pixels = rng.integers(0, 90, (n, size, size, channels), dtype=np.uint8)
        for label in range(3):
            self.pixels[self.labels == label, 3 + 5 * label : 6 + 5 * label] += 140

    def take(self, rows):
        return self.pixels[rows]


def parts_of(n=41, size=28, channels=1):
    held = Pictures(n + 20, size, channels)
    rows = np.split(np.arange(n + 20), [n, n + 10])
    return {
        name: Samples(held, some, held.labels[some])
        for name, some in zip(("train", "val", "test"), rows, strict=True)
    }


def branches(modules=("fc1",), name="mnist-cnn", seed=0, size=None):
    target, source = (
        backbones.load(name, weights=None, classes=3, seed=s, input_size=size) for s in (seed, 100)
    )
    return Branches(target, source if modules else None, modules, modules)


def score(logits, labels):
    return {
        "loss": float(np.square(logits).mean()),
        "accuracy": float((logits.argmax(1) == labels).mean()),
    }


def trained(modules=("fc1",), place=None, name="mnist-cnn", parts=None, **changes):
    torch.set_num_threads(1)
    made = branches(modules, name)
    recipe = QuantaRecipe(**{"epochs": 3, "batch_size": 16, "learning_rate": 1e-3, **changes})
    found = fit(
        made, parts or parts_of(), recipe, seed=1, score=score, place=place or TrainingContext()
    )
    return found, {name: t.clone() for name, t in made.target.state_dict().items()}


def same(one, other):
    assert one[0].history == other[0].history
    assert one[0].gates == other[0].gates
    assert all(torch.equal(one[1][name], other[1][name]) for name in one[1])


@pytest.mark.slow
@pytest.mark.parametrize("modules", [("fc1",), ("conv2",), MNIST])
def test_kept_or_computed_the_bits_are_the_same(modules, tmp_path, monkeypatch):
    monkeypatch.setattr(frozen_prefix_choice, "FLOPS_PER_BYTE", {"memory": 0, "file": 0})
    kept = trained(modules)
    computed = trained(modules, TrainingContext(prefix_bytes=0))
    assert "kept in memory" in kept[0].source
    assert "runs in every epoch" in computed[0].source
    same(kept, computed)
    monkeypatch.setattr(samples, "RESIDENT_BYTES", 100)
    filed = trained(modules, TrainingContext(checkpoint=tmp_path / "training.safetensors"))
    assert "kept in a file" in filed[0].source
    same(filed, computed)
    assert [p.name for p in tmp_path.iterdir()] == ["training.safetensors"]


@pytest.mark.parametrize("limit", [0, 1 << 30])
@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("mnist-cnn", MNIST),
        ("mnist-cnn", ("fc1", "conv1")),
        ("resnet20-cifar", ("conv1", "layer3.2")),
    ],
)
def test_rows_are_what_the_source_gives(name, modules, limit, monkeypatch):
    monkeypatch.setattr(frozen_prefix_choice, "FLOPS_PER_BYTE", {"memory": 0, "file": 0})
    torch.set_num_threads(1)
    source = GateSource(branches(modules, name).source, modules)
    parts = parts_of(40, *((28, 1) if name == "mnist-cnn" else (32, 3)))
    feeds = [
        BatchLoader(part, source.network.mean, source.network.std, "cpu") for part in parts.values()
    ]
    wish = CacheRequest(batch_size=16, score_batch=8, epochs=9, limit=limit)
    rows, choice = quanta_batches.rows(source, feeds, wish)
    assert bool(choice.kept) == bool(limit)
    order = np.random.default_rng(0).permutation(40)
    for index in (order[:16], order[32:]):  # a full batch, and one that is filled up
        x, given, y = rows[0].batch(index)
        assert torch.equal(x, feeds[0].batch(index)[0])
        assert np.array_equal(y.numpy(), parts["train"].labels[index])
        want = source(feeds[0].batch(np.resize(index, 16))[0])
        for z, w in zip(given, want, strict=True):
            assert torch.equal(z, w[: len(index)])
            assert z.stride() == w.stride()
    seen = [given for _, given, _ in rows[1].batches(8)]
    assert [len(given[0]) for given in seen] == [8, 2]
    torch.testing.assert_close(
        torch.cat([given[1] for given in seen]), source(feeds[1].batch(np.arange(10))[0])[1]
    )


@pytest.mark.slow
def test_a_residual_network_too(monkeypatch):
    monkeypatch.setattr(frozen_prefix_choice, "FLOPS_PER_BYTE", {"memory": 0, "file": 0})
    parts = parts_of(20, 32, 3)
    kept, computed = (
        trained(
            ("layer2.0", "layer3.2"),
            TrainingContext(prefix_bytes=limit),
            "resnet20-cifar",
            parts,
            epochs=2,
        )
        for limit in (1 << 30, 0)
    )
    assert "kept in memory" in kept[0].source
    same(kept, computed)


def test_what_is_kept_is_what_pays():
    assert "takes no less time" in trained(("conv1",), epochs=2)[0].source
    assert "kept in memory" in trained(("fc1",), epochs=2)[0].source
    assert "reads them only once" in trained(("fc1",), epochs=1)[0].source
    assert (
        "above the limit"
        in trained(("fc1",), TrainingContext(prefix_bytes=1000), epochs=2)[0].source
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{}, {"augment": "2020"}, {"source_dropout": True, "quanta_form": "sigmoid"}]
)
def test_cut_and_continued_equals_whole(tmp_path, changes):
    whole = trained(**changes)
    path = tmp_path / "training.safetensors"
    for last in (5, 4):  # the second batch of the second epoch; then the first of the third
        count = itertools.count(1)

        def cut(done, of, count=count, last=last):
            if next(count) == last:
                raise Stopped(15)

        with pytest.raises(Stopped):
            trained(place=TrainingContext(checkpoint=path, on_batch=cut), **changes)
    told = {}
    same(
        trained(place=TrainingContext(checkpoint=path, on_epoch=told.__setitem__), **changes), whole
    )
    assert list(told) == [0, 1, 2], "restored epochs are told again"
    uncut = {}
    trained(place=TrainingContext(on_epoch=uncut.__setitem__), **changes)
    for epoch, values in told.items():
        assert {k: v for k, v in values.items() if not k.endswith("_s")} == {
            k: v for k, v in uncut[epoch].items() if not k.endswith("_s")
        }
    path.write_bytes(path.read_bytes()[:-5])
    same(trained(place=TrainingContext(checkpoint=path), **changes), whole)


def test_another_seed_or_order_of_threads_is_another_training():
    one, other = trained(), trained(learning_rate=1.1e-3)
    assert one[0].history != other[0].history


def test_a_gate_that_is_shut_is_the_witness_to_the_bit():
    witness = trained(())
    shut = trained(("fc1",), quanta_init=(-2000, 2000), multiplier=0.0)
    assert witness[0].history == shut[0].history
    assert all(torch.equal(witness[1][name], shut[1][name]) for name in witness[1])
    assert witness[0].gates == [{"v": [], "rms": []}] * 4
    assert shut[0].gates[0]["v"] == shut[0].gates[-1]["v"] == [[-2000.0, 2000.0]]


def test_lambda_is_written_down_before_the_first_epoch_and_after_each():
    found, _ = trained(MNIST)
    assert len(found.gates) == 4
    assert found.gates[0]["v"] == [[pytest.approx(1.1), pytest.approx(-1.1)]] * 3
    assert all(len(row["rms"]) == 3 and min(map(min, row["rms"])) > 0 for row in found.gates)
    sources = [[pair[0] for pair in row["rms"]] for row in found.gates]
    assert sources == [sources[0]] * 4, "the source does not move"
    assert found.gates[0]["rms"][0][1] != found.gates[-1]["rms"][0][1]
    curve = []
    trained(("fc1",), TrainingContext(on_epoch=lambda e, v: curve.append(v)))
    for name in (
        "lambda_source",
        "lambda_target",
        "v_source",
        "v_target",
        "rms_source",
        "rms_target",
        "train_loss",
        "val_loss",
        "test_accuracy",
        "val_epoch_s",
    ):
        assert all(name in values for values in curve), name
    assert all(
        v["lambda_source"] + v["lambda_target"] == pytest.approx(1, abs=1e-12) for v in curve
    )


def test_what_is_scored_stands_beside_its_own_labels():
    seen = []

    def keep(logits, labels):
        seen.append((logits.shape, labels.tolist()))
        return score(logits, labels)

    parts = parts_of()
    fit(
        branches(),
        parts,
        QuantaRecipe(epochs=1, batch_size=16),
        seed=1,
        score=keep,
        place=TrainingContext(),
    )
    order = np.random.default_rng(derive_seed(1, "shuffle", 0)).permutation(41)
    assert seen == [
        ((41, 3), parts["train"].labels[order].tolist()),
        ((10, 3), parts["val"].labels.tolist()),
        ((10, 3), parts["test"].labels.tolist()),
    ]


def test_the_rate_falls_with_every_step_and_v_may_have_its_own(monkeypatch):
    rates, real = [], torch.optim.AdamW.step

    def step(self, *arguments):
        rates.append([group["lr"] for group in self.param_groups])
        return real(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    trained(rate_decay=0.1, epochs=2, gate_rate=0.5)
    assert len(rates) == 6
    np.testing.assert_allclose([r[0] for r in rates], [1e-3 / (1 + 0.1 * n) for n in range(6)])
    np.testing.assert_allclose([r[1] for r in rates], [0.5 / (1 + 0.1 * n) for n in range(6)])


def test_v_takes_adams_steps():
    """Adam with ε 1e-7 by numpy, on the gradients that v saw."""
    slopes, real = [], torch.optim.AdamW.step
    patch = pytest.MonkeyPatch()

    def step(self, *arguments):
        slopes.append(self.param_groups[1]["params"][0].grad.double().numpy().copy())
        return real(self, *arguments)

    patch.setattr(torch.optim.AdamW, "step", step)
    found, _ = trained(weight_decay=0.01)
    patch.undo()
    v, m, s = np.array([[1.1, -1.1]]), 0.0, 0.0
    for n, slope in enumerate(slopes, 1):
        rate = 1e-3 / (1 + 1e-6 * (n - 1))
        m, s = 0.9 * m + 0.1 * slope, 0.999 * s + 0.001 * slope**2
        v = v - rate * 0.01 * v - rate * (m / (1 - 0.9**n)) / (np.sqrt(s / (1 - 0.999**n)) + 1e-7)
    np.testing.assert_allclose(found.gates[-1]["v"], v, rtol=1e-5)
    assert len(slopes) == 9


def test_a_multiplier_hardly_changes_what_adam_does():
    one, thousand = (trained(multiplier=factor)[0].gates[-1]["v"] for factor in (1.0, 1000.0))
    np.testing.assert_allclose(one, thousand, rtol=1e-3)


# ---------------------------------------------------------------- augmentation


@pytest.mark.parametrize("name", list(augments.AUGMENTS))
def test_images_are_altered_each_by_itself_and_by_their_seed_alone(name):
    x = torch.rand(6, 3, 32, 32)
    x[1:] = x[0]
    state = torch.get_rng_state()
    one, again, other = (augments.augmented(x, name, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert one.shape == x.shape
    assert len({tuple(image.flatten()[:50].tolist()) for image in one}) == 6
    assert augments.augmented(x, "none", 1) is x


@pytest.mark.parametrize("name", list(augments.AUGMENTS))
def test_borders_are_continued_not_black(name):
    assert augments.augmented(torch.full((20, 1, 28, 28), 0.7), name, 3).sub(0.7).abs().max() < 1e-5


def test_an_image_moves_as_far_as_was_said():
    x = torch.zeros(60, 1, 33, 33)
    x[:, :, 16, 16] = 1
    spots = [divmod(int(i.argmax()), 33) for i in augments.augmented(x, "2020", 0)]
    away = np.abs(np.array(spots) - 16)
    assert away.max() <= 4, "a tenth of 33 pixels, and the grid"
    assert away.max() >= 3


def test_both_branches_see_the_same_altered_images():
    made, seen = branches(), {"source": [], "target": []}
    for name, net in (("source", made.source), ("target", made.target)):
        net.register_forward_pre_hook(
            lambda m, x, name=name: seen[name].append((m.training, x[0].clone()))
        )
    fit(
        made,
        parts_of(),
        QuantaRecipe(epochs=1, batch_size=16, augment="2025"),
        seed=1,
        score=score,
        place=TrainingContext(),
    )
    theirs, ours = [x for _, x in seen["source"]], [x for training, x in seen["target"] if training]
    assert len(ours) == 3
    for x in ours:
        assert any(x.shape == z.shape and torch.equal(x, z) for z in theirs)


def test_no_two_steps_and_no_two_trainings_alter_alike(monkeypatch):
    seeds = []
    monkeypatch.setattr(
        quanta_training, "augmented", lambda x, name, seed: (seeds.append(seed), x)[1]
    )
    for seed in (1, 2):
        fit(
            branches(),
            parts_of(),
            QuantaRecipe(epochs=2, batch_size=16, augment="2020"),
            seed=seed,
            score=score,
            place=TrainingContext(),
        )
    assert len(set(seeds)) == len(seeds) == 2 * 2 * 3


def test_the_source_is_the_same_before_and_after():
    made = branches(MNIST)
    before = copy.deepcopy(made.source.state_dict())
    fit(
        made,
        parts_of(),
        QuantaRecipe(epochs=2, batch_size=16, source_dropout=True),
        seed=1,
        score=score,
        place=TrainingContext(),
    )
    after = made.source.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_numbers_that_are_not_finite_end_it():
    made = branches()
    with torch.no_grad():
        made.target.net.fc2.bias.fill_(float("nan"))
    assert (
        fit(
            made, parts_of(), QuantaRecipe(epochs=1), seed=1, score=score, place=TrainingContext()
        ).ended
        == "diverged"
    )
