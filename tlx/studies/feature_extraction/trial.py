"""Trial: a few-shot classifier on activations of a frozen network, scored on the test set.

Every image·crop is forwarded once per weights and layers: a split is an index into that dump.
Trials of one draw share its embedding and its span; each reports its own run time and its share of
the extraction.
"""

from __future__ import annotations

import functools
import time
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import Stopped
from ...lab import cost
from ...result import FINISHED, Result
from ...spec import derive_seed, parse_spec
from .. import predictions
from .spec import FeatureExtraction

if TYPE_CHECKING:
    import numpy as np

    from ...features.classifiers import Classifier
    from ...features.dump import Dump
    from ...features.fitting import FittedClassifier
    from ...features.spans import EvaluationRows, Training
    from ...models.samples import Samples
    from ..base import TrialContext

KEPT_BYTES = (
    1 << 30
)  # embedded rows of a role kept between the classifiers of a group; above, embedded again


@dataclass
class FeatureTrialInputs:
    """Inputs of the trials of one draw: a dump, and which of its images are for what.

    Labels index `classes`.
    """

    classes: tuple[str, ...]
    dump: Dump
    train: Samples
    val: Samples
    test: Samples | None
    test_digest: str = ""
    pool: int | None = None
    _prepared: dict[str, Prepared] = field(default_factory=dict, repr=False)
    _latest: ClassVar[weakref.ref[FeatureTrialInputs] | None] = None  # that prepared rows

    def prepared(self, spec: FeatureExtraction) -> Prepared:
        """Return the embedded training rows, computed by the first trial that needs them.

        A process keeps those of one draw: what was prepared of the draw before is let go.
        """
        text = f"{spec.embedding} {spec.standardize}"
        if text not in self._prepared:
            reference = FeatureTrialInputs._latest
            latest = None if reference is None else reference()
            if latest is not None and latest is not self:
                latest._prepared.clear()
            FeatureTrialInputs._latest = weakref.ref(self)
            self._prepared[text] = Prepared(self, spec)
        return self._prepared[text]


