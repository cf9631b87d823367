"""Means over splits with their confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CONFIDENCE = 0.95
FEWEST_SPLITS = (
    4  # below, a t-interval is too wide to say anything: the range of the values is shown instead
)
ACCURACY = (0.0, 1.0)  # the ends of an accuracy, which no interval passes
DIFFERENCE = (-1.0, 1.0)  # of a difference of two accuracies
NOT_NEGATIVE = (0.0, math.inf)  # the ends of a dimension, a sum of squares, a time
UNBOUNDED = (-math.inf, math.inf)
VALIDATION = "best_val_accuracy"  # of the weights, or the classifier, that were tested
DRAWS_AND_IMAGES, DRAWS, IMAGES = "draws and images", "draws", "images"
OVER = (DRAWS_AND_IMAGES, DRAWS, IMAGES)  # what an interval of a mean over splits covers
COUNTS = ("splits", "networks", "repeats", "seeds")  # columns that say how many values a mean is of


@dataclass(frozen=True)
class MeanEstimate:
    """Mean over n splits.

    sd, half_width, low and high are None for n = 1: one split shows no spread.

    sd           standard deviation of the sample (n − 1)
    half_width   of the confidence interval by Student's t: t(n − 1) · sd / √n
    low, high    its ends, clipped to `bounds`
    lowest, highest   the smallest and the largest of the values
    """

    n: int
    mean: float
    sd: float | None
    half_width: float | None
    lowest: float
    highest: float
    bounds: tuple[float, float] = UNBOUNDED

    @property
    def low(self) -> float | None:
        """Return the lower end of the interval; None for n = 1."""
        return None if self.half_width is None else max(self.bounds[0], self.mean - self.half_width)

    @property
    def high(self) -> float | None:
        """Return the upper end of the interval; None for n = 1."""
        return None if self.half_width is None else min(self.bounds[1], self.mean + self.half_width)


def estimate(
    values: Iterable[float],
    confidence: float = CONFIDENCE,
    *,
    bounds: tuple[float, float] = UNBOUNDED,
) -> MeanEstimate | None:
    """Compute mean and t-interval of finite numbers; None if there is none.

    Raises ValueError if one is not finite.

    bounds   what the number can be at all: the ends of the interval are clipped to it

    >>> estimate([0.5, 0.7]).mean
    0.6
    >>> estimate([0.5]).half_width is None
    True
    """
    numbers = [float(v) for v in values]
    if not all(math.isfinite(v) for v in numbers):
        raise ValueError("a diverged trial has no score: leave it out and count it")
    n = len(numbers)
    if n == 0:
        return None
    mean = math.fsum(numbers) / n
    if n == 1:
        return MeanEstimate(1, mean, None, None, mean, mean, bounds)
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in numbers) / (n - 1))
    half_width = student_t(n - 1, confidence) * sd / math.sqrt(n)
    return MeanEstimate(n, mean, sd, half_width, min(numbers), max(numbers), bounds)


@dataclass(frozen=True)
class MeanInterval:
    """95 % interval of a mean over splits that covers more than the draws of training images.

    over        "draws and images", or "images" for one draw
    low, high   its ends
    half_width  before the ends were clipped to what the mean can be
    draws_df    degrees of freedom of the variance over draws: their number − 1, and those that
                other shots lend; 0 for one draw
    """

    over: str
    low: float
    high: float
    half_width: float
    draws_df: float

    @property
    def columns(self) -> dict[str, float | str]:
        """Return the columns of a table row."""
        ends = {"ci": self.half_width, "low": self.low, "high": self.high}
        return {**ends, "over": self.over, "draws_df": self.draws_df}


def with_interval(
    row: Mapping[str, float | None], count: int, interval: MeanInterval | None
) -> dict[str, float | str | None]:
    """Return a row of `accuracy_columns` of `count` draws with its interval.

    The columns ci, low, high and over are those of `interval`; without one, those of Student's t
    over draws, which the columns draws_ci, draws_low and draws_high always are.
    """
    of_draws = {f"draws_{name}": row[name] for name in ("ci", "low", "high")}
    if interval is not None:
        return {**row, **of_draws, **interval.columns}
    over = DRAWS if row["ci"] is not None else ""
    return {**row, **of_draws, "over": over, "draws_df": max(0, count - 1)}


def accuracy_columns(values: Iterable[float]) -> dict[str, float | None]:
    """Return the columns of a table row for accuracies, as `mean_columns`."""
    return mean_columns(values, ACCURACY)


def mean_columns(values: Iterable[float], bounds: tuple[float, float]) -> dict[str, float | None]:
    """Return the columns of a table row for the mean of values within these bounds.

    mean, sd, ci (half width), low, high, lowest, highest.
    """
    mean = estimate(values, bounds=bounds)
    if mean is None:
        return dict.fromkeys(("mean", "sd", "ci", "low", "high", "lowest", "highest"))
    return {
        "mean": mean.mean,
        "sd": mean.sd,
        "ci": mean.half_width,
        "low": mean.low,
        "high": mean.high,
        "lowest": mean.lowest,
        "highest": mean.highest,
    }


def count_of(row: Mapping[str, Any]) -> int | None:
    """Return how many values the mean of a table row is of; None where it is not recorded."""
    return next((row[name] for name in COUNTS if row.get(name) is not None), None)


def is_range(row: Mapping[str, object]) -> bool:
    """Return whether a row is shown with the range of its values.

    They are too few for an interval: fewer than 4 values, whose variance nothing else is known of.
    """
    count = count_of(row)
    if count is None or count < 2 or row.get("lowest") is None:
        return False
    known = row.get("draws_df")
    df = known if isinstance(known, (int, float)) else count - 1
    return df < FEWEST_SPLITS - 1


def over_of(rows: Iterable[Mapping[str, object]]) -> list[str]:
    """Return what the intervals that these rows are shown with are over, each once."""
    shown = {row.get("over") for row in rows if not is_range(row)}
    return [name for name in OVER if name in shown]


def over_words(over: Sequence[str]) -> str:
    """Return in words what intervals are over: "draws and images, or draws alone"."""
    if len(over) < 2:
        return "".join(over)
    return ", or ".join(f"{name} alone" if name == DRAWS else name for name in over)


def drawn_ends(row: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the ends drawn around a row's mean: its interval, or the range of fewer than 4 values.

    None for one.
    """
    if is_range(row):
        return row["lowest"], row["highest"]
    if row.get("low") is None or row.get("high") is None:
        return None
    return row["low"], row["high"]


