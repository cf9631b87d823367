"""A batch of one row that batch norm cannot train on is refused by every command that trains,
before any compute.
"""

from __future__ import annotations

import json

import pytest
from cli.test_image_rules import COMMANDS, ask, checkpoints

from tlx.models import backbones, training
from tlx.models.quanta import training as quanta_training
from tlx.models.weights import reader as weights_reader

NETWORK = ("--architecture", "resnet18", "--input-size", 8)  # its last maps are 1 × 1
SOURCES = {  # command → where its weights come from
    **dict.fromkeys(
        ("check", "fine-tuning", "compare", "tune", "layer-transfer", "chop", "prune"),
        ("--model", "weights"),
    ),
    "parameter-distance": ("--pretrained", "weights", "--random", "random"),
    "quanta": ("--source", "random"),
    "pretrain": (),
}
WITHOUT_TRAINING = {
    *("feature-extraction", "scores", "splits draw", "extract", "analyze", "atlas", "crops")
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    network = backbones.load("resnet18", weights=None, classes=3, seed=0)
    weights_reader.write(path, network.net.state_dict(), {"format": "pt"})
    return path


@pytest.fixture
def never_trains(monkeypatch):
    def fit(*args, **settings):
        raise AssertionError("it trains")

    monkeypatch.setattr(training, "fit", fit)
    monkeypatch.setattr(quanta_training, "fit", fit)


def words(name, weights):
    found = [str(weights) if word == "weights" else word for word in SOURCES[name]]
    searched = ("--study", "fine-tuning", "--search", "learning_rate") if name == "tune" else ()
    return (*NETWORK, *found, *searched)


def test_every_command_that_trains_is_in_the_table():
    assert set(SOURCES) == set(COMMANDS) - WITHOUT_TRAINING


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_batches_of_one_row_are_refused_before_anything_is_trained(
    name, tlx, bars, weights, never_trains, tmp_path
):
    code, out, complained = ask(tlx, name, bars, *words(name, weights), "--batch-size", 1)
    assert code == 2, out + complained
    assert "error[batch-of-one]" in complained
    assert "--batch-size 3" in complained
    assert not list(tmp_path.rglob("study.json"))


def test_batches_of_one_row_are_refused_by_the_chain_of_checkpoints(
    tlx, bars, never_trains, tmp_path
):
    code, out, complained = checkpoints(tlx, bars, bars, *NETWORK, "--batch-size", 1)
    assert code == 2, out + complained
    assert "error[batch-of-one]" in complained
    assert not list(tmp_path.rglob("study.json"))


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [[1, 16], {"low": 1, "high": 64}, [2, 16]])
def test_a_search_that_may_draw_such_a_batch_is_refused(
    tlx, bars, weights, never_trains, tmp_path, sizes
):
    (tmp_path / "space.json").write_text(json.dumps({"batch_size": sizes, "use_crops": [False]}))
    code, out, complained = ask(tlx, "tune", bars, *words("tune", weights), "--space", "space.json")
    assert code == 2, out + complained
    assert "begin at 3" in complained


def test_where_a_row_can_be_joined_or_trained_on_alone_nothing_is_refused(tlx, bars, weights):
    for more in (("--batch-size", 3, "--no-use-crops"), ("--batch-size", 1, "--freeze", 9)):
        code, out, complained = ask(tlx, "check", bars, *words("check", weights), *more)
        assert code == 0, out + complained
