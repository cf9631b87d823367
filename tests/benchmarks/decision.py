"""How often the intervals and verdicts of a comparison are right, replayed on recorded grids.

    python tests/benchmarks/decision.py coverage      intervals at 3, 5, 10 and 20 splits
    python tests/benchmarks/decision.py means         intervals of mean accuracies at 2 to 20 splits
    python tests/benchmarks/decision.py racing        splits where they shrink regret, against all
    python tests/benchmarks/decision.py arms          arms that are left out early, on validation
    python tests/benchmarks/decision.py speed         one analysis of 20 splits × 10,000 images

Grids of per-image predictions, fine-tuning and feature extraction on the same splits, are read from
$TLX_TEST_DATA/decision-grids. The whole grid is the truth; a replicate draws splits and images (50
a class) from it, with replacement.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tlx.metrics import best_arm, crossed
from tlx.metrics.paired import Contrast, Verdict, analyse, wrong_sign
from tlx.metrics.paired_race import FIRST_SPLITS, REGRET, next_split

DATA = Path(os.environ.get("TLX_TEST_DATA", Path(__file__).resolve().parents[3] / "shared/data"))
GRIDS = {"A": "digits", "B": "sign-digits"}
IMAGES_PER_CLASS = 50
LARGEST_POOL = 10**9  # the recorded grid is the truth: its splits count as independent
MOST_SPLITS = 20


@dataclass(frozen=True)
class Comparison:
    """Fine-tuning against one classifier: shots → differences (splits, images) and seconds."""

    name: str
    truth: np.ndarray
    tables: dict[int, np.ndarray]
    seconds: dict[int, float]

    @functools.cached_property
    def differences(self) -> dict[int, float]:
        """Return the true difference for each number of shots."""
        return {
            shots: crossed.components(table, self.truth).mean
            for shots, table in self.tables.items()
        }


def read_grid(name: str) -> list[Comparison]:
    """Return the comparisons of a recorded grid."""
    tuned, features = (
        _read(DATA / "decision-grids" / f"{name}_{side}.npz") for side in ("ft", "fe")
    )
    truth, tuned_rows, seconds = tuned
    comparisons = []
    for classifier in sorted({row[2] for row in features[1]}):
        tables = {}
        for shots in sorted({row[0] for row in tuned_rows}):
            both = [
                split
                for split in range(25)
                if (shots, split, "") in tuned_rows and (shots, split, classifier) in features[1]
            ]
            first = np.stack([tuned_rows[shots, split, ""] for split in both])
            second = np.stack([features[1][shots, split, classifier] for split in both])
            tables[shots] = (first == truth).astype(np.int8) - (second == truth).astype(np.int8)
        comparisons.append(Comparison(f"{GRIDS[name]} {classifier}", truth, tables, seconds))
    return comparisons


def _read(
    path: Path,
) -> tuple[np.ndarray, dict[tuple[int, int, str], np.ndarray], dict[int, float]]:
    """Return (truth, (shots, split, classifier) → predictions, shots → mean CPU seconds)."""
    with np.load(path, allow_pickle=False) as grid:
        rows, predictions, truth = json.loads(str(grid["rows"])), grid["dec"], grid["truth"]
    seconds = defaultdict(list)
    for shots, _, _, _, _, _, cpu_s, _ in rows:
        seconds[shots].append(cpu_s)
    named = {(row[0], row[1], row[2]): found for row, found in zip(rows, predictions, strict=True)}
    return truth, named, {shots: float(np.mean(values)) for shots, values in seconds.items()}


def draw_images(truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return 50 images of each class, with replacement."""
    return np.concatenate(
        [rng.choice(np.flatnonzero(truth == label), IMAGES_PER_CLASS) for label in np.unique(truth)]
    )


def contrast(table: np.ndarray, truth: np.ndarray, shots: int) -> Contrast:
    """Return the contrast of splits that count as independent."""
    return Contrast.of_differences(table, truth, shots=shots, pool=LARGEST_POOL)


# ---------------------------------------------------------------- coverage

Interval = tuple[float, float]


class Replicate(NamedTuple):
    """One replicate at one number of shots."""

    table: np.ndarray
    truth: np.ndarray
    verdict: Verdict
    rng: np.random.Generator


def crossed_moderated(replicate: Replicate) -> Interval:
    return replicate.verdict.low, replicate.verdict.high


