"""Plan of a study: what it would run, with estimates of time and disk; nothing is trained."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np

from ..errors import counted, duration
from ..features.dump import ExtractionConfig
from ..features.extract import bytes_needed
from ..lab.engines import slots
from ..lab.settings import Settings
from ..lab.store import Store
from ..lab.tasks import RunOptions
from ..models import backbones
from ..models.network import Network
from ..result import Result
from . import estimate, replicas, schedule
from .activations import is_default, layers_of, sampled
from .activations_spec import Extraction
from .base import Stage, Study, Trial, open_store, row_counts
from .few_shot_inputs import PreflightResult
from .image_data import located
from .parted_speed import Sharing
from .schedule import EngineTime
from .session import Progress, Session

FEWEST = 3  # finished trials from which the error of the estimate is taken
MOST = 100  # of them that are read
# Of a classifier on features, records included; without crops and with ten crops are to both sides
# of it (tests/benchmarks/feature_trials.py).
FEATURE_TRIAL_S = 0.04


@dataclass(frozen=True)
class LaterStage:
    """Stage that is planned from the results of earlier ones.

    trials   number of its trials, at most
    seconds  estimated run time; None where it is not known
    """

    title: str
    trials: int
    seconds: float | None

    def __str__(self) -> str:
        plural = "" if self.trials == 1 else "s"
        time = "" if self.seconds is None else f", about {duration(self.seconds)}"
        return f"then {self.title}: {self.trials} trial{plural}{time}"


@dataclass(frozen=True)
class EstimateError:
    """Error of estimates of time, as factors: what was taken divided by what was estimated.

    trials  number of finished trials of the same study that they are of; 0: of the studies of
            tests/benchmarks/plan_error.py
    """

    median: float
    least: float
    most: float
    trials: int

    def __str__(self) -> str:
        if not self.trials:
            return "by the error of such estimates"
        return f"by {counted(self.trials, 'finished trial')} of this study"


BENCHMARKED = EstimateError(1.0, *estimate.TIME_ERROR, 0)


@dataclass(frozen=True)
class StudyPlan:
    """Plan of a study.

    trials        number of trials of the first stage that are not finished; None where that is
                  known only after activations are extracted
    finished      number of trials that are found finished
    seconds       estimated run time of these trials; None where it is not known
    size_bytes    estimated disk space of the states of trainings under way, or of activations;
                  decoded images, which planning has read already, are not counted
    later         whether further stages follow, which are planned from the results of the first
    further       those of them whose size is known
    at_once       number of trials at once that the time is of
    memory_bytes  estimated memory of all trials that run at once, pages that they share counted
                  for each; None where it is not known
    error         measured error of the time: seconds is its median, `seconds_range` its range
    engines       run time by engine and number of slots
    """

    study: str
    title: str
    trials: int | None
    finished: int
    seconds: float | None
    size_bytes: int | None
    later: bool
    notes: tuple[str, ...]
    further: tuple[LaterStage, ...] = ()
    at_once: int | None = None
    memory_bytes: int | None = None
    error: EstimateError | None = None
    engines: tuple[EngineTime, ...] = ()

    @property
    def seconds_range(self) -> tuple[float, float] | None:
        """Return the least and the most that the run time may be, by the error of estimates."""
        if self.seconds is None or self.error is None:
            return None
        uncorrected = self.seconds / self.error.median
        return uncorrected * self.error.least, uncorrected * self.error.most

    def to_json(self) -> dict[str, object]:
        """Return the plan as plain JSON; what is not known is null."""
        return {
            **vars(self),
            "further": [vars(stage) for stage in self.further],
            "error": None if self.error is None else vars(self.error),
            "engines": [vars(row) for row in self.engines],
            "notes": list(self.notes),
            "seconds_range": self.seconds_range and list(self.seconds_range),
        }

    def __str__(self) -> str:
        count = (
            "trials, their number known after extraction"
            if self.trials is None
            else counted(self.trials, "trial")
        )
        lines = [f"{self.study}, {self.title}: {count}, {self.finished} finished before"]
        if self.seconds is not None:
            lines.append(f"estimated run time: {duration(self.seconds)}{self._bounds()}")
        if self.size_bytes is not None:
            lines.append(f"estimated disk space: {self.size_bytes / 1e6:.0f} MB")
        if self.memory_bytes is not None:
            lines.append(f"estimated memory: at most {self.memory_bytes / 1e9:.1f} GB")
        lines += schedule.table(self.engines)
        lines += map(str, self.further)
        if self.later and not self.further:
            lines.append("further stages follow, planned from the results of these")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def _bounds(self) -> str:
        words = []
        if self.seconds_range is not None and self.seconds:
            least, most = self.seconds_range
            words.append(f"{duration(least)} to {duration(most)} {self.error}")
        if self.at_once is not None:
            words.append(f"{counted(self.at_once, 'trial')} at once")
        return f" ({'; '.join(words)})" if words else ""


class _Planning(Session):
    """Session that keeps notes, runs nothing, and shows preparations as another one does."""

    def __init__(self, session: Session):
        super().__init__(session.settings)
        self.notes: list[str] = []
        self._shown = session

    def steps(self, title: str) -> AbstractContextManager[Progress | None]:
        return self._shown.steps(title)

    def preparing(
        self, title: str, modules: Sequence[str] = ()
    ) -> AbstractContextManager[Progress | None]:
        return self.steps(title)  # no trial will follow

    def note(self, *notes: str) -> None:
        self.notes += [note for note in notes if note not in self.notes]


def plan_study(study: Study, session: Session) -> StudyPlan:
    """Plan the first stage of a study, and estimate what it takes.

    Raises what the study would raise before its first trial.
    """
    study.check(session.settings)
    planning = _Planning(session)
    planning.note(*replicas.check(study.given.values(), session.settings))
    planned = study.plan(planning)
    if planned is not None:
        return planned
    stages = study.stages(planning)
    stage = next(stages)
    stages.close()
    planning.note(*stage.notes)
    return of_stage(study, stage, planning.settings, tuple(planning.notes))


def of_stage(study: Study, stage: Stage, settings: Settings, notes: tuple[str, ...]) -> StudyPlan:
    """Estimate what a stage and those that follow take, from one batch of each network on this CPU.

    Where trials of the stage are finished, the estimate is corrected by what those took. What
    follows counts in full: which of its trials are finished is known from earlier results.
    """
    store = open_store(settings)
    keys = {trial.spec.key for trial in stage.trials}
    finished = {key for key in keys if store.folder(key).is_dir()}
    left = [trial for trial in stage.trials if trial.spec.key not in finished]
    processes = replicas.processes_of(trial.spec for trial in stage.trials)
    costs = _Costs(settings, processes)
    plan = StudyPlan(
        study.name, stage.title, len(left), len(finished), None, None, study.is_chained, notes
    )
    if all(map(_is_training, left)):
        costs.correct([trial for trial in stage.trials if trial.spec.key in finished], store)
        at_once = costs.at_once(len(left))
        other_cpu = (OTHER_CPU,) if settings.on_cluster else ()
        plan = replace(
            plan,
            seconds=costs.seconds(left),
            size_bytes=at_once * max((costs.of(t).state_bytes() for t in left), default=0),
            memory_bytes=at_once * max(map(costs.memory_bytes, left), default=0),
            notes=(*notes, *costs.notes(left), *other_cpu),
            at_once=at_once,
            error=costs.error,
            engines=schedule.by_engine(
                costs.of_tasks(left), max(1, settings.local_slots // processes)
            ),
        )
    further = tuple(
        LaterStage(later.title, later.count, costs.seconds(later.trials) if later.trials else None)
        for later in stage.further
    )
    return replace(plan, further=further)


class _Costs:
    """Cost of trainings: speed of each architecture on this CPU, measured once.

    error  what the estimates are corrected by
    """

    def __init__(self, settings: Settings, processes: int = 1):
        self.error = BENCHMARKED
        self._settings, self._processes = settings, processes
        self._known: dict[tuple[object, ...], estimate.Speed] = {}
        self._slots: int | None = None  # of the cluster, once it was asked

    def correct(self, finished: Sequence[Trial], store: Store) -> None:
        """Correct the estimates by what finished trials took, where there are enough of them."""
        ratios = []
        for trial in finished[:MOST]:
            result = store.find_or_none(trial.spec.key)
            taken = None if result is None else result.cost.get("wall_s", {}).get("value")
            if result is not None and taken and _is_training(trial):
                ratios.append(taken / self._uncorrected(_as_run(trial, result)))
        if len(ratios) >= FEWEST:
            self.error = EstimateError(
                statistics.median(ratios), min(ratios), max(ratios), len(ratios)
            )

    def seconds(self, trials: Sequence[Trial]) -> float | None:
        """Estimate the run time of trials; None where one of them is no training."""
        if not all(map(_is_training, trials)):
            return None
        engine = self._settings.engine
        overhead = schedule.NONE if self._settings.workers == 0 else schedule.OVERHEADS[engine]
        sharing = Sharing(self._processes, self._processes)
        slots = sharing.trials(self.at_once(len(trials)), self._settings)
        return schedule.run_time(self.of_tasks(trials), slots, overhead)

    def of_tasks(self, trials: Sequence[Trial]) -> list[float]:
        """Return the time of each task, in seconds: trials of one group run one after the other."""
        tasks: dict[str, float] = {}
        for trial in trials:
            name = trial.group or trial.spec.key
            tasks[name] = tasks.get(name, 0.0) + self.error.median * self._uncorrected(trial)
        return list(tasks.values())

    def _uncorrected(self, trial: Trial) -> float:
        return self.of(trial).seconds(estimate.rows_of_trial(trial))

    def notes(self, trials: Sequence[Trial]) -> list[str]:
        """Return how the time of steps in parts was taken."""
        words = (estimate.in_words(self.of(trial), trial.spec) for trial in trials)
        return list(dict.fromkeys(filter(None, words)))

    def memory_bytes(self, trial: Trial) -> int:
        """Return the memory of the processes of a training."""
        rows = row_counts(trial)[0] or trial.spec.batch_size
        return self.of(trial).memory_bytes(min(trial.spec.batch_size, rows))

    def at_once(self, trials: int) -> int:
        """Return how many of so many trials run at once: a cluster is asked for its room."""
        if not self._settings.on_cluster or self._settings.workers is not None:
            return max(1, self._settings.resolved_workers("cpu", trials, self._processes))
        if self._slots is None:
            cluster = self._settings.cluster_options()
            options = RunOptions(cluster=cluster, processes=self._processes)
            self._slots = slots(self._settings.engine, self._settings.threads, options)
        return max(1, min(self._slots, trials))

    def of(self, trial: Trial) -> estimate.Speed:
        """Return the speed of a trial's network."""
        architecture = trial.spec.architecture
        known = (architecture, Sharing.of(trial.spec, self._settings))
        if known not in self._known:
            network = backbones.load(
                architecture,
                weights=None,
                classes=2,
                seed=0,
                input_size=getattr(trial.spec, "input_size", None),
            )
            self._known[known] = estimate.speed_of(network, trial.spec, self._settings)
        return self._known[known]


