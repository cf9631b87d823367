"""Arms of fine-tuning in a race: which are still run at which number of shots."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ...metrics.best_arm import P_BEST, ArmChances, chances
from ...metrics.paired_race import FIRST_SPLITS, REGRET
from ...result import Result
from ..base import Stage, Trial
from .evidence import VALIDATION, Place, Side


@dataclass
class Arms:
    """Fine-tunings of a comparison by name, and those that are still run.

    stages  name → its stage with every split
    live    shots → names that are still run, sorted: a race does not depend on the order asked
    names   key of a trial → name of its stage
    """

    stages: Mapping[str, Stage]
    live: dict[int, list[str]]
    names: Mapping[str, str]

    @classmethod
    def of(cls, stages: Mapping[str, Stage]) -> Arms:
        """Return the arms of these stages, all of them live."""
        live: dict[int, list[str]] = {}
        names: dict[str, str] = {}
        for name, stage in stages.items():
            for trial in stage.trials:
                names[trial.spec.key] = name
                at = live.setdefault(trial.spec.shots, [])
                if name not in at:
                    at.append(name)
        return cls(stages, {shots: sorted(at) for shots, at in live.items()}, names)

    def trials(self, places: Collection[Place], skipped: Collection[str]) -> dict[str, list[Trial]]:
        """Return name → trials of live arms at these places, but for the keys in `skipped`."""
        waiting: dict[str, list[Trial]] = {}
        for name, stage in self.stages.items():
            own = [
                trial
                for trial in stage.trials
                if (trial.spec.shots, trial.spec.split) in places
                and name in self.live[trial.spec.shots]
                and trial.spec.key not in skipped
            ]
            if own:
                waiting[name] = own
        return waiting

    def places(self, skipped: Collection[str]) -> set[Place]:
        """Return where a live arm has a trial to run."""
        return {
            (trial.spec.shots, trial.spec.split)
            for name, stage in self.stages.items()
            for trial in stage.trials
            if name in self.live[trial.spec.shots] and trial.spec.key not in skipped
        }

    def seconds(self, side: Side) -> dict[int, float]:
        """Return shots → wall time of one split of all live arms."""
        times: dict[tuple[int, str], list[float]] = {}
        for (shots, _), result in self._trials(side):
            name = self.names[result.key]
            times.setdefault((shots, name), []).append(result.scores.get("total_s", 1.0))
        totals: dict[int, float] = {}
        for (shots, name), values in times.items():
            if name in self.live[shots]:
                totals[shots] = totals.get(shots, 0.0) + float(np.mean(values))
        return totals

    def chances(self, side: Side, pool: int) -> dict[int, ArmChances]:
        """Return the chances of the live arms where there are several, after the first splits.

        A trial that failed or diverged counts as an accuracy of 0.
        """
        tables = {
            shots: table
            for shots, names in self.live.items()
            if len(names) > 1 and (table := self._scores(side, shots)).shape[1] >= FIRST_SPLITS
        }
        largest = max(tables, default=0)
        return chances(tables, pool=max(pool, largest)) if tables else {}

    def _scores(self, side: Side, shots: int) -> np.ndarray:
        """Return (live arms, splits) validation accuracies at these shots."""
        names = self.live[shots]
        by_split: dict[int, dict[str, float]] = {
            split: {} for k, split in sorted(side.failed) if k == shots
        }
        for (k, split), result in self._trials(side):
            if k == shots:
                own = by_split.setdefault(split, {})
                own[self.names[result.key]] = result.scores.get(VALIDATION, 0.0)
        rows = [by_split[split] for split in sorted(by_split)]
        return np.array([[row.get(name, 0.0) for row in rows] for name in names])

    def _trials(self, side: Side) -> Iterable[tuple[Place, Result]]:
        for trials in side.arms.values():
            for place, result in trials.items():
                if result.key in self.names:
                    yield place, result

    def leave_out(self, side: Side, left_out: Side, pool: int) -> dict[str, list[int]]:
        """Move arms that are hardly the best from `side` to `left_out`, at their shots.

        An arm goes when it is the best with a probability below P_BEST. All but the leader go when
        the leader is expected to lose no more than REGRET against the best.

        Returns name → shots that it was left out at.
        """
        gone: dict[str, list[int]] = {}
        for shots, known in self.chances(side, pool).items():
            names = self.live[shots]
            kept = [name for name, p in zip(names, known.p_best, strict=True) if p >= P_BEST]
            if known.regret <= REGRET:
                kept = [names[known.leader]]
            for name in names:
                if name not in kept:
                    gone.setdefault(name, []).append(shots)
            self.live[shots] = kept
        for arm, trials in list(side.arms.items()):
            for place, result in list(trials.items()):
                if place[0] in gone.get(self.names.get(result.key, ""), []):
                    left_out.arms.setdefault(arm, {})[place] = trials.pop(place)
            if not trials:
                del side.arms[arm]
        return gone
