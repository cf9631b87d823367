"""Extraction: pass images through a network once and store the activations of its layers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from .. import __version__, files
from ..errors import BusyError, IntegrityError, Stopped, UsageError
from ..models import activations, folding
from ..models.activations import Capture
from ..models.layers import module_of
from ..models.network import Network
from .dump import DEFAULT, Dump, ExtractionConfig, identity
from .parts import DumpPart, whole
from .shelf import DumpDirectory, check_space

Progress = Callable[[int, int], None]


Metered = Callable[[], contextlib.AbstractContextManager[Callable[[], Mapping[str, float]]]]


def _unmetered() -> contextlib.AbstractContextManager[Callable[[], Mapping[str, float]]]:
    return contextlib.nullcontext(dict)


class ImageRows(Protocol):
    """Rows of uint8 pixels, as data.pixels.Pixels has them."""

    crops: int
    digest: str

    def __len__(self) -> int: ...

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """Return (n, c, size, size, channels)."""

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return uint8 pixels of these flat rows."""

    def prefetch(self, rows: np.ndarray) -> None:
        """Start to read these flat rows ahead of `take`."""


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
    """

    root: Path
    device: str = "cpu"
    ids: Sequence[str] = ()
    labels: Sequence[str] = ()
    about: Mapping[str, str] = field(default_factory=dict)
    progress: Progress = lambda done, of: None
    stopping: Callable[[], bool] = lambda: False
    metered: Metered = _unmetered


def extract(
    network: Network,
    weights: str,
    pixels: ImageRows,
    layers: Sequence[str | int],
    place: ExtractionContext,
    how: ExtractionConfig = DEFAULT,
) -> Dump:
    """Extract the dump of `layers` of these images; existing layers are not computed again.

    layers: in any form that activations.resolve takes.

    weights  digest of the weights (backbones.digest), which with the images and `how` names the
             dump
    Raises UnknownNameError or UsageError for layers, ResourceError for the disk, BadDataError for
      NaN, Stopped, IntegrityError for damage.
    """
    names = activations.resolve(network, layers)
    _check_fits(network, pixels, place)
    made_from = identity(network, weights, pixels.digest, how)
    shelf = DumpDirectory(place.root, files.digest(made_from))
    own_s = 0.0
    with shelf.using():
        if set(names) - set(shelf.layers()):
            header = {
                "identity": made_from,
                "images": len(pixels),
                "crops": pixels.crops,
                "about": dict(place.about),
            }
            with shelf.writing(place.stopping):
                shelf.begin(header, _description(place))
                _complete(shelf)
                for runner, layer_names in _passes(
                    network, [n for n in names if n not in shelf.layers()], how
                ):
                    own_s += _perform(runner, layer_names, pixels, shelf, place, how)
        elif shelf.leftovers():
            with contextlib.suppress(BusyError), shelf.writing(wait=False):
                _complete(shelf)
        _describe(shelf, place)
        return Dump(
            shelf.folder, names, ids=place.ids, labels=place.labels, about=place.about, own_s=own_s
        )


def _description(place: ExtractionContext) -> dict[str, Any]:
    return {"ids": list(place.ids), "labels": list(place.labels), "about": dict(place.about)}


def _describe(shelf: DumpDirectory, place: ExtractionContext) -> None:
    """Store the current description of the images.

    Labels may have been corrected, and the data set renamed, since the first extraction, and the
    numbers are the same. An extraction that knows no labels leaves those of the same ids.
    """
    new = _description(place)
    if not place.ids and not place.labels:
        return
    old = files.read_json(shelf.description(), limit=1 << 30)
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


def _check_fits(network: Network, pixels: ImageRows, place: ExtractionContext) -> None:
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
            raise UsageError("count", f"{len(given)} {what} for {len(pixels)} images")


def _complete(shelf: DumpDirectory) -> None:
    """Publish what an interrupted call had completed and not yet moved in."""
    shelf.sweep()
    for folder in shelf.parts():
        if (manifest := whole(folder)) is not None:
            with contextlib.suppress(IntegrityError):  # what was lost is made again
                shelf.publish(folder, manifest)
            shelf.discard(folder)


def _passes(
    network: Network, names: Sequence[str], how: ExtractionConfig
) -> Iterator[tuple[Network, list[str]]]:
    """Return the networks to run and what to take from each.

    A convolution that is folded away needs a pass of its own.
    """
    if not names:
        return
    runner, folded = folding.for_inference(network, fold=how.fold)
    own = [name for name in names if module_of(name) in folded]
    if len(own) < len(names):
        yield runner, [name for name in names if name not in own]
    if own:
        yield folding.for_inference(network, fold=False)[0], own


def _perform(
    runner: Network,
    names: list[str],
    pixels: ImageRows,
    shelf: DumpDirectory,
    place: ExtractionContext,
    how: ExtractionConfig,
) -> float:
    """Run one pass over all images, from where an earlier one was cut off; return its seconds."""
    tap = Capture(runner, names, reduce=how.reduce, dtype=how.dtype)
    rows = len(pixels) * pixels.crops
    made_on = {
        "device": _device_name(place.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    start = {
        "key": shelf.key,
        "layers": {name: list(shape) for name, shape in tap.shapes.items()},
        **made_on,
    }
    name = files.digest(start)[:16]
    folder = shelf.part(name)
    present = sum(path.stat().st_size for path in folder.glob("*.npy"))
    check_space(shelf.root, _bytes(tap.shapes, rows, how) - present)
    with (
        place.metered() as usage,
        DumpPart(folder, start, tap.shapes, how.dtype, rows, usage) as part,
    ):
        before = part.seconds
        runner.to(place.device)
        _forward_all(tap, pixels, part, place, how)
        manifest = part.finish(
            **{"pass": name, "rows": rows, "layers": len(names), "tlx": __version__}, **made_on
        )
    shelf.publish(folder, manifest)
    shelf.discard(folder)
    return part.seconds - before


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "cpu"


# ---------------------------------------------------------------- the loop


def _forward_all(
    tap: Capture, pixels: ImageRows, part: DumpPart, place: ExtractionContext, how: ExtractionConfig
) -> None:
    """Compute what the part lacks.

    One thread reads ahead, another writes; the order of the batches is fixed.
    """
    feed = _Feed(tap.network, pixels, part.total, place.device, how.batch)
    behind: Future[None] | None = None
    with ThreadPoolExecutor(1) as writer, contextlib.closing(feed):
        try:
            for first, x in feed.batches(part.rows):
                if place.stopping():
                    raise Stopped(15)
                with torch.autocast(
                    x.device.type, torch.bfloat16, enabled=how.precision == "bfloat16"
                ):
                    activations = tap(x)
                ready = _on_host(activations)
                if behind is not None:
                    behind.result()
                behind = writer.submit(_append, part, ready)
                place.progress(min(first + how.batch, part.total), part.total)
        finally:
            _end(behind, part)


def _append(part: DumpPart, ready: Callable[[], dict[str, np.ndarray]]) -> None:
    part.append(ready())


def _end(behind: Future[None] | None, part: DumpPart) -> None:
    """Wait for the last batch; what was written is marked, also when the pass is interrupted."""
    if behind is not None:
        behind.result()
        part.mark()


def _on_host(arrays: dict[str, torch.Tensor]) -> Callable[[], dict[str, np.ndarray]]:
    """Start copying arrays to main memory; calling the result waits for them."""
    if not any(tensor.is_cuda for tensor in arrays.values()):
        return lambda: {name: tensor.numpy() for name, tensor in arrays.items()}
    host = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        for name, tensor in arrays.items()
    }
    for name, tensor in arrays.items():
        host[name].copy_(tensor, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()

    def wait() -> dict[str, np.ndarray]:
        arrived.synchronize()
        return {name: tensor.numpy() for name, tensor in host.items()}

    return wait


class _Feed:
    """Normalised batches of all rows, in order, read one batch ahead."""

    def __init__(self, network: Network, pixels: ImageRows, total: int, device: str, batch: int):
        self._pixels, self._total, self._device, self._batch = pixels, total, device, batch
        self._shift = torch.tensor(network.mean, device=device).mul(255).view(1, -1, 1, 1)
        self._scale = torch.tensor(network.std, device=device).mul(255).view(1, -1, 1, 1)
        self._reader = ThreadPoolExecutor(1)

    def batches(self, first: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Iterate over (first row, x (b, channels, h, w)) from row `first`.

        x float32, channels last in memory.
        """
        ahead: Future[torch.Tensor] | None = None
        for start in range(first, self._total, self._batch):
            raw = ahead.result() if ahead is not None else self._read(start)
            following = start + self._batch
            ahead = self._reader.submit(self._read, following) if following < self._total else None
            x = raw.to(self._device, non_blocking=True).permute(0, 3, 1, 2).float()
            yield start, x.sub_(self._shift).div_(self._scale)

    def _read(self, start: int) -> torch.Tensor:
        rows = np.arange(start, min(start + self._batch, self._total))
        after = rows + self._batch
        self._pixels.prefetch(after[after < self._total])
        raw = torch.from_numpy(self._pixels.take(rows))
        return raw.pin_memory() if torch.device(self._device).type == "cuda" else raw

    def close(self) -> None:
        self._reader.shutdown(cancel_futures=True)