class Prepared:
    """Embedding fitted on the training rows of a draw, and what the classifiers share."""

    def __init__(self, inputs: FeatureTrialInputs, spec: FeatureExtraction):
        from ...features.embedding import EMBEDDINGS
        from ...features.spans import Training

        started = time.perf_counter()
        self._parts: dict[tuple[int, int], EvaluationRows] = {}
        self.inputs, self.layers = (
            inputs,
            [inputs.dump.array(layer) for layer in inputs.dump.layers],
        )
        embedding: Any = parse_spec(EMBEDDINGS, spec.embedding, "embedding")
        if "standardize" in embedding.settings() and spec.standardize != "train":
            embedding = embedding.replace(standardize=spec.standardize)
        self.per_set = getattr(embedding, "standardize", "train") == "per-set"
        self.embedding = embedding.fit(self.layers, inputs.train.rows)
        self.rows = self.embedding.transform(self.layers, inputs.train.rows)
        self.width = self.rows.shape[1]
        self._requested: dict[str, Any] = {
            "seed": derive_seed(spec.seed, "classifier") % 2**32,
            "where": spec.title,
        }
        self.training = Training(
            self.rows, inputs.train.row_labels, images=inputs.train.row_images, **self._requested
        )
        self.seconds = time.perf_counter() - started
        self.usage: cost.Usage = {"wall_s": self.seconds}  # what the trial that made it was charged

    @functools.cached_property
    def val(self) -> np.ndarray:
        """Return embedded validation rows."""
        result: np.ndarray = self.embedding.transform(self.layers, self.inputs.val.rows)
        return result

    @functools.cached_property
    def compared(self) -> tuple[Training, EvaluationRows]:
        """Return a training with the products of validation and test rows, and those rows.

        The products are with the training rows.
        """
        import numpy as np

        from ...features.spans import Training

        held = (
            self.val if self.inputs.test is None else np.concatenate([self.val, self._whole_test])
        )
        return Training.beside(self.rows, self.inputs.train.row_labels, held, **self._requested)

    def fit(self, spec: Classifier) -> FittedClassifier:
        """Fit the classifier.

        What compares rows (neighbours, kernels) shares one set of products. The way depends on the
        classifier and on sizes alone, so that a trial has the same bits whatever else is tried.
        """
        return (self.compared[0] if self._compares(spec) else self.training).fit(spec)

    def _compares(self, spec: Classifier) -> bool:
        held = len(self.inputs.val.rows) + (len(self.inputs.test.rows) if self.inputs.test else 0)
        return (
            spec.isometric
            and not spec.linear
            and 8 * (len(self.rows) + held) * len(self.rows) <= KEPT_BYTES
            and (len(self.rows) + held) * self.width * self.rows.itemsize <= KEPT_BYTES
        )

    def scores(self, fitted: FittedClassifier, samples: Samples) -> np.ndarray:
        """Return (n·c, k) float64, higher is likelier, of every row of samples.

        Rows are embedded in parts.
        """
        import numpy as np

        classes = len(self.inputs.classes)
        if fitted.reads != "features":
            first = len(self.rows)  # of `compared`: training rows, then validation, then test
            first += 0 if samples is self.inputs.val else len(self.inputs.val.rows)
            seen = self._part(first, len(samples.rows))
            return fitted.scores(seen, classes=classes)
        if samples is self.inputs.val:
            return fitted.scores(self.val, classes=classes)
        step = len(samples.rows) if self.per_set else max(1, KEPT_BYTES // (4 * self.width))
        parts = [
            fitted.scores(self._test(start, step), classes=classes)
            for start in range(0, len(samples.rows), step)
        ]
        return np.concatenate(parts)

    def _part(self, first: int, count: int) -> EvaluationRows:
        """Return a part of `compared`, with what was computed of it for classifiers before."""
        if (first, count) not in self._parts:
            import numpy as np

            training, _ = self.compared
            self._parts[first, count] = training.seen(np.arange(first, first + count))
        return self._parts[first, count]

    def _test(self, start: int, step: int) -> np.ndarray:
        assert self.inputs.test is not None
        rows = self.inputs.test.rows
        if step < len(rows):
            result: np.ndarray = self.embedding.transform(self.layers, rows[start : start + step])
            return result
        return self._whole_test

    @functools.cached_property
    def _whole_test(self) -> np.ndarray:
        assert self.inputs.test is not None
        result: np.ndarray = self.embedding.transform(self.layers, self.inputs.test.rows)
        return result


def run(spec: FeatureExtraction, inputs: FeatureTrialInputs, context: TrialContext) -> Result:
    """Fit on the training rows of the dump; the crops vote; score val, and test once."""
    from ...features import classifiers, voting

    if context.stopping():
        raise Stopped(15)
    started = time.perf_counter()
    first, before = not inputs._prepared, context.usage()
    prepared = inputs.prepared(spec)
    if first:
        prepared.usage = cost.subtracted(context.usage(), before) | {"wall_s": prepared.seconds}
    context.inherit(_inherited(inputs, prepared, first))
    fitting = time.perf_counter()
    fitted = prepared.fit(classifiers.classifier(spec.classifier))
    fitted_s, tested = time.perf_counter() - fitting, time.perf_counter()
    scores: dict[str, float] = {}
    details = _details(inputs, prepared, fitted)
    roles = [("val", inputs.val)]
    if inputs.test is not None:
        roles.append(("test", inputs.test))
    for role, samples in roles:
        decided = voting.per_image(prepared.scores(fitted, samples), samples.crops, spec.vote)
        if role == "test":
            predictions.write(context.folder, decided, samples.labels)
            details |= {"test_digest": inputs.test_digest, "pool": inputs.pool}
        counts = voting.confusion(samples.labels, decided, len(inputs.classes))
        scores[f"{role}_accuracy"] = voting.mean_per_class_accuracy(counts)
        scores[f"{role}_top1"] = float(counts.trace() / counts.sum())
        details["confusion"] = counts.tolist()
    scores["best_val_accuracy"] = scores["val_accuracy"]  # the name that fine-tuning has for it
    scores |= _times(inputs, prepared, fitted_s, first)
    scores |= {"predict_s": time.perf_counter() - tested, "own_s": time.perf_counter() - started}
    scores["total_s"] = scores["own_s"] + scores["inherited_s"]
    if spec.log_model:
        _keep_model(spec, prepared, context)
    context.tell(1, 1)
    return Result.of(spec, status=FINISHED, scores=scores, details=details)


def _inherited(inputs: FeatureTrialInputs, prepared: Prepared, first: bool) -> cost.Usage:
    """Return what a trial uses of shared work: its rows of the dump, and the embedding.

    The trial that makes the embedding is charged it as its own.
    """
    roles = (inputs.train, inputs.val, inputs.test)
    rows = sum(len(role.rows) for role in roles if role is not None)
    features = inputs.dump.usage(rows)
    return features if first else cost.added(features, {**prepared.usage, "disk_bytes": 0.0})


def _keep_model(spec: FeatureExtraction, prepared: Prepared, context: TrialContext) -> None:
    """Save the embedding and a classifier that reads features as an mlflow model.

    It is a scikit-learn Pipeline.
    """
    import numpy as np

    from ...features import classifiers, pipelines
    from ...lab.tracking import models as tracking_models

    requested = classifiers.classifier(spec.classifier)
    fitted = prepared.training.fit(requested, for_features=True)
    model = pipelines.pipeline(prepared.embedding, spec.embedding, fitted, prepared.inputs.classes)
    example = np.concatenate(
        [layer[prepared.inputs.train.rows[:5]] for layer in prepared.layers], axis=1
    )
    trusted, packages = pipelines.trusted(), []
    if isinstance(requested, classifiers.XGBoost):
        trusted, packages = trusted + pipelines.XGBOOST, ["xgboost"]
    tracking_models.save(
        model,
        context.folder,
        example.astype(np.float32),
        packages=packages,
        trusted=trusted,
    )


def _details(
    inputs: FeatureTrialInputs, prepared: Prepared, fitted: FittedClassifier
) -> dict[str, Any]:
    return {
        "classes": list(inputs.classes),
        "layers": list(inputs.dump.layers),
        "dump": inputs.dump.key,
        "features": prepared.width,
        "constant_features": prepared.embedding.constant,
        "converged": fitted.converged,
        "notes": fitted.notes,
        "crops": inputs.train.crops,
        "train_images": len(inputs.train),
        "val_images": len(inputs.val),
        "test_images": len(inputs.test) if inputs.test else 0,
    }


def _times(
    inputs: FeatureTrialInputs, prepared: Prepared, fitted_s: float, first: bool
) -> dict[str, float]:
    """Return the original study's four times and that of the validation images, in seconds.

    Extraction is the dump's, in proportion to the rows; post-processing that of the first trial of
    the draw.
    """
    dump = inputs.dump
    per_row = (dump.own_s + dump.inherited_s) / max(1, dump.rows)
    extraction = {
        "train_extraction_s": per_row * len(inputs.train.rows),
        "test_extraction_s": per_row * len((inputs.test or inputs.val).rows),
    }
    if inputs.test is not None:
        extraction["val_extraction_s"] = per_row * len(inputs.val.rows)
    inherited = sum(extraction.values()) + (0.0 if first else prepared.seconds)
    return {
        **extraction,
        "postprocessing_s": prepared.seconds,
        "classifier_s": fitted_s,
        "inherited_s": inherited,
    }
