"""Null rankings of sources, and published tables of scores computed again."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from benchmarks import published_scores

from tlx.metrics.scores_audit import recompute
from tlx.metrics.source_nulls import NULLS, STATIC, null_values, share_beaten, static_list
from tlx.models.backbones import BACKBONES, lookup

INCONSISTENT = {
    *(("aircraft", name) for name in published_scores.SCORES),
    *(("pets", name) for name in published_scores.SCORES),
    ("dtd", "nce"),
}


def naive_share(tables):
    """Count every pair of networks of every table."""
    shares = {}
    for network in next(iter(tables.values())):
        of_tables = []
        for accuracies in tables.values():
            own = accuracies[network]
            others = [value for name, value in accuracies.items() if name != network]
            beaten = sum(1.0 if own > value else 0.5 if own == value else 0.0 for value in others)
            of_tables.append(beaten / len(others))
        shares[network] = sum(of_tables) / len(of_tables)
    return shares


def test_the_share_beaten_counts_every_pair():
    rng = np.random.default_rng(0)
    tables = {str(d): {n: float(rng.integers(0, 5)) for n in "abcdef"} for d in range(4)}
    found = share_beaten(tables)
    assert found == pytest.approx(naive_share(tables))
    assert np.mean(list(found.values())) == pytest.approx(0.5)


def test_the_shipped_list_is_that_of_the_published_tables():
    accuracies = {name: t["accuracy"] for name, t in published_scores.columns().items()}
    expected = naive_share(accuracies)
    assert static_list() == pytest.approx(expected, abs=5e-5)
    assert STATIC.stat().st_size < 10_000


def test_exactly_the_three_inconsistent_tables_are_flagged():
    """Aircraft and Pets print correlations of other columns; NCE of DTD is the column of LogME."""
    checked = published_scores.checked()
    assert len(checked) == 8 * 4
    assert {name for name, row in checked.items() if not row.is_consistent} == INCONSISTENT
    dtd = published_scores.columns()["dtd"]
    assert dtd["nce"] == dtd["logme"]


def test_a_published_column_off_by_more_than_rounding_is_flagged():
    reached, values = [0.1, 0.2, 0.3, 0.4, 0.5], [1.0, 3.0, 2.0, 4.0, 5.0]
    exact = recompute(reached, values, pearson=0.0, weighted=0.0)
    for shift, expected in ((0.0, True), (0.02, True), (0.03, False)):
        for name in ("pearson", "weighted"):
            printed = {"pearson": exact.pearson, "weighted": exact.weighted}
            printed[name] += shift
            assert recompute(reached, values, **printed).is_consistent is expected


def test_what_is_not_published_is_unknown_and_never_zero():
    own = null_values("resnet50", parameters=100, top1=0.8, is_published=True)
    assert set(own) == set(NULLS)
    assert own["static"] == pytest.approx(static_list()["resnet50"])
    assert null_values("resnet50", parameters=100, top1=0.8, is_published=False) == {
        "parameters": 100.0,
        "top1": None,
        "static": None,
    }
    assert null_values("mnist-cnn", parameters=None, top1=None, is_published=True) == dict.fromkeys(
        NULLS
    )


def test_published_accuracies_are_those_of_torchvision():
    from torchvision import models

    rows = [row for row in BACKBONES.values() if row.weights == "torchvision"]
    for row in [*rows, lookup("googlenet"), lookup("vit_b_16")]:
        printed = models.get_model_weights(row.model).DEFAULT.meta["_metrics"]["ImageNet-1K"]
        assert row.top1 == pytest.approx(printed["acc@1"] / 100)
    others = [row.top1 for row in BACKBONES.values() if row.source != "ImageNet"]
    assert others == [None] * len(others)


def test_every_network_of_the_list_is_a_backbone():
    with open(STATIC, newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(lookup(row["network"]).top1 is not None for row in rows)
    assert all(0.0 <= float(row["share_beaten"]) <= 1.0 for row in rows)
    assert not any(math.isnan(float(row["share_beaten"])) for row in rows)
    assert Path(STATIC).parent.name == "_data"


def test_the_documented_correlations_are_those_of_the_tables():
    text = (Path(__file__).parents[2] / "docs/concepts/transferability-scores.md").read_text()
    means = {name: np.mean(values) for name, values in published_scores.correlations().items()}
    titles = {"static list of the other data sets": "static", "LogME": "logme", "NCE": "nce"}
    for title, name in {**titles, "H-score": "h-score", "LEEP": "leep"}.items():
        assert f"| {title} | {f'{means[name]:.2f}'.lstrip('0')} |" in text