def crossed_plain(replicate: Replicate) -> Interval:
    found = crossed.estimate(crossed.components(replicate.table, replicate.truth))
    assert found is not None
    return found.low, found.high


def splits_only(replicate: Replicate) -> Interval:
    scores = crossed.components(replicate.table, replicate.truth).by_split
    found = crossed.estimate(crossed.components_of_scores(scores))
    assert found is not None
    return found.low, found.high


def images_only(replicate: Replicate) -> Interval:
    found = crossed.estimate(
        crossed.components(replicate.table.mean(axis=0, keepdims=True), replicate.truth)
    )
    assert found is not None
    return found.low, found.high


def bootstrap_of_splits(replicate: Replicate, rounds: int = 400) -> Interval:
    scores = crossed.components(replicate.table, replicate.truth).by_split
    drawn = replicate.rng.choice(scores, (rounds, len(scores))).mean(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


METHODS: dict[str, Callable[[Replicate], Interval]] = {
    "crossed t, moderated": crossed_moderated,
    "crossed t": crossed_plain,
    "paired t over splits": splits_only,
    "bootstrap of splits": bootstrap_of_splits,
    "images only, mean of splits": images_only,
}


def replicates(
    comparison: Comparison, splits: int, rounds: int, rng: np.random.Generator
) -> Iterator[dict[int, Replicate]]:
    """Yield replicates: shots → table, truth, verdict."""
    for _ in range(rounds):
        images = draw_images(comparison.truth, rng)
        truth = comparison.truth[images]
        tables = {
            shots: table[rng.integers(0, len(table), splits)][:, images]
            for shots, table in comparison.tables.items()
        }
        verdicts = analyse([contrast(table, truth, k) for k, table in tables.items()])
        yield {v.shots: Replicate(tables[v.shots], truth, v, rng) for v in verdicts}


def coverage(rounds: int, seed: int) -> None:
    """Print the share of 95 % intervals that hold the truth, and wrong signs where few are said."""
    for grid, title in GRIDS.items():
        comparisons = read_grid(grid)
        cells = sum(len(comparison.tables) for comparison in comparisons)
        print(f"{title}: {cells} cells x {rounds} replicates")
        for splits in (3, 5, 10, 20):
            rng = np.random.default_rng(seed)
            held: dict[str, list[bool]] = defaultdict(list)
            stated, wrong = [], []
            for comparison in comparisons:
                for replicate in replicates(comparison, splits, rounds, rng):
                    for shots, drawn in replicate.items():
                        target = comparison.differences[shots]
                        for name, method in METHODS.items():
                            low, high = method(drawn)
                            held[name].append(low <= target <= high)
                        p_wrong = drawn.verdict.p_wrong
                        if p_wrong is not None and p_wrong < 0.05:
                            stated.append(p_wrong)
                            wrong.append(drawn.verdict.mean * target < 0)
            shares = "  ".join(f"{name} {np.mean(hits):.3f}" for name, hits in held.items())
            print(
                f"  m = {splits:2d}  {shares}  stated {np.mean(stated):.3f} "
                f"-> wrong {np.mean(wrong):.3f}"
            )


# ---------------------------------------------------------------- means


def read_means(name: str) -> Iterator[tuple[str, np.ndarray, dict[int, np.ndarray]]]:
    """Yield (method, truth, shots → right or wrong, (splits, images)) of a recorded grid."""
    for side in ("ft", "fe"):
        truth, rows, _ = _read(DATA / "decision-grids" / f"{name}_{side}.npz")
        for classifier in sorted({key[2] for key in rows}):
            tables = defaultdict(list)
            for (shots, _, method), predicted in sorted(rows.items()):
                if method == classifier:
                    tables[shots].append((predicted == truth).astype(np.int8))
            stacked = {shots: np.stack(table) for shots, table in tables.items()}
            yield classifier or "fine-tuning", truth, stacked


MEANS: dict[str, Callable[[dict[int, crossed.Components]], dict[int, crossed.Estimate | None]]] = {
    "crossed t, moderated": lambda parts: {
        shots: found for shots, (found, _) in crossed.estimates_of_means(parts).items()
    },
    "crossed t": lambda parts: {shots: crossed.estimate(own) for shots, own in parts.items()},
    "t over splits": lambda parts: {
        shots: crossed.estimate(crossed.components_of_scores(own.by_split))
        for shots, own in parts.items()
    },
}


def means(rounds: int, seed: int) -> None:
    """Print the share of 95 % intervals of mean accuracies that hold the truth.

    After each its median half width in points.
    """
    for grid, title in GRIDS.items():
        methods = list(read_means(grid))
        cells = sum(len(tables) for _, _, tables in methods)
        print(f"{title}: {cells} cells x {rounds} replicates")
        for splits in (2, 3, 5, 10, 20):
            rng = np.random.default_rng(seed)
            held: dict[str, list[bool]] = defaultdict(list)
            widths: dict[str, list[float]] = defaultdict(list)
            for _, truth, tables in methods:
                target = {k: crossed.components(table, truth).mean for k, table in tables.items()}
                for _ in range(rounds):
                    images = draw_images(truth, rng)
                    parts = {
                        shots: crossed.components(
                            table[rng.integers(0, len(table), splits)][:, images], truth[images]
                        )
                        for shots, table in tables.items()
                    }
                    for name, method in MEANS.items():
                        for shots, found in method(parts).items():
                            assert found is not None
                            held[name].append(found.low <= target[shots] <= found.high)
                            widths[name].append(found.high - found.low)
            shares = "  ".join(
                f"{name} {np.mean(hits):.3f} (± {50 * np.median(widths[name]):.1f})"
                for name, hits in held.items()
            )
            print(f"  m = {splits:2d}  {shares}")


# ---------------------------------------------------------------- racing


@dataclass
class Race:
    """Outcome of one race against the full grid."""

    cost: float  # of the seconds of the full grid
    p_wrong: list[float]
    is_wrong: list[bool]
    loss: list[float]  # true accuracy given away, by the sign of the race
    full_loss: list[float]  # by the sign of the full grid
    same_side: list[bool]  # where the full grid decides


def race(comparison: Comparison, regret: float, rng: np.random.Generator) -> Race:
    """Run one race over all shots, fine-tuning's splits one by one, and the full grid."""
    images = draw_images(comparison.truth, rng)
    truth = comparison.truth[images]
    order = {
        shots: table[rng.integers(0, len(table), MOST_SPLITS)][:, images]
        for shots, table in comparison.tables.items()
    }
    counts = dict.fromkeys(order, FIRST_SPLITS)
    contrasts = {k: contrast(order[k][: counts[k]], truth, k) for k in order}
    headline = max(order)
    while True:
        listed = list(contrasts.values())
        verdicts = analyse(listed)
        chosen = next_split(
            listed,
            verdicts,
            comparison.seconds,
            headline=headline,
            limit=MOST_SPLITS,
            regret=regret,
        ).shots
        if chosen is None:
            break
        counts[chosen] += 1
        contrasts[chosen] = contrast(order[chosen][: counts[chosen]], truth, chosen)
    full = {v.shots: v for v in analyse([contrast(t, truth, k) for k, t in order.items()])}
    return _outcome(comparison, counts, verdicts, full)


def _outcome(
    comparison: Comparison,
    counts: dict[int, int],
    verdicts: list[Verdict],
    full: dict[int, Verdict],
) -> Race:
    seconds = comparison.seconds
    spent = sum(counts[k] * seconds[k] for k in counts)
    result = Race(spent / sum(MOST_SPLITS * seconds[k] for k in counts), [], [], [], [], [])
    for verdict in verdicts:
        target, whole = comparison.differences[verdict.shots], full[verdict.shots]
        is_wrong = verdict.mean * target < 0
        result.is_wrong.append(is_wrong)
        result.p_wrong.append(float(verdict.p_wrong or 0.0))
        result.loss.append(abs(target) if is_wrong else 0.0)
        result.full_loss.append(abs(target) if whole.mean * target < 0 else 0.0)
        if whole.verdict == "decided":
            result.same_side.append(verdict.mean * whole.mean > 0)
    return result


def racing(rounds: int, seed: int) -> None:
    """Print cost, agreement and regret of racing for several thresholds."""
    comparisons = [comparison for grid in GRIDS for comparison in read_grid(grid)]
    print("regret, pt  cost  same side  mean regret, pt (full grid)  stated -> wrong")
    for regret in (0.001, 0.002, 0.003, 0.005):
        rng = np.random.default_rng(seed)
        races = [race(c, regret, rng) for c in comparisons for _ in range(rounds)]
        cost = np.mean([found.cost for found in races])
        same = np.mean([hit for found in races for hit in found.same_side])
        loss, full = (
            100 * np.mean([value for found in races for value in getattr(found, name)])
            for name in ("loss", "full_loss")
        )
        stated = np.mean([value for found in races for value in found.p_wrong])
        wrong = np.mean([value for found in races for value in found.is_wrong])
        print(
            f"{100 * regret:10.1f}  {cost:.2f}  {same:.3f}      {loss:.3f} ({full:.3f})"
            f"               {stated:.3f} -> {wrong:.3f}"
        )


def read_arms(name: str) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Return shots → (arms, splits) validation and test accuracies of a recorded grid."""
    rows: dict[int, dict[str, dict[int, tuple[float, float]]]] = {}
    for side in ("ft", "fe"):
        with np.load(DATA / "decision-grids" / f"{name}_{side}.npz") as archive:
            for shots, split, arm, tested, validated, *_ in json.loads(str(archive["rows"])):
                rows.setdefault(shots, {}).setdefault(arm, {})[split] = (validated, tested)
    tables = {}
    for shots, arms in rows.items():
        splits = sorted(set.intersection(*(set(of_split) for of_split in arms.values())))
        both = np.array([[of_split[split] for split in splits] for of_split in arms.values()])
        tables[shots] = (both[..., 0], both[..., 1])
    return tables


def race_of_arms(validated: np.ndarray, rng: np.random.Generator) -> tuple[int, int, int, float]:
    """Race arms on validation; return its arm, that of three splits and of all, and the cost."""
    order = validated[:, rng.permutation(validated.shape[1])[:MOST_SPLITS]]
    live, splits, runs = np.arange(len(order)), FIRST_SPLITS, FIRST_SPLITS * len(order)
    while len(live) > 1 and splits < MOST_SPLITS:
        known = best_arm.chances({1: order[live][:, :splits]})[1]
        live = live[known.p_best >= best_arm.P_BEST]
        if known.regret <= REGRET:
            break
        splits += 1
        runs += len(live)
    winner = int(live[order[live][:, :splits].mean(axis=1).argmax()])
    early, late = order[:, :FIRST_SPLITS].mean(axis=1), order.mean(axis=1)
    cost = (runs + MOST_SPLITS - splits) / order.size
    return winner, int(early.argmax()), int(late.argmax()), cost


def arms(rounds: int, seed: int) -> None:
    """Print what racing arms on validation loses in test accuracy, and what it costs."""
    print("grid         cost of all  loss, pt: race  after three splits  after all")
    rng = np.random.default_rng(seed)
    for name, title in GRIDS.items():
        losses, costs = [], []
        for validated, tested in read_arms(name).values():
            truth = tested.mean(axis=1)
            for _ in range(rounds):
                *chosen, cost = race_of_arms(validated, rng)
                losses.append([100 * (truth.max() - truth[arm]) for arm in chosen])
                costs.append(cost)
        race_loss, early, late = np.mean(losses, axis=0)
        print(f"{title:12s} {np.mean(costs):11.2f}  {race_loss:14.2f}  {early:18.2f}  {late:9.2f}")


def speed() -> None:
    """Print the time of the estimator on 20 splits × 10,000 images of 100 classes."""
    rng = np.random.default_rng(0)
    table = rng.integers(-1, 2, (20, 10_000)).astype(np.int8)
    classes = rng.integers(0, 100, 10_000)
    times = []
    for _ in range(9):
        start = time.perf_counter()
        found = crossed.estimate(crossed.components(table, classes))
        times.append(time.perf_counter() - start)
    assert found is not None
    assert not math.isnan(wrong_sign(found.mean, found.se, found.df, 1e-3))
    print(f"{1e3 * float(np.median(times)):.1f} ms, median of {len(times)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("coverage", "means", "racing", "arms", "speed"))
    parser.add_argument("--replicates", type=int, default=40, help="of each cell or comparison")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    if given.part == "coverage":
        coverage(given.replicates, given.seed)
    elif given.part == "means":
        means(given.replicates, given.seed)
    elif given.part == "racing":
        racing(given.replicates, given.seed)
    elif given.part == "arms":
        arms(given.replicates, given.seed)
    else:
        speed()


if __name__ == "__main__":
    main()