def _as_run(trial: Trial, result: Result) -> Trial:
    """Return a finished trial with the processes that it had, which are no part of its key."""
    if getattr(trial.spec, "replicas", 1) == 1:
        return trial
    processes = result.spec.get("replica_processes")
    return replace(trial, spec=trial.spec.replace(replica_processes=processes))


def _is_training(trial: Trial) -> bool:
    spec = trial.spec
    return getattr(spec, "architecture", None) is not None and hasattr(spec, "batch_size")


OTHER_CPU = "the time is of this machine's CPU; nodes of the cluster may be faster or slower"
MEASURING = (
    "the time is that of all images once through each network and of the comparisons of rows with "
    "each other; its error was not measured; activations that were extracted before take none"
)
EXTRACTING = (
    "the time is that of all images once through each network; activations that were extracted "
    "before take none"
)


@dataclass(frozen=True)
class Measured:
    """How layers are measured once they are extracted.

    max_rows      rows that are compared with each other, at most
    block_rows    layers with more rows are measured block by block; 0: none is
    usual_layers  gives the layers of a network where none are asked for; None: its blocks
    """

    max_rows: int
    block_rows: int = 0
    usual_layers: Callable[[Network], tuple[str, ...]] | None = None


def of_extractions(
    study: Study,
    title: str,
    extractions: Iterable[Extraction],
    settings: Settings,
    measured: Measured,
) -> StudyPlan:
    """Return the plan of a study that measures layers: its trials are known after extraction.

    The time is that of the images through the networks and of the metrics of their layers.
    """
    notes: list[str] = []
    costs = [extraction_cost(spec, settings, notes, measured) for spec in extractions]
    plan = extracting(study, title, costs, notes)
    at_once = max(1, settings.resolved_workers("cpu", len(costs)))
    comparing_s = estimate.comparing_seconds() if costs else 0.0
    tasks = [cost.metrics.numbers * comparing_s for cost in costs]
    overhead = schedule.NONE if settings.workers == 0 else schedule.OVERHEADS[settings.engine]
    seconds = schedule.run_time(tasks, at_once, overhead) if tasks else 0.0
    memory = at_once * max((cost.metrics.memory_bytes for cost in costs), default=0)
    return replace(
        plan,
        seconds=(plan.seconds or 0.0) + seconds,
        memory_bytes=max(plan.memory_bytes or 0, memory),
        notes=(*notes, MEASURING),
        at_once=at_once,
    )


