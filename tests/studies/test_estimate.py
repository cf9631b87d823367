"""The estimate of `tlx check`: rows are counted, the seconds of one are measured, by a clock that
is ours here.
"""

from __future__ import annotations

import itertools

import torch

from tlx.lab.settings import Settings
from tlx.models import backbones
from tlx.studies import estimate
from tlx.studies.few_shot import FewShotGrid
from tlx.studies.fine_tuning import plan as fine_tuning_plan
from tlx.studies.fine_tuning.spec import FineTuning


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
    assert rows.training == 10 * 3 * 2 * (3 * 1 + 3 * 2)
    assert rows.scoring == 10 * 4 * (3 * 6 + 12)
    once = estimate.rows_of(spec.replace(use_crops=False), few, found)
    assert once.training * 10 == rows.training
    one, two = (estimate.estimate(spec, few, settings.replace(workers=n), found) for n in (1, 2))
    assert two.states_bytes == 2 * one.states_bytes
    assert one.images_bytes <= 10 * 60 * 28 * 28


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
