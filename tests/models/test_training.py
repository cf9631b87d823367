"""The loop: its optimizer against an oracle, its early stop, its frozen blocks, and the same bits
after a kill.
"""

from __future__ import annotations

import itertools

import naive
import numpy as np
import pytest
import torch

from tlx.errors import Stopped
from tlx.features import voting
from tlx.files import Journal
from tlx.lab.store import Store
from tlx.models import (
    augments,
    backbones,
    freezing,
    optimizers,
    progress,
    training,
    training_loop,
)
from tlx.models.recipe import Recipe
from tlx.models.samples import RESIDENT_BYTES, BatchLoader, Samples


class Noise:
    """Pixels of random images, c crops each; class k is brighter in row k."""

    def __init__(self, n: int, crops: int = 2, channels: int = 1, size: int = 28, classes: int = 3):
        rng = np.random.default_rng(n)
        self.crops = crops
        self.labels = np.arange(n) % classes
        self._array = rng.integers(0, 80, (n * crops, size, size, channels), dtype=np.uint8)
        for image, label in enumerate(self.labels):
            self._array[image * crops : (image + 1) * crops, 4 + 6 * label : 8 + 6 * label] += 150

    def take(self, rows):
        return self._array[rows]

    def samples(self, chosen: slice) -> Samples:
        images = np.arange(len(self.labels))[chosen]
        return Samples(self, images, self.labels[images])


@pytest.fixture(scope="module")
def data():
    noise = Noise(24)
    return noise.samples(slice(0, 15)), noise.samples(slice(15, 24))


def network(seed: int = 0):
    return backbones.load("mnist-cnn", weights=None, classes=3, seed=seed)


def fit(data, recipe, place=None, net=None, **settings):
    net = net or network()
    outcome = training.fit(
        net,
        *data,
        recipe,
        seed=5,
        score=voting.accuracy,
        place=place or training.TrainingContext(),
        **settings,
    )
    return net, outcome


