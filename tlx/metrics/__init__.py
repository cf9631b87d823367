"""Measures of representations, from arrays, maps or layers of dumps to plain results.

No platform is needed.

    from tlx import metrics

    rdm = metrics.rdm(x)                                  # x (n, d): 1 − r of every two rows,
      condensed
    metrics.class_contrast(rdm, labels).contrast
    metrics.sum_of_squares(x, labels).ratio
    metrics.intrinsic_dimension(x).dimension

Each function is loaded when it is first used, as some need kernels that take a second to load.
Results are float64 with named fields. A wrong input raises tlx.errors.BadDataError, UsageError or
ResourceError with what was found and what was expected; NaN or infinity is always an error, never a
number.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .blocks.over import over
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

SOURCES = {  # function → the module that has it
    "block_analysis": "dimension_spread",
    "bootstrap": "resampling",
    "bootstrap_all": "resampling",
    "cka": "cka",
    "cka_matrix": "cka",
    "class_contrast": "class_contrast",
    "compare_all": "comparison",
    "compare_rdms": "comparison",
    "domain_gap": "domain_gap",
    "fisher_band": "transfer_performance",
    "intra_class_variance": "domain_gap",
    "intrinsic_dimension": "intrinsic_dimension",
    "intrinsic_dimension_resampled": "dimension_spread",
    "mds": "mds",
    "metric_correlations": "transfer_performance",
    "model_rdm": "class_contrast",
    "nearest_distances": "neighbours",
    "nearest_neighbours": "neighbours",
    "over": "blocks.over",
    "parameter_distance": "parameter_distance.distance",
    "permutation_band": "transfer_performance",
    "rdm": "rsa",
    "read_rdms": "rdm_files",
    "regression_row": "domain_gap",
    "scale_scan": "intrinsic_dimension",
    "sum_of_squares": "sum_of_squares",
    "transfer_performance": "transfer_performance",
    "transferability_regression": "regression",
    "transferability_table": "regression",
    "write_rdms": "rdm_files",
}
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
    "over",
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


class _Functions(ModuleType):
    """Package whose functions are loaded on first use, also those with the name of a module.

    Importing the module `cka` sets an attribute of that name, which would hide the function.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in SOURCES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in SOURCES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        function = getattr(importlib.import_module(f"{__name__}.{SOURCES[name]}"), name)
        self.__dict__[name] = function
        return function

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *SOURCES})


sys.modules[__name__].__class__ = _Functions
