"""A weight file is checked against every SHA-256 that was promised for it."""

from __future__ import annotations

import builtins
import hashlib
import io
import json
import os
import shutil

import pytest
import torch

from tlx.errors import IntegrityError, MissingError, ResourceError
from tlx.models import backbones, descriptions, sources
from tlx.models.weights import promises
from tlx.models.weights import reader as weights_reader
from tlx.studies.parameter_distance.states import state_of

FIRST = {"a.weight": torch.arange(6.0).reshape(2, 3)}
SECOND = {"a.weight": torch.arange(6.0).reshape(2, 3) + 1}


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_was_read_carries_its_digest(tmp_path):
    path = tmp_path / "w.safetensors"
    weights_reader.write(path, FIRST)
    assert weights_reader.read(path).sha256 == sha256(path)
    net = backbones.load("mnist-cnn", weights="default", classes=4, seed=0)
    assert net.weights == backbones.digest("mnist-cnn", "default")
    assert backbones.load("mnist-cnn", weights=None, classes=4, seed=0).weights == "random"


@pytest.mark.parametrize("promised", ["other", "random"])
def test_weights_other_than_promised_are_refused_with_both_hashes(tmp_path, promised):
    path = tmp_path / "w.safetensors"
    network = backbones.load("mnist-cnn", weights=None, classes=3, seed=0)
    weights_reader.write(path, network.net.state_dict())
    expected = "random" if promised == "random" else hashlib.sha256(b"").hexdigest()
    with pytest.raises(IntegrityError) as refused:
        backbones.load("mnist-cnn", weights=path, classes=3, seed=0, sha256=expected)
    assert refused.value.exit_code == 9
    assert expected in str(refused.value)
    assert str(path) in str(refused.value)
    assert promised == "random" or sha256(path) in str(refused.value)


def test_drawn_weights_in_the_place_of_promised_ones_are_refused():
    with pytest.raises(IntegrityError, match="random"):
        backbones.load("mnist-cnn", weights=None, classes=3, seed=0, sha256="0" * 64)


def test_a_file_replaced_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path, other = tmp_path / "w.safetensors", tmp_path / "other.safetensors"
    weights_reader.write(path, FIRST)
    weights_reader.write(other, SECOND)
    check = promises.check

    def replaced(file, digest):
        found = check(file, digest)
        os.replace(other, path)
        return found

    monkeypatch.setattr(promises, "check", replaced)
    with pytest.raises(IntegrityError, match="replaced while"):
        weights_reader.read(path)


def recorded(folder, name="w"):
    """Weights with the record that `tlx pretrain --out` writes beside them, and one checkpoint."""
    path, checkpoint = (
        folder / f"{name}.safetensors",
        folder / f"{name}-checkpoints" / "3.safetensors",
    )
    checkpoint.parent.mkdir()
    weights_reader.write(path, FIRST)
    weights_reader.write(checkpoint, FIRST)
    (folder / f"{name}.json").write_text(
        json.dumps(
            {"file": path.name, "sha256": sha256(path), "checkpoints": {"3": sha256(checkpoint)}}
        )
    )
    return path, checkpoint


def test_weights_are_checked_against_the_record_beside_them(tmp_path):
    for path in recorded(tmp_path):
        before = weights_reader.read(path).sha256
        weights_reader.write(path, SECOND)
        with pytest.raises(IntegrityError) as refused:
            weights_reader.read(path)
        assert refused.value.exit_code == 9
        assert before in str(refused.value)
        assert sha256(path) in str(refused.value)
        with pytest.raises(IntegrityError):
            backbones.digest("mnist-cnn", path)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"sha256": "x", "file": "w.safetensors"}',
        '{"checkpoints": 3}',
        '{"sha256": "%s", "file": "other.safetensors"}' % ("0" * 64),
    ],
)
def test_a_json_file_that_records_other_things_says_nothing(tmp_path, content):
    path = tmp_path / "w.safetensors"
    weights_reader.write(path, FIRST)
    path.with_suffix(".json").write_text(content)
    assert weights_reader.read(path).sha256 == sha256(path)


def test_every_bit_of_packaged_weights_counts(tmp_path, monkeypatch):
    for name in ("mnist-cnn-mnist.safetensors", "mnist-cnn-mnist.json"):
        shutil.copy(sources.PACKAGED / name, tmp_path)
    path = tmp_path / "mnist-cnn-mnist.safetensors"
    monkeypatch.setattr(sources, "PACKAGED", tmp_path)
    backbones.load("mnist-cnn", weights="default", classes=3, seed=0)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1  # a number, still finite
    path.write_bytes(data)
    with pytest.raises(IntegrityError):
        backbones.load("mnist-cnn", weights="default", classes=3, seed=0)
    path.with_suffix(".json").unlink()
    with pytest.raises(MissingError):
        backbones.load("mnist-cnn", weights="default", classes=3, seed=0)


@pytest.mark.parametrize(
    "reader",
    [
        weights_reader.read,
        lambda path: backbones.digest("mnist-cnn", path),
        descriptions.read,
        lambda path: state_of(str(path), None, "-a"),
    ],
)
@pytest.mark.parametrize("hidden", ["file", "folder"])
def test_a_file_that_this_user_may_not_read_is_a_sentence(tmp_path, monkeypatch, reader, hidden):
    path = tmp_path / "w.safetensors"
    weights_reader.write(path, FIRST)
    path.with_suffix(".json").write_text(json.dumps({"file": path.name, "sha256": sha256(path)}))
    real_open, real_stat = builtins.open, os.stat

    def refuse(of, *_, **__):
        if str(of).startswith(str(path.with_suffix(""))):
            raise PermissionError(13, "Permission denied", str(of))
        return (real_stat if hidden == "folder" else real_open)(of, *_, **__)

    monkeypatch.setattr(os, "stat", refuse) if hidden == "folder" else None
    if hidden == "file":
        monkeypatch.setattr(builtins, "open", refuse)
        monkeypatch.setattr(io, "open", refuse)
    with pytest.raises(ResourceError) as refused:
        reader(path)
    assert refused.value.exit_code == 5
    assert "may not read" in str(refused.value)
    assert str(path.with_suffix("")) in str(refused.value)
