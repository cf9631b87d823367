"""Figures of the correlations of layer metrics with transfer performance, as files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ... import files


def correlated(
    correlations: Sequence[Mapping[str, Any]], out: Path, metrics: Sequence[str], form: str
) -> Iterator[Path]:
    """Write and draw the correlations of metrics with transfer performance.

    Of all models as lines over the layers, and as bars over all models, those of each source and
    those of each checkpoint, with a permutation baseline.
    """
    from .. import drawings
    from ..layer_metrics import figures as layer_metrics_figures
    from . import report as checkpoints_report
    from . import tables as checkpoints_tables

    yield from checkpoints_tables.write({checkpoints_tables.CORRELATIONS: correlations}, Path(out))
    targets = list(dict.fromkeys(row["target"] for row in correlations))
    for target in targets:
        rows = [
            {**row, "low": None, "high": None}
            for row in correlations
            if (row["target"], row["scope"]) == (target, "all")
        ]
        by_source = [
            max(abs(row["source_low"]), abs(row["source_high"]))
            for row in rows
            if row.get("source_low") is not None
        ]
        band = max(by_source or [row["fisher"] for row in rows], default=None)
        null_label = (
            "by chance (98 % of orders of sources)" if by_source else "by chance (Fisher, 95 %)"
        )
        suffix = f"_{target}" if len(targets) > 1 else ""
        path = Path(out) / f"transfer_correlation{suffix}.{form}"
        files.write_bytes(
            path,
            layer_metrics_figures.transfer_correlation(
                rows, band, f"Target {target}", form, null_label=null_label
            ),
        )
        yield path
    yield from drawings.write(
        Path(out), dict(checkpoints_report.spearman_figures(correlations, metrics)), form
    )
