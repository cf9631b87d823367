"""Command tlx backbones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NotRequired, TypedDict

import typer

from ..errors import counted
from .output import say, say_json

if TYPE_CHECKING:
    from ..models.backbones import BackboneRow


def command(
    name: Annotated[str, typer.Argument(help="Show the blocks of one backbone.")] = "",
    everything: Annotated[
        bool, typer.Option("--all", help="List torchvision's and timm's too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the backbones, or the blocks 1…N of one: what --freeze counts."""
    from ..models import backbones

    if name:
        record = _record(name)
        if as_json:
            say_json(record)
        else:
            _show(record)
        return
    listed = backbones.names(everything=everything)
    if as_json:
        say_json([_row(key) for key in listed])
        return
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
            f"{key:<{width}}  {row.input_size:>3} px, {counted(row.channels, 'channel'):<10}  "
            f"{weights:<32}  {row.title}"
        )
    if not everything:
        say(
            "",
            "and every classification model of torchvision by its name, every timm model as "
            "timm:NAME (--all)",
        )


class BlockRow(TypedDict):
    """Block of a network, as `tlx backbones NAME` shows it."""

    number: int
    name: str
    parameters: int


class Backbone(TypedDict):
    """Row of a backbone; only the name is known of one of torchvision or timm in the list."""

    name: str
    title: NotRequired[str]
    input_size: NotRequired[int]
    channels: NotRequired[int]
    mean: NotRequired[list[float]]
    std: NotRequired[list[float]]
    classes: NotRequired[int]
    source: NotRequired[str | None]
    weights: NotRequired[str | None]
    top1: NotRequired[float | None]
    blocks: NotRequired[list[BlockRow]]
    head: NotRequired[list[str]]
    parameters: NotRequired[int]


def _row(name: str, row: BackboneRow | None = None) -> Backbone:
    """Return a backbone as plain JSON, without its blocks."""
    from ..models import backbones

    row = row or backbones.BACKBONES.get(name)
    if row is None:
        return {"name": name}
    return {
        "name": name,
        "title": row.title,
        "input_size": row.input_size,
        "channels": row.channels,
        "mean": list(row.mean),
        "std": list(row.std),
        "classes": row.classes,
        "source": row.source if row.weights else None,
        "weights": row.weights or None,
        "top1": row.top1,
    }


def _record(name: str) -> Backbone:
    """Return a backbone as plain JSON with its blocks, numbered from the input."""
    from ..models import backbones

    built = backbones.meta_model(name)
    record = _row(name, built.row)
    record["blocks"] = [
        {
            "number": number,
            "name": block.name,
            "parameters": sum(t.numel() for t in built.tensors(block).values()),
        }
        for number, block in enumerate(built.blocks, 1)
    ]
    record["head"] = list(built.head_names)
    record["parameters"] = sum(p.numel() for p in built.parameters())
    return record


def _show(record: Backbone) -> None:
    say(
        f"{record['title']}: {record['input_size']} px, "
        f"{counted(record['channels'], 'channel')}, mean {tuple(record['mean'])}, "
        f"std {tuple(record['std'])}"
    )
    for block in record["blocks"]:
        say(f"{block['number']:>4}  {block['name']:<40} {block['parameters']:>12,}")
    say(
        f"head  {', '.join(record['head'])}",
        f"{record['parameters']:,} parameters with its own head",
    )
