"""Command tlx backbones."""

from __future__ import annotations

from typing import Annotated

import typer

from .output import say


def command(
    name: Annotated[str, typer.Argument(help="Show the blocks of one backbone.")] = "",
    everything: Annotated[
        bool, typer.Option("--all", help="List torchvision's and timm's too.")
    ] = False,
) -> None:
    """List the backbones, or the blocks 1…N of one: what --freeze counts."""
    from ..models import backbones

    if name:
        _show(name)
        return
    listed = backbones.names(everything=everything)
    width = max(map(len, listed))
    for key in listed:
        row = backbones.BACKBONES.get(key)
        if row is None:
            say(key)
            continue
        weights = (
            f"{row.source} weights ({row.weights})" if row.weights else "no weights of its own"
        )
        say(
            f"{key:<{width}}  {row.input_size:>3} px, {row.channels} channels  {weights:<32}  "
            f"{row.title}"
        )
    if not everything:
        say(
            "",
            "and every classification model of torchvision by its name, every timm model as "
            "timm:NAME (--all)",
        )


def _show(name: str) -> None:
    from ..models import backbones

    built = backbones.meta_model(name)
    row = built.row
    say(
        f"{row.title}: {row.input_size} px, {row.channels} channels, mean {row.mean}, std {row.std}"
    )
    total = sum(p.numel() for p in built.parameters())
    for number, block in enumerate(built.blocks, 1):
        size = sum(t.numel() for t in built.tensors(block).values())
        say(f"{number:>4}  {block.name:<40} {size:>12,}")
    say(f"head  {', '.join(built.head_names)}", f"{total:,} parameters with its own head")
