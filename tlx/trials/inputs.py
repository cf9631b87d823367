"""From what was typed to a study ready to run: its trials, each with what it runs on, named by content."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import files
from ..data import datasets, splits
from ..data.folders import TEST, TRAIN, VAL
from ..data.sides import Sides
from ..data.sizing import Sizing
from ..errors import BadData, UnknownName, Usage, raise_all
from ..features import classifiers
from ..features.dump import Dump, How
from ..features.embedding import EMBEDDINGS
from ..features.extract import Place as ExtractionPlace
from ..features.extract import extract
from ..lab import signals
from ..lab.settings import Settings
from ..models import backbones, descriptions, freezing, layers
from ..models.network import Network
from ..models.samples import Samples
from ..spec import Spec, named, stream
from . import feature_extraction, fine_tuning, pretraining
from .extraction import Extraction
from .feature_extraction import FeatureExtraction, Features, Sweep
from .fewshot import FewShot, FewShotTrial, Inputs
from .fine_tuning import FineTuning
from .image_data import decoded, decoded_files, divided, located
from .look import Found, Progress, draws, look, precomputed
from .pretraining import PreTraining
from .study import Study, Trial

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
    freezing.freeze(network, spec.freeze if configuration is None else
                    freezing.seed_configuration(spec.architecture, configuration), bn=spec.bn)
    return network


def configured(spec: FineTuning) -> int | None:
    """The seeds' configuration that applies: the one asked for, 1 for their networks, None for all others."""
    if spec.configuration is not None and spec.freeze:
        raise Usage("conflict", f"--configuration {spec.configuration} and --freeze {spec.freeze}",
                    expected="one of the two")
    if spec.configuration is None and not spec.freeze and spec.architecture.lower() in freezing.SEED_COUNTS:
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


# ---------------------------------------------------------------- feature extraction

def look_at_features(spec: FeatureExtraction, few: FewShot, settings: Settings, progress: Progress | None = None, *,
                     keep: bool = True) -> Found:
    """The look before a feature-extraction study."""
    def load() -> Network:
        return whole_network(spec, spec.layers, spec.model_description)

    return look(spec, few, settings, load, progress, keep=keep)


def whole_network(spec: FewShotTrial, layers: tuple[str, ...], description: str | None) -> Network:
    """The network with its own head, as its weights came; layers asked for are looked up."""
    row = backbones.lookup(spec.architecture)
    network = backbones.load(spec.architecture, weights=spec.start_from, seed=0,
                             classes=None if spec.model else row.classes,
                             head="linear" if spec.start_from is None else "keep", source=spec.weight_source,
                             input_size=spec.input_size)
    layers_of(network, layers, description)
    return network


def layers_of(network: Network, names: tuple[str, ...], description: str | None) -> tuple[str, ...]:
    """The canonical names of the layers that are meant: by name, by block number, by set, or by a description."""
    if description and names:
        raise Usage("conflict", "--layers and --model-description", expected="one of the two")
    if description:
        return descriptions.described(network, descriptions.read(Path(description).expanduser()), where=description)
    sets: dict[str, tuple[str | int, ...]] = {"last": (len(network.blocks),), **descriptions.LAYER_SETS}
    if not names or "blocks" in names:
        sets["blocks"] = _blocks_with_rows(network)
    if "all" in names:
        sets["all"] = layers.everything(network)
    if "thesis" in names:
        rows = descriptions.THESIS_LAYERS
        known = {backbones.lookup(name).title: chosen for name, chosen in rows.items()}
        if network.row.title not in known:
            raise UnknownName("network with layers of the thesis", network.row.title, list(rows))
        sets["thesis"] = known[network.row.title]
    asked = [part for name in names or ("blocks",) for part in sets.get(name, (name,))]
    return descriptions.modules(network, asked)


def _blocks_with_rows(network: Network) -> tuple[int, ...]:
    """Numbers of the blocks that can be taken as layers; those that are left out are in the network's notes."""
    numbers = layers.blocks_with_rows(network)
    left_out = [str(n) for n in range(1, len(network.blocks) + 1) if n not in numbers]
    if left_out:
        note = (f"layers of {network.row.title}: block {', '.join(left_out)} left out, which gives no row for each "
                "image")
        network.notes = tuple(dict.fromkeys([*network.notes, note]))
    return numbers


