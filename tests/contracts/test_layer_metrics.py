"""Contract of every row of LAYER_METRICS: a number as numpy alone says, described, in tables."""

from __future__ import annotations

import math

import naive
import numpy as np
import pytest

from tlx.data.streams import seeded_permutation
from tlx.studies.atlas import measures as atlas_measures
from tlx.studies.atlas import panels as atlas_panels
from tlx.studies.atlas.spec import PANEL_NAMES, BlockMeasures
from tlx.studies.layer_blocks import BlockedLayer
from tlx.studies.layer_measures import (
    DISSIMILARITIES,
    LAYER_METRICS,
    AtlasPanel,
    LayerMetric,
    LayerRows,
)
from tlx.studies.layer_metrics import columns
from tlx.studies.layer_metrics import trial as layer_metrics_trial
from tlx.studies.layer_metrics.spec import LayerMetrics

ROWS, SEED = 24, 3
LABELS = np.repeat(["a", "b", "c"], ROWS // 3)
SPEC = LayerMetrics(resamplings=3, seed=SEED)


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(0)
    centres = {label: rng.normal(size=7) for label in "abc"}
    return np.array([centres[label] + rng.normal(size=7) for label in LABELS], np.float32)


@pytest.fixture
def layer(x):
    return LayerRows(x, LABELS, layer_metrics_trial.measure_settings(SPEC))


def parts():
    drawn = math.floor(SPEC.fraction * ROWS)
    return [np.sort(seeded_permutation(ROWS, SEED, "resampling", i)[:drawn]) for i in range(3)]


@pytest.mark.parametrize("name", LAYER_METRICS)
def test_a_metric_is_what_numpy_alone_says(layer, x, name):
    expected = naive.LAYER_METRICS[name](x.astype(np.float64), LABELS, parts())
    value = LAYER_METRICS[name].function(layer)
    assert value == pytest.approx(expected, rel=2e-4)
    low, high = LAYER_METRICS[name].bounds
    assert low <= value <= high


@pytest.mark.parametrize("block_rows", [1, 5, ROWS - 1])
@pytest.mark.parametrize("name", LAYER_METRICS)
def test_a_metric_over_blocks_is_what_numpy_alone_says(x, name, block_rows):
    """And of some of the rows alone what one piece says of them."""
    settings = layer_metrics_trial.measure_settings(SPEC)
    everything = BlockedLayer(x, LABELS, settings, np.arange(ROWS), block_rows)
    expected = naive.LAYER_METRICS[name](x.astype(np.float64), LABELS, parts())
    assert LAYER_METRICS[name].function(everything) == pytest.approx(expected, rel=2e-4)
    compared = np.flatnonzero(np.arange(ROWS) % 4)
    blocked = BlockedLayer(x, LABELS, settings, compared, block_rows)
    in_one_piece = LayerRows(x, LABELS, settings, compared)
    value = LAYER_METRICS[name].function(blocked)
    assert value == pytest.approx(LAYER_METRICS[name].function(in_one_piece), rel=1e-5)


def test_every_oracle_is_of_a_metric():
    assert naive.LAYER_METRICS.keys() == LAYER_METRICS.keys()


@pytest.mark.parametrize("name", LAYER_METRICS)
def test_a_metric_is_described_and_stands_in_the_table_of_analyze(name):
    metric = LAYER_METRICS[name]
    assert metric.unit
    assert metric.meaning
    column = columns.COLUMNS[name]
    assert (column.meaning, column.unit, column.more) == (metric.meaning, metric.unit, metric.more)
    assert (name in columns.METRICS) == (not metric.spread_of)
    assert not metric.spread_of or metric.spread_of in LAYER_METRICS


IN_ATLAS = [name for name, metric in LAYER_METRICS.items() if metric.in_atlas is not None]


@pytest.mark.parametrize("name", IN_ATLAS)
def test_a_metric_of_the_atlas_has_its_panel_and_the_number_of_analyze(layer, x, name):
    metric = LAYER_METRICS[name]
    panel = atlas_panels.PANELS[metric.in_atlas.name]
    assert metric.in_atlas.name in PANEL_NAMES
    spec = BlockMeasures(resamplings=3, seed=SEED, folds=3, k=1)
    value = atlas_measures.alone(spec, x, LABELS)["values"][metric.in_atlas.name]
    assert value["mean"] == metric.function(layer)
    assert metric.bounds[0] <= value["low"] <= value["mean"] <= value["high"] <= metric.bounds[1]
    for rdm in DISSIMILARITIES:
        assert panel.unit_for(rdm) == metric.unit_for(rdm)


def test_the_panels_are_drawn_in_the_order_that_the_option_lists():
    assert tuple(atlas_panels.PANELS) == PANEL_NAMES


@pytest.mark.parametrize("name", [n for n in LAYER_METRICS if LAYER_METRICS[n].by_inner_products])
def test_parts_by_inner_products_are_those_of_the_activations(layer, name):
    part = parts()[0]
    function = LAYER_METRICS[name].function
    by_activations = function(layer.part(part, by_inner_products=False))
    assert function(layer.part(part, by_inner_products=True)) == pytest.approx(
        by_activations, rel=1e-4
    )


def test_a_metric_that_is_added_as_a_row_is_measured_in_both_studies(monkeypatch, x, tmp_path):
    """Nothing else has to be touched: `tlx analyze` and `tlx atlas` loop over the table."""
    spread = LayerMetric(
        function=lambda layer: float(np.abs(layer.few).max()),
        unit="activation",
        meaning="largest activation",
        in_atlas=AtlasPanel("largest", "Largest\n({unit})"),
    )
    monkeypatch.setitem(LAYER_METRICS, "largest", spread)
    layer = LayerRows(x, LABELS, layer_metrics_trial.measure_settings(SPEC))
    values, notes = layer_metrics_trial._values(layer)
    assert (values["largest"], notes) == (np.abs(x).max(), [])
    spec = BlockMeasures(resamplings=3, seed=SEED, folds=3, k=1)
    value = atlas_measures.alone(spec, x, LABELS)["values"]["largest"]
    assert value["low"] <= value["mean"] == np.abs(x).max()
    panel = atlas_panels._layer_metric_panels()["largest"]
    assert panel.heading(panel.unit) == "Largest\n(activation)"
