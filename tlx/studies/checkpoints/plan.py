"""Plan of a study of checkpoints by stages: sources first, whose weights name the others.

sources → pre-trainings · layers → layer metrics · tuning → fine-tunings and scored checkpoints,
whose folder also gets chain.json: which trial of which stage belongs to every model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ... import files
from ...errors import BadDataError, TlxError, UsageError, raise_all
from ...lab.records import DataInput
from ...lab.settings import Settings
from ...lab.store import Store
from ...models import backbones
from ...result import FINISHED
from .. import (
    activations,
    batches,
    few_shot_inputs,
    pretraining_plan,
    pretraining_spec,
    whole_dataset_inputs,
)
from ..base import ExpectedStage, Stage, Trial
from ..few_shot import RANDOM, Inputs
from ..few_shot_inputs import ErrorCollector, Progress
from ..image_data import add
from ..layer_metrics.spec import LayerMetrics
from ..pretraining_spec import CHECKPOINTS, PreTraining
from ..reporting import RECORD_BYTES
from ..whole_dataset import WholeDataset
from . import report as checkpoints_report
from . import trial as checkpoints_trial
from .layers import LayerStudy, plan_layers
from .spec import (
    CHAIN,
    COMMON,
    EXPERIMENT,
    UNTRAINED,
    CheckpointGrid,
    CheckpointScores,
    CheckpointTuning,
    Untrained,
)
from .trial import CheckpointInputs


@dataclass(frozen=True)
class PretrainedSource:
    """Training of a source: its trial, the tags of its checkpoints in order, and its name."""

    name: str
    seed: int
    trial: Trial
    tags: tuple[str, ...]


@dataclass(frozen=True)
class PretrainedModel:
    """Checkpoint of a source: what is analyzed, and perhaps fine-tuned."""

    source: PretrainedSource
    tag: str
    index: int
    path: str
    digest: str


@dataclass(frozen=True)
class TransferTarget:
    """Data set that the sources are fine-tuned on."""

    name: str
    typed: str
    spec: CheckpointTuning
    data: Inputs
    record: DataInput
    notes: tuple[str, ...] = ()


@dataclass
class CheckpointPlan:
    """Plan before anything is trained."""

    chain: CheckpointGrid
    measures: LayerMetrics
    settings: Settings
    sources: tuple[PretrainedSource, ...]
    targets: tuple[TransferTarget, ...]
    records: tuple[DataInput, ...]
    notes: list[str] = field(default_factory=list)

    def first(self) -> Stage:
        """Return the pre-trainings."""
        spec = self.sources[0].trial.spec
        return Stage(
            key=files.digest(["study", "sources", self._content()]),
            run=checkpoints_trial.run,
            experiment=pretraining_spec.EXPERIMENT,
            title=f"sources of checkpoints: {self.chain.architecture} on "
            f"{', '.join(self._names())}",
            spec=few_shot_inputs.common_settings(spec),
            trials=tuple(s.trial for s in self.sources),
            inputs=self.records,
            tags={"tlx.dataset": ", ".join(self._names())},
            preload=("tlx.studies.checkpoints.trial",),
        )

    @property
    def expected(self) -> tuple[ExpectedStage, ...]:
        """Return the sizes of what follows: the layers of each target's images, the fine-tunings.

        There may be fewer: checkpoints of the same weights are measured and fine-tuned once.
        """
        models = sum(len(source.tags) for source in self.sources)
        layers = [
            ExpectedStage(f"layers of checkpoints on {target.name}", models)
            for target in self.targets
        ]
        tunings = [
            Trial(target.spec.replace(seed=source.seed), CheckpointInputs(target.data, {}))
            for source in self.sources
            for target in self.targets
            for _ in self.chain.chosen(source.tags)
        ]
        scored = sum(source.trial.inputs is not None for source in self.sources)
        return (*layers, ExpectedStage(self.title, scored + len(tunings), tuple(tunings)))

    def models(self, store: Store) -> tuple[PretrainedModel, ...]:
        """Return every checkpoint of the sources.

        Those of a diverged training are missing, with a note.
        """
        available = []
        for source in self.sources:
            result = store.find(source.trial.spec.key)
            if result is None or result.status != FINISHED:
                self.notes.append(f"{source.name} seed {source.seed} diverged: left out")
                continue
            for index, tag in enumerate(source.tags):
                path = store.file(result.key, f"{CHECKPOINTS}/{tag}.safetensors")
                available.append(PretrainedModel(source, tag, index, str(path), files.sha256(path)))
        if not available:
            raise TlxError(
                "sources-diverged",
                "no source was trained: their numbers are not finite",
                remedy="use a smaller --learning-rate",
            )
        return tuple(available)

    def looks(
        self, models: tuple[PretrainedModel, ...], progress: Progress | None = None
    ) -> tuple[LayerStudy, ...]:
        """Return the images for the layers of the models, target by target."""
        return tuple(
            plan_layers(
                self.chain,
                self.measures,
                self.settings,
                typed=target.typed,
                name=target.name,
                models=[
                    (m.path, m.digest, m.source.name, m.source.seed, m.tag, m.index) for m in models
                ],
                progress=progress,
            )
            for target in self.targets
        )

    def tuning(
        self, models: tuple[PretrainedModel, ...], looks: tuple[LayerStudy, ...], store: Store
    ) -> Stage:
        """Return the fine-tunings, and the scores of the sources' own checkpoints.

        chain.json is written.
        """
        weights = {model.digest: model.path for model in models}
        trials: list[Trial] = []
        cells: list[dict[str, Any]] = []
        scored: list[dict[str, Any]] = []
        for source in self.sources:
            own = [model for model in models if model.source is source]
            if own and source.trial.inputs is not None:
                trials.append(self._scoring(source, own))
                scored.append(
                    {
                        "source": source.name,
                        "seed": source.seed,
                        "key": trials[-1].spec.key,
                        "training": source.trial.spec.key,
                        "tags": list(source.tags),
                    }
                )
            for target, look in zip(self.targets, looks, strict=True):
                for model in own:
                    cell, trial = self._cell(target, model, look.keys[model.digest], weights)
                    cells.append(cell)
                    if trial is not None:
                        trials.append(trial)
        stage = self._tuning_stage(trials)
        self._write_chain(stage.key, store, cells, scored)
        return stage

    def _scoring(self, source: PretrainedSource, own: Sequence[PretrainedModel]) -> Trial:
        """Return the trial that scores the checkpoints of a source on its own images."""
        assert source.trial.inputs is not None
        spec = CheckpointScores(
            architecture=self.chain.architecture,
            input_size=self.chain.input_size,
            images=source.trial.spec.images,
            weights=tuple(model.digest for model in own),
            checkpoints=source.tags,
            source=source.name,
            seed=source.seed,
            normalisation=source.trial.spec.normalisation,
        )
        weights = {model.digest: model.path for model in own}
        return Trial(spec, CheckpointInputs(source.trial.inputs, weights))

    def _cell(
        self, target: TransferTarget, model: PretrainedModel, layers: str, weights: dict[str, str]
    ) -> tuple[dict[str, Any], Trial | None]:
        """Return what is known of a model on a target, and the trial that fine-tunes it there."""
        source = model.source
        cell = {
            "source": source.name,
            "seed": source.seed,
            "checkpoint": model.tag,
            "checkpoint_index": model.index,
            "target": target.name,
            "weights": model.digest,
            "layers": layers,
        }
        if model.tag not in self.chain.chosen(source.tags):
            return cell, None
        spec = target.spec.replace(
            seed=source.seed, weights=model.digest, source=source.name, checkpoint=model.tag
        )
        inputs = CheckpointInputs(target.data, weights)
        trial = Trial(spec, inputs, group=f"{target.name} {source.name} {source.seed}")
        return cell | {"tuning": spec.key}, trial

    def _tuning_stage(self, trials: Sequence[Trial]) -> Stage:
        """Return the stage of these trials; the same weights are fine-tuned once."""
        question = [self._content(), [target.spec.identity() for target in self.targets]]
        return Stage(
            key=files.digest(["study", "checkpoints", *question]),
            run=checkpoints_trial.run,
            experiment=EXPERIMENT,
            title=self.title,
            spec=self.chain.to_json(),
            trials=tuple({trial.spec.key: trial for trial in trials}.values()),
            inputs=tuple(target.record for target in self.targets),
            tags={
                "tlx.dataset": ", ".join(target.name for target in self.targets),
                "tlx.source": ", ".join(self._names()),
            },
            preload=("tlx.metrics", "tlx.models.transferred", "tlx.studies.checkpoints.trial"),
            write_trial_figures=checkpoints_report.write_trial_figures,
        )

    def _write_chain(
        self,
        key: str,
        store: Store,
        cells: list[dict[str, Any]],
        scored: list[dict[str, Any]],
    ) -> None:
        """Write which trials belong together, with those of earlier commands."""
        path = files.make_folder(store.study_folder(key)) / CHAIN
        store.unseal_study(key)
        before: dict[str, Any] = {"cells": [], "scored": []}
        if path.is_file():
            before = files.read_json(path, limit=RECORD_BYTES)
        files.write_json(
            path,
            {
                "architecture": self.chain.architecture,
                "batch_size": self.chain.batch_size,
                "moments": list(self.chain.fine_tune_checkpoints),
                "cells": _grown(before["cells"], cells, CELL),
                "scored": _grown(before["scored"], scored, CELL[:2]),
            },
        )

    @property
    def title(self) -> str:
        """Return the study's title."""
        return f"{self.chain.architecture}: checkpoints of {', '.join(self._names())}"

    def _names(self) -> list[str]:
        return list(dict.fromkeys(source.name for source in self.sources))

    def _content(self) -> list[object]:
        """Return the content of the study's key.

        More seeds or sources are the same study, grown.
        """
        chain = self.chain
        return [
            chain.architecture,
            chain.input_size,
            chain.epochs,
            chain.learning_rate,
            chain.batch_size,
            chain.checkpoints,
            chain.samples,
            chain.layers,
            self.measures.identity(),
            [target.spec.images for target in self.targets],
            *([chain.data_values] if chain.data_values != COMMON else []),
        ]


