"""Validation on fewer than ten crops: which ones, what is recorded, and what stays the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import undrawn

from tlx.data.sizing import CROPS
from tlx.errors import TlxError
from tlx.features import voting
from tlx.lab.store import Store
from tlx.models import backbones, training
from tlx.models.recipe import Recipe
from tlx.models.samples import Samples
from tlx.models.training import TrainingContext
from tlx.studies import base, estimate, export, served_trial
from tlx.studies.compare.evidence import Side
from tlx.studies.few_shot import FewShotGrid
from tlx.studies.fine_tuning import plan
from tlx.studies.fine_tuning import trial as fine_tuning_trial
from tlx.studies.fine_tuning.spec import FineTuning

FEW = FewShotGrid(shots=(1,), splits=1, val_per_class=3, test_per_class=2)
ORDER = [  # by their names, the most central first
    "centre",
    "centre of the mirrored image",
    "upper left",
    "lower right",
    "upper right",
    "lower left",
    "upper left of the mirrored image",
    "lower right of the mirrored image",
    "upper right of the mirrored image",
    "lower left of the mirrored image",
]


class TenCrops:
    """Pixels of random images, ten crops each; class k is brighter in row k."""

    crops = 10

    def __init__(self, images: int):
        rng = np.random.default_rng(images)
        self.labels = np.arange(images) % 3
        self._array = rng.integers(0, 90, (images * 10, 28, 28, 1), dtype=np.uint8)
        for image, label in enumerate(self.labels):
            self._array[image * 10 : (image + 1) * 10, 4 + 6 * label : 8 + 6 * label] += 140

    def take(self, rows):
        return self._array[rows]

    def samples(self, images):
        return Samples(self, np.array(images), self.labels[images])


def stage_of(bars, settings, few=FEW, **changes):
    spec = FineTuning(dataset=str(bars), **{"epochs": 1, **changes})
    return plan.fine_tuning_study(spec, few, settings)[0]


def result_of(bars, settings, **changes):
    stage = stage_of(bars, settings, **changes)
    report = undrawn.run_stage(stage, settings)
    report.raise_if_failed(require_tracking=False)
    return report.results[0]


def majority(logits):
    """Return the class of most votes, that of the earliest crop of several: plain Python."""
    decided = []
    for image in logits:
        ballots = [int(np.argmax(crop)) for crop in image]
        most = max(ballots.count(b) for b in ballots)
        decided.append(next(b for b in ballots if ballots.count(b) == most))
    return np.array(decided)


def per_class(truth, decided):
    return np.mean([np.mean(decided[truth == label] == label) for label in np.unique(truth)])


def nats(logits, truth):
    p = np.exp(logits.astype(float))
    p /= p.sum(axis=-1, keepdims=True)
    return -np.mean([np.log(p[i, :, label]) for i, label in enumerate(truth)])


# ---------------------------------------------------------------- which crops


@pytest.mark.parametrize("count", range(1, 12))
def test_the_most_central_crops_come_first(count):
    samples = TenCrops(6).samples([4, 1])
    fewer = samples.on_crops(count)
    names = [name for name, _, _ in CROPS]
    numbers = [names.index(name) for name in ORDER[:count]] if count < 10 else list(range(10))
    assert fewer.rows.tolist() == [10 * image + n for image in (4, 1) for n in numbers]
    assert fewer.crops == len(numbers)
    assert fewer.row_labels.tolist() == [1] * len(numbers) + [1] * len(numbers)
    assert fewer.row_images.tolist() == [0] * len(numbers) + [1] * len(numbers)
    assert samples.crops == 10, "the samples themselves are left as they are"
    assert fewer.on_crops(10).rows.tolist() == samples.rows.tolist()


# ---------------------------------------------------------------- what is measured


@pytest.mark.parametrize("vote", ["majority", "mean-probability"])
@pytest.mark.parametrize("count", [1, 2, 6])
def test_validation_scores_are_those_of_the_logits_of_these_crops(bars, settings, count, vote):
    stage = stage_of(bars, settings, val_crops=count, vote=vote)
    trial = stage.trials[0]
    network, fitted = fine_tuning_trial.tuned(trial.spec, trial.inputs, TrainingContext())
    logits = training.predict(network, trial.inputs.val, trial.spec).reshape(9, 10, 3)
    names = [name for name, _, _ in CROPS]
    chosen = logits[:, [names.index(name) for name in ORDER[:count]]]
    p = np.exp(chosen.astype(float))
    p /= p.sum(axis=2, keepdims=True)
    decided = majority(chosen) if vote == "majority" else p.mean(axis=1).argmax(axis=1)
    values = fitted.history[fitted.best_epoch]
    assert values["val_accuracy"] == pytest.approx(per_class(trial.inputs.val.labels, decided))
    assert values["val_loss"] == pytest.approx(nats(chosen, trial.inputs.val.labels), rel=1e-4)


def test_of_one_epoch_the_test_is_the_same_and_the_record_says_on_how_many_crops(bars, settings):
    ten = result_of(bars, settings)
    two = result_of(bars, settings, val_crops=2)
    assert ten.key != two.key
    test = [
        {k: v for k, v in r.scores.items() if "test_" in k and k != "test_s"} for r in (ten, two)
    ]
    assert test[0] == test[1]
    assert ten.details["confusion"] == two.details["confusion"]
    assert "val_crops" not in ten.details, "default: on all, details['crops']"
    assert (two.details["val_crops"], two.details["crops"]) == (2, 10)
    assert two.spec["val_crops"] == 2
    side = Side("fine-tuning")
    side.add([ten, two])
    assert len(side.arms) == 2, "trials that differ in it are of different arms"


def test_keys_of_before_are_those_of_today():
    assert FineTuning().key == FineTuning(val_crops=None).key
    assert "val_crops" not in FineTuning().identity()
    assert FineTuning().key[:16] == "9674d55c02dd0c92"
    assert FineTuning(shots=3, split=1, epochs=5, freeze=1).key[:16] == "d318de9fb5847042"
    assert FineTuning(val_crops=1).key != FineTuning().key


def test_killed_after_any_epoch_and_continued_is_the_same_to_the_bit(tmp_path):
    pixels, recipe = TenCrops(9), Recipe(epochs=3)
    data = pixels.samples([0, 1, 2]), pixels.samples(range(3, 9)).on_crops(1)

    class Killed(BaseException):
        pass

    def fit(**place):
        network = backbones.load("mnist-cnn", weights=None, classes=3, seed=0)
        settings = {"seed": 5, "score": voting.accuracy, "place": TrainingContext(**place)}
        outcome = training.fit(network, *data, recipe, **settings)
        untimed = [
            {k: v for k, v in row.items() if not k.endswith("_s")} for row in outcome.history
        ]
        return network.state_dict(), untimed, outcome.best_epoch

    def die_in(number):
        def on_epoch(epoch, values):
            if epoch == number:
                raise Killed

        return on_epoch

    whole, history, best = fit()
    for epoch in range(3):
        with pytest.raises(Killed):
            fit(checkpoint=tmp_path / "training.safetensors", on_epoch=die_in(epoch))
    state, continued, again = fit(checkpoint=tmp_path / "training.safetensors")
    assert (continued, again) == (history, best)
    assert all(state[name].equal(value) for name, value in whole.items())


# ---------------------------------------------------------------- work, bad input, made again


def test_work_is_counted_on_the_crops_that_are_used(bars, settings):
    few = replace(FEW, shots=(1, 2), splits=2)
    spec = FineTuning(dataset=str(bars), epochs=3, val_crops=2)
    result = plan.look_at_fine_tuning(spec, few, settings, None, keep=False)
    rows = estimate.rows_of(spec, few, result)
    assert [row.scoring for row in rows] == [3 * 9 * 2 + 6 * 10] * 4
    trial = stage_of(bars, settings, val_crops=2).trials[0]
    assert base.row_counts(trial) == (3 * 10, 9 * 2, 6 * 10)


@pytest.mark.parametrize("count", [0, 10, "half"])
def test_a_number_that_cannot_be_is_refused(count):
    with pytest.raises(TlxError, match="val-crops") as refused:
        FineTuning(val_crops=count)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("count", [1, 9])
def test_without_crops_there_is_nothing_to_choose(bars, settings, count):
    with pytest.raises(TlxError, match="--val-crops") as refused:
        stage_of(bars, settings, val_crops=count, use_crops=False)
    assert refused.value.exit_code == 2


@pytest.mark.slow
def test_a_trial_is_trained_again_and_decides_as_recorded(bars, settings):
    key = result_of(bars, settings, val_crops=1, epochs=2).key
    store = Store(settings.store_folder(None))
    chosen = served_trial.choose(store, key)
    rebuilt = export.ExportRequest(chosen, store, settings, lambda text: None).rebuild()
    assert rebuilt.val_scores.shape == (9, 10, 3), "temperatures are fitted on all crops"
    assert rebuilt.val_decided.shape == (9,)
