"""Studies of tlx, one row each: a folder with settings, plan, trial, report and figures.

Importing this module loads declarations only; what a study needs is loaded when it runs.
"""

from __future__ import annotations

from .atlas.study import AtlasStudy
from .base import Stage, Study, StudyReport
from .checkpoints.study import CheckpointsStudy
from .chop.study import ChopStudy, PruningStudy
from .compare.study import CompareStudy
from .evaluate.study import EvaluateStudy
from .feature_extraction.study import FeatureExtractionStudy
from .fine_tuning.study import FineTuningStudy
from .layer_metrics.study import LayerMetricsStudy
from .layer_transfer.study import LayerTransferStudy
from .parameter_distance.study import ParameterDistanceStudy
from .pretraining.study import PretrainingStudy
from .quanta.study import QuantaStudy
from .scores.study import ScoresStudy
from .session import Session, run_study
from .tuning.study import TuningStudy

__all__ = ["STUDIES", "Session", "Stage", "Study", "StudyReport", "run_study"]

STUDIES: dict[str, type[Study]] = {
    study.name: study
    for study in (
        CompareStudy,
        ScoresStudy,
        FeatureExtractionStudy,
        FineTuningStudy,
        TuningStudy,
        LayerMetricsStudy,
        AtlasStudy,
        QuantaStudy,
        LayerTransferStudy,
        ChopStudy,
        PruningStudy,
        ParameterDistanceStudy,
        CheckpointsStudy,
        PretrainingStudy,
        EvaluateStudy,
    )
}
