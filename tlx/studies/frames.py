"""Results as pandas tables: one row a trial, and the means of a study."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import files
from ..lab.settings import FORMS
from ..result import Result

if TYPE_CHECKING:
    import pandas

SUMMARY = "summary.json"


def trial_frame(results: Iterable[Result]) -> pandas.DataFrame:
    """Return one row a trial: key, status, settings, scores, and costs as cost_<name>."""
    import pandas

    return pandas.DataFrame([_row(result) for result in results])


def _row(result: Result) -> dict[str, object]:
    settings = {name: _cell(value) for name, value in result.spec.items() if name != "kind"}
    costs = {f"cost_{name}": row.get("value") for name, row in result.cost.items()}
    return {
        "key": result.key,
        "kind": result.kind,
        "status": result.status,
        **settings,
        **result.scores,
        **costs,
    }


def _cell(value: object) -> Any:
    """Return a list as text: a cell of a table holds one value."""
    return ",".join(map(str, value)) if isinstance(value, list) else value


def summary_frame(folder: Path) -> pandas.DataFrame:
    """Return the summary of a study: one row a line and step, one column a metric.

    A line is a classifier or a network; "" where the study has one. A step is the shots of a
    few-shot study, the blocks of others. Empty while there is no summary.
    """
    import pandas

    path = folder / SUMMARY
    summary = files.read_json(path, limit=1 << 30) if path.is_file() else {}
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for metric in [*summary.get("metrics", []), *summary.get("labels", [])]:
        line, _, name = metric["name"].rpartition("/")
        step = metric.get("step", 0)
        row = rows.setdefault((line, step), {"line": line, "step": step})
        row[name] = metric["value"]
    return pandas.DataFrame(list(rows.values()))


def figures_of(folder: Path) -> dict[str, Path]:
    """Return the figures in a folder, name → path."""
    return {path.stem: path for form in FORMS for path in sorted(folder.glob(f"*.{form}"))}


def report_json(
    key: str, folder: Path, address: str, results: Iterable[Result]
) -> dict[str, object]:
    """Return a study as plain JSON: key, folder, address, summary, figures, trials."""
    path = folder / SUMMARY
    summary = files.read_json(path, limit=1 << 30) if path.is_file() else {}
    trials = [
        {"key": r.key, "kind": r.kind, "status": r.status, "spec": r.spec, "scores": r.scores}
        for r in results
    ]
    return {
        "key": key,
        "folder": str(folder),
        "address": address,
        "summary": summary,
        "figures": {name: str(path) for name, path in figures_of(folder).items()},
        "trials": trials,
    }
