"""From what was typed to what trials run on: data, splits, crops and weights found, checked, decoded, digested.

Everything wrong is found before any compute and said at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .. import files
from ..data import crops, datasets, decode, images, leaks, splits
from ..data.csvs import Row
from ..data.folders import TEST, TRAIN, VAL
from ..data.pixels import Pixels, pixels
from ..data.sizing import Sizing
from ..errors import BadData, Problems, TlxError, Usage, raise_all
from ..lab.settings import Settings
from ..models import backbones, transfer
from ..models.samples import Samples
from ..spec import Spec, stream
from . import fine_tuning, pretraining
from .fewshot import FewShot
from .fine_tuning import FineTuning
from .pretraining import PreTraining
from .study import Study, Trial

Progress = Callable[[int, int], None]
SHOTS = (1, 2, 3, 5, 7, 10)  # where neither the data set nor its splits say


@dataclass(frozen=True)
class Inputs:
    """What one trial runs on; labels index `classes`."""

    classes: tuple[str, ...]
    train: Samples
    val: Samples
    test: Samples | None


class Gather:
    """Collects errors of independent parts, so that all are said together."""

    def __init__(self) -> None:
        self.problems: list[TlxError] = []

    @contextmanager
    def part(self) -> Iterator[None]:
        """An error raised in the block is kept, and the block given up."""
        try:
            yield
        except Problems as several:
            self.problems += several.problems
        except TlxError as one:
            self.problems.append(one)


@dataclass
class Found:
    """What the look before a study came to."""

    folder: datasets.ImageFolder | None = None
    splits: splits.SplitFolder | None = None
    report: leaks.Report | None = None
    weights: str = ""
    blocks: int = 0
    input_size: int = 0
    pixels: Pixels | None = None
    places: dict[Path, int] = field(default_factory=dict)  # file → image number
    find: Callable[[Row], Path] = field(default=lambda row: Path(row.path))  # the file of a row
    notes: list[str] = field(default_factory=list)
    problems: list[TlxError] = field(default_factory=list)


# ---------------------------------------------------------------- the look before a study

def look(spec: FineTuning, few: FewShot, settings: Settings, progress: Progress | None = None, *,
         keep: bool = True) -> Found:
    """Find and check data, splits, weights and images for a few-shot study; nothing is raised but bugs.

    keep  read the images that the study uses into the pixel store; else look whether every image there can be read
    """
    found, gather = Found(), Gather()
    with gather.part():
        _look_at_weights(spec, found)
    with gather.part():
        found.folder = datasets.locate(spec.dataset, settings.cache_folder, data_root=settings.data_root)
        found.notes += found.folder.notes
    broken = _read_all(found.folder, found, progress) if found.folder is not None and not keep else []
    gather.problems += broken
    if found.folder is not None and not broken:
        with gather.part():
            found.splits = splits.read(_split_folder(spec, few, found.folder, settings))
            found.notes += found.splits.notes
            paths = _check_splits(spec, few, settings, found, gather)
            if keep and paths and not gather.problems:
                _look_at_images(spec, settings, found, paths, progress)
    found.problems = gather.problems
    return found


def _look_at_weights(spec: FineTuning, found: Found) -> None:
    row = backbones.lookup(spec.architecture)
    found.input_size = spec.input_size or row.input_size
    network = backbones.load(spec.architecture, weights=spec.start_from, classes=2, head=spec.head, seed=0,
                             source=_source(spec), input_size=spec.input_size)
    found.blocks, found.notes = len(network.blocks), [*found.notes, *network.notes]
    found.weights = backbones.digest(spec.architecture, spec.start_from, _source(spec))
    configuration = configured(spec)
    transfer.freeze(network, spec.freeze if configuration is None else
                    transfer.seed_configuration(spec.architecture, configuration), bn=spec.bn)


def _source(spec: FineTuning) -> str | None:
    return spec.source if spec.start_from == "default" else None


def configured(spec: FineTuning) -> int | None:
    """The seeds' configuration that applies: the one asked for, 1 for their networks, None for all others."""
    if spec.configuration is not None and spec.freeze:
        raise Usage("conflict", f"--configuration {spec.configuration} and --freeze {spec.freeze}",
                    expected="one of the two")
    if spec.configuration is None and not spec.freeze and spec.architecture.lower() in transfer.SEED_COUNTS:
        return 1
    return spec.configuration


