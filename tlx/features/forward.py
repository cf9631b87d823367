"""Pass of images through a network, batch after batch, into what keeps the activations."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from ..errors import Stopped
from ..models import folding
from ..models.activations import Capture
from ..models.layers import module_of
from ..models.network import Network
from .dump import ExtractionConfig


class ImageRows(Protocol):
    """Rows of uint8 pixels, as data.pixels.Pixels has them."""

    crops: int

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return uint8 pixels of these flat rows."""

    def prefetch(self, rows: np.ndarray) -> None:
        """Start to read these flat rows ahead of `take`."""


class BatchSink(Protocol):
    """What keeps the activations of batches, in their order."""

    def append(self, arrays: dict[str, np.ndarray]) -> None:
        """Keep a batch, layer → (b, …)."""

    def mark(self) -> None:
        """Make durable what was kept so far."""


@dataclass(frozen=True)
class PassContext:
    """Device of a pass, and what is called between its batches.

    progress  called with the rows that are done, counted from the first of all
    stopping  True ends the pass with Stopped
    """

    device: str = "cpu"
    progress: Callable[[int], None] = lambda done: None
    stopping: Callable[[], bool] = lambda: False


def passes(
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


def forward(
    tap: Capture,
    pixels: ImageRows,
    rows: range,
    sink: BatchSink,
    how: ExtractionConfig,
    context: PassContext,
) -> None:
    """Pass these rows through the network of `tap`, and give the activations to `sink`.

    One thread reads ahead, another writes; the order of the batches is fixed. What was written is
    marked, also when the pass is interrupted.
    """
    feed = _Feed(tap.network, pixels, rows.stop, context.device, how.batch)
    behind: Future[None] | None = None
    with ThreadPoolExecutor(1) as writer, contextlib.closing(feed):
        try:
            for first, x in feed.batches(rows.start):
                if context.stopping():
                    raise Stopped(15)
                with torch.autocast(
                    x.device.type, torch.bfloat16, enabled=how.precision == "bfloat16"
                ):
                    activations = tap(x)
                ready = _on_host(activations)
                if behind is not None:
                    behind.result()
                behind = writer.submit(_append, sink, ready)
                context.progress(min(first + how.batch, rows.stop))
        finally:
            _end(behind, sink)


def _append(sink: BatchSink, ready: Callable[[], dict[str, np.ndarray]]) -> None:
    sink.append(ready())


def _end(behind: Future[None] | None, sink: BatchSink) -> None:
    """Wait for the last batch; what was written is marked, also when the pass is interrupted."""
    if behind is not None:
        behind.result()
        sink.mark()


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
    """Normalised batches of the rows up to `stop`, in order, read one batch ahead."""

    def __init__(self, network: Network, pixels: ImageRows, stop: int, device: str, batch: int):
        self._pixels, self._stop, self._device, self._batch = pixels, stop, device, batch
        self._shift = torch.tensor(network.mean, device=device).mul(255).view(1, -1, 1, 1)
        self._scale = torch.tensor(network.std, device=device).mul(255).view(1, -1, 1, 1)
        self._reader = ThreadPoolExecutor(1)

    def batches(self, first: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Iterate over (first row, x (b, channels, h, w)) from row `first`.

        x float32, channels last in memory.
        """
        ahead: Future[torch.Tensor] | None = None
        for start in range(first, self._stop, self._batch):
            raw = ahead.result() if ahead is not None else self._read(start)
            following = start + self._batch
            ahead = self._reader.submit(self._read, following) if following < self._stop else None
            x = raw.to(self._device, non_blocking=True).permute(0, 3, 1, 2).float()
            yield start, x.sub_(self._shift).div_(self._scale)

    def _read(self, start: int) -> torch.Tensor:
        rows = np.arange(start, min(start + self._batch, self._stop))
        after = rows + self._batch
        self._pixels.prefetch(after[after < self._stop])
        raw = torch.from_numpy(self._pixels.take(rows))
        return raw.pin_memory() if torch.device(self._device).type == "cuda" else raw

    def close(self) -> None:
        self._reader.shutdown(cancel_futures=True)
