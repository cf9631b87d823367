"""Plan a fine-tuning study: check data and network, list the trials."""

from __future__ import annotations

from ...data.sizing import CROPS
from ...errors import TlxError, UsageError, raise_all
from ...lab.settings import Settings
from ...models import backbones, freezing
from ...models.network import Network
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
    """The look before a fine-tuning study."""
    found = preflight(spec, few, settings, lambda: _to_tune(spec), progress, keep=keep)
    found.problems += _lone_rows(spec, few, found)
    return found


def _lone_rows(spec: FineTuning, few: FewShotGrid, found: PreflightResult) -> list[TlxError]:
    """What is wrong with the batches of any draw, each fault once."""
    problems: dict[str, TlxError] = {}
    if found.network is None or found.splits is None or found.problems:
        return []
    for shots, split in draws(spec, few, found.splits):
        rows = len(found.splits.train(shots, split)) * (len(CROPS) if spec.use_crops else 1)
        try:
            batches.check_rows(spec, rows, found.network)
        except UsageError as problem:
            problems[str(problem)] = problem
    return list(problems.values())


def _to_tune(spec: FineTuning) -> Network:
    """The network with a head of two classes, after a try at freezing what is asked."""
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
    return network


def configured(spec: FineTuning) -> int | None:
    """The seeds' configuration that applies: the one asked for, 1 for their networks, None for all
    others.
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


def fine_tuning_study(
    spec: FineTuning, few: FewShotGrid, settings: Settings, progress: Progress | None = None
) -> tuple[Stage, PreflightResult]:
    """Every trial of a few-shot fine-tuning, ready to run; Problems with all that is wrong."""
    found = look_at_fine_tuning(spec, few, settings, progress)
    raise_all(found.problems)
    spec = spec.replace(weights=found.weights, configuration=configured(spec))
    parts = FewShotData(found, spec)
    trials = [
        Trial(
            spec.replace(shots=shots, split=split, images=content),
            Inputs(parts.classes, train, parts.val, parts.test),
        )
        for shots, split, train, content in parts.draws(spec, few)
    ]
    return Stage(
        key=parts.study_key(spec),
        run=fine_tuning_trial.run,
        experiment=fine_tuning_spec.EXPERIMENT,
        title=parts.title(spec),
        spec=common_settings(spec),
        trials=tuple(trials),
        inputs=(parts.dataset(),),
        tags=parts.tags(few),
        params={"Job number": str(few.job)},
    ), found
