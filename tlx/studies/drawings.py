"""Figures by name, each drawn on demand, in the requested form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from .. import files
from ..lab.settings import FORMS

Drawings = Mapping[
    str, Callable[[str], bytes]
]  # file name without its ending → draw it as "png", "svg" or "pdf"


def write(folder: Path, drawings: Drawings, form: str | None = FORMS[0]) -> list[Path]:
    """Write each figure in `form`, and in other forms already in the folder.

    Returns the paths in `form`. A study that grows is drawn again: no figure of its earlier state
    is left next to the new one. None draws nothing, and leaves no earlier figure either.
    """
    if form is None:
        for path in figures_in(folder):
            if path.stem in drawings:
                path.unlink()
        return []
    paths = []
    for name, draw in drawings.items():
        for ending in FORMS:
            path = folder / f"{name}.{ending}"
            if ending == form or path.is_file():
                files.write_bytes(path, draw(ending))
        paths.append(folder / f"{name}.{form}")
    return paths


def endings(folder: Path, stem: str) -> str:
    """Return the endings of a study's files whose names begin with `stem`.

    As text: ".csv, .md, .png".
    """
    suffixes = {path.suffix for path in folder.glob(f"{stem}*") if path.suffix}
    return ", ".join(sorted(suffixes))


def kinds(folder: Path, tables: str = "table", figures: str = "figure") -> str:
    """Return what a folder holds in words: "table and figure", or "table" without figures."""
    return f"{tables} and {figures}" if figures_in(folder) else tables


def figures_in(folder: Path) -> list[Path]:
    """Return the figures in a folder, of every form, sorted."""
    return sorted(path for form in FORMS for path in folder.glob(f"*.{form}"))
