"""Extraction: pass images through a network once and store the activations of its layers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from .. import __version__, files
from ..errors import BusyError, IntegrityError, UsageError, counted
from ..models import activations
from ..models.activations import Capture
from ..models.network import Network
from . import image_names
from .cuts import RowCuts
from .damage import Replacement, damaged_files, in_words, is_of_newer_format
from .dump import DEFAULT, Dump, ExtractionConfig, identity
from .forward import ImageRows, PassContext, forward, passes
from .image_names import ImageNames
from .parts import DumpPart, whole
from .shard_parts import ShardDone, ShardOrder, ShardPart, ShardWriter, whole_shards
from .shelf import MENDED, DumpDirectory, check_space

Progress = Callable[[int, int], None]


Metered = Callable[[], contextlib.AbstractContextManager[Callable[[], Mapping[str, float]]]]


def _unmetered() -> contextlib.AbstractContextManager[Callable[[], Mapping[str, float]]]:
    return contextlib.nullcontext(dict)


class DigestedRows(ImageRows, Protocol):
    """Rows of uint8 pixels whose content has a digest."""

    digest: str

    def __len__(self) -> int: ...

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """Return (n, c, size, size, channels)."""


class ShardRunner(Protocol):
    """What has shards made as `make_shard` does, by other processes or machines."""

    @property
    def is_elsewhere(self) -> bool:
        """Return whether other machines make them; a single shard too, then."""

    @property
    def device(self) -> str:
        """Return where they are made, as far as it is known."""

    @property
    def threads(self) -> int:
        """Return the threads of each process."""

    def __call__(
        self,
        order: ShardOrder,
        numbers: Sequence[int],
        add: Callable[[ShardDone], None],
        progress: Callable[[int], None],
    ) -> None:
        """Have these shards made; call `add` with each, and `progress` with the rows done."""


@dataclass(frozen=True)
class ExtractionContext:
    """Location, device and labels of a dump; nothing here changes its numbers.

    root         folder of all dumps
    device       "cpu", "cuda", …
    ids, labels  of the images, in their order; kept with the dump until they are given otherwise
    about        a few words for people, name → text: backbone, dataset, root (the folder that the
                 ids are below)
    progress     called with (rows done, rows in all)
    stopping     called between batches; True ends with Stopped, and the same call continues later
    metered      around a pass; it gives a function that tells what the process has used so far,
                 name → sum, which the dump keeps of the pass
    run_shards   has shards made by other processes; None: by this one
    note         called with what the user should know: files that were made anew
    command      what was typed, which the dump keeps of the pass; "" where nothing was
    """

    root: Path
    device: str = "cpu"
    ids: Sequence[str] = ()
    labels: Sequence[str] = ()
    about: Mapping[str, str] = field(default_factory=dict)
    progress: Progress = lambda done, of: None
    stopping: Callable[[], bool] = lambda: False
    metered: Metered = _unmetered
    run_shards: ShardRunner | None = None
    note: Callable[[str], None] = lambda text: None
    command: str = ""


def extract(
    network: Network,
    weights: str,
    pixels: DigestedRows,
    layers: Sequence[str | int],
    place: ExtractionContext,
    how: ExtractionConfig = DEFAULT,
) -> Dump:
    """Extract the dump of `layers` of these images; existing layers are not computed again.

    Layers that take much more than cuts.SHARD_BYTES are kept in shards, each computed by itself.
    Files of existing layers are compared with their SHA-256; a damaged one is made anew by itself.

    layers: in any form that activations.resolve takes.

    weights  digest of the weights (backbones.digest), which with the images and `how` names the
             dump
    Raises UnknownNameError or UsageError for layers, ResourceError for the disk, BadDataError for
      NaN, Stopped, IntegrityError for damage that cannot be mended.
    """
    names = activations.resolve(network, layers)
    _check_fits(network, pixels, place)
    made_from = identity(network, weights, pixels.digest, how)
    shelf = DumpDirectory(place.root, files.digest(made_from))
    own_s = 0.0
    with shelf.using():
        present = [name for name in names if name in shelf.layers()]
        if set(names) - set(present):
            header = {
                "identity": made_from,
                "images": len(pixels),
                "crops": pixels.crops,
                "about": dict(place.about),
            }
            with shelf.writing(place.stopping):
                absent = [name for name in names if name not in shelf.layers()]
                cuts = shelf.begin(header, _description(place), _cuts(network, absent, pixels, how))
                _complete(shelf)
                absent = [name for name in names if name not in shelf.layers()]
                for runner, layer_names in passes(network, absent, how):
                    job = _Pass(runner, layer_names, pixels, shelf, place, how)
                    own_s += job.perform(cuts)
        elif shelf.leftovers():
            with contextlib.suppress(BusyError), shelf.writing(wait=False):
                _complete(shelf)
        _mend(network, pixels, shelf, present, place, how)
        _describe(shelf, place)
        # many names are read from the folder when they are asked for
        are_many = max(len(place.ids), len(place.labels)) > image_names.MANY
        ids, labels = ((), ()) if are_many else (place.ids, place.labels)
        return Dump(shelf.folder, names, ids=ids, labels=labels, about=place.about, own_s=own_s)


def _description(place: ExtractionContext) -> ImageNames:
    return {"ids": list(place.ids), "labels": list(place.labels), "about": dict(place.about)}


def _cuts(
    network: Network, names: Sequence[str], pixels: DigestedRows, how: ExtractionConfig
) -> RowCuts:
    """Return how layers are cut into shards: by the widest of them."""
    rows = len(pixels) * pixels.crops
    if not names:
        return RowCuts(rows, rows)
    shapes = Capture(network, names, reduce=how.reduce, dtype=how.dtype).shapes
    widest = max(_bytes({name: shape}, 1, how) for name, shape in shapes.items())
    return RowCuts.fitting(rows, widest, how.batch)


def _describe(shelf: DumpDirectory, place: ExtractionContext) -> None:
    """Store the current description of the images.

    Labels may have been corrected, and the data set renamed, since the first extraction, and the
    numbers are the same. An extraction that knows no labels leaves those of the same ids.
    """
    new = _description(place)
    if not place.ids and not place.labels:
        return
    old = image_names.read(shelf.description())
    if not place.labels and old["ids"] == new["ids"]:
        return
    if old != new:
        with shelf.writing(place.stopping):
            shelf.describe(new)


def bytes_needed(
    network: Network, layers: Sequence[str | int], rows: int, how: ExtractionConfig = DEFAULT
) -> int:
    """Return the bytes of a dump of so many rows (images × crops); nothing is computed."""
    tap = Capture(network, layers, reduce=how.reduce, dtype=how.dtype)
    return _bytes(tap.shapes, rows, how)


def _bytes(shapes: Mapping[str, Sequence[int]], rows: int, how: ExtractionConfig) -> int:
    widths = sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes.values())
    return rows * widths * np.dtype(how.dtype).itemsize


def _check_fits(network: Network, pixels: DigestedRows, place: ExtractionContext) -> None:
    _, _, height, width, channels = pixels.shape
    if (height, width, channels) != (network.input_size, network.input_size, network.channels):
        raise UsageError(
            "input-size",
            f"images of {height} × {width} pixels in {channels} channels",
            expected=f"{network.input_size} × {network.input_size} in {network.channels}, which "
            f"{network.row.title} takes",
        )
    if not len(pixels):
        raise UsageError("no-images", "there is no image to extract from")
    for what, given in (("ids", place.ids), ("labels", place.labels)):
        if given and len(given) != len(pixels):
            raise UsageError("count", f"{len(given)} {what} for {counted(len(pixels), 'image')}")


def _complete(shelf: DumpDirectory) -> None:
    """Publish what an interrupted call had completed and not yet moved in."""
    shelf.sweep()
    for folder in shelf.parts():
        if folder == shelf.part(MENDED):  # what is damaged still is made anew by another
            shelf.discard(folder)
            continue
        manifest = whole(folder) or whole_shards(folder)
        if manifest is not None:
            with contextlib.suppress(IntegrityError):  # what was lost is made again
                shelf.publish(folder, manifest)
            shelf.discard(folder)


def _mend(
    network: Network,
    pixels: DigestedRows,
    shelf: DumpDirectory,
    names: Sequence[str],
    place: ExtractionContext,
    how: ExtractionConfig,
) -> None:
    """Make the damaged files of these layers anew, and say so."""
    if not damaged_files(shelf, names, place.stopping) or is_of_newer_format(shelf):
        return
    with shelf.writing(place.stopping):
        damaged = damaged_files(shelf, names, place.stopping)
        if not damaged:  # another process has made them anew
            return
        started = time.perf_counter()
        total = len(pixels) * pixels.crops
        with Replacement(shelf, damaged, total, how) as replacement:
            check_space(shelf.root, replacement.bytes)
            for runner, layer_names in passes(network, names, how):
                for order, numbers in replacement.orders(layer_names):
                    job = _Pass(runner, list(order.layers), pixels, shelf, place, how)
                    job.make_again(order, numbers, replacement.add)
            replacement.check()
        seconds = time.perf_counter() - started
    place.note(f"{in_words(shelf, damaged)}; made anew in {seconds:.1f} s")


@dataclass(frozen=True)
class _Pass:
    """Pass of all images through a network, for some layers."""

    runner: Network
    names: list[str]
    pixels: DigestedRows
    shelf: DumpDirectory
    place: ExtractionContext
    how: ExtractionConfig

    def perform(self, cuts: RowCuts) -> float:
        """Run it from where an earlier one was cut off; return its seconds, on all machines."""
        tap = Capture(self.runner, self.names, reduce=self.how.reduce, dtype=self.how.dtype)
        run = self.place.run_shards
        if cuts.count == 1 and (run is None or not run.is_elsewhere):
            return self._in_one_piece(tap, cuts.total)
        return self._in_shards(tap, cuts)

    def make_again(
        self, order: ShardOrder, numbers: Sequence[int], add: Callable[[ShardDone], None]
    ) -> None:
        """Make some shards, or the only one, of layers that are whole but for them."""
        total = sum(len(order.cuts.range(number)) for number in numbers)

        def progress(done: int) -> None:
            self.place.progress(done, total)

        run = self.place.run_shards
        if run is not None and (order.cuts.count > 1 or run.is_elsewhere):
            run(order, numbers, add, progress)
            return
        tap = Capture(self.runner, self.names, reduce=self.how.reduce, dtype=self.how.dtype)
        self._here(tap, order, numbers, add, progress)

    def _made_on(self, run: ShardRunner | None) -> dict[str, object]:
        return {
            "device": _device_name(self.place.device) if run is None else run.device,
            "threads": torch.get_num_threads() if run is None else run.threads,
            "torch": torch.__version__,
        }

    def _start(self, tap: Capture, run: ShardRunner | None = None) -> dict[str, object]:
        """Return what the part of a pass is named by."""
        shapes = {name: list(shape) for name, shape in tap.shapes.items()}
        return {"key": self.shelf.key, "layers": shapes, **self._made_on(run)}

    def _about(self, name: str, rows: int, run: ShardRunner | None = None) -> dict[str, object]:
        about: dict[str, object] = {
            "pass": name,
            "rows": rows,
            "layers": len(self.names),
            "tlx": __version__,
        }
        if self.place.command:
            about["command"] = self.place.command
        return about | self._made_on(run)

    def _check_space(self, tap: Capture, rows: int, folder: Path) -> None:
        present = sum(path.stat().st_size for path in folder.glob("*.npy"))
        check_space(self.shelf.root, _bytes(tap.shapes, rows, self.how) - present)

    def _in_one_piece(self, tap: Capture, rows: int) -> float:
        start = self._start(tap)
        name = files.digest(start)[:16]
        folder = self.shelf.part(name)
        self._check_space(tap, rows, folder)
        with (
            self.place.metered() as usage,
            DumpPart(folder, start, tap.shapes, self.how.dtype, rows, usage) as part,
        ):
            before = part.seconds
            self.runner.to(self.place.device)
            context = _between_batches(self.place, lambda done: self.place.progress(done, rows))
            forward(tap, self.pixels, range(part.rows, rows), part, self.how, context)
            manifest = part.finish(**self._about(name, rows))
        self.shelf.publish(folder, manifest)
        self.shelf.discard(folder)
        return part.seconds - before

    def _in_shards(self, tap: Capture, cuts: RowCuts) -> float:
        run = self.place.run_shards
        start = self._start(tap, run) | {"shard_rows": cuts.rows}
        name = files.digest(start)[:16]
        order = ShardOrder(self.shelf.part(name), tuple(tap.shapes), cuts, self.how)
        part = ShardPart(order, start, self._about(name, cuts.total, run))
        self._check_space(tap, cuts.total, order.folder)
        before, numbers = part.seconds, part.missing()
        present = cuts.total - sum(len(cuts.range(number)) for number in numbers)

        def progress(done: int) -> None:
            self.place.progress(present + done, cuts.total)

        try:
            if run is None:
                self._here(tap, order, numbers, part.add, progress)
            elif numbers:
                run(order, numbers, part.add, progress)
        finally:
            part.save()
        self.shelf.publish(order.folder, part.manifest())
        self.shelf.discard(order.folder)
        return part.seconds - before

    def _here(
        self,
        tap: Capture,
        order: ShardOrder,
        numbers: Sequence[int],
        add: Callable[[ShardDone], None],
        progress: Callable[[int], None],
    ) -> None:
        done = 0
        for number in numbers:
            rows = order.cuts.range(number)

            def advance(reached: int, base: int = done - rows.start) -> None:
                progress(base + reached)

            context = _between_batches(self.place, advance)
            add(_make_shard(tap, self.pixels, order, number, context, self.place.metered))
            done += len(rows)


def make_shard(
    network: Network,
    pixels: ImageRows,
    order: ShardOrder,
    number: int,
    context: PassContext,
    metered: Metered = _unmetered,
) -> ShardDone:
    """Make one shard of an order, in whatever process; return what the manifest says of it.

    network  as `extract` takes it
    pixels   those of the shard at least, by the numbers of the rows of all
    """
    ((runner, names),) = passes(network, order.layers, order.how)
    tap = Capture(runner, names, reduce=order.how.reduce, dtype=order.how.dtype)
    return _make_shard(tap, pixels, order, number, context, metered)


def _make_shard(
    tap: Capture,
    pixels: ImageRows,
    order: ShardOrder,
    number: int,
    context: PassContext,
    metered: Metered,
) -> ShardDone:
    started = time.perf_counter()
    with metered() as usage, ShardWriter(order, number, tap.shapes) as writer:
        before = dict(usage())
        tap.network.to(context.device)
        forward(tap, pixels, order.cuts.range(number), writer, order.how, context)
        rows = writer.finish()
        used = {name: round(total - before.get(name, 0.0), 6) for name, total in usage().items()}
    return ShardDone(
        number,
        rows,
        {
            "seconds": round(time.perf_counter() - started, 3),
            "used": used,
            "device": _device_name(context.device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
    )


def _between_batches(place: ExtractionContext, progress: Callable[[int], None]) -> PassContext:
    return PassContext(place.device, progress, place.stopping)


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "cpu"
