"""Fitted embeddings and classifiers as torch modules, for a model that is served: GRAPHS.

Each module computes what its scikit-learn estimator computes, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..models import served
from ..spec import parse_spec
from .classifiers import CLASSIFIERS
from .embedding import EMBEDDINGS, FNE, L2, FittedEmbedding, Standard
from .fitting import FittedClassifier


class EmbeddedRows(nn.Module):
    """Embedding with the statistics of its training rows: (r, d) float64 → (r, d) float64."""

    def __init__(self, embedded: FittedEmbedding):
        super().__init__()
        if getattr(embedded.spec, "standardize", "train") == PER_SET:
            raise _not_alone()
        self.embedding, self.widths = embedded.spec, list(embedded.widths)
        moments = embedded.moments
        if moments is not None:
            self.mean = nn.Parameter(torch.from_numpy(moments.mean.copy()), requires_grad=False)
            is_spread = moments.std > 0
            self.is_spread: Tensor
            self.register_buffer("is_spread", torch.from_numpy(is_spread.astype(np.float64)))
            std = np.where(is_spread, moments.std, 1.0)
            self.std = nn.Parameter(torch.from_numpy(std), requires_grad=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return the embedded rows, rounded as those that the classifier was trained on."""
        if isinstance(self.embedding, L2):
            layers = [served.unit_rows(layer) for layer in features.split(self.widths, dim=1)]
            return torch.cat(layers, dim=1).float().double()
        if not isinstance(self.embedding, Standard):
            return features.float().double()
        z = (features - self.mean) / self.std * self.is_spread
        if isinstance(self.embedding, FNE):
            return (z > self.embedding.high).double() - (z < self.embedding.low).double()
        return z.float().double()


# ---------------------------------------------------------------- classifiers


def linear(fitted: FittedClassifier) -> nn.Module:
    """Return the graph of what scores rows by X·coefᵀ + intercept."""
    return served.LinearScores(fitted.model.coef_, fitted.model.intercept_)


def neighbours(fitted: FittedClassifier) -> nn.Module:
    """Return the graph of neighbours by Euclidean distance."""
    return _neighbours(fitted, fitted.model.weights)


def cosine_neighbours(fitted: FittedClassifier) -> nn.Module:
    """Return the graph of neighbours by angle."""
    return _neighbours(fitted, "cosine", fitted.model.temperature)


def _neighbours(fitted: FittedClassifier, weights: str, temperature: float = 1.0) -> nn.Module:
    model = fitted.model
    rows, origin, one_hot = model.training_rows()
    return served.NeighbourScores(rows, origin, one_hot, model.k, weights, temperature)


def nearest_mean(fitted: FittedClassifier) -> nn.Module:
    """Return the graph of the nearest class mean."""
    model = fitted.model
    if model.metric == "cosine":
        return served.MeanScores(model.means_, model.origin_, is_cosine=True)
    return served.MeanProducts(model.sums_, model.counts_)


def kernel(fitted: FittedClassifier) -> nn.Module:
    """Return the graph of a support vector machine with a kernel."""
    model = fitted.model
    weights, intercept = model.pair_weights()
    return served.KernelScores(
        model.support_vectors_,
        weights,
        intercept,
        classes=len(model.classes_),
        kernel=model.kernel,
        gamma=model.gamma_,
    )


GRAPHS: dict[str, Callable[[FittedClassifier], nn.Module]] = {
    "linear-svc": linear,
    "svc": kernel,
    "sgd": linear,
    "knn": neighbours,
    "knn-cosine": cosine_neighbours,
    "logistic": linear,
    "ridge": linear,
    "ridge-loo": linear,
    "lda": linear,
    "ncm": nearest_mean,
}
TRAIN, PER_SET = "train", "per-set"  # whose statistics standardise rows
NOT_SERVED = {"xgboost": "its trees are no arithmetic on arrays"}  # classifier → why


def check(spec: Mapping[str, object], others: Sequence[str] = (), remedy: str = "") -> None:
    """Raise UsageError for a trial of feature extraction whose model cannot be served.

    spec    its settings: classifier, embedding, standardize
    others  classifiers that could be served in its place, for the message
    remedy  what to type; default: to choose one of the others
    """
    name = str(spec.get("classifier", "")).partition(":")[0]
    if name in NOT_SERVED:
        raise UsageError(
            "export-classifier",
            f"a model with {name} cannot be exported: {NOT_SERVED[name]}",
            expected=f"one of {', '.join(others or GRAPHS)}",
            remedy=remedy or f"choose another with --classifier {(*others, *GRAPHS)[0]}",
        )
    if standardized_by(spec) == PER_SET:
        raise _not_alone()


def standardized_by(spec: Mapping[str, object]) -> str:
    """Return whose statistics standardise the rows of a trial: of the training rows, or PER_SET."""
    embedding: Any = parse_spec(EMBEDDINGS, str(spec.get("embedding", "fne")), "embedding")
    if "standardize" not in embedding.settings():
        return TRAIN
    given = (spec.get("standardize"), embedding.standardize)
    return PER_SET if PER_SET in given else TRAIN


def _not_alone() -> UsageError:
    return UsageError(
        "export-embedding",
        "with --standardize per-set an image is judged by the whole set it comes in, and such a "
        "model cannot be exported",
        expected="--standardize train, which judges each image alone",
        remedy="run the study again with --standardize train",
    )


def name_of(fitted: FittedClassifier) -> str:
    """Return the name of a fitted classifier in CLASSIFIERS."""
    return next(name for name, row in CLASSIFIERS.items() if row is type(fitted.spec))


def scores_of(fitted: FittedClassifier, classes: int) -> nn.Module:
    """Return the module (r, d) → (r, classes) of a classifier that reads features.

    Raises UsageError for one that is not served.
    """
    name = name_of(fitted)
    check({"classifier": name})
    if fitted.reads != "features":
        raise ValueError(f"{name} reads {fitted.reads}, and a graph has features only")
    head = GRAPHS[name](fitted)
    seen = np.asarray(fitted.classes)
    if len(seen) == classes:
        return head
    return served.AllColumns(head, seen, classes)


class FeatureBody(nn.Module):
    """Frozen network, embedding and classifier: normalised crops → scores (r, k) float64."""

    def __init__(self, features: nn.Module, embedding: nn.Module, head: nn.Module):
        super().__init__()
        self.features, self.embedding, self.head = features, embedding, head

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of every crop."""
        result: Any = self.head(self.embedding(self.features(x)))
        assert isinstance(result, Tensor)
        return result
