"""Figures of a search: pictures of what is there, the same bytes for the same numbers, nothing
where nothing is.
"""

from __future__ import annotations

import pytest

from tlx.studies.tuning import figures as tuning_figures

PNG = b"\x89PNG"


def rows(n=12, **changes):
    kinds, own = ("ridge", "svc"), ("ridge.alpha", "svc.C")
    return [
        {
            "number": i,
            "state": "pruned" if i % 3 == 1 else "complete",
            "accuracy": 0.5 + 0.01 * i,
            "cost": 0.5 + i % 4,
            "values": {"classifier": kinds[i % 2], own[i % 2]: 10.0 ** (i - 5)},
            **changes,
        }
        for i in range(n)
    ]


DRAWN = {
    "history": lambda r: tuning_figures.history(r, "<a> & $b$"),
    "parallel": tuning_figures.parallel_coordinates,
    "slices": tuning_figures.slices,
    "pareto": lambda r: tuning_figures.pareto(r, [0, 2], "Seconds"),
    "importances": lambda r: tuning_figures.importances(
        {x["values"]["classifier"]: 0.5 for x in r}
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("case", ["many", "one", "none", "failed"])
def test_figure(name, case):
    some = {
        "many": rows(),
        "one": rows(1),
        "none": [],
        "failed": rows(3, state="failed", accuracy=None, cost=None),
    }
    first = DRAWN[name](some[case])
    assert first.startswith(PNG)
    assert first == DRAWN[name](some[case])
