"""Progress of a study: a bar per running trial on a terminal, a line per epoch elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import TlxError, counted, duration, escape_control
from ..lab.tasks import Event, Failed, Finished, Note, Progress, Started, Waiting
from ..result import FINISHED, Result
from .output import say

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from ..studies.base import Group

LAYER_VALUES = {
    "ss_ratio": "SSW/TSS",
    "id": "intrinsic dimension",
    "rsa_contrast": "class contrast",
}


class TimeLeft:
    """Estimator of the seconds a study still needs, from its finished trials.

    A trial's time is taken as a + b·(its weight), fitted to those finished (through their mean when
    they are of one weight), or while there is none to what those running seem to need; what running
    ones have done is counted.
    """

    ENOUGH = 0.05  # share of a running trial from which its end is guessed

    def __init__(self, weights: Mapping[str, float], shares: Mapping[str, float] | None = None):
        """Estimate for trials of these weights.

        shares: share of a trial's work that its steps count, where it is not all (a test comes
        after them).
        """
        self._weights, self._shares = dict(weights), dict(shares or {})
        self._started: dict[str, float] = {}
        self._share: dict[str, float] = {}
        self._took: dict[str, float] = {}
        self._open = set(weights)

    def start(self, key: str) -> None:
        """Record that a trial started."""
        self._started[key] = time.monotonic()

    def progress(self, key: str, share: float) -> None:
        """Record the share of a trial that is done."""
        self._share[key] = share * self._shares.get(key, 1.0)

    def end(self, key: str) -> None:
        """Record that a trial ended."""
        if key in self._started:
            self._took[key] = time.monotonic() - self._started[key]
        self._open.discard(key)

    def seconds(self) -> float | None:
        """Return the seconds left; None while nothing is known."""
        running = [key for key in self._open if key in self._started]
        pairs = [(self._weights[key], took) for key, took in self._took.items()] or [
            (self._weights[key], (time.monotonic() - self._started[key]) / share)
            for key in running
            if (share := self._share.get(key, 0.0)) >= self.ENOUGH
        ]
        if not pairs:
            return None
        a, b = self._line(pairs)
        left = sum(
            max(0.0, (a + b * self._weights[key]) * (1 - self._share.get(key, 0.0)))
            for key in self._open
        )
        return left / max(1, len(running))

    @staticmethod
    def _line(pairs: list[tuple[float, float]]) -> tuple[float, float]:
        n, mean_x = len(pairs), sum(x for x, _ in pairs) / len(pairs)
        mean_y = sum(y for _, y in pairs) / n
        spread = sum((x - mean_x) ** 2 for x, _ in pairs)
        if not spread:  # trials of one weight: proportional, as nothing else is known
            return (0.0, mean_y / mean_x) if mean_x else (mean_y, 0.0)
        slope = max(0.0, sum((x - mean_x) * (y - mean_y) for x, y in pairs) / spread)
        return mean_y - slope * mean_x, slope


def time_left(groups: Sequence[Group]) -> TimeLeft:
    """Estimate the time left of a study's groups by the rows that pass through the network."""
    return TimeLeft({g.key: g.weight for g in groups}, {g.key: g.fitting_share for g in groups})


class Preparation:
    """Seconds spent on reading and extracting since the last line."""

    LEAST_S = 1.0  # shorter ones are not worth a line
    _spent = 0.0

    @classmethod
    def add(cls, seconds: float) -> None:
        """Add seconds."""
        cls._spent += seconds

    @classmethod
    def line(cls) -> str:
        """Return how long it took, and reset it; "" if it took no time."""
        spent, cls._spent = cls._spent, 0.0
        return (
            f"reading and extracting before that took {duration(spent)}"
            if spent >= cls.LEAST_S
            else ""
        )


def clock(seconds: float | None) -> str:
    """Format seconds as m:ss or h:mm:ss, or as unknown."""
    if seconds is None:
        return "-:--"
    whole = round(seconds)
    hours, remaining = divmod(whole, 3600)
    return (
        f"{hours}:{remaining // 60:02d}:{remaining % 60:02d}"
        if hours
        else f"{remaining // 60}:{remaining % 60:02d}"
    )


