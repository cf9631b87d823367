"""Preflight of a study: data, splits, crops and weights found, checked, decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import files
from ..data import crops, datasets, decode, images, leaks, splits
from ..data.csvs import Row
from ..data.path_resolution import Boundary
from ..data.pixels import Pixels
from ..data.sizing import Sizing
from ..errors import BadDataError, ErrorGroup, TlxError, UsageError, counted, raise_all
from ..lab.records import DataInput
from ..lab.settings import Settings
from ..models.samples import Samples
from ..spec import Spec
from .few_shot import FewShotGrid, FewShotTrial
from .image_data import add, decoded_files, digests, located
from .source_list import source_label

if TYPE_CHECKING:
    from ..models.network import Network

Progress = Callable[[int, int], None]
SHOTS = (1, 2, 3, 5, 7, 10)  # where neither the data set nor its splits say


class ErrorCollector:
    """Collector of errors of independent parts, to be raised together."""

    def __init__(self) -> None:
        self.problems: list[TlxError] = []

    @contextmanager
    def part(self) -> Iterator[None]:
        """Keep an error raised in the block, and leave the block."""
        try:
            yield
        except ErrorGroup as several:
            self.problems += several.problems
        except TlxError as one:
            self.problems.append(one)


@dataclass
class PreflightResult:
    """Result of the preflight of a study."""

    folder: datasets.ImageFolder | None = None
    splits: splits.SplitFolder | None = None
    report: leaks.LeakReport | None = None
    network: Network | None = None
    weights: str = ""  # digest
    pixels: Pixels | None = None
    paths: list[Path] = field(default_factory=list)  # of the images that the study uses
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
    used: Callable[[PreflightResult], Iterable[Row]] | None = None,
) -> PreflightResult:
    """Find and check data, splits, weights and images for a few-shot study.

    Raises nothing but bugs.

    load  returns the network, or raises its errors and those of its settings
    keep  read the images that the study uses into the pixel store; else look whether every image
          there can be read
    used  rows of the images that the study uses, from its splits and where their files are; None:
          those of its draws, of val and of test
    """
    result, gather = PreflightResult(), ErrorCollector()
    with gather.part():
        result.network = load()
        result.notes += result.network.notes
        result.weights = result.network.weights
    with gather.part():
        result.folder = located(spec.dataset, settings, result.notes)
    broken = (
        _read_all(result.folder, result, progress) if result.folder is not None and not keep else []
    )
    gather.problems += broken
    if spec.split_path and (changed := _changed(few)):
        gather.problems += [
            UsageError(
                "no-effect",
                f"{', '.join(changed)} with --split-path",
                expected="the files alone: they say which images are for validation and test",
                remedy="leave these out; tlx splits draw takes them",
            )
        ]
    paths: list[Path] = []
    if spec.split_path or (result.folder is not None and not broken):
        with gather.part():
            result.splits = splits.read(_split_folder(spec, few, result.folder, settings))
            result.notes += result.splits.notes
            if result.folder is None or broken:
                _check_csvs_alone(few, result, gather)
            else:
                rows_of = partial(_rows_in_use, spec, few) if used is None else used
                paths = result.paths = _check_splits(few, settings, result, gather, rows_of)
                if keep and paths and not gather.problems:
                    _look_at_images(spec, settings, result, paths, progress)
    if spec.precomputed_crops and not keep and result.folder is not None:
        with gather.part():
            _check_precomputed(spec, settings, result, paths or _all_paths(result.folder), progress)
    result.problems = gather.problems
    return result


def _check_csvs_alone(few: FewShotGrid, result: PreflightResult, gather: ErrorCollector) -> None:
    """Check what the CSVs show while images are missing or broken.

    Similar names on two sides are not reported, as the images' bytes decide.
    """
    assert result.splits is not None
    report = splits.summary(
        result.splits, shots=few.shots or None, draws=min(few.splits, _most_draws(result.splits))
    )
    gather.problems += [problem for problem in report.problems if problem.code != "leak-suspected"]


def _check_precomputed(
    spec: FewShotTrial,
    settings: Settings,
    result: PreflightResult,
    paths: list[Path],
    progress: Progress | None,
) -> None:
    """Raise the errors of these images' crops: missing, broken, or of a wrong size.

    The size is that of the network's input.
    """
    if not spec.use_crops:
        raise UsageError(
            "conflict", "--precomputed-crops and --no-use-crops", expected="one of the two"
        )
    of_image = precomputed(spec.precomputed_crops or "", result, paths, settings)
    if result.network is None:
        return
    sizing = Sizing(result.network.input_size, mode=spec.sizing, channels=result.network.channels)
    decoded_files(
        paths, sizing, settings.replace(decode_budget=0.0), result.notes, progress, of_image
    )


def _all_paths(folder: datasets.ImageFolder) -> list[Path]:
    return [folder.root / image.path for image in folder.images]


def _changed(few: FewShotGrid) -> list[str]:
    """Return the options of how splits are drawn that are not at their defaults."""
    defaults = FewShotGrid.defaults()
    names = ("val_per_class", "test_per_class", "split_seed")
    return [f"--{n.replace('_', '-')}" for n in names if getattr(few, n) != defaults[n]]


def _split_folder(
    spec: FewShotTrial, few: FewShotGrid, folder: datasets.ImageFolder | None, settings: Settings
) -> Path:
    """Return the folder of split CSVs: given, shipped, or drawn now (once) into the cache."""
    if spec.split_path:
        return Path(spec.split_path).expanduser()
    assert folder is not None
    if (
        not _changed(few) and datasets.key_of(spec.dataset) == folder.name
    ):  # a folder of one's own may have that name too
        shipped = splits.shipped(folder.name)
        if shipped and _is_enough(splits.read(shipped), few):
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


def _is_enough(folder: splits.SplitFolder, few: FewShotGrid) -> bool:
    """Return whether published splits have the shots, and the draws if more could be drawn."""
    shots = few.shots or folder.shots
    if not set(shots) <= set(folder.shots):
        return False
    return not few.draws_more or all(len(folder.draws(k)) >= few.splits for k in shots)


def _check_splits(
    few: FewShotGrid,
    settings: Settings,
    result: PreflightResult,
    gather: ErrorCollector,
    used: Callable[[PreflightResult], Iterable[Row]],
) -> list[Path]:
    """Return the files of every image that the study uses, if its splits are sound."""
    assert result.folder is not None
    assert result.splits is not None
    result.find = partial(
        splits.find, root=result.folder.root, allow=tuple(map(Path, settings.allow_outside))
    )
    result.report = splits.summary(
        result.splits,
        images=result.find,
        shots=few.shots or None,
        draws=min(few.splits, _most_draws(result.splits)),
        digests=partial(digests, cache=settings.cache_folder),
    )
    gather.problems += result.report.problems
    result.notes += result.report.notes
    if gather.problems:
        return []
    return list(dict.fromkeys(map(result.find, used(result))))


def _most_draws(folder: splits.SplitFolder) -> int:
    return max((len(folder.draws(shots)) for shots in folder.shots), default=1)


def draws(
    spec: FewShotTrial, few: FewShotGrid, folder: splits.SplitFolder
) -> list[tuple[int, int]]:
    """Return (shots, split) of every trial, in order."""
    shots = tuple(sorted(few.shots)) or folder.shots
    if spec.model_selection:
        return [(shots[-1], folder.draws(shots[-1])[0])]
    return [(k, s) for k in shots for s in folder.draws(k)[: few.splits]]


def _rows_in_use(spec: FewShotTrial, few: FewShotGrid, result: PreflightResult) -> Iterator[Row]:
    folder = result.splits
    assert folder is not None
    held = [splits.VAL] if spec.model_selection else [splits.VAL, splits.TEST]
    for name in held + [splits.train_name(k, s) for k, s in draws(spec, few, folder)]:
        yield from folder.tables[name]


def rows_of_refit(result: PreflightResult) -> Iterator[Row]:
    """Yield the rows of validation and test images, and of all training images."""
    assert result.splits is not None
    yield from result.splits.val
    yield from result.splits.test
    yield from pool_rows(result.splits)


def _read_all(
    folder: datasets.ImageFolder, result: PreflightResult, progress: Progress | None
) -> list[TlxError]:
    """Return the errors of all images of the folder."""
    problems, notes = images.inspect(
        [folder.root / image.path for image in folder.images], progress
    )
    add(
        result.notes,
        [f"{counted(count, 'image')}: {decode.NOTES[name]}" for name, count in notes.items()],
    )
    return problems


def _look_at_images(
    spec: FewShotTrial,
    settings: Settings,
    result: PreflightResult,
    paths: list[Path],
    progress: Progress | None,
) -> None:
    crop_files = None
    if spec.precomputed_crops and spec.use_crops:
        crop_files = precomputed(spec.precomputed_crops, result, paths, settings)
    elif spec.precomputed_crops:
        raise UsageError(
            "conflict", "--precomputed-crops and --no-use-crops", expected="one of the two"
        )
    assert result.network is not None
    sizing = Sizing(
        result.network.input_size,
        crops=spec.use_crops,
        mode=spec.sizing,
        channels=result.network.channels,
    )
    result.pixels = decoded_files(paths, sizing, settings, result.notes, progress, crop_files)
    result.places = {path: number for number, path in enumerate(paths)}


def precomputed(
    folder: str, result: PreflightResult, paths: Sequence[Path], settings: Settings
) -> Callable[[int], list[Path]]:
    """Return image number → its ten crops in `folder`.

    Every image that lacks one is named. Raises UnsafeError for crops that are links out of it.
    """
    assert result.folder is not None
    root = Path(folder).expanduser()
    outside = [path for path in paths if not path.is_relative_to(result.folder.root)]
    if outside:
        raise BadDataError(
            "crops-outside",
            f"{counted(len(outside), 'image')} outside the image root, so that it is unknown where "
            "the crops are",
            where=outside[0],
            remedy="leave out --precomputed-crops",
        )
    relative = [path.relative_to(result.folder.root).as_posix() for path in paths]
    raise_all(crops.missing(root, relative))
    Boundary(root, settings.allow_outside).check_all(
        path for name in relative for path in crops.paths(root, name)
    )
    return lambda number: crops.paths(root, relative[number])


def described(
    result: PreflightResult, spec: FewShotTrial, few: FewShotGrid, settings: Settings
) -> list[str]:
    """Return the result of a preflight as lines of text."""
    lines = [f"note: {note}" for note in result.notes]
    if result.network is not None:
        lines.append(
            f"weights: {result.weights[:12]} for {spec.architecture}, {result.network.input_size} "
            f"px, "
            f"{counted(len(result.network.blocks), 'block')}"
        )
    if result.folder is not None:
        lines.append(
            f"data: {counted(len(result.folder.images), 'image')}, "
            f"{counted(len(result.folder.classes), 'class', 'classes')} in "
            f"{result.folder.root}"
        )
    if result.splits is not None:
        trials = draws(spec, few, result.splits)
        lines.append(
            f"splits: {result.splits.folder}, {counted(len(trials), 'trial')}, shots "
            f"{', '.join(map(str, dict.fromkeys(k for k, _ in trials)))}"
        )
    if result.report is not None:
        lines.append(
            "checked: "
            + ", ".join(f"{name} {count}" for name, count in result.report.counts.items())
        )
    cache, store = settings.cache_folder, settings.store_folder(None)
    lines.append(
        f"disk: {files.free_bytes(cache) / 1e9:.1f} GB free for images ({cache}), "
        f"{files.free_bytes(store) / 1e9:.1f} GB for results"
    )
    return lines


class FewShotData:
    """Parts that the trials of a few-shot study share, and those of each draw."""

    def __init__(self, result: PreflightResult, spec: FewShotTrial):
        assert result.splits is not None
        assert result.folder is not None
        assert result.pixels is not None
        self._splits, self._folder, self.pixels = result.splits, result.folder, result.pixels
        self._found, self._scored_on_val = result, spec.model_selection
        self.classes = result.splits.classes
        self._class = {label: number for number, label in enumerate(self.classes)}
        self.val = self._samples(result.splits.val)
        self.test = None if spec.model_selection else self._samples(result.splits.test)
        self._held = [self._digest(s) for s in (self.val, self.test) if s is not None]
        self.test_digest = "" if self.test is None else rows_digest(result.splits.test)
        self.pool = pool_per_class(result.splits)

    def draws(self, spec: FewShotTrial, few: FewShotGrid) -> list[tuple[int, int, Samples, str]]:
        """Return (shots, split, training samples, digest of all inputs) of every draw."""
        rows = []
        for shots, split in draws(spec, few, self._splits):
            train = self._samples(self._splits.train(shots, split))
            rows.append(
                (
                    shots,
                    split,
                    train,
                    files.digest([self.classes, self._digest(train), *self._held]),
                )
            )
        return rows

    def content_of(self, spec: FewShotTrial, few: FewShotGrid) -> str:
        """Return the digest of all inputs of the draw of a trial; "" if there is no such draw."""
        place = (spec.shots, spec.split)
        contents = {(shots, split): content for shots, split, _, content in self.draws(spec, few)}
        return contents.get(place, "")

    def whole_pool(self) -> Samples:
        """Return all training images that draws are made from, as training samples."""
        return self._samples(pool_rows(self._splits))

    def study_key(self, spec: Spec) -> str:
        """Return the study's key: what its trials have in common, by content."""
        return files.digest(["study", spec.identity(), self.classes, self._held])

    def title(self, spec: FewShotTrial) -> str:
        """Return the study's title."""
        title = f"{source_label(spec.to_json())} on {self._folder.name}"
        return f"{title} (model selection)" if spec.model_selection else title

    def dataset(self) -> DataInput:
        """Return the record of the data set."""
        return {
            "name": self._folder.name,
            "source": str(self._folder.root),
            "digest": self._held[-1][:36],
            "context": "val" if self._scored_on_val else "test",
        }

    def tags(self, few: FewShotGrid) -> dict[str, str]:
        """Return the tags of the study's run."""
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
        """Compute the SHA-256 of the pixels of these images, in order, and their labels."""
        return files.digest([self.pixels.subset(samples.images).digest, samples.labels.tolist()])


