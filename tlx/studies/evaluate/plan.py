"""Plan of a study of evaluations: models and images are checked, then one trial a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ... import files
from ...data.folders import Image, ImageFolder
from ...data.hold_out import draw_per_class
from ...data.pixels import Pixels
from ...data.sides import Sides
from ...data.sizing import Sizing
from ...errors import BadDataError, UsageError, counted, raise_all
from ...lab.records import DataInput
from ...lab.settings import Settings
from ...models import backbones
from ...models.samples import Samples
from ..base import Stage, Trial, open_store
from ..few_shot_inputs import ErrorCollector, common_settings
from ..image_data import decoded, divided, located
from ..session import Progress
from ..whole_dataset_inputs import balanced, cut
from . import report, trial
from .models import GivenModel, ModelPlace, given_model, network_of
from .spec import EXPERIMENT, Evaluation, EvaluationGrid
from .trial import EvaluationInputs


def evaluation_study(
    spec: Evaluation, grid: EvaluationGrid, settings: Settings, progress: Progress | None = None
) -> Stage:
    """Return a trial for each model, ready to run. Raises ErrorGroup with all errors."""
    if not grid.models:
        raise UsageError(
            "no-model",
            "no model is named",
            where="tlx evaluate",
            expected="weight files, folders of tlx export, or keys of trials",
        )
    gather, notes = ErrorCollector(), list[str]()
    place = ModelPlace(open_store(settings), settings, notes.append, progress)
    models: list[GivenModel] = []
    for word in dict.fromkeys(grid.models):
        with gather.part():
            models.append(given_model(word, spec, place))
    folder: ImageFolder | None = None
    with gather.part():
        folder = located(spec.dataset, settings, notes)
    raise_all(gather.problems)
    assert folder is not None
    images = chosen_images(folder, divided(folder, settings, notes, progress), spec)
    pixels: dict[Sizing, Pixels] = {}
    trials = []
    for number, model in enumerate(models):
        with gather.part():
            inputs, held = _inputs(model, folder, images, spec), None
            own = spec.replace(input_size=spec.input_size or model.input_size)
            if not model.is_export:
                network_of(model, own, len(folder.classes))
                sizing = _sizing(model, own)
                if sizing not in pixels:
                    pixels[sizing] = decoded(folder, images, sizing, settings, notes, progress)
                held = pixels[sizing]
                inputs = replace(inputs, samples=_samples(held, inputs.labels))
            trials.append(Trial(_resolved(own, model, inputs, held, number), inputs))
    raise_all(gather.problems)
    dataset: DataInput = {
        "name": folder.name,
        "source": str(folder.root),
        "digest": trials[0].spec.images[:36],
        "context": "test",
    }
    shown = trials[0].spec.label if len(trials) == 1 else f"{counted(len(trials), 'model')}"
    return Stage(
        key=files.digest(["evaluation", sorted(planned.spec.key for planned in trials)]),
        run=trial.run,
        experiment=EXPERIMENT,
        title=f"{shown} on {folder.name}",
        spec=common_settings(spec),
        trials=tuple(trials),
        inputs=(dataset,),
        tags={"tlx.dataset": folder.name},
        notes=tuple(notes),
        write_trial_figures=report.write_trial_figures,
        write_summary=report.write_summary,
        format_summary=report.format_summary,
    )


def chosen_images(folder: ImageFolder, sides: Sides, spec: Evaluation) -> list[Image]:
    """Return the images of the part, balanced as it is asked. Raises BadDataError for none."""
    test, val, train = list(sides.test), list(sides.val), sides.train
    for role, held, count in (
        ("test", test, spec.test_per_class),
        ("val", val, spec.val_per_class),
    ):
        if not held and train and spec.part != "all":
            held.extend(draw_per_class(train, count, spec.seed, role))
            train = sides.without_copies(train, held)
    parts = {"test": test, "val": val, "train": train, "all": [*train, *val, *test]}
    images = parts[spec.part]
    if not images:
        raise BadDataError(
            "no-images",
            f"no image is left for {spec.part}",
            where=folder.root,
            expected="at least one",
            remedy="choose another --part, or fewer --val-per-class and --test-per-class",
        )
    counts = Counter(image.label for image in images)
    kept = balanced(dict(counts), spec.balance)
    return cut(images, kept, spec.seed, f"balanced {spec.part}")


def _inputs(
    model: GivenModel, folder: ImageFolder, images: Sequence[Image], spec: Evaluation
) -> EvaluationInputs:
    """Return the images with labels in the model's order. Raises BadDataError for a strange one."""
    classes = model.classes or folder.classes
    number = {label: i for i, label in enumerate(classes)}
    strange = sorted({image.label for image in images} - set(number))
    if strange:
        raise BadDataError(
            "classes",
            f"the model has no class '{strange[0]}'"
            + (f" and {len(strange) - 1} more of the data set" if strange[1:] else ""),
            where=model.path,
            expected=f"some of {', '.join(classes[:20])}",
        )
    return EvaluationInputs(
        str(model.path),
        classes,
        tuple(str(folder.root / image.path) for image in images),
        np.array([number[image.label] for image in images], np.int64),
        is_refit=model.is_refit,
    )


def _sizing(model: GivenModel, spec: Evaluation) -> Sizing:
    row = backbones.lookup(model.architecture)
    return Sizing(
        spec.input_size or row.input_size,
        crops=spec.use_crops,
        mode=spec.sizing,
        channels=row.channels,
    )


def _samples(pixels: Pixels, labels: np.ndarray) -> Samples:
    return Samples(pixels, np.arange(len(labels)), labels)


def _resolved(
    spec: Evaluation,
    model: GivenModel,
    inputs: EvaluationInputs,
    pixels: Pixels | None,
    number: int,
) -> Evaluation:
    """Return the spec of a trial: of an export, what the export itself decides is left out."""
    of_images = pixels.digest if pixels else [files.sha256(Path(path)) for path in inputs.files]
    content = [list(inputs.classes), inputs.labels.tolist(), of_images]
    own = {"architecture": model.architecture or None}
    if model.is_export:
        names = ("use_crops", "vote", "sizing", "input_size", "precision")
        own |= {name: Evaluation.defaults()[name] for name in names}
    return spec.replace(
        **own,
        model=str(model.path),
        weights=model.digest,
        images=files.digest(content),
        split=number,
    )