class TrialLines:
    """One line a trial, for logs; with `verbose` one an epoch too."""

    def __init__(self, groups: Sequence[Group], verbose: bool = False):
        self._titles, self._verbose = {g.key: g.title for g in groups}, verbose
        from ..studies.base import most_epochs

        self._epochs = {g.key: most_epochs(g.trials[0].spec) for g in groups}
        self._left = time_left(groups)
        self._done, self._trials = 0, sum(len(g.trials) for g in groups)

    def __call__(self, event: Event) -> None:
        """Print the line of an event."""
        if isinstance(event, Waiting):
            say(waiting(event))
            return
        if isinstance(event, Note):
            say(f"note: {event.text}")
            return
        title = self._titles[event.key]
        if isinstance(event, Started):
            self._left.start(event.key)
        elif isinstance(event, Progress):
            self._left.progress(event.key, event.step / max(1, event.steps))
            v = event.values
            if not self._verbose:
                return
            if "train_loss" in v:
                say(
                    f"{title}: epoch {v['epoch']:.0f}/{self._epochs[event.key]}, "
                    f"train loss {v['train_loss']:.4f}, val loss {v['val_loss']:.4f}, "
                    f"val accuracy {v['val_accuracy']:.4f}, {clock(self._left.seconds())} left"
                )
            elif values := ", ".join(
                f"{words} {v[name]:.3g}" for name, words in LAYER_VALUES.items() if name in v
            ):
                say(
                    f"{title}: layer {v['epoch']:.0f}/{self._epochs[event.key]}, {values}, "
                    f"{clock(self._left.seconds())} left"
                )
        elif isinstance(event, Finished):
            self._left.end(event.key)
            self._done += len(event.result)
            say(
                f"{title}: {format_outcome(event.result)} "
                f"({self._done}/{counted(self._trials, 'trial')}, "
                f"{clock(self._left.seconds())} left)"
            )
        elif isinstance(event, Failed):
            if not event.will_retry:
                self._left.end(event.key)
            say(f"{title}: {'started again' if event.will_retry else 'failed'}: {event.error}")


def waiting(event: Waiting) -> str:
    """Return what the end of a study waits for, and how to leave it."""
    if event.is_local:
        return (
            f"writing the last records to MLflow's database, up to {event.seconds:.0f} s; Ctrl-C "
            f"leaves it to tlx sync"
        )
    return (
        f"waiting for the tracking server, up to {event.seconds:.0f} s; Ctrl-C or --no-wait leaves "
        f"it to tlx sync"
    )


def format_outcome(results: Mapping[str, Result | TlxError]) -> str:
    """Summarise the finished trials of a group: the single one, or how many and the best.

    The best is that of the validation.
    """
    ranked = sorted(
        ((_validation(r), _words(r)) for r in results.values()),
        key=lambda pair: pair[0],
        reverse=True,
    )
    if len(ranked) == 1:
        return ranked[0][1]
    value, words = ranked[0]
    return (
        f"{counted(len(ranked), 'trial')}, best on validation ({value:.4f}): {words}"
        if value >= 0
        else (f"{counted(len(ranked), 'trial')}, best: {words}")
    )


def _score(result: object) -> float:
    scores = getattr(result, "scores", {})
    value: float = scores.get(
        "test_accuracy", scores.get("best_val_accuracy", scores.get("val_accuracy", -1.0))
    )
    return value


def _validation(result: object) -> float:
    """Return the validation accuracy, by which a trial is selected; −1 where there is none."""
    scores = getattr(result, "scores", {})
    value: float = scores.get("best_val_accuracy", scores.get("val_accuracy", -1.0))
    return value


def _words(result: Result | TlxError) -> str:
    if isinstance(result, TlxError):
        return str(result)
    if result.status != FINISHED:
        return result.status
    if "layers" in result.scores:
        return f"{result.scores['layers']:.0f} layers measured"
    if _score(result) < 0:  # nothing that learns
        return ", ".join(
            f"{name.replace('_', ' ')} {value:.4g}" for name, value in result.scores.items()
        )
    if "epochs" not in result.details and "classifier" not in result.spec:  # nothing was trained
        return f"accuracy {_score(result):.4f} on {counted(result.details['test_images'], 'image')}"
    name = "test" if "test_accuracy" in result.scores else "val"
    how = result.spec.get("classifier") or f"after {counted(result.details['epochs'], 'epoch')}"
    return (
        f"{name} accuracy {_score(result):.4f} "
        f"{'with ' if 'classifier' in result.spec else ''}{how}"
    )


