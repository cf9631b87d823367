"""Commands tlx ls and tlx show: the studies of a store, and the record of one."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError, counted
from ..lab.settings import Settings
from .output import say, say_json, terminal_width

STORE = Annotated[
    str,
    typer.Option(
        help="Folder of results. Default: $TLX_STORE, or tlx-runs next to the local tracking "
        "database."
    ),
]
KEY = Annotated[
    str, typer.Argument(metavar="KEY", help="Key of a study, or its first letters; or its folder.")
]
JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
OPEN = Annotated[bool, typer.Option("--open", help="Open the page of a comparison in a browser.")]
PAGE = "page.html"
HEADINGS = ("key", "study", "title", "trials", "when", "result")


def ls(store: STORE = "", as_json: JSON = False) -> None:
    """List the studies of a store, the newest first: title, trials, when, result."""
    from ..studies.listing import study_rows

    opened = _opened(store)
    rows = study_rows(opened)
    if as_json:
        say_json(rows)
        return
    cells = [
        [
            row["key"][:12],
            row["study"],
            row["title"],
            f"{row['finished']} of {row['trials']}",
            row["when"],
            row["verdict"].removeprefix(f"{row['title']}: "),
        ]
        for row in rows
    ]
    if cells:
        say(*_fitted(cells, terminal_width()))
    say(f"{counted(len(rows), 'study', 'studies')} in {opened.root}")


def _fitted(cells: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """Return the lines of the table of studies; blocks of lines where it is wider than `width`.

    A block has the short cells in its first line, then title and result, wrapped and indented.

    width  in columns; None: there is no limit
    """
    from ..plots import tables

    lines = tables.as_text(HEADINGS, cells).rstrip("\n").split("\n")
    if width is None or max(map(len, lines)) <= width:
        return lines
    blocks = []
    for key, study, title, trials, when, result in cells:
        blocks += _wrapped("  ".join([key, study, f"{trials} trials", when]), width, "")
        for text in (title, result):
            blocks += _wrapped(text, width, "    ")
    return blocks


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(text, max(20, width), initial_indent=indent, subsequent_indent=indent)


def show(key: KEY, store: STORE = "", as_json: JSON = False, open_page: OPEN = False) -> None:
    """Show a study: its table, its figures, its page, and the command that repeats it."""
    from ..studies import listing
    from ..studies.frames import figures_of

    opened = _opened(store)
    (record, *others) = listing.find(opened, key)
    folder = opened.study_folder(record)
    opened.read_study(record)
    opened.study_files(record)  # every byte is checked
    figures = {name: str(path) for name, path in figures_of(folder).items()}
    page = folder / PAGE if (folder / PAGE).exists() else None
    if open_page:
        _open(page, record)
    (row,) = [row for row in listing.study_rows(opened) if row["key"] == record]
    summary = listing.summary_of(folder)
    if as_json:
        content: dict[str, Any] = {**row, "summary": summary, "figures": figures}
        content["page"] = None if page is None else str(page)
        say_json(content)
        return
    say(
        f"{row['study']}: {row['title']}",
        f"{row['finished']} of {counted(row['trials'], 'trial')}, {row['when']}, key {record}",
        "",
        *str(summary.get("note", "no summary yet: no trial has finished")).split("\n"),
        "",
        *(f"figure: {path}" for path in figures.values()),
        *([] if page is None else [f"page: {page}"]),
    )
    if others:
        say(f"{counted(len(others), 'more study', 'more studies')}: tlx ls lists them")


def _open(page: Path | None, record: str) -> None:
    """Open a page in a browser, or say where it is."""
    import webbrowser

    if page is None:
        raise UsageError(
            "no-page",
            f"study {record[:12]} has no page",
            expected="a comparison: tlx compare writes one",
        )
    if not webbrowser.open(page.absolute().as_uri()):
        say(f"no browser was found here; the page is {page}")


def _opened(store: str) -> Any:
    from ..studies.base import open_store

    return open_store(Settings.with_settings({"store": store or None}))
