"""Plan of layer transfer by stages: base networks first, whose weights name the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch.nn.modules.batchnorm import _BatchNorm

from ... import files
from ...data.hold_out import halves
from ...errors import MissingError, TlxError, UnknownNameError, UsageError, raise_all
from ...lab.settings import Settings
from ...lab.store import Store
from ...models import backbones, chopped
from ...models.recipe import BN_MODES
from ...models.weights import promises
from ...result import FINISHED
from .. import batches
from ..base import ExpectedStage, Stage, Trial
from ..few_shot import Inputs
from ..few_shot_inputs import common_settings
from ..source_list import source_label
from ..whole_dataset import WEIGHTS, TrainingInputs
from ..whole_dataset_inputs import Pools, Progress, listed, read
from . import spec as layer_transfer_spec
from . import trial as layer_transfer_trial
from .spec import TREATMENTS, LayerTransfer, LayerTransferGrid

OF = {
    "AnB": ("A", True),
    "AnB+": ("A", False),
    "BnB": ("B", True),
    "BnB+": ("B", False),
}  # source, held?


@dataclass
class LayerTransferPlan:
    """Plan before anything is trained.

    conditions  the networks made from others, without repeat and weights
    bases       the trials whose weights they start from, or that were requested: baseA and baseB
    notes       for people
    """

    spec: LayerTransfer
    grid: LayerTransferGrid
    pools: Pools
    conditions: tuple[LayerTransfer, ...]
    bases: tuple[Trial, ...]
    target: Inputs  # of B
    sources: tuple[str, str]  # what A and B are, by content
    given: str  # digest of A's weights where they are not trained here
    notes: list[str]

    def first(self) -> Stage | None:
        """Return the base networks; None if none is to be trained."""
        return self._study(self.bases) if self.bases else None

    @property
    def expected(self) -> tuple[ExpectedStage, ...]:
        """Return the size of the networks built from the base networks."""
        inputs = TrainingInputs(self.target, None, None)
        trials = tuple(
            Trial(condition.replace(split=repeat), inputs)
            for repeat in range(self.grid.repeats)
            for condition in self.conditions
        )
        return (ExpectedStage("networks built from them", len(trials), trials),) if trials else ()

    def rest(self, store: Store | None) -> Stage | None:
        """Return the networks built from them, which must be in `store`.

        None if there are none.

        Those whose base network diverged are left out, with a note.
        """
        trials = []
        for repeat in range(self.grid.repeats):
            starts = {"A": self._given(), "B": None} | (
                self._trained(store, repeat) if store is not None else {}
            )
            for condition in self.conditions:
                start = starts[condition.of]
                if start is None:
                    self.notes.append(
                        f"base{condition.of} of repeat {repeat} diverged: {condition.network} left "
                        f"out"
                    )
                    continue
                path, source, digest = start
                trials.append(
                    Trial(
                        condition.replace(split=repeat, weights=digest),
                        TrainingInputs(self.target, path, source),
                    )
                )
        return self._study(tuple(trials)) if trials else None

    def _given(self) -> tuple[str | None, str | None, str] | None:
        return (self.spec.start_from, self.spec.weight_source, self.given) if self.given else None

    def _trained(self, store: Store, repeat: int) -> dict[str, tuple[str | None, str | None, str]]:
        """Return source → the weights of its base network of this repeat."""
        sources: dict[str, tuple[str | None, str | None, str]] = {}
        for trial in self.bases:
            if (
                trial.spec.split == repeat
                and (result := store.find(trial.spec.key))
                and result.status == FINISHED
            ):
                path = store.file(trial.spec.key, WEIGHTS)
                sources[trial.spec.task] = (str(path), None, files.sha256(path))
        return sources

    def _study(self, trials: tuple[Trial, ...]) -> Stage:
        name = self.pools.folder.name
        key = files.digest(["study", self.spec.identity(), self.sources])
        return Stage(
            key=key,
            run=layer_transfer_trial.run,
            experiment=layer_transfer_spec.EXPERIMENT,
            title=f"{source_label(self.spec.to_json())}: layer transfer on {name}",
            spec=common_settings(self.spec),
            trials=trials,
            inputs=(self.pools.record(self.sources[1]),),
            tags={"tlx.dataset": name},
        )


def plan_layer_transfer(
    spec: LayerTransfer,
    grid: LayerTransferGrid,
    settings: Settings,
    progress: Progress | None = None,
) -> LayerTransferPlan:
    """Return the plan.

    Raises ErrorGroup with all errors, before anything is trained.
    """
    sketch = backbones.meta_model(spec.architecture)
    depth = len(sketch.blocks)
    normed = any(isinstance(m, _BatchNorm) for m in sketch.modules())
    treatments = check(spec, grid, depth, sketch.row.title)
    raise_all(chopped.too_deep(spec.model, grid.depths))
    most = chopped.most_blocks(spec.model, depth)
    half, notes = not spec.start_from, list[str]()
    is_held = any(OF.get(name, ("", False))[1] for name in treatments)
    if set(grid.bn) - {BN_MODES[0]} and not (is_held and normed):
        reason = f"{sketch.row.title} has no batch norm" if is_held else "no blocks are frozen"
        notes.append(f"{reason}: --bn makes no difference")
    grid = grid.replace(depths=grid.depths or tuple(range(1, most + 1)), bn=grid.bn or BN_MODES[:1])
    given = ""
    if not half:
        given = _given_source(spec, treatments, notes)
    folder = listed(spec, settings, notes)
    classes: tuple[tuple[str, ...], tuple[str, ...]] = ((), folder.classes)
    if half:
        classes = halves(folder.classes, spec.halves, spec.seed, "--source half")
    pools = read(spec, settings, progress, folder)
    notes += pools.notes
    inputs, content = pools.task(classes[1])
    target = spec.replace(images=content, depth=depth, keep_weights=bool(grid.export))
    conditions = tuple(
        {(c.of, c.key): c for c in _conditions(target, treatments, grid, normed)}.values()
    )
    source, of_a = pools.task(classes[0]) if half else (inputs, given)
    needed = {c.of for c in conditions} | {name.removeprefix("base") for name in treatments}
    bases: list[Trial] = []
    for repeat in range(grid.repeats):
        if half and "A" in needed:
            spec_of_a = target.replace(images=of_a, task="A", split=repeat)
            bases.append(Trial(spec_of_a, TrainingInputs(source)))
        if "B" in needed or 0 in grid.depths:
            bases.append(Trial(target.replace(split=repeat), TrainingInputs(inputs)))
    if half:
        notes.append(f"A: {', '.join(classes[0])}; B: {', '.join(classes[1])}")
    elif "baseA" in treatments:
        notes.append("baseA is given, not trained here: it has no row in the table")
    if not bases and not conditions:
        raise UsageError("nothing-to-do", "baseA alone, and it is given", where="--treatments")
    batches.check([*bases, *(Trial(condition, inputs) for condition in conditions)])
    return LayerTransferPlan(
        spec, grid, pools, conditions, tuple(bases), inputs, (of_a, content), given, notes
    )


def _given_source(spec: LayerTransfer, treatments: Sequence[str], notes: list[str]) -> str:
    """Return the digest of A's given weights.

    "" where they are missing and no treatment needs them.
    """
    try:
        network = backbones.load(
            spec.architecture,
            weights=spec.start_from,
            classes=2,
            seed=0,
            source=spec.weight_source,
            input_size=spec.input_size,
        )
    except MissingError:
        if any(
            name == "baseA" or OF.get(name, ("A",))[0] == "A"
            for name in treatments
            if name != "baseB"
        ):
            raise
        return ""
    notes += network.notes
    return network.weights


def check(spec: LayerTransfer, grid: LayerTransferGrid, depth: int, title: str) -> tuple[str, ...]:
    """Return the requested treatments in canonical spelling.

    Raises ErrorGroup with invalid names and numbers.
    """
    spelt = {name.lower(): name for name in TREATMENTS}
    problems: list[TlxError] = [
        UnknownNameError("treatment", name, TREATMENTS)
        for name in grid.treatments
        if name.lower() not in spelt
    ]
    problems += [UnknownNameError("bn", name, BN_MODES) for name in grid.bn if name not in BN_MODES]
    problems += [
        UsageError(
            "out-of-range",
            f"{n}",
            where="--depths",
            expected=f"0 to {depth}, the blocks of {title}",
        )
        for n in grid.depths
        if n > depth
    ]
    with promises.permitted(Path(spec.model or "")):
        if spec.model and not Path(spec.model).expanduser().is_file():
            problems.append(MissingError("weight file", spec.model))
    raise_all(problems)
    return tuple(dict.fromkeys(spelt[name.lower()] for name in grid.treatments)) or TREATMENTS


def _conditions(
    spec: LayerTransfer, treatments: Sequence[str], grid: LayerTransferGrid, normed: bool
) -> list[LayerTransfer]:
    """Return every network with copied blocks, without repeat and weights."""
    conditions = []
    if "baseB+" in treatments:
        conditions.append(spec.replace(copied=spec.depth, of="A"))
    for name in treatments:
        for n in grid.depths if name in OF else ():
            of, held = OF[name]
            modes = grid.bn if held and normed else ("frozen",)
            conditions += [
                spec.replace(copied=n, freeze=n * held, of=of, bn=bn) for bn in modes if n
            ]
    return conditions
