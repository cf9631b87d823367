"""Settings of feature extraction: one classifier on one draw, and the classifiers of a study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...spec import Spec, setting, split_words
from ..few_shot import FewShotTrial, split_params

if TYPE_CHECKING:
    pass


EXPERIMENT = "Feature extraction"


@dataclass(frozen=True, kw_only=True)
class FeatureExtraction(FewShotTrial):
    """One classifier on the features of one few-shot split."""

    kind: ClassVar[str] = "feature-extraction"

    layers: tuple[str, ...] = setting(
        (),
        help="layers by name or block number, comma-separated, or a set: blocks (all of "
        "them), last, model_25, model_50, model_75, model_100. Default: blocks",
    )
    model_description: str | None = setting(
        None, identity=False, help="JSON of the original study that names the layers"
    )
    reduce: str = setting(
        "pooled",
        choices=("pooled", "flat", "first-token"),
        help="what is kept of a layer: its spatial "
        "mean, everything, or a transformer's class token",
    )
    embedding: str = setting(
        "fne",
        help="fne (standardised, then −1, 0 or 1), standard, l2 (each layer of length 1) or "
        "none; with settings as fne:low=-0.25,high=0.15",
    )
    standardize: str = setting(
        "train",
        choices=("train", "per-set"),
        only_with={"embedding": ("fne", "standard")},
        help="statistics of the training rows, or of each "
        "set its own, as the original study did (it sees all test images at once)",
    )
    fold: bool = setting(
        True, help="fold batch norm into the convolutions while extracting: faster, other last bits"
    )
    precision: str = setting(
        "float32", choices=("float32", "bfloat16"), help="arithmetic of the forward pass"
    )
    dtype: str = setting(
        "float32", choices=("float32", "float16"), help="numbers kept of the activations"
    )
    log_model: bool = setting(
        False, help="keep embedding and classifier as a scikit-learn Pipeline, a model of the run"
    )
    classifier: str = setting("linear-svc", cli=False, help="which classifier, with its settings")

    @property
    def group(self) -> str:
        """Return the key of the trials that share an embedding: all classifiers of a draw."""
        return self.replace(classifier=FeatureExtraction.defaults()["classifier"]).key

    @property
    def run_name(self) -> str:
        """Return the name of its run."""
        return f"{self.title}, {self.classifier}"

    def mlflow_params(self) -> dict[str, object]:
        """Return the settings under the original study's names in MLflow."""
        return {
            "Model": self.model or self.architecture,
            "Dataset": self.dataset,
            "Using crops": self.use_crops,
            "Crops path": self.precomputed_crops or "-",
            "Samples per class": self.shots,
            "Model selection": self.model_selection,
            "Split": self.split,
            **split_params(self),
            "Model description": self.model_description or "-",
            "Extracted layers": ", ".join(self.layers),
            "Classifier": self.classifier,
            **_tolerance(self.classifier),
        }


def _tolerance(text: str) -> dict[str, object]:
    """Return the tolerance of SGDClassifier, which the original study logs; of others nothing."""
    from ...features.classifiers import SGD, classifier

    chosen = classifier(text)
    return {"tol": chosen.tol} if isinstance(chosen, SGD) else {}


@dataclass(frozen=True, kw_only=True)
class FeatureExtractionGrid(Spec):
    """Classifiers that a study tries on the same features."""

    kind: ClassVar[str] = "feature-extraction-grid"

    classifier: str = setting(
        "linear-svc",
        help="classifiers with their settings, separated by spaces or commas: "
        "'linear-svc:C=0.1 knn:k=5'; or all: linear-svc, svc, sgd, knn, knn-cosine, logistic, "
        "ridge, ridge-loo, lda, ncm",
    )

    @property
    def classifiers(self) -> list[str]:
        """Return each classifier once, in its canonical text.

        Raises UnknownNameError or UsageError for a wrong one.
        """
        from ...features.classifiers import CLASSIFIERS, classifier, format_classifier

        words = (
            [name for name in CLASSIFIERS if name != "xgboost"]
            if self.everything
            else split_words(self.classifier)
        )
        return list(dict.fromkeys(format_classifier(classifier(word)) for word in words))

    @property
    def everything(self) -> bool:
        """Return whether all classifiers are meant.

        Those that a draw is too small for are then left out, not failed.
        """
        return self.classifier == "all"