def feature_extraction_study(spec: FeatureExtraction, few: FewShot, sweep: Sweep, settings: Settings,
                             progress: Progress | None = None) -> tuple[Study, Found]:
    """Every classifier on every draw, ready to run, its activations extracted (once, ever); Problems otherwise."""
    names = sweep.classifiers
    found = look_at_features(spec, few, settings, progress)
    raise_all(found.problems)
    assert found.network is not None
    assert found.pixels is not None
    taken = layers_of(found.network, spec.layers, spec.model_description)
    spec = spec.but(weights=found.weights, layers=taken, embedding=spec_words(spec.embedding))
    with signals.graceful() as stopping:
        place = _dump_place(found, settings, progress, stopping)
        how = How(reduce=spec.reduce, dtype=spec.dtype, fold=spec.fold, precision=spec.precision)
        dump = extract(found.network, found.weights, found.pixels, taken, place, how)
        signals.stop_if_asked()
    parts = Parts(found, spec)
    trials = []
    for shots, split, train, content in parts.draws(spec, few):
        drawn = spec.but(shots=shots, split=split, images=content)
        inputs = Features(parts.classes, dump, train, parts.val, parts.test)
        tried = _feasible(names, inputs) if sweep.everything else names
        left_out = [name for name in names if name not in tried]
        found.notes += [f"{drawn.title} is too small for {', '.join(left_out)}: left out"] * bool(left_out)
        trials += [Trial(drawn.but(classifier=name), inputs, drawn.group) for name in tried]
    return Study(key=parts.study_key(spec), call="tlx.trials.feature_extraction:run",
                 experiment=feature_extraction.EXPERIMENT, title=parts.title(spec), spec=shared(spec),
                 trials=tuple(trials), inputs=(parts.dataset(),), tags=parts.tags(few) | {"tlx.dump": dump.key},
                 preload=("tlx.features.pipelines", "tlx.features.spans", "sklearn.linear_model",
                          "sklearn.discriminant_analysis", *(["mlflow.sklearn"] if spec.log_model else [])),
                 params={"Job number": str(few.job)}), found


def _feasible(names: Sequence[str], inputs: Features) -> list[str]:
    """Those that the number of training rows of a draw allows."""
    rows = len(inputs.train.rows)
    alone = rows == len(inputs.classes)  # one row a class: nothing varies within a class
    return [name for name in names if not (alone and name == "lda")
            and getattr(classifiers.classifier(name), "k", 0) <= rows]


def extraction(spec: Extraction, settings: Settings, progress: Progress | None = None,
               notes: list[str] | None = None) -> Dump:
    """The activations of images of a data set, extracted or found; what was done to weights and images joins `notes`.
    """
    spec = spec.resolved
    notes = [] if notes is None else notes
    found = Found()
    network = found.network = whole_network(spec, spec.layers, spec.model_description)
    notes += [note for note in network.notes if note not in notes]
    folder = found.folder = located(spec.dataset, settings, notes)
    chosen = sampled(folder, spec.part, spec.samples, notes, at_most=is_default(spec, "samples"))
    paths = [folder.root / image.path for image in chosen]
    sizing = Sizing(network.input_size, crops=spec.use_crops, mode=spec.sizing, channels=network.channels)
    crop_files = None
    if spec.precomputed_crops:
        crop_files = precomputed(spec.precomputed_crops, found, paths, settings)
    held = decoded_files(paths, sizing, settings, notes, progress, crop_files)
    found.places = {path: number for number, path in enumerate(paths)}
    how = How(reduce=spec.reduce, dtype=spec.dtype, fold=spec.fold, precision=spec.precision)
    with signals.graceful() as stopping:
        place = _dump_place(found, settings, progress, stopping, labels=[image.label for image in chosen])
        names = layers_of(network, spec.layers, spec.model_description)
        dump = extract(network, network.weights, held, names, place, how)
        signals.stop_if_asked()
    return dump


def is_default(spec: Any, name: str) -> bool:
    """Return whether a setting is at its default, so that nobody asked for exactly this."""
    return bool(getattr(spec, name) == spec.defaults()[name])


def sampled(folder: datasets.ImageFolder, part: str, samples: int | None, notes: list[str] | None = None, *,
            at_most: bool = False) -> list[datasets.Image]:
    """The images of a part of a folder, all of them in order; or as many of each class, the first ones, class by class.

    at_most   take what there is of a class that has fewer, and say so in `notes`; else that is refused
    """
    if part == "auto":
        part = "test" if folder.of(TEST) else "all"
    names = {"train": TRAIN, "val": VAL, "test": TEST}.get(part, ())
    images = list(folder.images if part == "all" else folder.of(names))
    if not images:
        raise BadData("no-images", f"no image in a folder named {' or '.join(names)}", where=folder.root,
                      expected=f"split folders; found {', '.join(filter(None, folder.splits)) or 'none'}",
                      remedy="use --part all")
    if not samples:
        return images
    each, rest = divmod(samples, len(folder.classes))
    if (rest and not at_most) or not each:
        raise Usage("out-of-range", f"{samples} samples of {len(folder.classes)} classes", where="--samples",
                    expected=f"a multiple of {len(folder.classes)}: as many of each class")
    by_class = {label: [image for image in images if image.label == label] for label in folder.classes}
    short = [f"'{label}' {len(some)}" for label, some in by_class.items() if len(some) < each]
    if len(short) > 10:
        short = [*short[:10], f"and {len(short) - 10} more classes"]
    if short and at_most:
        message = f"fewer than {each} images of {', '.join(short)}: what there is of them is taken"
        if notes is not None and message not in notes:
            notes.append(message)
    elif short:
        raise BadData("too-few-images", f"{each} images of each class asked for; there are of {', '.join(short)}",
                      where=folder.root, remedy="use a smaller --samples")
    return [image for some in by_class.values() for image in some[:each]]