def state(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---------------------------------------------------------------- the optimizer and its schedule


@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgdw_is_the_formula(momentum, clip):
    rng = np.random.default_rng(1)
    start, gradients = rng.normal(size=(4, 3)), 2 * rng.normal(size=(6, 4, 3))
    weight = torch.nn.Parameter(torch.tensor(start))
    optimizer = optimizers.Sgdw([{"params": [weight], "lr": 0.05}], momentum=momentum, decay=0.01)
    for gradient in gradients:
        weight.grad = torch.tensor(gradient)
        optimizers.clip_each([weight], clip)
        optimizer.step()
    want = naive.sgdw(start, gradients, rate=0.05, momentum=momentum, decay=0.01, clip=clip)
    np.testing.assert_allclose(weight.detach().numpy(), want, rtol=1e-9)


def test_clipping_is_for_each_tensor_alone():
    small, large = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    small.grad, large.grad = torch.tensor([0.3, 0.4]), torch.tensor([30.0, 40.0])
    optimizers.clip_each([small, large], 1.0)
    np.testing.assert_allclose(small.grad.numpy(), [0.3, 0.4])
    np.testing.assert_allclose(large.grad.numpy(), [0.6, 0.8], rtol=1e-6)


def test_rates_warm_up_then_follow_the_schedule():
    factors = [optimizers.rate_factor("cosine", step, 4, 24) for step in range(24)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4] == 1.0
    assert all(a > b for a, b in itertools.pairwise(factors[4:]))
    assert factors[-1] < 0.01
    assert {optimizers.rate_factor("constant", step, 0, 9) for step in range(9)} == {1.0}


def test_the_step_schedule_is_that_of_torch():
    weight = torch.zeros(1, requires_grad=True)
    reference = torch.optim.SGD([weight], lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(reference, step_size=3, gamma=0.1)
    for epoch in range(10):
        for step in range(4):
            factor = optimizers.rate_factor("step", epoch * 4 + step, 0, 40, drop=(12, 0.1))
            assert factor == pytest.approx(reference.param_groups[0]["lr"], rel=1e-12)
        weight.sum().backward()
        reference.step()
        schedule.step()


def test_l2_decay_is_in_the_gradient_and_passes_through_the_momentum():
    recipe = Recipe(optimizer="sgd-l2", weight_decay=0.1, momentum=0.9)
    weight = torch.tensor([2.0, -1.0], requires_grad=True)
    optimizer = optimizers.OPTIMIZERS["sgd-l2"]([{"params": [weight]}], recipe)
    expected, velocity = np.array([2.0, -1.0]), np.zeros(2)
    for gradient in ([0.5, 1.0], [-0.25, 0.0], [0.0, 0.0]):
        optimizer.param_groups[0]["lr"] = 0.2
        weight.grad = torch.tensor(gradient)
        optimizer.step()
        velocity = 0.9 * velocity + np.array(gradient) + 0.1 * expected
        expected = expected - 0.2 * velocity
    np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=1e-6)


def test_the_recipe_names_the_rows_of_the_tables():
    knobs = Recipe.settings()
    assert set(knobs["augment"].choices) == {"none", *augments.AUGMENTS}
    assert set(knobs["optimizer"].choices) == set(optimizers.OPTIMIZERS)
    assert set(knobs["schedule"].choices) == set(optimizers.SCHEDULES)
    assert knobs["bn"].choices == training.freezing.BN_MODES
    assert set(knobs["stopping"].choices) == set(training.STOPPING)


# ---------------------------------------------------------------- what a fit does


def test_it_learns_and_keeps_the_best_epoch(data):
    net, outcome = fit(data, Recipe(epochs=8, learning_rate=0.02))
    accuracies = [values["val_accuracy"] for values in outcome.history]
    assert outcome.best_epoch == int(
        np.argmax(accuracies)
    )  # the first of equals: strictly greater replaces
    assert accuracies[outcome.best_epoch] > 0.6
    logits = training.predict(net, data[1], Recipe())
    assert voting.accuracy(logits, data[1].labels, data[1].crops) == accuracies[outcome.best_epoch]


def test_cross_entropy_is_torchs():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 7)).astype(np.float32) * 30, rng.integers(0, 7, 50)
    want = torch.nn.functional.cross_entropy(
        torch.tensor(logits).double(), torch.tensor(labels)
    ).item()
    assert training.cross_entropy(logits, labels) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize(
    ("losses", "stops"),
    [
        ([3.0] * 10 + [1, 2, 3, 4], True),
        ([3.0] * 10 + [1, 1, 1, 1], True),
        ([3.0] * 10 + [4, 3, 4, 5], False),
        ([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10], False),  # ten epochs: index 9, before the earliest
        ([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], True),
    ],
)
def test_early_stopping_is_the_seeds_rule(data, losses, stops):
    made = training._Training(
        network(),
        *data,
        Recipe(),
        seed=0,
        score=voting.accuracy,
        frozen=None,
        place=training.TrainingContext(),
    )
    made.outcome.history = [{"val_loss": float(loss)} for loss in losses]
    assert made._should_stop() is stops
    made.recipe = Recipe(early_stopping=False)
    assert made._should_stop() is False


@pytest.mark.parametrize(
    ("accuracies", "stops"),
    [
        ([0.5, 0.4, 0.4], False),
        ([0.5, 0.4, 0.4, 0.4], True),
        ([0.5, 0.50009, 0.50009, 0.50009], True),  # a rise of less than 0.0001 counts for nothing
        (
            [0.5, 0.50005, 0.5002, 0.5002],
            False,
        ),  # what counts is the rise above the best that was counted: 0.5
        ([0.5, 0.4, 0.4, 0.6], False),
        ([0.5, 0.4, 0.4, 0.6, 0.6, 0.6, 0.6], True),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], False),
    ],
)
def test_a_training_can_stop_by_its_accuracy(data, accuracies, stops):
    made = training._Training(
        network(),
        *data,
        Recipe(stopping="accuracy"),
        seed=0,
        score=voting.accuracy,
        frozen=None,
        place=training.TrainingContext(),
    )
    made.outcome.history = [{"val_accuracy": accuracy, "val_loss": 1.0} for accuracy in accuracies]
    assert made._should_stop() is stops
    assert not stops or len(accuracies) >= training.STOPPING["accuracy"].least


def test_the_last_epoch_can_count(data):
    recipe = Recipe(epochs=6, learning_rate=0.1, clip_norm=0.0)
    _, outcome = fit(data, recipe)
    last, late = fit(data, recipe.replace(keep_epoch="last"))
    assert outcome.history == late.history or [v["val_loss"] for v in outcome.history] == [
        v["val_loss"] for v in late.history
    ]
    assert late.best_epoch == 5 != outcome.best_epoch
    logits = training.predict(last, data[1], recipe)
    assert training.cross_entropy(logits, data[1].row_labels) == late.history[5]["val_loss"]


