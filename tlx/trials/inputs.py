"""From what was typed to a study ready to run: its trials, each with what it runs on, named by content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import files
from ..data import datasets, splits
from ..data.folders import TEST, TRAIN, VAL
from ..data.pixels import pixels
from ..data.sizing import Sizing
from ..errors import BadData, Usage, raise_all
from ..lab.settings import Settings
from ..models import backbones, transfer
from ..models.network import Network
from ..models.samples import Samples
from ..spec import Spec, stream
from . import fine_tuning, pretraining
from .fewshot import FewShot, FewShotTrial
from .fine_tuning import FineTuning
from .look import Found, Progress, draws, look
from .pretraining import PreTraining
from .study import Study, Trial


@dataclass(frozen=True)
class Inputs:
    """What one trial runs on; labels index `classes`."""

    classes: tuple[str, ...]
    train: Samples
    val: Samples
    test: Samples | None


# ---------------------------------------------------------------- fine-tuning

def look_at_fine_tuning(spec: FineTuning, few: FewShot, settings: Settings, progress: Progress | None = None, *,
                        keep: bool = True) -> Found:
    """The look before a fine-tuning study."""
    return look(spec, few, settings, lambda: _to_tune(spec), progress, keep=keep)


def _to_tune(spec: FineTuning) -> Network:
    """The network with a head of two classes, after a try at freezing what is asked."""
    network = backbones.load(spec.architecture, weights=spec.start_from, classes=2, head=spec.head, seed=0,
                             source=spec.weight_source, input_size=spec.input_size)
    configuration = configured(spec)
    transfer.freeze(network, spec.freeze if configuration is None else
                    transfer.seed_configuration(spec.architecture, configuration), bn=spec.bn)
    return network


def configured(spec: FineTuning) -> int | None:
    """The seeds' configuration that applies: the one asked for, 1 for their networks, None for all others."""
    if spec.configuration is not None and spec.freeze:
        raise Usage("conflict", f"--configuration {spec.configuration} and --freeze {spec.freeze}",
                    expected="one of the two")
    if spec.configuration is None and not spec.freeze and spec.architecture.lower() in transfer.SEED_COUNTS:
        return 1
    return spec.configuration


def fine_tuning_study(spec: FineTuning, few: FewShot, settings: Settings, progress: Progress | None = None
                      ) -> tuple[Study, Found]:
    """Every trial of a few-shot fine-tuning, ready to run; Problems with all that is wrong."""
    found = look_at_fine_tuning(spec, few, settings, progress)
    raise_all(found.problems)
    spec = spec.but(weights=found.weights, configuration=configured(spec))
    parts = Parts(found, spec)
    trials = [Trial(spec.but(shots=shots, split=split, images=content),
                    Inputs(parts.classes, train, parts.val, parts.test))
              for shots, split, train, content in parts.draws(spec, few)]
    return Study(key=parts.study_key(spec), call="tlx.trials.fine_tuning:run", experiment=fine_tuning.EXPERIMENT,
                 title=parts.title(spec), spec=shared(spec), trials=tuple(trials), inputs=(parts.dataset(),),
                 tags=parts.tags(few), params={"Job number": str(few.job)}), found


# ---------------------------------------------------------------- what all few-shot studies need

