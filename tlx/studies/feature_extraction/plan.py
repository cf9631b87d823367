"""Plan a feature-extraction study: check the data, extract once, list the trials."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import raise_all
from ...features import classifiers
from ...features.dump import Dump, ExtractionConfig
from ...features.extract import extract
from ...lab import signals
from ...lab.settings import Settings
from ...models.network import Network
from ..activations import _dump_place, layers_of, normalised_embedding, whole_network
from ..base import Stage, Trial
from ..few_shot import FewShotGrid
from ..few_shot_inputs import (
    FewShotData,
    PreflightResult,
    Progress,
    common_settings,
    preflight,
    rows_of_refit,
)
from ..planning import Extracted
from . import spec as feature_extraction_spec
from . import trial as feature_extraction_trial
from .spec import FeatureExtraction, FeatureExtractionGrid
from .trial import FeatureTrialInputs

PRELOAD = (
    "tlx.features.pipelines",
    "tlx.features.spans",
    "sklearn.linear_model",
    "sklearn.discriminant_analysis",
)


def look_at_features(
    spec: FeatureExtraction,
    few: FewShotGrid,
    settings: Settings,
    progress: Progress | None = None,
    *,
    keep: bool = True,
) -> PreflightResult:
    """Run the preflight of a feature-extraction study."""

    def load() -> Network:
        return whole_network(spec, spec.layers, spec.model_description)

    return preflight(spec, few, settings, load, progress, keep=keep)


def extracted(spec: FeatureExtraction, result: PreflightResult) -> Extracted:
    """Return what a study extracts from the images of its preflight."""
    config = ExtractionConfig(reduce=spec.reduce, dtype=spec.dtype)
    return Extracted(result, spec.layers, spec.model_description, spec.use_crops, config)


def feature_extraction_study(
    spec: FeatureExtraction,
    few: FewShotGrid,
    sweep: FeatureExtractionGrid,
    settings: Settings,
    progress: Progress | None = None,
) -> tuple[Stage, PreflightResult]:
    """Return every classifier on every draw, ready to run.

    Its activations are extracted (once, ever). Raises ErrorGroup with all errors.
    """
    names = sweep.classifiers
    result = look_at_features(spec, few, settings, progress)
    raise_all(result.problems)
    spec, dump = _extracted(spec, result, settings, progress)
    parts = FewShotData(result, spec)
    trials = []
    for shots, split, train, content in parts.draws(spec, few):
        drawn = spec.replace(shots=shots, split=split, images=content)
        inputs = FeatureTrialInputs(
            parts.classes, dump, train, parts.val, parts.test, parts.test_digest, parts.pool
        )
        tried = _feasible(names, inputs) if sweep.everything else names
        left_out = [name for name in names if name not in tried]
        result.notes += (
            [f"{drawn.title} is too small for {', '.join(left_out)}: left out"] if left_out else []
        )
        trials += [
            Trial(drawn.replace(classifier=name), inputs, drawn.group, name) for name in tried
        ]
    return Stage(
        key=parts.study_key(spec),
        run=feature_extraction_trial.run,
        experiment=feature_extraction_spec.EXPERIMENT,
        title=parts.title(spec),
        spec=common_settings(spec),
        trials=tuple(trials),
        inputs=(parts.dataset(),),
        tags=parts.tags(few) | {"tlx.dump": dump.key},
        preload=(*PRELOAD, "mlflow.sklearn") if spec.log_model else PRELOAD,
        params={"Job number": str(few.job)},
        has_short_groups=True,
    ), result


def _extracted(
    spec: FeatureExtraction,
    result: PreflightResult,
    settings: Settings,
    progress: Progress | None,
) -> tuple[FeatureExtraction, Dump]:
    """Return the spec with weights and layers by name, and the activations of all images."""
    assert result.network is not None
    assert result.pixels is not None
    taken = layers_of(result.network, spec.layers, spec.model_description)
    spec = spec.replace(
        weights=result.weights, layers=taken, embedding=normalised_embedding(spec.embedding)
    )
    with signals.graceful() as stopping:
        place = _dump_place(result, settings, progress, stopping)
        how = ExtractionConfig(
            reduce=spec.reduce, dtype=spec.dtype, fold=spec.fold, precision=spec.precision
        )
        dump = extract(result.network, result.weights, result.pixels, taken, place, how)
        signals.stop_if_asked()
    return spec, dump


def refit_inputs(
    spec: FeatureExtraction, settings: Settings, progress: Progress | None = None
) -> tuple[Trial, PreflightResult]:
    """Return a trial with all training images, not only those of its draw.

    Its key is still that of the draw: it tells whether the images are those of the trial.
    """
    few = FewShotGrid(shots=(spec.shots,), splits=spec.split + 1)

    def load() -> Network:
        return whole_network(spec, spec.layers, spec.model_description)

    result = preflight(spec, few, settings, load, progress, used=rows_of_refit)
    raise_all(result.problems)
    spec, dump = _extracted(spec, result, settings, progress)
    parts = FewShotData(result, spec)
    inputs = FeatureTrialInputs(parts.classes, dump, parts.whole_pool(), parts.val, parts.test)
    return Trial(spec.replace(images=parts.content_of(spec, few)), inputs), result


def _feasible(names: Sequence[str], inputs: FeatureTrialInputs) -> list[str]:
    """Return the classifiers that the number of training rows of a draw allows."""
    rows = len(inputs.train.rows)
    alone = rows == len(inputs.classes)  # one row a class: nothing varies within a class
    return [
        name
        for name in names
        if not (alone and name == "lda") and getattr(classifiers.classifier(name), "k", 0) <= rows
    ]