class Bars:
    """Bar for the study and one for each running trial, with the time left."""

    def __init__(self, groups: Sequence[Group], progress: RichProgress):
        self._titles = {g.key: escape_control(g.title) for g in groups}
        self._left = time_left(groups)
        self._progress = progress
        self._rows: dict[str, TaskID] = {}
        self._whole = progress.add_task("all", total=len(groups), note="")

    def __call__(self, event: Event) -> None:
        """Update the bars by an event."""
        if isinstance(event, Waiting):
            self._progress.console.print(escape_control(waiting(event)), markup=False)
            return
        if isinstance(event, Note):
            self._progress.console.print(escape_control(f"note: {event.text}"), markup=False)
            return
        key = event.key
        if isinstance(event, Started):
            self._left.start(key)
            self._rows[key] = self._progress.add_task(self._titles[key], total=None, note="")
        elif isinstance(event, Progress):
            self._left.progress(key, event.step / max(1, event.steps))
            accuracy = event.values.get("val_accuracy")
            row = self._rows[key]
            self._progress.update(row, total=event.steps, completed=event.step)
            if accuracy is not None:
                self._progress.update(row, note=f"val accuracy {accuracy:.3f}")
        elif isinstance(event, Finished):
            self._end(key)
        elif isinstance(event, Failed):
            self._progress.console.print(
                escape_control(f"{self._titles[key]}: {event.error}"), markup=False, style="red"
            )
            if event.will_retry:
                self._progress.remove_task(self._rows.pop(key))
            else:
                self._end(key)
        self._progress.update(self._whole, note=f"{clock(self._left.seconds())} left")

    def _end(self, key: str) -> None:
        self._left.end(key)
        if key in self._rows:
            self._progress.remove_task(self._rows.pop(key))
        self._progress.advance(self._whole)


class SearchLines:
    """One line a trial, with the best so far and the time left."""

    def __init__(self, wanted: int, say: Callable[[str], None] = say):
        self._wanted, self._say, self._best, self._first = wanted, say, -1.0, (0.0, 0)

    @classmethod
    @contextlib.contextmanager
    def of(cls, wanted: int) -> Iterator[SearchLines]:
        """Watch a search of so many trials."""
        yield cls(wanted)

    def __call__(self, event: Event) -> None:
        """Print the line of an event."""
        if isinstance(event, Progress) and "tried" in event.values:
            self._trial(event.step, event.values["tried"])  # type: ignore[arg-type]
        elif isinstance(event, Finished) and isinstance(event.result, dict):
            self._say(f"final test: {format_outcome(event.result)}")
        elif isinstance(event, Waiting):
            self._say(waiting(event))
        elif isinstance(event, Note):
            self._say(f"note: {event.text}")
        elif isinstance(event, Failed):
            message = "a worker is started again" if event.will_retry else "failed"
            self._say(f"{message}: {event.error}")

    def _trial(self, done: int, tried: dict[str, Any]) -> None:
        now = time.monotonic()
        if not self._first[1]:
            self._first = (now, done)
        of = done - self._first[1]
        left = clock((now - self._first[0]) / of * (self._wanted - done) if of else None)
        self._say(
            f"trial {tried['number']} ({done}/{self._wanted}): {self._came_to(tried)}, {left} left"
        )

    def _came_to(self, tried: dict[str, Any]) -> str:
        title, scores = tried["title"], tried["by_split"]
        if tried["state"] == "failed":
            return f"failed with {title}: {tried['error']}"
        if not scores:
            return f"{tried['state']} with {title}"
        mean = sum(scores) / len(scores)
        if tried["state"] != "complete":
            how = "given up" if tried["state"] == "pruned" else tried["state"]
            return (
                f"{how} at val accuracy {mean:.4f} of {counted(len(scores), 'split')} with {title}"
            )
        costs = "".join(
            f", {cost:.3g} {unit}"
            for cost, unit in zip(
                tried["objectives"][1:],
                ["s" if tried["energy_j"] is None else "s or J"],
                strict=False,
            )
        )
        self._best = max(self._best, mean)
        return f"val accuracy {mean:.4f}{costs} with {title} (best {self._best:.4f})"


@contextlib.contextmanager
def watching(groups: Sequence[Group], verbose: bool = False) -> Iterator[Callable[[Event], None]]:
    """Return the progress display of a study's groups: bars on a terminal, lines elsewhere."""
    if not sys.stdout.isatty():
        yield TrialLines(groups, verbose)
        return
    with _rich() as progress:
        yield Bars(groups, progress)


@contextlib.contextmanager
def steps(title: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a (done, of) callback that shows a preparation: a bar, or a line each tenth."""
    started = time.monotonic()
    try:
        with _shown(title) as tell:
            yield tell
    finally:
        Preparation.add(time.monotonic() - started)


@contextlib.contextmanager
def _shown(title: str) -> Iterator[Callable[[int, int], None]]:
    if sys.stdout.isatty():
        with _rich() as progress:
            row = progress.add_task(title, total=None, note="")

            def update(done: int, of: int) -> None:
                progress.update(row, completed=done, total=of)

            yield update
        return
    shown = [-1]

    def tell(done: int, of: int) -> None:
        tenth = 10 * done // max(1, of)
        if tenth != shown[0] and of >= 100:
            shown[0] = tenth
            say(f"{title}: {done}/{of}")

    yield tell


def _rich() -> RichProgress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        transient=True,
    )