def rows_digest(rows: Sequence[splits.Row]) -> str:
    """Compute the SHA-256 of paths and labels, in order, without the data set's name.

    It is the same at every size that images are decoded to.
    """
    return files.digest([(row.path.partition("/")[2] or row.path, row.label) for row in rows])


def pool_rows(folder: splits.SplitFolder) -> list[Row]:
    """Return the training images that draws are made from, sorted by their paths.

    Of the list of all images those on the side of the training images that are in neither val nor
    test; where there is no such list, those that any draw has.
    """
    draws = {row for name, rows in folder.tables.items() if "train" in name for row in rows}
    sides = {row.split for row in draws}
    held = {row.path for row in (*folder.val, *folder.test)}
    listed = {row for row in folder.all_images if row.split in sides and row.path not in held}
    return sorted(draws | listed)


def pool_per_class(folder: splits.SplitFolder) -> int:
    """Count the training images that draws are made from, of the smallest class."""
    counts = Counter(row.label for row in pool_rows(folder))
    return min((counts[label] for label in folder.classes), default=0)


def common_settings(spec: Spec) -> dict[str, object]:
    """Return the settings that all trials of a study have in common."""
    return {
        name: value
        for name, value in spec.to_json().items()
        if name not in ("shots", "split", "images", "classifier")
    }
