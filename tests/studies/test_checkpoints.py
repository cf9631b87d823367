"""Weights kept along a training: at the moments asked for, the same whether or not it was cut
off.
"""

from __future__ import annotations

import itertools

import pytest
import torch
import undrawn
from safetensors.torch import load_file

from tlx import files
from tlx.errors import UsageError
from tlx.lab.settings import Settings
from tlx.lab.store import Store
from tlx.studies import pretraining_plan, pretraining_spec
from tlx.studies.checkpoints.spec import CheckpointGrid
from tlx.studies.pretraining import publish as pretraining_publish
from tlx.studies.pretraining_spec import PreTraining, checkpoint_steps


def test_tags_are_moments_of_a_training():
    assert checkpoint_steps(("0", "0_1", "0_30", "1", "3"), steps=100, epochs=5) == {
        0: "0",
        1: "0_1",
        30: "0_30",
        100: "1",
        300: "3",
    }
    assert checkpoint_steps(("thesis",), steps=938, epochs=100) == dict(
        zip(
            [0, 1, 3, 10, 30, 100, 300, 938, 2814, 9380, 28140, 93800],
            pretraining_spec.THESIS,
            strict=True,
        )
    )
    assert list(checkpoint_steps(("thesis",), steps=79, epochs=100).values()) == [
        "0",
        "0_1",
        "0_3",
        "0_10",
        "0_30",
        "1",
        "0_100",
        "3",
        "0_300",
        "10",
        "30",
        "100",
    ]
    assert checkpoint_steps(("0_7", "1"), steps=7, epochs=1) == {7: "1"}, (
        "of two at once the later named one"
    )
    assert checkpoint_steps((), steps=3, epochs=1) == {}


@pytest.mark.parametrize("tag", ["", "x", "1_3", "0_0", "-1", "00", "0_", "1.5", "٣"])
def test_what_is_no_tag_is_refused(tag):
    with pytest.raises(UsageError, match="thesis, or 0"):
        checkpoint_steps((tag,), steps=3, epochs=5)


def test_a_moment_behind_the_end_is_refused_before_anything_is_trained(bars, tmp_path, cache):
    settings = Settings(store=str(tmp_path), cache=str(cache), tracking=False, workers=0)
    with pytest.raises(UsageError, match="ends after 2"):
        pretraining_plan.pretraining_study(
            PreTraining(
                dataset=str(bars), epochs=1, batch_size=16, val_per_class=2, checkpoints=("2",)
            ),
            settings,
        )


@pytest.fixture(scope="module")
def trained(bars, cache, tmp_path_factory):
    settings = Settings(
        store=str(tmp_path_factory.mktemp("runs")),
        cache=str(cache),
        tracking=False,
        workers=0,
        system_metrics=False,
    )
    spec = PreTraining(
        dataset=str(bars),
        epochs=3,
        batch_size=8,
        val_per_class=2,
        learning_rate=0.01,
        checkpoints=("0", "0_1", "1", "3"),
    )
    made = pretraining_plan.pretraining_study(spec, settings)
    report = undrawn.run_stage(made, settings)
    report.raise_if_failed(require_tracking=False)
    return report, made, settings


@pytest.mark.slow
def test_the_weights_of_every_moment_are_kept_and_published(trained, tmp_path):
    report, made, _ = trained
    assert report.results[0].details["checkpoints"] == ["0", "0_1", "1", "3"]
    pretraining_publish.publish(
        report.results[0], made, Store(report.folder), tmp_path / "cnn.safetensors"
    )
    states = [
        load_file(tmp_path / "cnn-checkpoints" / f"{tag}.safetensors")
        for tag in ("0", "0_1", "1", "3")
    ]
    for before, after in itertools.pairwise(states):
        assert any(not torch.equal(before[name], after[name]) for name in before)
    assert states[0].keys() == load_file(tmp_path / "cnn.safetensors").keys()


def test_the_start_and_the_end_are_files_that_torch_reads(trained, tmp_path):
    """As the parameter-distance original keeps them: -r and -a, plain state_dicts."""
    report, made, _ = trained
    store, result = Store(report.folder), report.results[0]
    end = pretraining_publish.publish(result, made, store, tmp_path / "converged.pth")
    start = pretraining_publish.publish_start(result, tmp_path / "random.pt")
    same = pretraining_publish.publish_start(result, tmp_path / "random.safetensors")
    assert (end.name, start.name) == ("converged.pth", "random.pt")
    first, last = (torch.load(path, weights_only=True) for path in (start, end))
    checkpoints = store.folder(result.key) / "checkpoints"
    kept = load_file(checkpoints / "0.safetensors")
    for tensors in (first, load_file(same)):
        assert tensors.keys() == kept.keys()
        assert all(torch.equal(tensors[name], kept[name]) for name in kept)
    weights = load_file(store.file(result.key, "weights.safetensors"))
    assert all(torch.equal(last[name], weights[name]) for name in weights)
    record = files.read_json(end.with_suffix(".json"))
    assert record["sha256"] == files.sha256(end)


def test_the_first_is_the_network_before_training(trained):
    from tlx.models import backbones
    from tlx.spec import derive_seed

    report, made, _ = trained
    spec = made.trials[0].spec
    network = backbones.load(
        spec.architecture, weights=None, classes=3, seed=derive_seed(spec.seed, "weights")
    )
    fresh = network.net.state_dict()
    kept = load_file(Store(report.folder).file(report.results[0].key, "checkpoints/0.safetensors"))
    assert all(torch.equal(fresh[name], kept[name]) for name in fresh)


def test_keeping_them_changes_nothing_of_the_training_and_a_cut_nothing_of_them(trained, tmp_path):
    report, made, settings = trained
    plain = undrawn.run_stage(
        pretraining_plan.pretraining_study(made.trials[0].spec.replace(checkpoints=()), settings),
        settings.replace(store=str(tmp_path / "plain")),
    )
    want = load_file(Store(plain.folder).file(plain.results[0].key, "weights.safetensors"))
    got = load_file(Store(report.folder).file(report.results[0].key, "weights.safetensors"))
    assert all(torch.equal(want[name], got[name]) for name in want)

    from tlx.models import training

    class Cut(Exception):  # noqa: N818 — a signal that ends the study
        pass

    calls, real = [], training._Training._save

    def cut(self):
        real(self)
        calls.append(1)
        if len(calls) == 2:
            raise Cut

    patch = pytest.MonkeyPatch()
    elsewhere = settings.replace(store=str(tmp_path / "cut"))
    patch.setattr(training._Training, "_save", cut)
    failed = undrawn.run_stage(made, elsewhere)
    patch.undo()
    assert not failed.results
    again = undrawn.run_stage(made, elsewhere)
    for tag in ("0", "0_1", "1", "3"):
        name = f"checkpoints/{tag}.safetensors"
        paths = [Store(r.folder).file(r.results[0].key, name) for r in (report, again)]
        assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize(
    ("asked", "tuned"),
    [
        ({"checkpoints": ("0", "2")}, ("0", "2")),
        ({"checkpoints": ("0", "2"), "from_checkpoints": ("2",)}, ("2",)),
        ({"checkpoints": ("0", "2"), "from_checkpoints": ("last",)}, ("2",)),
        ({}, ("0", "0_10", "1", "10")),
    ],
    ids=str,
)
def test_of_checkpoints_that_are_named_all_are_fine_tuned_unless_others_are_named(asked, tuned):
    chain = CheckpointGrid(**asked).resolved
    assert chain.chosen(chain.checkpoints) == tuned
