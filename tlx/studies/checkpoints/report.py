"""Tables, figures and closing text of a study of checkpoints, from `correlations.gather`."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ... import files
from ...errors import counted
from ...lab.records import MetricPoint, StoredStudy
from ...lab.store import Store
from ...plots import statistics, tables
from ...result import FINISHED, Result
from .. import drawings, reporting, result_warnings, summaries
from ..base import StudyReport
from ..drawings import Drawings
from ..layer_metrics import figures as layer_metrics_figures
from ..layer_metrics import table as layer_metrics_table
from ..reporting import RECORD_BYTES
from . import data_frames
from . import figures as checkpoints_figures
from . import tables as checkpoints_tables
from .spec import CHAIN, RESULTS

OVER = ("id", "ss_ratio", "rsa_contrast")  # drawn over the checkpoints
SCOPES = {
    "all": "all models",
    "source": "models of each source",
    "checkpoint": "models of each checkpoint",
}


def write_trial_figures(folder: Path, result: Result, form: str | None = "png") -> None:
    """Write the accuracies at a trial's moments to its folder."""
    moments = result.details.get("moments") or []
    if moments:
        columns = ["tag", *(name for name in checkpoints_tables.SCORES if name in moments[0])]
        files.write_text(
            folder / "moments.csv",
            tables.as_csv(columns, [[row.get(c) for c in columns] for row in moments]),
        )


def write_stage_summary(store: Store, key: str, form: str | None = "png") -> None:
    """Write the summary of a stage whose trials are of several networks.

    Means over them would be meaningless.
    """
    study = store.read_study(key)
    if study is None:
        return
    results = reporting.results_of(store, study)
    warnings = warnings_of(results)
    summaries.write(
        store.root / "studies" / key,
        study,
        [],
        finished=sum(r.status == FINISHED for r in results),
        warnings=warnings,
    )


def warnings_of(results: Sequence[Result]) -> list[str] | None:
    """Return the warnings about the accuracies of fine-tuned checkpoints, or of sources.

    None for neither.
    """
    groups = result_warnings.grouped((r for r in results if "epochs" in r.spec), _network)
    if not result_warnings.tested(groups):
        return None
    tuned = any(r.details.get("moments") for r in results)
    return result_warnings.result_warnings(
        groups, result_warnings.Warned("seeds", "--fine-tune-epochs" if tuned else "--epochs")
    )


def _network(result: Result) -> str:
    """Return the name of the mean over seeds that a network belongs to."""
    spec = result.spec
    if not spec.get("source"):
        return str(spec.get("dataset", ""))
    return f"{spec['source']} at {spec.get('checkpoint', '')} to {spec.get('dataset', '')}"


def format_stage_summary(report: StudyReport) -> str:
    """Return the closing text of such a stage."""
    done = f", {report.reused} of them found done" if report.reused else ""
    lines = [f"{counted(len(report.results), 'trial')} in {tables.seconds(report.wall_s)}{done}"]
    if report.diverged:
        lines.append(
            f"diverged: {', '.join(_name(r) for r in report.diverged)}. Try a smaller "
            f"--learning-rate"
        )
    lines += result_warnings.lines(warnings_of(report.results) or (), intervals=False)
    return "\n".join(lines)


def _name(result: Result) -> str:
    return (
        f"{result.spec.get('source') or result.spec.get('dataset')} seed {result.spec.get('seed')}"
    )


def study_drawings(store: Store, study: StoredStudy) -> Drawings:
    """Return the figures of a study; none of one that is a stage of another."""
    path = store.study_folder(study["key"]) / RESULTS
    if not path.is_file():
        return {}
    warnings = warnings_of(reporting.results_of(store, study))
    return dict(_figures(files.read_json(path, limit=RECORD_BYTES), warnings or ()))


def write_summary(store: Store, key: str, form: str | None = "png") -> None:
    """Write the study's tables, figures and summary to its folder."""
    write_stage_summary(store, key)
    folder = store.root / "studies" / key
    if not (folder / RESULTS).is_file():
        return
    results = files.read_json(folder / RESULTS, limit=RECORD_BYTES)
    checkpoints_tables.write(checkpoints_tables.rows_of(results), folder)
    if results["layers"]:
        layer_metrics_table.write(results["layers"], folder)
    study = store.read_study(key)
    assert study is not None
    finished = reporting.results_of(store, study)
    warnings = warnings_of(finished)
    drawings.write(folder, study_drawings(store, study), form)
    shown = [
        table(results["performance"], target, "markdown")
        for target in dict.fromkeys(row["target"] for row in results["performance"])
    ]
    summaries.write(
        folder,
        study,
        _points(results),
        finished=sum(r.status == FINISHED for r in finished),
        warnings=warnings,
        table="\n".join(shown),
    )


