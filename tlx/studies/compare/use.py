"""Cost of using a side's network: time of an image, arithmetic, bytes of its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TypedDict

from ...errors import TlxError
from ...result import Result

CROPS = 10


@dataclass(frozen=True)
class UseCost:
    """What labelling one image takes with the network of a side.

    image_s        seconds of all its crops in one batch, median of warm runs of one process on the
                   CPU; None if the network could not be built
    macs           multiplications with additions, all crops
    weights_bytes  of its weights and statistics
    crops          of an image
    reason         why nothing is known; "" if it is
    """

    image_s: float | None
    macs: int | None
    weights_bytes: int | None
    crops: int
    reason: str = ""


class NetworkPlan(TypedDict):
    """What a network is built from."""

    architecture: str
    input_size: int | None
    classes: int
    crops: int


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
    networks: Mapping[str, NetworkPlan], stopping: Callable[[], bool]
) -> dict[str, dict[str, object]]:
    """Return side → UseCost as plain JSON. Sides with one network share its figures.

    networks  side → `network_of` its champion
    """
    from ...models import backbones, footprint
    from ...models.network import Network

    sizes: dict[str, UseCost] = {}
    built: dict[str, Network] = {}
    for side, about in networks.items():
        twin = next((other for other in built if networks[other] == about), None)
        if twin is not None:
            continue
        try:
            network = backbones.load(
                about["architecture"],
                weights=None,
                classes=about["classes"],
                seed=0,
                input_size=about["input_size"],
            )
        except TlxError as error:
            sizes[side] = UseCost(None, None, None, about["crops"], str(error))
            continue
        built[side] = network
        macs = footprint.macs(network) * about["crops"]
        weights_bytes = sum(t.nbytes for t in network.net.state_dict().values())
        sizes[side] = UseCost(None, macs, weights_bytes, about["crops"])
    for side, network in built.items():
        crops = sizes[side].crops
        row_s = footprint.latency({side: network}, crops, stopping=stopping).get(side)
        image_s = None if row_s is None else row_s * crops  # None: stopped before a run
        sizes[side] = replace(sizes[side], image_s=image_s)
    for side, about in networks.items():
        twin = next(other for other in sizes if networks[other] == about)
        sizes[side] = sizes[twin]
    return {side: asdict(size) for side, size in sizes.items()}
