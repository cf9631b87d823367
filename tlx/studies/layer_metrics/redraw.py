"""Figures of the thesis from a table of layer metrics, as files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from ... import files
from ...errors import BadDataError, UnknownNameError
from ...lab.settings import FORMS
from . import table as layer_metrics_table

USUAL = ("id", "ss_ratio", "rsa_contrast")
ALL = "all"


def redraw(
    table: Path,
    out: Path | None = None,
    metrics: Sequence[str] = USUAL,
    baseline: str = "",
    form: str = "png",
) -> Iterator[Path]:
    """Draw each metric over layers, over checkpoints and against a baseline; yield each file.

    Over the layers of each model's last checkpoint; over checkpoints where there are several; as
    the difference to the baseline where one is given.

    out       folder of the figures: that of the table if None
    metrics   of `layer_table.METRICS`; "all" means every one in the table

    Everything requested is checked before anything is drawn. Raises UnknownNameError for a metric,
    model or form that does not exist, BadDataError for a metric without a number.
    """
    if form not in FORMS:
        raise UnknownNameError("form", form, FORMS)
    unknown = next(
        (name for name in metrics if name not in (*layer_metrics_table.METRICS, ALL)), None
    )
    if unknown is not None:
        raise UnknownNameError("metric", unknown, (*layer_metrics_table.METRICS, ALL))
    rows = layer_metrics_table.read(table)
    held = [
        name for name in layer_metrics_table.METRICS if any(row[name] is not None for row in rows)
    ]
    requested = held if ALL in metrics else list(dict.fromkeys(metrics))
    for name in requested or layer_metrics_table.METRICS[:1]:
        if name not in held:
            raise BadDataError(
                "table-cell",
                f"column '{name}' is empty in every row",
                where=table,
                expected=f"numbers; known here: {', '.join(held) or 'none'}",
            )
    models = list(dict.fromkeys(row["model"] for row in rows))
    if baseline and baseline not in models:
        raise UnknownNameError("baseline", baseline, models)
    return _written(rows, Path(out or Path(table).parent), requested, baseline, form)


def _written(
    rows: Sequence[Mapping[str, object]],
    out: Path,
    metrics: Sequence[str],
    baseline: str,
    form: str,
) -> Iterator[Path]:
    from . import figures as layer_metrics_figures
    from . import series as layer_metrics_series

    last = layer_metrics_series.at_last_checkpoints(rows)
    for metric in metrics:
        drawn: dict[str, Callable[[], bytes]] = {
            "over_layers": partial(
                layer_metrics_figures.metric_over_layers, last, metric, form=form
            )
        }
        tags = {row["checkpoint"] for row in rows if row["checkpoint"] and row[metric] is not None}
        if len(tags) > 1:
            drawn["over_checkpoints"] = partial(
                layer_metrics_figures.metric_over_checkpoints, rows, metric, form=form
            )
        if baseline:
            drawn["delta_to_baseline"] = partial(
                layer_metrics_figures.delta_to_baseline, last, metric, baseline, form=form
            )
        for name, draw in drawn.items():
            path = out / f"{metric}_{name}.{form}"
            files.write_bytes(path, draw())
            yield path