CELL = ("source", "seed", "checkpoint", "target")  # what a cell is of


def _grown(
    before: list[dict[str, Any]], now: list[dict[str, Any]], names: Sequence[str]
) -> list[dict[str, object]]:
    """Merge the rows of earlier commands and of this one, which takes precedence.

    A fine-tuning stays known.
    """
    old = {tuple(row[name] for name in names): row for row in before}
    new = {
        of: ({"tuning": old[of]["tuning"]} if "tuning" in old.get(of, {}) else {}) | row
        for row in now
        if (of := tuple(row[name] for name in names))
    }
    return list((old | new).values())


def plan_checkpoints(
    chain: CheckpointGrid,
    measures: LayerMetrics,
    settings: Settings,
    progress: Progress | None = None,
) -> CheckpointPlan:
    """Check everything requested.

    Raises ErrorGroup with all errors, before anything is trained.
    """
    chain = chain.resolved
    gather = ErrorCollector()
    depth = len(backbones.meta_model(chain.architecture).blocks)
    with gather.part():
        _check_blocks(chain, depth)
    with gather.part():
        if len(set(chain.fine_tune_checkpoints)) < 2:
            raise UsageError(
                "too-few-checkpoints",
                f"{len(chain.fine_tune_checkpoints)} moments",
                where="--fine-tune-checkpoints",
                expected="two or more, for an area",
            )
    targets: list[TransferTarget] = []
    for typed in chain.targets:
        with gather.part():
            targets.append(_target(chain, typed, depth, settings, progress))
    raise_all(gather.problems)
    sources: list[PretrainedSource] = []
    records: dict[str, DataInput] = {}
    notes: list[str] = []
    for target in targets:
        add(notes, target.notes)
    for typed in chain.sources:
        with gather.part():
            for source, record in _sources(
                chain, typed, len(targets[0].data.classes), settings, notes, progress
            ):
                sources.append(source)
                records |= {source.name: record} if record else {}
                chain.chosen(source.tags)
    raise_all(gather.problems)
    return CheckpointPlan(
        chain,
        measures,
        settings,
        tuple(_told_apart(sources)),
        tuple(targets),
        tuple(records.values()),
        notes,
    )


