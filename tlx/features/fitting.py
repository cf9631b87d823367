"""Fitting of classifiers: checks before, warnings and convergence after."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn import config_context

from ..errors import BadDataError, TlxError, counted, raise_all
from .classifiers import Classifier, format_classifier

BLOCK_BYTES = 64 << 20  # of one block of rows
SCORED_BYTES = 16 << 20  # of one block that is scored, that it stays in the cache


@dataclass
class FittedClassifier:
    """Classifier fitted to its training rows.

    spec       what was asked
    model      the fitted scikit-learn estimator
    classes    (k',) int64 — the labels seen, ascending
    converged  False where the solver stopped at its last step before its tolerance
    notes      what the solver warned of
    reads      "features"; or which view of `spans.Seen`, where rows are known by their inner
               products
    dtype      what rows are converted to, block by block
    """

    spec: Classifier
    model: Any
    classes: np.ndarray
    converged: bool = True
    notes: list[str] = field(default_factory=list)
    reads: str = "features"
    dtype: str = "float64"

    def predict(self, rows: object) -> np.ndarray:
        """Return the class of every row, as it was spelled in training: (r,) int64.

        `rows` as for `scores`.
        """
        result: np.ndarray = self.classes[self.scores(rows).argmax(axis=1)]
        return result

    def scores(self, rows: object, classes: int | None = None) -> np.ndarray:
        """Return (r, k') float64, higher is likelier.

        The column of the largest is the prediction.

        rows      (r, d) any real dtype, read in blocks; or what `spans.Training.seen` gave
        classes   labels are 0…classes−1 and each has a column: (r, classes); one not seen is
                  below all others
        """
        X = getattr(rows, self.reads) if not isinstance(rows, np.ndarray) else rows
        check_rows(X, self.model.n_features_in_)
        step = max(1, SCORED_BYTES // (8 * max(1, X.shape[1])))
        blocks = [
            self._scores(np.asarray(X[i : i + step], self.dtype, order="C"))
            for i in range(0, len(X), step)
        ]
        scores = np.concatenate(blocks) if blocks else np.empty((0, len(self.classes)))
        if classes is None:
            return scores
        out = np.repeat(scores.min(axis=1, keepdims=True, initial=0) - 1, classes, axis=1)
        out[:, self.classes] = scores
        return out

    def _scores(self, X: np.ndarray) -> np.ndarray:
        ask = next(
            getattr(self.model, name)
            for name in ("scores", "decision_function", "predict_proba")
            if hasattr(self.model, name)
        )
        with config_context(assume_finite=True):  # as `check_rows` has found
            scores = np.asarray(ask(X), np.float64)
        return np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores


def fit(
    spec: Classifier,
    X: np.ndarray,
    y: np.ndarray,
    *,
    seed: int = 0,
    where: object = "",
    settings: Mapping[str, object] | None = None,
) -> FittedClassifier:
    """Fit the classifier on X (n, d) of any real dtype and y (n,) whole numbers.

    Neither is kept nor changed.

    seed       of the solver's own chance
    where      which trial, for the message
    settings   of the estimator, on top of the spec's
    raises     BadDataError: not finite, one class, too few rows; ResourceError: an absent package
    """
    y = np.asarray(y)
    raise_all(problems(spec, X, y, where=where))
    model = spec.make(seed)
    model.set_params(**(settings or {}))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(np.asarray(X, spec.dtype, order="C"), y)
    classes, notes, converged = np.asarray(model.classes_, np.int64), [], True
    for warning in caught:
        converged &= warning.category.__name__ != "ConvergenceWarning"
        notes.append(f"{warning.category.__name__}: {str(warning.message).splitlines()[0]}")
    return FittedClassifier(spec, model, classes, converged, sorted(set(notes)), dtype=spec.dtype)


def problems(
    spec: Classifier, X: np.ndarray, y: np.ndarray, *, where: object = ""
) -> Sequence[TlxError]:
    """Return everything that forbids this fit; [] if nothing does.

    X (n, d), y (n,).
    """
    try:
        check_rows(X, where=where)
        check_labels(y, len(X), where=where)
    except BadDataError as error:
        return [error]
    errors: list[TlxError | None] = []
    classes = len(np.unique(y))
    if classes < 2:
        errors.append(
            BadDataError(
                "one-class",
                f"{classes} class among {len(y)} training rows",
                expected="at least two",
            )
        )
    errors.append(spec.wants(X, y) if len(y) else None)
    wrong = [problem for problem in errors if problem]
    for problem in wrong:
        problem.where, problem.what = str(where), f"{problem.what} ({format_classifier(spec)})"
    return wrong


def check_labels(y: np.ndarray, rows: int, *, where: object = "") -> None:
    """Raise BadDataError where y is not one whole number for each of the rows."""
    if y.shape != (rows,) or y.dtype.kind not in "iu":
        raise BadDataError(
            "labels-shape",
            f"labels of shape {y.shape} and type {y.dtype} for {rows} rows",
            where=where,
            expected="one whole number per row",
        )


def check_rows(X: np.ndarray, width: int | None = None, *, where: object = "") -> None:
    """Raise BadDataError where rows are no (n, d) of finite numbers, or d is not `width`.

    They are read in blocks.
    """
    if X.ndim != 2 or 0 in X.shape[1:] or X.dtype.kind not in "fiub":
        raise BadDataError(
            "features-shape",
            f"rows of shape {X.shape} and type {X.dtype}",
            where=where,
            expected="(rows, features) of numbers, at least one feature",
        )
    if width is not None and X.shape[1] != width:
        raise BadDataError(
            "features-shape",
            f"rows of {X.shape[1]} features",
            where=where,
            expected=f"{width} as in the training rows",
        )
    if X.dtype.kind != "f":
        return
    step = max(1, BLOCK_BYTES // (X.itemsize * X.shape[1]))
    bad = np.concatenate(
        [
            np.flatnonzero(~np.isfinite(X[i : i + step]).all(axis=1)) + i
            for i in range(0, len(X), step)
        ]
        or [np.empty(0, np.int64)]
    )
    if len(bad):
        raise BadDataError(
            "features-not-finite",
            f"NaN or infinity in {len(bad)} of {counted(len(X), 'row')}, the first in row {bad[0]}",
            where=where,
            remedy="extract again in float32, or see whether the network diverged",
        )
