"""Export of a finished few-shot trial: ONNX file, record, card and MLflow model in one folder."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__, files, locks
from ..errors import BadDataError, IntegrityError, MissingError, UsageError, counted
from ..features import voting
from ..lab import environment
from ..lab.settings import Settings
from ..lab.store import Store
from ..metrics import calibration, crossed
from ..models.onnx_file import (
    CARD,
    FORMAT,
    ONNX,
    RECORD,
    OnnxModel,
    check_packages,
    crops_of,
    read_record,
)
from ..models.served import Served, export_onnx
from ..result import Result
from .export_card import card
from .export_options import SERVED
from .few_shot_inputs import Progress
from .image_data import served_inputs
from .served_trial import ChosenTrial, Note, RebuiltTrial, rebuild, same_but_split

MLFLOW = "mlflow"  # folder of the MLflow model inside the export
OWN = {ONNX, RECORD, CARD, MLFLOW}


@dataclass(frozen=True)
class ExportedTrial:
    """Exported model: its folder and the content of model.json."""

    folder: Path
    record: dict[str, Any]

    @property
    def mlflow_folder(self) -> Path:
        """Return the folder of the MLflow model."""
        return self.folder / MLFLOW


@dataclass(frozen=True)
class ExportRequest:
    """What an export needs: the trial, its store, the machine, and where its data are now."""

    chosen: ChosenTrial
    store: Store
    settings: Settings
    note: Note
    progress: Progress | None = None
    moved: Mapping[str, str] | None = None
    command: str = ""

    def rebuild(self) -> RebuiltTrial:
        """Return the model of the trial."""
        return rebuild(self.chosen, self.store, self.settings, self.note, self.progress, self.moved)


def export(request: ExportRequest, out: Path) -> ExportedTrial:
    """Write the export of a trial to the folder `out`, whole or not at all.

    An export that is there is replaced; any other content is refused. The model is made again
    once: it is taken from the cache from then on.

    Raises what `rebuild` raises; IntegrityError where the ONNX model decides otherwise than the
    trial; ResourceError where the packages of the extra `export` are absent.
    """
    from ..lab.tracking import serving

    check_folder(out)
    source = kept(request)
    with replacing(out) as folder:
        network = files.make_folder(folder / "network")
        shutil.copyfile(source / ONNX, network / ONNX)
        record = read_record(source) | {"title": request.chosen.study.get("title", "")}
        files.write_json(network / RECORD, record)
        text = card(record, request.chosen.result, _siblings(request), request)
        files.write_text(network / CARD, text)
        serving.save(network, folder / MLFLOW, record["classes"])
        for path in network.iterdir():
            path.rename(folder / path.name)
        network.rmdir()
    return ExportedTrial(out, record)


def kept(request: ExportRequest) -> Path:
    """Return the sealed folder of the model of a trial in the cache, made now if it is not there.

    One that is damaged is made again.
    """
    cache = request.settings.cache_folder
    out = cache / SERVED / request.chosen.name
    with locks.lock(cache / "locks" / f"served-{out.name}", wait=True):
        if _is_kept(out):
            return out
        check_packages()
        rebuilt = request.rebuild()
        with replacing(out) as folder:
            write_network(request, rebuilt, folder)
            files.seal(folder)
    return out


def _is_kept(out: Path) -> bool:
    """Return whether a folder of the cache is a model, whole and undamaged."""
    if not out.is_dir():
        return False
    try:
        files.verify(out)
        OnnxModel(out)
    except (IntegrityError, MissingError, BadDataError):
        return False
    return True


def check_folder(out: Path) -> None:
    """Raise UsageError if the folder has content that is no export."""
    if not out.exists():
        return
    if not out.is_dir() or {path.name for path in out.iterdir()} - OWN:
        raise UsageError(
            "export-folder",
            "is a file, or a folder with other content than an export",
            where=out,
            expected="a new folder, or one of an earlier export, which is replaced",
        )


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """Return a new folder that takes the place of `out` at the end of the block.

    What a killed process has left beside `out` is cleared first: a folder in progress is removed,
    one that was moved aside to be replaced is put back.
    """
    out = out.absolute()
    with files.storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(out)
        folder = Path(tempfile.mkdtemp(prefix=_prefix(out), dir=out.parent))
    with _claimed(folder):
        try:
            folder.chmod(0o777 & ~_umask())
            yield folder
            with files.storage_errors(out):
                for path in folder.rglob("*"):
                    if path.is_file():
                        _sync(path)
                if out.exists():
                    old = folder.with_name(folder.name + OLD)
                    out.rename(old)
                    folder.rename(out)
                    shutil.rmtree(old)
                else:
                    folder.rename(out)
                files.sync_folder(out.parent)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


OLD = "-old"  # ends the name of a folder that is replaced, while it is


def _prefix(out: Path) -> str:
    return f"{files.TEMPORARY}{out.name}."


def _clear_leftovers(out: Path) -> None:
    """Remove what killed processes have left of `out`, and put back what they moved aside."""
    for path in sorted(out.parent.glob(glob.escape(_prefix(out)) + "*")):
        if path.name.endswith(OLD):
            continue
        with _claimed(path) as is_dead:
            if is_dead:
                shutil.rmtree(path, ignore_errors=True)
    for old in sorted(out.parent.glob(glob.escape(_prefix(out)) + "*" + OLD)):
        if old.with_name(old.name.removesuffix(OLD)).exists():
            continue  # of a process that lives
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(out)


@contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """Lock a folder in progress, which frees it when its process dies; give whether it was free.

    Where the file system has no such locks, a folder of another process is never taken for free.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_free = True
        except OSError:
            is_free = False
        yield is_free
    finally:
        os.close(fd)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_network(request: ExportRequest, rebuilt: RebuiltTrial, folder: Path) -> dict[str, Any]:
    """Write model.onnx and model.json; return the record, which is checked on images."""
    spec, result, classes = request.chosen.spec, request.chosen.result, rebuilt.classes
    shape, crops = crops_of(rebuilt.sizing)
    temperatures = calibration.temperatures(rebuilt.val_scores, rebuilt.val_labels)
    model = Served(
        rebuilt.body,
        size=rebuilt.sizing.size,
        crops=crops,
        mean=rebuilt.network.mean,
        std=rebuilt.network.std,
        vote=spec.vote,
        temperatures=temperatures,
    )
    export_onnx(model, shape, folder / ONNX)
    record: dict[str, Any] = {
        "format": FORMAT,
        "key": result.key,
        "kind": result.kind,
        "title": request.chosen.study.get("title", ""),
        "settings": spec.identity(),
        "classes": list(classes),
        "height": shape[0],
        "width": shape[1],
        "channels": shape[2],
        "sizing": {
            "mode": rebuilt.sizing.mode,
            "size": rebuilt.sizing.size,
            "side": rebuilt.sizing.side,
            "crops": rebuilt.sizing.crops,
        },
        "crops": [list(crop) for crop in crops],
        "vote": spec.vote,
        "temperature": dict(zip(("crop", "image"), temperatures, strict=True)),
        "versions": environment.versions() | {"tlx": __version__},
        "sha256": files.sha256(folder / ONNX),
        "confusion": voting.confusion(rebuilt.labels, rebuilt.decided, len(classes)).tolist(),
    }
    if request.chosen.refit:
        record["refit"] = {
            "train_images": rebuilt.train_images,
            "seconds": rebuilt.seconds,
            "val_accuracy": rebuilt.val_accuracy,
            "trial_val_accuracy": result.scores["best_val_accuracy"],
            "trial_test_accuracy": result.scores.get("test_accuracy"),
        }
    files.write_json(folder / RECORD, record)
    record |= _checked_on_images(OnnxModel(folder), rebuilt, result, temperatures)
    files.write_json(folder / RECORD, record)
    return record


