"""Settings of transferability scores: one source, and the sources of a study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...spec import Spec, setting, setting_of
from ..few_shot import FewShotTrial
from ..source_list import source_label

EXPERIMENT = "Scores"
ALL_IMAGES = 0  # in place of shots: every training image, at most --pool-images of a class
SORT_BY = (  # rows of metrics.scores.SCORES
    *("1-nn", "ridge", "logme", "leep", "nce", "n-leep", "h-score"),
    *("transrate", "gbc", "parc"),
)


@dataclass(frozen=True, kw_only=True)
class SourceScores(FewShotTrial):
    """Every score of one source, on every draw and on all training images."""

    kind: ClassVar[str] = "source-scores"

    use_crops: bool = setting_of(
        FewShotTrial,
        "use_crops",
        False,
        help="ten crops an image, whose features are averaged; else the whole image, once",
    )
    layers: tuple[str, ...] = setting(
        ("last",),
        help="layers by name or block number, comma-separated: the features. Default: the last "
        "block before the head",
    )
    reduce: str = setting(
        "pooled",
        choices=("pooled", "flat", "first-token"),
        help="what is kept of a layer: its spatial mean, everything, or a transformer's class "
        "token",
    )
    pool_images: int = setting(
        100, low=2, help="training images of a class that the scores of all images are made from"
    )
    model_selection: bool = setting_of(FewShotTrial, "model_selection", cli=False)
    vote: str = setting_of(FewShotTrial, "vote", cli=False)

    @property
    def title(self) -> str:
        """Return a short name of this trial among its siblings."""
        return source_label({"architecture": self.architecture, "model": self.model})

    def mlflow_params(self) -> dict[str, object]:
        """Return the settings that MLflow shows."""
        return {
            "Model": self.model or self.architecture,
            "Dataset": self.dataset,
            "Using crops": self.use_crops,
            "Extracted layers": ", ".join(self.layers),
        }


@dataclass(frozen=True, kw_only=True)
class ScoresGrid(Spec):
    """Sources of a study, and how they are listed."""

    kind: ClassVar[str] = "scores-grid"

    sources: tuple[str, ...] = setting(
        (),
        help="backbones to score, comma-separated, each with its own weights or with a file of "
        "weights, as NAME=FILE; a backbone may have several. Default: the one of --architecture",
    )
    at: int | None = setting(
        None,
        low=ALL_IMAGES,
        help="training images per class that the table is for; 0: all of them. Default: the most",
    )
    sort_by: str = setting("1-nn", choices=SORT_BY, help="score that the sources are sorted by")
