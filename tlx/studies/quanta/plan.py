"""Plan of a QUANTA study: everything is checked first, then the source, then the trials.

The source is trained or loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ... import files
from ...data.hold_out import halves
from ...errors import TlxError, UsageError, raise_all
from ...lab.settings import Settings
from ...models import backbones, network
from ...models.network import Network
from ...models.quanta import gate as quanta_gate
from .. import batches
from ..base import ExpectedStage, Stage, Trial
from ..few_shot_inputs import ErrorCollector, common_settings
from . import report as quanta_report
from . import trial as quanta_trial
from .data import Progress, QuantaImages, folder_of, images_of
from .source import SourceOf, source_of, source_study
from .spec import CO, EXPERIMENT, Quanta, QuantaGrid
from .trial import QuantaInputs

Gates = tuple[tuple[int, str, str], ...]  # position, module of the target, module of the source

SEVEN = 7  # positions of the original's network


@dataclass(frozen=True)
class QuantaPlan:
    """Complete study but, perhaps, for the source: then `source_study` trains it.

    gates   positions ("0", …, "co") → the gates of a trial there
    learned the images that the source was or will be trained on by the study
    """

    spec: Quanta
    sweep: QuantaGrid
    gates: dict[str, Gates]
    images: QuantaImages
    source: SourceOf | None
    learned: QuantaImages | None

    @property
    def source_study(self) -> Stage | None:
        """Return the training of the source; None where it has weights."""
        if self.source is not None or self.learned is None:
            return None
        return source_study(self.spec, self.sweep, self.learned)

    @property
    def expected(self) -> tuple[ExpectedStage, ...]:
        """Return the size of the gated targets, before the source has its weights."""
        name = self.learned.name if self.learned is not None else self.images.name
        untrained = SourceOf(name, self.spec.architecture, None, seed=self.spec.seed)
        stage = self.study(untrained)
        return (ExpectedStage(stage.title, len(stage.trials), stage.trials),)

    def study(self, source: SourceOf) -> Stage:
        """Return every trial, ready to run."""
        spec = self.spec.replace(weights=source.digest, images=self.images.digest)
        parts, test = self.images.parts, self.learned.parts.get("test") if self.learned else None
        inputs = QuantaInputs(
            self.images.name,
            self.images.classes,
            parts["train"],
            parts["val"],
            parts.get("test"),
            source,
            source_test=test,
        )
        trials = []
        for repeat in range(self.sweep.repeats):
            trials += [
                Trial(spec.replace(position=position, repeat=repeat), replace(inputs, gates=gates))
                for position, gates in self.gates.items()
            ]
            if self.sweep.witness:
                trials.append(
                    Trial(
                        spec.replace(repeat=repeat).alone,
                        replace(inputs, source=None, source_test=None),
                    )
                )
        return Stage(
            key=files.digest(["study", spec.identity()]),
            run=quanta_trial.run,
            experiment=EXPERIMENT,
            title=f"{source.name} to {self.images.name}, {spec.architecture}",
            spec=common_settings(spec),
            trials=tuple(trials),
            inputs=(self.images.record("test"),),
            tags={
                "tlx.dataset": self.images.name,
                "tlx.source": source.name,
                "tlx.job": str(self.sweep.job),
            },
            params={"Source task": source.name, "Job number": str(self.sweep.job)},
            preload=("tlx.models.quanta.training",),
            write_trial_figures=quanta_report.write_trial_figures,
            notes=self.images.notes,
        )


def plan_quanta(
    spec: Quanta, sweep: QuantaGrid, settings: Settings, progress: Progress | None = None
) -> QuantaPlan:
    """Check all that a study needs: networks, positions, data, weights.

    Raises ErrorGroup with all errors.
    """
    gather = ErrorCollector()
    gates: dict[str, Gates] = {}
    source: SourceOf | None = None
    learned: QuantaImages | None = None
    with gather.part():
        if len(spec.quanta_init) not in (0, 2):
            raise UsageError(
                "quanta-init",
                f"{len(spec.quanta_init)} numbers",
                where="--quanta-init",
                expected="v of source and target: 1.1,-1.1",
            )
    with gather.part():
        gates = gates_of(spec, sweep.positions)
    with gather.part():
        source = source_of(spec, sweep)
        if source is not None:
            _ = source.digest
            source.load()  # errors of a file are raised before anything is computed
    raise_all(gather.problems)
    row = backbones.lookup(spec.architecture)
    folder = folder_of(spec.dataset, settings)
    classes: Sequence[str] = folder.classes
    suffix = ""
    if sweep.halves:
        first, classes = halves(folder.classes, "random", spec.seed, "--halves")
        learned, suffix = (
            images_of(folder, first, spec, row, settings, progress, suffix=" first half"),
            " second half",
        )
    elif sweep.source_dataset:
        other = folder_of(sweep.source_dataset, settings)
        learned = images_of(other, other.classes, spec, row, settings, progress)
    images = images_of(folder, classes, spec, row, settings, progress, suffix=suffix)
    batches.check_rows(spec, len(images.parts["train"]))
    requested = QuantaPlan(spec, sweep, gates, images, source, learned)
    if (training := requested.source_study) is not None:
        batches.check(training.trials)
    return requested


def gates_of(spec: Quanta, words: Sequence[str]) -> dict[str, Gates]:
    """Return position → its gates.

    Raises UsageError for one that is none, or where the outputs of source and target differ.
    """
    target = shape_of(spec, spec.architecture)
    source = (
        target if spec.source_architecture is None else shape_of(spec, spec.source_architecture)
    )
    seen = [(n.input_size, n.channels, n.mean, n.std) for n in (target, source)]
    if seen[0] != seen[1]:
        raise UsageError(
            "source-input",
            f"{source.row.title} does not see what {target.row.title} sees",
            where="--source-architecture",
            expected="one input size and one normalisation",
        )
    places = dict(
        enumerate(zip(quanta_gate.places(target), quanta_gate.places(source), strict=False))
    )
    count, problems, gates = len(target.blocks), list[TlxError](), dict[str, Gates]()
    fitting = {
        p: (t, s)
        for p, (t, s) in places.items()
        if t is not None and s is not None and t.shape == s.shape
    }
    for position in _positions(words, count, fitting, problems):
        wanted = list(fitting) if position == CO else [int(position)]
        if unfit := [p for p in wanted if p not in fitting]:
            t, s = places.get(unfit[0], (None, None))
            shapes = [
                f"{n.row.title} gives {place.shape if place else 'no tensor of one row an image'}"
                for n, place in ((target, t), (source, s))
            ]
            problems.append(
                UsageError(
                    "gate-shapes",
                    f"position {position}: {', '.join(shapes)}",
                    where="--positions",
                    expected="one shape",
                )
            )
            continue
        gates[position] = tuple((p, fitting[p][0].module, fitting[p][1].module) for p in wanted)
    raise_all(problems)
    return gates


def _positions(
    words: Sequence[str], count: int, fitting: Mapping[int, object], problems: list[TlxError]
) -> list[str]:
    """Return every requested position, once, in order; report invalid ones as problems."""
    positions: dict[str, None] = {}
    for word in words or ("all", CO):
        negative = word.startswith("-") and word[1:].isdigit()
        if word == CO or negative:
            positions[CO] = None
        elif word == "all":
            positions.update(dict.fromkeys(map(str, fitting)))
        elif word.isascii() and word.isdigit() and int(word) < count:
            positions[str(int(word))] = None
        else:
            problems.append(
                UsageError(
                    "out-of-range",
                    f"position '{word}'",
                    where="--positions",
                    expected=f"0 to {count - 1}, all or co (everywhere at once)",
                    remedy=""
                    if count >= SEVEN
                    else "the original's seven positions are those of "
                    "--architecture quanta-cnn --source-dataset cifar10",
                )
            )
    if not fitting and not problems:
        problems.append(
            UsageError(
                "gate-shapes",
                "no block of the two networks gives outputs of one shape",
                where="--source-architecture",
            )
        )
    return sorted((p for p in positions if p != CO), key=int) + (
        [CO] if CO in positions and bool(fitting) else []
    )


def shape_of(spec: Quanta, architecture: str, classes: int | None = None) -> Network:
    """Return the network in shapes only.

    classes  of its head; None: the backbone's own
    """
    row = backbones.lookup(architecture)
    with network.meta_device():
        return backbones.load(
            architecture,
            weights=None,
            classes=classes or max(1, row.classes),
            seed=0,
            input_size=spec.input_size,
        )
