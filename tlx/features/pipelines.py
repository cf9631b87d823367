"""Scikit-learn Pipeline of a trial's embedding and classifier: raw features in, names out.

It consists of arrays, numbers and text, so that it is stored without pickle.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.pipeline import Pipeline

from ..spec import parse_spec
from . import embedding, estimators, fitting

TRUSTED = (
    embedding.Moments,
    *(
        thing
        for thing in vars(estimators).values()
        if isinstance(thing, type)
        and issubclass(thing, BaseEstimator)
        and thing.__module__ == estimators.__name__
    ),
)
XGBOOST = ["xgboost.core.Booster", "xgboost.sklearn.XGBClassifier"]


class Embedded(TransformerMixin, BaseEstimator):
    """Embedding with fixed statistics: (r, d) raw features to (r, d) embedded ones.

    Layers are side by side.

    embedding    text as for --embedding
    per_set      statistics are of the rows given, as the original study did: then rows are to come
                 all at once
    widths       features of each layer, in order
    mean, std    (d,) float64 of the training rows; None where the embedding has no statistics
    """

    def __init__(
        self,
        embedding: str,
        per_set: bool,
        widths: Sequence[int],
        mean: np.ndarray | None = None,
        std: np.ndarray | None = None,
    ):
        self.embedding, self.per_set, self.widths, self.mean, self.std = (
            embedding,
            per_set,
            widths,
            mean,
            std,
        )

    def fit(self, X: object = None, y: object = None) -> Self:
        """Return self: the statistics are fixed."""
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Return embedded rows.

        Raises BadDataError where a row is not finite or of another width.
        """
        spec: Any = parse_spec(embedding.EMBEDDINGS, self.embedding, "embedding")
        if self.per_set:
            spec = spec.replace(standardize="per-set")
        moments = None
        if self.mean is not None and self.std is not None:
            moments = embedding.Moments(self.mean, self.std, 0)
        rows = np.asarray(X)
        layers = np.split(rows, np.cumsum(self.widths)[:-1], axis=1) if rows.ndim == 2 else [rows]
        return embedding.FittedEmbedding(spec, self.widths, moments).transform(layers)


class Named(ClassifierMixin, BaseEstimator):
    """Fitted classifier of class numbers, returning class names.

    estimator   fitted on numbers that index `names`
    names       of all classes
    dtype       what rows are converted to
    """

    def __init__(self, estimator: Any, names: Sequence[str], dtype: str):
        self.estimator, self.names, self.dtype = estimator, names, dtype

    def fit(self, X: object = None, y: object = None) -> Self:
        """Return self: the estimator is fitted."""
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    @property
    def classes_(self) -> np.ndarray:
        """Return the names of the classes seen in training, in the order of the estimator's."""
        return np.asarray(self.names)[np.asarray(self.estimator.classes_, np.int64)]

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return (r,) str, the class name of every row."""
        codes = self.estimator.predict(np.asarray(X, self.dtype, order="C"))
        return np.asarray(self.names)[np.asarray(codes, np.int64)]


def pipeline(
    embedded: embedding.FittedEmbedding,
    text: str,
    fitted: fitting.FittedClassifier,
    names: Sequence[str],
) -> Pipeline:
    """Combine the two into one fitted Pipeline.

    `text` is the embedding's specification; `fitted` reads features.
    """
    moments = embedded.moments
    first = Embedded(
        text,
        getattr(embedded.spec, "standardize", "train") == "per-set",
        list(embedded.widths),
        moments.mean if moments is not None else None,
        moments.std if moments is not None else None,
    )
    return Pipeline(
        [("embedding", first), ("classifier", Named(fitted.model, list(names), fitted.dtype))]
    )


def trusted() -> list[str]:
    """Return the types in a pipeline that are tlx's own, by full name.

    A program that loads the pipeline has to trust them.
    """
    return sorted(f"{kind.__module__}.{kind.__qualname__}" for kind in (Embedded, Named, *TRUSTED))