def _split_folder(spec: FineTuning, few: FewShot, folder: datasets.ImageFolder, settings: Settings) -> Path:
    """Where the split CSVs are: given, shipped with tlx, or drawn now (once) into the cache."""
    if spec.split_path:
        return Path(spec.split_path).expanduser()
    defaults = FewShot.defaults()
    undrawn = all(getattr(few, name) == defaults[name] for name in ("val_per_class", "test_per_class", "split_seed"))
    if undrawn and datasets.key_of(spec.dataset) == folder.name:  # a folder of one's own may have that name too
        shipped = splits.shipped(folder.name)
        if shipped and set(few.shots) <= set(splits.read(shipped).shots):
            return shipped
    known = datasets.DATASETS.get(folder.name)
    shots = few.shots or (known.shots if known else ()) or SHOTS
    remembered = partial(_digests, cache=settings.cache_folder)
    content = files.digest([few.to_json(), [list(image) for image in folder.images],
                            remembered([folder.root / image.path for image in folder.images])])
    out = settings.cache_folder / "splits" / f"{folder.name}-{content[:16]}"
    if not (out / splits.VAL).is_file():
        splits.draw(folder, out, digests=remembered, shots=shots, draws=few.splits,
                    val_per_class=few.val_per_class, test_per_class=few.test_per_class, seed=few.split_seed)
    return out


def _check_splits(spec: FineTuning, few: FewShot, settings: Settings, found: Found, gather: Gather) -> list[Path]:
    """The files of every image that the study uses, if its splits are sound."""
    assert found.folder is not None
    assert found.splits is not None
    found.find = partial(splits.find, root=found.folder.root, allow=tuple(map(Path, settings.allow_outside)))
    found.report = splits.summary(found.splits, images=found.find, shots=few.shots or None,
                                  draws=min(few.splits, _most_draws(found.splits)),
                                  digests=partial(_digests, cache=settings.cache_folder))
    gather.problems += found.report.problems
    found.notes += found.report.notes
    if gather.problems:
        return []
    rows = [row for name in _tables(spec, few, found.splits) for row in found.splits.tables[name]]
    return list(dict.fromkeys(map(found.find, rows)))


def _most_draws(folder: splits.SplitFolder) -> int:
    return max((len(folder.draws(shots)) for shots in folder.shots), default=1)


def draws(spec: FineTuning, few: FewShot, folder: splits.SplitFolder) -> list[tuple[int, int]]:
    """(shots, split) of every trial, in order."""
    shots = tuple(sorted(few.shots)) or folder.shots
    if spec.model_selection:
        return [(shots[-1], folder.draws(shots[-1])[0])]
    return [(k, s) for k in shots for s in folder.draws(k)[: few.splits]]


def _tables(spec: FineTuning, few: FewShot, folder: splits.SplitFolder) -> list[str]:
    held = [splits.VAL] if spec.model_selection else [splits.VAL, splits.TEST]
    return held + [splits.train_name(k, s) for k, s in draws(spec, few, folder)]


def _read_all(folder: datasets.ImageFolder, found: Found, progress: Progress | None) -> list[TlxError]:
    """What is wrong with any image of the folder."""
    problems, notes = images.inspect([folder.root / image.path for image in folder.images], progress)
    found.notes += [f"{count} images: {decode.NOTES[name]}" for name, count in notes.items()]
    return problems


def _digests(paths: Sequence[Path], cache: Path) -> list[str]:
    """The content of images, remembered; if one cannot be read, all that is wrong with any of them is raised."""
    try:
        return images.digests(paths, cache)
    except TlxError:
        raise_all(images.inspect(paths)[0])
        raise


def _look_at_images(spec: FineTuning, settings: Settings, found: Found, paths: list[Path],
                    progress: Progress | None) -> None:
    precomputed = None
    if spec.precomputed_crops and spec.use_crops:
        precomputed = _precomputed(Path(spec.precomputed_crops).expanduser(), found, paths)
    elif spec.precomputed_crops:
        raise Usage("conflict", "--precomputed-crops and --no-use-crops", expected="one of the two")
    row = backbones.lookup(spec.architecture)
    sizing = Sizing(found.input_size, crops=spec.use_crops, mode=spec.sizing, channels=row.channels)
    found.pixels = pixels(paths, sizing, settings.cache_folder, precomputed=precomputed,
                          budget_bytes=int(settings.decode_budget * 1e9), progress=progress)
    found.places = {path: number for number, path in enumerate(paths)}
    found.notes += [f"{count} images: {decode.NOTES.get(name, name)}" for name, count in found.pixels.notes.items()]


