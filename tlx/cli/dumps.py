"""Commands tlx dumps ls, tlx dumps verify, tlx dumps rm."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from ..errors import counted
from ..lab.settings import Settings
from .output import say

app = typer.Typer(
    no_args_is_help=True,
    help="Look after activation dumps: list, verify, remove, keep within a budget.",
)
KEY = Annotated[str, typer.Argument(help="Key of a dump, or its first letters.")]
CACHE = Annotated[
    str,
    typer.Option(help="Folder of decoded images and dumps. Default: $TLX_CACHE or ~/.cache/tlx."),
]


def _dumps(cache: str) -> Any:
    from ..features.dumps import Dumps

    return Dumps(Settings.with_settings({"cache": cache}).cache_folder / "dumps")


@app.command("ls")
def ls(cache: CACHE = "") -> None:
    """List the dumps, the last used first: size, images, layers, when it was last used."""
    dumps = _dumps(cache)
    for entry in (entries := dumps.entries()):
        used = (
            time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used)) if entry.used else "never"
        )
        what = (
            " on ".join(filter(None, (entry.about.get("backbone"), entry.about.get("dataset"))))
            or "?"
        )
        shards = f" in {counted(entry.shards, 'shard')}" if entry.shards > 1 else ""
        unfinished = f", {entry.unfinished / 1e6:.1f} MB unfinished" if entry.unfinished else ""
        damage = f"  DAMAGED: {entry.damage}" if entry.damage else ""
        say(
            f"{entry.key[:12]}  {entry.bytes / 1e6:>10.1f} MB  {entry.images} × {entry.crops}  "
            f"{counted(len(entry.layers), 'layer')}{shards}  {used}  {what}{unfinished}{damage}"
        )
    say(
        f"{counted(len(entries), 'dump')}, {sum(entry.bytes for entry in entries) / 1e6:.1f} MB in "
        f"{dumps.root}"
    )


@app.command("verify")
def verify(
    key: Annotated[
        str, typer.Argument(help="Key of a dump, or its first letters. Default: all.")
    ] = "",
    cache: CACHE = "",
) -> None:
    """Compare every byte with the checksums; exit 9, naming the file, if one differs."""
    from ..errors import TlxError, raise_all

    dumps, problems = _dumps(cache), []
    for name in [dumps.find(key)] if key else dumps.keys():
        try:
            dumps.verify(name)
            say(f"{name[:12]}  whole")
        except TlxError as error:
            problems.append(error)
    raise_all(problems)


@app.command("rm")
def rm(
    key: Annotated[str, typer.Argument(help="Key of a dump, or its first letters.")] = "",
    budget: Annotated[
        float | None,
        typer.Option(help="GB: remove what was not used for longest until the rest fits."),
    ] = None,
    cache: CACHE = "",
) -> None:
    """Remove one dump, or the least recently used ones above a budget; never one that is in use."""
    from ..errors import UsageError

    dumps = _dumps(cache)
    if bool(key) == (budget is not None):
        raise UsageError("conflict", "give a key, or --budget", expected="one of the two")
    if key:
        say(f"{dumps.remove(dumps.find(key)) / 1e6:.1f} MB freed")
        return
    gone = dumps.trim(int((budget or 0.0) * 1e9))
    say(f"{counted(len(gone), 'dump')} removed")
