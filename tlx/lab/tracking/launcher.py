"""Run that `mlflow run` creates: marked as the launcher of the study, without metrics.

`mlflow run` puts its run into the experiment Default, logs every parameter as text and ends it by
itself. Killed together with its child it stays RUNNING for ever; the same command, run again, finds
such runs and closes them.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from .client import Sender
from .target import TrackingTarget, resolve

if TYPE_CHECKING:
    from mlflow.entities import Run

DEFAULT_EXPERIMENT = "0"
SAME_COMMAND = ("mlflow.project.entryPoint", "mlflow.source.name")
NOTE = (
    "Started by `mlflow run`. The study and its trials are in experiment {experiment}, "
    'under the run "{parent}".'
)


@dataclass(frozen=True)
class Launcher:
    """Environment variables of `mlflow run`."""

    run_id: str
    experiment_id: str
    target: TrackingTarget

    @classmethod
    def of(cls, environ: Mapping[str, str] | None = None) -> Launcher | None:
        """Return the launcher of this process; None if it was not started by `mlflow run`."""
        environ = os.environ if environ is None else environ
        run_id = environ.get("MLFLOW_RUN_ID", "")
        experiment_id = environ.get("MLFLOW_EXPERIMENT_ID", "") or DEFAULT_EXPERIMENT
        return cls(run_id, experiment_id, resolve(None, environ)) if run_id else None


def chosen_experiment(target: TrackingTarget, launcher: Launcher | None) -> str:
    """Return the experiment of `mlflow run --experiment-name`, by id.

    "" if none was chosen in this store.
    """
    if (
        launcher is None
        or launcher.experiment_id == DEFAULT_EXPERIMENT
        or launcher.target.uri != target.uri
    ):
        return ""
    return launcher.experiment_id


def link_launcher(launcher: Launcher | None, sender: Sender, parent: Run) -> None:
    """Mark the launcher with the study it started, and close those that were killed."""
    if launcher and launcher.target.uri != sender.target.uri:
        # the study goes elsewhere than `mlflow run` itself
        sender = Sender(
            launcher.target,
            "Default",
            experiment=launcher.experiment_id,
            is_abandoned=sender.is_abandoned,
        )
    if launcher:
        mark(launcher, sender, parent)
    close_killed(launcher, sender, parent)


def mark(launcher: Launcher, sender: Sender, parent: Run) -> None:
    """Tag the launcher's run with the study it started."""
    note = NOTE.format(experiment=parent.info.experiment_id, parent=parent.info.run_name)
    sender.batch(
        launcher.run_id,
        tags={
            "tlx.role": "launcher",
            "tlx.study": parent.info.run_id,
            "tlx.process": _process(),
            "mlflow.note.content": note,
        },
    )


def close_killed(launcher: Launcher | None, sender: Sender, parent: Run) -> None:
    """Close the launchers of this study that were killed: RUNNING, but their process is gone.

    One killed before it was marked is known by having the same entry point, project and parameters.
    Should it be alive after all, `mlflow run` itself sets its status when it ends.
    """
    places = {DEFAULT_EXPERIMENT, sender.experiment_id}
    if launcher:
        places.add(launcher.experiment_id)
    own_run = sender.client.get_run(launcher.run_id) if launcher else None
    for place in sorted(places):
        for run in sender.search("attributes.status = 'RUNNING'", place):
            if launcher and run.info.run_id == launcher.run_id:
                continue
            if _of_study(run, parent) or (own_run is not None and _same_command(run, own_run)):
                sender.batch(run.info.run_id, tags={"tlx.status": "killed", "tlx.role": "launcher"})
                sender.end(run.info.run_id, "KILLED", run.info.start_time)


def _of_study(run: Run, parent: Run) -> bool:
    marks = run.data.tags
    is_launcher = (
        marks.get("tlx.role") == "launcher" and marks.get("tlx.study") == parent.info.run_id
    )
    return is_launcher and not _alive(marks.get("tlx.process", ""))


def _same_command(run: Run, own_run: Run) -> bool:
    entry = [own_run.data.tags.get(tag) for tag in SAME_COMMAND]
    return (
        None not in entry
        and [run.data.tags.get(tag) for tag in SAME_COMMAND] == entry
        and "tlx.study" not in run.data.tags
        and run.data.params == own_run.data.params
        and run.info.start_time < own_run.info.start_time
    )


def _process() -> str:
    """Return an identifier of this process, distinct from a later one of the same number."""
    return f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.0f}"


def _alive(process: str) -> bool:
    """Return False if the process is known to be gone.

    One on another machine counts as gone: it cannot hold our locks.
    """
    host, _, process_number = process.partition(":")
    number, _, created = process_number.partition(":")
    if host != socket.gethostname() or not number.isdigit():
        return False
    try:
        return f"{psutil.Process(int(number)).create_time():.0f}" == created
    except psutil.Error:
        return False
