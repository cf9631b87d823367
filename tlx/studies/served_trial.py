"""Finished few-shot trial → its model, found again: the very one that was scored, or an error.

No weights are kept of a fine-tuned network: it is trained again from its spec, which on a CPU gives
the same bits. A classifier is fitted again to the same activations. What comes out is compared with
what the trial recorded before it is used for anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from ..data import splits
from ..data.sizing import Sizing
from ..errors import (
    BadDataError,
    IntegrityError,
    MissingError,
    UnknownNameError,
    UsageError,
    counted,
)
from ..features import graphs, voting
from ..features.classifiers import classifier, format_classifier
from ..lab.records import StoredStudy
from ..lab.settings import Settings
from ..lab.store import Store
from ..metrics.paired import DECIDED
from ..models import activations, folding
from ..models.layers import module_of
from ..models.network import Network
from ..models.samples import Samples
from ..models.served import FrozenFeatures
from ..models.training import TrainingContext, deterministic, predict
from ..result import FINISHED, Result
from .base import Trial
from .compare.spec import Decision
from .feature_extraction import plan as feature_extraction_plan
from .feature_extraction.spec import FeatureExtraction, FeatureExtractionGrid
from .few_shot import FewShotGrid, FewShotTrial
from .few_shot_inputs import PreflightResult, Progress
from .fine_tuning import plan as fine_tuning_plan
from .fine_tuning.spec import FineTuning
from .fine_tuning.trial import selection_samples, tuned
from .listing import only_match

PREDICTIONS = "predictions.npy"  # of trials that keep them: (n_test,) class of each test image
CHAMPION = "champion"  # alias of a registered winner that is sure
PLACES = ("dataset", "split_path", "model", "precomputed_crops")  # of a spec; may have moved


# ---------------------------------------------------------------- which trial


@dataclass(frozen=True)
class ChosenTrial:
    """Finished trial with the study that it is from, and why it is this one.

    tags   of a registered version: what a comparison says of it
    alias  that a registered version gets if none is given; "" for none
    refit  whether its model is trained on all training images instead of its draw
    """

    result: Result
    study: Mapping[str, Any]
    reason: str
    tags: Mapping[str, str] = field(default_factory=dict)
    alias: str = ""
    refit: bool = False

    @property
    def name(self) -> str:
        """Return the name of its model in the cache."""
        return self.result.key + ("-refit" if self.refit else "")

    @property
    def spec(self) -> FewShotTrial:
        """Return what the trial was."""
        return FewShotTrial.from_json(self.result.spec)


def choose(
    store: Store, requested: str, classifier_text: str | None = None, *, refit: bool = False
) -> ChosenTrial:
    """Return the trial of a key: a trial's, or a study's, or the first letters of one.

    Of a study it is the trial of the largest shots with the median validation accuracy among its
    splits; of several classifiers that of the best mean validation accuracy, or `classifier_text`.
    Of a comparison it is the one of the recommended side, at the shots that the answer is for.

    refit  its model is to be trained on all training images

    Raises MissingError if there is none, BadDataError if several begin so, UsageError for a trial
    of another kind.
    """
    of_study = [key for key in store.studies() if requested and key.startswith(requested)]
    trials = store.keys()
    of_trial = [key for key in trials if requested and key.startswith(requested)]
    matches = sorted({*of_study, *of_trial})
    only_match(store, requested, matches, "trial or study")
    if of_trial:
        chosen = _trial(store, of_trial[0])
    else:
        study = store.read_study(of_study[0])
        if study is not None and study["kind"] == Decision.kind:
            chosen = _winner(store, study)
        else:
            chosen = _median(store, of_study[0], classifier_text)
    _check_served(chosen)
    if not refit:
        return chosen
    return replace(
        chosen, refit=True, reason=f"{chosen.reason}; trained again on all training images"
    )


def _check_served(chosen: ChosenTrial) -> None:
    """Raise UsageError for a model that cannot be served, with classifiers of the study that can.

    It is told before the model is made again.
    """
    if chosen.result.kind != FeatureExtraction.kind:
        return
    tried = [row.get("spec", {}).get("classifier", "") for row in chosen.study.get("trials", ())]
    others = [
        name
        for name in dict.fromkeys(filter(None, tried))
        if name.partition(":")[0] not in graphs.NOT_SERVED
    ]
    key = chosen.study["key"][:12]
    remedy = "run tlx feature-extraction with another --classifier"
    if others:
        remedy = f"tlx export {key} --classifier {others[0]} takes another trial of the study"
    graphs.check(chosen.result.spec, others, remedy)


def _trial(store: Store, key: str) -> ChosenTrial:
    result = store.find(key)
    assert result is not None
    _check_kind(result.kind)
    if result.status != FINISHED:
        raise BadDataError(
            "trial-diverged",
            f"the trial {key[:12]} diverged and has no model",
            where=store.folder(key),
            remedy="choose another trial of the study: tlx show KEY lists them",
        )
    study = _study_of(store, key)
    return ChosenTrial(result, study, f"trial {key[:12]}, as given")


def _check_kind(kind: str) -> None:
    if kind not in REBUILD:
        raise UsageError(
            "export-kind",
            f"a result of kind {kind} is no few-shot classifier",
            expected=f"a trial or a study of {' or '.join(REBUILD)}",
            remedy="tlx ls lists the studies",
        )


def _study_of(store: Store, key: str) -> StoredStudy:
    """Return the record of a study that lists the trial."""
    for study_key in store.studies():
        try:
            study = store.read_study(study_key)
        except IntegrityError:
            continue  # damaged; another one may have the trial too
        if study is not None and any(row["key"] == key for row in study.get("trials", ())):
            return study
    raise MissingError(f"study of the trial {key[:12]}", store.root)


def _median(store: Store, key: str, classifier_text: str | None) -> ChosenTrial:
    study = store.read_study(key)
    assert study is not None
    _check_kind(study["kind"])
    results = [store.find_or_none(row["key"]) for row in study["trials"]]
    finished = [r for r in results if r is not None and r.status == FINISHED]
    if not finished:
        raise MissingError(f"finished trial of the study {key[:12]}", store.root)
    shots = max(int(r.spec["shots"]) for r in finished)
    groups: dict[str, list[Result]] = {}
    for result in finished:
        if result.spec["shots"] == shots:
            groups.setdefault(same_but_split(result), []).append(result)
    candidates = list(groups.values())
    if classifier_text is not None:
        candidates = _of_classifier(candidates, classifier_text)
    best = max(candidates, key=lambda results: np.mean([_val(r) for r in results]))
    chosen = sorted(best, key=lambda r: (_val(r), int(r.spec["split"])))
    result = chosen[(len(chosen) - 1) // 2]
    name = result.spec.get("classifier")
    words = [name] if name else []
    if len(candidates) > 1:
        words.append(
            f"the best of {counted(len(candidates), 'configuration')} on validation images"
        )
    words.append(
        f"{shots} shots, split {result.spec['split']}: the median validation accuracy "
        f"({100 * _val(result):.1f} %) of {counted(len(chosen), 'split')} at the largest shots"
    )
    return ChosenTrial(result, study, ", ".join(words))


def _winner(store: Store, study: StoredStudy) -> ChosenTrial:
    """Return the trial of the side that a comparison recommends."""
    from .compare import report as compare_report

    key = str(study["trials"][-1]["key"])
    result = store.find(key)
    if result is None:
        raise MissingError(f"decision of the comparison {study['key'][:12]}", store.root)
    outcome = compare_report.outcome_of(store, result)
    if not outcome.recommended:
        raise BadDataError(
            "no-decision",
            f"the comparison {study['key'][:12]} has no decision, and no winner to take",
            where=store.root,
            remedy="give the key of one of its trials: tlx show lists them",
        )
    sides = {side.name: side for side in (outcome.data.features, outcome.data.tuning)}
    arm = outcome.champions[outcome.recommended]
    trials = [
        trial
        for (shots, _), trial in sides[outcome.recommended].arms[arm].items()
        if shots == outcome.at and trial.status == FINISHED
    ]
    ordered = sorted(trials, key=lambda r: (_val(r), int(r.spec["split"])))
    chosen = ordered[(len(ordered) - 1) // 2]
    reason = (
        f"{outcome.recommended} ({arm}), recommended by the comparison: {outcome.at} shots, split "
        f"{chosen.spec['split']}, the median validation accuracy "
        f"of {counted(len(ordered), 'split')}"
    )
    headline = outcome.headline
    tags = {"tlx.verdict": outcome.verdict, "tlx.comparison": str(study["key"])}
    if headline is not None and headline.p_wrong is not None:
        tags["tlx.p_wrong"] = f"{headline.p_wrong:.3g}"
    alias = CHAMPION if outcome.verdict == DECIDED else ""
    return ChosenTrial(chosen, _study_of(store, chosen.key), reason, tags, alias)


def same_but_split(result: Result) -> str:
    """Return what the trials have in common that differ from this one in their split alone."""
    spec = FewShotTrial.from_json(result.spec)
    return spec.replace(split=0, images="").key


def _of_classifier(groups: list[list[Result]], text: str) -> list[list[Result]]:
    name = format_classifier(classifier(text))
    known = {str(group[0].spec.get("classifier", "")): group for group in groups}
    if name not in known:
        raise UnknownNameError("classifier of the study", name, filter(None, known))
    return [group for group in groups if group[0].spec.get("classifier") == name]


def _val(result: Result) -> float:
    return float(result.scores["best_val_accuracy"])


# ---------------------------------------------------------------- its model, made again


@dataclass
class RebuiltTrial:
    """Model of a trial, as it was scored.

    body        normalised crops (r, channels, size, size) → scores (r, k)
    sizing      how an image becomes its crops
    val_scores  (n, c, k) scores of the crops of the validation images; val_labels (n,)
    files       of the images that decide whether the model is the trial's: the test images in
                order, the validation images of a trial without test
    labels      (n,) true class of these
    scores      (n, c, k) scores of their crops
    vote        by which the crops decide
    seconds     that it took
    train_images  that it learned from
    val_selected  (n,) class of each validation image by the crops that chose the epoch, where the
                trial chose it on fewer than all
    """

    body: Any
    network: Network
    classes: tuple[str, ...]
    sizing: Sizing
    val_scores: np.ndarray
    val_labels: np.ndarray
    files: list[Path]
    labels: np.ndarray
    scores: np.ndarray
    vote: str
    seconds: float = 0.0
    train_images: int = 0
    notes: list[str] = field(default_factory=list)
    val_selected: np.ndarray | None = None

    @property
    def decided(self) -> np.ndarray:
        """Return the class (n,) that the trial gives each of the images."""
        return voting.VOTING[self.vote](self.scores)

    @property
    def val_accuracy(self) -> float:
        """Return the accuracy on the validation images."""
        counts = voting.confusion(self.val_labels, self.val_decided, len(self.classes))
        return float(voting.mean_per_class_accuracy(counts))

    @property
    def val_decided(self) -> np.ndarray:
        """Return the class (n,) that the trial gives each validation image."""
        if self.val_selected is not None:
            return self.val_selected
        return voting.VOTING[self.vote](self.val_scores)


Note = Callable[[str], None]


def rebuild(
    chosen: ChosenTrial,
    store: Store,
    settings: Settings,
    note: Note,
    progress: Progress | None = None,
    moved: Mapping[str, str] | None = None,
) -> RebuiltTrial:
    """Return the model of a trial; IntegrityError unless it decides as the trial did.

    One that is trained on all training images decides otherwise, and is not compared.

    moved  where data set, splits or weights are now, if not where the trial found them
    """
    started = time.perf_counter()
    spec = _placed(chosen, moved or {})
    threads = _threads(chosen.result, settings)
    deterministic(threads)
    with threadpool_limits(threads):
        rebuilt = REBUILD[chosen.result.kind](chosen, spec, settings, note, progress)
    if not chosen.refit:
        _check_same(chosen.result, store, rebuilt)
    rebuilt.seconds = time.perf_counter() - started
    return rebuilt


def _threads(result: Result, settings: Settings) -> int:
    """Return the threads that the trial had: another number gives other last bits."""
    return int((result.environment.get("threads") or {}).get("torch") or settings.threads)


def _placed(chosen: ChosenTrial, moved: Mapping[str, str]) -> FewShotTrial:
    """Return the trial's spec with the places of its data: the splits are those of its study."""
    spec = chosen.spec
    places: dict[str, str | None] = {
        "split_path": spec.split_path or chosen.study.get("tags", {}).get("tlx.splits")
    }
    places |= {name: place for name, place in moved.items() if place and name in PLACES}
    folder = places["split_path"]
    if folder and not Path(folder).is_dir():
        raise MissingError("folder of the trial's splits", folder, made_by="--split-path FOLDER")
    return spec.replace(**places)


