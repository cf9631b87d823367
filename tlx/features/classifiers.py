"""Classifiers of rows, one Spec each: CLASSIFIERS.

`fitting.fit` trains the estimators that they build.

scikit-learn estimators throughout (get_params, clone), imported where they are made: the table is
cheap to list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..errors import BadDataError, ResourceError, TlxError, counted
from ..spec import Spec, format_spec, parse_spec, setting

if TYPE_CHECKING:
    from .estimators import Estimator
    from .spans import Span


@dataclass(frozen=True, kw_only=True)
class Classifier(Spec):
    """Base of the rows of CLASSIFIERS.

    linear     its scores are X·coefᵀ + intercept, and an L2 penalty makes coef a mix of training
               rows
    isometric  it sees rows only through inner products and distances, so that any rotation of them
               will do
    pairs      and it can be given those, instead of rows
    dtype      what rows are converted to before it sees them
    """

    linear: ClassVar[bool] = False
    isometric: ClassVar[bool] = True
    pairs: ClassVar[bool] = False
    dtype: ClassVar[str] = "float64"

    def make(self, seed: int = 0) -> Estimator:
        """Build a new scikit-learn estimator with these settings.

        Raises ResourceError where it needs a package that is absent.
        """
        raise NotImplementedError

    def wants(self, X: np.ndarray, y: np.ndarray) -> TlxError | None:
        """Return what these rows (n, d), known to be finite, lack, if anything.

        y (n,) are their labels.
        """
        return None

    def in_span(self, span: Span) -> dict[str, object]:
        """Return settings under which a fit to coordinates equals a fit to the features."""
        return {}


C = setting(
    1.0,
    low=1e-6,
    high=1e6,
    log=True,
    help="weight of the errors against the penalty",
    search=(1e-4, 1e4),
)
TOL = "change at which the solver stops"


@dataclass(frozen=True, kw_only=True)
class LinearSVC(Classifier):
    """Linear support vector machine, one class against the rest (liblinear).

    The intercept is penalised like a weight.
    """

    kind: ClassVar[str] = "linear-svc"

    linear: ClassVar[bool] = True
    C: float = C
    loss: str = setting("squared_hinge", choices=("squared_hinge", "hinge"))
    tol: float = setting(1e-4, low=1e-12, high=1, log=True, help=TOL, search=False)
    max_iter: int = setting(1000, low=1, help="passes over the rows at most")

    def make(self, seed: int = 0) -> Estimator:
        """Build the estimator."""
        from sklearn import svm

        estimator: Estimator = svm.LinearSVC(
            C=self.C,
            loss=self.loss,
            tol=self.tol,
            max_iter=self.max_iter,
            dual="auto",
            random_state=_state(seed),
        )
        return estimator

    def in_span(self, span: Span) -> dict[str, object]:
        """Return settings for a fit to coordinates."""
        return {
            "dual": True if len(span.coordinates) < span.width else "auto"
        }  # as "auto" does of the features


@dataclass(frozen=True, kw_only=True)
class SVC(Classifier):
    """Support vector machine with a kernel, every pair of classes (libsvm)."""

    kind: ClassVar[str] = "svc"

    C: float = C
    kernel: str = setting("rbf", choices=("rbf", "linear", "poly"), help="poly is of degree 3")
    gamma: float | None = setting(
        None,
        low=1e-9,
        high=1e3,
        log=True,
        help="kernel scale; none: 1 / (d · variance)",
        search=(1e-6, 10),
    )
    tol: float = setting(1e-3, low=1e-12, high=1, log=True, help=TOL, search=False)

    def make(self, seed: int = 0) -> Estimator:
        """Build the estimator."""
        from .estimators import KernelSvc

        gamma = "scale" if self.gamma is None else self.gamma
        return KernelSvc(
            C=self.C, kernel=self.kernel, gamma=gamma, tol=self.tol, random_state=_state(seed)
        )

    def in_span(self, span: Span) -> dict[str, object]:
        """Return settings for a fit to coordinates."""
        return {"gamma": span.gamma if self.gamma is None else self.gamma}


@dataclass(frozen=True, kw_only=True)
class SGD(Classifier):
    """Linear model trained by stochastic gradient descent, one class against the rest."""

    kind: ClassVar[str] = "sgd"

    linear: ClassVar[bool] = True
    loss: str = setting("hinge", choices=("hinge", "squared_hinge", "log_loss", "modified_huber"))
    alpha: float = setting(1e-4, low=1e-8, high=1, log=True, help="weight of the L2 penalty")
    tol: float = setting(
        5e-4,
        low=1e-12,
        high=1,
        log=True,
        help="improvement of the loss below which it stops",
        search=False,
    )
    max_iter: int = setting(1000, low=1, help="passes over the rows at most")

    def make(self, seed: int = 0) -> Estimator:
        """Build the estimator."""
        from sklearn.linear_model import SGDClassifier

        estimator: Estimator = SGDClassifier(
            loss=self.loss,
            alpha=self.alpha,
            tol=self.tol,
            max_iter=self.max_iter,
            random_state=_state(seed),
        )
        return estimator


@dataclass(frozen=True, kw_only=True)
class Knn(Classifier):
    """Vote of the k nearest training rows, by Euclidean distance."""

    kind: ClassVar[str] = "knn"

    pairs: ClassVar[bool] = True
    k: int = setting(1, low=1, high=200, log=True, help="how many neighbours vote")
    weights: str = setting(
        "uniform", choices=("uniform", "distance"), help="distance: a vote counts 1 / distance"
    )

    def make(self, seed: int = 0) -> Estimator:
        """Build the estimator."""
        from . import estimators

        return estimators.KnnClassifier(self.k, self.weights)

    def wants(self, X: np.ndarray, y: np.ndarray) -> TlxError | None:
        """Return what is missing if there are fewer rows than neighbours."""
        return _neighbours(self.k, len(X))


@dataclass(frozen=True, kw_only=True)
class CosineKnn(Classifier):
    """Vote of the k training rows of largest cosine, each with weight exp(cosine / temperature)."""

    kind: ClassVar[str] = "knn-cosine"

    pairs: ClassVar[bool] = True
    k: int = setting(
        10, low=1, high=200, log=True, help="how many neighbours vote; customary 10, 20, 100, 200"
    )
    temperature: float = setting(
        0.07, low=1e-3, high=10, log=True, help="the smaller, the more the nearest count"
    )

    def make(self, seed: int = 0) -> Estimator:
        """Build the estimator."""
        from . import estimators

        return estimators.CosineKnnClassifier(self.k, self.temperature)

    def wants(self, X: np.ndarray, y: np.ndarray) -> TlxError | None:
        """Return what is missing if there are fewer rows than neighbours."""
        return _neighbours(self.k, len(X))


@dataclass(frozen=True, kw_only=True)
class Logistic(Classifier):
    """Multinomial logistic regression with an L2 penalty (Newton's method).

    The intercept is free.
    """

    kind: ClassVar[str] = "logistic"

    linear: ClassVar[bool] = True
    C: float = C
    tol: float = setting(
        1e-8,
        low=1e-12,
        high=1,
        log=True,
        help="largest slope at which the solver stops",
        search=False,
    )
    max_iter: int = setting(1000, low=1, help="steps of the solver at most")

    def make(self, seed: int = 0) -> Estimator:
        """Build the estimator."""
        from . import estimators

        return estimators.NewtonLogistic(self.C, self.tol, self.max_iter)


@dataclass(frozen=True, kw_only=True)
class Ridge(Classifier):
    """Least squares to targets ±1 with an L2 penalty, in closed form.

    The intercept is free.
    """

    kind: ClassVar[str] = "ridge"

    linear: ClassVar[bool] = True
    alpha: float = setting(1.0, low=1e-6, high=1e6, log=True, help="weight of the penalty, λ")

    def make(self, seed: int = 0) -> Estimator:
        """Build the estimator."""
        from sklearn.linear_model import RidgeClassifier

        estimator: Estimator = RidgeClassifier(alpha=self.alpha)
        return estimator


@dataclass(frozen=True, kw_only=True)
class RidgeLeftOut(Classifier):
    """Ridge with the penalty, of a logarithmic grid, of least leave-one-out error."""

    kind: ClassVar[str] = "ridge-loo"

    linear: ClassVar[bool] = True
    low: float = setting(1e-3, low=1e-9, high=1e9, log=True, help="smallest λ", search=False)
    high: float = setting(1e6, low=1e-9, high=1e9, log=True, help="largest λ", search=False)
    steps: int = setting(
        19, low=1, high=1000, help="how many λ between them, ends included", search=False
    )

    @property
    def grid(self) -> list[float]:
        """Return the λ, ascending."""
        return [float(f"{alpha:.6g}") for alpha in np.geomspace(self.low, self.high, self.steps)]

    def make(self, seed: int = 0) -> Estimator:
        """Build the estimator."""
        from . import estimators

        return estimators.LeaveOneOutRidge(tuple(self.grid))


@dataclass(frozen=True, kw_only=True)
class Lda(Classifier):
    """Linear discriminant analysis, by SVD or with a shrunk covariance.

    The covariance is shrunk towards a multiple of the identity.
    """

    kind: ClassVar[str] = "lda"

    isometric: ClassVar[bool] = False
    shrinkage: float | None = setting(
        None, low=1e-6, high=1, help="share of the identity; none: SVD without shrinkage"
    )

    def make(self, seed: int = 0) -> Estimator:
        """Build the estimator."""
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        from . import estimators

        return (
            LinearDiscriminantAnalysis()
            if self.shrinkage is None
            else estimators.ShrunkLda(self.shrinkage)
        )

    def wants(self, X: np.ndarray, y: np.ndarray) -> TlxError | None:
        """Return what is missing for this solver, if anything."""
        classes, first, labels = np.unique(y, return_index=True, return_inverse=True)
        if any((row != X[first[label]]).any() for row, label in zip(X, labels, strict=True)):
            return None
        return BadDataError(
            "no-spread",
            f"the {len(X)} training rows of {len(classes)} classes do not differ within a class",
            expected="two different rows of some class",
            remedy="use more shots or crops, or --classifier ncm",
        )


@dataclass(frozen=True, kw_only=True)
class NearestMean(Classifier):
    """Class whose mean is nearest."""

    kind: ClassVar[str] = "ncm"

    pairs: ClassVar[bool] = True
    metric: str = setting("euclidean", choices=("euclidean", "cosine"))

    def make(self, seed: int = 0) -> Estimator:
        """Build the estimator."""
        from . import estimators

        return estimators.NearestMeanClassifier(self.metric)


@dataclass(frozen=True, kw_only=True)
class XGBoost(Classifier):
    """Gradient-boosted trees (the extra tlx[xgboost])."""

    kind: ClassVar[str] = "xgboost"

    isometric: ClassVar[bool] = False
    dtype: ClassVar[str] = "float32"
    n_estimators: int = setting(100, low=1, high=5000, log=True, help="rounds of boosting")
    max_depth: int = setting(6, low=1, high=20, help="levels of a tree at most")
    learning_rate: float = setting(
        0.3, low=1e-3, high=1, log=True, help="share of each tree that is added"
    )

    def make(self, seed: int = 0) -> Estimator:
        """Build the estimator."""
        from .estimators import Encoded

        try:
            import xgboost
        except ImportError as error:
            raise ResourceError(
                "package",
                "gradient boosting needs the package xgboost, which is not installed",
                remedy="pip install 'tlx[xgboost]'",
            ) from error
        return Encoded(
            xgboost.XGBClassifier(
                n_estimators=self.n_estimators,
                max_depth=self.max_depth,
                learning_rate=self.learning_rate,
                random_state=_state(seed) >> 1,
                tree_method="hist",
                n_jobs=1,
            )
        )


CLASSIFIERS: dict[str, type[Classifier]] = {
    "linear-svc": LinearSVC,
    "svc": SVC,
    "sgd": SGD,
    "knn": Knn,
    "knn-cosine": CosineKnn,
    "logistic": Logistic,
    "ridge": Ridge,
    "ridge-loo": RidgeLeftOut,
    "lda": Lda,
    "ncm": NearestMean,
    "xgboost": XGBoost,
}
ALIASES = {
    "LinearSVC": "linear-svc",
    "SVC": "svc",
    "SGDClassifier": "sgd",
    "KNN": "knn:k=5",
    "XGBoost": "xgboost",
}


def classifier(text: str) -> Classifier:
    """Return the spec of "linear-svc:C=0.1", or of one of the original's spellings.

    ALIASES maps those to their settings.
    """
    name, _, options = text.partition(":")
    name, _, given = ALIASES.get(name, name).partition(":")
    settings = ",".join(
        filter(None, (given, options))
    )  # a setting given twice: the last one counts
    spec = parse_spec(CLASSIFIERS, f"{name}:{settings}" if settings else name, "classifier")
    assert isinstance(spec, Classifier)
    return spec


def format_classifier(spec: Classifier) -> str:
    """Return the text that `classifier` reads: "linear-svc:C=0.1"."""
    name = next(name for name, row in CLASSIFIERS.items() if row is type(spec))
    return format_spec(name, spec)


def _state(seed: int) -> int:
    return seed % 2**32


def _neighbours(k: int, rows: int) -> TlxError | None:
    return (
        None
        if k <= rows
        else BadDataError(
            "too-few-neighbours",
            f"{counted(k, 'neighbour')} asked of {rows} training rows",
            expected=f"k at most {rows}",
            remedy="lower k, or use more shots or crops",
        )
    )