def _siblings(request: ExportRequest) -> list[Result]:
    """Return the finished trials that differ from the chosen one in their split alone."""
    own = same_but_split(request.chosen.result)
    results = [request.store.find_or_none(row["key"]) for row in request.chosen.study["trials"]]
    return [
        result
        for result in results
        if result is not None and "test_accuracy" in result.scores and same_but_split(result) == own
    ]


def _checked_on_images(
    model: OnnxModel,
    rebuilt: RebuiltTrial,
    result: Result,
    temperatures: tuple[float, float],
) -> dict[str, dict[str, Any]]:
    """Return accuracy and calibration of the exported model on the images that the trial scored.

    The images are read from their files, as they are when the model is used. Raises IntegrityError
    where it decides otherwise than the trial.
    """
    labels, probabilities = labelled(model, rebuilt.files)
    differing = np.flatnonzero(labels != rebuilt.decided)
    if len(differing):
        raise IntegrityError(
            "export-differs",
            f"the ONNX model gives other labels than the network to {len(differing)} of "
            f"{counted(len(labels), 'image')}, the first {rebuilt.files[differing[0]]}",
            expected="the labels of the network it was made from",
            remedy="the crops of a trial with --precomputed-crops cannot be made from the images"
            if result.spec.get("precomputed_crops")
            else "export another trial of the study",
        )
    right = (labels == rebuilt.labels).astype(np.float64)[None]
    interval = crossed.estimate(crossed.components(right, rebuilt.labels))
    counts = voting.confusion(rebuilt.labels, labels, len(rebuilt.classes))
    role = "test" if "test_accuracy" in result.scores else "val"
    accuracy: dict[str, Any] = {
        "of": f"{role} images",
        "images": len(labels),
        "value": voting.mean_per_class_accuracy(counts),
        "low": None if interval is None else max(0.0, interval.low),
        "high": None if interval is None else min(1.0, interval.high),
    }
    expected = calibration.calibrated(rebuilt.scores, temperatures, rebuilt.decided)
    error = calibration.expected_calibration_error(probabilities, rebuilt.labels)
    return {
        "accuracy": accuracy,
        "calibration": {"expected_calibration_error": error, "bins": calibration.BINS},
        "check": {
            "images": len(labels),
            "differing_labels": 0,
            "largest_difference_of_a_probability": float(np.abs(probabilities - expected).max()),
        },
    }


def labelled(model: OnnxModel, paths: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (n,) and probabilities (n, k) that a model gives to image files."""
    batches = list(model.predict_batches(served_inputs(paths, model.sizing)))
    labels = [label for label, _ in batches]
    probabilities = [shares for _, shares in batches]
    return np.concatenate(labels), np.concatenate(probabilities)