def _trial_of(trials: Sequence[Trial], chosen: ChosenTrial) -> Any:
    """Return the trial with the chosen key."""
    for trial in trials:
        if trial.spec.key == chosen.result.key:
            return trial
    raise IntegrityError(
        "trial-inputs",
        f"images, splits or weights are not those of the trial {chosen.result.key[:12]}",
        expected="the same bytes in the same splits",
        remedy="say where they are now: --dataset, --split-path, --model",
    )


def _fine_tuned(
    chosen: ChosenTrial,
    spec: FewShotTrial,
    settings: Settings,
    note: Note,
    progress: Progress | None,
) -> RebuiltTrial:
    assert isinstance(spec, FineTuning)
    seconds = chosen.result.scores.get("train_s", 0.0)
    if chosen.refit:
        refitted, preflight = fine_tuning_plan.refit_inputs(spec, settings)
        trial = _trial_of([refitted], chosen)
        note(
            "the network is trained on all "
            f"{counted(len(trial.inputs.train), 'training image')}; on "
            f"{chosen.result.details['train_images']} it took {seconds:.1f} s"
        )
    else:
        few = FewShotGrid(shots=(spec.shots,), splits=spec.split + 1)
        stage, preflight = fine_tuning_plan.fine_tuning_study(spec, few, settings)
        trial = _trial_of(stage.trials, chosen)
        note(
            "the trial kept no weights: the network is trained again, which took "
            f"{seconds:.1f} s then"
        )
    place = TrainingContext(
        settings.resolved_device(),
        on_epoch=lambda epoch, values: progress(epoch + 1, spec.most_epochs) if progress else None,
    )
    network, fitted = tuned(trial.spec, trial.inputs, place)
    if fitted.ended == "diverged":
        if chosen.refit:
            raise BadDataError(
                "refit-diverged",
                "the training on all "
                f"{counted(len(trial.inputs.train), 'training image')} diverged",
                remedy="export the trial itself, without --refit",
            )
        raise _other("training diverged", "a training that ends as then")
    logits = predict(network, trial.inputs.val, spec, place)
    held = trial.inputs.test or trial.inputs.val
    scores_held = predict(network, held, spec, place)
    rebuilt = _rebuilt(spec, preflight, network, network, trial.inputs, (logits, scores_held))
    if spec.val_crops is not None:
        chosen_on = selection_samples(spec, trial.inputs.val)
        rebuilt.val_selected = voting.per_image(
            predict(network, chosen_on, spec, place), chosen_on.crops, spec.vote
        )
    return rebuilt