@dataclass(frozen=True)
class Extracted:
    """What is extracted from the images of a preflight."""

    result: PreflightResult
    layers: tuple[str, ...]
    description: str | None
    use_crops: bool
    config: ExtractionConfig

    def cost(self, settings: Settings) -> ExtractionCost:
        """Estimate what it takes on this CPU."""
        assert self.result.network is not None
        rows = len(self.result.paths) * (estimate.CROPS if self.use_crops else 1)
        names = layers_of(self.result.network, self.layers, self.description)
        return _cost_of(self.result.network, names, rows, self.config, settings)


def of_preflights(
    study: Study,
    title: str,
    planned: Sequence[Extracted],
    settings: Settings,
    *,
    trials: int,
    trial_s: float = 0.0,
) -> StudyPlan:
    """Return the plan of a study that passes the images of each preflight through its network.

    trial_s  time of one of its trials on what was extracted
    """
    notes = dict.fromkeys(note for row in planned for note in row.result.notes)
    costs = [row.cost(settings) for row in planned]
    plan = extracting(study, title, costs, list(notes), trials=trials)
    return replace(plan, seconds=(plan.seconds or 0.0) + trials * trial_s)


def with_extractions(
    plan: StudyPlan, planned: Sequence[Extracted], trials: int, settings: Settings
) -> StudyPlan:
    """Return a plan of trainings with so many further trials of features that are extracted."""
    costs = [row.cost(settings) for row in planned]
    added_s = sum(cost.seconds for cost in costs) + trials * FEATURE_TRIAL_S
    return replace(
        plan,
        trials=(plan.trials or 0) + trials,
        seconds=None if plan.seconds is None else plan.seconds + added_s,
        size_bytes=(plan.size_bytes or 0) + sum(cost.disk_bytes for cost in costs),
        engines=tuple(replace(row, seconds=row.seconds + added_s) for row in plan.engines),
    )


