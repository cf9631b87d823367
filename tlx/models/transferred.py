"""Networks assembled from a source's blocks and fresh ones, optionally truncated."""

from __future__ import annotations

import copy
from pathlib import Path

from torch import nn

from ..errors import UsageError
from . import backbones, chopped, freezing
from .network import Network


def transfer(  # noqa: PLR0913 — the transfer condition, and by name what it is made of
    backbone: str | Network,
    copied: int | None = None,
    frozen: int = 0,
    cut: int | None = None,
    bn: str = "frozen",
    *,
    classes: int | None = None,
    weights: str | Path | None = "default",
    seed: int = 0,
    input_size: int | None = None,
) -> Network:
    """Build the network of a transfer condition, in training mode.

    Blocks 1…copied come from a source, 1…frozen of them are frozen; optionally truncated after a
    block.

    backbone  the source: a name of `tlx backbones` with `weights`, or a Network, which is not
              touched
    copied    None: all blocks. 0 with frozen 0 is training from scratch, all with frozen 0
              fine-tuning, all with all
              frozen feature extraction, n with frozen n AnB, n with frozen 0 AnB+
    cut       behind this block: what follows gives way to the mean over the image and one dense
              layer
    bn        batch norm of the frozen blocks: "frozen", "adapt", "keras2" (see freezing); `train()`
              and `eval()` of
              the network keep to it
    classes   of the head, always drawn anew from `seed`, as what is not copied. None: as many as
              the source's
    Raises UsageError unless 0 ≤ frozen ≤ copied ≤ N and frozen ≤ cut ≤ N, UnknownNameError, and
      what `backbones.load` raises.
    """
    if isinstance(backbone, Network):
        given, name, input_size = (
            copy.deepcopy(backbone),
            backbones.name_of(backbone.row),
            backbone.input_size,
        )
    else:
        given = backbones.load(
            backbone, weights=weights, classes=None, seed=seed, input_size=input_size
        )
        name = backbone
    given.requires_grad_(True)
    count = classes or _outputs(given)
    fresh = backbones.load(name, weights=None, classes=count, seed=seed, input_size=input_size)
    if given.head_names != fresh.head_names:
        raise UsageError(
            "transfer",
            f"its head is {', '.join(given.head_names)}",
            where="backbone",
            expected=f"the head that {given.row.title} comes with: {', '.join(fresh.head_names)}",
        )
    copied = len(given.blocks) if copied is None else copied
    if not 0 <= frozen <= min(copied, len(given.blocks) if cut is None else cut):
        raise UsageError(
            "transfer",
            f"copied {copied}, frozen {frozen}, cut {cut}",
            expected="0 ≤ frozen ≤ copied, frozen ≤ cut",
        )
    network = _assembled(given, fresh, copied, cut, count, seed)
    return freezing.freeze(network, frozen, bn).train()


def transferred(  # noqa: PLR0913 — the same, all by name
    architecture: str,
    *,
    weights: str | Path | None,
    copied: int,
    classes: int,
    seed: int,
    source: str | None = None,
    cut: int | None = None,
    input_size: int | None = None,
    sha256: str | None = None,
) -> Network:
    """Build the network `architecture` for `classes` classes, in evaluation mode, nothing frozen.

    weights  of the source: a weight file, or "default" for the backbone's own; what is not copied
    is drawn from `seed`
             as the architecture itself is initialised, its head too
    copied   blocks 1…copied come from the source, 0: none; the whole of it with its own
             normalisation of the input
    cut      behind this block: what follows gives way to the mean over the image and one dense
             layer
    sha256   of the source's weights, as the study was planned with: IntegrityError if they are
             others by now
    Raises UsageError for blocks that are not there, and what `backbones.load` raises.
    """
    if copied and weights not in (None, "default") and chopped.is_cut(Path(str(weights))):
        return _of_chopped(
            Path(str(weights)),
            architecture,
            copied,
            classes,
            seed=seed,
            cut=cut,
            input_size=input_size,
            sha256=sha256,
        )
    fresh = backbones.load(
        architecture, weights=None, classes=classes, seed=seed, input_size=input_size
    )
    given = (
        backbones.load(
            architecture,
            weights=weights,
            classes=classes,
            seed=seed,
            source=source,
            input_size=input_size,
            sha256=sha256,
        )
        if copied
        else fresh
    )
    return _assembled(given, fresh, copied, cut, classes, seed)


def redraw(network: Network, architecture: str, count: int, seed: int) -> None:
    """Draw the last `count` blocks below the head anew, as the architecture itself is initialised.

    Raises UsageError for more blocks than there are, and where a block to be drawn is frozen.
    """
    if not count:
        return
    blocks = network.blocks
    if count > len(blocks):
        raise UsageError(
            "out-of-range",
            f"{count}",
            where="--reinit-blocks",
            expected=f"at most {len(blocks)}, the blocks of {network.row.title} below its head",
        )
    first = len(blocks) - count + 1
    for number, block in enumerate(blocks[first - 1 :], first):
        tensors = network.tensors(block).values()
        if any(isinstance(t, nn.Parameter) and not t.requires_grad for t in tensors):
            raise UsageError(
                "conflict",
                f"block {number} is to be drawn anew and frozen",
                where="--reinit-blocks",
                expected=f"at most {first - 1} frozen blocks beside {count} that are drawn anew",
            )
    fresh = backbones.load(
        architecture, weights=None, classes=2, seed=seed, input_size=network.input_size
    )
    freezing.copy_blocks(network, fresh, first, len(blocks))


def _of_chopped(
    path: Path,
    architecture: str,
    copied: int,
    classes: int,
    *,
    seed: int,
    cut: int | None,
    input_size: int | None,
    sha256: str | None,
) -> Network:
    """Take blocks of a network of `tlx chop`: all as they are, or some in the whole architecture.

    The latter is truncated or not.
    """
    given = backbones.load(
        architecture, weights=path, classes=classes, seed=seed, input_size=input_size, sha256=sha256
    )
    fresh = backbones.load(
        architecture, weights=None, classes=classes, seed=seed, input_size=given.input_size
    )
    last = len(fresh.blocks) if cut is None else cut
    if cut is None and copied >= last:
        return given
    if min(copied, last) > len(given.blocks):
        raise chopped.too_short(path, min(copied, last))
    network = fresh if cut is None else chopped.chop(fresh, cut, classes, seed)
    chopped.copy_blocks(network, given, min(copied, last))
    return network


def _assembled(
    given: Network, fresh: Network, copied: int, cut: int | None, classes: int, seed: int
) -> Network:
    """Combine two networks of one architecture, which are consumed.

    Blocks 1…copied of the first, all else of the second.
    """
    last = len(fresh.blocks)
    for what, number in (("copied", copied), ("cut", last if cut is None else cut)):
        if not (what == "cut") <= number <= last:
            raise UsageError(
                "out-of-range",
                f"{number}",
                where=what,
                expected=f"{int(what == 'cut')} to {last}, the blocks of {fresh.row.title}",
            )
    network = fresh
    if copied:
        network = given
        freezing.copy_blocks(network, fresh, copied + 1, last)
        for name in network.head_names:
            network.net.set_submodule(name, fresh.net.get_submodule(name))
    return network if cut is None else chopped.chop(network, cut, classes, seed)


def _outputs(network: Network) -> int:
    """Return the outputs of the last layer of the head that has any weight."""
    shapes = [
        p.shape
        for p in network.net.get_submodule(network.head_names[-1]).parameters()
        if p.ndim > 1
    ]
    return int(shapes[-1][0])