def test_the_rate_falls_with_the_steps_done():
    factors = [optimizers.rate_factor("constant", step, 0, 9, 5e-4) for step in (0, 1000, 2000)]
    assert factors == pytest.approx([1.0, 1 / 1.5, 1 / 2])
    assert optimizers.rate_factor("cosine", 7, 2, 9, 0.5) == pytest.approx(
        optimizers.rate_factor("cosine", 7, 2, 9) / 4.5
    )


@pytest.mark.parametrize("frozen", [0, 1, 2, 3])
def test_frozen_blocks_stay_to_the_bit(data, frozen):
    net = network()
    before = {
        block.name: {k: v.clone() for k, v in net.tensors(block).items()} for block in net.blocks
    }
    fit(data, Recipe(epochs=2, freeze=frozen), net=net)
    for number, block in enumerate(net.blocks, 1):
        same = all(torch.equal(v, before[block.name][k]) for k, v in net.tensors(block).items())
        assert same is (number <= frozen), block.name


def test_weight_decay_spares_what_is_frozen_and_takes_its_share_of_the_rest(data):
    net = network()
    first = net.net.conv1.weight.clone()
    fit(
        data,
        Recipe(epochs=1, freeze=1, weight_decay=0.4, learning_rate=1e-8, early_stopping=False),
        net=net,
    )
    assert torch.equal(net.net.conv1.weight, first)
    fresh = network().net.fc1.weight
    torch.testing.assert_close(
        net.net.fc1.weight, fresh * 0.6, rtol=1e-3, atol=1e-5
    )  # one step an epoch: 30 rows


def test_only_the_head_moves_in_its_epochs(data):
    net = network()
    fc1 = net.net.fc1.weight.clone()
    fit(data, Recipe(epochs=2, head_epochs=2), net=net)
    assert torch.equal(net.net.fc1.weight, fc1)
    assert not torch.equal(net.net.fc2.weight, network().net.fc2.weight)


@pytest.mark.crash
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"optimizer": "adam", "learning_rate": 1e-3},
        {"optimizer": "adamw", "learning_rate": 1e-3},
        {"schedule": "cosine", "warmup_epochs": 1.5},
        {"layer_decay": 0.5},
        {"label_smoothing": 0.1},
        {"ema": 0.8},
        {"precision": "bfloat16"},
        {"channels_last": True},
        {"head_epochs": 2},
        {"freeze": 2},
    ],
    ids=str,
)
def test_killed_after_any_epoch_and_continued_is_the_same_to_the_bit(data, tmp_path, settings):
    recipe = Recipe(epochs=4, **settings)
    whole, outcome = fit(data, recipe)

    class Killed(BaseException):
        pass

    def die_in(epoch):
        def on_epoch(number, values):
            if number == epoch:
                raise Killed

        return on_epoch

    for epoch in range(4):  # before the epoch is saved: it is done again
        file = tmp_path / "training.safetensors"
        with pytest.raises(Killed):
            fit(data, recipe, training.TrainingContext(checkpoint=file, on_epoch=die_in(epoch)))
    resumed, again = fit(data, recipe, training.TrainingContext(checkpoint=file))
    untimed = [
        {k: v for k, v in values.items() if not k.endswith("_s")} for values in outcome.history
    ]
    assert [
        {k: v for k, v in values.items() if not k.endswith("_s")} for values in again.history
    ] == untimed
    assert (again.best_epoch, again.ended) == (outcome.best_epoch, outcome.ended)
    assert equal(state(resumed), state(whole))


def test_a_finished_training_found_again_trains_no_more(data, tmp_path):
    recipe, file = Recipe(epochs=2), tmp_path / "training.safetensors"
    first, _ = fit(data, recipe, training.TrainingContext(checkpoint=file))
    batches = []
    second, _ = fit(
        data,
        recipe,
        training.TrainingContext(checkpoint=file, on_batch=lambda done, of: batches.append(done)),
    )
    assert batches == []
    assert equal(state(first), state(second))


