"""Final tests of a search: the winner against the defaults, which shows whether it helped."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ...lab.tuning.records import COMPLETE
from ...plots import statistics, tables
from ...result import Result

if TYPE_CHECKING:
    from .run import SearchReport


def by_split(results: Iterable[Result]) -> dict[int, float]:
    """Map each split to its test accuracy (fraction); diverged splits have none."""
    return {
        r.spec["split"]: r.scores["test_accuracy"] for r in results if "test_accuracy" in r.scores
    }


def differences(report: SearchReport) -> list[float]:
    """Compute test accuracy of the winner minus that of the defaults, on each shared split."""
    tuned, default = by_split(report.final), by_split(report.reference)
    return [tuned[split] - default[split] for split in tuned if split in default]


def metrics(report: SearchReport) -> dict[str, float]:
    """Return the parent run's metrics about the defaults.

    Validation and test accuracy, and the winner's gain on test.
    """
    result: dict[str, float] = {}
    if report.defaults is not None and report.defaults.state == COMPLETE:
        result["defaults_val_accuracy"] = report.defaults.objectives[0]
    result |= _named(
        "defaults_test_accuracy", statistics.estimate(by_split(report.reference).values())
    )
    return result | _named(
        "tuned_minus_defaults_test_accuracy", statistics.estimate(differences(report))
    )


def _named(name: str, estimate: statistics.MeanEstimate | None) -> dict[str, float]:
    if estimate is None:
        return {}
    result = {name: estimate.mean}
    if estimate.low is not None and estimate.high is not None:
        result |= {f"{name}_ci95_low": estimate.low, f"{name}_ci95_high": estimate.high}
    return result


def record(report: SearchReport) -> dict[str, Any] | None:
    """Return the defaults for best_configuration.json; None where the search leaves them out."""
    if report.defaults is None:
        return None
    return {"trial": report.defaults.number, "values": report.defaults.values, **metrics(report)}


def lines(report: SearchReport) -> list[str]:
    """Format the test accuracy of the winner, of the defaults, and their difference."""
    if not report.final or report.best is None:
        return []
    result = [_line(f"on test, trial {report.best.number}", report.final)]
    if report.defaults is None:
        return [*result, "the defaults are outside the searched space, and were not tested"]
    if report.defaults.number == report.best.number:
        return [*result, "trial 0, the defaults, is the winner"]
    if not report.reference:
        error = f": {report.defaults.error}" if report.defaults.error else ""
        return [*result, f"trial 0, the defaults, {report.defaults.state}{error}"]
    result.append(_line("on test, trial 0 (the defaults)", report.reference))
    gain = statistics.estimate(differences(report))
    if gain is not None:
        points = f"{100 * gain.mean:+.1f} points"
        interval = "" if gain.half_width is None else f" ± {100 * gain.half_width:.1f}"
        verdict = "" if gain.mean > 0 else ": tuning did not help on test"
        result.append(f"tuned minus defaults, on the same splits: {points}{interval}{verdict}")
    return result


def _line(title: str, results: Iterable[Result]) -> str:
    scores = by_split(results)
    estimate = statistics.estimate(scores.values())
    mean = tables.percent(None if estimate is None else estimate.mean)
    half = None if estimate is None else estimate.half_width
    interval = "" if half is None else f" {tables.plus_minus(half)}"
    return f"{title}: {mean}{interval} (mean per class, 95 % CI over {len(scores)} splits)"
