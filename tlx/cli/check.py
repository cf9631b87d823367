"""Command tlx check."""

from __future__ import annotations

from ..lab.settings import Settings
from ..studies.few_shot import FewShotGrid
from ..studies.fine_tuning.spec import FineTuning
from .options import options
from .output import say
from .progress import duration, steps


@options(FineTuning, FewShotGrid, Settings)
def command(spec: FineTuning, few: FewShotGrid, settings: Settings) -> None:
    """Check data, splits, images, weights and free disk before a study; list all errors."""
    from ..errors import raise_all
    from ..studies import estimate, few_shot_inputs
    from ..studies.fine_tuning import plan as fine_tuning_plan

    with steps("looking at images") as progress:
        result = fine_tuning_plan.look_at_fine_tuning(spec, few, settings, progress, keep=False)
    for line in few_shot_inputs.described(result, spec, few, settings):
        say(line)
    raise_all(result.problems)
    takes = estimate.estimate(spec, few, settings, result)
    say(
        f"estimate, from one batch on this CPU: tlx fine-tuning with these options takes "
        f"{duration(takes.seconds)}, "
        "less where blocks are frozen or training stops early",
        f"estimate of disk: {takes.images_bytes / 1e6:.0f} MB of decoded images, "
        f"{takes.states_bytes / 1e6:.0f} MB "
        "while it trains",
    )
    say("ready")
