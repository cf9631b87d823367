"""Parameter distance: how far pre-training carried each layer towards where fine-tuning ended.

A trial is one triple of states (random, pre-trained, fine-tuned) of one network in one norm; what D and T are stands in
tlx.metrics.parameter_distance. Repeats differ in the random state that is drawn, in the fine-tuning, or in both.

The random state of the method is the one that pre-training began from. Pre-trained weights are nearer to it than to any
other draw, so that T from another draw is larger (20.5 for 7.0 in MNIST's small CNN, fine-tuned on digits for three
epochs). It is known of what `tlx pretrain` made, and used where it is; else states are drawn, and the result says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Integrity
from ..result import FINISHED, Result
from ..spec import Spec, knob, stream
from .layer_transfer import DEFAULT, WEIGHTS, Sourced
from .whole_data import WholeData

if TYPE_CHECKING:
    from .study import Bench

EXPERIMENT = "Parameter distance"
NORMS = ("mean_abs", "l1", "l2", "rms", "cosine", "chord", "filter_cosine", "relative_l1", "relative_l2")
RULES, HEADS = ("original", "weights", "parameters"), ("match", "skip")  # a test holds all three to tlx.metrics' tables
AUTO, START, RANDOM, UNKNOWN, DRAWN = "auto", "start", "random", "none", "drawn"
LAYER = ("random_pretrained", "pretrained_finetuned", "random_finetuned", "transferability", "movement")
BACKBONE = "backbone: a row of `tlx backbones`, a torchvision or timm: name"


@dataclass(frozen=True, kw_only=True)
class ParameterDistance(Spec):
    """Distances and transferability between three states of one network, in one norm."""

    random: str = knob(AUTO, place=True, short="r", help="weights at random initialisation: a file (.safetensors, "
                       ".pth, .pt, .h5); start: what pre-training began from, known of weights of tlx pretrain and of "
                       "those that come with tlx; random: drawn as the architecture starts; auto: start where it is "
                       "known, else random")
    pretrained: str = knob(DEFAULT, place=True, short="a", help="weights after pre-training: a file, a finished trial "
                           "that keeps weights (its folder, or its key or the beginning of it), or default: the "
                           "backbone's own")
    architecture: str = knob("", help=f"{BACKBONE}; none: modules are the layers. Default: that of a trial given, "
                             "resnet50 where -b is a file, as in the original, else mnist-cnn")
    rule: str = knob("auto", choices=("auto", *RULES), help="which tensors: weights (kernels), parameters (everything "
                     "learned), original (as published, for resnet50, resnet34, densenet121 and timm's vit_small); "
                     "auto: original for these, weights for others")
    head: str = knob(HEADS[0], choices=HEADS, help="the head: match (measured where it has one shape in all three; it "
                     "never counts overall) or skip")
    seed: int = knob(0, low=0, high=2**63 - 1, help="seed of all chance; repeats draw streams of their own from it")
    norm: str = knob("mean_abs", derived=True)
    draw: int | None = knob(None, low=0, derived=True, help="number of the random state, where it is drawn")
    start: int | None = knob(None, low=0, derived=True, help="seed of the pre-training, where its start is meant")
    states: tuple[str, ...] = knob((), derived=True, help="digests of the weights: random (or drawn), pre-trained, "
                                   "fine-tuned")
    target: str = knob("", place=True, derived=True, help="what it was fine-tuned on")
    images: str = knob("", place=True, derived=True, help="digest of its images, where they are known")
    finetuned: str = knob("", place=True, derived=True)
    repeat: int = knob(0, place=True, derived=True)

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
        return f"{self.target}, {self.norm}, repeat {self.repeat}"

    @property
    def run_name(self) -> str:
        """What its run is called."""
        return self.title

    def named(self) -> dict[str, Any]:
        """The settings under the names that MLflow shows."""
        return {"Architecture": self.architecture, "Target": self.target, "Repeat": self.repeat, "Norm": self.norm,
                "Rule": self.rule, "Head": self.head, "Random": self.random, "Pre-trained": self.pretrained,
                "Fine-tuned": self.finetuned}


@dataclass(frozen=True, kw_only=True)
class Distances(Spec):
    """Which triples make a study, and what is said of their data."""

    norms: tuple[str, ...] = knob((), help=f"distances, comma-separated, or all: {', '.join(NORMS)}. Default: "
                                  "mean_abs, the published one")
    seeds: int = knob(5, low=1, high=10_000, help="repeats: random states drawn, and fine-tunings where they are "
                      "trained here")
    source_images: str | None = knob(None, place=True, help="images that the network was pre-trained on, for the "
                                     "domain gap: a name of `tlx datasets`, or a folder; as many are drawn as the "
                                     "target has for training")
    gap: str = knob("frechet", help="how the gap is measured, on features of the last block: frechet, mmd, emd or "
                    "sliced, with settings as in mmd:sigma=3")


@dataclass(frozen=True, kw_only=True)
class TargetTuning(WholeData):
    """One fine-tuning of the pre-trained network on all images of a data set; its weights are kept."""

    architecture: str = knob("mnist-cnn", help=BACKBONE)
    batch_size: int = knob(64, low=1, high=65_536, help="rows a step")
    dataset: str = knob("", place=True, short="d", help="fine-tune on this data set, a name of `tlx datasets` or a "
                        "folder; beside one -b: what that was fine-tuned on, measured and not trained on. Default: "
                        "digits where there is no -b")
    model: str | None = knob(None, place=True, derived=True)
    depth: int = knob(0, place=True, derived=True, help="blocks of the network")
    target: str = knob("", place=True, derived=True)

    @property
    def title(self) -> str:
        """Few words that name this trial among its siblings."""
        return f"fine-tuned on {self.target}, repeat {self.split}"

    def named(self) -> dict[str, Any]:
        """The settings under the names that MLflow shows."""
        return {**super().named(), "Target": self.target, "Weight decay": self.weight_decay, "Frozen": self.freeze}


@dataclass(frozen=True)
class Triple:
    """Where a trial's states are: files or "default"; random None: drawn. training: how it was fine-tuned, if known."""

    random: str | None
    pretrained: str
    finetuned: str
    training: Mapping[str, Any] = field(default_factory=dict)


