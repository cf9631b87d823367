"""QUANTA: how much of a frozen source a target takes over at a layer, measured by a gate that learns beside it.

One trial is one position (0 is block 1), all positions at once ("co", co-evaluation) or the target alone ("witness"),
and one repeat. Repeats differ in the target's start, the order of the images, dropout and augmentation; trials of one
repeat share them, so that a target with a gate and its witness are a pair.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..models.quanta_recipe import QuantaRecipe
from ..models.recipe import Recipe
from ..result import DIVERGED, Result
from ..spec import Spec, knob, stream

if TYPE_CHECKING:
    import numpy as np

    from ..models.samples import Samples
    from .quanta_source import SourceOf
    from .study import Bench

EXPERIMENT = "QUANTA"
CO, WITNESS = "co", "witness"


@dataclass(frozen=True, kw_only=True)
class Quanta(QuantaRecipe):
    """One target trained beside a source, with a gate at one position, at all of them, or at none."""

    architecture: str = knob("mnist-cnn", short="a", help="backbone of target and source: quanta-cnn (the original's, "
                             "seven positions), quanta-cnn-2020 (the paper's widths), a row of `tlx backbones`, a "
                             "torchvision or timm: name")
    source_architecture: str | None = knob(None, help="backbone of the source, where it is another: gated outputs "
                                           "must have one shape. Default: the target's")
    source: str | None = knob(None, place=True, help="what the source's weights were trained on; random: not at all, "
                              "as a control. Default: the backbone's own")
    model: str | None = knob(None, place=True, short="m", help="weight file of the source (.safetensors, .pth, .pt, "
                             ".h5)")
    dataset: str = knob("digits", place=True, short="d", help="the target's: a name of `tlx datasets`, or a folder")
    input_size: int | None = knob(None, low=8, high=4096, help="pixels of the square the networks see. Default: the "
                                  "backbone's")
    sizing: str = knob("squash", choices=("squash", "aspect"), help="resize to a square, or keep the aspect")
    train_per_class: int = knob(0, low=0, help="so many training images of each class, the first ones; 0: all")
    test_per_class: int = knob(0, low=0, help="so many test images of each class, the first ones; 0: all")
    val_per_class: int = knob(10, low=1, help="training images per class held back for validation, where there is no "
                              "val folder")
    seed: int = knob(0, low=0, high=2**63 - 1, help="seed of all chance")
    images: str = knob("", derived=True, help="digest of the images, labels and sizing that enter")
    weights: str = knob("", derived=True, help="digest of the source's weights")
    position: str = knob("", derived=True, help="number from 0, co or witness")
    repeat: int = knob(0, derived=True)

    @property
    def shots(self) -> int:
        """0: all images."""
        return 0

    @property
    def split(self) -> int:
        """Where a study lists it among its siblings."""
        return self.repeat

    @property
    def title(self) -> str:
        """Few words that name this trial among its siblings."""
        place = {CO: "all layers", WITNESS: "witness"}.get(self.position, f"layer {self.position}")
        return f"{place} repeat {self.repeat}"

    @property
    def run_name(self) -> str:
        """What its run is called."""
        return self.title

    @property
    def alone(self) -> Quanta:
        """The witness of this trial: what the gate and the source are set to is no part of it."""
        own = {name: self.defaults()[name] for name in ("quanta_form", "quanta_init", "multiplier", "gate_rate",
                                                        "source_dropout", "source_architecture", "source", "model")}
        return self.but(**own, weights="", position=WITNESS)

    def named(self) -> dict[str, Any]:
        """The settings under the original's names, as MLflow shows them."""
        return {"Architecture": self.architecture, "Target task": self.dataset, "Layer": self.position,
                "Run": self.repeat, "Form": self.quanta_form, "v": ", ".join(map(str, self.start)),
                "Batch size": self.batch_size, "Eta": self.learning_rate, "Eta decay": self.rate_decay,
                "LRM": self.multiplier, "Maximum epochs": self.epochs}


@dataclass(frozen=True, kw_only=True)
class QuantaSweep(Spec):
    """Which QUANTA trials make a study, and where their source comes from."""

    positions: tuple[str, ...] = knob((), short="l", help="where gates stand: numbers from 0 (position 0 is block 1), "
                                      "all: each by itself, co or a negative number: everywhere at once. Default: "
                                      "all,co")
    repeats: int = knob(5, low=1, high=10_000, short="r", help="trainings of each from other random starts (30 in the "
                        "original)")
    witness: bool = knob(True, help="also train the target alone, once a repeat")
    source_dataset: str | None = knob(None, place=True, help="train the source on this data set first: a name of "
                                      "`tlx datasets`, or a folder")
    halves: bool = knob(False, help="source and target learn one half each of the classes of --dataset, drawn by "
                        "--seed")
    source_epochs: int | None = knob(None, low=1, high=100_000, help="epochs to train the source; that of the best "
                                     "validation accuracy counts. Default: as many as the target's")
    source_rate: float | None = knob(None, low=1e-8, high=1e3, help="learning rate of the source. Default: the "
                                     "target's")
    job: int = knob(0, low=0, place=True, help="a number of your own, shown with the runs")