def _figures(
    results: Mapping[str, Any], caption: Sequence[str] = ()
) -> Iterator[tuple[str, Callable[[str], bytes]]]:
    if results["tuning"]:
        yield (
            "accuracy_over_fine_tuning",
            functools.partial(
                checkpoints_figures.accuracy_over_fine_tuning,
                results["tuning"],
                "",
                caption=caption,
            ),
        )
    if results["performance"]:
        yield (
            "transfer_performance",
            functools.partial(
                checkpoints_figures.performance_over_checkpoints,
                results["performance"],
                len(results["moments"]),
                "",
                caption=caption,
            ),
        )
    yield from spearman_figures(
        results["correlations"],
        sources=list(dict.fromkeys(row["source"] for row in results["performance"])),
    )
    for metric in OVER:
        rows = [row for row in results["layers"] if row.get(metric) not in (None, "")]
        if len({row["checkpoint"] for row in rows}) > 1:
            yield (
                f"{metric}_over_checkpoints",
                functools.partial(layer_metrics_figures.metric_over_checkpoints, rows, metric, ""),
            )


def spearman_figures(
    correlations: Sequence[Mapping[str, Any]],
    metrics: Sequence[str] = checkpoints_figures.BARS,
    sources: Sequence[str] = (),
) -> Iterator[tuple[str, Callable[[str], bytes]]]:
    """Return (name, drawing function) of the bars of every target and scope with data."""
    targets = list(dict.fromkeys(row["target"] for row in correlations))
    for target in targets:
        for scope, words in SCOPES.items():
            rows = [
                row
                for row in correlations
                if (row["target"], row["scope"]) == (target, scope)
                and row["rho"] is not None
                and row["n"] > 2
                and row["metric"] in metrics
            ]
            if rows:
                end = f"_{target.replace('/', '_')}" if len(targets) > 1 else ""
                yield (
                    f"spearman_{scope}{end}",
                    functools.partial(
                        checkpoints_figures.spearman_bars,
                        rows,
                        scope,
                        metrics,
                        f"{words[:1].upper()}{words[1:]}, target {target}",
                        sources=sources,
                    ),
                )


def _points(results: Mapping[str, Any]) -> list[MetricPoint]:
    """Return mean transfer performance over checkpoints, and ρ over layers, for the study's run."""
    points = [
        {
            "name": f"{row['target']}/{row['source']}/{name}",
            "value": row[of],
            "step": row["checkpoint_index"],
        }
        for row in means(results["performance"])
        for name, of in (
            ("transfer_performance", "mean"),
            ("ci95_low", "low"),
            ("ci95_high", "high"),
        )
        if row[of] is not None
    ]
    return points + [
        {
            "name": f"{row['target']}/rho_{row['metric']}",
            "value": row["rho"],
            "step": row["layer_index"],
        }
        for row in results["correlations"]
        if row["scope"] == "all" and row["rho"] is not None
    ]


# ---------------------------------------------------------------- means and words


