"""The images of a QUANTA study: all of a data set or of some of its classes, as training, validation and test parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .. import files
from ..data import datasets
from ..data.folders import TEST, TRAIN, VAL, Image
from ..data.pixels import pixels
from ..data.sizing import Sizing
from ..errors import BadData, Usage
from ..lab.settings import Settings
from ..models.backbones import BackboneRow
from ..models.samples import Samples
from ..spec import stream
from .quanta import Quanta

Progress = Callable[[int, int], None]
LEAST = 4  # classes that can be halved


@dataclass(frozen=True)
class Images:
    """The parts of a data set, whose labels index `classes`; digest: of pixels, labels and parts."""

    name: str
    root: str
    classes: tuple[str, ...]
    parts: dict[str, Samples]
    digest: str

    def record(self, context: str) -> dict[str, str]:
        """The data set, for a study's record."""
        return {"name": self.name, "source": self.root, "digest": self.digest[:36], "context": context}


def halves(classes: Sequence[str], seed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Two random halves of the classes, each sorted; of an odd number the first has one more (Yosinski et al. 2014,
    arXiv:1411.1792, section 3)."""
    if len(classes) < LEAST:
        raise Usage("halves", f"{len(classes)} classes", where="--halves", expected=f"at least {LEAST}")
    order = np.random.default_rng(stream(seed, "halves")).permutation(len(classes))
    middle = -(-len(classes) // 2)
    first, second = (tuple(classes[i] for i in sorted(some)) for some in (order[:middle], order[middle:]))
    return first, second


def folder_of(dataset: str, settings: Settings) -> datasets.ImageFolder:
    """The data set, found or materialised."""
    return datasets.locate(dataset, settings.cache_folder, data_root=settings.data_root)


def images_of(folder: datasets.ImageFolder, classes: Sequence[str], spec: Quanta, row: BackboneRow,
              settings: Settings, progress: Progress | None = None, *, suffix: str = "") -> Images:
    """The parts of these classes of a folder, read: validation images are drawn where there is no val folder."""
    chosen = {"train": list[Image](), "val": list[Image](), "test": list[Image]()}
    for label in classes:
        for part, some in _of_class(folder, label, spec).items():
            chosen[part] += some
    everything = [image for some in chosen.values() for image in some]
    sizing = Sizing(spec.input_size or row.input_size, crops=False, mode=spec.sizing, channels=row.channels)
    held = pixels([folder.root / image.path for image in everything], sizing, settings.cache_folder,
                  budget_bytes=int(settings.decode_budget * 1e9), progress=progress)
    number = {label: i for i, label in enumerate(classes)}
    labels = np.array([number[image.label] for image in everything], np.int64)
    ends = np.cumsum([len(some) for some in chosen.values()])
    rows = np.split(np.arange(len(everything)), ends[:-1])
    parts = {part: Samples(held, some, labels[some]) for part, some in zip(chosen, rows, strict=True) if len(some)}
    content = files.digest([list(classes), held.digest, labels.tolist(), ends.tolist()])
    return Images(folder.name + suffix, str(folder.root), tuple(classes), parts, content)


def _of_class(folder: datasets.ImageFolder, label: str, spec: Quanta) -> dict[str, list[Image]]:
    """The images of one class: train, val and test."""
    mine = [image for image in folder.images if image.label == label]
    test, val = ([i for i in mine if i.split in names] for names in (TEST, VAL))
    pool = [i for i in mine if i.split in TRAIN] or [i for i in mine if i not in {*test, *val}]
    if not val:
        if len(pool) <= spec.val_per_class:
            raise BadData("too-few-images", f"class '{label}' has {len(pool)} training images", where=folder.root,
                          expected=f"more than the {spec.val_per_class} held for validation",
                          remedy="use a smaller --val-per-class")
        order = np.random.default_rng(stream(spec.seed, "val", label)).permutation(len(pool))
        held = {pool[i] for i in order[: spec.val_per_class]}
        pool, val = [i for i in pool if i not in held], [i for i in pool if i in held]
    if not pool:
        raise BadData("too-few-images", f"class '{label}' has no training image", where=folder.root)
    return {"train": pool[: spec.train_per_class or None], "val": val, "test": test[: spec.test_per_class or None]}
