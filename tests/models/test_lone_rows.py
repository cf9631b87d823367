"""A last batch of one row: joined by another row, or refused before anything is trained, and only
where it must be.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tlx.errors import UsageError
from tlx.features import voting
from tlx.models import backbones, freezing, lone_rows, training
from tlx.models.quanta import training as quanta_training
from tlx.models.quanta.recipe import QuantaRecipe
from tlx.models.recipe import Recipe
from tlx.models.samples import Samples, spans


class Noise:
    """Pixels of random images of three classes."""

    crops = 1

    def __init__(self, n, size=32):
        self.array = np.random.default_rng(n).integers(0, 255, (n, size, size, 3), dtype=np.uint8)

    def take(self, rows):
        return self.array[rows]


def samples(n):
    return Samples(Noise(n), np.arange(n), np.arange(n) % 3)


def resnet(size=32):
    return backbones.load("resnet18", weights=None, classes=3, seed=0, input_size=size)


@pytest.mark.parametrize("size", range(1, 9))
@pytest.mark.parametrize("rows", range(1, 40))
def test_batches_hold_every_row_once_and_as_many_as_before(rows, size):
    for pairs in (False, True):
        found = spans(rows, size, pairs=pairs)
        assert [row for start, end in found for row in range(start, end)] == list(range(rows))
        assert len(found) == -(-rows // size)
        assert all(end - start <= size for start, end in found)
        if pairs and size > 2 and rows > 1:
            assert min(end - start for start, end in found) > 1
        if rows % size != 1:
            assert found == spans(rows, size)


@pytest.mark.parametrize(("rows", "size"), [(7, 3), (9, 4), (4, 3)])
def test_a_lone_row_trains_with_another_one(rows, size):
    net, sizes = resnet(), []
    net.net.layer4.register_forward_hook(
        lambda module, _, x: sizes.append(len(x)) if module.training else None
    )
    recipe = Recipe(epochs=1, batch_size=size, learning_rate=0.01)
    outcome = training.fit(net, samples(rows), samples(3), recipe, seed=0, score=voting.accuracy)
    assert outcome.ended == "epochs"
    assert sum(sizes) == rows
    assert min(sizes) > 1


@pytest.mark.parametrize(
    ("rows", "size", "remedy"),
    [(3, 2, "--batch-size 3"), (3, 1, "--batch-size 3"), (1, 4, "more training images")],
)
def test_where_nothing_can_join_it_is_refused_before_training(rows, size, remedy):
    net = resnet()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(UsageError) as refused:
        training.fit(
            net,
            samples(rows),
            samples(3),
            Recipe(epochs=1, batch_size=size),
            seed=0,
            score=voting.accuracy,
        )
    assert refused.value.exit_code == 2
    assert remedy in str(refused.value)
    assert "batch" in str(refused.value)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_only_a_network_that_cannot_take_one_row_is_spared_it():
    assert not lone_rows.must_be_avoided(resnet(64), 4, 3), "its last maps are 2 × 2"
    assert not lone_rows.must_be_avoided(
        backbones.load("mnist-cnn", weights=None, classes=3, seed=0), 1, 1
    )
    net = resnet()
    modes = [module.training for module in net.modules()]
    assert lone_rows.must_be_avoided(net, 4, 3)
    assert not lone_rows.must_be_avoided(net, 5, 3)
    freezing.freeze(net, len(net.blocks))
    assert not lone_rows.must_be_avoided(net, 4, 3), "frozen batch norm keeps its statistics"
    freezing.freeze(net, len(net.blocks), bn="adapt")
    assert lone_rows.must_be_avoided(net, 4, 3)
    assert [module.training for module in net.modules()] == modes


@pytest.mark.parametrize(("rows", "size"), [(7, 3), (3, 2)])
def test_the_loop_of_quanta_does_the_same(rows, size):
    def fit():
        return quanta_training.fit(
            quanta_training.Branches(resnet()),
            {"train": samples(rows), "val": samples(3)},
            QuantaRecipe(epochs=1, batch_size=size),
            seed=0,
            place=training.TrainingContext(),
            score=lambda logits, labels: {"loss": training.cross_entropy(logits, labels)},
        )

    if size == 2:
        with pytest.raises(UsageError, match="batch"):
            fit()
    else:
        assert fit().ended == "epochs"
