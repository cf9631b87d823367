"""Plan of a study of parameter distances by stages: fine-tune, extract images, measure.

Fine-tuning is left out where its results are given. All stages are of one study; a command with
other targets, norms or seeds adds to it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ... import files
from ...data import datasets
from ...data.pixels import Pixels
from ...data.sizing import Sizing
from ...data.streams import seeded_permutation
from ...errors import BadDataError, TlxError, UnknownNameError, UsageError, counted, raise_all
from ...features.dump import Dump
from ...features.extract import ExtractionContext, extract
from ...lab import signals
from ...lab.settings import Settings
from ...lab.store import Store
from ...metrics.domain_gap import GAPS
from ...metrics.parameter_distance import parts as parameter_distance_parts
from ...metrics.parameter_distance.rules import rule_of
from ...models import backbones
from ...models.network import Network
from ...result import FINISHED, Result
from ...spec import parse_spec
from .. import batches, reporting
from ..activations import dump_folder, metered
from ..base import ExpectedStage, Stage, Trial, TrialFigures, open_store
from ..few_shot_inputs import ErrorCollector, Progress, common_settings
from ..image_data import decoded, located
from ..summaries import command_line
from ..whole_dataset import DEFAULT, WEIGHTS, TrainingInputs
from ..whole_dataset_inputs import Pools, read
from . import domain_gap as parameter_distance_domain_gap
from . import report as parameter_distance_report
from . import spec as parameter_distance_spec
from . import trial as parameter_distance_trial
from .domain_gap import Domain, TwoDomains
from .spec import (
    AUTO,
    NORMS,
    RANDOM,
    START,
    UNKNOWN,
    ParameterDistance,
    ParameterDistanceGrid,
    TargetTuning,
)
from .states import WeightState, recorded_start, state_of, targets_of, training_of
from .trial import WeightTriple, known

ALL, DIGITS = "all", "digits"


@dataclass
class ParameterDistancePlan:
    """Plan before anything is trained.

    spec      of every distance trial, without target, norm and repeat; tuning: of every
              fine-tuning, without repeat
    random    a file, or None: drawn, or made again as pre-training began (spec.start)
    targets   name → the fine-tuned states that are given; empty: tuned here
    pools     the images of the target, if they are known
    notes     for people
    """

    spec: ParameterDistance
    grid: ParameterDistanceGrid
    tuning: TargetTuning
    settings: Settings
    random: str | None
    pretrained: WeightState
    targets: dict[str, list[WeightState]]
    pools: Pools | None
    notes: list[str] = field(default_factory=list)

    @property
    def given(self) -> tuple[str, str]:
        """Return the digests of the random (or drawn) and the pre-trained state."""
        return tuple(
            parameter_distance_trial.digest(self.spec.architecture, path)  # type: ignore[return-value]
            for path in (self.random, self.pretrained.path)
        )

    @property
    def _draws(self) -> bool:
        return self.random is None and self.spec.start is None

    # ------------------------------------------------------------ the stages

    def tunings(self) -> Stage | None:
        """Return the fine-tunings; None where the fine-tuned states are given."""
        if self.targets or self.pools is None:
            return None
        on = TrainingInputs(self.pools.task(self.pools.folder.classes)[0], self.pretrained.path)
        trials = tuple(
            Trial(self.tuning.replace(split=repeat), on) for repeat in range(self.grid.seeds)
        )
        return self._study(
            trials,
            parameter_distance_trial.tune,
            ("tlx.models.transferred", "tlx.studies.training"),
            reporting.write_trial_figures,
        )

    @property
    def expected(self) -> tuple[ExpectedStage, ...]:
        """Return the sizes of what follows the fine-tunings: the domain gap, then the distances."""
        distances = len(self.grid.norms) * self.grid.seeds
        return (ExpectedStage("the domain gap", 1), ExpectedStage("the distances", distances))

    def domain(self, progress: Progress | None = None) -> Stage | None:
        """Return the stage of the target's images, their features extracted or found.

        None without images.
        """
        if self.pools is None:
            return None
        network = backbones.load(
            self.spec.architecture,
            weights=self.pretrained.path,
            classes=None,
            head="keep",
            seed=0,
            input_size=self.tuning.input_size,
            sha256=self.given[1],
        )
        inputs, _ = self.pools.task(self.pools.folder.classes)
        labels = [inputs.classes[i] for i in inputs.train.labels]
        held = self.pools.held.subset(inputs.train.images)
        ids = [image.path for image in self.pools.images["train"]]
        target = self._features(network, held, (ids, labels), self.pools.folder, progress)
        source, name = None, ""
        if self.grid.source_images:
            folder = located(self.grid.source_images, self.settings, self.notes)
            name = folder.name
            drawn, chosen = self._source(folder, network, len(held), progress)
            called = [image.path for image in chosen], [image.label for image in chosen]
            source = self._features(network, drawn, called, folder, progress)
        spec = Domain(
            gap=self.grid.gap,
            features=target.key,
            labels=files.digest(labels),
            source=name,
            source_features=source.key if source else "",
            target=next(iter(self.targets), self.tuning.target),
            architecture=self.spec.architecture,
            images=self.tuning.images,
        )
        return self._study(
            (Trial(spec, TwoDomains(target, source)),),
            parameter_distance_domain_gap.run,
            ("tlx.metrics", "tlx.features.dump"),
        )

    def distances(self, store: Store | None) -> Stage | None:
        """Return every triple in every norm.

        store: where the fine-tunings are; None where none was made.
        """
        targets = self.targets or {self.tuning.target: self._tuned(store)}
        random, pretrained = self.given
        trials = []
        for norm in self.grid.norms:
            for name, states in targets.items():
                for repeat, state in self._repeats(states):
                    tuned = parameter_distance_trial.digest(self.spec.architecture, state.path)
                    spec = self.spec.replace(
                        norm=norm,
                        target=name,
                        repeat=repeat,
                        finetuned=state.path,
                        images=self.tuning.images,
                        draw=repeat if self._draws else None,
                        states=(random, pretrained, tuned),
                    )
                    trials.append(
                        Trial(
                            spec,
                            WeightTriple(
                                self.random, self.pretrained.path, state.path, state.training
                            ),
                        )
                    )
        return (
            self._study(
                tuple(trials),
                parameter_distance_trial.run,
                ("tlx.metrics", "tlx.metrics.parameter_distance.parts"),
            )
            if trials
            else None
        )

    # ------------------------------------------------------------ pieces

    def _repeats(self, states: Sequence[WeightState]) -> list[tuple[int, WeightState]]:
        """Return repeat → its fine-tuned state.

        A single one is measured from as many random states as there are seeds.
        """
        if len(states) == 1 and self._draws and self.targets:
            return [(repeat, states[0]) for repeat in range(self.grid.seeds)]
        return (
            list(enumerate(states))
            if self.targets
            else [(int(s.training["repeat"]), s) for s in states]
        )

    def _tuned(self, store: Store | None) -> list[WeightState]:
        assert store is not None
        states = []
        for repeat in range(self.grid.seeds):
            key = self.tuning.replace(split=repeat).key
            result = store.find(key)
            if result is None or result.status != FINISHED:
                self.notes.append(f"repeat {repeat} diverged in fine-tuning: left out")
                continue
            path = str(store.file(key, WEIGHTS))
            states.append(
                WeightState(
                    path,
                    self.tuning.target,
                    self.tuning.architecture,
                    training_of(result) | {"repeat": repeat},
                )
            )
        return states

    def _features(
        self,
        network: Network,
        held: Pixels,
        called: tuple[Sequence[str], Sequence[str]],
        folder: datasets.ImageFolder,
        progress: Progress | None,
    ) -> Dump:
        """Return the features of these images, extracted or found; called: their ids and labels."""
        ids, labels = called
        with signals.graceful() as stopping:
            place = ExtractionContext(
                dump_folder(self.settings),
                self.settings.resolved_device(),
                ids=ids,
                labels=labels,
                about={
                    "backbone": network.row.title,
                    "dataset": folder.name,
                    "root": str(folder.root),
                },
                progress=progress or (lambda done, of: None),
                stopping=stopping,
                metered=functools.partial(metered, self.settings.resolved_device()),
                note=self.notes.append,
                command=command_line(),
            )
            dump = extract(network, network.weights, held, [len(network.blocks)], place)
            signals.stop_if_asked()
        return dump

    def _source(
        self, folder: datasets.ImageFolder, network: Network, count: int, progress: Progress | None
    ) -> tuple[Pixels, list[datasets.Image]]:
        """Draw as many images of the source as the target has.

        The Fréchet distance falls as rows are added.
        """
        turn = seeded_permutation(len(folder.images), self.spec.seed, "source images")[:count]
        chosen = [folder.images[i] for i in sorted(turn)]
        sizing = Sizing(
            network.input_size, crops=False, mode=self.tuning.sizing, channels=network.channels
        )
        held = decoded(folder, chosen, sizing, self.settings, self.notes, progress)
        return held, chosen

    def _study(
        self,
        trials: tuple[Trial, ...],
        run: Callable[..., Result],
        preload: tuple[str, ...],
        write_trial_figures: TrialFigures = parameter_distance_report.write_trial_figures,
    ) -> Stage:
        """Return one study for all stages and targets.

        Its key is of the network, its start, and how it is fine-tuned.
        """
        recipe = (
            {} if self.targets else self.tuning.replace(target="", images="", dataset="").identity()
        )
        key = files.digest(["study", self.spec.identity(), self.given, recipe])
        title = (
            f"{self.spec.architecture if known(self.spec) else 'unknown architecture'}: parameter "
            f"distance"
        )
        inputs = () if self.pools is None else (self.pools.record(self.tuning.images),)
        return Stage(
            key=key,
            run=run,
            experiment=parameter_distance_spec.EXPERIMENT,
            title=title,
            spec=common_settings(self.spec),
            trials=trials,
            inputs=inputs,
            preload=preload,
            write_trial_figures=write_trial_figures,
            tags={"tlx.targets": ", ".join(self.targets) or self.tuning.target},
        )


def plan_parameter_distance(
    spec: ParameterDistance,
    grid: ParameterDistanceGrid,
    tuning: TargetTuning,
    finetuned: Sequence[str],
    settings: Settings,
    progress: Progress | None = None,
) -> ParameterDistancePlan:
    """Return the plan.

    Raises ErrorGroup with all errors, before anything is trained. finetuned: the words of -b.
    """
    gather, store = ErrorCollector(), open_store(settings)
    words = [
        part.strip()
        for word in finetuned
        for part in ([word] if Path(word).exists() else word.split(","))
        if part.strip()
    ]
    pretrained, targets, random = (
        WeightState(DEFAULT, DEFAULT),
        dict[str, list[WeightState]](),
        None,
    )
    with gather.part():
        pretrained = state_of(spec.pretrained, store, "-a")
    with gather.part():
        targets = targets_of(words, store)
    with gather.part():
        random = (
            None
            if spec.random in (AUTO, START, RANDOM)
            else state_of(spec.random, store, "-r").path
        )
    with gather.part():
        grid = grid.replace(norms=_norms(grid.norms))
        parse_spec(GAPS, grid.gap, "gap")
    with gather.part():
        if grid.source_images:
            located(grid.source_images, settings, [])
    raise_all(gather.problems)
    spec = spec.replace(architecture=_architecture(spec, pretrained, targets))
    _sense(spec, tuning, random, pretrained, targets)
    start, notes = _start(spec, random, pretrained)
    spec = spec.replace(start=start, seed=spec.seed if random is None and start is None else 0)
    depth = _fit(spec, random, pretrained, targets)
    if grid.num_classes is not None:
        _check_classes(spec, targets, grid.num_classes)
    tuning = tuning.replace(
        architecture=spec.architecture,
        depth=depth,
        dataset=tuning.dataset or ("" if targets else DIGITS),
        weights=""
        if targets
        else parameter_distance_trial.digest(spec.architecture, pretrained.path),
    )
    pools = read(tuning, settings, progress) if tuning.dataset else None
    if pools is not None:
        tuning = tuning.replace(
            target=pools.folder.name, images=pools.task(pools.folder.classes)[1]
        )
        notes += pools.notes
    plan = ParameterDistancePlan(
        spec, grid, tuning, settings, random, pretrained, targets, pools, notes
    )
    if (tunings := plan.tunings()) is not None:
        batches.check(tunings.trials)
    return plan


def _check_classes(
    spec: ParameterDistance, targets: dict[str, list[WeightState]], expected: int
) -> None:
    """Raise BadDataError for a fine-tuned network whose head has other classes than were said."""
    network = backbones.meta_model(spec.architecture) if known(spec) else None
    for tuned in (state for states in targets.values() for state in states):
        tensors, _ = parameter_distance_parts.state(tuned.path, network)
        if network is not None:
            head = tensors[f"{network.head_names[-1]}.weight"]
        else:
            head = [tensor for tensor in tensors.values() if tensor.ndim > 1][-1]
        if len(head) != expected:
            raise BadDataError(
                "classes",
                f"its head has {counted(len(head), 'class', 'classes')}",
                where=f"-b {tuned.path}",
                expected=f"{expected}, of --num-classes",
            )


def _norms(names: Sequence[str]) -> tuple[str, ...]:
    if unknown := [name for name in names if name not in (*NORMS, ALL)]:
        raise UnknownNameError("norm", unknown[0], (*NORMS, ALL))
    return NORMS if ALL in names else tuple(dict.fromkeys(names)) or NORMS[:1]


def _architecture(
    spec: ParameterDistance, pretrained: WeightState, targets: dict[str, list[WeightState]]
) -> str:
    if spec.architecture:
        return spec.architecture
    trials = [
        state.architecture
        for state in (pretrained, *(s for states in targets.values() for s in states))
    ]
    return next(filter(None, trials), "resnet50" if targets else "mnist-cnn")


def _sense(
    spec: ParameterDistance,
    tuning: TargetTuning,
    random: str | None,
    pretrained: WeightState,
    targets: dict[str, list[WeightState]],
) -> None:
    """Raise UsageError for options that do not go together."""
    problems: list[TlxError] = []
    if spec.architecture == UNKNOWN:
        if random is None or pretrained.path == DEFAULT or not targets or tuning.dataset:
            problems.append(
                UsageError(
                    "architecture",
                    "none",
                    where="--architecture",
                    expected="-r, -a and -b as files "
                    "and no --dataset: an unknown network cannot be drawn, trained or looked "
                    "through",
                )
            )
    elif pretrained.path == DEFAULT and not (row := backbones.lookup(spec.architecture)).weights:
        problems.append(
            UsageError(
                "no-weights",
                f"{row.title} comes without weights",
                where="-a",
                expected="a file or a finished trial: -a /path/to/weights.pth",
            )
        )
    if len(targets) > 1 and tuning.dataset:
        problems.append(
            UsageError(
                "conflict",
                f"--dataset with {counted(len(targets), 'target')}",
                where="--dataset",
                expected="one -b: the data set is that of its target",
            )
        )
    raise_all(problems)


def _start(
    spec: ParameterDistance, random: str | None, pretrained: WeightState
) -> tuple[int | None, list[str]]:
    """Return the seed of the pre-training, where its start is requested and known, and a note.

    The note is on the random state.
    """
    if random is not None:
        return None, []
    start = pretrained.start
    if pretrained.path == DEFAULT:
        start = recorded_start(backbones.default_file(backbones.lookup(spec.architecture)))
    if spec.random == START and start is None:
        raise UsageError(
            "no-start",
            f"what {pretrained.name} began from is not on record",
            where="-r start",
            expected="a file, or random",
            remedy="tlx pretrain --out keeps that record with the weights",
        )
    if spec.random == RANDOM or start is None:
        return None, []
    return start, [
        f"random: the state that pre-training began from, made again from its seed, {start}"
    ]


def _fit(
    spec: ParameterDistance,
    random: str | None,
    pretrained: WeightState,
    targets: dict[str, list[WeightState]],
) -> int:
    """Read every given state and check that they fit together; return the network's blocks."""
    network = backbones.meta_model(spec.architecture) if known(spec) else None
    _, takes = rule_of(spec.rule, network)

    def state(who: str, path: str) -> Any:
        try:
            return parameter_distance_parts.state(path, network)[0]
        except TlxError as error:
            error.where = f"{who}: {error.where or path}"
            raise

    first = state("pretrained", pretrained.path)
    start = state("random", random) if random is not None else first
    for states in targets.values() or [[pretrained]]:
        for tuned in states:
            last = first if tuned is pretrained else state("finetuned", tuned.path)
            try:
                parameter_distance_parts.parts(
                    {"random": start, "pretrained": first, "finetuned": last},
                    network,
                    takes,
                    spec.head,
                )
            except TlxError as error:
                for problem in getattr(error, "problems", [error]):
                    problem.remedy = (
                        f"is it of another architecture than {spec.architecture}? name it: "
                        f"--architecture"
                    )
                raise
    return len(network.blocks) if network is not None else 0
