"""Published tables of transferability scores, computed again from their own columns.

    python tests/benchmarks/published_scores.py check     tables that do not give what they print
    python tests/benchmarks/published_scores.py static    a static list against the scores
    python tests/benchmarks/published_scores.py list      the list that tlx ships, as CSV

The tables are the model-selection benchmark of thuml's Transfer-Learning-Library (MIT): ten
networks with ImageNet weights, fine-tuned on eight data sets. `static` ranks the networks of each
data set by their accuracies on the seven others.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy as np

from tlx.metrics.scores_audit import Recomputed, recompute, weighted_kendall
from tlx.metrics.source_nulls import share_beaten

HERE = Path(__file__).resolve().parents[1] / "metrics"
SCORES = ("h-score", "leep", "logme", "nce")


def read(name: str) -> list[dict[str, str]]:
    """Return the rows of a CSV beside the tests of metrics."""
    with open(HERE / f"{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def columns() -> dict[str, dict[str, dict[str, float]]]:
    """Return data set → column → network → number."""
    tables: dict[str, dict[str, dict[str, float]]] = {}
    for row in read("published_scores"):
        for column in ("accuracy", *SCORES):
            of_networks = tables.setdefault(row["dataset"], {}).setdefault(column, {})
            of_networks[row["network"]] = float(row[column])
    return tables


def checked() -> dict[tuple[str, str], Recomputed]:
    """Return (data set, score) → correlations, computed again and as printed."""
    tables = columns()
    return {
        (row["dataset"], row["score"]): recompute(
            list(tables[row["dataset"]]["accuracy"].values()),
            list(tables[row["dataset"]][row["score"]].values()),
            pearson=float(row["pearson"]),
            weighted=float(row["weighted"]),
        )
        for row in read("published_correlations")
    }


def correlations() -> dict[str, list[float]]:
    """Return ranking → weighted Kendall on each data set; "static" leaves the data set out."""
    tables = columns()
    found: dict[str, list[float]] = {"static": [], **{name: [] for name in SCORES}}
    for dataset, table in tables.items():
        reached = table["accuracy"]
        others = {name: t["accuracy"] for name, t in tables.items() if name != dataset}
        ranked = share_beaten(others)
        scores = {"static": [ranked[network] for network in reached]}
        scores |= {name: list(table[name].values()) for name in SCORES}
        for name, values in scores.items():
            found[name].append(weighted_kendall(list(reached.values()), np.array(values)))
    return found


def main(task: str) -> None:
    """Print the result of a task."""
    if task == "check":
        for (dataset, score), row in checked().items():
            mark = "" if row.is_consistent else "  INCONSISTENT"
            print(
                f"{dataset:9} {score:8} pearson {row.pearson:6.3f} (printed "
                f"{row.pearson_printed:6.3f})  weighted {row.weighted:6.3f} (printed "
                f"{row.weighted_printed:6.3f}){mark}"
            )
    elif task == "static":
        for name, values in correlations().items():
            each = " ".join(f"{value:6.3f}" for value in values)
            print(f"{name:8} mean {np.mean(values):.3f}   {each}")
    else:
        out = csv.writer(sys.stdout, lineterminator="\n")
        out.writerow(["network", "share_beaten", "data_sets"])
        accuracies = {name: table["accuracy"] for name, table in columns().items()}
        for network, share in sorted(share_beaten(accuracies).items(), key=lambda row: -row[1]):
            out.writerow([network, f"{share:.4f}", len(accuracies)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=("check", "static", "list"))
    main(parser.parse_args().task)
