"""Metrics of one layer, one row each: LAYER_METRICS.

`tlx analyze` and `tlx atlas` compute, name and draw metrics through this table. It is read without
loading numpy: functions load what they need.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from ..errors import BadDataError

if TYPE_CHECKING:
    import numpy as np

    from ..features.sharded import LayerArray
    from ..metrics.class_contrast import ClassContrast
    from ..metrics.dimension_spread import Resampled
    from ..metrics.sum_of_squares import SumOfSquares

DISSIMILARITY = "dissimilarity"  # unit that depends on the kind of the RDM: see DISSIMILARITY_UNITS
DISSIMILARITY_UNITS = {
    "correlation": "1 − r",
    "cosine": "1 − cosine",
    "euclidean": "Euclidean distance",
    "sqeuclidean": "squared Euclidean distance",
}  # kind of RDM → unit of its dissimilarities; the kinds are SciPy's names, rows of metrics.rsa
DISSIMILARITIES = tuple(DISSIMILARITY_UNITS)  # as options list them

COPIED = 3 << 28  # bytes of rows that are taken out of a larger layer: those are two copies

NOT_NEGATIVE, FRACTION = (0.0, math.inf), (0.0, 1.0)  # bounds
NEAR = 0.01  # a row nearer to its neighbour than this share of the usual distance is a near copy
NEAR_SHARE = 0.01  # of the rows: fewer near copies change an intrinsic dimension little

Shared = TypeVar("Shared")


@dataclass(frozen=True)
class MeasureSettings:
    """Settings of the metrics: kind of RDM, resamplings and their share of the rows, seed.

    ratio_fraction   share of the TwoNN ratios that is fitted
    """

    rdm: str
    resamplings: int
    fraction: float
    seed: int
    ratio_fraction: float


class LayerRows:
    """Activations of one layer with their labels, and what several metrics need, computed once.

    x (n, d), labels (n,): all rows. few, few_labels: those that are compared with each other.
    """

    def __init__(
        self,
        x: LayerArray,
        labels: np.ndarray,
        settings: MeasureSettings,
        compared: np.ndarray | None = None,
    ):
        import numpy as np

        self.x, self.labels, self.settings = x, labels, settings
        if compared is not None and len(compared) < len(x):
            self.few, self.few_labels = np.asarray(x[compared]), labels[compared]
        else:
            self.few, self.few_labels = np.asarray(x), labels  # shards become one array
        self._results: dict[str, object] = {}

    def shared(self, name: str, compute: Callable[[], Shared]) -> Shared:
        """Return a result, computed at the first call; a refusal of the data is kept as well."""
        if name not in self._results:
            try:
                self._results[name] = compute()
            except BadDataError as error:
                self._results[name] = error
        result = self._results[name]
        if isinstance(result, BadDataError):
            raise result
        return result  # type: ignore[return-value]

    def squares(self) -> SumOfSquares:
        """Return the sums of squares of all rows."""
        from .. import metrics

        return self.shared("squares", lambda: metrics.sum_of_squares(self.x, self.labels))

    def rdm(self) -> np.ndarray:
        """Return the dissimilarities of every two compared rows, condensed."""
        from .. import metrics

        return self.shared(
            "rdm",
            lambda: metrics.rdm(
                self.few, metric=self.settings.rdm, condensed=True, dtype="float32"
            ),
        )

    def contrast(self) -> ClassContrast:
        """Return the contrast of the classes in the RDM."""
        from .. import metrics

        return self.shared("contrast", lambda: metrics.class_contrast(self.rdm(), self.few_labels))

    def dimension(self) -> Resampled:
        """Return the intrinsic dimension of the compared rows and of random parts of them."""
        from .. import metrics

        def compute() -> Resampled:
            settings = self.settings
            return metrics.intrinsic_dimension_resampled(
                self.few,
                settings.resamplings,
                settings.fraction,
                settings.seed,
                method=f"twonn:fraction={settings.ratio_fraction}",
            )

        return self.shared("dimension", compute)

    def classes(self) -> np.ndarray:
        """Return the classes of the compared rows, a column each: (n, k) float32, 0 or 1."""
        import numpy as np

        def compute() -> np.ndarray:
            columns: np.ndarray = self.few_labels[:, None] == np.unique(self.few_labels)
            return columns.astype(np.float32)

        return self.shared("classes", compute)

    def notes(self) -> list[str]:
        """Return how the numbers are computed, where it is not in one piece."""
        return []

    def label_cka(self) -> float:
        """Return the linear CKA of the compared rows with their classes."""
        from .. import metrics

        return metrics.cka(self.few, self.classes(), unbiased=True)

    def part(self, index: np.ndarray, by_inner_products: bool) -> LayerRows:
        """Return some of the compared rows, (m,) ascending, as a layer of their own.

        by_inner_products: with coordinates of few columns in the place of the activations.
        """
        return LayerPart(self, index, by_inner_products)

    def coordinates(self) -> np.ndarray:
        """Return coordinates of few columns with the inner products of the compared rows."""
        import numpy as np

        from ..metrics.coordinates import coordinates

        def compute() -> np.ndarray:
            return coordinates(self.few) if np.ptp(self.few) > 0 else self.few

        return self.shared("coordinates", compute)

    def square_rdm(self) -> np.ndarray:
        """Return the RDM as a matrix (n, n)."""
        from scipy.spatial.distance import squareform

        return self.shared("square_rdm", lambda: squareform(self.rdm()))


class LayerPart(LayerRows):
    """Some rows of a layer; dissimilarities and classes are taken from the whole."""

    def __init__(self, whole: LayerRows, index: np.ndarray, by_inner_products: bool):
        self.whole, self.index, self._by_inner_products = whole, index, by_inner_products
        self.settings = whole.settings
        self.labels = self.few_labels = whole.few_labels[index]
        self._results = {}

    @property
    def x(self) -> np.ndarray:  # type: ignore[override]
        """Return the rows, read when a metric first needs them."""
        rows = self.whole.coordinates() if self._by_inner_products else self.whole.few
        return self.shared("x", lambda: rows[self.index])

    few = x

    def rdm(self) -> np.ndarray:
        """Return the dissimilarities of these rows, as they are in the whole."""
        import numpy as np
        from scipy.spatial.distance import squareform

        def compute() -> np.ndarray:
            square = self.whole.square_rdm()[np.ix_(self.index, self.index)]
            result: np.ndarray = squareform(square, checks=False)
            return result

        return self.shared("rdm", compute)

    def classes(self) -> np.ndarray:
        """Return the classes of these rows, with a column for every class of the whole."""
        columns: np.ndarray = self.whole.classes()[self.index]
        return columns


def thinned(labels: np.ndarray, most: int) -> np.ndarray:
    """Return at most so many rows, evenly spaced by class: (m,) ascending.

    In the order of their classes, which are thinned alike.
    """
    import numpy as np

    if len(labels) <= most:
        return np.arange(len(labels))
    by_class = np.argsort(labels, kind="stable")
    return np.sort(by_class[np.linspace(0, len(labels) - 1, most).round().astype(np.int64)])


def fitting_copy(x: LayerArray) -> int:
    """Return how many rows (of x, of two dimensions) may be taken out of a layer."""
    row_bytes: int = x.itemsize * x.shape[1]
    return max(2, COPIED // row_bytes)


# ---------------------------------------------------------------- the functions that need more


def _likelihood(layer: LayerRows) -> float:
    from ..metrics.intrinsic_dimension import estimator

    distances = layer.dimension().distances  # nothing is searched again
    method = estimator("twonn-mle", layer.settings.ratio_fraction)
    return float(method.estimate(distances).dimension)


def _fit_r(layer: LayerRows) -> float:
    r = layer.dimension().whole.r
    return math.nan if r is None else r


def _label_similarity(layer: LayerRows) -> float:
    from .. import metrics

    model = metrics.model_rdm(layer.few_labels)
    return float(metrics.compare_rdms(layer.rdm(), model, method="spearman"))


def near_copies(nearest: np.ndarray) -> int:
    """Return how many rows are near copies of another.

    A near copy is far nearer to another row than the median row is to its nearest neighbour; where
    most rows are copies, than the largest of these distances.

    nearest   (n,) distances to the nearest other row
    """
    import numpy as np

    usual = float(np.median(nearest))
    if usual <= NEAR * float(nearest.max()):
        usual = float(nearest.max())
    return int((nearest < NEAR * usual).sum())


def _copies_note(layer: LayerRows) -> str:
    distances = layer.dimension().distances
    copies = near_copies(distances[:, 0])
    if copies <= NEAR_SHARE * len(distances):
        return ""
    return (
        f"{copies} of {len(distances)} rows are near copies of another (nearer than {NEAR:.0%} of "
        "the usual distance): the intrinsic dimension is that of the copying, not of the images; "
        "remove near copies"
    )


# ---------------------------------------------------------------- the table


@dataclass(frozen=True)
class AtlasPanel:
    """Panel of a metric in the atlas: its name there, title of its axis, label of its line.

    "{unit}" in the title stands for the metric's unit.
    """

    name: str
    title: str
    line: str = "source network"


@dataclass(frozen=True, kw_only=True)
class LayerMetric:
    """Metric of one layer.

    function           layer → number; NaN where nothing varies. Raises BadDataError where the rows
                       have no such number
    unit, meaning      for axes and documentation; more: what no axis shows
    bounds             smallest and largest value, where intervals end
    in_atlas           its panel in the atlas, if it has one
    correlated         with the transfer performance, by tlx checkpoints
    shown              drawn over the layers without being asked for, and on the study's MLflow run
    spread_of          metric whose spread it is; such a column is not drawn by itself
    by_inner_products  it depends on the inner products of the rows about their mean alone, so that
                       parts are measured on few coordinates
    parts              layer → (estimates on random parts, rows of a part), where these come with
                       the metric; None: the function is called for each part
    note               layer → caution about the number, or ""
    """

    function: Callable[[LayerRows], float]
    unit: str
    meaning: str
    more: str = ""
    bounds: tuple[float, float] = (-math.inf, math.inf)
    in_atlas: AtlasPanel | None = None
    correlated: bool = False
    shown: bool = False
    spread_of: str = ""
    by_inner_products: bool = False
    parts: Callable[[LayerRows], tuple[np.ndarray, int]] | None = field(default=None)
    note: Callable[[LayerRows], str] | None = field(default=None)

    def unit_for(self, rdm: str) -> str:
        """Return its unit where the RDM is of this kind."""
        return DISSIMILARITY_UNITS.get(rdm, rdm) if self.unit == DISSIMILARITY else self.unit


LAYER_METRICS: dict[str, LayerMetric] = {  # in the order of the table's columns
    "ss_within": LayerMetric(
        function=lambda layer: layer.squares().within,
        unit="squared activation",
        meaning="sum of squares within classes",
        bounds=NOT_NEGATIVE,
        by_inner_products=True,
    ),
    "ss_between": LayerMetric(
        function=lambda layer: layer.squares().between,
        unit="squared activation",
        meaning="sum of squares between classes",
        bounds=NOT_NEGATIVE,
        by_inner_products=True,
    ),
    "ss_total": LayerMetric(
        function=lambda layer: layer.squares().total,
        unit="squared activation",
        meaning="total sum of squares",
        bounds=NOT_NEGATIVE,
        by_inner_products=True,
    ),
    "ss_ratio": LayerMetric(
        function=lambda layer: layer.squares().ratio,
        unit="fraction",
        meaning="within / total sum of squares",
        bounds=FRACTION,
        in_atlas=AtlasPanel("ss_ratio", "SSW / TSS\n({unit})"),
        correlated=True,
        shown=True,
        by_inner_products=True,
    ),
    "id": LayerMetric(
        function=lambda layer: layer.dimension().mean,
        unit="dimensions",
        meaning="intrinsic dimension, TwoNN",
        more="mean over resamplings of the rows",
        bounds=NOT_NEGATIVE,
        correlated=True,
        shown=True,
        note=_copies_note,
    ),
    "id_std": LayerMetric(
        function=lambda layer: layer.dimension().std,
        unit="dimensions",
        meaning="spread of id",
        more="population standard deviation over the resamplings",
        bounds=NOT_NEGATIVE,
        spread_of="id",
    ),
    "id_all": LayerMetric(
        function=lambda layer: layer.dimension().whole.dimension,
        unit="dimensions",
        meaning="intrinsic dimension, TwoNN, all rows",
        bounds=NOT_NEGATIVE,
        in_atlas=AtlasPanel("id", "Intrinsic dim.\n(TwoNN)"),
        parts=lambda layer: (layer.dimension().values, layer.dimension().rows),
    ),
    "id_r": LayerMetric(
        function=_fit_r,
        unit="r",
        meaning="Pearson's r of the TwoNN fit",
        bounds=(-1.0, 1.0),
    ),
    "id_mle": LayerMetric(
        function=_likelihood,
        unit="dimensions",
        meaning="intrinsic dimension, TwoNN, likelihood",
        more="by maximum likelihood",
        bounds=NOT_NEGATIVE,
    ),
    "rsa_within": LayerMetric(
        function=lambda layer: layer.contrast().within,
        unit=DISSIMILARITY,
        meaning="mean dissimilarity within classes",
        bounds=NOT_NEGATIVE,
    ),
    "rsa_between": LayerMetric(
        function=lambda layer: layer.contrast().between,
        unit=DISSIMILARITY,
        meaning="mean dissimilarity between classes",
        bounds=NOT_NEGATIVE,
    ),
    "rsa_contrast": LayerMetric(
        function=lambda layer: layer.contrast().contrast,
        unit=DISSIMILARITY,
        meaning="class contrast, |within − between|",
        bounds=NOT_NEGATIVE,
        in_atlas=AtlasPanel("rsa_contrast", "RSA contrast\n({unit})"),
        correlated=True,
        shown=True,
    ),
    "rsa_label": LayerMetric(
        function=_label_similarity,
        unit="Spearman's ρ",
        meaning="likeness of the RDM to the classes' RDM",
        correlated=True,
        shown=True,
    ),
    "cka_label": LayerMetric(
        function=lambda layer: layer.label_cka(),
        unit="CKA",
        meaning="likeness to the classes, linear CKA",
        in_atlas=AtlasPanel("cka_label", "CKA\n(linear)", "to the labels"),
        correlated=True,
        shown=True,
        by_inner_products=True,
    ),
}