def _fitted_again(
    chosen: ChosenTrial,
    spec: FewShotTrial,
    settings: Settings,
    note: Note,
    progress: Progress | None,
) -> RebuiltTrial:
    assert isinstance(spec, FeatureExtraction)
    spec = spec.replace(model_description=None)  # its layers are in the spec
    if chosen.refit:
        refitted, preflight = feature_extraction_plan.refit_inputs(spec, settings, progress)
        trial = _trial_of([refitted], chosen)
    else:
        sweep, few = FeatureExtractionGrid(classifier=spec.classifier), _grid_of(chosen, spec)
        stage, preflight = feature_extraction_plan.feature_extraction_study(
            spec, few, sweep, settings, progress
        )
        trial = _trial_of(stage.trials, chosen)
    inputs = trial.inputs
    prepared = inputs.prepared(trial.spec)
    requested = classifier(spec.classifier)
    fitted = prepared.fit(requested)
    held = inputs.test or inputs.val
    scores = prepared.scores(fitted, inputs.val), prepared.scores(fitted, held)
    of_features = prepared.training.fit(requested, for_features=True)
    assert preflight.network is not None
    body = graphs.FeatureBody(
        frozen_features(preflight.network, spec),
        graphs.EmbeddedRows(prepared.embedding),
        graphs.scores_of(of_features, len(inputs.classes)),
    )
    return _rebuilt(spec, preflight, body, preflight.network, inputs, scores)


