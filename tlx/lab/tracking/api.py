"""MLflow as a mirror of the run folders: it only follows, and no trial waits for it.

    target = tracking.resolve(mlflow_path)  # raises Usage if it makes no sense
    tracking.prepare(target)                # a local database, once, before anything opens it
    with tracking.Mirror(target, root, study_key) as mirror:  # a thread wakes every second or two
        …                                   # trials write their folders and journals
        mirror.failed(key, "reason")        # for the few that ended badly
    mirror.report                           # Sent(sent, unsent, problem)

What could not be sent stays where it is, in the run folders; `sync` sends it later. Only modules
whose name starts with `tracking` import mlflow.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ... import locks
from ...errors import BusyError, Stopped, TlxError, UntrackedError, counted
from .. import signals
from ..redaction import redact
from ..store import Store
from ..tasks import Waiting
from . import launcher as tracking_launcher
from .client import Abandoned, Sender, refused
from .launcher import Launcher
from .mirror import FAILED, FINISHED, KILLED, StudyMirror
from .records import StudyRecord
from .target import TrackingTarget, check, prepare, resolve
from .timeouts import quiet, short_timeouts

__all__ = [
    "FAILED",
    "FINISHED",
    "KILLED",
    "Mirror",
    "Sent",
    "TrackingTarget",
    "check",
    "prepare",
    "redact",
    "resolve",
    "sync",
]

WAKE_S = 1.5
LOCAL_SERVER = "http://127.0.0.1:5000"  # where `mlflow ui` answers
BACK_OFF_S, BACK_OFF_LIMIT_S = 2.0, 60.0  # after a lost connection, doubled each time
BY_FOLDER = "by folder"  # an ending in the study's own summary
STOP_REMOTE_S, STOP_LOCAL_S = 10.0, 60.0  # how long `stop` waits for the last records
NOTICE_S = 1.0  # of waiting before it is reported
POLL_S = 0.1  # between checks of a stop request


@dataclass(frozen=True)
class Sent:
    """Delivery of a study's records: how many were taken, how many wait, and why.

    unsent  records that wait in the run folders
    faults  errors of folders that could not be sent: damage, or files that are not tlx's
    """

    sent: int
    unsent: int
    problem: str = ""
    faults: tuple[TlxError, ...] = ()

    def require(self) -> None:
        """Raise Untracked unless everything was taken."""
        if self.unsent or self.problem:
            raise UntrackedError(
                "unsent",
                f"{counted(self.unsent, 'record')} not yet "
                f"sent{self.problem and ': ' + self.problem}",
                remedy="run `tlx sync` when the tracking server is back",
            )

    def __str__(self) -> str:
        why = f" ({self.problem})" if self.problem else ""
        return (
            f"{counted(self.unsent, 'record')} not yet sent{why}; `tlx sync` sends them"
            if self.unsent
            else "all records sent"
        )


class StudySync:
    """Mirror of one study with its launcher and its lock, run by both the thread and `sync`."""

    def __init__(
        self,
        target: TrackingTarget,
        store: Store,
        key: str,
        launcher: Launcher | None,
        is_abandoned: Callable[[], bool] = lambda: False,
    ):
        self.target, self.store, self.key = target, store, key
        self.launcher, self.is_abandoned = launcher, is_abandoned
        self.mirror: StudyMirror | None = None
        self.failed: dict[str, str] = {}
        self.problem = ""
        self._linked_to = ""  # the id of the parent run that the launcher is linked to
        self._held = contextlib.ExitStack()

    def sweep(self, ending: str | None = None) -> bool:
        """Send what is new; return False if the connection was lost.

        `problem` has the reason.
        """
        try:
            with short_timeouts, quiet:
                self._sweep(ending)
            self.problem = ""
        except Abandoned:
            return False
        except BusyError:
            self.problem = "another process is sending this study"
        except Exception as error:
            self.problem = redact(error) or type(error).__name__
            return False
        return True

    def finish(self, ending: str) -> bool:
        """Sweep to the end, again after each lost connection as long as that makes progress."""
        before: object = None
        while not self.sweep(ending):
            after = self.mirror and self.mirror.progress()
            if self.is_abandoned() or after == before:
                return False
            before = after
        return True

    def _sweep(self, ending: str | None) -> None:
        if self.mirror is None:
            study = StudyRecord.read(self.store, self.key)
            if study is None:
                return
            self._held.enter_context(
                locks.lock(self.store.root / "tracking" / self.target.name / f"{self.key}.lock")
            )
            sender = Sender(
                self.target,
                study.experiment,
                is_abandoned=self.is_abandoned,
                experiment=tracking_launcher.chosen_experiment(self.target, self.launcher),
            )
            self.mirror = StudyMirror(self.store, study, sender)
        self.mirror.failed.update(self.failed)
        self._link_launcher()
        self.mirror.sweep(self.mirror.ending() if ending == BY_FOLDER else ending)
        self._link_launcher()  # its summary may have made a new parent

    def _link_launcher(self) -> None:
        assert self.mirror is not None
        if not self.mirror.open() or self.mirror.parent_id == self._linked_to:
            return
        assert self.mirror.parent is not None
        try:
            tracking_launcher.link_launcher(self.launcher, self.mirror.sender, self.mirror.parent)
        except Exception as error:
            if not refused(error):
                raise  # a lost connection: again the next time
            self.mirror.problems["launcher"] = redact(error)
        self._linked_to = self.mirror.parent_id

    def report(self) -> Sent:
        """Return what was sent, what was not, and why."""
        mirror = self.mirror
        if mirror is None:  # never got as far as reading the study
            study = StudyRecord.read(self.store, self.key)
            mirror = (
                StudyMirror(self.store, study, Sender(self.target, study.experiment))
                if study
                else None
            )
        problems = [self.problem, *(mirror.problems.values() if mirror else [])]
        return Sent(
            mirror.sent if mirror else 0,
            mirror.unsent() if mirror else 0,
            next(filter(None, problems), ""),
            tuple(mirror.faults.values()) if mirror else (),
        )

    def close(self) -> None:
        """Release the lock and the connection."""
        self._held.close()


class Mirror:
    """Thread that sends one study's folders to the tracking store while its trials run."""

    def __init__(
        self,
        target: TrackingTarget,
        root: Path | str,
        study: str,
        *,
        environ: Mapping[str, str] | None = None,
        wake_s: float = WAKE_S,
        wait: bool = True,
        on_wait: Callable[[Waiting], None] = lambda event: None,
    ):
        """Prepare to follow a study.

        wait     wait at the end for a server that has not taken the last records; else they are
                 left to `sync`
        on_wait  called with what is waited for, once that takes long
        """
        self._wait, self._on_wait = wait, on_wait
        self.target, self.wake_s, self.report = target, wake_s, Sent(0, 0)
        self._abandoned = threading.Event()
        self._sync = StudySync(
            target, Store(root), study, Launcher.of(environ), self._abandoned.is_set
        )
        self._wake = threading.Event()
        self._ending: str | None = None
        self._thread = threading.Thread(target=self._run, name="tlx-tracking", daemon=True)

    def start(self) -> Mirror:
        """Start following.

        Raises BadData at once if the local database is broken.
        """
        check(self.target)
        self._thread.start()
        return self

    def failed(self, key: str, reason: object) -> None:
        """Record that the trial of this key ended without a result."""
        self._sync.failed[key] = redact(reason)

    def stop(self, status: str = FINISHED, deadline_s: float | None = None) -> Sent:
        """Send what is left and end the parent run with `status`; return within the deadline (s).

        The report has what is unsent.

        A request to stop that comes meanwhile ends the waiting.
        """
        if deadline_s is None:
            deadline_s = STOP_REMOTE_S if self._wait else 0.0
            if self.target.database:
                deadline_s = STOP_LOCAL_S
        self._ending = status
        self._wake.set()
        if self._thread.ident is not None:
            self._await_end(deadline_s)
        self._abandoned.set()
        self.report = self._sync.report()
        return self.report

    def _await_end(self, deadline_s: float) -> None:
        was_stopping = signals.stopping()
        ends_at = time.monotonic() + deadline_s
        notice_s = min(NOTICE_S, deadline_s)
        self._thread.join(notice_s)
        if self._thread.is_alive() and deadline_s > notice_s:
            self._on_wait(Waiting(deadline_s, is_local=bool(self.target.database)))
        while self._thread.is_alive() and time.monotonic() < ends_at:
            if signals.stopping() and not was_stopping:
                return
            self._thread.join(POLL_S)

    @property
    def address(self) -> str:
        """Return what to open: the study's run on a server, or a command for a local store.

        The command shows the local store, with the address there.
        """
        mirror, page = self._sync.mirror, ""
        if mirror and mirror.parent:
            info = mirror.parent.info
            page = f"/#/experiments/{info.experiment_id}/runs/{info.run_id}"
        if self.target.shown.startswith("http"):
            return self.target.shown + page
        return f"{self.target.to_open()}   then open {LOCAL_SERVER}{page}"

    def __enter__(self) -> Mirror:
        return self.start()

    def __exit__(self, kind: object, error: object, _: object) -> None:
        failed = isinstance(error, Exception) and not isinstance(error, Stopped)
        if error is None:
            self.stop(FINISHED)
        else:
            self.stop(FAILED if failed else KILLED)

    def _run(self) -> None:
        pause, back_off = 0.0, BACK_OFF_S
        with contextlib.closing(self._sync):
            while not self._wake.wait(pause):
                pause = self.wake_s
                if self._sync.sweep():
                    back_off = BACK_OFF_S
                else:
                    pause, back_off = back_off, min(2 * back_off, BACK_OFF_LIMIT_S)
            self._sync.finish(self._ending or KILLED)


def sync(root: Path | str, target: TrackingTarget, *, studies: list[str] | None = None) -> Sent:
    """Send everything under `root` that `target` does not have yet.

    Studies with a live mirror are left to it.

    What is damaged, or holds what tlx did not write, is not sent; it is in `faults`, and the rest
    is sent.
    """
    store, sent, unsent, problem = Store(root), 0, 0, ""
    faults: list[TlxError] = []
    for key in store.studies() if studies is None else studies:
        study_sync = StudySync(target, store, key, None)
        try:
            store.read_study(key)
            # not reached once: not tried again for every study
            reached = not problem and study_sync.finish(BY_FOLDER)
            report = study_sync.report()
        except TlxError as error:  # its record is damaged
            faults.append(error)
            continue
        finally:
            study_sync.close()
        faults += report.faults
        sent, unsent = sent + report.sent, unsent + report.unsent
        is_lost = not reached and not report.problem
        lost = "the tracking store cannot be reached" if is_lost else report.problem
        problem = problem or ("" if report.faults else lost)
    return Sent(sent, unsent, problem, tuple(faults))