def _check_blocks(chain: CheckpointGrid, depth: int) -> None:
    """Raise UsageError for more blocks drawn anew or frozen than there are."""
    fresh = chain.reinit_blocks or 0
    if fresh > depth:
        raise UsageError(
            "out-of-range",
            f"{fresh}",
            where="--reinit-blocks",
            expected=f"at most {depth}, the blocks of {backbones.lookup(chain.architecture).title}",
        )
    if chain.freeze > depth - fresh:
        raise UsageError(
            "out-of-range",
            f"{chain.freeze}",
            where="--freeze",
            expected=f"at most {depth - fresh}, the blocks that come from a checkpoint "
            f"({fresh} of {depth} are drawn anew)",
        )


def _told_apart(sources: list[PretrainedSource]) -> list[PretrainedSource]:
    seen = [(source.name, source.seed) for source in sources]
    twice = [name for name, seed in seen if seen.count((name, seed)) > 1]
    if twice:
        raise UsageError(
            "twice",
            f"two sources are called '{twice[0]}'",
            where="--sources",
            expected="folders of different names",
        )
    return sources


def _target(
    chain: CheckpointGrid, typed: str, depth: int, settings: Settings, progress: Progress | None
) -> TransferTarget:
    if typed.lower() == RANDOM:
        raise UsageError("target", "random is no set of images", where="--targets")
    spec = WholeDataset(
        architecture=chain.architecture,
        dataset=typed,
        input_size=chain.input_size,
        train_per_class=chain.fine_tune_per_class,
        val_per_class=chain.val_per_class or 50,
    )
    held = whole_dataset_inputs.read(spec, settings, progress)
    data, content = held.task(held.folder.classes)
    name = held.folder.name
    at_most = activations.is_default(chain, "samples")
    activations.sampled(
        held.folder, "auto", chain.samples, at_most=at_most
    )  # what cannot be measured later is reported now
    if chain.layers:
        activations.layers_of(backbones.meta_model(chain.architecture), chain.layers, None)
    values = chain.values_of(typed)
    tuning = CheckpointTuning(
        architecture=chain.architecture,
        dataset=name,
        input_size=chain.input_size,
        images=content,
        train_per_class=spec.train_per_class,
        val_per_class=spec.val_per_class,
        epochs=chain.fine_tune_epochs or 1,
        batch_size=values.batch_size,
        normalisation=values.normalisation,
        freeze=chain.freeze,
        learning_rate=chain.fine_tune_rate or 1e-4,
        checkpoint_steps=chain.fine_tune_checkpoints,
        copied=depth - (chain.reinit_blocks or 0),
    )
    pretraining_spec.checkpoint_steps(
        tuning.checkpoint_steps, -(-len(data.train) // tuning.batch_size), tuning.epochs
    )
    batches.check([Trial(tuning, data)])
    return TransferTarget(name, typed, tuning, data, held.record(content), held.notes)


def _sources(
    chain: CheckpointGrid,
    typed: str,
    classes: int,
    settings: Settings,
    notes: list[str],
    progress: Progress | None,
) -> Iterator[tuple[PretrainedSource, DataInput | None]]:
    """Return the trainings of a source, seed by seed, with the record of its images."""
    values = chain.values_of(typed)
    for seed in chain.seed_numbers:
        if typed.lower() == RANDOM:
            drawn = Untrained(
                architecture=chain.architecture,
                classes=classes,
                input_size=chain.input_size,
                seed=seed,
            )
            yield PretrainedSource(RANDOM, seed, Trial(drawn, None), (UNTRAINED,)), None
            continue
        spec = PreTraining(
            architecture=chain.architecture,
            dataset=typed,
            input_size=chain.input_size,
            seed=seed,
            epochs=chain.epochs or 1,
            batch_size=values.batch_size,
            normalisation=values.normalisation,
            checkpoints=chain.checkpoints,
            learning_rate=chain.learning_rate or 1e-4,
            val_per_class=chain.val_per_class or 50,
            train_per_class=chain.train_per_class,
        )
        measures = pretraining_plan.pretraining_study(spec, settings, progress)
        trial, record = measures.trials[0], measures.inputs[0]
        add(notes, measures.notes)
        steps = -(-len(trial.inputs.train) // spec.batch_size)
        tags = tuple(
            pretraining_spec.checkpoint_steps(spec.checkpoints, steps, spec.epochs).values()
        )
        if not tags:
            raise BadDataError("no-checkpoints", "no moment is kept", where="--checkpoints")
        yield PretrainedSource(record["name"], seed, trial, tags), record
