"""Figures of stored studies, drawn again from the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ..errors import UnknownNameError
from ..lab.records import StoredStudy
from ..lab.store import Store
from ..result import Result
from . import drawings, reporting
from .atlas import report as atlas_report
from .checkpoints import report as checkpoints_report
from .chop import pruning_report
from .chop import report as chop_report
from .compare import report as compare_report
from .drawings import Drawings
from .evaluate import report as evaluate_report
from .layer_metrics import report as layer_metrics_report
from .layer_transfer import report as layer_transfer_report
from .parameter_distance import report as parameter_distance_report
from .quanta import report as quanta_report
from .scores import report as scores_report
from .tuning import report as tuning_report

STUDIES: Mapping[
    str, Callable[[Store, StoredStudy], Drawings]
] = {  # experiment → figures of a study
    "Fine-tuning": reporting.study_drawings,
    "Feature extraction": reporting.study_drawings,
    "Pre-training": reporting.study_drawings,
    "Layer metrics": layer_metrics_report.study_drawings,
    "Atlas": atlas_report.study_drawings,
    "Tuning": tuning_report.study_drawings,
    "QUANTA": quanta_report.study_drawings,
    "Layer transfer": layer_transfer_report.study_drawings,
    "Chop": chop_report.chop_drawings,
    "Pruning": pruning_report.pruning_drawings,
    "Parameter distance": parameter_distance_report.study_drawings,
    "Checkpoints": checkpoints_report.study_drawings,
    "Compare": compare_report.study_drawings,
    "Scores": scores_report.study_drawings,
    "Evaluation": evaluate_report.study_drawings,
}
TRIALS: Mapping[
    str, Callable[[Path, Result], Drawings]
] = {  # kind of a result → figures of a trial; others have none
    "fine-tuning": reporting.trial_drawings,
    "feature-extraction": reporting.trial_drawings,
    "pretraining": reporting.trial_drawings,
    "evaluation": reporting.trial_drawings,
    "target-tuning": reporting.trial_drawings,
    "layer-transfer": reporting.trial_drawings,
    "chop": reporting.trial_drawings,
    "pruning": reporting.trial_drawings,
    "quanta": quanta_report.trial_drawings,
    "layer-metrics": layer_metrics_report.trial_drawings,
    "parameter-distance": parameter_distance_report.trial_drawings,
}


def redraw(store: Store, key: str, out: Path, form: str) -> Iterator[Path]:
    """Write the figures of a study into `out`; yield each path.

    Those of its trials go into `out`/trials/<key>.

    Every file that figures are made from is checked first: IntegrityError for a damaged one.
    """
    study = store.read_study(key)
    assert study is not None
    draw = STUDIES.get(study["experiment"])
    if draw is None:
        raise UnknownNameError("kind of study", study["experiment"], STUDIES)
    store.study_files(key)
    yield from drawings.write(out, draw(store, study), form)
    for row in study["trials"]:
        result = store.find(row["key"])
        if result is None or result.kind not in TRIALS:
            continue
        store.trial_files(result.key)
        trial_figures = TRIALS[result.kind](store.folder(result.key), result)
        yield from drawings.write(out / "trials" / result.key[:12], trial_figures, form)