SELDOM, ALWAYS = 1e-9, 1e9  # shares of the time that saving may take


@pytest.mark.parametrize(("share", "saved"), [(ALWAYS, [1, 2, 3, 4]), (SELDOM, [1, 4])])
def test_a_state_is_saved_after_the_first_epoch_the_last_and_as_often_as_pays(
    data, tmp_path, monkeypatch, share, saved
):
    monkeypatch.setattr(training_loop, "SAVE_SHARE", share)
    real, epochs = progress.save, []

    def save(path, tensors, record):
        epochs.append(len(record["history"]))
        real(path, tensors, record)

    monkeypatch.setattr(progress, "save", save)
    file = tmp_path / "training.safetensors"
    fit(data, Recipe(epochs=4), training.TrainingContext(checkpoint=file))
    assert epochs == saved


@pytest.mark.parametrize("is_asked_to_stop", [False, True])
def test_epochs_since_the_last_saved_one_are_repeated_to_the_bit(
    data, tmp_path, monkeypatch, is_asked_to_stop
):
    """One that is asked to stop saves the epoch that it has ended."""
    monkeypatch.setattr(training_loop, "SAVE_SHARE", SELDOM)
    recipe, file, ended = Recipe(epochs=5), tmp_path / "training.safetensors", []
    whole, outcome = fit(data, recipe)

    def end(epoch, values):
        ended.append(epoch)
        if epoch == 3 and not is_asked_to_stop:
            raise Stopped(9)

    place = training.TrainingContext(
        checkpoint=file, on_epoch=end, stopping=lambda: is_asked_to_stop and len(ended) == 4
    )
    with pytest.raises(Stopped):
        fit(data, recipe, place)
    batches = []
    place = training.TrainingContext(
        checkpoint=file, on_batch=lambda number, of: batches.append(number == of)
    )
    resumed, again = fit(data, recipe, place)
    assert sum(batches) == (1 if is_asked_to_stop else 4)
    assert equal(state(resumed), state(whole))
    assert [values["val_loss"] for values in again.history] == [
        values["val_loss"] for values in outcome.history
    ]


def test_an_epoch_that_its_journal_lost_is_logged_again_from_the_restored_history(
    data, tmp_path, monkeypatch
):
    """A journal whose last record is torn off has every epoch again, with the values of the epoch
    as it was.
    """
    monkeypatch.setattr(training_loop, "SAVE_SHARE", ALWAYS)
    store, recipe = Store(tmp_path), Recipe(epochs=4)

    def stop_in_third_epoch(done, of):
        if len(epochs) == 2:
            raise Stopped(15)

    def place(draft, **more):
        return training.TrainingContext(checkpoint=draft.folder / "training.safetensors", **more)

    epochs = []

    def log(draft):
        return lambda epoch, values: (epochs.append(values), draft.log(epoch, values))

    with store.claim("a") as draft, pytest.raises(Stopped):
        fit(data, recipe, place(draft, on_epoch=log(draft), on_batch=stop_in_third_epoch))
    journal = tmp_path / "trials" / "a.part" / "metrics.journal"
    journal.write_bytes(journal.read_bytes()[:-7])
    assert len(Journal.read(journal)) == 2, "the start and one epoch"
    with store.claim("a") as draft:
        fit(data, recipe, place(draft, on_epoch=draft.log))
    rows = [row for row in Journal.read(journal) if row["t"] == "metrics"]
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert [row["values"] for row in rows[:2]] == epochs


def test_augmented_rows_are_others_in_each_epoch_and_the_same_after_a_stop(data, tmp_path):
    """Also behind frozen blocks, whose outputs change with the rows."""
    recipe = Recipe(epochs=3, augment="crop-flip", freeze=1, early_stopping=False)
    whole, outcome = fit(data, recipe)
    plain, _ = fit(data, recipe.replace(augment="none"))
    assert not equal(state(whole), state(plain))
    steps = []

    def stop(done, of):
        steps.append(done)
        if len(steps) == 2:
            raise Stopped(15)

    path = tmp_path / "training.safetensors"
    with pytest.raises(Stopped):
        fit(data, recipe, training.TrainingContext(checkpoint=path, on_batch=stop))
    continued, later = fit(data, recipe, training.TrainingContext(checkpoint=path))
    assert equal(state(whole), state(continued))
    assert len({values["train_loss"] for values in later.history}) == 3
    assert not outcome.prefixes, "nothing behind the frozen block can be kept"


