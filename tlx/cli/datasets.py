"""Command tlx datasets."""

from __future__ import annotations

from typing import Annotated

import typer

from .output import say, say_json


def command(
    name: Annotated[str, typer.Argument(help="Show one data set in full.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the known data sets: classes, shots, licence, source, expected folder."""
    from ..data.catalogue import DATASETS, known

    if as_json:
        if name:
            say_json(_record(name, known(name)))
        else:
            say_json([_record(key, row) for key, row in DATASETS.items()])
        return
    if name:
        row = known(name)
        for field, value in vars(row).items():
            if value not in ("", (), None):
                say(
                    f"{field.replace('_', ' '):>14}  "
                    f"{', '.join(map(str, value)) if _many(value) else value}"
                )
        return
    width = max(map(len, DATASETS))
    for key, row in DATASETS.items():
        classes = f"{row.classes:>4}" if row.classes else "   -"
        say(f"{key:<{width}}  {classes} classes  {row.kind:<11}  {row.title}")
    say(
        "",
        "tlx datasets NAME shows one in full. A folder of your own images needs no name: --dataset "
        "./folder",
    )


def _record(name: str, row: object) -> dict[str, object]:
    """Return a data set as plain JSON: every field of its row, what is unknown as null."""
    record: dict[str, object] = {"name": name}
    for field, value in vars(row).items():
        known = list(value) if _many(value) else value
        record[field] = None if known == "" else known
    return record


def _many(value: object) -> bool:
    return isinstance(value, tuple)
