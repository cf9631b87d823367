"""Sentences of a decision: what to use, how sure that is, what it costs, what would change it.

One function a sentence, each from a `ComparisonOutcome`. A point is a percentage point of mean
per-class accuracy.
"""

from __future__ import annotations

import math

from ...errors import counted
from ...metrics.paired import DECIDED, EQUIVALENT, ONE_DRAW, Verdict
from ...metrics.scores_audit import FEWEST_SOURCES
from ...plots import tables
from .decision import MOST_DIVERGED, NO_DECISION, ComparisonOutcome
from .evidence import FEATURES, TUNING
from .sources import sides_with_audit

OTHER = {FEATURES: TUNING, TUNING: FEATURES}
FEWEST_SPLITS = 4  # below, the draws are warned of
FEWEST_IMAGES = 10  # of a class, tested
FEW_SPLITS = 10  # below, "less than 1 in 100" is not chances
WORTH_IT = 1.1  # ratio of costs that is told as one


def answer(outcome: ComparisonOutcome) -> str:
    """Return which side to use, with the difference and its interval."""
    verdict, side = outcome.headline, outcome.recommended
    if outcome.verdict == NO_DECISION or verdict is None:
        pairs = outcome.pairs
        return (
            f"No decision: {pairs.diverged} of {pairs.tried} fine-tunings at {images(outcome.at)} "
            f"diverged or failed (more than {100 * MOST_DIVERGED:.0f} % must not)."
        )
    if outcome.verdict == ONE_DRAW:
        return (
            f"Take {side}, for its cost: one draw of {images(outcome.at)} is too little to "
            f"compare ({_ahead(verdict)})."
        )
    if outcome.verdict == EQUIVALENT:
        return (
            f"Take {side}, for its cost: at {images(outcome.at)} the two are within "
            f"{_points(outcome.margin)} of each other ({_ahead(verdict)}; {_interval(verdict)})."
        )
    if outcome.verdict == DECIDED:
        verb = {FEATURES: "Use feature extraction", TUNING: "Fine-tune"}[side]
        champion = outcome.champions[side]
        shown = f" ({champion})" if side == FEATURES else f" {champion}"
        better, other = _mean(outcome, side), _mean(outcome, OTHER[side])
        return (
            f"{verb}{shown}: at {images(outcome.at)} it classifies {_points(abs(verdict.mean))} "
            f"more rightly than {OTHER[side]} ({better} against {other}; {_interval(verdict)})."
        )
    return (
        f"Take {side}, for its cost: at {images(outcome.at)} no difference was found "
        f"({_ahead(verdict)}; {_interval(verdict)})."
    )


def certainty(outcome: ComparisonOutcome) -> str:
    """Return how likely the choice is wrong."""
    verdict = outcome.headline
    if verdict is None or outcome.verdict == NO_DECISION:
        return "How sure: nothing is claimed."
    if verdict.p_wrong is None:
        return "How much the choice of training images matters is unknown: there is one draw."
    if outcome.verdict == DECIDED:
        other = OTHER[outcome.recommended]
        return f"The chance that {other} is really the better one is {chance(verdict)}."
    if outcome.verdict == EQUIVALENT:
        return (
            f"The chance that they are further apart than {_points(outcome.margin)} is at most "
            f"{100 * float(verdict.tost_p or 0.0):.0f} %."
        )
    loss = verdict.regret
    chances = f"which of the two is better is {chance(verdict)}"
    if loss is None or math.isinf(loss):
        return f"How sure: {chances}."
    at_most = loss + (abs(verdict.mean) if _is_against(outcome) else 0.0)
    return (
        f"Taking it loses about {_points(at_most)} on average; that the order is really the other "
        f"one: {chance(verdict)}."
    )


def chance(verdict: Verdict) -> str:
    """Return the probability of being wrong as a class of chances, not as digits."""
    p = verdict.p_wrong
    if p is None:
        return "unknown"
    if p < 0.01 and verdict.splits >= FEW_SPLITS:
        return "less than 1 in 100"
    if p < 0.05:
        return "less than 1 in 20"
    if p <= 0.25:
        return f"about 1 in {round(1.0 / p)}"
    return "little better than a coin"