def _precomputed(root: Path, found: Found, paths: Sequence[Path]) -> Callable[[int], list[Path]]:
    assert found.folder is not None
    relative = [path.relative_to(found.folder.root).as_posix() for path in paths]
    raise_all(crops.missing(root, relative))
    return lambda number: crops.paths(root, relative[number])


def described(found: Found, spec: FineTuning, few: FewShot, settings: Settings) -> list[str]:
    """What a look came to, in lines."""
    lines = [f"note: {note}" for note in found.notes]
    if found.weights:
        held = configured(spec)
        frozen = f"configuration {held}" if held is not None else f"{spec.freeze} of {found.blocks} blocks frozen"
        lines.append(f"weights: {found.weights[:12]} for {spec.architecture}, {found.input_size} px, {frozen}")
    if found.folder is not None:
        lines.append(f"data: {len(found.folder.images)} images, {len(found.folder.classes)} classes in "
                     f"{found.folder.root}")
    if found.splits is not None:
        trials = draws(spec, few, found.splits)
        lines.append(f"splits: {found.splits.folder}, {len(trials)} trials, shots "
                     f"{', '.join(map(str, dict.fromkeys(k for k, _ in trials)))}")
    if found.report is not None:
        lines.append("checked: " + ", ".join(f"{name} {count}" for name, count in found.report.counts.items()))
    cache, store = settings.cache_folder, settings.store_folder(None)
    lines.append(f"disk: {files.free_bytes(cache) / 1e9:.1f} GB free for images ({cache}), "
                 f"{files.free_bytes(store) / 1e9:.1f} GB for results")
    return lines


# ---------------------------------------------------------------- the study

def fine_tuning_study(spec: FineTuning, few: FewShot, settings: Settings, progress: Progress | None = None
                      ) -> tuple[Study, Found]:
    """Every trial of a few-shot fine-tuning, ready to run; Problems with all that is wrong."""
    found = look(spec, few, settings, progress)
    raise_all(found.problems)
    assert found.splits is not None
    assert found.folder is not None
    assert found.pixels is not None
    spec = spec.but(weights=found.weights, configuration=configured(spec))
    samples = _Sampler(found)
    val = samples(found.splits.val)
    test = None if spec.model_selection else samples(found.splits.test)
    held = [samples.digest(s) for s in (val, test) if s is not None]
    trials = []
    for shots, split in draws(spec, few, found.splits):
        train = samples(found.splits.train(shots, split))
        content = files.digest([found.splits.classes, samples.digest(train), *held])
        trials.append(Trial(spec.but(shots=shots, split=split, images=content),
                            Inputs(found.splits.classes, train, val, test)))
    key = files.digest(["study", spec.identity(), found.splits.classes, held])
    dataset = {"name": found.folder.name, "source": str(found.folder.root), "digest": held[-1][:36],
               "context": "val" if spec.model_selection else "test"}
    tags = {"tlx.dataset": found.folder.name, "tlx.job": str(few.job), "tlx.splits": str(found.splits.folder)}
    params = {"Job number": str(few.job)}
    title = f"{spec.architecture} on {found.folder.name}" + (" (model selection)" if spec.model_selection else "")
    return Study(key=key, call="tlx.trials.fine_tuning:run", experiment=fine_tuning.EXPERIMENT, title=title,
                 spec=_shared(spec), trials=tuple(trials), inputs=(dataset,), tags=tags, params=params), found


def _shared(spec: Spec) -> dict[str, Any]:
    """The settings that all trials of a study have in common."""
    return {name: value for name, value in spec.to_json().items() if name not in ("shots", "split", "images")}


class _Sampler:
    """Rows of a CSV as samples, and what identifies them."""

    def __init__(self, found: Found):
        assert found.splits is not None
        assert found.pixels is not None
        self._found = found
        self._class = {label: number for number, label in enumerate(found.splits.classes)}
        self._pixels = found.pixels

    def __call__(self, rows: Sequence[splits.Row]) -> Samples:
        numbers = np.array([self._found.places[self._found.find(row)] for row in rows], np.int64)
        return Samples(self._pixels, numbers, np.array([self._class[row.label] for row in rows], np.int64))

    def digest(self, samples: Samples) -> str:
        """SHA-256 of the pixels of these images, in order, and their labels."""
        return files.digest([self._pixels.subset(samples.images).digest, samples.labels.tolist()])


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
                 spec=_shared(spec), trials=(Trial(spec, inputs),), inputs=(dataset,),
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
