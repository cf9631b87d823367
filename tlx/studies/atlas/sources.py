"""What an atlas is of and made from, as its record holds it."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class TakenStudy(TypedDict):
    """Study that panels are taken from, or could be."""

    study: str
    words: str
    trials: list[str]


class AtlasSources(TypedDict):
    """Network and images of an atlas, and the studies that its panels come from.

    taken    source of a panel → the study it is taken from
    others   source of a panel → further studies that would do
    lacking  source of a panel → the command that makes it, or why there is none
    """

    model: str
    architecture: str
    weights: str
    dataset: str
    classes: list[str]
    input_size: int
    reduce: str
    samples: int
    blocks: list[str]
    layers: list[str]
    taken: dict[str, TakenStudy]
    others: dict[str, list[TakenStudy]]
    lacking: dict[str, str]
    finetuned: str | None
    notes: list[str]
    against: NotRequired[str | None]
