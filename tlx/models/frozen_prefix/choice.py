"""Frozen prefix: the outputs of frozen blocks 1…m in eval mode, computed once and cached.

Then an epoch trains the suffix on the kept rows, on a finite set of images or crops, bit for bit as
if the prefix had run again. A row's bits must depend on nothing but the row for that. On a CPU they
depend on the number of rows in the batch (other kernels for few rows) and, in dense layers, for
batches of few rows on several threads, even on the place in the batch (the matrix product splits
the rows among threads and treats a share of three or fewer rows differently). Therefore the prefix
runs training rows always in batches of one and the same size, a multiple of 16, filled up with
repeated rows; whether it is kept or computed again makes no difference to this. Validation rows are
scored in the same batches in every epoch, so theirs are kept as they are. That a row's bits do not
depend on its company is not taken for granted: kept rows are compared with computed ones before
they are used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from ... import files
from ...errors import ResourceError, counted
from .. import samples
from ..blocks import DROPOUTS
from ..network import Network
from ..samples import Batches, BatchLoader
from . import shared
from . import split as frozen_prefix_split
from .cache import CachedBatches, ComputedBatches, RowLayout, arithmetic, build_cache
from .split import CannotSplit, SplitPoint

LIMIT_BYTES = 8 << 30
FULL = 16  # the prefix runs a multiple of so many rows at a time
TRIED = 4  # rows on which a cut is tried
FLOPS_PER_BYTE = {
    "memory": 10,
    "file": 50,
}  # arithmetic done in the time in which a kept byte is read back


@dataclass(frozen=True)
class CacheDecision:
    """Decision about the outputs of a frozen prefix or of a source, and its reason.

    depth   blocks in it: as many as are held, or fewer where the network cannot be cut behind them;
            0: no such place, or a source's outputs
    kept    "memory", "file", or "" when it is not
    """

    depth: int
    kept: str
    reason: str
    rows: int = 0
    bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class CacheRequest:
    """Requirements of a training stage on the cache of its prefix, or of its source's outputs.

    batch_size, score_batch  rows a step, rows a scoring pass
    epochs    expected of this stage
    fixed     whether training rows are the same in every epoch (no augmentation, no dropout in the
              source)
    bfloat16  the arithmetic of the forward pass
    limit     bytes to be kept at most, in memory below RESIDENT_BYTES, else in a nameless file in
              `folder`
    shared    folder in which scored rows are kept for other trainings; None: for none
    usage     what the process has used so far, name → sum; what shared rows took is kept with them
    inherit   called with what the rows took that another training has computed
    """

    batch_size: int
    score_batch: int
    epochs: int
    fixed: bool = True
    bfloat16: bool = False
    limit: int = LIMIT_BYTES
    folder: Path | None = None
    stopping: Callable[[], bool] = lambda: False
    shared: Path | None = None
    usage: Callable[[], dict[str, float]] = dict
    inherit: Callable[[dict[str, float]], None] = lambda usage: None


def held(network: Network) -> int:
    """Return how many blocks, from the input, training leaves unchanged in the current modes."""
    for number, block in enumerate(network.blocks):
        inside = [m for name in block.modules for m in network.net.get_submodule(name).modules()]
        if any(t.requires_grad for t in network.tensors(block).values()) or any(
            map(_moves, inside)
        ):
            return number
    return len(network.blocks)


def _moves(module: nn.Module) -> bool:
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return module.training and (bool(own) or isinstance(module, DROPOUTS))


def choose(
    network: Network, train: BatchLoader, val: BatchLoader, wish: CacheRequest
) -> tuple[Batches, Batches, CacheDecision | None]:
    """Return the rows that training and scoring read, cached after the frozen prefix if it pays.

    The logits of all rows, and the gradients behind the prefix, are the same bits whatever
    `wish.limit` and `wish.folder` say. The network is left in training mode. Raises Stopped.
    """
    network.train()
    blocks = held(network)
    if not blocks or not len(train):
        return train, val, None
    try:
        cut, layout = _cut(network, train, blocks, wish)
    except CannotSplit as refusal:
        return (
            train,
            val,
            CacheDecision(0, "", f"{blocks} frozen blocks run with the rest: {refusal}"),
        )
    finally:
        network.train()
    size = -(-min(wish.batch_size, len(train)) // FULL) * FULL
    computed = ComputedBatches(train, cut, network, size, wish.bfloat16)
    choice = _decide(cut, layout, (len(train), len(val)), train.device, wish)
    if choice.kept:
        try:
            kept = _keep(
                computed, val, layout, wish.folder if choice.kept == "file" else None, wish
            )
        except (CannotSplit, ResourceError) as refusal:
            choice = replace(choice, kept="", bytes=0, reason=_computed(choice, str(refusal)))
        else:
            return *kept, choice
        finally:
            network.train()
    return computed, val, choice


def _cut(
    network: Network, train: BatchLoader, blocks: int, wish: CacheRequest
) -> tuple[SplitPoint, RowLayout]:
    """Find the last of so many blocks after which the network can be split, and the row layout.

    Raises CannotSplit.
    """
    x, _ = train.batch(np.arange(min(len(train), TRIED)))
    with arithmetic(train.device, wish.bfloat16):
        cut = frozen_prefix_split.last(network, blocks, x)
        scoring = cut.before(network, x)
        network.train()
        if not frozen_prefix_split.same_bits(scoring, cut.before(network, x)):
            raise CannotSplit("it gives something else in training than in scoring")
    return cut, RowLayout.of(scoring)


def _keep(
    computed: ComputedBatches,
    val: BatchLoader,
    layout: RowLayout,
    folder: Path | None,
    wish: CacheRequest,
) -> tuple[CachedBatches, CachedBatches]:
    """Cache the rows of training and validation.

    Raises CannotSplit, ResourceError or Stopped.
    """
    trained = build_cache(computed, layout, computed.size, folder, wish.stopping)
    index = np.random.default_rng(0).permutation(len(trained))[: wish.batch_size]
    if not frozen_prefix_split.same_bits(trained.batch(index)[0], computed.batch(index)[0]):
        raise CannotSplit("on this machine a row's bits depend on the other rows of its batch")
    computed.network.eval()
    scored = ComputedBatches(val, computed.cut, computed.network, 0, wish.bfloat16)
    return trained, _scored(scored, layout, folder, wish)


def _scored(
    scored: ComputedBatches, layout: RowLayout, folder: Path | None, wish: CacheRequest
) -> CachedBatches:
    """Return the cached rows of a scoring pass, those of another training if it has shared them.

    Raises CannotSplit, ResourceError or Stopped.
    """
    name = None
    if wish.shared is not None and folder is None and isinstance(scored.network, Network):
        name = shared.shared_name(scored.network, scored, layout, wish.score_batch)
    if name is None:
        return build_cache(scored, layout, wish.score_batch, folder, wish.stopping)
    assert wish.shared is not None
    path = wish.shared / name
    rows = shared.load(path, scored, layout)
    if rows is not None:
        wish.inherit(shared.used(path))
        return rows
    before = wish.usage()
    rows = build_cache(scored, layout, wish.score_batch, None, wish.stopping)
    assert isinstance(rows.rows, Tensor)
    took = {name: value - before.get(name, 0.0) for name, value in wish.usage().items()}
    shared.save(path, rows.rows, took)
    return rows


def shared_rows(network: Network, feed: BatchLoader, wish: CacheRequest) -> Batches:
    """Return the rows that are scored once by every training that shares them.

    They are the rows after the frozen prefix where that pays if two trainings read them, else
    `feed`; logits are the same bits. The network is left in evaluation mode. Raises Stopped.
    """
    network.train()
    blocks = held(network)
    try:
        if not blocks or not len(feed):
            return feed
        cut, layout = _cut(network, feed, blocks, wish)
        where, _, why = whether_to_keep(
            len(feed), layout.bytes, cut.flops[0], feed.device, replace(wish, epochs=2)
        )
        if why or where != "memory":
            return feed
        network.eval()
        return _scored(ComputedBatches(feed, cut, network, 0, wish.bfloat16), layout, None, wish)
    except (CannotSplit, ResourceError):
        return feed
    finally:
        network.eval()


# ---------------------------------------------------------------- whether to keep it


def _decide(
    cut: SplitPoint, layout: RowLayout, rows: tuple[int, int], device: str, wish: CacheRequest
) -> CacheDecision:
    """Estimate what a cached row saves against the cost of reading it, in the expected epochs.

    rows  of training and of validation
    """
    before, after = cut.flops
    where, total, why = whether_to_keep(sum(rows), layout.bytes, before, device, wish)
    choice = CacheDecision(cut.depth, where, "", sum(rows), total)
    described = f"{choice.rows:,} rows × {layout.values:,} values = {size_text(total)}"
    if why:
        return replace(choice, kept="", bytes=0, reason=_computed(choice, f"{described}, {why}"))
    prefix, suffix = (
        choice.rows * before,
        (3 * rows[0] + rows[1]) * after,
    )  # a backward pass costs two forward passes
    share = 1 - (prefix / wish.epochs + suffix) / (prefix + suffix)
    place = "in memory" if where == "memory" else "in a file"
    return replace(
        choice,
        reason=f"prefix of {counted(choice.depth, 'block')} kept {place}: {described}, saves about "
        f"{100 * share:.0f} % of the arithmetic of {counted(wish.epochs, 'epoch')}",
    )


def _computed(choice: CacheDecision, why: str) -> str:
    return f"prefix of {counted(choice.depth, 'block')} computed in every epoch: {why}"


def whether_to_keep(
    rows: int, row_bytes: int, row_flops: float, device: str, request: CacheRequest
) -> tuple[str, int, str]:
    """Return where rows would be kept, "memory" or "file", their bytes, and why they are not.

    The reason is "" where they are kept: they fit, and reading one back takes less time than
    computing it, in the expected epochs.
    """
    total = rows * row_bytes
    where = "memory" if total <= samples.RESIDENT_BYTES else "file"
    if request.epochs < 2:
        why = "and one epoch reads them only once"
    elif total > request.limit:
        why = f"above the limit of {size_text(request.limit)}"
    elif row_flops * (1 - 1 / request.epochs) < row_bytes * FLOPS_PER_BYTE[where]:
        why = "and reading them back takes no less time"
    elif where == "file":
        why = _no_file(total, device, request)
    else:
        why = ""
    return where, total, why


def _no_file(total: int, device: str, wish: CacheRequest) -> str:
    """Return why a file of so many bytes cannot be created; "" if it can."""
    if device != "cpu":
        return "more than the device is given"
    if wish.folder is None:
        return "and there is no folder for a file"
    free = files.free_bytes(wish.folder)
    return "" if total <= free // 2 else f"more than half of the {size_text(free)} that are free"


def size_text(count: int) -> str:
    """Return a number of bytes with its unit."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{count / unit:,.1f} {name}"
    return f"{count / 1e3:,.1f} kB"
