"""Warnings about results: chance level, unfinished training, too few images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import counted
from ..plots import statistics
from ..plots.statistics import MeanInterval
from ..result import FINISHED, Result

FEWEST_IMAGES = (
    10  # test images of a class: below, one image moves its accuracy by more than ten points
)
MUCH_OVERLAP = 0.5  # of the training images of two draws: their accuracies hardly differ
LAST_EPOCHS = 2  # of those allowed: a best epoch among them says that training was not over
ONE_DRAW = "how much the choice of training images matters is unknown"
SHOWN = 6  # places that a warning names
INTERVALS_COVER = (
    "the 95 % CI covers the expected accuracy on this test set (.93 to .95 of the time); for new "
    "images of the kind it "
    "covers .93, .75 and .41 at 1, 10 and 50 shots with 10 test images a class"
)
COVER = {  # what an interval is over → what it covers
    statistics.DRAWS_AND_IMAGES: (
        "the 95 % CI is over draws and images: it covers the expected accuracy on new images of "
        "the kind, with new training images of the kind (.91 to .96 of the time)"
    ),
    statistics.DRAWS: INTERVALS_COVER,
    statistics.IMAGES: (
        "the 95 % CI of one draw is over images alone: it covers the accuracy of this trained "
        "network on new images of the kind"
    ),
}

Groups = Mapping[str, Sequence[Result]]


@dataclass(frozen=True)
class Warned:
    """Wording of one study's warnings.

    What a mean is taken over, and the option that allows more epochs.
    """

    over: str = "splits"
    epochs_option: str = "--epochs"


def result_warnings(
    groups: Groups,
    words: Warned | None = None,
    intervals: Mapping[str, MeanInterval] | None = None,
) -> list[str]:
    """Return one sentence for each caveat of these accuracies; [] if there is none.

    groups     name of a mean ("5 shots", "A3B") → the results that it is taken over
    intervals  of the means that have one over draws and images
    """
    words, intervals = words or Warned(), intervals or {}
    finished = {
        name: [r for r in members if r.status == FINISHED] for name, members in groups.items()
    }
    finished = {name: members for name, members in finished.items() if members}
    warnings = [
        _at_chance(finished, intervals),
        _unconverged(finished, words),
        _few_values(finished, words, intervals),
        _few_images(finished),
        _large_batch(finished),
    ]
    return [sentence for sentence in warnings if sentence]


def grouped(results: Iterable[Result], name: Callable[[Result], str]) -> dict[str, list[Result]]:
    """Return results by the name of the mean that they belong to, in their order."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(name(result), []).append(result)
    return groups


def lines(
    warnings: Sequence[str], *, intervals: bool = True, over: Sequence[str] = (statistics.DRAWS,)
) -> list[str]:
    """Return the last lines of a table: what its intervals cover, and the warnings.

    over  what the intervals are over, each once
    """
    cover = [COVER[name] for name in over if name] if intervals else []
    return cover + [f"warning: {sentence}" for sentence in warnings]


def tested(groups: Groups) -> bool:
    """Return whether any result has a test accuracy."""
    return any("test_accuracy" in r.scores for members in groups.values() for r in members)


# ---------------------------------------------------------------- chance


def _at_chance(groups: Groups, intervals: Mapping[str, MeanInterval]) -> str:
    """Report which means are not distinguishable from guessing."""
    lost, chance = [], set()
    for name, members in groups.items():
        known = intervals.get(name)
        interval = (known.low, known.high) if known is not None else accuracy_interval(members)
        level = chance_level(members)
        if interval is None or level is None or interval[0] > level:
            continue
        chance.add(level)
        low, high = (100 * end for end in interval)
        lost.append(f"{name} ({low:.1f} to {high:.1f} %)" if name else f"{low:.1f} to {high:.1f} %")
    if not lost:
        return ""
    level_words = " or ".join(f"{100 * level:.1f} %" for level in sorted(chance))
    return f"test accuracy is not above chance ({level_words}): {_some(lost)}"


def chance_level(results: Sequence[Result]) -> float | None:
    """Return the mean per-class accuracy of guessing, 1 / classes.

    None where the classes are not known.
    """
    counts = [len(r.details["classes"]) for r in results if r.details.get("classes")]
    return 1 / counts[0] if counts else None


def accuracy_interval(results: Sequence[Result]) -> tuple[float, float] | None:
    """Return the 95 % interval of a mean test accuracy from the accuracies alone.

    Student's over 4 values or more, else Wilson's of one test set.
    """
    values = [r.scores["test_accuracy"] for r in results if "test_accuracy" in r.scores]
    mean = statistics.estimate(values, bounds=statistics.ACCURACY)
    if mean is None:
        return None
    if mean.n >= statistics.FEWEST_SPLITS and mean.low is not None and mean.high is not None:
        return mean.low, mean.high
    images = [count for r in results if (count := test_images(r))]
    return (
        statistics.binomial_interval(min(1.0, max(0.0, mean.mean)), images[0]) if images else None
    )


# ---------------------------------------------------------------- training


def _unconverged(groups: Groups, words: Warned) -> str:
    """Report that most trainings were best at their end, and so were cut off."""
    ends = [
        at_its_end
        for members in groups.values()
        for r in members
        if (at_its_end := best_at_end(r)) is not None
    ]
    if not ends or 2 * sum(ends) <= len(ends):
        return ""
    return (
        f"the best epoch is among the last {LAST_EPOCHS} allowed in {sum(ends)} of "
        f"{counted(len(ends), 'trial')}: training was not over; raise {words.epochs_option}"
    )


def best_at_end(result: Result) -> bool | None:
    """Return whether the best epoch is one of the last two that were allowed.

    None where nothing was trained.
    """
    allowed, best = result.spec.get("epochs"), _best_epoch(result)
    return None if allowed is None or best is None else best >= allowed - LAST_EPOCHS


