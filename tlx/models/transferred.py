"""A network put together: some blocks from a source, the rest and the head drawn anew, cut behind a block or not."""

from __future__ import annotations

from pathlib import Path

import torch

from ..errors import Usage
from . import backbones, chopped, transfer
from .network import Network


def transferred(architecture: str, *, weights: str | Path | None, copied: int, classes: int, seed: int,
                source: str | None = None, cut: int | None = None, input_size: int | None = None) -> Network:
    """The network `architecture` for `classes` classes, in evaluation mode.

    weights  of the source: a weight file, or "default" for the backbone's own; what is not copied is drawn from `seed`
             as the architecture itself is initialised, its head too
    copied   blocks 1…copied come from the source, 0: none; the whole of it with its own normalisation of the input
    cut      behind this block: what follows gives way to the mean over the image and one dense layer
    Raises Usage for blocks that are not there, and what `backbones.load` raises.
    """
    fresh = backbones.load(architecture, weights=None, classes=classes, seed=seed, input_size=input_size)
    last = len(fresh.blocks)
    for what, number in (("copied", copied), ("cut", last if cut is None else cut)):
        if not (what == "cut") <= number <= last:
            raise Usage("out-of-range", f"{number}", where=what,
                        expected=f"{int(what == 'cut')} to {last}, the blocks of {fresh.row.title}")
    network = fresh
    if copied:
        network = backbones.load(architecture, weights=weights, classes=classes, seed=seed, source=source,
                                 input_size=input_size)
        transfer.copy_blocks(network, fresh, copied + 1, last)
        _copy_head(network, fresh)
    return network if cut is None else chopped.chop(network, cut, classes, seed)


@torch.no_grad()
def _copy_head(network: Network, fresh: Network) -> None:
    for name in network.head_names:
        network.net.get_submodule(name).load_state_dict(fresh.net.get_submodule(name).state_dict())
