"""Command tlx extract."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError, counted
from ..lab import outputs
from ..lab.settings import Settings, expanded
from ..studies.activations_spec import Extraction, ExtractionOutput, ModelFolder
from .options import options
from .output import say
from .progress import steps

if TYPE_CHECKING:
    from ..features.dump import Dump


@options(Extraction, ModelFolder, ExtractionOutput, Settings)
def command(
    spec: Extraction, several: ModelFolder, output: ExtractionOutput, settings: Settings
) -> None:
    """Write the activations of a network's layers on all images of a data set.

    What was extracted before is not extracted again.
    """
    from ..features import exports
    from ..studies import activations

    outputs.check([output, settings])
    specs = _networks(spec, several.model_folder)
    if output.export and len(specs) > 1:
        raise UsageError(
            "conflict",
            f"--export and {counted(len(specs), 'network')}",
            expected="one network",
            remedy="--extracted FILE holds several",
        )
    if len(specs) > 1:  # what is wrong with one is said before another is extracted
        for each in specs.values():
            activations.whole_network(each, each.layers, each.model_description)
    dumps = {name: _extracted(each, settings) for name, each in specs.items()}
    if output.export:
        exports.write(next(iter(dumps.values())), expanded(output.export))
        say(f"exported to {output.export}")
    if output.extracted:
        path = expanded(output.extracted)
        exports.write_extracted(dumps, path)
        say(f"written to {path}")


def _networks(spec: Extraction, folder: str) -> dict[str, Extraction]:
    """Return the networks that are asked for, by the name of their weights."""
    from ..studies.model_folder import model_folders, weight_files

    if not folder:
        name = Path(spec.model).name if spec.model else spec.trained_on or spec.architecture
        return {name: spec}
    if spec.model:
        raise UsageError("conflict", "--model and --model-folder", expected="one of the two")
    folders = model_folders(folder, spec.trained_on)
    architecture = spec.resolved.architecture
    plain = spec.replace(trained_on=None, source=None, architecture=architecture)
    return {
        path.name if len(folders) == 1 else f"{parent.name}/{path.name}": plain.replace(
            model=str(path)
        )
        for parent in folders
        for path in weight_files(parent)
    }


def _extracted(spec: Extraction, settings: Settings) -> Dump:
    """Return the activations of one network, and say what they are."""
    from ..studies import activations

    notes: list[str] = []
    with steps("extracting") as progress:
        dump = activations.extraction(spec, settings, progress, notes)
    for note in notes:
        say(f"note: {note}")
    say(
        f"{counted(dump.images, 'image')} × {counted(dump.crops, 'crop')}, "
        f"{counted(len(dump.layers), 'layer')}: {dump.folder}"
    )
    for layer in dump.layers:
        say(f"  {layer:<40} {' × '.join(map(str, dump.array(layer).shape))} {dump.how.dtype}")
    say(f"{dump.own_s:.1f} s spent now, {dump.inherited_s:.1f} s before")
    return dump