def _grid_of(chosen: ChosenTrial, spec: FewShotTrial) -> FewShotGrid:
    """Return the draws of the trial's study, whose activations are in the cache."""
    rows = chosen.study["trials"]
    shots = {int(row["shots"]) for row in rows}
    if spec.split_path:
        shots &= set(splits.read(Path(spec.split_path)).shots)
    draws = 1 + max(int(row["split"]) for row in rows)
    return FewShotGrid(shots=tuple(sorted(shots | {spec.shots})), splits=draws)


def frozen_features(network: Network, spec: FeatureExtraction) -> FrozenFeatures:
    """Return the frozen network as it was extracted from: batch norms folded, where they were."""
    names = activations.resolve(network, spec.layers)
    runner, folded = folding.for_inference(network, fold=spec.fold)
    if any(module_of(name) in folded for name in names):
        runner, _ = folding.for_inference(network, fold=False)
    return FrozenFeatures(runner, names, spec.reduce, spec.dtype)


def _rebuilt(
    spec: FewShotTrial,
    preflight: PreflightResult,
    body: Any,
    network: Network,
    inputs: Any,
    scores: tuple[np.ndarray, np.ndarray],
) -> RebuiltTrial:
    held: Samples = inputs.test or inputs.val
    paths = {number: path for path, number in preflight.places.items()}
    sizing = Sizing(
        network.input_size, crops=spec.use_crops, mode=spec.sizing, channels=network.channels
    )
    return RebuiltTrial(
        body=body,
        network=network,
        classes=inputs.classes,
        sizing=sizing,
        val_scores=scores[0].reshape(len(inputs.val), inputs.val.crops, -1),
        val_labels=inputs.val.labels,
        files=[paths[number] for number in held.images],
        labels=held.labels,
        scores=scores[1].reshape(len(held), held.crops, -1),
        vote=spec.vote,
        train_images=len(inputs.train),
        notes=list(preflight.notes),
    )


