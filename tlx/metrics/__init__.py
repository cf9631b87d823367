"""Measures of representations, from arrays, maps or layers of dumps to plain results.

No platform is needed.

    from tlx import metrics

    rdm = metrics.rdm(x)                                  # x (n, d): 1 − r of every two rows,
      condensed
    metrics.class_contrast(rdm, labels).contrast
    metrics.sum_of_squares(x, labels).ratio
    metrics.intrinsic_dimension(x).dimension

Results are float64 with named fields. A wrong input raises tlx.errors.BadDataError, UsageError or
ResourceError with what was found and what was expected; NaN or infinity is always an error, never a
number.
"""

from .cka import cka, cka_matrix
from .class_contrast import class_contrast, model_rdm
from .comparison import compare_all, compare_rdms
from .dimension_spread import block_analysis, intrinsic_dimension_resampled
from .domain_gap import domain_gap, intra_class_variance, regression_row
from .intrinsic_dimension import intrinsic_dimension, scale_scan
from .mds import mds
from .neighbours import nearest_distances, nearest_neighbours
from .parameter_distance.distance import parameter_distance
from .rdm_files import read_rdms, write_rdms
from .regression import transferability_regression, transferability_table
from .resampling import bootstrap, bootstrap_all
from .rsa import rdm
from .sum_of_squares import sum_of_squares
from .transfer_performance import (
    fisher_band,
    metric_correlations,
    permutation_band,
    transfer_performance,
)

__all__ = [
    "block_analysis",
    "bootstrap",
    "bootstrap_all",
    "cka",
    "cka_matrix",
    "class_contrast",
    "compare_all",
    "compare_rdms",
    "domain_gap",
    "fisher_band",
    "intra_class_variance",
    "intrinsic_dimension",
    "intrinsic_dimension_resampled",
    "mds",
    "metric_correlations",
    "model_rdm",
    "nearest_distances",
    "nearest_neighbours",
    "parameter_distance",
    "permutation_band",
    "rdm",
    "read_rdms",
    "regression_row",
    "scale_scan",
    "sum_of_squares",
    "transfer_performance",
    "transferability_regression",
    "transferability_table",
    "write_rdms",
]
