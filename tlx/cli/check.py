"""Command tlx check."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import TlxError, UsageError, duration, raise_all
from ..lab import outputs
from ..lab.settings import JsonOutput, Settings
from ..studies.few_shot import FewShotGrid
from ..studies.fine_tuning.spec import FineTuning
from .options import options
from .output import aside, say, say_json
from .progress import steps

if TYPE_CHECKING:
    from ..studies.estimate import CostEstimate
    from ..studies.few_shot_inputs import PreflightResult


@options(FineTuning, FewShotGrid, Settings, JsonOutput)
def command(spec: FineTuning, few: FewShotGrid, settings: Settings, shown: JsonOutput) -> None:
    """Check data, splits, images, weights and free disk before a study; list all errors."""
    from ..studies import estimate, few_shot_inputs, replicas
    from ..studies.fine_tuning import plan as fine_tuning_plan

    outputs.check([settings])
    with aside(shown.json), steps("looking at images") as progress:
        result = fine_tuning_plan.look_at_fine_tuning(spec, few, settings, progress, keep=False)
    try:
        result.notes += replicas.check([spec], settings)
    except UsageError as problem:
        result.problems.append(problem)
    if not shown.json:
        for line in few_shot_inputs.described(result, spec, few, settings):
            say(line)
    takes = None if result.problems else estimate.estimate(spec, few, settings, result)
    if takes is not None:
        result.problems += estimate.disk_problems(takes, spec, settings, result)
    if shown.json:
        trials = len(few_shot_inputs.draws(spec, few, result.splits)) if result.splits else None
        say_json(_record(result, trials, takes))
    elif takes is not None:
        _say(takes)
    raise_all(result.problems)
    if not shown.json:
        say("ready")


def _say(takes: CostEstimate) -> None:
    from ..studies import schedule

    least, most = map(duration, takes.seconds_range)
    say(
        f"estimate, from one batch on this CPU: tlx fine-tuning with these options takes "
        f"{duration(takes.seconds)} ({least} to {most} by the error of such estimates), "
        "less where blocks are frozen or training stops early",
        f"estimate of disk: {takes.images_bytes / 1e6:.0f} MB of decoded images, "
        f"{takes.states_bytes / 1e6:.0f} MB "
        "while it trains",
        f"estimate of memory: at most {takes.memory_bytes / 1e9:.1f} GB",
        *schedule.table(takes.engines),
    )


def _record(
    result: PreflightResult, trials: int | None, takes: CostEstimate | None
) -> dict[str, object]:
    """Return what was checked as plain JSON; what is not known is null."""
    folder, network, report = result.folder, result.network, result.report
    return {
        "ready": not result.problems,
        "problems": [_problem(problem) for problem in result.problems],
        "notes": list(result.notes),
        "images": None if folder is None else len(folder.images),
        "classes": None if folder is None else list(folder.classes),
        "folder": None if folder is None else str(folder.root),
        "splits": None if result.splits is None else str(result.splits.folder),
        "trials": trials,
        "weights": result.weights or None,
        "input_size": None if network is None else network.input_size,
        "blocks": None if network is None else len(network.blocks),
        "checked": None if report is None else dict(report.counts),
        "estimate": None if takes is None else takes.to_json(),
    }


def _problem(error: TlxError) -> dict[str, str]:
    return {
        "code": error.code,
        "where": error.where,
        "what": error.what,
        "expected": error.expected,
        "remedy": error.remedy,
    }
