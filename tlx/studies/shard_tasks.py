"""Shards of a dump as tasks of an engine: one shard a task, made by whichever process takes it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .. import files
from ..data.pixels import PixelPart, Pixels
from ..errors import BadDataError, TlxError
from ..features.extract import make_shard
from ..features.forward import PassContext
from ..features.shard_parts import ShardDone, ShardOrder
from ..lab import signals
from ..lab.engines import ENGINES
from ..lab.settings import Settings
from ..lab.tasks import Event, Failed, Finished, Note, Progress, Report, RunOptions, Started, Task
from .activations import metered, whole_network
from .activations_spec import Extraction

CALL = "tlx.studies.shard_tasks:make"
PRELOAD = ("torch", "torchvision", "tlx.studies.shard_tasks")
LOGS = "logs"  # folder in the cache
TELL_EVERY_S = 0.2  # progress within a shard


@dataclass(frozen=True)
class ShardRequest:
    """What a task needs to make a shard.

    weights  what the network's weights must be (Network.weights)
    device   as `Settings.trial_device` gives it
    pixels   of the images of the shard
    """

    spec: Extraction
    weights: str
    settings: Settings
    device: str
    order: ShardOrder
    number: int
    pixels: PixelPart


@dataclass
class EngineShards:
    """Runner of shards (features.extract.ShardRunner) by the engine of the settings.

    spec     whose network it is
    weights  of that network
    notes    gets what the user should know: attempts that were made again, nodes left out
    """

    spec: Extraction
    weights: str
    pixels: Pixels
    settings: Settings
    notes: list[str] = field(default_factory=list)

    @property
    def is_elsewhere(self) -> bool:
        """Return whether other machines make the shards."""
        return self.settings.on_cluster

    @property
    def device(self) -> str:
        """Return the device of the settings; nodes of a cluster resolve it."""
        return self.settings.trial_device()

    @property
    def threads(self) -> int:
        """Return the threads of each process."""
        return self.settings.threads

    def __call__(
        self,
        order: ShardOrder,
        numbers: Sequence[int],
        add: Callable[[ShardDone], None],
        progress: Callable[[int], None],
    ) -> None:
        """Have shards made; each is added as soon as it is whole.

        Raises the first error of those that could not be made, once all have been tried.
        """
        tasks = {self._key(order, number): number for number in numbers}
        watch = _Watch({key: len(order.cuts.range(n)) for key, n in tasks.items()}, progress)

        def hear(event: Event) -> None:
            watch(event)
            if isinstance(event, Finished):
                add(event.result)
            elif isinstance(event, Note):
                self._note(event.text)
            elif isinstance(event, Failed) and event.will_retry:
                self._note(f"shard {tasks[event.key]} is made again: {event.error.what}")

        workers = self.settings.resolved_workers(self.device, len(tasks))
        outcomes = ENGINES[self.settings.engine](
            [self._task(order, number) for number in numbers],
            workers=workers,
            threads=self.threads,
            on_event=hear,
            options=self._options(workers),
        )
        for outcome in outcomes:
            if outcome.error is not None:
                raise _of_shard(outcome.error, tasks[outcome.task.key])

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _key(self, order: ShardOrder, number: int) -> str:
        return files.digest(["shard", order.folder.name, number])

    def _task(self, order: ShardOrder, number: int) -> Task:
        rows, crops = order.cuts.range(number), self.pixels.crops
        images = range(rows.start // crops, -(-rows.stop // crops))
        request = ShardRequest(
            _with_absolute_paths(self.spec),
            self.weights,
            self.settings.replace(cache=str(self.settings.cache_folder)),
            self.device,
            order,
            number,
            self.pixels.part(images),
        )
        title = f"shard {number + 1} of {order.cuts.count}"
        return Task(self._key(order, number), title, CALL, (request,))

    def _options(self, workers: int) -> RunOptions:
        has_devices = self.device == "cuda" and workers > 1 and not self.settings.on_cluster
        return RunOptions(
            timeout_s=self.settings.timeout,
            preload=PRELOAD,
            initialise="tlx.models.training:deterministic",
            devices=tuple(map(str, range(workers))) if has_devices else (),
            log_folder=self.settings.cache_folder / LOGS,
            cluster=self.settings.cluster_options((str(self.settings.cache_folder),)),
        )


def _with_absolute_paths(spec: Extraction) -> Extraction:
    """Return the spec with paths that do not hang on the working folder of a process."""
    paths: dict[str, str] = {}
    for name in ("model", "model_description"):
        value = getattr(spec, name)
        if value is not None:
            paths[name] = str(Path(value).expanduser().absolute())
    return spec.replace(**paths)


def _of_shard(error: TlxError, number: int) -> TlxError:
    error.what = f"shard {number}: {error.what}"
    return error


class _Watch:
    """Sum of the rows that are done, of shards that are made side by side."""

    def __init__(self, rows: Mapping[str, int], progress: Callable[[int], None]):
        self._rows, self._progress = rows, progress
        self._done = dict.fromkeys(rows, 0)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            self._done[event.key] = 0
        elif isinstance(event, Progress):
            self._done[event.key] = event.step
        elif isinstance(event, Finished):
            self._done[event.key] = self._rows[event.key]
        else:
            return
        self._progress(sum(self._done.values()))


# ---------------------------------------------------------------- in the process of a shard


def make(request: ShardRequest, *, emit: Callable[[Report], None]) -> ShardDone:
    """Make a shard; a task of an engine."""
    spec, settings = request.spec, request.settings
    network = whole_network(spec, spec.layers, spec.model_description)
    if network.weights != request.weights:
        raise BadDataError(
            "weights-differ",
            "the weights are not those that the command has read",
            where=spec.model or spec.architecture,
            remedy="do all nodes see the same file, and has nobody changed it?",
        )
    device = settings.device_here(request.device)
    context = PassContext(
        device, _teller(emit, request.order.cuts.range(request.number)), signals.stopping
    )
    return make_shard(
        network,
        request.pixels,
        request.order,
        request.number,
        context,
        functools.partial(metered, device),
    )


def _teller(emit: Callable[[Report], None], rows: range) -> Callable[[int], None]:
    """Return a function that reports the rows done, not too often."""
    told_at = [0.0]

    def tell(reached: int) -> None:
        now = time.monotonic()
        if now - told_at[0] >= TELL_EVERY_S:
            told_at[0] = now
            emit({"step": reached - rows.start, "steps": len(rows)})

    return tell
