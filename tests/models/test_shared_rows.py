"""Scored rows after a frozen prefix that trainings share: the same bits, computed once."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import undrawn

from tlx.data.pixels import pixels
from tlx.data.sizing import Sizing
from tlx.features import voting
from tlx.models import backbones, training
from tlx.models.frozen_prefix import cache, shared
from tlx.models.recipe import Recipe
from tlx.models.samples import Samples
from tlx.models.training import TrainingContext
from tlx.studies import runner
from tlx.studies.compare import costs
from tlx.studies.compare.evidence import TUNING
from tlx.studies.few_shot import FewShotGrid
from tlx.studies.fine_tuning import plan
from tlx.studies.fine_tuning.spec import FineTuning

FROZEN = Recipe(freeze=2, epochs=2)


@pytest.fixture(scope="module")
def data(bars, tmp_path_factory):
    """Return training, validation and test samples with ten crops, of pixels with a digest."""
    paths = sorted(bars.rglob("*.png"))
    held = pixels(paths, Sizing(28, channels=1), tmp_path_factory.mktemp("cache"))
    numbers = np.arange(12) * 5
    labels = np.arange(12) % 3
    return [Samples(held, numbers[part::3], labels[part::3]) for part in range(3)]


@pytest.fixture
def computed(monkeypatch):
    """Return the numbers of rows of each batch of which a prefix was computed."""
    counts: list[int] = []
    batch = cache.ComputedBatches.batch

    def counted(self, index):
        counts.append(len(index))
        return batch(self, index)

    monkeypatch.setattr(cache.ComputedBatches, "batch", counted)
    return counts


def trained(data, folder=None, recipe=FROZEN, seed=0, val=None):
    """Return everything that a training comes to, and the logits of the test images."""
    network = backbones.load("mnist-cnn", weights=None, classes=3, seed=seed)
    place = TrainingContext(shared=folder)
    train, own, test = data
    outcome = training.fit(
        network, train, val or own, recipe, seed=5, score=voting.accuracy, place=place
    )
    untimed = [{k: v for k, v in row.items() if not k.endswith("_s")} for row in outcome.history]
    logits = training.predict(network, test, recipe, place)
    return (
        untimed,
        logits.tobytes(),
        {k: v.numpy().tobytes() for k, v in network.state_dict().items()},
    )


def rows_in(folder):
    return sorted(path for path in folder.glob("*") if path.suffix != ".json")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ema": 0.8},
        {"precision": "bfloat16"},
        {"channels_last": True},
        {"head_epochs": 2, "epochs": 4},
    ],
    ids=str,
)
def test_shared_rows_change_no_bit_and_are_computed_once(data, tmp_path, computed, settings):
    recipe = FROZEN.replace(**settings)
    alone = trained(data, recipe=recipe)
    computed.clear()
    first = trained(data, tmp_path / "shared", recipe)
    of_first = sum(computed)
    computed.clear()
    second = trained(data, tmp_path / "shared", recipe)
    assert first == alone
    assert second == alone
    assert of_first - sum(computed) >= 80, "40 validation and 40 test rows"
    assert len(rows_in(tmp_path / "shared")) >= 2


def test_a_damaged_or_lost_file_is_made_again(data, tmp_path):
    alone = trained(data)
    assert trained(data, tmp_path) == alone
    first, second, *_ = rows_in(tmp_path)
    content = bytearray(first.read_bytes())
    content[len(content) // 2] ^= 1
    first.write_bytes(content)
    second.write_bytes(second.read_bytes()[:-1])
    assert trained(data, tmp_path) == alone
    for path in rows_in(tmp_path):
        path.with_suffix(".json").write_text("{")
    assert trained(data, tmp_path) == alone
    for path in rows_in(tmp_path):
        path.unlink()
    assert trained(data, tmp_path) == alone


def test_other_weights_pixels_and_crops_are_other_rows(data, tmp_path):
    trained(data, tmp_path)
    train, val, test = data
    for changed, added in (
        ({"seed": 1}, 2),
        ({"val": val.on_crops(2)}, 1),
        ({"recipe": FROZEN.replace(precision="bfloat16")}, 2),
        ({"recipe": FROZEN.replace(learning_rate=0.1)}, 0),
    ):
        before = len(rows_in(tmp_path))
        assert trained(data, tmp_path, **changed) == trained(data, **changed)
        assert len(rows_in(tmp_path)) == before + added, changed
    before = rows_in(tmp_path)
    trained((train, test, val), tmp_path)
    assert rows_in(tmp_path) == before, "the same rows in another role"


def test_nothing_is_shared_of_a_network_that_is_not_frozen(data, tmp_path):
    recipe = FROZEN.replace(freeze=0)
    assert trained(data, tmp_path / "shared", recipe) == trained(data, recipe=recipe)
    assert not (tmp_path / "shared").exists()


def test_a_place_that_cannot_be_written_costs_nothing_but_time(data, tmp_path):
    (tmp_path / "file").write_text("")
    assert trained(data, tmp_path / "file" / "shared") == trained(data)


def test_trials_of_a_study_share_and_leave_nothing_behind(bars, settings, monkeypatch):
    few = FewShotGrid(shots=(1,), splits=2, val_per_class=3, test_per_class=2)
    spec = FineTuning(dataset=str(bars), epochs=2, freeze=2)
    found: list[bool] = []
    load = shared.load

    def watched(*asked):
        rows = load(*asked)
        found.append(rows is not None)
        return rows

    def results(settings):
        stage, _ = plan.fine_tuning_study(spec, few, settings)
        report = undrawn.run_stage(stage, settings)
        report.raise_if_failed(require_tracking=False)
        assert not (report.folder / runner.SHARED).exists()
        kept = [{k: v for k, v in r.scores.items() if k[-2:] != "_s"} for r in report.results]
        return kept, [r.details for r in report.results]

    monkeypatch.setattr(shared, "load", watched)
    together = results(settings)
    assert found == [False, False, True, True], "validation and test rows, trial by trial"
    stage, _ = plan.fine_tuning_study(spec, few, settings)
    left = settings.store_folder(None) / runner.SHARED / stage.key
    left.mkdir(parents=True)  # by a command that was killed at its very end
    assert results(settings) == together
    run_trial = runner.run_trial
    monkeypatch.setattr(
        runner, "run_trial", lambda job, *more: run_trial(replace(job, shared=None), *more)
    )
    assert results(settings.replace(store=f"{settings.store}-alone")) == together
    assert len(found) == 4


def test_what_shared_rows_took_is_charged_to_the_trials_that_read_them(bars, settings, monkeypatch):
    few = FewShotGrid(shots=(1,), splits=3, val_per_class=3, test_per_class=2)
    spec = FineTuning(dataset=str(bars), epochs=2, freeze=2)
    kept: list[dict[str, float]] = []
    save = shared.save

    def keeping(path, rows, used):
        kept.append(used)
        save(path, rows, used)

    monkeypatch.setattr(shared, "save", keeping)
    stage, _ = plan.fine_tuning_study(spec, few, settings.replace(watts=10.0))
    report = undrawn.run_stage(stage, settings.replace(watts=10.0))
    first, *others = report.results
    assert len(kept) == 2, "validation rows and test rows"
    took = sum(used["cpu_s"] for used in kept)
    assert 0 < took <= first.cost["cpu_s"]["value"]
    assert not any(name.startswith("inherited_") for name in first.cost)
    for other in others:
        assert other.cost["inherited_cpu_s"]["value"] == pytest.approx(took)
        assert other.cost["inherited_energy_j"]["value"] == pytest.approx(10.0 * took)
    own, inherited, whole = costs.rows_of(TUNING, report.results, costs.Prices())
    assert inherited["cpu_s"].value == pytest.approx(2 * took / 3), "the first one inherits nothing"
    assert whole["cpu_s"].value == pytest.approx(own["cpu_s"].value + inherited["cpu_s"].value)


def test_rows_that_do_not_tell_what_they_took_are_read_all_the_same(data, tmp_path):
    alone = trained(data)
    assert trained(data, tmp_path) == alone
    for path in rows_in(tmp_path):
        record = path.with_suffix(".json")
        told = json.loads(record.read_text())
        record.write_text(json.dumps({"sha256": told["sha256"]}))
        assert shared.used(path) == {}
    assert trained(data, tmp_path) == alone
