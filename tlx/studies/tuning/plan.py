"""Plan of a search: its space from the specs' declarations, its inputs without test images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ... import files
from ...errors import BadDataError, ResourceError, UsageError, counted, raise_all
from ...features.classifiers import CLASSIFIERS, classifier, format_classifier
from ...features.dump import Dump, ExtractionConfig
from ...features.embedding import EMBEDDINGS
from ...features.extract import extract
from ...lab import cost, signals
from ...lab.records import StoredStudy
from ...lab.settings import Settings
from ...lab.tuning import api as tuning_api
from ...lab.tuning import samplers as tuning_samplers
from ...lab.tuning.space import Parameter, Space, declared
from ...lab.tuning.storage import StorageLocation
from ...models.network import Network
from ...models.recipe import Recipe
from ...spec import Spec
from .. import activations as inputs
from .. import base, batches, few_shot_inputs
from ..feature_extraction import plan as feature_extraction_plan
from ..feature_extraction.spec import FeatureExtraction, FeatureExtractionGrid
from ..few_shot import FewShotGrid, FewShotTrial
from ..few_shot_inputs import PreflightResult, Progress
from ..fine_tuning import plan as fine_tuning_plan
from ..fine_tuning.spec import FineTuning
from .features import CropVariant, Draw, FeatureInputs
from .networks import NetworkInputs
from .spec import Search

EXPERIMENT = "Tuning"
RECIPE = (
    "learning_rate",
    "weight_decay",
    "momentum",
    "optimizer",
    "batch_size",
    "freeze",
    "head",
    "schedule",
)
LEFT = ("xgboost",)  # classifiers that are tried only if a person names them
SHARE_OF_EPOCHS = 4  # halving looks after a quarter of the first split's epochs, and at its end


@dataclass(frozen=True)
class SearchPlan:
    """Plan of a search that can be run.

    search    for lab.tuning
    inputs    for its evaluator
    record    what study.json has in addition to the trials
    dataset   for the record
    """

    search: tuning_api.SearchProblem
    requested: Search
    few: FewShotGrid
    inputs: FeatureInputs | NetworkInputs
    record: StoredStudy
    notes: tuple[str, ...]
    preload: tuple[str, ...]
    val_only: bool = False  # of --model-selection: then nothing is scored on test

    @property
    def title(self) -> str:
        """Return the title."""
        return str(self.record["title"])

    def final(
        self, values: Mapping[str, object], settings: Settings, progress: Progress | None = None
    ) -> base.Stage:
        """Return the best configuration as an ordinary study of these draws, scored on test."""
        spec = self.inputs.spec(values).replace(model_selection=False, images="", weights="")
        if isinstance(spec, FeatureExtraction):
            sweep = FeatureExtractionGrid(classifier=spec.classifier)
            spec = spec.replace(classifier=FeatureExtraction.defaults()["classifier"])
            return feature_extraction_plan.feature_extraction_study(
                spec, self.few, sweep, settings, progress
            )[0]
        return fine_tuning_plan.fine_tuning_study(spec, self.few, settings, progress)[0]


def plan_search(
    requested: Search,
    spec: Spec,
    few: FewShotGrid,
    settings: Settings,
    progress: Progress | None = None,
) -> SearchPlan:
    """Check everything, extract what is missing, and plan the search.

    Raises ErrorGroup with all errors.
    """
    tuning_samplers.check(requested.sampler)
    requested.budget_s  # noqa: B018 — said before anything is read
    _check_energy(requested, settings)
    assert isinstance(spec, FeatureExtraction | FineTuning)
    whole, plan = (
        spec.replace(model_selection=False),
        _features if isinstance(spec, FeatureExtraction) else _networks,
    )
    return replace(plan(requested, whole, few, settings, progress), val_only=spec.model_selection)  # type: ignore[arg-type]


def _check_energy(requested: Search, settings: Settings) -> None:
    """Raise ResourceError if energy is minimised or bounded, and no energy can be measured."""
    wanted = [
        option
        for option, is_asked in (
            ("--objective accuracy,energy", "energy" in requested.objectives),
            ("--max-kwh", requested.max_kwh is not None),
        )
        if is_asked
    ]
    on_gpu = (
        requested.study == "fine-tuning" and settings.trial_device() != "cpu"
    )  # classifiers are fitted on the CPU
    if not wanted or cost.is_energy_known(settings.watts, on_gpu=on_gpu):
        return
    without = (
        "use --objective accuracy,time"
        if "energy" in requested.objectives
        else "use --budget, a time"
    )
    raise ResourceError(
        "energy-unknown",
        "no energy counter of this machine can be read by this user",
        where=" and ".join(wanted),
        expected="a counter, or the watts that a busy core draws",
        remedy=f"give --watts (10, say, for an estimate), or {without}",
    )


# ---------------------------------------------------------------- feature extraction


def _features(
    requested: Search,
    spec: FeatureExtraction,
    few: FewShotGrid,
    settings: Settings,
    progress: Progress | None,
) -> SearchPlan:
    spec = spec.replace(
        embedding=inputs.normalised_embedding(spec.embedding),
        classifier=format_classifier(classifier(requested.classifier)),
    )
    preflight = feature_extraction_plan.look_at_features(spec, few, settings, progress)
    raise_all(preflight.problems)
    assert preflight.network is not None
    few = _largest(few, preflight)
    rows = _fewest_rows(spec, few, preflight)
    space = _narrowed(requested, feature_space(spec, rows), ("classifier",))
    words = _choices(space, "layers") or [",".join(spec.layers) or "blocks"]
    layers = {
        word: inputs.layers_of(
            preflight.network,
            tuple(word.split(",")),
            None
            if spec.layers or "layers" in [p.name for p in space.parameters]
            else spec.model_description,
        )
        for word in words
    }
    spec = spec.replace(
        weights=preflight.weights,
        model_selection=True,
        shots=few.shots[0],
        layers=layers[words[0]],
        model_description=None,
    )
    union = tuple(dict.fromkeys(layer for names in layers.values() for layer in names))
    looks = _by_crops(
        spec,
        space,
        preflight,
        lambda changed: feature_extraction_plan.look_at_features(changed, few, settings, progress),
    )
    sides = {}
    for crops, seen in looks.items():
        side = _side(spec.replace(use_crops=crops), few, seen)
        dump = _extracted(spec, seen, union, settings, progress)
        preflight.notes += [note for note in seen.notes if note not in preflight.notes]
        sides[crops] = CropVariant(side.classes, side.val, side.draws, dump)
    splits_run = len(sides[next(iter(sides))].draws)
    return _planned(
        requested,
        spec,
        few,
        space,
        preflight=preflight,
        inputs=FeatureInputs(spec, layers, sides),
        settings=settings,
        evaluator="tlx.studies.tuning.features:FeatureSearch",
        rungs=(1,) if splits_run > 1 else (),
    )


def _extracted(
    spec: FeatureExtraction,
    seen: PreflightResult,
    layers: tuple[str, ...],
    settings: Settings,
    progress: Progress | None,
) -> Dump:
    """Return the activations of the images of a preflight, extracted or found."""
    assert seen.network is not None
    assert seen.pixels is not None
    how = ExtractionConfig(
        reduce=spec.reduce, dtype=spec.dtype, fold=spec.fold, precision=spec.precision
    )
    with signals.graceful() as stopping:
        place = inputs._dump_place(seen, settings, progress, stopping)
        dump = extract(seen.network, seen.weights, seen.pixels, layers, place, how)
        signals.stop_if_asked()
    return dump


def feature_space(spec: FeatureExtraction, rows: int) -> Space:
    """Return all that a search of features may try.

    rows: the fewest training rows of a draw.
    """
    start = classifier(spec.classifier)
    names = [name for name in CLASSIFIERS if name not in LEFT]
    default = next(name for name, kind in CLASSIFIERS.items() if kind is type(start))
    parameters = [Parameter("classifier", tuple(names), default=default, bounds=tuple(CLASSIFIERS))]
    for name, kind in CLASSIFIERS.items():
        own = {k: getattr(start, k) for k in kind.settings()} if kind is type(start) else None
        parameters += declared(
            kind, f"{name}.", ("classifier", (name,)), defaults=own, at_most={"k": rows}
        )
    words = ",".join(spec.layers) or "blocks"
    parameters.append(
        Parameter("layers", tuple(dict.fromkeys((words, "blocks", "last"))), default=words)
    )
    embeddings, _, settings = spec.embedding.partition(":")
    parameters.append(
        Parameter(
            "embedding",
            tuple(EMBEDDINGS),
            default=None if settings else embeddings,
            bounds=tuple(EMBEDDINGS),
        )
    )
    for name, row in EMBEDDINGS.items():
        searched = [k for k in row.settings() if k != "standardize"]
        parameters += (
            parameter
            for parameter in declared(row, f"{name}.", ("embedding", (name,)), names=searched)
        )
    return Space(
        (
            *parameters,
            *declared(
                FeatureExtraction,
                names=("use_crops", "standardize", "vote"),
                defaults={k: getattr(spec, k) for k in FeatureExtraction.settings()},
            ),
        )
    )


# ---------------------------------------------------------------- fine-tuning


def _networks(
    requested: Search,
    spec: FineTuning,
    few: FewShotGrid,
    settings: Settings,
    progress: Progress | None,
) -> SearchPlan:
    preflight = fine_tuning_plan.look_at_fine_tuning(spec, few, settings, progress)
    raise_all(preflight.problems)
    assert preflight.network is not None
    few = _largest(few, preflight)
    head = preflight.network.row.head if spec.head == "auto" else spec.head
    space = _narrowed(
        requested, recipe_space(spec.replace(head=head), len(preflight.network.blocks)), RECIPE
    )
    frozen = (
        None
        if any(parameter.name == "freeze" for parameter in space.parameters)
        else fine_tuning_plan.configured(spec)
    )
    spec = spec.replace(
        weights=preflight.weights, model_selection=True, shots=few.shots[0], configuration=frozen
    )
    looks = _by_crops(
        spec,
        space,
        preflight,
        lambda changed: fine_tuning_plan.look_at_fine_tuning(changed, few, settings, progress),
    )
    sides = {
        crops: _side(spec.replace(use_crops=crops), few, seen) for crops, seen in looks.items()
    }
    _check_batches(spec, space, sides, preflight.network)
    most = spec.most_epochs
    rungs = tuple(sorted({max(1, most // SHARE_OF_EPOCHS), most}))
    return _planned(
        requested,
        spec,
        few,
        space,
        preflight=preflight,
        inputs=NetworkInputs(spec, sides),
        settings=settings,
        evaluator="tlx.studies.tuning.networks:NetworkSearch",
        rungs=rungs,
    )


def _check_batches(
    spec: FineTuning, space: Space, sides: dict[bool, CropVariant], network: Network
) -> None:
    """Raise UsageError if a drawable batch size leaves a single row that cannot be trained on."""
    searched = {parameter.name: parameter for parameter in space.parameters}
    if "batch_size" not in searched:
        return
    freeze = searched.get("freeze")
    if freeze is not None:  # the fewer blocks are frozen, the more batch norm is trained
        spec, frozen = spec.replace(freeze=int(min(freeze.points()))), None
    else:
        frozen = network
    for size in [n for n in (1, 2) if searched["batch_size"].includes(n)]:
        for draw in [draw for side in sides.values() for draw in side.draws]:
            try:
                batches.check_rows(
                    spec.replace(batch_size=size), len(draw.train) * draw.train.crops, frozen
                )
            except UsageError as error:
                error.where, error.remedy = "batch_size of --space", "let it begin at 3"
                raise


def recipe_space(spec: FineTuning, blocks: int) -> Space:
    """Return all that a search of recipes may try, for a network of so many blocks."""
    names = [*Recipe.settings(), "head", "use_crops", "vote"]
    only = {"momentum": ("sgd",), "weight_decay": ("sgd", "adamw")}
    parameters = list(
        declared(
            FineTuning,
            names=names,
            at_most={"freeze": blocks},
            defaults={k: getattr(spec, k) for k in FineTuning.settings()},
        )
    )
    parameters.sort(key=lambda parameter: parameter.name in only)  # after what they depend on
    return Space(
        tuple(
            parameter
            if parameter.name not in only
            else Parameter(**{**vars(parameter), "when": ("optimizer", only[parameter.name])})
            for parameter in parameters
        )
    )


# ---------------------------------------------------------------- what both need


def _narrowed(requested: Search, everything: Space, usual: Sequence[str]) -> Space:
    """Return what of it is searched: named, or narrowed by the file, or the usual."""
    where = requested.space or ""
    changes = files.read_json(_file(where)) if where else {}
    if not isinstance(changes, dict):
        raise BadDataError(
            "space-form", f"{type(changes).__name__}", where=where, expected='{"name": …, …}'
        )
    names = list(requested.names or usual)
    known = {parameter.name: parameter for parameter in everything.parameters}
    picked = everything.picked(names) if not changes else None
    if picked is None:
        unknown = [name for name in changes if name not in known]
        everything.narrowed(
            {name: changes[name] for name in unknown}, where
        )  # which raises their errors
        present = {parameter.name for parameter in everything.picked(names).parameters}
        picked = everything.picked([*names, *(name for name in changes if name not in present)])
        picked = picked.narrowed(changes, where)
    return picked


def _file(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_file():
        raise BadDataError(
            "missing",
            "no such file",
            where=path,
            expected="JSON with ranges and choices, after --space",
        )
    return path


def _choices(space: Space, name: str) -> list[Any]:
    return [
        choice
        for parameter in space.parameters
        if parameter.name == name
        for choice in parameter.points()
    ]


def _largest(few: FewShotGrid, preflight: PreflightResult) -> FewShotGrid:
    assert preflight.splits is not None
    return few.replace(shots=(max(few.shots or preflight.splits.shots),))


def _fewest_rows(spec: FewShotTrial, few: FewShotGrid, preflight: PreflightResult) -> int:
    parts = few_shot_inputs.FewShotData(preflight, spec)
    return min(
        len(train.rows) for _, _, train, _ in parts.draws(spec.replace(model_selection=False), few)
    )


def _by_crops(
    spec: FewShotTrial, space: Space, preflight: PreflightResult, look: Any
) -> dict[bool, PreflightResult]:
    """Return a preflight for each use of crops that is searched."""
    looks = {}
    for crops in _choices(space, "use_crops") or [spec.use_crops]:
        looks[crops] = (
            preflight
            if crops == spec.use_crops
            else look(spec.replace(use_crops=crops, model_selection=False))
        )
        raise_all(looks[crops].problems)
    return looks


def _side(spec: FewShotTrial, few: FewShotGrid, preflight: PreflightResult) -> CropVariant:
    """Return the draws of a search: no image of the test set is among them."""
    parts = few_shot_inputs.FewShotData(preflight, spec)
    assert parts.test is None
    draws = parts.draws(spec.replace(model_selection=False), few)
    return CropVariant(
        parts.classes,
        parts.val,
        tuple(Draw(split, train, content) for _, split, train, content in draws),
    )


def _search_problem(
    requested: Search,
    spec: FewShotTrial,
    space: Space,
    contents: list[list[Any]],
    evaluator: str,
    rungs: tuple[int, ...],
) -> tuning_api.SearchProblem:
    """Return the question of a search: its key is of the trial, the space and the splits."""
    pruner = "none" if len(requested.objectives) > 1 else requested.pruner
    question = {
        "spec": spec.identity(),
        "space": space.to_json(),
        "sampler": requested.sampler,
        "contents": contents,
        "pruner": pruner,
        "objective": list(requested.objectives),
    }
    return tuning_api.SearchProblem(
        key=files.digest(["search", question]),
        family=files.digest(["family", spec.own_kind(), contents]),
        space=space,
        evaluator=evaluator,
        objectives=requested.objectives,
        sampler=requested.sampler,
        pruner=pruner,
        rungs=rungs,
        trials=requested.trials,
        seed=spec.seed,
        storage=requested.storage or os.environ.get("TLX_OPTUNA_STORAGE", ""),
        budget_s=requested.budget_s,
        budget_j=requested.budget_j,
    )


def check_cluster(requested: Search, settings: Settings) -> None:
    """Raise UsageError for a search on a cluster whose nodes could not work together."""
    if not settings.on_cluster:
        return
    storage = requested.storage or os.environ.get("TLX_OPTUNA_STORAGE", "")
    if not storage or not StorageLocation(storage, "search").remote:
        raise UsageError(
            "storage",
            f"--engine {settings.engine} with a storage in a file",
            expected="a database server that every node reaches: "
            "--storage postgresql://user@host/optuna",
        )
    if settings.workers is None:
        raise UsageError(
            "workers",
            f"--engine {settings.engine} without --workers",
            expected="how many trials of the search run at once: --workers 8",
        )


def _planned(  # noqa: PLR0913 — what the two kinds of search share, by name
    requested: Search,
    spec: FewShotTrial,
    few: FewShotGrid,
    space: Space,
    *,
    preflight: PreflightResult,
    inputs: FeatureInputs | NetworkInputs,
    settings: Settings,
    evaluator: str,
    rungs: tuple[int, ...],
) -> SearchPlan:
    if not space.parameters:
        raise UsageError(
            "empty-space",
            "nothing is left to search",
            where="--search",
            expected="at least one setting",
        )
    parts = few_shot_inputs.FewShotData(preflight, spec)
    contents = [[draw.split, draw.content] for side in inputs.sides.values() for draw in side.draws]
    search = _search_problem(requested, spec, space, contents, evaluator, rungs)
    search.place(settings.store_folder(None))  # a wrong address is refused now
    notes = list(preflight.notes)
    if requested.sampler == "grid" and search.wanted < requested.trials:
        notes.append(f"the grid has {counted(search.wanted, 'configuration')}: so many trials")
    record: StoredStudy = {
        "key": search.key,
        "kind": Search.own_kind(),
        "experiment": EXPERIMENT,
        "title": f"{requested.study} of {parts.title(spec).removesuffix(' (model selection)')}",
        "spec": few_shot_inputs.common_settings(spec)
        | {"search": {**requested.to_json(), "storage": None, "space": space.to_json()}},
        "inputs": [parts.dataset()],
        "tags": parts.tags(few) | {"tlx.search": requested.study},
        "params": {"Job number": str(few.job)},
    }
    return SearchPlan(
        search,
        requested,
        few,
        inputs,
        record,
        tuple(dict.fromkeys(notes)),
        (
            "tlx.lab.tuning.worker",
            evaluator.partition(":")[0],
            "sklearn.linear_model",
            "sklearn.svm",
            "sklearn.discriminant_analysis",
        ),
    )


def most_fits(inputs: FeatureInputs | NetworkInputs) -> int:
    """Return how many splits a configuration is tried on at most."""
    return max(len(side.draws) for side in inputs.sides.values())