def ends_of(row: Mapping[str, object], name: str, count: int | None) -> tuple[float, float] | None:
    """Return the ends drawn around a mean of `count` values.

    From the columns <name>_low, _high, _lowest and _highest.
    """
    named = {end: row.get(f"{name}_{end}") for end in ("low", "high", "lowest", "highest")}
    return drawn_ends({"repeats": count, **named})


def binomial_interval(share: float, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return Wilson's interval of a share that was seen in n images.

    Wilson 1927, J. Am. Stat. Assoc. 22.
    """
    from scipy.special import ndtri

    z = float(ndtri(0.5 + confidence / 2))
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def student_t(degrees: int, confidence: float = CONFIDENCE) -> float:
    """Return the half-width factor t: P(|T| ≤ t) = confidence for Student's T.

    Of these degrees of freedom.
    """
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.5 + confidence / 2))


def by_shots(
    trials: Sequence[Mapping[str, Any]],
    score: str = "test_accuracy",
    times: Sequence[str] = ("train_s", "total_s"),
    *,
    intervals: Mapping[int, MeanInterval] | None = None,
) -> list[dict[str, Any]]:
    """Build one row for each number of shots, ascending, over the splits that have a score.

    trials   mappings with "shots" and, where the trial ended well, `score` (a fraction) and `times`
             (seconds)
    intervals  shots → interval over draws and images; without one a row has Student's over draws
    →        {"shots", "splits", "missing", "val" (mean validation accuracy), "mean", "sd", "ci"
             (half width), "low", "high", "over" (what the interval covers), "draws_ci",
             "draws_low", "draws_high" (Student's t over draws), "draws_df", "lowest", "highest",
             <time>: mean seconds}
             missing counts trials without a score; what is unknown is None
    """
    rows = []
    for shots in sorted({t["shots"] for t in trials}):
        selected = [t for t in trials if t["shots"] == shots]
        scored = [t for t in selected if t.get(score) is not None and math.isfinite(t[score])]
        row: dict[str, Any] = {
            "shots": shots,
            "splits": len(scored),
            "missing": len(selected) - len(scored),
        }
        chosen = estimate(t[VALIDATION] for t in selected if t.get(VALIDATION) is not None)
        row["val"] = chosen and chosen.mean
        columns = accuracy_columns(t[score] for t in scored)
        row |= with_interval(columns, len(scored), (intervals or {}).get(shots))
        for name in times:
            spent = estimate(t[name] for t in scored if t.get(name) is not None)
            row[name] = spent and spent.mean
        rows.append(row)
    return rows


@dataclass(frozen=True)
class Value:
    """Number with its range (None: unknown); spread names the kind of range."""

    mean: float
    low: float | None = None
    high: float | None = None
    spread: str = ""


def distinct(names: Iterable[str]) -> list[str]:
    """Return each item once, in order."""
    return list(dict.fromkeys(names))