REBUILD: dict[str, Callable[..., RebuiltTrial]] = {
    "fine-tuning": _fine_tuned,
    "feature-extraction": _fitted_again,
}


# ---------------------------------------------------------------- is it the trial's


def _check_same(result: Result, store: Store, rebuilt: RebuiltTrial) -> None:
    """Raise IntegrityError unless the decisions are those that the trial recorded."""
    accuracy = rebuilt.val_accuracy
    if accuracy != result.scores["best_val_accuracy"]:
        raise _other(
            f"validation accuracy {accuracy:.6f}", f"{result.scores['best_val_accuracy']:.6f}"
        )
    recorded = result.details.get("confusion")
    if recorded is not None:
        counts = voting.confusion(rebuilt.labels, rebuilt.decided, len(rebuilt.classes))
        differing = int(np.abs(counts - np.array(recorded)).sum())
        if differing:
            raise _other(
                f"a confusion matrix that differs in {differing} counts", "that of the trial"
            )
    if PREDICTIONS in store.trial_files(result.key):
        predictions = np.load(store.file(result.key, PREDICTIONS), allow_pickle=False)
        differing = int((predictions != rebuilt.decided).sum())
        if differing:
            raise _other(
                f"other labels of {counted(differing, 'test image')}", "those of the trial"
            )


def _other(what: str, expected: str) -> IntegrityError:
    return IntegrityError(
        "model-differs",
        f"made again, the model is not the one that was scored: {what}",
        expected=expected,
        remedy="use the machine, threads and device of the trial, or run the study again here",
    )
