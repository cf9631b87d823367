"""Commands tlx splits draw, tlx splits check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import counted
from ..lab import outputs
from ..lab.settings import Settings
from .output import say

app = typer.Typer(
    no_args_is_help=True, help="Draw few-shot splits, or check a folder of them for leaks."
)
DATASET = Annotated[
    str, typer.Option("--dataset", "-d", help="A name of `tlx datasets`, or a folder.")
]
ALLOW = Annotated[
    str,
    typer.Option(
        "--allow-outside", help="Further folders that paths and links may lead to, comma-separated."
    ),
]
DATA_ROOT = Annotated[
    str, typer.Option("--data-root", help="Folder that holds named data sets. Default: $TLX_DATA.")
]


@app.command("draw")
def draw(
    out: Annotated[Path, typer.Argument(help="Folder for the CSVs; made, or empty.")],
    dataset: DATASET = "digits",
    shots: Annotated[
        str, typer.Option(help="Training images per class, comma-separated.")
    ] = "1,2,3,5,7,10",
    splits: Annotated[int, typer.Option(help="Independent draws of each shots.")] = 5,
    largest_splits: Annotated[
        int | None, typer.Option(help="Draws of the largest shots. Default: as the others.")
    ] = None,
    val_per_class: Annotated[int, typer.Option(help="Validation images per class.")] = 10,
    test_per_class: Annotated[
        int | None,
        typer.Option(
            help="Test images per class. Default: the whole test folder, 50 where there is none."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    allow_outside: ALLOW = "",
    data_root: DATA_ROOT = "",
) -> None:
    """Draw splits: exactly so many images a class, seeded, none on two sides."""
    from ..data import splits as science
    from ..studies.few_shot import FewShotGrid
    from ..studies.image_data import located

    settings = Settings.with_settings({"data_root": data_root, "allow_outside": allow_outside})
    few = FewShotGrid.with_settings({"shots": shots})
    outputs.check_one(outputs.FOLDER, out, "OUT")
    folder = located(dataset, settings, [])
    drawn = science.draw(
        folder,
        out,
        shots=few.shots,
        draws=splits,
        largest_draws=largest_splits,
        val_per_class=val_per_class,
        test_per_class=test_per_class,
        seed=seed,
    )
    for note in (*folder.notes, *drawn.notes):
        say(f"note: {note}")
    say(
        f"{counted(len(drawn.tables), 'file')} in {out}: "
        f"{counted(len(drawn.classes), 'class', 'classes')}, shots "
        f"{', '.join(map(str, drawn.shots))}, val {len(drawn.val)}, "
        f"test {counted(len(drawn.test), 'image')}"
    )


@app.command("check")
def check(
    folder: Annotated[Path, typer.Argument(help="Folder of split CSVs.")],
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset",
            "-d",
            help="Where the images are: then their content decides. Default: the CSVs alone.",
        ),
    ] = "",
    shots: Annotated[str, typer.Option(help="Only these shots, comma-separated.")] = "",
    splits: Annotated[int | None, typer.Option(help="Only so many draws of each.")] = None,
    allow_outside: ALLOW = "",
    data_root: DATA_ROOT = "",
) -> None:
    """Refuse leaks (one image in train and in val or test), missing classes, too few images.

    The exit code is 3 then.
    """
    from functools import partial

    from ..data import images
    from ..data import splits as science
    from ..errors import raise_all
    from ..studies.few_shot import FewShotGrid
    from ..studies.image_data import located

    few = FewShotGrid.with_settings({"shots": shots})
    settings = Settings.with_settings({"data_root": data_root, "allow_outside": allow_outside})
    read = science.read(folder)
    find = None
    if dataset:
        notes: list[str] = []
        root = located(dataset, settings, notes).root
        for note in notes:
            say(f"note: {note}")
        find = partial(science.find, root=root, allow=tuple(map(Path, settings.allow_outside)))
    report = science.summary(
        read,
        images=find,
        shots=few.shots or None,
        draws=splits,
        digests=partial(images.digests, cache=settings.cache_folder),
    )
    for note in (*read.notes, *report.notes):
        say(f"note: {note}")
    for name, count in report.counts.items():
        say(f"{name}: {count}")
    raise_all(report.problems)
    say(
        "no leak found"
        + ("" if dataset else " in the CSVs; give --dataset to compare the images themselves")
    )