def test_the_head_and_dense_layers_below_it_have_a_rate_of_their_own():
    vgg = backbones.load("vgg11", weights=None, classes=3, seed=0, input_size=32)
    groups = freezing.parameter_groups(vgg, 1e-4, classifier_rate=1e-3)
    rates = {group["name"]: group["lr"] for group in groups}
    dense = [block.name for block in vgg.blocks if "classifier" in block.name]
    assert len(dense) == 2
    assert rates == {
        name: 1e-3 if name in ("head", *dense) else 1e-4
        for name in ("head", *(block.name for block in vgg.blocks))
    }
    residual = backbones.load("resnet20-cifar", weights=None, classes=3, seed=0)
    groups = freezing.parameter_groups(residual, 1e-4, classifier_rate=1e-3)
    assert [group["name"] for group in groups if group["lr"] == 1e-3] == ["head"]


def test_a_stop_is_heard_at_the_next_batch(data):
    asked = iter([False, False, True])
    done = []
    place = training.TrainingContext(
        stopping=lambda: next(asked), on_batch=lambda i, n: done.append(i)
    )
    with pytest.raises(Stopped):
        fit(data, Recipe(batch_size=5), place)
    assert done == [1, 2]


@pytest.mark.parametrize("rate", [1e3])
def test_a_network_that_blows_up_is_said_to_have_diverged(data, rate):
    _, outcome = fit(
        data, Recipe(learning_rate=rate, clip_norm=0.0, epochs=30, early_stopping=False)
    )
    assert outcome.ended == "diverged"
    assert all(np.isfinite(list(values.values())).all() for values in outcome.history)


def test_layer_decay_slows_the_blocks_far_from_the_head(data):
    net = network()
    training.freezing.freeze(net, 0)
    rates = {g["name"]: g["lr"] for g in training.freezing.parameter_groups(net, 1.0, 0.5)}
    assert list(rates.values()) == [1.0, 0.5, 0.25, 0.125]


# ---------------------------------------------------------------- rows and state


def test_a_feed_gives_each_row_normalised_once():
    noise = Noise(6)
    samples = noise.samples(slice(1, 5))
    feed = BatchLoader(samples, (0.5,), (0.25,), "cpu")
    x, y = (torch.cat(parts) for parts in zip(*feed.batches(3), strict=True))
    want = (noise.take(np.arange(2, 10)).transpose(0, 3, 1, 2) / 255 - 0.5) / 0.25
    np.testing.assert_allclose(x.numpy(), want, atol=1e-5)
    assert y.tolist() == [label for label in samples.labels for _ in range(2)]


def test_a_set_too_large_to_hold_is_read_by_the_batch(monkeypatch):
    samples = Noise(6).samples(slice(0, 6))
    resident = [x for x, _ in BatchLoader(samples, (0.1,), (0.3,), "cpu").batches(5)]
    monkeypatch.setattr("tlx.models.samples.RESIDENT_BYTES", 10)
    streamed = BatchLoader(samples, (0.1,), (0.3,), "cpu")
    assert streamed._resident is None
    assert RESIDENT_BYTES > 10
    assert all(torch.equal(a, b) for a, (b, _) in zip(resident, streamed.batches(5), strict=True))


def test_a_damaged_state_is_not_used(tmp_path):
    file = tmp_path / "training.safetensors"
    progress.save(
        file,
        {"w": torch.arange(100.0), "n": torch.zeros(0), "i": torch.tensor(3)},
        {"history": [1.5]},
    )
    tensors, state_ = progress.load(file)
    assert torch.equal(tensors["w"], torch.arange(100.0))
    assert state_ == {"history": [1.5]}
    data = bytearray(file.read_bytes())
    rng = np.random.default_rng(0)
    for bit in rng.integers(0, 8 * len(data), 200):
        broken = data.copy()
        broken[bit // 8] ^= 1 << (bit % 8)
        file.write_bytes(broken)
        found = progress.load(file)
        assert found is None or (torch.equal(found[0]["w"], tensors["w"]) and found[1] == state_)
    file.write_bytes(data[: len(data) // 2])
    assert progress.load(file) is None
    assert progress.load(tmp_path / "none") is None