def means(performance: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compute the transfer performance of every source and checkpoint.

    Mean over seeds with its 95 % CI (None for one).
    """
    groups: dict[tuple[str, str, int, str], list[float]] = {}
    for row in performance:
        of = (row["target"], row["source"], row["checkpoint_index"], row["checkpoint"])
        groups.setdefault(of, []).append(row["transfer_performance"])
    result = []
    for (target, source, index, tag), values in groups.items():
        of_group = statistics.estimate(
            values, bounds=statistics.NOT_NEGATIVE
        )  # an area under accuracies
        assert of_group is not None
        result.append(
            {
                "target": target,
                "source": source,
                "checkpoint_index": index,
                "checkpoint": tag,
                "seeds": of_group.n,
                "mean": of_group.mean,
                "ci": of_group.half_width,
                "low": of_group.low,
                "high": of_group.high,
                "lowest": of_group.lowest,
                "highest": of_group.highest,
            }
        )
    return result


def table(performance: Sequence[Mapping[str, object]], target: str, form: str = "text") -> str:
    """Format sources down, checkpoints across: mean transfer performance ± 95 % CI over seeds.

    Accuracies are fractions.
    """
    rows = [row for row in means(performance) if row["target"] == target]
    tags = list(
        {row["checkpoint"]: 0 for row in sorted(rows, key=lambda row: row["checkpoint_index"])}
    )
    cells = {(row["source"], row["checkpoint"]): row for row in rows}
    body = [
        [source, *(_cell(cells.get((source, tag))) for tag in tags)]
        for source in dict.fromkeys(row["source"] for row in rows)
    ]
    return tables.FORMS[form](["source", *tags], body)


def _cell(row: Mapping[str, object] | None) -> str:
    if row is None:
        return tables.NOTHING
    if statistics.is_range(row):
        return f"{row['mean']:.3f} ({row['lowest']:.3f} to {row['highest']:.3f})"
    return f"{row['mean']:.3f}" + (f" ± {row['ci']:.3f}" if row["ci"] is not None else "")


def format_summary(report: StudyReport) -> str:
    """Return the closing text: transfer performances, correlations, where the files are.

    Correlations are over all models.
    """
    folder = report.folder / "studies" / report.key
    results = files.read_json(folder / RESULTS, limit=RECORD_BYTES)
    lines = []
    for target in dict.fromkeys(row["target"] for row in results["performance"]):
        lines += [
            f"transfer performance on {target}: area under test accuracy (a fraction) over "
            f"{len(results['moments'])} moments, at most {len(results['moments']) - 1}; ± 95 % CI "
            f"over seeds",
            table(results["performance"], target).rstrip(),
            *_correlations(results["correlations"], target),
        ]
    lines += result_warnings.lines(warnings_of(report.results) or ())
    same = _same_weights(folder)
    lines += (
        [f"note: {same} models have the weights of another one, and its numbers"] if same else []
    )
    if report.diverged:
        lines.append(
            f"diverged: {', '.join(_name(r) for r in report.diverged)}. Try a smaller "
            f"--fine-tune-rate"
        )
    lines.append(f"{drawings.kinds(folder, 'tables', 'figures')}: {folder}")
    return "\n".join([*lines, *reporting.footer(report)])


def _correlations(rows: Sequence[Mapping[str, Any]], target: str) -> list[str]:
    """Format ρ over all models, metrics down and layers across."""
    selected = [
        row
        for row in rows
        if row["target"] == target and row["scope"] == "all" and row["rho"] is not None
    ]
    if not selected:
        return []
    layers = list({row["layer"]: 0 for row in sorted(selected, key=lambda row: row["layer_index"])})
    cells = {(row["metric"], row["layer"]): row for row in selected}
    body = [
        [metric, *(_rho(cells.get((metric, layer))) for layer in layers)]
        for metric in dict.fromkeys(row["metric"] for row in selected)
    ]
    return [
        f"Spearman's ρ with it over all {max(row['n'] for row in selected)} models",
        *_chance(selected),
        tables.FORMS["text"](["metric", *layers], body).rstrip(),
    ]


def _rho(row: Mapping[str, Any] | None) -> str:
    """Format ρ, with a star where fewer than 5 % of the orders of whole sources are as large."""
    if row is None:
        return tables.NOTHING
    star = "*" if row.get("source_p") is not None and row["source_p"] <= 0.05 else ""
    return f"{row['rho']:+.2f}{star}"


def _chance(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Describe the chance level of ρ.

    By orders of whole sources, and as if the models were independent.
    """
    naive = (
        f"as if models were independent, |ρ| < {max(row['fisher'] for row in rows):.2f} by chance "
        f"(Fisher, 95 %): "
        "too narrow, as models of one source are alike"
    )
    moved = [row for row in rows if row.get("source_low") is not None]
    if not moved:
        return [
            naive,
            "no two sources have the same checkpoints, so that no order of sources tells what "
            "chance makes",
        ]
    widest = max(max(abs(row["source_low"]), abs(row["source_high"])) for row in moved)
    count = max(row["sources"] for row in moved)
    return [
        f"by chance |ρ| < {widest:.2f} (98 % of the orders of {count} whole sources); * p ≤ .05 by "
        f"these orders",
        naive,
    ]


def _same_weights(folder: Path) -> int:
    cells = files.read_json(folder / CHAIN, limit=RECORD_BYTES)["cells"]
    models = {
        (cell["target"], cell["source"], cell["seed"], cell["checkpoint"]): cell["weights"]
        for cell in cells
    }
    return len(models) - len({(of[0], weights) for of, weights in models.items()})


def export(report: StudyReport, out: Path) -> list[Path]:
    """Copy the tables and figures to a folder, with train stats and data frames of the thesis."""
    folder = report.folder / "studies" / report.key
    files.make_folder(out)
    names = [f"{name}.csv" for name in checkpoints_tables.COLUMNS] + [
        f"{layer_metrics_table.STEM}.{e}" for e in ("csv", "parquet")
    ]
    paths = []
    for source in [*(folder / name for name in names), *drawings.figures_in(folder)]:
        if source.is_file():
            with files.atomic_write(out / source.name) as file, open(source, "rb") as whole:
                shutil.copyfileobj(whole, file)
            paths.append(out / source.name)
    results = files.read_json(folder / RESULTS, limit=RECORD_BYTES)
    stats = checkpoints_tables.write_stats(results, out)
    return [*paths, *stats, *data_frames.write(results, out)]
