"""Configurations of a feature extraction, tried in one process that shares their data.

Embedded rows, spans and products of every draw stay from trial to trial; what compares rows or is
linear is fitted from the products alone (spans.py), so that a trial costs what its solver costs on
as many numbers as there are rows.
"""

from __future__ import annotations

import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ... import files
from ...features import voting
from ...features.classifiers import CLASSIFIERS, Classifier, classifier, format_classifier
from ...features.dump import Dump
from ...features.embedding import EMBEDDINGS
from ...features.fitting import FittedClassifier
from ...features.spans import Training
from ...lab import cost, energy
from ...lab.tuning.api import ScoredTrial
from ...models.samples import Samples
from ...spec import derive_seed, parse_spec
from ..feature_extraction.spec import FeatureExtraction
from ..feature_extraction.trial import KEPT_BYTES
from ..few_shot import FewShotTrial

HELD_BYTES = 2 << 30  # of embedded rows and products that a process keeps


@dataclass(frozen=True)
class Draw:
    """One few-shot split, without test images."""

    split: int
    train: Samples
    content: str  # digest of all that enters


@dataclass(frozen=True)
class CropVariant:
    """All draws with crops, or all without."""

    classes: tuple[str, ...]
    val: Samples
    draws: tuple[Draw, ...]
    dump: Dump | None = None


@dataclass(frozen=True)
class SearchContext:
    """Runtime context of a process of a search."""

    root: str
    device: str
    settings: Any
    with_energy: bool = False
    idle: energy.IdlePower | None = None


@dataclass(frozen=True)
class FeatureInputs:
    """Inputs of a search of features: a trial's spec, layers by name, and draws.

    Draws are by use of crops.
    """

    base: FeatureExtraction
    layers: dict[str, tuple[str, ...]]
    sides: dict[bool, CropVariant]

    def spec(self, values: Mapping[str, object]) -> FeatureExtraction:
        """Return the trial of a configuration, before its split."""
        text = str(values.get("embedding", self.base.embedding))
        own = _own(values, text)
        changes = {
            name: values[name] for name in ("use_crops", "standardize", "vote") if name in values
        }
        return self.base.replace(
            **changes,
            classifier=format_classifier(self.classifier(values)),
            embedding=text + (":" + ",".join(f"{k}={v}" for k, v in own.items()) if own else ""),
            layers=self.layers[str(values["layers"])] if "layers" in values else self.base.layers,
        )

    def classifier(self, values: Mapping[str, object]) -> Classifier:
        """Return the classifier of a configuration."""
        if "classifier" not in values:
            return classifier(self.base.classifier)
        start = classifier(self.base.classifier)
        name = str(values["classifier"])
        kept = start.identity() if type(start) is CLASSIFIERS[name] else {}
        settings = {k: v for k, v in kept.items() if k != "kind"} | _own(values, name)
        spec = CLASSIFIERS[name].with_settings(settings)
        assert isinstance(spec, Classifier)
        return spec


def _own(values: Mapping[str, object], name: str) -> dict[str, object]:
    """Return the settings of a choice, named "choice.setting", without the "….by" switches."""
    prefix = f"{name}."
    return {
        k.removeprefix(prefix): v
        for k, v in values.items()
        if k.startswith(prefix) and not k.endswith(".by")
    }


def named_by_content(spec: FewShotTrial, sides: dict[bool, CropVariant]) -> str:
    """Return the key of a configuration: its trial's identity, and the inputs of every split."""
    draws = [[draw.split, draw.content] for draw in sides[spec.use_crops].draws]
    return files.digest(["configuration", spec.identity(), draws])


