"""Cost of using a side's model: time of an image, arithmetic, bytes of its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, TypedDict

from ...errors import TlxError
from ...result import Result

if TYPE_CHECKING:
    from torch import nn

    from ...models.footprint import CropModel
    from ...models.network import Network
    from ..feature_extraction.spec import FeatureExtraction
    from ..feature_extraction.trial import FeatureTrialInputs

CROPS = 10
NO_FEATURES = "the classifier is not counted: finished studies are compared without their features"


@dataclass(frozen=True)
class UseCost:
    """What labelling one image takes with the model of a side.

    image_s        seconds of all its crops in one batch, median of warm runs of one process on the
                   CPU; None if the network could not be built
    macs           multiplications with additions, all crops
    weights_bytes  of the network's weights and statistics
    crops          of an image
    reason         why something is not counted, or nothing is known; "" if all is
    classifier_bytes  of the embedding and the classifier on top of a frozen network, which image_s
                   and macs count too; None where there is none, or it is not counted
    """

    image_s: float | None
    macs: int | None
    weights_bytes: int | None
    crops: int
    reason: str = ""
    classifier_bytes: int | None = None


class NetworkPlan(TypedDict):
    """What a network is built from."""

    architecture: str
    input_size: int | None
    classes: int
    crops: int


@dataclass(frozen=True)
class FrozenPlan:
    """Trial on frozen features, to fit its classifier again."""

    spec: FeatureExtraction
    inputs: FeatureTrialInputs


def network_of(result: Result) -> NetworkPlan:
    """Return what the network of a trial is built from."""
    spec, details = result.spec, result.details
    return {
        "architecture": spec["architecture"],
        "input_size": spec.get("input_size"),
        "classes": len(details["classes"]),
        "crops": CROPS if spec.get("use_crops") else 1,
    }


def measure(
    networks: Mapping[str, NetworkPlan],
    stopping: Callable[[], bool],
    frozen: Mapping[str, FrozenPlan | None] | None = None,
) -> dict[str, dict[str, object]]:
    """Return side → UseCost as plain JSON. Sides with one network alone share its figures.

    networks  side → `network_of` its champion
    frozen    side → trial whose classifier is on top of the network; None where it has a classifier
              and its features are not at hand
    """
    from ...models import footprint

    sizes: dict[str, UseCost] = {}
    built: dict[str, Network | CropModel] = {}
    twins: dict[str, str] = {}
    frozen = frozen or {}
    for side, about in networks.items():
        same = [o for o in sizes if networks[o] == about and o not in frozen]
        if same and side not in frozen:
            twins[side] = same[0]
            continue
        try:
            built[side], sizes[side] = _built(about, frozen.get(side), side in frozen)
        except TlxError as error:
            sizes[side] = UseCost(None, None, None, about["crops"], str(error))
    for crops in dict.fromkeys(sizes[side].crops for side in built):
        turns = {side: model for side, model in built.items() if sizes[side].crops == crops}
        for side, row_s in footprint.latency(turns, crops, stopping=stopping).items():
            sizes[side] = replace(sizes[side], image_s=row_s * crops)
    for side, other in twins.items():
        sizes[side] = sizes[other]
    return {side: asdict(sizes[side]) for side in networks}


def _built(
    about: NetworkPlan, plan: FrozenPlan | None, has_classifier: bool
) -> tuple[Network | CropModel, UseCost]:
    """Return the model that labels a crop, and what is known of it without running it."""
    from ...models import backbones, footprint

    reason = NO_FEATURES if has_classifier else ""
    if plan is not None:
        try:
            return _with_classifier(plan, about["crops"])
        except TlxError as error:
            reason = f"the classifier is not counted: {error.what}"
    network = backbones.load(
        about["architecture"],
        weights=None,
        classes=about["classes"],
        seed=0,
        input_size=about["input_size"],
    )
    macs = footprint.macs(network) * about["crops"]
    return network, UseCost(None, macs, _bytes(network.net), about["crops"], reason)


def _bytes(module: nn.Module) -> int:
    return int(sum(tensor.nbytes for tensor in module.state_dict().values()))


def _with_classifier(plan: FrozenPlan, crops: int) -> tuple[CropModel, UseCost]:
    """Return frozen network, embedding and classifier as one module, as it is served; its sizes.

    Raises UsageError for a classifier that cannot be served.
    """
    from ...features import graphs
    from ...features.classifiers import classifier
    from ...models import footprint
    from .. import served_trial
    from ..activations import whole_network

    graphs.check(plan.spec.to_json())
    prepared = plan.inputs.prepared(plan.spec)
    embedding = graphs.EmbeddedRows(prepared.embedding)
    fitted = prepared.training.fit(classifier(plan.spec.classifier), for_features=True)
    network = whole_network(plan.spec, plan.spec.layers, None)
    features = served_trial.frozen_features(network, plan.spec)
    head = graphs.scores_of(fitted, len(plan.inputs.classes))
    body = footprint.CropModel(
        graphs.FeatureBody(features, embedding, head), network.channels, network.input_size
    )
    return body, UseCost(
        None,
        footprint.macs(body) * crops,
        _bytes(features.network.net),
        crops,
        classifier_bytes=_bytes(embedding) + _bytes(head),
    )
