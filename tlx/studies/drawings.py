"""Figures by name, each drawn when it is asked for, in the form that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from .. import files
from ..lab.settings import FORMS

Drawings = Mapping[
    str, Callable[[str], bytes]
]  # file name without its ending → draw it as "png", "svg" or "pdf"


def write(folder: Path, drawings: Drawings, form: str = FORMS[0]) -> list[Path]:
    """Write each figure in `form`, and again in other forms that lie in the folder; return the
    paths in `form`.

    A study that grows is drawn again: no figure of its earlier state stays beside the new one.
    """
    made = []
    for name, draw in drawings.items():
        for ending in FORMS:
            path = folder / f"{name}.{ending}"
            if ending == form or path.is_file():
                files.write_bytes(path, draw(ending))
        made.append(folder / f"{name}.{form}")
    return made


def endings(folder: Path, stem: str) -> str:
    """Return the endings of a study's files whose names begin with `stem`, for people: ".csv, .md,
    .png".
    """
    found = {path.suffix for path in folder.glob(f"{stem}*") if path.suffix}
    return ", ".join(sorted(found))


def figures_in(folder: Path) -> list[Path]:
    """Return the figures that lie in a folder, of every form, sorted."""
    return sorted(path for form in FORMS for path in folder.glob(f"*.{form}"))
