"""Null rankings of sources: what is known of a network without an image of the target.

A transferability score is worth its time only where it ranks sources better than these. Larger is
better in each; None where it is not known.

The static list is of networks with ImageNet weights: for each, the share of the other networks that
it beats, mean over the data sets of published tables of fine-tuned accuracies.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

STATIC = Path(__file__).resolve().parents[1] / "_data" / "static_ranks.csv"


@dataclass(frozen=True)
class NullRow:
    """Row of NULLS: title in tables, and why a value can be unknown."""

    title: str
    unknown: str


NULLS: dict[str, NullRow] = {
    "parameters": NullRow("parameters", "the size of the network is not known"),
    "top1": NullRow("ImageNet top-1", "no accuracy on ImageNet is published for these weights"),
    "static": NullRow("static list", "the network is in no published table"),
}


def null_values(
    network: str, *, parameters: int | None, top1: float | None, is_published: bool
) -> dict[str, float | None]:
    """Return the values of NULLS for a source, by name.

    network       name of the backbone
    parameters    number of them, without the head
    top1          published accuracy of its own weights on ImageNet, a fraction
    is_published  whether it has its own weights; of random ones, or those of a file, nothing is
                  published
    """
    return {
        "parameters": None if parameters is None else float(parameters),
        "top1": top1 if is_published else None,
        "static": static_list().get(network) if is_published else None,
    }


@functools.cache
def static_list() -> Mapping[str, float]:
    """Return network → share of the other networks that it beats, from published tables."""
    with open(STATIC, newline="", encoding="utf-8") as file:
        return {row["network"]: float(row["share_beaten"]) for row in csv.DictReader(file)}


def share_beaten(tables: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return network → share of the other networks that it beats, mean over data sets.

    tables  data set → network → accuracy; a tie counts half
    """
    shares: dict[str, list[float]] = {}
    for accuracies in tables.values():
        ranks = stats.rankdata(list(accuracies.values()))
        for network, rank in zip(accuracies, ranks, strict=True):
            shares.setdefault(network, []).append((float(rank) - 1.0) / (len(accuracies) - 1))
    return {network: float(np.mean(values)) for network, values in shares.items()}
