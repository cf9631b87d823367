"""Trial: domain gap G, intra-class variance D and number N of a target's images.

They are measured in the features of the pre-trained network, and the transferability of a network
to a data set is regressed on them (tlx.metrics.regression). What the published G and D were is not
on record, so each result names its own: the method of G, the layer, the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ...result import Result
from ...spec import Spec, setting

if TYPE_CHECKING:
    from ...features.dump import Dump
    from ..base import TrialContext

FEATURES = "features of the last block before the head, averaged over the image"


@dataclass(frozen=True, kw_only=True)
class Domain(Spec):
    """Gap of one target: its training images against images of the source.

    In the features of a network.
    """

    kind: ClassVar[str] = "domain-gap"

    gap: str = setting("frechet", cli=False)
    features: str = setting("", cli=False, help="key of the dump of the target's images")
    labels: str = setting("", cli=False, help="digest of their labels")
    source_features: str = setting(
        "", cli=False, help="the same of the source's images; empty: no gap"
    )
    target: str = setting("", identity=False, cli=False)
    architecture: str = setting("", identity=False, cli=False)
    source: str = setting("", identity=False, cli=False)
    images: str = setting("", identity=False, cli=False, help="digest of the target's images")

    @property
    def shots(self) -> int:
        """Return 0: all images."""
        return 0

    @property
    def split(self) -> int:
        """Return 0: there is one of a target."""
        return 0

    @property
    def title(self) -> str:
        """Return a short name of this trial among its siblings."""
        return f"images of {self.target}" + (f" against {self.source}" if self.source else "")

    @property
    def run_name(self) -> str:
        """Return the name of its run."""
        return self.title

    def mlflow_params(self) -> dict[str, object]:
        """Return the settings under the names that MLflow shows."""
        return {
            "Architecture": self.architecture,
            "Target": self.target,
            "Source images": self.source or "-",
            "Gap": self.gap if self.source else "-",
        }


@dataclass(frozen=True)
class TwoDomains:
    """Dumps of one layer: on the target's training images, and on the source's (or None)."""

    target: Dump
    source: Dump | None = None


def run(spec: Domain, inputs: TwoDomains, context: TrialContext) -> Result:
    """Compute G (where there are images of the source), D and N."""
    from ... import metrics

    (layer,) = inputs.target.layers
    x, labels = inputs.target.array(layer), inputs.target.row_labels()
    spread = metrics.intra_class_variance(x, labels)
    scores = {
        "intra_class_variance": spread.variance,
        "intra_class_variance_per_classes": spread.variance_per_classes,
        "images": float(spread.n),
        "classes": float(len(set(labels.tolist()))),
    }
    details: dict[str, Any] = {
        "target": spec.target,
        "architecture": spec.architecture,
        "layer": layer,
        "features": FEATURES,
        "width": int(x[0].size),
        "D": spread.variance,
        "N": spread.n,
        "G": None,
        "source": spec.source,
        "gap": None,
        "source_rows": 0,
        "notes": [
            f"class '{name}' has one image, which shows no variance: left out of D"
            for name in spread.left_out
        ],
    }
    if inputs.source is not None:
        gap = metrics.domain_gap(inputs.source.array(layer), x, spec.gap)
        scores["domain_gap"] = gap.gap
        details |= {"G": gap.gap, "gap": gap.method, "source_rows": gap.n_x}
    return Result.of(
        spec,
        scores=scores,
        details=details,
        made_from={"features": spec.features}
        | ({"source": spec.source_features} if spec.source else {}),
    )
