"""A study's finished trials → its summary, figures and closing words, from its run folders alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import files
from ..errors import TlxError
from ..lab.store import JOURNAL, Store
from ..result import FINISHED, Result
from . import figures, statistics, tables

CURVE, TABLE, SUMMARY = "few_shot_curve", "few_shot", "summary.json"


def dress(folder: Path, result: Result) -> None:
    """Put a trial's figures into its folder: learning curves, and the confusion matrix if it was tested."""
    steps = [row for row in files.Journal.read(folder / JOURNAL) if row["t"] == "metrics"]
    if steps:
        title = " ".join(str(word) for word in (result.spec.get("architecture"), _place(result)) if word)
        curves = figures.learning_curves(steps, title, best_epoch=result.details.get("best_epoch"))
        files.write_bytes(folder / "learning_curves.png", curves)
    if "confusion" in result.details:
        classes, counts = result.details["classes"], result.details["confusion"]
        files.write_bytes(folder / "confusion_matrix.png", figures.confusion_matrix(counts, classes))
        rows = [[label, *row] for label, row in zip(classes, counts, strict=True)]
        files.write_text(folder / "confusion_matrix.csv", tables.as_csv(["true \\ predicted", *classes], rows))


def summarise(store: Store, key: str) -> None:
    """Write a study's table, curve and summary beside its record, over all of its trials that are whole."""
    study = store.read_study(key)
    if study is None:
        return
    folder = store.root / "studies" / key
    found = [(row, _whole(store, row["key"])) for row in study["trials"]]
    rows = by_shots([result for _, result in found if result is not None])
    scored = [row for row in rows if row["mean"] is not None]
    metrics: list[dict[str, Any]] = []
    for row in scored:
        parts = {"mean_test_accuracy": row["mean"], "ci95_low": row["low"], "ci95_high": row["high"],
                 "mean_train_s": row["train_s"], "splits": row["splits"]}
        metrics += [{"name": name, "value": value, "step": row["shots"]} for name, value in parts.items()
                    if value is not None]
    if scored and scored[0]["shots"]:
        files.write_bytes(folder / f"{CURVE}.png", figures.few_shot_curve(rows, study["title"]))
        files.write_text(folder / f"{TABLE}.csv", tables.few_shot(rows, "csv"))
        files.write_text(folder / f"{TABLE}.md", tables.few_shot(rows, "markdown"))
    missing = sum(result is None or result.status != FINISHED for _, result in found)
    files.write_json(folder / SUMMARY, {"status": "failed" if missing else "finished", "metrics": metrics,
                                        "trials": len(found), "missing": missing})


def _place(result: Result) -> str:
    """Which shots and split, where the trial is of a few-shot study."""
    return f"{result.spec['shots']}-shot split {result.spec['split']}" if result.spec.get("shots") else ""


def by_shots(results: list[Result], score: str = "test_accuracy") -> list[dict[str, Any]]:
    """`statistics.by_shots` of results; those without the score (diverged) are counted as missing."""
    return statistics.by_shots([{"shots": r.spec.get("shots", 0), **(r.scores if r.status == FINISHED else {})}
                                for r in results], score)


def _whole(store: Store, key: str) -> Result | None:
    try:
        return store.find(key)
    except TlxError:  # damaged: said when it is asked for itself
        return None


def closing(report: Any) -> str:
    """What a study ends with: the table, the time, how the mirror stands, where to look."""
    results, lines = report.results, []
    if any("test_accuracy" in r.scores for r in results) and results[0].spec.get("shots"):
        lines.append(tables.few_shot(by_shots(results)).rstrip())
    else:
        for r in results:
            named = {n: r.scores[n] for n in ("best_val_accuracy", "test_accuracy") if n in r.scores}
            lines.append(", ".join(f"{n.replace('_', ' ')} {100 * v:.1f} %" for n, v in named.items()) or r.status)
    if report.diverged:
        titles = ", ".join(_place(r) or r.key[:12] for r in report.diverged)
        lines.append(f"diverged (a loss or weight was no number any more): {titles}. Try a smaller --learning-rate")
    reused = f", {report.reused} of them found done" if report.reused else ""
    lines.append(f"{len(results)} trials in {tables.seconds(report.wall_s)}{reused}; results in {report.folder}")
    if report.sent is not None and (report.sent.unsent or report.sent.problem):
        lines.append(f"note: {report.sent}")
    if report.address:
        see = report.address
        lines.append(f"see them at {see}" if see.startswith("http") else
                     f"see them with: {see}   then open http://127.0.0.1:5000")
    return "\n".join(lines)
