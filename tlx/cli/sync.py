"""Command tlx sync."""

from __future__ import annotations

from ..errors import counted
from ..lab.settings import Settings
from .options import options
from .output import say


@options(Settings)
def command(settings: Settings) -> None:
    """Send to MLflow what could not be sent before; safe to repeat."""
    from ..errors import UntrackedError, raise_all
    from ..lab.tracking import api as tracking_api

    target = tracking_api.resolve(settings.mlflow_path)
    sent = tracking_api.sync(settings.store_folder(target.database), target)
    say(
        f"{counted(sent.sent, 'record')} sent, {sent.unsent} "
        f"left; see them with: {target.to_open()}"
    )
    raise_all(sent.faults)
    if sent.unsent:
        why = f": {sent.problem}" if sent.problem else ""
        raise UntrackedError(
            "not-delivered",
            f"{counted(sent.unsent, 'record')} not delivered to {target.shown}{why}",
            remedy="is the server up? then run tlx sync again",
        )
