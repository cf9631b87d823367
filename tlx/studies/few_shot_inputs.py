"""The look before a study: data, splits, crops and weights found, checked, decoded; all that is
wrong, at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import files
from ..data import crops, datasets, decode, images, leaks, splits
from ..data.csvs import Row
from ..data.path_resolution import Boundary
from ..data.pixels import Pixels
from ..data.sizing import Sizing
from ..errors import BadDataError, ErrorGroup, TlxError, UsageError, raise_all
from ..lab.settings import Settings
from ..models.samples import Samples
from ..spec import Spec
from .few_shot import FewShotGrid, FewShotTrial
from .image_data import add, decoded_files, digests, located

if TYPE_CHECKING:
    from ..models.network import Network

Progress = Callable[[int, int], None]
SHOTS = (1, 2, 3, 5, 7, 10)  # where neither the data set nor its splits say


class ErrorCollector:
    """Collects errors of independent parts, so that all are said together."""

    def __init__(self) -> None:
        self.problems: list[TlxError] = []

    @contextmanager
    def part(self) -> Iterator[None]:
        """An error raised in the block is kept, and the block given up."""
        try:
            yield
        except ErrorGroup as several:
            self.problems += several.problems
        except TlxError as one:
            self.problems.append(one)


@dataclass
class PreflightResult:
    """What the look before a study came to."""

    folder: datasets.ImageFolder | None = None
    splits: splits.SplitFolder | None = None
    report: leaks.LeakReport | None = None
    network: Network | None = None
    weights: str = ""  # digest
    pixels: Pixels | None = None
    places: dict[Path, int] = field(default_factory=dict)  # file → image number
    find: Callable[[Row], Path] = field(default=lambda row: Path(row.path))  # the file of a row
    notes: list[str] = field(default_factory=list)
    problems: list[TlxError] = field(default_factory=list)


# ---------------------------------------------------------------- the look before a study


def preflight(
    spec: FewShotTrial,
    few: FewShotGrid,
    settings: Settings,
    load: Callable[[], Network],
    progress: Progress | None = None,
    *,
    keep: bool = True,
) -> PreflightResult:
    """Find and check data, splits, weights and images for a few-shot study; nothing is raised but
    bugs.

    load  gives the network, or raises what is wrong with it and with what is asked of it
    keep  read the images that the study uses into the pixel store; else look whether every image
          there can be read
    """
    found, gather = PreflightResult(), ErrorCollector()
    with gather.part():
        found.network = load()
        found.notes += found.network.notes
        found.weights = found.network.weights
    with gather.part():
        found.folder = located(spec.dataset, settings, found.notes)
    broken = (
        _read_all(found.folder, found, progress) if found.folder is not None and not keep else []
    )
    gather.problems += broken
    paths: list[Path] = []
    if spec.split_path or (found.folder is not None and not broken):
        with gather.part():
            found.splits = splits.read(_split_folder(spec, few, found.folder, settings))
            found.notes += found.splits.notes
            if found.folder is None or broken:
                _check_csvs_alone(few, found, gather)
            else:
                paths = _check_splits(spec, few, settings, found, gather)
                if keep and paths and not gather.problems:
                    _look_at_images(spec, settings, found, paths, progress)
    if spec.precomputed_crops and not keep and found.folder is not None:
        with gather.part():
            _check_precomputed(spec, settings, found, paths or _all_paths(found.folder), progress)
    found.problems = gather.problems
    return found


def _check_csvs_alone(few: FewShotGrid, found: PreflightResult, gather: ErrorCollector) -> None:
    """What can be said of the CSVs while images are missing or broken; that names look alike on two
    sides is not said, for the images' bytes decide.
    """
    assert found.splits is not None
    report = splits.summary(
        found.splits, shots=few.shots or None, draws=min(few.splits, _most_draws(found.splits))
    )
    gather.problems += [problem for problem in report.problems if problem.code != "leak-suspected"]


def _check_precomputed(
    spec: FewShotTrial,
    settings: Settings,
    found: PreflightResult,
    paths: list[Path],
    progress: Progress | None,
) -> None:
    """Raise what is wrong with the crops of these images: missing, broken, of another size than the
    network takes.
    """
    if not spec.use_crops:
        raise UsageError(
            "conflict", "--precomputed-crops and --no-use-crops", expected="one of the two"
        )
    of_image = precomputed(spec.precomputed_crops or "", found, paths, settings)
    if found.network is None:
        return
    sizing = Sizing(found.network.input_size, mode=spec.sizing, channels=found.network.channels)
    decoded_files(
        paths, sizing, settings.replace(decode_budget=0.0), found.notes, progress, of_image
    )


def _all_paths(folder: datasets.ImageFolder) -> list[Path]:
    return [folder.root / image.path for image in folder.images]


def _split_folder(
    spec: FewShotTrial, few: FewShotGrid, folder: datasets.ImageFolder | None, settings: Settings
) -> Path:
    """Where the split CSVs are: given, shipped with tlx, or drawn now (once) into the cache."""
    if spec.split_path:
        return Path(spec.split_path).expanduser()
    assert folder is not None
    defaults = FewShotGrid.defaults()
    undrawn = all(
        getattr(few, name) == defaults[name]
        for name in ("val_per_class", "test_per_class", "split_seed")
    )
    if (
        undrawn and datasets.key_of(spec.dataset) == folder.name
    ):  # a folder of one's own may have that name too
        shipped = splits.shipped(folder.name)
        if shipped and set(few.shots) <= set(splits.read(shipped).shots):
            return shipped
    known = datasets.DATASETS.get(folder.name)
    shots = few.shots or (known.shots if known else ()) or SHOTS
    remembered = partial(digests, cache=settings.cache_folder)
    content = files.digest(
        [
            few.to_json(),
            [list(image) for image in folder.images],
            remembered([folder.root / image.path for image in folder.images]),
        ]
    )
    out = settings.cache_folder / "splits" / f"{folder.name}-{content[:16]}"
    if not (out / splits.VAL).is_file():
        splits.draw(
            folder,
            out,
            digests=remembered,
            shots=shots,
            draws=few.splits,
            val_per_class=few.val_per_class,
            test_per_class=few.test_per_class,
            seed=few.split_seed,
        )
    return out


def _check_splits(
    spec: FewShotTrial,
    few: FewShotGrid,
    settings: Settings,
    found: PreflightResult,
    gather: ErrorCollector,
) -> list[Path]:
    """The files of every image that the study uses, if its splits are sound."""
    assert found.folder is not None
    assert found.splits is not None
    found.find = partial(
        splits.find, root=found.folder.root, allow=tuple(map(Path, settings.allow_outside))
    )
    found.report = splits.summary(
        found.splits,
        images=found.find,
        shots=few.shots or None,
        draws=min(few.splits, _most_draws(found.splits)),
        digests=partial(digests, cache=settings.cache_folder),
    )
    gather.problems += found.report.problems
    found.notes += found.report.notes
    if gather.problems:
        return []
    rows = [row for name in _tables(spec, few, found.splits) for row in found.splits.tables[name]]
    return list(dict.fromkeys(map(found.find, rows)))


def _most_draws(folder: splits.SplitFolder) -> int:
    return max((len(folder.draws(shots)) for shots in folder.shots), default=1)


def draws(
    spec: FewShotTrial, few: FewShotGrid, folder: splits.SplitFolder
) -> list[tuple[int, int]]:
    """(shots, split) of every trial, in order."""
    shots = tuple(sorted(few.shots)) or folder.shots
    if spec.model_selection:
        return [(shots[-1], folder.draws(shots[-1])[0])]
    return [(k, s) for k in shots for s in folder.draws(k)[: few.splits]]


def _tables(spec: FewShotTrial, few: FewShotGrid, folder: splits.SplitFolder) -> list[str]:
    held = [splits.VAL] if spec.model_selection else [splits.VAL, splits.TEST]
    return held + [splits.train_name(k, s) for k, s in draws(spec, few, folder)]


def _read_all(
    folder: datasets.ImageFolder, found: PreflightResult, progress: Progress | None
) -> list[TlxError]:
    """What is wrong with any image of the folder."""
    problems, notes = images.inspect(
        [folder.root / image.path for image in folder.images], progress
    )
    add(found.notes, [f"{count} images: {decode.NOTES[name]}" for name, count in notes.items()])
    return problems


def _look_at_images(
    spec: FewShotTrial,
    settings: Settings,
    found: PreflightResult,
    paths: list[Path],
    progress: Progress | None,
) -> None:
    crop_files = None
    if spec.precomputed_crops and spec.use_crops:
        crop_files = precomputed(spec.precomputed_crops, found, paths, settings)
    elif spec.precomputed_crops:
        raise UsageError(
            "conflict", "--precomputed-crops and --no-use-crops", expected="one of the two"
        )
    assert found.network is not None
    sizing = Sizing(
        found.network.input_size,
        crops=spec.use_crops,
        mode=spec.sizing,
        channels=found.network.channels,
    )
    found.pixels = decoded_files(paths, sizing, settings, found.notes, progress, crop_files)
    found.places = {path: number for number, path in enumerate(paths)}


def precomputed(
    folder: str, found: PreflightResult, paths: Sequence[Path], settings: Settings
) -> Callable[[int], list[Path]]:
    """Image number → its ten crops below `folder`; every image that lacks one is named. Unsafe for
    crops that are links out of it.
    """
    assert found.folder is not None
    root = Path(folder).expanduser()
    outside = [path for path in paths if not path.is_relative_to(found.folder.root)]
    if outside:
        raise BadDataError(
            "crops-outside",
            f"{len(outside)} images lie outside the image root, so that nothing says where "
            "their crops are",
            where=outside[0],
            remedy="leave out --precomputed-crops",
        )
    relative = [path.relative_to(found.folder.root).as_posix() for path in paths]
    raise_all(crops.missing(root, relative))
    Boundary(root, settings.allow_outside).check_all(
        path for name in relative for path in crops.paths(root, name)
    )
    return lambda number: crops.paths(root, relative[number])


def described(
    found: PreflightResult, spec: FewShotTrial, few: FewShotGrid, settings: Settings
) -> list[str]:
    """What a look came to, in lines."""
    lines = [f"note: {note}" for note in found.notes]
    if found.network is not None:
        lines.append(
            f"weights: {found.weights[:12]} for {spec.architecture}, {found.network.input_size} "
            f"px, "
            f"{len(found.network.blocks)} blocks"
        )
    if found.folder is not None:
        lines.append(
            f"data: {len(found.folder.images)} images, {len(found.folder.classes)} classes in "
            f"{found.folder.root}"
        )
    if found.splits is not None:
        trials = draws(spec, few, found.splits)
        lines.append(
            f"splits: {found.splits.folder}, {len(trials)} trials, shots "
            f"{', '.join(map(str, dict.fromkeys(k for k, _ in trials)))}"
        )
    if found.report is not None:
        lines.append(
            "checked: "
            + ", ".join(f"{name} {count}" for name, count in found.report.counts.items())
        )
    cache, store = settings.cache_folder, settings.store_folder(None)
    lines.append(
        f"disk: {files.free_bytes(cache) / 1e9:.1f} GB free for images ({cache}), "
        f"{files.free_bytes(store) / 1e9:.1f} GB for results"
    )
    return lines


class FewShotData:
    """The parts that the trials of a few-shot study share, and those of each draw."""

    def __init__(self, found: PreflightResult, spec: FewShotTrial):
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

    def draws(self, spec: FewShotTrial, few: FewShotGrid) -> list[tuple[int, int, Samples, str]]:
        """(shots, split, training samples, digest of all that enters) of every draw."""
        found = []
        for shots, split in draws(spec, few, self._splits):
            train = self._samples(self._splits.train(shots, split))
            found.append(
                (
                    shots,
                    split,
                    train,
                    files.digest([self.classes, self._digest(train), *self._held]),
                )
            )
        return found

    def study_key(self, spec: Spec) -> str:
        """The study's name: what its trials have in common, by content."""
        return files.digest(["study", spec.identity(), self.classes, self._held])

    def title(self, spec: FewShotTrial) -> str:
        """The study's title, for people."""
        return (
            f"{spec.architecture} on {self._folder.name}"
            + " (model selection)" * spec.model_selection
        )

    def dataset(self) -> dict[str, str]:
        """The data set, for the record."""
        return {
            "name": self._folder.name,
            "source": str(self._folder.root),
            "digest": self._held[-1][:36],
            "context": "val" if self._scored_on_val else "test",
        }

    def tags(self, few: FewShotGrid) -> dict[str, str]:
        """What is worth a tag."""
        return {
            "tlx.dataset": self._folder.name,
            "tlx.job": str(few.job),
            "tlx.splits": str(self._splits.folder),
        }

    def _samples(self, rows: Sequence[splits.Row]) -> Samples:
        numbers = np.array([self._found.places[self._found.find(row)] for row in rows], np.int64)
        return Samples(
            self.pixels, numbers, np.array([self._class[row.label] for row in rows], np.int64)
        )

    def _digest(self, samples: Samples) -> str:
        """SHA-256 of the pixels of these images, in order, and their labels."""
        return files.digest([self.pixels.subset(samples.images).digest, samples.labels.tolist()])


def common_settings(spec: Spec) -> dict[str, Any]:
    """The settings that all trials of a study have in common."""
    return {
        name: value
        for name, value in spec.to_json().items()
        if name not in ("shots", "split", "images", "classifier")
    }
