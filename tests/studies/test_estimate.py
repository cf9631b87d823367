"""The estimate of `tlx check`: rows are counted, the seconds of one are measured, by a clock that
is ours here.
"""

from __future__ import annotations

import itertools
import shutil
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from tlx import files
from tlx.lab.settings import Settings
from tlx.models import backbones
from tlx.models.recipe import Recipe
from tlx.studies import estimate
from tlx.studies.base import Trial
from tlx.studies.few_shot import FewShotGrid
from tlx.studies.fine_tuning import plan as fine_tuning_plan
from tlx.studies.fine_tuning.spec import FineTuning
from tlx.studies.quanta.spec import Quanta


@dataclass(frozen=True)
class Rows:
    """Samples of which only the number counts."""

    count: int
    crops: int = 1

    def __len__(self):
        return self.count


def test_rows_are_those_that_pass_through_the_network(bars, tmp_path, cache):
    """3 classes; 1 and 2 shots, 2 draws each; 2 validation and 4 test images a class; 3 epochs; ten
    crops.
    """
    few = FewShotGrid(shots=(1, 2), splits=2, val_per_class=2, test_per_class=4)
    spec = FineTuning(dataset=str(bars), epochs=3)
    settings = Settings(store=str(tmp_path / "runs"), cache=str(cache), workers=2)
    found = fine_tuning_plan.look_at_fine_tuning(spec, few, settings, None, keep=False)
    assert not found.problems
    rows = estimate.rows_of(spec, few, found)
    assert [row.training for row in rows] == [10 * 3 * 3 * shots for shots in (1, 1, 2, 2)]
    assert [row.scoring for row in rows] == [10 * (3 * 6 + 12)] * 4
    once = estimate.rows_of(spec.replace(use_crops=False), few, found)
    assert [10 * row.training for row in once] == [row.training for row in rows]
    one, two = (estimate.estimate(spec, few, settings.replace(workers=n), found) for n in (1, 2))
    assert two.states_bytes == 2 * one.states_bytes
    assert two.memory_bytes == 2 * one.memory_bytes
    assert one.images_bytes == len(found.paths) * 32 * 32, "all crops are cut from one square"
    lone = estimate.estimate(spec.replace(use_crops=False), few, settings, found)
    assert lone.images_bytes == len(found.paths) * 28 * 28
    streamed = estimate.estimate(spec, few, settings.replace(decode_budget=0.0), found)
    assert streamed.images_bytes == 0, "decoded as they are needed"
    assert one.seconds_range[0] < one.seconds < one.seconds_range[1]
    assert {row.engine for row in one.engines} == {"local", "dask", "ray"}


@pytest.mark.parametrize(
    ("kind", "words", "scored"),
    [(Recipe, {}, 3 * 20 + 50), (Quanta, {"dataset": "x", "architecture": "quanta-cnn"}, 3 * 70)],
)
def test_rows_of_a_trial_are_tested_once_or_as_its_study_tests_them(kind, words, scored):
    rows = {"train": Rows(10), "val": Rows(20), "test": Rows(50)}
    trial = Trial(kind(epochs=3, **words), SimpleNamespace(**rows))
    rows = estimate.rows_of_trial(trial)
    assert (rows.training, rows.scoring) == (30, scored)


@pytest.fixture
def looked(bars, tmp_path, cache):
    """A study of two trials, what it looked at, and its settings."""
    few = FewShotGrid(shots=(1,), splits=2, val_per_class=2, test_per_class=4)
    spec = FineTuning(dataset=str(bars), epochs=3)
    settings = Settings(store=str(tmp_path / "runs"), cache=str(tmp_path / "cache"), workers=2)
    return spec, few, settings, fine_tuning_plan.look_at_fine_tuning(spec, few, settings)


def test_a_disk_without_room_is_a_problem_unless_the_images_are_there(looked, monkeypatch):
    spec, few, settings, found = looked
    takes = estimate.estimate(spec, few, settings, found)
    both = takes.images_bytes + takes.states_bytes
    monkeypatch.setattr(files, "free_bytes", lambda path: takes.states_bytes)
    assert estimate.disk_problems(takes, spec, settings, found) == [], "they were read just now"
    shutil.rmtree(settings.cache_folder / "pixels")
    (problem,) = estimate.disk_problems(takes, spec, settings, found)
    assert (problem.code, problem.exit_code) == ("disk-space", 5)
    assert f"decoded images and trainings under way may take {both:,} bytes" in problem.what
    monkeypatch.setattr(files, "free_bytes", lambda path: both)
    assert estimate.disk_problems(takes, spec, settings, found) == []


def test_trials_of_several_processes_are_estimated_as_they_run(looked, monkeypatch):
    """Two cores hold one trial of two processes, each with half of the batch."""
    monkeypatch.setattr(estimate, "seconds_a_row", lambda *_: (1.0, 0.0))
    monkeypatch.setattr(Settings, "local_slots", 2)
    spec, few, settings, found = looked
    spec, settings = spec.replace(batch_size=8, replicas=2), settings.replace(workers=None)
    shared = spec.replace(replica_processes=2)
    one, two = (estimate.estimate(s, few, settings, found) for s in (spec, shared))
    rows = 10 * 3 * 3
    assert rows < one.seconds < 2 * rows, "two side by side"
    assert rows < two.seconds < 2 * rows, "one after the other, each of half of the rows"
    assert [row.slots for row in two.engines if row.engine == "local"] == [1]
    assert two.states_bytes == one.states_bytes // 2, "one at once, of two"
    process = estimate.Speed(1.0, 0.0, 0, 0).memory_bytes(8)
    assert two.memory_bytes > 2 * process


def test_the_seconds_of_a_row_are_those_of_the_clock_and_the_network_stays_as_it_was():
    network = backbones.load("mnist-cnn", weights=None, classes=3, seed=0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    ticks = itertools.accumulate([0, 8, 0, 16])
    training, scoring = estimate.seconds_a_row(
        network, FineTuning(batch_size=8), 1, lambda: float(next(ticks))
    )
    assert (training, scoring) == (2.0, 1.0)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


class Chain(torch.nn.Module):
    """Two dense layers around an activation; what the backward pass needs is known."""

    channels, input_size = 1, 4

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(16, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)
        )

    def forward(self, x):
        return self.layers(x)


def test_what_the_backward_pass_needs_is_what_autograd_keeps():
    """The input of the first layer, the output of tanh (an input too), the output that is squared:
    16, 5 and 3 numbers of a row; the weights are not counted.
    """
    network = Chain()
    network.train()
    assert estimate.saved_bytes_a_row(network, 8) == 4 * (16 + 5 + 3)
    assert network.training
    assert all(p.grad is None for p in network.parameters())


def test_memory_grows_with_the_batch_and_with_the_network():
    speed = estimate.Speed(1.0, 1.0, saved_bytes=100, parameters=1000)
    base = speed.memory_bytes(0)
    assert base == estimate.PROCESS_BYTES + 4 * 5 * 1000
    assert speed.memory_bytes(32) == base + 3 * 32 * 100
    assert speed.state_bytes() == 4 * 4 * 1000
