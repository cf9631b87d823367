"""Plan of a study of chopped networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ... import files
from ...errors import MissingError, TlxError, UsageError, raise_all
from ...lab.settings import Settings
from ...models import backbones, chopped
from ...models.transferred import transferred
from ...models.weights import promises
from ...result import Result
from .. import batches
from ..base import Stage, Trial
from ..few_shot import Inputs
from ..few_shot_inputs import common_settings
from ..source_list import source_label
from ..whole_dataset import TrainingInputs
from ..whole_dataset_inputs import Pools, Progress, read
from . import trial as chop_trial
from .spec import Chop, ChopGrid, FromWeights

S = TypeVar("S", bound=FromWeights)


def chop_study(
    spec: Chop, grid: ChopGrid, settings: Settings, progress: Progress | None = None
) -> tuple[Stage, list[str]]:
    """Return every cut of every repeat and the whole network, ready to run, and notes.

    Raises ErrorGroup with all errors.
    """
    depth, title = _blocks(spec)
    most = chopped.most_blocks(spec.model, depth)
    depths = tuple(sorted(set(grid.depths))) or tuple(range(max(1, spec.freeze), most + 1))
    problems: list[TlxError] = [*chopped.too_deep(spec.model, [n for n in depths if n <= depth])]
    problems += [
        UsageError(
            "out-of-range",
            f"{n}",
            where="--depths",
            expected=f"1 to {depth}, the blocks of {title}",
        )
        for n in depths
        if n > depth
    ]
    if spec.freeze > min(depths, default=1):
        problems.append(
            UsageError(
                "out-of-range",
                f"{spec.freeze}",
                where="--freeze",
                expected=f"at most {min(depths, default=1)}, the blocks of the smallest network",
            )
        )
    raise_all(problems)
    spec, notes = _sourced(spec.replace(depth=depth))
    for n in depths:  # places where it cannot be cut are refused before anything is trained
        chopped.chop(backbones.meta_model(spec.architecture), n, 2, 0)
    pools, inputs, spec = _data(spec, settings, progress)
    trials = tuple(
        Trial(
            spec.replace(cut=n, split=repeat),
            TrainingInputs(inputs, spec.start_from, spec.weight_source),
        )
        for repeat in range(grid.repeats)
        for n in (*depths, None)
    )
    notes += pools.notes
    batches.check(trials)
    return _study(spec, pools, trials, chop_trial.run, chop_trial.EXPERIMENT, "chopped"), notes


def _blocks(spec: FromWeights) -> tuple[int, str]:
    sketch = backbones.meta_model(spec.architecture)
    return len(sketch.blocks), sketch.row.title


def _sourced(spec: S) -> tuple[S, list[str]]:
    """Return the spec with the digest of its weights, which fit, and the notes on them."""
    with promises.permitted(Path(spec.model or "")):
        if spec.model and not Path(spec.model).expanduser().is_file():
            raise MissingError("weight file", spec.model)
    network = transferred(
        spec.architecture,
        weights=spec.start_from,
        copied=spec.depth if spec.start_from else 0,
        classes=2,
        seed=0,
        source=spec.weight_source,
        input_size=spec.input_size,
    )
    return spec.replace(weights=network.weights), [*network.notes]


def _data(spec: S, settings: Settings, progress: Progress | None) -> tuple[Pools, Inputs, S]:
    pools = read(spec, settings, progress)
    inputs, content = pools.task(pools.folder.classes)
    return pools, inputs, spec.replace(images=content)


def _study(
    spec: FromWeights,
    pools: Pools,
    trials: tuple[Trial, ...],
    run: Callable[..., Result],
    experiment: str,
    what: str,
) -> Stage:
    name = pools.folder.name
    return Stage(
        key=files.digest(["study", spec.identity()]),
        run=run,
        experiment=experiment,
        title=f"{source_label(spec.to_json())} {what} on {name}",
        spec=common_settings(spec),
        trials=trials,
        inputs=(pools.record(spec.images),),
        tags={"tlx.dataset": name},
    )