class FeatureSearch:
    """Evaluator of configurations; `spent` is the cost of the last one."""

    def __init__(self, inputs: FeatureInputs, context: SearchContext):
        self.inputs, self.context = inputs, context
        self.spent = ScoredTrial(by_split=[], seconds=0.0)
        self._held: OrderedDict[tuple[Any, ...], _Ready] = OrderedDict()
        self._meant: tuple[dict[str, object], FeatureExtraction, Classifier] | None = None

    def _means(self, values: Mapping[str, object]) -> tuple[FeatureExtraction, Classifier]:
        """Return the trial and the classifier of a configuration.

        They are needed three times in a row, and built once.
        """
        if self._meant is None or self._meant[0] != values:
            self._meant = dict(values), self.inputs.spec(values), self.inputs.classifier(values)
        return self._meant[1:]

    def key(self, values: Mapping[str, object]) -> str:
        """Return the content key: what it is, and the inputs of every split."""
        return named_by_content(self._means(values)[0], self.inputs.sides)

    def title(self, values: Mapping[str, object]) -> str:
        """Return its classifier, and what else is searched."""
        requested = self._means(values)[1]
        short = requested.replace(
            **{k: float(f"{v:.3g}") for k, v in requested.to_json().items() if isinstance(v, float)}
        )
        others = [f"{k} {v}" for k, v in values.items() if "." not in k and k != "classifier"]
        return ", ".join([format_classifier(short), *others])

    def evaluate(
        self, values: Mapping[str, object], report: Callable[[int, float], None]
    ) -> ScoredTrial:
        """Evaluate split after split; the mean so far is reported at each."""
        spec, requested = self._means(values)
        by_split: list[float] = []
        seconds, joules, notes = 0.0, 0.0, set[str]()
        for number in range(len(self.inputs.sides[spec.use_crops].draws)):
            ready = self._ready(spec, number)
            started = time.perf_counter()
            with (
                cost.Meter(cost.declared_of(self.context.settings), idle=self.context.idle)
                if self.context.with_energy
                else contextlib.nullcontext() as meter
            ):
                accuracy, fitted = ready.score(requested, spec.vote)
            seconds += time.perf_counter() - started
            used = meter.cost()["energy_j"] if meter else {"value": None, "source": None}
            joules += used["value"] or 0.0
            notes |= {note.partition(":")[0] for note in fitted.notes}
            by_split.append(accuracy)
            self.spent = ScoredTrial(
                by_split=by_split,
                seconds=seconds,
                energy_j=joules if used["value"] is not None else None,
                details={
                    "splits": [d.split for d in self.inputs.sides[spec.use_crops].draws],
                    "notes": sorted(notes),
                    "energy_source": used["source"],
                },
            )
            report(number + 1, sum(by_split) / len(by_split))
        return self.spent

    def _ready(self, spec: FeatureExtraction, number: int) -> _Ready:
        """Return the rows of a draw, embedded.

        The least used are dropped where they are too many.
        """
        key = (spec.use_crops, spec.layers, spec.embedding, spec.standardize, number)
        if key not in self._held:
            side = self.inputs.sides[spec.use_crops]
            self._held[key] = _Ready(spec, side, side.draws[number])
            while (
                sum(ready.bytes for ready in self._held.values()) > HELD_BYTES
                and len(self._held) > 1
            ):
                self._held.popitem(last=False)
        self._held.move_to_end(key)
        return self._held[key]


class _Ready:
    """Training and validation rows of a draw, and all that classifiers share about them."""

    def __init__(self, spec: FeatureExtraction, side: CropVariant, draw: Draw):
        assert side.dump is not None
        self.side = side
        layers = [side.dump.array(layer) for layer in spec.layers]
        requested: Any = parse_spec(EMBEDDINGS, spec.embedding, "embedding")
        if "standardize" in requested.settings() and spec.standardize != "train":
            requested = requested.replace(standardize=spec.standardize)
        embedding = requested.fit(layers, draw.train.rows)
        rows, val = (
            embedding.transform(layers, samples.rows) for samples in (draw.train, side.val)
        )
        how: dict[str, Any] = {
            "seed": derive_seed(spec.seed, "classifier") % 2**32,
            "where": f"{spec.shots}-shot split {draw.split}",
        }
        self.training = Training(rows, draw.train.row_labels, images=draw.train.row_images, **how)
        self.shared, self.seen = self.training, val
        products = 8 * (len(rows) + len(val)) * len(rows)
        if products <= KEPT_BYTES:
            self.shared, self.seen = Training.beside(rows, draw.train.row_labels, val, **how)
        self.val, self.bytes = val, 2 * (rows.nbytes + val.nbytes) + 3 * products

    def score(self, requested: Classifier, vote: str) -> tuple[float, FittedClassifier]:
        """Return mean per-class accuracy on val (a fraction), and the classifier."""
        shares = requested.isometric
        fitted = (self.shared if shares else self.training).fit(requested)
        scores: np.ndarray = fitted.scores(
            self.seen if shares else self.val, classes=len(self.side.classes)
        )
        return voting.accuracy(scores, self.side.val.labels, self.side.val.crops, vote), fitted
