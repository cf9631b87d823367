"""Settings of a comparison of feature extraction and fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...errors import UsageError, counted
from ...models.tune_choices import format_tune, parse_tune
from ...spec import Spec, setting, setting_of, split_words
from ..feature_extraction.spec import FeatureExtractionGrid
from ..few_shot import FewShotGrid
from ..fine_tuning.spec import FineTuning

EXPERIMENT = "Compare"
SPLITS = 20
CLASSIFIERS = "linear-svc logistic ridge-loo ncm knn"


@dataclass(frozen=True, kw_only=True)
class CompareGrid(Spec):
    """What is compared, and when it counts as decided."""

    kind: ClassVar[str] = "compare-grid"

    sources: tuple[str, ...] = setting(
        (),
        help="backbones to compare, comma-separated, each with its own weights or with a file of "
        "weights, as NAME=FILE; a backbone may have several. Default: the one of --architecture",
    )
    recipes: str = setting(
        "",
        help="what fine-tuning trains, choices of --tune, separated by spaces or commas: 'all norm "
        "lora:r=4'; one is left out at a number of shots when it is hardly the best on validation "
        "images. Default: the one of --tune",
    )
    learning_rates: tuple[float, ...] = setting(
        (),
        low=1e-8,
        high=1e3,
        help="learning rates of fine-tuning, comma-separated: each recipe is tried with each. "
        "Default: the one of --learning-rate",
    )
    at: int | None = setting(
        None, low=1, help="training images per class that the answer is for. Default: the most"
    )
    alpha: float = setting(
        0.05, low=1e-6, high=0.49, help="largest probability of being wrong that counts as decided"
    )
    margin: float = setting(
        0.01, low=1e-6, high=0.5, help="difference of accuracy that counts as none, as a fraction"
    )
    any_time: bool = setting(
        True,
        help="fine-tune where it shrinks the expected loss of a wrong choice most per second, and "
        "stop when it is small; else every split",
    )
    budget: float | None = setting(
        None, low=1.0, help="seconds of fine-tuning after which no more is begun. Default: no limit"
    )
    from_studies: tuple[str, ...] = setting(
        (),
        help="keys of finished feature-extraction and fine-tuning studies, comma-separated: "
        "compare these and compute nothing",
    )
    human_hours: tuple[str, ...] = setting(
        (), help="hours of work each side takes you, as feature-extraction=2,fine-tuning=6"
    )
    price_cpu_hour: float | None = setting(
        None, low=0.0, help="price of an hour of CPU time, for the cost in money"
    )
    price_gpu_hour: float | None = setting(
        None, low=0.0, help="price of holding a GPU for an hour, for the cost in money"
    )
    currency: str = setting(
        "EUR",
        only_with={"price_cpu_hour": (), "price_gpu_hour": ()},
        help="currency of the prices, as text",
    )
    thumbnails: bool = setting(
        True,
        help="show on the page two test images of each frequent confusion; --no-thumbnails where "
        "images must not leave this machine",
    )
    out: str | None = setting(None, writes="file", help="file to copy the page to")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.tunes("")  # raises UnknownNameError or UsageError for a wrong one

    def tunes(self, tune: str) -> list[str]:
        """Return each choice of --tune once, in its canonical text; `tune` if there is no list."""
        words = split_words(self.recipes)
        if not words:
            return [tune]
        if tune not in ("", FineTuning.defaults()["tune"]):
            raise UsageError("conflict", f"--tune {tune} and --recipes", expected="one of the two")
        return list(dict.fromkeys(format_tune(parse_tune(word)) for word in words))

    def rates(self, learning_rate: float) -> list[float]:
        """Return each of --learning-rates once; `learning_rate` if there are none."""
        if not self.learning_rates:
            return [learning_rate]
        if learning_rate != FineTuning.defaults()["learning_rate"]:
            raise UsageError(
                "conflict",
                f"--learning-rate {learning_rate:g} and --learning-rates",
                expected="one of the two",
            )
        return list(dict.fromkeys(self.learning_rates))


@dataclass(frozen=True, kw_only=True)
class CompareClassifiers(FeatureExtractionGrid):
    """Classifiers on frozen features, more than one by default."""

    kind: ClassVar[str] = "compare-classifiers"

    classifier: str = setting_of(FeatureExtractionGrid, "classifier", CLASSIFIERS)


@dataclass(frozen=True, kw_only=True)
class CompareDraws(FewShotGrid):
    """Draws of training images, more by default than in other studies."""

    kind: ClassVar[str] = "compare-draws"
    draws_more: ClassVar[bool] = True

    splits: int = setting_of(FewShotGrid, "splits", SPLITS)


@dataclass(frozen=True, kw_only=True)
class Decision(Spec):
    """Decision from finished trials: which, for what, by which rule."""

    kind: ClassVar[str] = "decision"

    dataset: str = setting("", identity=False, cli=False, help="data set, for people")
    evidence: str = setting("", cli=False, help="digest of the trials that are compared")
    at: int = setting(1, cli=False, help="training images per class that the answer is for")
    alpha: float = setting(0.05, cli=False, help="largest probability of being wrong")
    margin: float = setting(0.01, cli=False, help="difference that counts as none")
    about: str = setting("", cli=False, help="digest of declared costs and of how the race ended")
    shots: int = setting(0, identity=False, cli=False, help="training images per class")
    split: int = setting(0, identity=False, cli=False, help="number of the draw")

    @property
    def title(self) -> str:
        """Return a short name."""
        return f"decision at {self.at} shots"

    @property
    def run_name(self) -> str:
        """Return the name of its run."""
        return self.title

    def mlflow_params(self) -> dict[str, object]:
        """Return the settings that MLflow shows."""
        return {"Dataset": self.dataset, "Samples per class": self.at}


@dataclass(frozen=True, kw_only=True)
class ChoiceRules(Spec):
    """Decisions on several data sets, beside rules that need none."""

    kind: ClassVar[str] = "choice-rules"

    datasets: tuple[str, ...] = setting((), identity=False, cli=False, help="names, for people")
    decisions: str = setting("", cli=False, help="digest of the decisions that are compared")
    shots: int = setting(0, identity=False, cli=False, help="training images per class")
    split: int = setting(0, identity=False, cli=False, help="number of the draw")

    @property
    def title(self) -> str:
        """Return a short name."""
        return f"rules on {counted(len(self.datasets), 'data set')}"

    @property
    def run_name(self) -> str:
        """Return the name of its run."""
        return self.title

    def mlflow_params(self) -> dict[str, object]:
        """Return the settings that MLflow shows."""
        return {"Dataset": ", ".join(self.datasets)}
