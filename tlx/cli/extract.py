"""Command tlx extract."""

from __future__ import annotations

from ..lab.settings import Settings
from ..studies.activations_spec import Extraction, ExtractionOutput
from .options import options
from .output import say
from .progress import steps


@options(Extraction, ExtractionOutput, Settings)
def command(spec: Extraction, output: ExtractionOutput, settings: Settings) -> None:
    """Write the activations of a network's layers on all images of a data set.

    What was extracted before is not extracted again.
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
    if output.export:
        exports.write(dump, Path(output.export))
        say(f"exported to {output.export}")
    if output.extracted:
        path = Path(output.extracted).expanduser()
        model = Path(spec.model).name if spec.model else spec.trained_on or spec.architecture
        exports.write_extracted(dump, path, model)
        say(f"written to {path}")
