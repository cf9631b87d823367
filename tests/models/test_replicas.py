"""Steps from parts of a batch: the sum against its definition, a step and a training against
oracles that are written out here, the same bits for any number of processes.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import multiprocessing
import sys
import time

import numpy as np
import parted
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tlx.errors import BadDataError, ResourceError, Stopped, TlxError, UsageError
from tlx.features import voting
from tlx.lab.engines import companions
from tlx.models import backbones, masks, process_group, replicas, training
from tlx.models.network import Network
from tlx.models.quanta.cnn import QuantaCnn
from tlx.models.recipe import Recipe
from tlx.models.tune_choices import parse_tune
from tlx.studies import replicas as replicas_of_trials

PLAIN = {"learning_rate": 0.05, "early_stopping": False, "momentum": 0.0, "weight_decay": 0.0}


@pytest.fixture(scope="module")
def data():
    """20 training rows: in batches of 8 the last one has 4."""
    noise = parted.Noise(26)
    return noise.samples(0, 20), noise.samples(20, 26)


@pytest.fixture(scope="module", autouse=True)
def repeatable():
    training.deterministic(1)
    yield
    torch.use_deterministic_algorithms(False)


def network(name: str = "narrow"):
    """The network of a name; "narrow" is QUANTA's, with batch norm and dropout, made thin."""
    if name != "narrow":
        return backbones.load(name, weights=None, classes=3, seed=0, input_size=32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = QuantaCnn(3, (8, 8, 16), 32)
    return Network(net, backbones.lookup("quanta-cnn"), ("head",))


def fit(data, net, recipe, processes=1, place=None, **settings):
    """Train; return the outcome. Of several processes this one is the first."""
    recruit = functools.partial(replicas_of_trials.recruit, device="cpu", stopping=lambda: False)
    place = place or training.TrainingContext(recruit=recruit)
    recipe = recipe.replace(replica_processes=processes if recipe.replicas > 1 else None)
    return training.fit(net, *data, recipe, seed=5, score=voting.accuracy, place=place, **settings)


def weights(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def same_bits(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def values(outcome):
    """What a training reports, without times."""
    return [
        {name: value for name, value in epoch.items() if not name.endswith("_s")}
        for epoch in outcome.history
    ]


# ---------------------------------------------------------------- the sum


def sum_by_halves(vectors):
    """The definition: the sum of the first half, plus the sum of the second."""
    if len(vectors) == 1:
        return vectors[0]
    half = len(vectors) // 2
    return sum_by_halves(vectors[:half]) + sum_by_halves(vectors[half:])


@given(height=st.integers(0, 5), seed=st.integers(0, 2**32 - 1), scale=st.integers(-30, 30))
def test_the_sum_is_that_of_the_halves_to_the_bit(height, seed, scale):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(2**height, 7)).astype(np.float32)
    vectors *= 10.0 ** rng.integers(-abs(scale), abs(scale) + 1, vectors.shape)
    expected = sum_by_halves(list(vectors.astype(np.float32)))
    tree = replicas.tree_sum([torch.tensor(row) for row in vectors])
    assert tree.numpy().tobytes() == expected.tobytes()


@given(height=st.integers(0, 3), branch=st.integers(0, 3), seed=st.integers(0, 2**32 - 1))
def test_branches_that_are_summed_elsewhere_change_no_bit(height, branch, seed):
    leaves = torch.randn(2 ** (height + branch), 5, generator=torch.Generator().manual_seed(seed))
    whole = replicas.tree_sum(list(leaves.clone()))
    branches = [replicas.tree_sum(list(part.clone())) for part in leaves.split(2**branch)]
    assert torch.equal(replicas.tree_sum(branches), whole)


@pytest.mark.parametrize("count", [0, 3, 5, 6, 7])
def test_a_sum_of_another_number_of_parts_is_refused(count):
    tree = replicas.TreeSum()
    for _ in range(count):
        tree.add(torch.ones(2))
    with pytest.raises(ValueError, match="2, 4, 8"):
        _ = tree.total


# ---------------------------------------------------------------- parts


@given(rows=st.integers(1, 200), parts=st.sampled_from((1, 2, 4, 8)), least=st.integers(1, 2))
def test_parts_take_every_row_once_and_differ_by_one(rows, parts, least):
    sizes = replicas.part_sizes(rows, parts, least)
    used = [size for size in sizes if size]
    assert len(sizes) == parts
    assert sum(sizes) == rows
    assert max(used) - min(used) <= 1
    assert min(used) >= min(least, rows)
    assert sizes == sorted(sizes, reverse=True)
    if rows >= parts * least:
        assert len(used) == parts


@given(rows=st.integers(1, 64), parts=st.sampled_from((2, 4, 8)), more=st.integers(1, 4))
def test_processes_have_the_parts_of_one_process_in_order(rows, parts, more):
    index = np.random.default_rng(rows).permutation(rows)
    whole = replicas.cut(index, parts, parts * more, replicas.Alone())
    assert np.concatenate([part.rows for part in whole.parts]).tolist() == index.tolist()
    assert sum(part.share for part in whole.parts) == pytest.approx(1.0)
    for size in (2, parts):
        own = []
        for rank in range(size):
            member = process_group.ProcessTeam(rank, size, link=None)
            own += replicas.cut(index, parts, parts * more, member).parts
        assert [(p.number, p.rows.tolist(), p.share) for p in own] == [
            (p.number, p.rows.tolist(), p.share) for p in whole.parts
        ]


# ---------------------------------------------------------------- a step, by hand


def seed_of(*names):
    """The seed of a stream, as docs/concepts/identity.md has it."""
    text = json.dumps([names[0], *map(str, names[1:])], separators=(",", ":"))
    return int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) >> 1


def step_by_hand(net, x, y, sizes, stream):
    """Gradients, statistics and loss of the parts of a batch, each computed on a copy of the
    network and combined by plain sums: of 4 parts, (a + b) + (c + d).
    """
    sums = []
    for number, (rows, labels) in enumerate(zip(x.split(sizes), y.split(sizes), strict=True)):
        if not len(rows):
            sums.append(None)
            continue
        share, part = len(rows) / len(x), copy.deepcopy(net)
        torch.manual_seed(seed_of(5, "dropout", *stream, number))
        loss = torch.nn.functional.cross_entropy(part(rows), labels)
        gradients = torch.autograd.grad(loss, list(part.parameters()))
        values = {
            name: gradient * share
            for (name, _), gradient in zip(part.named_parameters(), gradients, strict=True)
        }
        values |= {
            name: buffer * share
            for name, buffer in part.named_buffers()
            if buffer.is_floating_point()
        }
        sums.append(values | {"loss": loss.detach() * share})
    while len(sums) > 1:
        sums = [add(left, right) for left, right in zip(sums[::2], sums[1::2], strict=True)]
    return sums[0]


def add(left, right):
    if left is None or right is None:
        return left if right is None else right
    return {name: left[name] + right[name] for name in left}


def train_by_hand(net, samples, batch, parts, epochs, rate):
    """Plain gradient descent by `step_by_hand`; returns the mean loss of each epoch."""
    rows = samples.pixels.take(samples.rows).transpose(0, 3, 1, 2).astype(np.float32)
    mean, std = (np.array(v, np.float32)[:, None, None] * 255 for v in (net.mean, net.std))
    x = torch.from_numpy(np.ascontiguousarray((rows - mean) / std))  # dropout follows the memory
    y = torch.from_numpy(samples.row_labels)
    losses = []
    for epoch in range(epochs):
        order = np.random.default_rng(seed_of(5, "shuffle", epoch)).permutation(len(x))
        total = 0.0
        for step, start in enumerate(range(0, len(x), batch)):
            chosen = order[start : start + batch]
            used = min(parts, len(chosen) // 2)
            sizes = [len(piece) for piece in np.array_split(chosen, used)] + [0] * (parts - used)
            net.train()
            values = step_by_hand(net, x[chosen], y[chosen], sizes, (epoch, step))
            with torch.no_grad():
                for name, parameter in net.named_parameters():
                    parameter.sub_(rate * values[name])
                for name, buffer in net.named_buffers():
                    if buffer.is_floating_point():
                        buffer.copy_(values[name])
                    else:
                        buffer.add_(1)
            total += float(values["loss"]) * len(chosen)
        losses.append(total / len(x))
    return losses


@pytest.mark.parametrize("parts", [2, 4])
def test_a_training_is_the_one_that_is_computed_by_hand(data, parts):
    """With batch norm and dropout; 20 rows in batches of 8: the last has 4, so two parts of 2."""
    net, by_hand = network(), network()
    recipe = Recipe(epochs=2, batch_size=8, replicas=parts, clip_norm=0.0, keep_epoch="last")
    outcome = fit(data, net, recipe.replace(**PLAIN))
    losses = train_by_hand(by_hand, data[0], 8, parts, 2, PLAIN["learning_rate"])
    assert [epoch["train_loss"] for epoch in outcome.history] == pytest.approx(losses, rel=1e-5)
    ours, theirs = weights(net), weights(by_hand)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-6, msg=name)
    counts = {int(v) for name, v in ours.items() if name.endswith("num_batches_tracked")}
    assert counts == {6}, "batches, not parts"
    assert outcome.replicas == {"parts": parts, "sum": "fixed tree"}


def test_gradients_and_statistics_of_a_step_are_equal_to_the_bit(data):
    net = network().train()
    feed = training._feed(net, data[0], Recipe(), training.TrainingContext())
    index = np.arange(8)
    x, y = feed.batch(index)
    expected = step_by_hand(net, x, y, [2, 2, 2, 2], (0, 0))
    parts = replicas.Replicas(Recipe(batch_size=8, replicas=4), replicas.Alone())
    parts.enter(net)

    def part_loss(part):
        torch.manual_seed(seed_of(5, "dropout", 0, 0, part.number))
        x, y = feed.batch(part.rows)
        logits = net(x)
        return torch.nn.functional.cross_entropy(logits, y), (logits.argmax(1) == y).sum()

    loss, correct = parts.step(replicas.cut(index, 4, 8, replicas.Alone()), part_loss)
    assert torch.equal(loss, expected["loss"])
    assert 0 <= float(correct) <= 8
    for name, parameter in net.named_parameters():
        assert torch.equal(parameter.grad, expected[name]), name
    for name, buffer in net.named_buffers():
        if buffer.is_floating_point():
            assert torch.equal(buffer, expected[name]), name


def test_parts_are_another_arithmetic_than_whole_batches(data):
    """Else the tests above would hold for a batch that is never cut."""
    nets = [network(), network()]
    for net, parts in zip(nets, (1, 4), strict=True):
        fit(data, net, Recipe(epochs=1, batch_size=8, replicas=parts))
    assert not same_bits(*map(weights, nets))


# ---------------------------------------------------------------- any number of processes


def assert_same_for(data, recipe, processes, name="narrow", prepare=lambda net: None, **more):
    """The weights and values of one process, and of each of these numbers."""
    results = []
    for size in (1, *processes):
        net = network(name)
        prepare(net)
        outcome = fit(data, net, recipe, size, **more)
        results.append((weights(net), values(outcome), outcome.best_epoch))
    for result in results[1:]:
        assert same_bits(result[0], results[0][0])
        assert result[1:] == results[0][1:]


def test_two_processes_give_the_bits_of_one(data):
    hook = sys.excepthook
    assert_same_for(data, Recipe(epochs=2, batch_size=8, replicas=4), (2,))
    assert sys.excepthook is hook, "torch's own is for several machines"
    assert not torch.distributed.is_initialized()


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same_bits(data):
    """A last batch of 4 rows leaves two of four processes without one."""
    recipe = Recipe(epochs=2, batch_size=8, replicas=4, augment="crop-flip", ema=0.9)
    assert_same_for(data, recipe, (2, 4))


SMALL = Recipe(epochs=2, batch_size=8, replicas=2, learning_rate=0.02)
WAYS = {
    "an early stop": {"epochs": 9, "stopping": "accuracy", "learning_rate": 1e-8},
    "frozen blocks behind a kept prefix": {"freeze": 4},
    "adapting batch norm": {"freeze": 4, "bn": "adapt"},
    "batch statistics in frozen blocks": {"freeze": 4, "bn": "keras2"},
    "the head first": {"head_epochs": 1, "schedule": "cosine", "warmup_epochs": 0.5},
    "bfloat16, channels last": {"precision": "bfloat16", "channels_last": True},
    "two phases": {"tune": "head-then-all:epochs=1"},
    "adapters": {"tune": "lora:r=2"},
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_train_gives_the_same_bits(way, data):
    settings = dict(WAYS[way])
    tune = parse_tune(settings.pop("tune", "all"))
    assert_same_for(data, SMALL.replace(**settings), (2,), tune=tune)


@pytest.mark.slow
def test_moments_are_seen_once_and_show_the_same_network(data):
    seen: dict[int, list] = {}
    for size in (1, 2):
        recruit = functools.partial(replicas_of_trials.recruit, device="cpu")
        place = training.TrainingContext(
            recruit=recruit,
            moments=frozenset({0, 1, 3, 4}),
            on_moment=lambda step, net: seen.setdefault(step, []).append(weights(net)),
        )
        fit(data, network(), SMALL, size, place)
    assert {step: len(nets) for step, nets in seen.items()} == dict.fromkeys((0, 1, 3, 4), 2)
    assert all(same_bits(*nets) for nets in seen.values())


@pytest.mark.slow
def test_a_training_that_diverges_ends_in_every_process(data):
    outcome = fit(data, network(), SMALL.replace(learning_rate=1e3, clip_norm=0.0), 2)
    assert outcome.ended == "diverged"
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_an_error_of_the_trial_ends_the_other_processes(data):
    def full(epoch, values):
        raise ResourceError("disk-full", "no space left")

    recruit = functools.partial(replicas_of_trials.recruit, device="cpu")
    place = training.TrainingContext(recruit=recruit, on_epoch=full)
    with pytest.raises(ResourceError) as error:
        fit(data, network(), SMALL, 2, place)
    assert error.value.code == "disk-full"
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_pruned_weights_stay_zero_in_every_process(data):
    def prune(net):
        kept = masks.magnitude(masks.prunable(net.net), 0.3)
        masks.enforce(net.net, kept)

    assert_same_for(data, SMALL, (2,), "resnet20-cifar", prune)
    net = network("resnet20-cifar")
    prune(net)
    zeros = {name: value == 0 for name, value in masks.prunable(net.net).items()}
    fit(data, net, SMALL, 2)
    assert all((value[zeros[name]] == 0).all() for name, value in masks.prunable(net.net).items())


def test_a_kept_prefix_changes_no_bit_of_parts(data):
    results = []
    for limit in (0, 1 << 30):
        net = network("resnet20-cifar")
        place = training.TrainingContext(prefix_bytes=limit)
        outcome = fit(data, net, SMALL.replace(freeze=5), place=place)
        results.append((weights(net), values(outcome), outcome.prefixes[0].kept))
    assert [kept for *_, kept in results] == ["", "memory"]
    assert same_bits(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_training_that_was_stopped_goes_on_to_the_same_bits(data, tmp_path, processes):
    recipe, whole, net = SMALL.replace(batch_size=4), network(), network()
    expected = fit(data, whole, recipe, processes)
    checkpoint = tmp_path / "training.safetensors"
    steps = []

    def stopping():
        return len(steps) == 8  # in the second epoch, of five steps each

    recruit = functools.partial(replicas_of_trials.recruit, device="cpu", stopping=stopping)
    place = training.TrainingContext(
        checkpoint=checkpoint,
        recruit=recruit,
        stopping=stopping,
        on_batch=lambda done, of: steps.append(done),
    )
    with pytest.raises(Stopped):
        fit(data, net, recipe, processes, place)
    assert checkpoint.exists()
    steps += [0] * 100  # it is not asked to stop again
    net = network()
    outcome = fit(data, net, recipe, processes, place)
    assert same_bits(weights(net), weights(whole))
    assert values(outcome) == values(expected)


# ---------------------------------------------------------------- processes that fail


def recruited(data, call, **settings):
    job = training.FollowerJob(
        network("resnet20-cifar"),
        data[0],
        *(SMALL, 5, None, None, {}, None, 0, frozenset()),
    )
    return replicas_of_trials.recruit(
        job, 2, device="cpu", stopping=lambda: False, call=f"parted:{call}", **settings
    )


@pytest.mark.parametrize(
    ("call", "limit"), [("never_joins", "JOIN_S"), ("never_starts", "START_S")]
)
def test_a_process_that_never_comes_is_an_error_in_time(data, monkeypatch, call, limit):
    monkeypatch.setattr(process_group if limit == "JOIN_S" else companions, limit, 1.0)
    begun = time.monotonic()
    with pytest.raises(ResourceError) as silent, recruited(data, call):
        pytest.fail("it has not come")
    assert silent.value.code == "replicas-silent"
    assert "1 s" in str(silent.value)
    assert time.monotonic() - begun < 60, "as long as the process would sleep it is not waited for"


@pytest.mark.parametrize(("call", "code"), [("refuses", "refused"), ("breaks", "bug")])
def test_the_error_of_another_process_is_the_error(data, call, code):
    with pytest.raises(TlxError) as error, recruited(data, call):
        pytest.fail("it has not joined")
    assert error.value.code == code
    if code == "refused":
        assert isinstance(error.value, BadDataError)
        assert parted.REFUSAL in str(error.value)


def test_a_network_that_cannot_be_sent_is_refused_with_the_remedy(data):
    net = network("resnet20-cifar")
    net.net.scale = lambda x: x
    with pytest.raises(BadDataError) as refused:
        fit(data, net, SMALL, 2)
    assert "--replica-processes 1" in str(refused.value)


def test_without_a_process_of_its_own_a_trial_starts_none(data):
    net = network("resnet20-cifar")
    with pytest.raises(UsageError) as refused:
        fit(data, net, SMALL, 2, training.TrainingContext())
    assert "--replica-processes 1" in str(refused.value)


class Counting(torch.nn.Module):
    """A layer that keeps a mean of what it has seen, as no batch norm does."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, x):
        self.mean.lerp_(x.detach().mean(), 0.1)
        return x


def test_a_network_with_a_state_of_its_own_is_refused_with_the_remedy(data):
    net = network()
    net.net.drop3 = Counting()
    with pytest.raises(ResourceError) as refused:
        fit(data, net, SMALL)
    assert "net.drop3.mean" in str(refused.value)
    assert "leave out --replicas" in str(refused.value)


def test_networks_that_differ_are_noticed():
    class Others(replicas.Alone):
        size = 2

        def gather(self, vector):
            return [vector, vector + 1]

    parts = replicas.Replicas(Recipe(batch_size=8, replicas=2), Others())
    with pytest.raises(TlxError) as differ:
        parts.enter(network("resnet20-cifar"))
    assert differ.value.code == "replicas-differ"


def test_a_checksum_sees_every_bit():
    tensors = {"a": torch.randn(5), "b": torch.arange(3), "c": torch.zeros(0)}
    before = int(replicas.checksum(tensors))
    assert int(replicas.checksum({k: v.clone() for k, v in tensors.items()})) == before
    tensors["a"].view(torch.int32)[3] ^= 1
    assert int(replicas.checksum(tensors)) != before


# ---------------------------------------------------------------- settings


KEY = "6bf4427b8d9512822bd0408fe40fe9f8178622cdc1c91b815e6e2236ebb00d39"


def test_whole_batches_keep_the_keys_that_trials_have():
    assert "replicas" not in Recipe().identity()
    assert Recipe(replicas=1).identity() == Recipe().identity()
    assert Recipe().key == KEY


def test_parts_are_another_trial_and_processes_are_not():
    parts = Recipe(replicas=4)
    assert parts.identity() == Recipe().identity() | {"replicas": 4}
    assert {parts.replace(replica_processes=n).key for n in (None, 1, 2, 4)} == {parts.key}
    assert Recipe(replicas=4, fast_sum=True).key != parts.key


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"replicas": 3}, "1, 2, 4"),
        ({"replicas": 16}, "1, 2, 4"),
        ({"replicas": 4, "replica_processes": 8}, "divides 4"),
        ({"replicas": 4, "replica_processes": 3}, "1, 2, 4"),
        ({"replicas": 4, "replica_processes": 0}, "1, 2, 4"),
        ({"replicas": 8, "batch_size": 4}, "--batch-size 8"),
        ({"replicas": 4, "batch_size": 10}, "--batch-size 8 or --batch-size 12"),
    ],
)
def test_what_cannot_be_cut_is_refused_with_what_can(settings, words):
    with pytest.raises(TlxError) as refused:
        Recipe(**settings)
    assert refused.value.exit_code == 2
    assert words in str(refused.value)


def test_parts_of_one_row_are_refused_where_batch_norm_cannot_train_on_them(data):
    net = backbones.load("resnet18", weights=None, classes=3, seed=0, input_size=32)
    before = weights(net)
    with pytest.raises(UsageError) as refused:
        fit(data, net, Recipe(epochs=1, batch_size=4, replicas=4))
    assert "--batch-size 8" in str(refused.value)
    assert same_bits(weights(net), before)
    fit(data, network("resnet20-cifar"), Recipe(epochs=1, batch_size=4, replicas=4))


@pytest.mark.parametrize(
    ("parts", "gpus", "expected"), [(4, 0, 1), (4, 1, 1), (4, 3, 2), (4, 8, 4), (8, 8, 8)]
)
def test_by_default_there_is_a_process_for_each_gpu_that_divides(
    monkeypatch, parts, gpus, expected
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    recipe = Recipe(replicas=parts)
    assert replicas.process_count(recipe, "cuda") == expected
    assert replicas.process_count(recipe, "cpu") == 1
    assert replicas.process_count(recipe, "cuda:1") == 1
    assert replicas.process_count(recipe.replace(replica_processes=2), "cuda") == 2


def test_a_gpu_is_asked_for_by_every_process(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ResourceError) as refused:
        process_group.refuse_missing("cuda", 2)
    assert "as many GPUs as processes" in str(refused.value)
    with pytest.raises(ResourceError):
        process_group.refuse_missing("cuda:0", 1)