def extracting(
    study: Study,
    title: str,
    costs: Sequence[ExtractionCost],
    notes: Sequence[str],
    *,
    trials: int | None = None,
) -> StudyPlan:
    """Return the plan of a study of which the cost of its extractions is known."""
    return StudyPlan(
        study.name,
        title,
        trials,
        0,
        sum(cost.seconds for cost in costs),
        sum(cost.disk_bytes for cost in costs),
        study.is_chained,
        (*notes, EXTRACTING),
        memory_bytes=max((cost.memory_bytes for cost in costs), default=None),
    )


@dataclass(frozen=True)
class MetricsCost:
    """Estimated cost of the metrics of a network's layers.

    numbers  that are compared: of each layer its width, for every two rows
    """

    numbers: float
    memory_bytes: int


@dataclass(frozen=True)
class ExtractionCost:
    """Estimated cost of images once through a network."""

    seconds: float
    disk_bytes: int
    memory_bytes: int


@dataclass(frozen=True)
class MeasuredExtractionCost(ExtractionCost):
    """Estimated cost of images once through a network, and of the metrics of its layers."""

    metrics: MetricsCost


def extraction_cost(
    spec: Extraction, settings: Settings, notes: list[str], measured: Measured
) -> MeasuredExtractionCost:
    """Estimate what the images of an extraction, and metrics of its layers, take on this CPU."""
    spec = spec.resolved
    folder = located(spec.dataset, settings, notes)
    images = sampled(folder, spec.part, spec.samples, notes, at_most=is_default(spec, "samples"))
    network = backbones.load(
        spec.architecture,
        weights=None,
        classes=backbones.lookup(spec.architecture).classes,
        seed=0,
        input_size=spec.input_size,
    )
    rows = len(images) * (estimate.CROPS if spec.use_crops else 1)
    names = spec.layers
    if not names and not spec.model_description and measured.usual_layers is not None:
        names = measured.usual_layers(network)
    layers = layers_of(network, names, spec.model_description)
    config = ExtractionConfig(reduce=spec.reduce, dtype=spec.dtype)
    cost = _cost_of(network, layers, rows, config, settings)
    widths = [bytes_needed(network, [layer], 1, config) for layer in layers]
    metrics = _metrics_cost(widths, rows, measured, np.dtype(config.dtype).itemsize)
    return MeasuredExtractionCost(
        cost.seconds,
        cost.disk_bytes,
        # each of several processes that make shards has a network
        max(1, settings.workers or 0) * cost.memory_bytes,
        metrics,
    )