@dataclass(frozen=True)
class QuantaInputs:
    """What a trial runs on. Labels index `classes`.

    name         of the target's images, for people and file names
    source       where the source's weights are; None for a witness
    gates        gate by gate: position, module of the target, module of the source
    source_test  images and labels that the source itself is scored on, where they are known
    """

    name: str
    classes: tuple[str, ...]
    train: Samples
    val: Samples
    test: Samples | None
    source: SourceOf | None = None
    gates: tuple[tuple[int, str, str], ...] = ()
    source_test: Samples | None = None


def run(spec: Quanta, inputs: QuantaInputs, bench: Bench) -> Result:
    """Train, scoring validation and test images after every epoch; the last epoch counts, as in the original."""
    from ..features.voting import class_counts
    from ..models import backbones, quanta_training, training

    started = time.perf_counter()
    target = backbones.load(spec.architecture, weights=None, classes=len(inputs.classes), input_size=spec.input_size,
                            seed=stream(spec.seed, "weights", spec.repeat))
    source = inputs.source.load(spec.weights) if inputs.source is not None and inputs.gates else None
    place = training.Place(bench.device, bench.folder / "training.safetensors", bench.log, bench.tell, bench.stopping)
    parts = {"train": inputs.train, "val": inputs.val} | ({"test": inputs.test} if inputs.test is not None else {})
    details: dict[str, Any] = {
        "classes": list(inputs.classes), "positions": [position for position, _, _ in inputs.gates],
        "modules": [module for _, module, _ in inputs.gates], "blocks": len(target.blocks),
        "parameters": sum(p.numel() for p in target.parameters()), "source_test": None,
        "test_counts": None if inputs.test is None else class_counts(inputs.test.labels, len(inputs.classes)),
        "images": {name: len(samples) for name, samples in parts.items()},
        "target_name": inputs.name, "source_name": inputs.source.name if inputs.source is not None else ""}
    if source is not None and inputs.source_test is not None:
        logits = training.predict(source.to(bench.device), inputs.source_test, Recipe(), place)
        details["source_test"] = score(logits, inputs.source_test.labels)
    fitted = quanta_training.fit(
        quanta_training.Branches(target, source, tuple(module for _, module, _ in inputs.gates),
                                 tuple(module for _, _, module in inputs.gates)),
        parts, spec, seed=stream(spec.seed, "fit", spec.repeat), score=score, place=place)
    details |= {"ended": fitted.ended, "epochs": len(fitted.history), "history": fitted.history,
                "gates": _with_lambdas(spec, fitted.gates), "source_outputs": fitted.source}
    scores = {"total_s": time.perf_counter() - started}
    if fitted.ended == "diverged":
        return Result.of(spec, status=DIVERGED, scores=scores, details=details)
    last = fitted.history[-1]
    scores |= {name: last[name] for name in ("train_accuracy", "val_accuracy", "val_loss", "test_accuracy",
                                             "test_loss", "test_top1") if name in last}
    return Result.of(spec, scores=scores | _lambda_scores(details["gates"]), details=details)


def _with_lambdas(spec: Quanta, gates: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every record with λ of source and target beside v, gate by gate."""
    from ..models.quanta import QuantaGate

    return [row | {"lambda": [list(QuantaGate(spec.quanta_form, v).double().numbers) for v in row["v"]]}
            for row in gates]


def _lambda_scores(gates: list[dict[str, Any]]) -> dict[str, float]:
    """λ of the source at the end and how far it went, for the one gate; numbered by gate where there are several."""
    ends = [(row[0], row[1]) for row in zip(gates[0]["lambda"], gates[-1]["lambda"], strict=True)]
    found: dict[str, float] = {}
    for number, (first, last) in enumerate(ends):
        end = f"_{number}" if len(ends) > 1 else ""
        found |= {f"lambda_source{end}": last[0], f"lambda_change{end}": last[0] - first[0]}
    return found


def score(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The values of one part, those of the original by Keras's rules (see quanta_scores) and the house's accuracy."""
    from ..features import voting
    from .quanta_scores import keras_scores

    return {**keras_scores(logits, labels), "accuracy": voting.accuracy(logits, labels, 1)}
