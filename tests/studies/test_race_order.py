"""Fine-tunings of a comparison begin with the longest, so that none runs alone at the end."""

from __future__ import annotations

import pytest

from tlx.lab.settings import Settings
from tlx.studies.base import Stage, Trial
from tlx.studies.compare import evidence, race
from tlx.studies.compare.spec import CompareGrid
from tlx.studies.fine_tuning.spec import FineTuning
from tlx.studies.session import Session


@pytest.mark.parametrize("any_time", [True, False])
def test_trials_of_most_images_begin_first(any_time):
    draws = [(shots, split) for shots in (1, 5, 2) for split in range(2)]
    specs = [FineTuning(dataset="digits", shots=shots, split=split) for shots, split in draws]
    stage = Stage(
        key="5" * 64,
        run=lambda *_: None,
        experiment="Fine-tuning",
        title="digits",
        spec={},
        trials=tuple(Trial(spec, None) for spec in specs),
    )
    racing = race.Race(evidence.Side(evidence.TUNING), 2, {})
    grid = CompareGrid(any_time=any_time)
    side = evidence.Side(evidence.FEATURES)
    first = next(race.fine_tune({"mnist-cnn": stage}, side, grid, Session(Settings()), racing))
    assert [(t.spec.shots, t.spec.split) for t in first.trials] == [
        *[(5, 0), (5, 1)],
        *[(2, 0), (2, 1)],
        *[(1, 0), (1, 1)],
    ]
