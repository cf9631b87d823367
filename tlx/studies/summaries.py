"""Study summaries: summary.json with metrics, warnings and description for the tracking store."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import files
from ..errors import counted
from ..lab.records import MetricLabel, MetricPoint, StoredStudy
from ..lab.redaction import redact
from ..plots import statistics
from . import result_warnings
from .frames import SUMMARY

WARNINGS_TAG = "tlx.warnings"
NO_WARNING = "none"
TABLE_LINES = 40  # of a description: the whole table is among the artifacts
PROGRAMS = ("tlx", "__main__.py")
ADDRESS, HIDDEN = "--address", "ADDRESS"


def write(  # noqa: PLR0913 — the parts of a summary, all by name
    folder: Path,
    study: StoredStudy,
    metrics: Sequence[MetricPoint],
    *,
    finished: int,
    trials: int | None = None,
    status: str = "",
    warnings: Sequence[str] | None = None,
    verdict: str = "",
    table: str = "",
    intervals: bool = True,
    tags: Mapping[str, str] | None = None,
    over: Sequence[str] = (statistics.DRAWS,),
    labels: Sequence[MetricLabel] = (),
) -> dict[str, object]:
    """Write summary.json into a study's folder and return it.

    finished   trials that ended well, of `trials` (those of the study)
    warnings   sentences of `result_warnings`; None for a study that reports no accuracy
    verdict    the first line of the description; table: Markdown; intervals: whether it holds
               confidence intervals; over: what these are over
    labels     words about the means: {"name", "value", "step"}, as metrics
    """
    of = len(study["trials"]) if trials is None else trials
    missing = of - finished
    shown: dict[str, Any] = {
        "metrics": list(metrics),
        "trials": of,
        "missing": missing,
        "status": status or ("failed" if missing else "finished"),
    }
    if warnings is not None:
        shown["metrics"].append({"name": "warnings", "value": len(warnings), "step": 0})
        shown["tags"] = {**(tags or {}), WARNINGS_TAG: " | ".join(warnings) or NO_WARNING}
    elif tags:
        shown["tags"] = dict(tags)
    first = verdict or f"{study['title']}: {finished} of {counted(of, 'trial')} finished"
    if labels:
        shown["labels"] = list(labels)
    sentences = result_warnings.lines(
        warnings or (), intervals=intervals and bool(table), over=over
    )
    shown["note"] = description(first, table, sentences, folder)
    files.write_json(folder / SUMMARY, shown)
    return shown


def description(verdict: str, table: str, sentences: Sequence[str], folder: Path) -> str:
    """Return the Markdown description of a run.

    The verdict, the table, caveats, folder, command.
    """
    rows = table.rstrip().splitlines()
    if len(rows) > TABLE_LINES:
        rows = [
            *rows[:TABLE_LINES],
            "",
            f"({len(rows) - TABLE_LINES} more lines: see the artifacts)",
        ]
    parts = [
        f"**{verdict}**",
        "\n".join(rows),
        "\n".join(f"- {sentence}" for sentence in sentences),
        f"Folder: `{folder}`",
        f"Command: `{command}`" if (command := command_line()) else "",
    ]
    return "\n\n".join(part for part in parts if part)


def command_line() -> str:
    """Return the running command, without secrets; "" where it is not tlx's (a notebook).

    The address of a cluster is left out: who reads the results need not know it.
    """
    if not sys.argv or Path(sys.argv[0]).name not in PROGRAMS:
        return ""
    words = ["tlx"]
    for word in sys.argv[1:]:
        if words[-1] == ADDRESS:
            words.append(HIDDEN)
        elif word.startswith(f"{ADDRESS}="):
            words.append(f"{ADDRESS}={HIDDEN}")
        else:
            words.append(word)
    return redact(shlex.join(words))