def tune(spec: TargetTuning, inputs: Sourced, bench: Bench) -> Result:
    """Fine-tune under a head drawn anew, score on the test images, keep the weights of the best epoch."""
    from ..models import checkpoints
    from ..models.transferred import transferred
    from .fitted import fit_and_score

    network = transferred(spec.architecture, weights=inputs.weights, copied=spec.depth, input_size=spec.input_size,
                          classes=len(inputs.data.classes), seed=stream(spec.seed, "head", spec.split),
                          sha256=spec.weights)
    status, scores, details = fit_and_score(spec, network, inputs.data, bench, stream(spec.seed, "fit", spec.split))
    if status == FINISHED:
        checkpoints.write(bench.folder / WEIGHTS, network.net.state_dict(), {"format": "pt"})
    return Result.of(spec, status=status, scores=scores, details=details, made_from={"weights": spec.weights})


def run(spec: ParameterDistance, inputs: Triple, bench: Bench) -> Result:
    """Measure, a step for each layer."""
    from .. import metrics

    _check(spec, inputs)
    random = inputs.random if inputs.random is not None else drawn(spec, inputs.pretrained)
    found = metrics.parameter_distance(random, inputs.pretrained, inputs.finetuned, architecture=known(spec),
                                       norm=spec.norm, rule=spec.rule, head=spec.head)
    _check(spec, inputs)  # again: the files were read after they were checked
    profile = [{"norm": found.norm, "layer": row.name, "block": row.block, "head": row.head, "tensors": row.tensors,
                **{name: getattr(row, name) for name in LAYER}} for row in found.profile]
    for number, row in enumerate(profile, 1):
        bench.log(number, {name: row[name] for name in LAYER if row[name] is not None})
        bench.tell(number, len(profile))
    notes = list(found.notes)
    if spec.draw is not None:
        notes.append("random states are drawn here, and not what pre-training began from: T is larger than from there")
    if inputs.training.get("head") == "new" and any(row.head for row in found.profile):
        notes.append("the head was drawn anew for fine-tuning, not carried over: its T says nothing of pre-training")
    scores = {"overall_transferability": found.overall, "overall_movement": found.movement,
              "layers": len(profile), "undefined_layers": len(found.undefined),
              "confounded_layers": len(found.confounded)}
    details = {"architecture": spec.architecture, "norm": found.norm, "rule": found.rule, "overall": found.overall,
               "movement": found.movement, "undefined": list(found.undefined), "confounded": list(found.confounded),
               "notes": notes, "training": dict(inputs.training), "profile": profile,
               "distances": [asdict(row) | {"shape": list(row.shape)} for row in found.distances]}
    return Result.of(spec, scores={name: float(v) for name, v in scores.items() if v is not None}, details=details,
                     made_from=dict(zip(("random", "pretrained", "finetuned"), spec.states, strict=True)))


def known(spec: ParameterDistance) -> str | None:
    """The architecture as tlx.metrics is told it."""
    return None if spec.architecture == UNKNOWN else spec.architecture


def drawn(spec: ParameterDistance, pretrained: str) -> Any:
    """The state_dict from which `tlx pretrain` began, or a drawn one; of as many classes as the pre-trained head has.
    """
    from ..models import backbones

    network = backbones.load(spec.architecture, weights=pretrained, classes=None, head="keep", seed=0,
                             sha256=spec.states[1] if spec.states else None)
    classes = len(network.net.get_submodule(network.head_names[-1]).weight)  # type: ignore[arg-type]
    seed = stream(spec.seed, "random", spec.draw) if spec.start is None else stream(spec.start, "weights")
    return backbones.load(spec.architecture, weights=None, classes=classes, seed=seed).net.state_dict()


def digest(architecture: str, weights: str | None) -> str:
    """What identifies a state: the SHA-256 of its file, or drawn. Raises Missing and what `backbones.digest` raises."""
    from ..models import backbones, promises

    if weights is None:
        return DRAWN
    return promises.check(Path(weights)) if weights != DEFAULT else backbones.digest(architecture, weights)


def _check(spec: ParameterDistance, inputs: Triple) -> None:
    """Integrity unless the states are those that the study was planned with."""
    from ..models import promises

    for weights, expected in zip((inputs.random, inputs.pretrained, inputs.finetuned), spec.states, strict=True):
        if (found := digest(spec.architecture, weights)) != expected:
            raise Integrity("weights-sha256", f"SHA-256 is {found}", where=weights or RANDOM, expected=expected,
                            remedy=promises.RERUN)
