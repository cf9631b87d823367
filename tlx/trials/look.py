"""The look before a study: data, splits, crops and weights found, checked, decoded; all that is wrong, at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .. import files
from ..data import crops, datasets, decode, images, leaks, splits
from ..data.csvs import Row
from ..data.pixels import Pixels, pixels
from ..data.sizing import Sizing
from ..errors import Problems, TlxError, Usage, raise_all
from ..lab.settings import Settings
from .fewshot import FewShot, FewShotTrial

if TYPE_CHECKING:
    from ..models.network import Network

Progress = Callable[[int, int], None]
SHOTS = (1, 2, 3, 5, 7, 10)  # where neither the data set nor its splits say


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
    network: Network | None = None
    weights: str = ""  # digest
    pixels: Pixels | None = None
    places: dict[Path, int] = field(default_factory=dict)  # file → image number
    find: Callable[[Row], Path] = field(default=lambda row: Path(row.path))  # the file of a row
    notes: list[str] = field(default_factory=list)
    problems: list[TlxError] = field(default_factory=list)


# ---------------------------------------------------------------- the look before a study

def look(spec: FewShotTrial, few: FewShot, settings: Settings, load: Callable[[], Network],
         progress: Progress | None = None, *, keep: bool = True) -> Found:
    """Find and check data, splits, weights and images for a few-shot study; nothing is raised but bugs.

    load  gives the network, or raises what is wrong with it and with what is asked of it
    keep  read the images that the study uses into the pixel store; else look whether every image there can be read
    """
    found, gather = Found(), Gather()
    with gather.part():
        found.network = load()
        found.notes += found.network.notes
        found.weights = found.network.weights
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


def _split_folder(spec: FewShotTrial, few: FewShot, folder: datasets.ImageFolder, settings: Settings) -> Path:
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


def _check_splits(spec: FewShotTrial, few: FewShot, settings: Settings, found: Found, gather: Gather) -> list[Path]:
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


def draws(spec: FewShotTrial, few: FewShot, folder: splits.SplitFolder) -> list[tuple[int, int]]:
    """(shots, split) of every trial, in order."""
    shots = tuple(sorted(few.shots)) or folder.shots
    if spec.model_selection:
        return [(shots[-1], folder.draws(shots[-1])[0])]
    return [(k, s) for k in shots for s in folder.draws(k)[: few.splits]]


def _tables(spec: FewShotTrial, few: FewShot, folder: splits.SplitFolder) -> list[str]:
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


def _look_at_images(spec: FewShotTrial, settings: Settings, found: Found, paths: list[Path],
                    progress: Progress | None) -> None:
    crop_files = None
    if spec.precomputed_crops and spec.use_crops:
        crop_files = precomputed(Path(spec.precomputed_crops).expanduser(), found, paths)
    elif spec.precomputed_crops:
        raise Usage("conflict", "--precomputed-crops and --no-use-crops", expected="one of the two")
    assert found.network is not None
    sizing = Sizing(found.network.input_size, crops=spec.use_crops, mode=spec.sizing, channels=found.network.channels)
    found.pixels = pixels(paths, sizing, settings.cache_folder, precomputed=crop_files,
                          budget_bytes=int(settings.decode_budget * 1e9), progress=progress)
    found.places = {path: number for number, path in enumerate(paths)}
    found.notes += [f"{count} images: {decode.NOTES.get(name, name)}" for name, count in found.pixels.notes.items()]


def precomputed(root: Path, found: Found, paths: Sequence[Path]) -> Callable[[int], list[Path]]:
    """Image number → its ten crops below `root`; every image that lacks one is named."""
    assert found.folder is not None
    relative = [path.relative_to(found.folder.root).as_posix() for path in paths]
    raise_all(crops.missing(root, relative))
    return lambda number: crops.paths(root, relative[number])


def described(found: Found, spec: FewShotTrial, few: FewShot, settings: Settings) -> list[str]:
    """What a look came to, in lines."""
    lines = [f"note: {note}" for note in found.notes]
    if found.network is not None:
        lines.append(f"weights: {found.weights[:12]} for {spec.architecture}, {found.network.input_size} px, "
                     f"{len(found.network.blocks)} blocks")
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