def spec_words(text: str) -> str:
    """An embedding in one spelling."""
    embedding = named(EMBEDDINGS, text, "embedding")
    defaults = embedding.defaults()
    settings = [f"{name}={value}" for name, value in embedding.to_json().items()
                if name != "kind" and value != defaults.get(name)]
    return text.partition(":")[0] + (":" + ",".join(settings) if settings else "")


def _dump_place(found: Found, settings: Settings, progress: Progress | None, stopping: Callable[[], bool], *,
                labels: Sequence[str] = ()) -> ExtractionPlace:
    assert found.network is not None
    assert found.folder is not None
    paths = [str(path.relative_to(found.folder.root)) if path.is_relative_to(found.folder.root) else path.name
             for path in found.places]
    return ExtractionPlace(dump_folder(settings), settings.resolved_device(), ids=paths, labels=labels,
                           about={"backbone": found.network.row.title, "dataset": found.folder.name,
                                  "root": str(found.folder.root)},
                           progress=progress or (lambda done, of: None), stopping=stopping)


def dump_folder(settings: Settings) -> Path:
    """Where activation dumps are kept."""
    return settings.cache_folder / "dumps"


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
    notes: list[str] = []
    folder = located(spec.dataset, settings, notes)
    row = backbones.lookup(spec.architecture)
    train, val, test = _pools(folder, divided(folder, settings, notes, progress), spec)
    everything = [*train, *val, *test]
    sizing = Sizing(spec.input_size or row.input_size, crops=False, mode=spec.sizing, channels=row.channels)
    held = decoded(folder, everything, sizing, settings, notes, progress)
    labels = np.array([folder.classes.index(image.label) for image in everything], np.int64)
    ends = np.cumsum([len(train), len(val), len(test)])
    parts = [Samples(held, rows, labels[rows]) for rows in np.split(np.arange(len(everything)), ends[:-1])]
    content = files.digest([folder.classes, held.digest, labels.tolist(), ends.tolist()])
    pretraining.moments(spec.checkpoints, -(-len(train) // spec.batch_size), spec.epochs)
    spec = spec.but(images=content)
    inputs = Inputs(folder.classes, parts[0], parts[1], parts[2] if len(test) else None)
    dataset = {"name": folder.name, "source": str(folder.root), "digest": content[:36], "context": "train"}
    return Study(key=files.digest(["study", spec.identity()]), call="tlx.trials.pretraining:run",
                 experiment=pretraining.EXPERIMENT, title=f"{spec.architecture} on {folder.name}",
                 spec=shared(spec), trials=(Trial(spec, inputs),), inputs=(dataset,),
                 tags={"tlx.dataset": folder.name}, notes=tuple(notes))


def _pools(folder: datasets.ImageFolder, sides: Sides, spec: PreTraining) -> tuple[list[Any], list[Any], list[Any]]:
    """All images as train, val and test: val drawn from the training images, seeded, where there is no val folder."""
    if sides.val:
        _refuse_untrained(folder, sides)
        return _first(sides.train, spec.train_per_class), sides.val, sides.test
    by_class: dict[str, list[Any]] = {label: [] for label in folder.classes}
    for image in sides.train:
        by_class[image.label].append(image)
    refuse_few(folder, sides, {label: len(some) for label, some in by_class.items()}, spec.val_per_class)
    val: list[Any] = []
    for label, of_class in by_class.items():
        order = np.random.default_rng(stream(spec.seed, "val", label)).permutation(len(of_class))
        val += [of_class[i] for i in order[: spec.val_per_class]]
    return _first(sides.without_copies(sides.train, val), spec.train_per_class), val, sides.test


def refuse_few(folder: datasets.ImageFolder, sides: Sides, counts: dict[str, int], held: int) -> None:
    """Raise BadData, naming the classes, unless each has more training images than are held for validation."""
    few = [f"'{label}' {count}" for label, count in counts.items() if count <= held]
    if few:
        shown = ", ".join(few[:10]) + (f" and {len(few) - 10} more classes" if len(few) > 10 else "")
        raise BadData("too-few-images", "; ".join([f"training images of {shown}", *sides.notes]), where=folder.root,
                      expected=f"more than the {held} of each class held for validation",
                      remedy="use a smaller --val-per-class")


def _refuse_untrained(folder: datasets.ImageFolder, sides: Sides) -> None:
    if not sides.train:
        raise BadData("too-few-images", "; ".join(["no training image", *sides.notes]), where=folder.root,
                      expected="images in a folder named train that are not in val or test too")


def _first(images: list[Any], per_class: int) -> list[Any]:
    """The first so many of each class, in their order; all for 0."""
    seen: Counter[str] = Counter()
    found = []
    for image in images:
        seen[image.label] += 1
        if not per_class or seen[image.label] <= per_class:
            found.append(image)
    return found