def cost(outcome: ComparisonOutcome) -> str:
    """Return what a training of each side costs, the cheaper one first, and what using it does."""
    known = {side: row.seconds for side, row in outcome.costs.items() if row.seconds is not None}
    if len(known) < len(OTHER):
        return "What it costs cannot be told: a side has no finished training."
    first, second = sorted(known, key=lambda side: known[side])
    text = (
        f"A training takes {tables.short_seconds(known[first])} by {first} and "
        f"{tables.short_seconds(known[second])} by {second}"
    )
    ratio = known[second] / known[first] if known[first] > 0.0 else math.inf
    if math.isfinite(ratio) and ratio >= WORTH_IT:
        text += f", {ratio:.0f} times as long" if ratio >= 2.0 else f", {ratio:.1f} times as long"
    energy = [outcome.costs[side].whole["energy_j"] for side in (first, second)]
    joules = [row.value for row in energy if row.value is not None]
    if len(joules) == len(energy):
        sources = ", ".join(dict.fromkeys(row.source for row in energy))
        text += "; " + " and ".join(f"{value:.3g} J" for value in joules) + f" ({sources})"
    else:
        text += "; energy is unknown"
    return text + "." + _use(outcome, first, second)


def _use(outcome: ComparisonOutcome, first: str, second: str) -> str:
    """Return what labelling an image takes, as a sentence of its own; "" where it is unknown."""
    costs = [outcome.costs[side].use for side in (first, second)]
    times = [cost.image_s for cost in costs if cost is not None and cost.image_s is not None]
    if len(times) < len(costs):
        return ""
    if max(times) < WORTH_IT * min(times):
        return f" Labelling an image afterwards takes {tables.short_seconds(times[0])} with either."
    shown = [tables.short_seconds(seconds) for seconds in times]
    return f" Labelling an image afterwards takes {shown[0]} by {first}, {shown[1]} by {second}."


def change(outcome: ComparisonOutcome) -> str:
    """Return what would change or settle the decision."""
    verdict = outcome.headline
    if verdict is None or outcome.verdict == NO_DECISION:
        return "Try a smaller --learning-rate."
    if outcome.verdict == ONE_DRAW:
        return "More draws would tell: --splits 5 or more."
    if outcome.verdict in (DECIDED, EQUIVALENT):
        return _break_even(outcome)
    return _what_settles(outcome, verdict)


def _what_settles(outcome: ComparisonOutcome, verdict: Verdict) -> str:
    """Return what would decide an open question."""
    settles = verdict.settles
    if settles.splits is not None:
        more = settles.splits - verdict.splits
        seconds = more * (outcome.costs[TUNING].seconds or 0.0)
        return (
            f"About {more} more draws would settle it if the difference stays "
            f"(--splits {settles.splits}, {tables.seconds(seconds)} of fine-tuning)."
        )
    if settles.images is not None:
        return (
            f"More draws cannot settle it: about {settles.images} test images are needed, there "
            f"are {verdict.images}."
        )
    if settles.pool or verdict.pool_share > 0.0:
        return (
            "More draws cannot settle it: they come from the same "
            f"{counted(outcome.data.pool, 'image')} per "
            "class; more labelled images could."
        )
    return "No number of draws can settle it: the difference is too small."


def _break_even(outcome: ComparisonOutcome) -> str:
    even = outcome.break_even
    if not even.is_known:
        return "From where on the other one is better cannot be told from these trials."
    if even.low is None and even.high == even.smallest:
        return (
            f"It holds for every number of images per class that was tried, from {even.smallest}."
        )
    where = f"{even.words} {_noun(even.words)} per class"
    if not even.is_sure:
        return f"If the two change places, it is {where}."
    return f"The two change places {where}."


def break_even(outcome: ComparisonOutcome) -> str:
    """Return the break-even in words, with the fitted crossing if there is one."""
    even = outcome.break_even
    if not even.is_known:
        return "No break-even can be told from these trials."
    start = "Break-even" if even.is_sure else "Break-even, if there is one"
    text = f"{start}: {even.words} training {_noun(even.words)} per class."
    if even.estimate is not None and even.fieller is not None:
        low, high = even.fieller
        text += f" A line through the differences crosses zero at {even.estimate:.1f} "
        text += f"({low:.1f} to {high:.1f})."
    return text