class Parts:
    """The parts that the trials of a few-shot study share, and those of each draw."""

    def __init__(self, found: Found, spec: FewShotTrial):
        assert found.splits is not None
        assert found.folder is not None
        assert found.pixels is not None
        self._splits, self._folder, self.pixels = found.splits, found.folder, found.pixels
        self._found, self._scored_on_val = found, spec.model_selection
        self.classes = found.splits.classes
        self._class = {label: number for number, label in enumerate(self.classes)}
        self.val = self._samples(found.splits.val)
        self.test = None if spec.model_selection else self._samples(found.splits.test)
        self._held = [self._digest(s) for s in (self.val, self.test) if s is not None]

    def draws(self, spec: FewShotTrial, few: FewShot) -> list[tuple[int, int, Samples, str]]:
        """(shots, split, training samples, digest of all that enters) of every draw."""
        found = []
        for shots, split in draws(spec, few, self._splits):
            train = self._samples(self._splits.train(shots, split))
            found.append((shots, split, train, files.digest([self.classes, self._digest(train), *self._held])))
        return found

    def study_key(self, spec: Spec) -> str:
        """The study's name: what its trials have in common, by content."""
        return files.digest(["study", spec.identity(), self.classes, self._held])

    def title(self, spec: FewShotTrial) -> str:
        """The study's title, for people."""
        return f"{spec.architecture} on {self._folder.name}" + " (model selection)" * spec.model_selection

    def dataset(self) -> dict[str, str]:
        """The data set, for the record."""
        return {"name": self._folder.name, "source": str(self._folder.root), "digest": self._held[-1][:36],
                "context": "val" if self._scored_on_val else "test"}

    def tags(self, few: FewShot) -> dict[str, str]:
        """What is worth a tag."""
        return {"tlx.dataset": self._folder.name, "tlx.job": str(few.job), "tlx.splits": str(self._splits.folder)}

    def _samples(self, rows: Sequence[splits.Row]) -> Samples:
        numbers = np.array([self._found.places[self._found.find(row)] for row in rows], np.int64)
        return Samples(self.pixels, numbers, np.array([self._class[row.label] for row in rows], np.int64))

    def _digest(self, samples: Samples) -> str:
        """SHA-256 of the pixels of these images, in order, and their labels."""
        return files.digest([self.pixels.subset(samples.images).digest, samples.labels.tolist()])


def shared(spec: Spec) -> dict[str, Any]:
    """The settings that all trials of a study have in common."""
    return {name: value for name, value in spec.to_json().items()
            if name not in ("shots", "split", "images", "classifier")}


# ---------------------------------------------------------------- pre-training

def pretraining_study(spec: PreTraining, settings: Settings, progress: Progress | None = None) -> Study:
    """The one trial of a pre-training on all images of a data set."""
    folder = datasets.locate(spec.dataset, settings.cache_folder, data_root=settings.data_root)
    row = backbones.lookup(spec.architecture)
    train, val, test = _pools(folder, spec)
    everything = [*train, *val, *test]
    sizing = Sizing(spec.input_size or row.input_size, crops=False, mode=spec.sizing, channels=row.channels)
    held = pixels([folder.root / image.path for image in everything], sizing, settings.cache_folder,
                  budget_bytes=int(settings.decode_budget * 1e9), progress=progress)
    labels = np.array([folder.classes.index(image.label) for image in everything], np.int64)
    ends = np.cumsum([len(train), len(val), len(test)])
    parts = [Samples(held, rows, labels[rows]) for rows in np.split(np.arange(len(everything)), ends[:-1])]
    content = files.digest([folder.classes, held.digest, labels.tolist(), ends.tolist()])
    spec = spec.but(images=content)
    inputs = Inputs(folder.classes, parts[0], parts[1], parts[2] if len(test) else None)
    dataset = {"name": folder.name, "source": str(folder.root), "digest": content[:36], "context": "train"}
    return Study(key=files.digest(["study", spec.identity()]), call="tlx.trials.pretraining:run",
                 experiment=pretraining.EXPERIMENT, title=f"{spec.architecture} on {folder.name}",
                 spec=shared(spec), trials=(Trial(spec, inputs),), inputs=(dataset,),
                 tags={"tlx.dataset": folder.name})


def _pools(folder: datasets.ImageFolder, spec: PreTraining) -> tuple[list[Any], list[Any], list[Any]]:
    """All images as train, val and test: val drawn from the training images, seeded, where there is no val folder."""
    test = list(folder.of(TEST))
    given = list(folder.of(VAL))
    pool = list(folder.of(TRAIN)) or [image for image in folder.images if image not in set(test + given)]
    if given:
        return pool, given, test
    val: list[Any] = []
    for label in folder.classes:
        of_class = [image for image in pool if image.label == label]
        if len(of_class) <= spec.val_per_class:
            raise BadData("too-few-images", f"class '{label}' has {len(of_class)} training images", where=folder.root,
                          expected=f"more than the {spec.val_per_class} held for validation",
                          remedy="use a smaller --val-per-class")
        order = np.random.default_rng(stream(spec.seed, "val", label)).permutation(len(of_class))
        val += [of_class[i] for i in order[: spec.val_per_class]]
    chosen = set(val)
    return [image for image in pool if image not in chosen], val, test