def _best_epoch(result: Result) -> int | None:
    """Return the first epoch of the best validation accuracy, from 0."""
    best = result.details.get("best_epoch")
    if best is not None:
        return int(best)
    history = [row.get("val_accuracy") for row in result.details.get("history") or []]
    if history and None not in history:
        return history.index(max(history))
    moments = [
        row for row in result.details.get("moments") or [] if row.get("val_accuracy") is not None
    ]
    if not moments or "ended" not in result.details:
        return None
    tag = max(moments, key=lambda row: row["val_accuracy"])[
        "tag"
    ]  # "3": after 3 epochs, "0_10": within the first
    return max(0, int(str(tag).partition("_")[0]) - 1)


def _large_batch(groups: Groups) -> str:
    """Report that an epoch is a single step on fewer rows than the batch size."""
    sizes = set()
    for members in groups.values():
        for r in members:
            batch, rows = r.spec.get("batch_size"), training_rows(r)
            if batch and rows and batch > rows:
                sizes.add((batch, rows))
    if not sizes:
        return ""
    batch, rows = max(sizes, key=lambda pair: pair[0] / pair[1])
    return (
        f"the batch size ({batch}) is larger than the training set ({rows} rows): an epoch is one "
        f"step; "
        f"lower --batch-size"
    )


def training_rows(result: Result) -> int | None:
    """Return the rows of an epoch: training images times their crops; None if unknown."""
    images = result.details.get("train_images") or (result.details.get("images") or {}).get("train")
    return None if not images else int(images) * int(result.details.get("crops") or 1)


# ---------------------------------------------------------------- counts


def _few_values(groups: Groups, words: Warned, intervals: Mapping[str, MeanInterval]) -> str:
    """Report which means are of fewer than 4 values, and what is shown around them."""
    counts = {
        name: sum("test_accuracy" in r.scores for r in members) for name, members in groups.items()
    }
    few = sorted({n for n in counts.values() if 0 < n < statistics.FEWEST_SPLITS})
    if not few:
        return ""
    number = f"n = {few[0]}" + (f" to {few[-1]}" if len(few) > 1 else "")
    affected = [name for name, n in counts.items() if n in few]
    borrowed = all(
        name in intervals and intervals[name].draws_df >= statistics.FEWEST_SPLITS - 1
        for name in affected
        if counts[name] > 1
    )
    if few == [1]:
        has_images = all(name in intervals for name in affected)
        shown = ONE_DRAW if has_images else "a single value has no spread"
    elif borrowed:
        shown = "how much the draw matters is told by the other shots too"
    else:
        shown = "their range is shown, not an interval"
    return f"fewer than {statistics.FEWEST_SPLITS} {words.over} ({number}): {shown}"


def _few_images(groups: Groups) -> str:
    """Report classes with too few test images for a meaningful accuracy."""
    worst: tuple[int, int, str] | None = None
    for members in groups.values():
        for r in members:
            if "test_accuracy" in r.scores and (few := few_test_images(r)) is not None:
                worst = max(worst or few, few, key=lambda row: row[0] / row[1])
    if worst is None:
        return ""
    count, of, smallest = worst
    return f"{count} of {of} test classes have fewer than {FEWEST_IMAGES} images ({smallest})"


def few_test_images(result: Result) -> tuple[int, int, str] | None:
    """Return how many test classes are small, of how many, and the smallest.

    None where none is.
    """
    counts, classes = test_counts(result), result.details.get("classes") or []
    if not classes:
        return None
    if counts is None:  # a result of an earlier version: the mean alone is known
        images, k = test_images(result), len(classes)
        return (1, k, f"{images} in all") if images and images < FEWEST_IMAGES * k else None
    small = [n for n in counts if n < FEWEST_IMAGES]
    if not small:
        return None
    at = counts.index(min(counts))
    return len(small), len(counts), f"{classes[at]}: {counts[at]}"


def test_counts(result: Result) -> list[int] | None:
    """Return the test images of each class; None where that is not known."""
    if result.details.get("test_counts"):
        return [int(n) for n in result.details["test_counts"]]
    if "test_accuracy" in result.scores and "confusion" in result.details:
        return [sum(row) for row in result.details["confusion"]]
    return None


def test_images(result: Result) -> int | None:
    """Return how many test images there are; None where that is not known."""
    counts = test_counts(result)
    if counts is not None:
        return sum(counts)
    details: Mapping[str, Any] = result.details
    return details.get("test_images") or (details.get("images") or {}).get("test")


def interval_warnings(
    reasons: Mapping[str, str],
    overlaps: Mapping[str, float],
    intervals: Mapping[str, MeanInterval],
) -> list[str]:
    """Return the caveats of intervals over draws and images.

    reasons    name of a mean → why it has no such interval
    overlaps   name of a mean → expected share of training images that two draws have in common
    intervals  name of a mean → its interval
    """
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    warnings = [
        f"the interval is over draws alone at {_some(names)}: {reason}"
        for reason, names in by_reason.items()
    ]
    alike = [name for name, overlap in overlaps.items() if overlap > MUCH_OVERLAP]
    if alike:
        warnings.append(
            f"draws share more than half of their training images at {_some(alike)}: more splits "
            "narrow the interval little, more labelled images do"
        )
    constant = [name for name, interval in intervals.items() if interval.half_width == 0.0]
    if constant:
        warnings.append(
            f"the interval has no width at {_some(constant)}: each class is all right or all wrong "
            "in every draw, and so few images show no rarer errors"
        )
    return warnings


def _some(names: Sequence[str]) -> str:
    """Return the first few of many names, comma-separated."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
