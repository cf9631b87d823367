"""Plan a pruning study round by round."""

from __future__ import annotations

from ... import files
from ...errors import UsageError
from ...lab.settings import Settings
from ...lab.store import Store
from ...result import FINISHED
from .. import batches
from ..base import Stage, Trial
from ..whole_dataset import WEIGHTS
from ..whole_dataset_inputs import Progress
from . import pruning as chop_pruning
from .plan import _blocks, _data, _sourced, _study
from .pruning import PruningInputs
from .spec import Pruning, PruningGrid


class PruningPlan:
    """Study of pruning: `stage(k, store)` is its k-th round.

    Its trials start from those of the round before.
    """

    def __init__(
        self,
        spec: Pruning,
        grid: PruningGrid,
        settings: Settings,
        progress: Progress | None = None,
    ):
        depth, title = _blocks(spec)
        if spec.freeze > depth:
            raise UsageError(
                "out-of-range",
                f"{spec.freeze}",
                where="--freeze",
                expected=f"0 to {depth}, the blocks of {title}",
            )
        spec, self.notes = _sourced(spec.replace(depth=depth))
        self.pools, self._inputs, self.spec = _data(spec, settings, progress)
        self.notes += self.pools.notes
        batches.check([Trial(self.spec, self._inputs)])
        self.grid = grid
        self._keys: dict[tuple[int, int], str] = {}  # (round, repeat) → key

    def stage(self, number: int, store: Store | None) -> Stage | None:
        """Return the trials of a round; None if no repeat came that far.

        Round 0 needs no store.
        """
        trials = []
        for repeat in range(self.grid.repeats):
            spec = self.spec.replace(split=repeat, round=number)
            before = None
            if number:
                assert store is not None
                key = self._keys.get((number - 1, repeat), "")
                result = store.find(key) if key else None
                if result is None or result.status != FINISHED:
                    self.notes.append(
                        f"repeat {repeat} diverged in round {number - 1}: pruned no further"
                    )
                    continue
                before = store.file(key, WEIGHTS)
                spec = spec.replace(before=files.sha256(before))
            self._keys[number, repeat] = spec.key
            trials.append(
                Trial(
                    spec,
                    PruningInputs(
                        self._inputs,
                        spec.start_from,
                        spec.weight_source,
                        str(before) if before else None,
                    ),
                )
            )
        return (
            _study(
                self.spec,
                self.pools,
                tuple(trials),
                chop_pruning.run,
                chop_pruning.EXPERIMENT,
                "pruned",
            )
            if trials
            else None
        )
