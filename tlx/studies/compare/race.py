"""Stages of a comparison: features of every source first, then fine-tuning where it tells most."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ...errors import TrialsFailedError, counted
from ...lab.store import Store
from ...metrics.paired import analyse
from ...metrics.paired_race import FIRST_SPLITS, REGRET, next_split
from ...result import Result
from ..base import Stage, StudyReport, Trial
from ..session import Session
from . import evidence
from .arms import Arms
from .decision import LeftOut
from .evidence import FEATURES, TUNING, Evidence, FailedArm, Place, Side
from .spec import CompareGrid

Runs = Generator[Stage, StudyReport, None]
OPTIONS = {FEATURES: "--classifier", TUNING: "--recipes"}  # side → what lists its arms
ROUND = 4  # trials begun before the next look: a number of its own, so that what is run does not
# depend on how many processes there are


@dataclass
class Race:
    """Fine-tuning of one comparison: what was run, and why it stopped.

    side      trials so far
    limit     splits of each number of shots
    stopped   shots → why no more splits were run
    left_out  trials of arms at the shots where they are hardly the best on validation
    failed    arms without a result, of both sides
    """

    side: Side
    limit: int
    stopped: Mapping[int, str]
    left_out: Side = field(default_factory=lambda: Side(TUNING))
    failed: list[FailedArm] = field(default_factory=list)

    def take(self, side: Side, report: StudyReport, session: Session) -> None:
        """Add the trials of a stage to a side; say which arms are left out, without a result."""
        failed = side.add_report(report)
        self.failed += failed
        for row in failed:
            session.note(f"{row.words}. {_remedy(row.side)}")

    def require(self, side: Side) -> None:
        """Raise TrialsFailedError if no arm of a side has a result."""
        failed = [row.words for row in self.failed if row.side == side.name]
        if failed and not side.arms:
            raise TrialsFailedError(
                "trials-failed",
                f"no trial of {side.name} has a result: " + "; ".join(failed),
                remedy="the same command tries them again and keeps the finished trials of both "
                f"sides; or give others with {OPTIONS[side.name]} or --sources",
            )

    @property
    def share(self) -> float:
        """Return the trials that were run, as a share of all splits of all arms left."""
        arms = self.side.arms.values()
        run = sum(len(trials) for trials in arms)
        full = sum(self.limit * len({shots for shots, _ in trials}) for trials in arms)
        return run / full if full else 1.0

    def dropped_arms(self) -> tuple[LeftOut, ...]:
        """Return the arms that were left out, with their validation accuracy, at each shots."""
        rows = []
        for arm, trials in sorted(self.left_out.arms.items()):
            for shots in sorted({k for k, _ in trials}):
                draws = sum(k == shots for k, _ in trials)
                validation = self.left_out.validation(arm, shots)
                rows.append(LeftOut(arm, validation, draws, shots))
        return tuple(rows)


def features_first(stages: Mapping[str, Stage], side: Side, session: Session, race: Race) -> Runs:
    """Run every classifier of every source on every split.

    Raises TrialsFailedError if no trial of them has a result.
    """
    for stage in stages.values():
        report = yield stage
        race.take(side, report, session)
    race.require(side)


def fine_tune(
    stages: Mapping[str, Stage],
    features: Side,
    grid: CompareGrid,
    session: Session,
    race: Race,
) -> Runs:
    """Run each fine-tuning on the first splits, then where more of them tell most.

    One without a result on the first splits is left out. Raises TrialsFailedError if all are.

    stages  source and recipe → their stage with every split
    """
    started = time.monotonic()
    is_raced = grid.any_time or grid.budget is not None
    with_results: dict[str, Stage] = {}
    for name, stage in stages.items():
        first = replace(stage, trials=_of_splits(stage, range(FIRST_SPLITS)))
        report = yield _silent(first) if is_raced else _longest_first(stage)
        race.take(race.side, report, session)
        if report.results:
            with_results[name] = stage
    race.require(race.side)
    if not is_raced:
        return
    yield from _rounds(Arms.of(with_results), features, grid, session, race, started)
    done = _keys(race.side) | _keys(race.left_out)
    for stage in with_results.values():
        trials = tuple(trial for trial in stage.trials if trial.spec.key in done)
        if trials:
            yield replace(stage, trials=trials)  # writes its tables


def _remedy(side: str) -> str:
    """Return what to type about an arm without a result."""
    return (
        "The same command tries it again; to compare without it, leave it out of "
        f"{OPTIONS[side]} or --sources"
    )


def _rounds(
    arms: Arms,
    features: Side,
    grid: CompareGrid,
    session: Session,
    race: Race,
    started: float,
) -> Runs:
    """Run rounds of splits until nothing more is worth its time."""
    while True:
        data = evidence.gather(features, race.side)
        if grid.any_time:
            for name, shots in arms.leave_out(race.side, race.left_out, data.pool).items():
                places = ", ".join(map(str, shots))
                session.say(f"{name} is left out at {places} images per class, by validation")
            data = evidence.gather(features, race.side)
        if grid.budget is not None and time.monotonic() - started > grid.budget:
            race.stopped = {**race.stopped, 0: f"the budget of {grid.budget:g} s is used up"}
            return
        done = _keys(race.side)
        chosen, race.stopped = choose(
            data,
            session.store,
            grid,
            arms.places(done) - race.side.failed,
            ROUND,
            race.limit,
            arms=arms,
        )
        if not chosen:
            return
        for name, trials in arms.trials(chosen, done).items():
            report = yield _silent(replace(arms.stages[name], trials=tuple(trials)))
            race.take(race.side, report, session)


def choose(
    data: Evidence,
    store: Store,
    grid: CompareGrid,
    waiting: set[Place],
    count: int,
    limit: int,
    *,
    arms: Arms | None = None,
) -> tuple[list[Place], Mapping[int, str]]:
    """Return the next places, at most `count`, and shots → why no more are run of them.

    waiting  places with trials that are still to be run
    limit    splits of each number of shots
    arms     of fine-tuning, where there may be several
    """
    contrasts = [
        evidence.contrast_of(pair, evidence.tables_of(store, pair), data.pool)
        for pair in data.pairs
        if pair.features
    ]
    verdicts = analyse(contrasts, alpha=grid.alpha, margin=grid.margin)
    if arms is None:
        seconds = {pair.shots: _mean_seconds(pair.tuning) for pair in data.pairs if pair.tuning}
    else:
        seconds = arms.seconds(data.tuning)
    chances = arms.chances(data.tuning, data.pool) if arms is not None and grid.any_time else {}
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
            arms=chances,
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


def _keys(side: Side) -> set[str]:
    return {result.key for trials in side.arms.values() for result in trials.values()}


def _of_splits(stage: Stage, splits: range) -> tuple[Trial, ...]:
    return tuple(trial for trial in stage.trials if trial.spec.split in splits)


def _write_nothing(store: Store, key: str, form: str | None = "png") -> None:
    """Leave tables and figures to the last stage of the study."""


def _longest_first(stage: Stage) -> Stage:
    """Return a stage that begins with the trials of most images: one begun last would run alone."""
    return replace(stage, trials=tuple(sorted(stage.trials, key=lambda trial: -trial.spec.shots)))


def _silent(stage: Stage) -> Stage:
    """Return a stage whose tables and figures are left to the last one of its study."""
    return replace(
        _longest_first(stage),
        write_summary=_write_nothing,
        format_summary=lambda report: f"{counted(len(report.results), 'trial')}",
    )


def _mean_seconds(results: tuple[Result, ...]) -> float:
    return float(np.mean([result.scores.get("total_s", 1.0) for result in results]))
