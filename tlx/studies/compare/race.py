"""Stages of a comparison: features of every source first, then fine-tuning where it tells most."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ...lab.store import Store
from ...metrics.paired import analyse
from ...metrics.paired_race import FIRST_SPLITS, REGRET, next_split
from ...result import Result
from ..base import Stage, StudyReport, Trial
from ..session import Session
from . import evidence
from .decision import LeftOut
from .evidence import TUNING, Evidence, Place, Side
from .spec import CompareGrid

Runs = Generator[Stage, StudyReport, None]
ROUND = 4  # trials begun before the next look: a number of its own, so that what is run does not
# depend on how many processes there are


@dataclass
class Race:
    """Fine-tuning of one comparison: what was run, and why it stopped.

    side      trials so far
    limit     splits of each number of shots
    stopped   shots → why no more splits were run
    left_out  arms that were not the best on validation after the first splits
    """

    side: Side
    limit: int
    stopped: Mapping[int, str]
    left_out: Side = field(default_factory=lambda: Side(TUNING))

    @property
    def share(self) -> float:
        """Return the trials that were run, as a share of all splits of all arms left."""
        arms = self.side.arms.values()
        run = sum(len(trials) for trials in arms)
        full = sum(self.limit * len({shots for shots, _ in trials}) for trials in arms)
        return run / full if full else 1.0

    def dropped_arms(self, at: int | None) -> tuple[LeftOut, ...]:
        """Return the arms that were left out, with their validation accuracy at these shots."""
        rows = []
        for arm, trials in self.left_out.arms.items():
            shots = at or max(k for k, _ in trials)
            draws = sum(k == shots for k, _ in trials)
            rows.append(LeftOut(arm, self.left_out.validation(arm, shots), draws))
        return tuple(rows)


def features_first(stages: Mapping[str, Stage], side: Side) -> Runs:
    """Run every classifier of every source on every split."""
    for stage in stages.values():
        report = yield stage
        side.add_report(report)


def fine_tune(
    stages: Mapping[str, Stage],
    features: Side,
    grid: CompareGrid,
    session: Session,
    race: Race,
) -> Runs:
    """Run each fine-tuning on the first splits, then race the best one.

    stages  source, with its recipe if that is not the usual one → its stage with every split
    """
    started = time.monotonic()
    is_racing = grid.any_time or grid.budget is not None
    whole = next(iter(stages.values()))
    if len(stages) > 1 or is_racing:
        for stage in stages.values():
            report = yield _silent(replace(stage, trials=_of_splits(stage, range(FIRST_SPLITS))))
            race.side.add_report(report)
    if len(stages) > 1:
        name = _best_of(race.side, stages)
        session.say(f"fine-tuning goes on with {name}, the best on validation images so far")
        whole = stages[name]
        yield from _leave_out(stages, name, race)
    if is_racing:
        yield from _rounds(whole, features, grid, session, race, started)
        done = set(_done(race.side))
        whole = replace(
            whole, trials=tuple(t for t in whole.trials if (t.spec.shots, t.spec.split) in done)
        )
    report = yield whole
    race.side.add_report(report)


def _leave_out(stages: Mapping[str, Stage], chosen: str, race: Race) -> Runs:
    """Move the arms of all other stages aside, and write their tables as they are."""
    arms, race.side.arms = race.side.arms, {}
    for name, trials in arms.items():
        side = race.side if _stage_of(trials) == chosen else race.left_out
        side.arms[name] = trials
    for other, stage in stages.items():
        if other != chosen:
            yield replace(stage, trials=_of_splits(stage, range(FIRST_SPLITS)))


def _rounds(
    whole: Stage,
    features: Side,
    grid: CompareGrid,
    session: Session,
    race: Race,
    started: float,
) -> Runs:
    """Run rounds of splits until nothing more is worth its time."""
    waiting = {(trial.spec.shots, trial.spec.split): trial for trial in whole.trials}
    while True:
        if grid.budget is not None and time.monotonic() - started > grid.budget:
            race.stopped = {**race.stopped, 0: f"the budget of {grid.budget:g} s is used up"}
            return
        chosen, race.stopped = choose(
            evidence.gather(features, race.side),
            session.store,
            grid,
            set(waiting) - set(_done(race.side)) - race.side.failed,
            ROUND,
            race.limit,
        )
        if not chosen:
            return
        report = yield _silent(replace(whole, trials=tuple(waiting[place] for place in chosen)))
        race.side.add_report(report)


def choose(
    data: Evidence,
    store: Store,
    grid: CompareGrid,
    waiting: set[Place],
    count: int,
    limit: int,
) -> tuple[list[Place], Mapping[int, str]]:
    """Return the next trials, at most `count`, and shots → why no more are run of them."""
    contrasts = [
        evidence.contrast_of(pair, evidence.tables_of(store, pair), data.pool)
        for pair in data.pairs
        if pair.features
    ]
    verdicts = analyse(contrasts, alpha=grid.alpha, margin=grid.margin)
    seconds = {pair.shots: _mean_seconds(pair.tuning) for pair in data.pairs if pair.tuning}
    headline = grid.at or max(pair.shots for pair in data.pairs)
    chosen: list[Place] = []
    closed: Mapping[int, str] = {}
    open_ = [c for c in contrasts if any(shots == c.shots for shots, _ in waiting)]
    while open_ and len(chosen) < count:
        under_way = {c.shots: sum(shots == c.shots for shots, _ in chosen) for c in open_}
        choice = next_split(
            open_,
            verdicts,
            seconds,
            headline=headline,
            limit=limit,
            regret=REGRET if grid.any_time else 0.0,
            under_way=under_way,
        )
        closed = choice.closed
        if choice.shots is None:
            break
        left = sorted(place for place in waiting - set(chosen) if place[0] == choice.shots)
        if not left:
            open_ = [c for c in open_ if c.shots != choice.shots]
            continue
        chosen.append(left[0])
    full = {c.shots: "all splits" for c in contrasts if c not in open_}
    return chosen, {**full, **closed}


def _done(side: Side) -> Iterator[Place]:
    for trials in side.arms.values():
        yield from trials


def _of_splits(stage: Stage, splits: range) -> tuple[Trial, ...]:
    return tuple(trial for trial in stage.trials if trial.spec.split in splits)


def _write_nothing(store: Store, key: str, form: str | None = "png") -> None:
    """Leave tables and figures to the last stage of the study."""


def _silent(stage: Stage) -> Stage:
    """Return a stage whose tables and figures are left to the last one of its study."""
    return replace(
        stage,
        write_summary=_write_nothing,
        format_summary=lambda report: f"{len(report.results)} trials",
    )


def _best_of(side: Side, stages: Mapping[str, Stage]) -> str:
    """Return the stage with the best mean validation accuracy over all shots that were run."""
    means: dict[str, float] = dict.fromkeys(stages, -1.0)
    for arm, trials in side.arms.items():
        values = [side.validation(arm, shots) for shots in sorted({k for k, _ in trials})]
        means[_stage_of(trials)] = float(np.mean(values))
    return max(means, key=lambda name: means[name])


def _stage_of(trials: Mapping[Place, Result]) -> str:
    """Return the name of the stage that an arm is of."""
    spec = next(iter(trials.values())).spec
    return evidence.recipe_name(str(spec["architecture"]), spec)


def _mean_seconds(results: tuple[Result, ...]) -> float:
    return float(np.mean([result.scores.get("total_s", 1.0) for result in results]))