def scores(outcome: ComparisonOutcome) -> list[str]:
    """Return what the scores of the sources were worth here, or why there are none."""
    sources = outcome.sources
    if sources is None:
        if outcome.share is None:
            return ["Finished studies were compared: no scores of sources were computed."]
        return [
            "Scores rank sources, and fewer than two were scored: there are none. "
            "tlx scores --sources A,B ranks several without training."
        ]
    lines = []
    for side in sides_with_audit(sources):
        audit = sources.audits[side]
        known = [row for row in audit.rows.values() if row.regret is not None]
        right = sum(row.regret == 0.0 for row in known)
        lines.append(
            f"{right} of {len(known)} scores and nulls put first the source that was best for "
            f"{side}; a source drawn at random loses {_points(audit.random_regret)}."
        )
    if all(audit.has_too_few_sources for audit in sources.audits.values()):
        lines.append(
            f"{counted(len(sources.sources), 'source')} are too few for a correlation: "
            f"{FEWEST_SOURCES} are needed."
        )
    return lines


def _noun(words: str) -> str:
    """Return the noun that belongs to a number in words."""
    return "image" if words.endswith(" 1") else "images"


def warnings(outcome: ComparisonOutcome) -> list[str]:
    """Return what a reader must bear in mind."""
    verdict = outcome.headline
    lines = [
        f"{tried.dropped} of {counted(tried.tried, 'split')} "
        f"at {images(tried.shots)} are left out: "
        "a training diverged or failed"
        for tried in outcome.data.pairs
        if tried.dropped
    ]
    lines += [row.words for row in outcome.failed_arms]
    if verdict is not None and verdict.pool_share > 0.5:
        lines.append(
            "the draws are nearly the same images: each takes "
            f"{100 * verdict.pool_share:.0f} % of those there are, more draws cannot help"
        )
    if verdict is not None and not verdict.images:
        lines.append(
            "trials without predictions.npy: intervals do not cover other test images. Delete them "
            "from the store and run the studies again"
        )
    if verdict is not None and verdict.lone_classes:
        lines.append(
            f"{verdict.lone_classes} classes have one test image: how much it matters which is "
            "not counted"
        )
    draws = [verdict.shots for verdict in outcome.verdicts if verdict.splits < FEWEST_SPLITS]
    if draws:
        lines.append(
            f"fewer than {FEWEST_SPLITS} splits at {images(*draws)}: "
            "how much the draw matters is hardly known"
        )
    few = _fewest_test_images(outcome)
    if few is not None and few < FEWEST_IMAGES:
        lines.append(
            f"fewer than {FEWEST_IMAGES} images of a class are tested ({few}): its accuracy is "
            "coarse"
        )
    return lines


def _fewest_test_images(outcome: ComparisonOutcome) -> int | None:
    if outcome.tables is None:
        return None
    import numpy as np

    return int(np.unique(outcome.tables.classes, return_counts=True)[1].min())


def _is_against(outcome: ComparisonOutcome) -> bool:
    """Return whether the recommended side is the one that was worse, for its cost."""
    verdict = outcome.headline
    if verdict is None:
        return False
    ahead = TUNING if verdict.mean > 0 else FEATURES
    return verdict.mean != 0 and ahead != outcome.recommended


def _mean(outcome: ComparisonOutcome, side: str) -> str:
    row = next(row for row in outcome.curves[side] if row["shots"] == outcome.at)
    return f"{100 * row['mean']:.1f} %"


def _ahead(verdict: Verdict) -> str:
    if verdict.mean == 0:
        return "both are level"
    side = TUNING if verdict.mean > 0 else FEATURES
    return f"{side} {_points(abs(verdict.mean))} ahead"


def _interval(verdict: Verdict) -> str:
    """Return the 95 % interval of the difference, towards the side that is ahead."""
    if math.isnan(verdict.low):
        return "no interval"
    low, high = verdict.low, verdict.high
    if verdict.mean < 0:
        low, high = -high, -low
    return f"95 % interval {100 * low:.1f} to {100 * high:.1f} points".replace("-", "−")


def _points(share: float) -> str:
    points = f"{100 * share:.1f}"
    return "1 point" if points == "1.0" else f"{points} points"


def images(*shots: int) -> str:
    """Return these numbers of training images in words."""
    if shots == (1,):
        return "1 image per class"
    return f"{', '.join(map(str, shots))} images per class"


def section(outcome: ComparisonOutcome) -> list[str]:
    """Return the four sentences of the decision, in order."""
    return [answer(outcome), certainty(outcome), cost(outcome), change(outcome)]