def _metrics_cost(
    row_bytes: Sequence[int], rows: int, measured: Measured, itemsize: int
) -> MetricsCost:
    """Estimate the metrics of layers of so many rows, by the bytes of a row of each."""
    compared = min(rows, measured.max_rows)
    numbers = float(compared) ** 2 * sum(row_bytes) / itemsize
    kept = min(rows, 2 * measured.block_rows or rows)
    widest = max(row_bytes, default=0) * kept
    if not measured.block_rows:
        widest = min(widest, estimate.WHOLE_LAYER_BYTES)
    memory = estimate.MEASURING_BYTES + estimate.LAYER_COPIES * widest + 8 * compared**2
    return MetricsCost(numbers, memory)


def _cost_of(
    network: Network,
    layers: Sequence[str],
    rows: int,
    config: ExtractionConfig,
    settings: Settings,
) -> ExtractionCost:
    seconds = estimate.forward_seconds_a_row(network, estimate.MOST_ROWS, settings.threads)
    batch = config.batch * estimate.saved_bytes_a_row(network, estimate.MOST_ROWS)
    weights = 4 * sum(p.numel() for p in network.parameters())
    return ExtractionCost(
        rows * seconds,
        bytes_needed(network, layers, rows, config),
        estimate.PROCESS_BYTES + weights + batch,
    )


def without_trials(
    study: Study, title: str, notes: tuple[str, ...], *, trials: int | None = None
) -> StudyPlan:
    """Return the plan of a study whose cost is not estimated; `notes` say why."""
    return StudyPlan(study.name, title, trials, 0, None, None, study.is_chained, notes)
