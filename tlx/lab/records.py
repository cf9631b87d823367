"""Record of a study, as study.json holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, Required, TypedDict


class DataInput(TypedDict):
    """Data set that a study or a trial reads."""

    name: str
    source: NotRequired[str]
    digest: str
    context: NotRequired[str]


class MetricPoint(TypedDict):
    """Metric of a study at a step."""

    name: str
    value: float
    step: NotRequired[int]


class MetricLabel(TypedDict):
    """Word about a metric of a study at a step."""

    name: str
    value: str
    step: int


class StoredTrial(TypedDict, total=False):
    """Line of a trial in study.json.

    group        key of the run in MLflow that shows this trial beside others; "" or absent: a run
                 of its own
    group_title  name of that run
    label        name of the trial in it
    step         of its numbers there: trials of one label have each their own; absent: 0
    """

    key: Required[str]
    title: str
    shots: int
    split: int
    params: Mapping[str, object]
    spec: Mapping[str, Any]
    tags: Mapping[str, object]
    inputs: Sequence[DataInput]
    group: str
    group_title: str
    label: str
    step: int


class StoredStudy(TypedDict, total=False):
    """Study with its trials, those of earlier commands included."""

    key: str
    kind: str
    experiment: str
    title: str
    run_name: str
    named: str  # run_name where it was given, else ""
    spec: Mapping[str, Any]
    trials: list[StoredTrial]
    inputs: list[DataInput]
    tags: Mapping[str, str]
    params: Mapping[str, object]
    environment: Mapping[str, Any]
    idle_power: Mapping[str, Mapping[str, Any]]  # machine → energy.IdlePower
    metric_names: Mapping[str, str | tuple[str, float]]
