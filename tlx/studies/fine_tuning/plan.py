"""Plan a fine-tuning study: check data and network, list the trials."""

from __future__ import annotations

from ...data.sizing import CROPS
from ...errors import TlxError, UsageError, raise_all
from ...lab.settings import Settings
from ...models import backbones, freezing, tuned_parts
from ...models.network import Network
from ...models.transferred import redraw
from ...models.tune_choices import parse_tune
from .. import batches
from ..base import Stage, Trial
from ..few_shot import FewShotGrid, Inputs
from ..few_shot_inputs import (
    FewShotData,
    PreflightResult,
    Progress,
    common_settings,
    draws,
    preflight,
    rows_of_refit,
)
from . import spec as fine_tuning_spec
from . import trial as fine_tuning_trial
from .spec import FineTuning


def look_at_fine_tuning(
    spec: FineTuning,
    few: FewShotGrid,
    settings: Settings,
    progress: Progress | None = None,
    *,
    keep: bool = True,
) -> PreflightResult:
    """Run the preflight of a fine-tuning study."""
    result = preflight(spec, few, settings, lambda: _to_tune(spec), progress, keep=keep)
    result.problems += _lone_rows(spec, few, result)
    if spec.val_crops is not None and not spec.use_crops:
        result.problems.append(
            UsageError(
                "conflict",
                f"--val-crops {spec.val_crops} and --no-use-crops",
                expected="one of the two: without crops an image is one row",
            )
        )
    return result


def _lone_rows(spec: FineTuning, few: FewShotGrid, result: PreflightResult) -> list[TlxError]:
    """Return the errors of the batches of any draw, each fault once."""
    problems: dict[str, TlxError] = {}
    if result.network is None or result.splits is None or result.problems:
        return []
    for shots, split in draws(spec, few, result.splits):
        rows = len(result.splits.train(shots, split)) * (len(CROPS) if spec.use_crops else 1)
        try:
            batches.check_rows(spec, rows, result.network)
        except UsageError as problem:
            problems[str(problem)] = problem
    return list(problems.values())


def _to_tune(spec: FineTuning) -> Network:
    """Return the network with a head of two classes, after a trial freeze as requested."""
    tune = parse_tune(spec.tune)
    if tune.head_first and spec.head_epochs:
        raise UsageError(
            "conflict",
            f"--tune {spec.tune} and --head-epochs {spec.head_epochs}",
            expected="one of the two",
            remedy=f"--tune head-then-all:epochs={spec.head_epochs}",
        )
    network = backbones.load(
        spec.architecture,
        weights=spec.start_from,
        classes=2,
        head=spec.head,
        seed=0,
        source=spec.weight_source,
        input_size=spec.input_size,
    )
    configuration = configured(spec)
    freezing.freeze(
        network,
        spec.freeze
        if configuration is None
        else freezing.published_configuration(spec.architecture, configuration),
        bn=spec.bn,
    )
    redraw(network, spec.architecture, spec.reinit_blocks, seed=0)
    tuned_parts.restrict(network, tune)
    tuned_parts.part_of(tune).check(network, tune)
    return network


def configured(spec: FineTuning) -> int | None:
    """Return the published configuration that applies.

    The requested one, 1 for the networks of the originals, None for all others.
    """
    if spec.configuration is not None and spec.freeze:
        raise UsageError(
            "conflict",
            f"--configuration {spec.configuration} and --freeze {spec.freeze}",
            expected="one of the two",
        )
    if (
        spec.configuration is None
        and not spec.freeze
        and spec.architecture.lower() in freezing.SEED_COUNTS
    ):
        return 1
    return spec.configuration


def _tuned(spec: FineTuning) -> str:
    """Return what is trained and drawn anew, for a title; "" of everything as it came."""
    tuned = "" if spec.tune == spec.defaults()["tune"] else f", --tune {spec.tune}"
    return tuned + (f", --reinit-blocks {spec.reinit_blocks}" if spec.reinit_blocks else "")


def fine_tuning_study(
    spec: FineTuning, few: FewShotGrid, settings: Settings, progress: Progress | None = None
) -> tuple[Stage, PreflightResult]:
    """Return every trial of a few-shot fine-tuning, ready to run.

    Raises ErrorGroup with all errors.
    """
    result = look_at_fine_tuning(spec, few, settings, progress)
    raise_all(result.problems)
    spec = spec.replace(weights=result.weights, configuration=configured(spec))
    parts = FewShotData(result, spec)
    package = tuned_parts.part_of(parse_tune(spec.tune)).package
    trials = [
        Trial(
            spec.replace(shots=shots, split=split, images=content),
            Inputs(parts.classes, train, parts.val, parts.test, parts.test_digest, parts.pool),
        )
        for shots, split, train, content in parts.draws(spec, few)
    ]
    return Stage(
        key=parts.study_key(spec),
        run=fine_tuning_trial.run,
        experiment=fine_tuning_spec.EXPERIMENT,
        title=parts.title(spec) + _tuned(spec),
        spec=common_settings(spec),
        trials=tuple(trials),
        inputs=(parts.dataset(),),
        tags=parts.tags(few),
        preload=(package,) if package else (),
        params={"Job number": str(few.job)},
    ), result


def refit_inputs(
    spec: FineTuning, settings: Settings, progress: Progress | None = None
) -> tuple[Trial, PreflightResult]:
    """Return a trial with all training images, not only those of its draw.

    Its key is still that of the draw: it tells whether the images are those of the trial.
    """
    few = FewShotGrid(shots=(spec.shots,), splits=spec.split + 1)
    result = preflight(spec, few, settings, lambda: _to_tune(spec), progress, used=rows_of_refit)
    raise_all(result.problems)
    spec = spec.replace(weights=result.weights, configuration=configured(spec))
    parts = FewShotData(result, spec)
    inputs = Inputs(parts.classes, parts.whole_pool(), parts.val, parts.test)
    return Trial(spec.replace(images=parts.content_of(spec, few)), inputs), result
