"""Commands tlx export and tlx predict: take the model of a finished trial, and use it."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ErrorGroup, TlxError, UsageError
from ..lab import outputs
from ..lab.settings import Settings
from .help import COMPUTE, DATA, TRACKING
from .output import aside, complain, say, say_json
from .progress import steps

if TYPE_CHECKING:
    from ..models.onnx_file import OnnxModel
    from ..studies.export import ExportRequest

KEY = Annotated[
    str,
    typer.Argument(
        metavar="KEY",
        help="Key of a finished few-shot trial, study or comparison, or its first letters.",
    ),
]
MODEL = Annotated[
    str,
    typer.Argument(
        metavar="KEY|MODEL",
        help="Key of a finished few-shot trial, study or comparison, or its first letters; or the "
        "folder or model.onnx of an export.",
    ),
]
PHOTOS = Annotated[
    list[Path], typer.Argument(metavar="PHOTOS...", help="Image files, and folders of them.")
]
OUT = Annotated[
    Path | None,
    typer.Option(
        help="Folder to write. Default: tlx-models/KEY here. An export that is there is replaced.",
        rich_help_panel=TRACKING,
    ),
]
TABLE = Annotated[
    Path | None,
    typer.Option(
        help="File for the table. Default: standard output.",
        rich_help_panel=TRACKING,
    ),
]
CLASSIFIER = Annotated[
    str | None,
    typer.Option(
        help="Of a study with several classifiers: which. Default: the best on validation images.",
    ),
]
REGISTER = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Register the model in MLflow under this name.",
        rich_help_panel=TRACKING,
    ),
]
ALIAS = Annotated[
    str | None,
    typer.Option(help="Alias for the registered version.", rich_help_panel=TRACKING),
]
REFIT = Annotated[
    bool,
    typer.Option(
        "--refit",
        help="Train the model again on all training images instead of those of one draw.",
    ),
]
STORE = Annotated[
    str,
    typer.Option(
        help="Folder of results. Default: $TLX_STORE, or tlx-runs next to the local tracking "
        "database.",
        rich_help_panel=TRACKING,
    ),
]
MLFLOW_PATH = Annotated[
    str,
    typer.Option(
        help="Tracking URI, database file or folder. Default: $MLFLOW_TRACKING_URI, or mlflow.db "
        "in the working directory.",
        rich_help_panel=TRACKING,
    ),
]
CACHE = Annotated[
    str,
    typer.Option(
        help="Folder of decoded images and models made again. Default: $TLX_CACHE or ~/.cache/tlx.",
        rich_help_panel=COMPUTE,
    ),
]
DEVICE = Annotated[
    str,
    typer.Option(
        help="auto (a GPU if there is one), cpu, cuda or cuda:N; of a network that is trained "
        "again.",
        rich_help_panel=COMPUTE,
    ),
]
DATASET = Annotated[
    str,
    typer.Option(help="Where the trial's images are now, if they moved.", rich_help_panel=DATA),
]
SPLIT_PATH = Annotated[
    str,
    typer.Option(help="Where the trial's splits are now, if they moved.", rich_help_panel=DATA),
]
WEIGHTS = Annotated[
    str,
    typer.Option(
        "--model", help="Where the trial's weight file is now, if it moved.", rich_help_panel=DATA
    ),
]
DATA_ROOT = Annotated[
    str,
    typer.Option(
        help="Folder that holds named data sets. Default: $TLX_DATA.", rich_help_panel=DATA
    ),
]
ALLOW_OUTSIDE = Annotated[
    str,
    typer.Option(
        metavar="A,B,…",
        help="Further folders that links among the images may lead to, comma-separated.",
        rich_help_panel=DATA,
    ),
]
JSON = Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=TRACKING)]


def export(
    key: KEY,
    out: OUT = None,
    classifier: CLASSIFIER = None,
    register: REGISTER = None,
    alias: ALIAS = None,
    refit: REFIT = False,
    store: STORE = "",
    mlflow_path: MLFLOW_PATH = "",
    cache: CACHE = "",
    device: DEVICE = "auto",
    dataset: DATASET = "",
    split_path: SPLIT_PATH = "",
    model: WEIGHTS = "",
    data_root: DATA_ROOT = "",
    allow_outside: ALLOW_OUTSIDE = "",
    as_json: JSON = False,
) -> None:
    """Write the model of a finished trial as ONNX, with a card and an MLflow model.

    Of a study: the trial of the largest shots with the median validation accuracy; of a comparison:
    that of the recommended side, which --register names champion if it is sure. The MLflow model
    needs neither tlx nor PyTorch. It gives every test image the label that the trial gave it, or
    nothing is written; a model of --refit, which no trial scored, that of the network it is made
    from.
    """
    from ..studies import export as studies_export
    from ..studies import exporting

    if alias and not register:
        raise UsageError("conflict", "--alias without --register", expected="both")
    outputs.check_one(outputs.FOLDER, out, "--out")
    request = _request(
        key,
        classifier,
        {"store": store, "mlflow_path": mlflow_path, "cache": cache, "data_root": data_root},
        device,
        allow_outside,
        {"dataset": dataset, "split_path": split_path, "model": model},
        as_json,
        refit=refit,
    )
    folder = out or Path("tlx-models") / (
        f"{request.chosen.result.key[:12]}-refit" if refit else request.chosen.result.key[:12]
    )
    outputs.check_one(outputs.FOLDER, folder, "--out")
    _tell(as_json, f"exporting {request.chosen.reason}")
    with aside(as_json), steps("making the model again") as progress:
        request = dataclasses.replace(request, progress=progress)
        exported = studies_export.export(request, folder)
    version = None
    if register:
        version = exporting.register(request, exported, register, alias)
    if as_json:
        content = {"folder": str(folder), "chosen": request.chosen.reason, **exported.record}
        content |= {"registered": None if version is None else vars(version)}
        say_json(content)
        return
    accuracy = exported.record["accuracy"]
    trial = "the network" if refit else "the trial"
    say(
        f"{folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}",
        f"{accuracy['images']} {accuracy['of']} have the labels of {trial}: accuracy "
        f"{100 * accuracy['value']:.1f} %",
        "expected calibration error of the probabilities "
        f"{exported.record['calibration']['expected_calibration_error']:.3f}",
        f"use it: tlx predict {shlex.quote(str(folder))} PHOTOS",
        f"serve it: mlflow models serve -m {shlex.quote(str(exported.mlflow_folder))} "
        "--env-manager local",
    )
    if version is not None:
        say(exporting.said(version))


def predict(
    model: MODEL,
    photos: PHOTOS,
    out: TABLE = None,
    classifier: CLASSIFIER = None,
    store: STORE = "",
    cache: CACHE = "",
    device: DEVICE = "auto",
    dataset: DATASET = "",
    split_path: SPLIT_PATH = "",
    weights: WEIGHTS = "",
    data_root: DATA_ROOT = "",
    allow_outside: ALLOW_OUTSIDE = "",
    as_json: JSON = False,
) -> None:
    """Label photos with the model of a finished trial, or with an exported one.

    Prints a line a photo: path, label, and the probability of each class. Photos that cannot be
    read are named on standard error, and the others are labelled.
    """
    from ..models.onnx_file import OnnxModel
    from ..studies import photos as studies_photos

    outputs.check_one(outputs.FILE, out, "--out")
    folder = studies_photos.model_folder(model)
    if folder is None:
        from ..studies import export as studies_export  # loads torch, which exports do not need

        request = _request(
            model,
            classifier,
            {"store": store, "cache": cache, "data_root": data_root},
            device,
            allow_outside,
            {"dataset": dataset, "split_path": split_path, "model": weights},
            True,
        )
        _tell(True, f"note: {request.chosen.reason}")
        with aside(True), steps("making the model again") as progress:
            folder = studies_export.kept(dataclasses.replace(request, progress=progress))
    opened = OnnxModel(folder)
    allow = [place for place in allow_outside.split(",") if place]
    problems: list[TlxError] = []
    rows = _rows(opened, photos, allow, problems)
    _write(rows, opened, out, as_json)
    if problems:
        raise typer.Exit(ErrorGroup(problems).exit_code)


def _rows(
    opened: OnnxModel, photos: list[Path], allow: list[str], problems: list[TlxError]
) -> Iterator[tuple[str, str, list[float]]]:
    """Yield (path, label, probabilities); notes and errors go to standard error."""
    from ..studies.photos import Photo, label_photos

    for outcome in label_photos(opened, photos, allow):
        if isinstance(outcome, TlxError):
            complain(outcome)
            problems.append(outcome)
        elif isinstance(outcome, Photo):
            yield str(outcome.path), outcome.label, [float(p) for p in outcome.probabilities]
        else:
            complain(f"note: {outcome.path}: {outcome.text}")


def _write(
    rows: Iterator[tuple[str, str, list[float]]], opened: OnnxModel, out: Path | None, as_json: bool
) -> None:
    names = [f"p_{name}" for name in opened.classes]
    lines = _json_lines(rows, names) if as_json else _csv_lines(rows, names)
    if out is None:
        for line in lines:
            say(line)
        return
    from .. import files

    files.write_text(out, "".join(f"{line}\n" for line in lines))
    complain(f"written to {out}")


def _csv_lines(rows: Iterator[tuple[str, str, list[float]]], names: list[str]) -> Iterator[str]:
    yield _csv_line(["path", "label", *names])
    for path, label, shares in rows:
        yield _csv_line([path, label, *(f"{share:.6g}" for share in shares)])


def _csv_line(cells: list[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


def _json_lines(rows: Iterator[tuple[str, str, list[float]]], names: list[str]) -> Iterator[str]:
    content = [
        {"path": path, "label": label, **dict(zip(names, shares, strict=True))}
        for path, label, shares in rows
    ]
    yield from json.dumps(content, indent=1, ensure_ascii=False).split("\n")


def _request(
    key: str,
    classifier: str | None,
    places: dict[str, str],
    device: str,
    allow_outside: str,
    moved: dict[str, str],
    is_aside: bool,
    *,
    refit: bool = False,
) -> ExportRequest:
    """Return the request for the model of a key; notes go to standard error if `is_aside`."""
    from ..lab.store import Store
    from ..studies.base import open_store
    from ..studies.export import ExportRequest
    from ..studies.served_trial import choose
    from ..studies.summaries import command_line

    given: dict[str, Any] = {name: place or None for name, place in places.items()}
    settings = Settings.with_settings({**given, "device": device, "allow_outside": allow_outside})
    outputs.check_one(outputs.FOLDER, settings.cache, "--cache")
    opened = open_store(settings)
    if Path(key).is_dir():  # of a study or a trial, in its store
        path = Path(key).absolute()
        opened, key = Store(path.parent.parent), path.name
    chosen = choose(opened, key, classifier, refit=refit)
    command = command_line() if sys.argv[1:2] == ["export"] else ""
    return ExportRequest(
        chosen,
        opened,
        settings,
        note=lambda text: _tell(is_aside, f"note: {text}"),
        moved=moved,
        command=command,
    )


def _tell(is_aside: bool, text: str) -> None:
    if is_aside:
        complain(text)
    else:
        say(text)
