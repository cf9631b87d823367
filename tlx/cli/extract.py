"""tlx extract."""

from __future__ import annotations

from typing import Annotated

import typer

from ..lab.settings import Settings
from ..studies.activations_spec import Extraction
from .options import options
from .output import say
from .progress import steps

EXPORT = Annotated[
    str,
    typer.Option(
        "--export",
        help="Also write features.npy and file_names.txt into this folder, "
        "the layers side by side.",
    ),
]


@options(Extraction, Settings, extra={"export": (EXPORT, "")})
def command(spec: Extraction, settings: Settings, export: str) -> None:
    """Write the activations of a network's layers on all images of a data set; what is there is not
    redone.
    """
    from pathlib import Path

    from ..features import exports
    from ..studies import activations

    notes: list[str] = []
    with steps("extracting") as progress:
        dump = activations.extraction(spec, settings, progress, notes)
    for note in notes:
        say(f"note: {note}")
    say(f"{dump.images} images × {dump.crops} crops, {len(dump.layers)} layers: {dump.folder}")
    for layer in dump.layers:
        say(f"  {layer:<40} {' × '.join(map(str, dump.array(layer).shape))} {dump.how.dtype}")
    say(f"{dump.own_s:.1f} s spent now, {dump.inherited_s:.1f} s before")
    if export:
        exports.write(dump, Path(export))
        say(f"exported to {export}")
