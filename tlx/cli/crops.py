"""Command tlx crops."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import counted
from ..lab import outputs
from ..lab.settings import Settings
from .output import say
from .progress import steps


def command(
    out: Annotated[
        Path, typer.Argument(help="Folder for the crops: <split>/<label>/<stem>_crop_<0..9><ext>.")
    ],
    dataset: Annotated[
        str, typer.Option("--dataset", "-d", help="A name of `tlx datasets`, or a folder.")
    ] = "digits",
    size: Annotated[
        int,
        typer.Option(
            help="Pixels of a crop's side; proportional: of the short side before "
            "cropping, 0 leaves it."
        ),
    ] = 224,
    sizing: Annotated[
        str,
        typer.Option(
            help="squash: the image is resized to a square, nearest: so by nearest neighbour; "
            "aspect: its short side "
            "is; proportional: crops keep the image's shape."
        ),
    ] = "squash",
    ratio: Annotated[float, typer.Option(help="Crop side / resized side.")] = 0.875,
    side: Annotated[
        int, typer.Option(help="Pixels of the resized side. Default: size / ratio.")
    ] = 0,
    quality: Annotated[
        int, typer.Option(min=1, max=100, help="JPEG quality of crops of JPEGs.")
    ] = 95,
    lossless: Annotated[bool, typer.Option("--lossless", help="Save all crops as PNG.")] = False,
    allow_outside: Annotated[
        str,
        typer.Option(
            help="Further folders that links among the images may lead to, comma-separated."
        ),
    ] = "",
    data_root: Annotated[
        str, typer.Option(help="Folder that holds named data sets. Default: $TLX_DATA.")
    ] = "",
) -> None:
    """Write ten crops per image and a manifest: four corners and centre, each mirrored."""
    from ..data import crops
    from ..data.sizing import Sizing
    from ..studies.image_data import located

    settings = Settings.with_settings({"data_root": data_root, "allow_outside": allow_outside})
    outputs.check_one(outputs.FOLDER, out, "OUT")
    notes: list[str] = []
    folder = located(dataset, settings, notes)
    for note in notes:
        say(f"note: {note}")
    shape = Sizing(size, mode=sizing, ratio=ratio, side=side)
    with steps("cropping") as progress:
        written = crops.write(
            folder.root,
            [image.path for image in folder.images],
            out,
            shape,
            encoding=crops.Encoding(quality, lossless),
            progress=progress,
        )
    say(
        f"ten crops each of {counted(written.written, 'image')} "
        f"made, of {written.kept} kept, in {out}"
    )
