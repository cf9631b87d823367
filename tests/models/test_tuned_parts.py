"""What learns: exactly what a choice names, to the bit; the head first; killed and continued."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from tlx.errors import UnknownNameError, UsageError
from tlx.features import voting
from tlx.models import backbones, training, tuned_parts
from tlx.models.recipe import Recipe
from tlx.models.samples import BatchLoader, Samples
from tlx.models.tune_choices import TUNES, format_tune, parse_tune
from tlx.models.tuned_parts import TUNED_PARTS
from tlx.spec import derive_seed

CHOICES = [*TUNES, "head-then-all:epochs=2", "lora:r=4", "lora:r=4,alpha=16"]
SIZES = {"mnist-cnn": 28, "resnet18": 32, "timm:test_vit": 160, "timm:test_efficientnet": 32}
HEADS = {"mnist-cnn": "fc2", "resnet18": "fc", "timm:test_vit": "head"}
HEADS["timm:test_efficientnet"] = "classifier"
NAMED = {  # what each choice trains, as a pattern of names, written from the networks' definitions
    "all": r".*",
    "norm": r".*(bn\d|norm\d?|downsample\.1)\.(weight|bias)",
    "bias": r".*\.bias",
    "head-then-all": r".*",
    "lora": (
        r".*(fc1|fc2|qkv|proj|downsample\.0|conv_pwl?|conv_reduce|conv_expand|conv_head)\.weight"
    ),
}
NO_ADAPTER = "patch_embed.proj.weight"  # a convolution of more than one pixel


SHORT = {"head-then-all": "head-then-all:epochs=1", "lora": "lora:r=2"}


class Pixels:
    """Pixels of random images, of which class k is brighter in its third."""

    crops = 1

    def __init__(self, n: int, channels: int, size: int):
        rng = np.random.default_rng(n)
        self.labels = np.arange(n) % 3
        self._array = rng.integers(0, 120, (n, size, size, channels), dtype=np.uint8)
        for image, label in enumerate(self.labels):
            third = size // 3
            self._array[image, third * label : third * (label + 1)] += 120

    def take(self, rows):
        return self._array[rows]

    def samples(self, chosen: slice) -> Samples:
        images = np.arange(len(self.labels))[chosen]
        return Samples(self, images, self.labels[images])


def network(name="mnist-cnn", classes=3):
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    return backbones.load(name, weights=None, classes=classes, seed=0, input_size=SIZES[name])


def data_of(net, train=9):
    pixels = Pixels(train + 3, net.channels, net.input_size)
    return pixels.samples(slice(0, train)), pixels.samples(slice(train, train + 3))


def fit(net, recipe, tune="all", data=None, place=None, **settings):
    train, val = data or data_of(net)
    return training.fit(
        net,
        train,
        val,
        recipe,
        seed=5,
        score=voting.accuracy,
        tune=parse_tune(tune),
        place=place or training.TrainingContext(),
        **settings,
    )


def arrays(net):
    return {name: value.detach().numpy().copy() for name, value in net.net.state_dict().items()}


def differing(a, b):
    return {name for name in a if a[name].tobytes() != b[name].tobytes()}


def same(a, b):
    return a.keys() == b.keys() and not differing(a, b)


# ---------------------------------------------------------------- the tables


def test_every_choice_is_a_row_of_both_tables_and_has_a_pattern_here():
    assert set(TUNES) == set(TUNED_PARTS) == set(NAMED)
    assert all(row.trained and row.part for row in TUNES.values())


@pytest.mark.parametrize("text", CHOICES)
def test_a_choice_is_read_as_it_is_written(text):
    assert format_tune(parse_tune(text)) == text


def test_one_choice_has_one_text():
    assert format_tune(parse_tune("head-then-all:epochs=10")) == "head-then-all"
    assert parse_tune("head-then-all").head_first == 10
    assert parse_tune("norm").head_first == 0
    assert format_tune(parse_tune("lora:r=4,alpha=4")) == "lora:r=4"
    assert format_tune(parse_tune("lora:alpha=16,r=8")) == "lora:alpha=16"


@pytest.mark.parametrize(
    "text", ["nrm", "", "norm:epochs=2", "head-then-all:epochs=0", "head-then-all:5", "lora:r=0"]
)
def test_what_is_no_choice_is_refused(text):
    with pytest.raises(UsageError) as refused:
        parse_tune(text)
    assert refused.value.exit_code == 2


def test_the_nearest_choice_is_named():
    with pytest.raises(UnknownNameError, match="nearest: norm"):
        parse_tune("nrom")


# ---------------------------------------------------------------- what differs afterwards


@pytest.mark.parametrize("choice", TUNES)
@pytest.mark.parametrize("name", SIZES)
def test_exactly_what_is_named_differs_from_the_source_to_the_bit(name, choice):
    if choice == "lora":
        pytest.importorskip("peft")
    net = network(name)
    before = arrays(net)
    parameters = [key for key, _ in net.net.named_parameters()]
    statistics = {key for key in before if key not in parameters}
    head = HEADS[name]
    wanted = {
        key for key in parameters if key.startswith(f"{head}.") or re.fullmatch(NAMED[choice], key)
    }
    wanted -= {NO_ADAPTER} if choice == "lora" else set()
    recipe = Recipe(epochs=1, learning_rate=0.05, keep_epoch="last", batch_size=4)
    tune = SHORT.get(choice, choice)
    if wanted == {key for key in parameters if key.startswith(f"{head}.")}:
        with pytest.raises(UsageError, match=f"--tune {choice}.*Conv2d"):
            fit(net, recipe, tune)
        assert same(arrays(net), before)
        return
    outcome = fit(net, recipe, tune)
    after = arrays(net)
    assert differing(before, after) == wanted | statistics, "running statistics follow the batches"
    if choice != "lora":  # of adapters: test_lora.py
        assert outcome.trainable_parameters == sum(before[key].size for key in wanted)
        assert outcome.merged_values is None


@pytest.mark.parametrize("choice", ["norm", "bias"])
def test_frozen_blocks_stay_as_they_are_with_their_statistics(choice):
    net = network("resnet18")
    before = arrays(net)
    recipe = Recipe(epochs=1, keep_epoch="last", freeze=5)
    fit(net, recipe, choice)
    moved = differing(before, arrays(net))
    assert moved
    still = re.compile(r"(conv1|bn1|layer1|layer2)\b.*")
    assert not [name for name in moved if still.fullmatch(name)]
    assert "layer4.1.bn2.running_mean" in moved
    assert "layer4.1.conv2.weight" not in moved


@pytest.mark.parametrize("choice", ["norm", "bias", "head-then-all:epochs=2"])
def test_a_frozen_prefix_gives_the_same_bits_kept_or_not(choice):
    recipe = Recipe(epochs=3, freeze=4, batch_size=4, early_stopping=False)
    results = []
    for kept_bytes in (0, 1 << 30):
        net = network("resnet18")
        fit(net, recipe, choice, place=training.TrainingContext(prefix_bytes=kept_bytes))
        results.append(arrays(net))
    assert same(*results)


def test_nothing_chosen_is_what_was_there_before():
    results = []
    for settings in ({}, {"tune": parse_tune("all")}):
        net = network()
        train, val = data_of(net)
        training.fit(net, train, val, Recipe(epochs=2), seed=5, score=voting.accuracy, **settings)
        results.append(arrays(net))
    assert same(*results)


def test_a_wrapper_that_is_called_norm_is_no_normalisation_layer():
    class PreNorm(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.ones(1))
            self.inside = torch.nn.Linear(2, 2)

    class SimpleNorm(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2))

    assert not tuned_parts._is_norm(PreNorm())
    assert tuned_parts._is_norm(SimpleNorm())
    assert tuned_parts._is_norm(torch.nn.GroupNorm(1, 2))


# ---------------------------------------------------------------- the head first


def plain_epochs(net, data, epochs, parameters, recipe):
    """SGD with momentum as in a textbook, in the order of the rows that tlx draws."""
    feed = BatchLoader(data, net.mean, net.std, "cpu", contiguous=True)
    optimizer = torch.optim.SGD(parameters, lr=recipe.learning_rate, momentum=recipe.momentum)
    for epoch in epochs:
        order = np.random.default_rng(derive_seed(5, "shuffle", epoch)).permutation(len(data))
        torch.manual_seed(derive_seed(5, "dropout", epoch))
        for begin in range(0, len(order), recipe.batch_size):
            x, y = feed.batch(order[begin : begin + recipe.batch_size])
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()


def test_the_second_phase_is_a_training_of_its_own_from_the_heads_weights():
    recipe = Recipe(
        epochs=2,
        batch_size=4,
        keep_epoch="last",
        weight_decay=0.0,
        clip_norm=0.0,
        early_stopping=False,
    )
    net = network()
    outcome = fit(net, recipe, "head-then-all:epochs=3")
    assert len(outcome.history) == 5
    other = network()
    train, _ = data_of(other)
    other.train()
    other.net.drop1.eval()  # between frozen blocks; that before the head is the head's
    other.net.requires_grad_(False)
    other.net.fc2.requires_grad_(True)
    plain_epochs(other, train, range(3), list(other.net.fc2.parameters()), recipe)
    other.net.requires_grad_(True)
    other.train()
    plain_epochs(other, train, range(3, 5), list(other.net.parameters()), recipe)
    wanted = arrays(other)
    for name, value in arrays(net).items():
        np.testing.assert_allclose(value, wanted[name], atol=2e-6)


def test_each_phase_has_the_schedule_of_its_own_epochs(monkeypatch):
    asked = []
    real = training.rate_factor
    monkeypatch.setattr(
        training,
        "rate_factor",
        lambda *given, **more: asked.append(given[1:4]) or real(*given, **more),
    )
    recipe = Recipe(epochs=2, schedule="cosine", batch_size=9, early_stopping=False)
    fit(network(), recipe, "head-then-all:epochs=3")
    assert [(step, total) for step, _, total in asked] == [(0, 3), (1, 3), (2, 3), (0, 2), (1, 2)]


@pytest.mark.parametrize("first", [0, 3])
def test_stopping_counts_from_the_second_phase(first):
    tune = parse_tune(f"head-then-all:epochs={first}" if first else "all")
    net = network()
    made = training._Training(
        net,
        *data_of(net),
        Recipe(stopping="accuracy"),
        seed=0,
        score=voting.accuracy,
        frozen=None,
        tune=tune,
        place=training.TrainingContext(),
    )
    epochs = [{"val_accuracy": accuracy, "val_loss": 1.0} for accuracy in (0.9, 0.5, 0.5, 0.5)]
    made.outcome.history = epochs
    assert made._should_stop() is (first == 0)
    made.outcome.history = epochs[:first] + epochs
    assert made._should_stop() is True


def test_the_second_phase_begins_at_the_best_epoch_of_the_first():
    recipe = Recipe(epochs=1, learning_rate=0.5, batch_size=4, clip_norm=0.0)
    seen = {}

    class Looking(training._Training):
        def _start_again(self):
            seen["best"] = {name: value.clone() for name, value in self.best.items()}
            seen["epoch"] = self.outcome.best_epoch
            super()._start_again()
            seen["now"] = {name: v.clone() for name, v in self.network.state_dict().items()}
            seen["state"] = dict(self.optimizer.state)

    net = network()
    made = Looking(
        net,
        *data_of(net),
        recipe,
        seed=5,
        score=voting.accuracy,
        frozen=None,
        tune=parse_tune("head-then-all:epochs=4"),
        place=training.TrainingContext(),
    )
    outcome = made.run()
    accuracies = [values["val_accuracy"] for values in outcome.history[:4]]
    assert seen["epoch"] == int(np.argmax(accuracies))
    assert all(torch.equal(seen["now"][name], value) for name, value in seen["best"].items())
    assert not seen["state"], "no momentum of the first phase"


# ---------------------------------------------------------------- killed and continued


@pytest.mark.crash
@pytest.mark.parametrize(
    ("name", "tune", "settings"),
    [
        ("mnist-cnn", "bias", {}),
        ("mnist-cnn", "head-then-all:epochs=2", {}),
        ("mnist-cnn", "head-then-all:epochs=2", {"ema": 0.8, "schedule": "cosine"}),
        ("mnist-cnn", "head-then-all:epochs=2", {"optimizer": "adam", "freeze": 1}),
        ("resnet18", "norm", {"freeze": 3}),
    ],
    ids=str,
)
def test_killed_after_any_epoch_and_continued_is_the_same_to_the_bit(
    tmp_path, name, tune, settings
):
    recipe = Recipe(epochs=2, batch_size=4, **settings)
    whole = network(name)
    outcome = fit(whole, recipe, tune)

    class Killed(BaseException):
        pass

    def die_in(epoch):
        def on_epoch(number, values):
            if number == epoch:
                raise Killed

        return on_epoch

    file = tmp_path / "training.safetensors"
    for epoch in range(len(outcome.history)):
        place = training.TrainingContext(checkpoint=file, on_epoch=die_in(epoch))
        with pytest.raises(Killed):
            fit(network(name), recipe, tune, place=place)
    resumed = network(name)
    again = fit(resumed, recipe, tune, place=training.TrainingContext(checkpoint=file))
    assert [v["val_loss"] for v in again.history] == [v["val_loss"] for v in outcome.history]
    assert (again.best_epoch, again.ended) == (outcome.best_epoch, outcome.ended)
    assert same(arrays(resumed), arrays(whole))
