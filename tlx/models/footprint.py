"""Cost of a network: parameters, arithmetic, file size, latency."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import safetensors.torch
import torch
from torch import Tensor, nn

from .frozen_prefix.split import _Flops, _unfused
from .network import Network
from .recipe import Recipe

LEAST, MOST = 7, 300  # runs of which the median is taken
BUDGET_S = 1.0  # of runs, for a network and a batch size


class CropModel(nn.Module):
    """Any module that takes normalised crops (n, channels, input_size, input_size)."""

    def __init__(self, body: nn.Module, channels: int, input_size: int):
        super().__init__()
        self.body, self.channels, self.input_size = body, channels, input_size

    def forward(self, x: Tensor) -> Tensor:
        """Return what the module gives for crops."""
        result: Tensor = self.body(x)
        return result


@dataclass(frozen=True)
class Footprint:
    """Cost of a network, independent of the hardware.

    parameters      numbers that can learn
    numbers         with the statistics of batch norm, as Keras counts "parameters"
    nonzero         of the parameters
    macs            multiplications with additions of one image: convolutions, products, attention
    weights_bytes   of a file of its weights
    training_bytes  with what the optimizer holds of them, as a file to resume training from
    """

    parameters: int
    numbers: int
    nonzero: int
    macs: int
    weights_bytes: int
    training_bytes: int


def footprint(network: Network, recipe: Recipe) -> Footprint:
    """Compute the footprint of a network trained by `recipe` with nothing frozen."""
    parameters = dict(network.net.named_parameters())
    statistics_ = [b for _, b in network.net.named_buffers() if b.is_floating_point()]
    state = {name: t.detach().cpu().contiguous() for name, t in network.net.state_dict().items()}
    held = {
        f"optimizer/{kind}/{name}": torch.zeros_like(p, device="cpu").contiguous()
        for kind in _moments(recipe)
        for name, p in parameters.items()
    }
    return Footprint(
        sum(p.numel() for p in parameters.values()),
        sum(t.numel() for t in (*parameters.values(), *statistics_)),
        sum(int(torch.count_nonzero(p)) for p in parameters.values()),
        macs(network),
        len(safetensors.torch.save(state)),
        len(safetensors.torch.save(state | held)),
    )


def _moments(recipe: Recipe) -> Sequence[str]:
    if recipe.optimizer in ("sgd", "sgd-l2"):
        return ("momentum_buffer",) if recipe.momentum else ()
    return ("exp_avg", "exp_avg_sq")


def macs(network: Network | CropModel) -> int:
    """Count the multiply-accumulate operations of one image: half of torch's FLOP count."""
    device = next(network.parameters()).device
    x = torch.zeros(1, network.channels, network.input_size, network.input_size, device=device)
    network.eval()
    with torch.no_grad(), _unfused(), _Flops() as counted:
        network(x)
    result: int = counted.total // 2
    return result


def latency(
    networks: Mapping[str, Network | CropModel],
    batch: int,
    device: str = "cpu",
    *,
    budget_s: float = BUDGET_S,
    stopping: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Measure seconds an image of each network in evaluation mode, in batches of `batch`.

    It is the median of many warm runs.

    The networks take turns, so that what else the machine does meets all of them alike. The first
    two runs of each are thrown away; how many follow depends on the slowest.
    """
    runs = {
        name: _run(network.to(device).eval(), batch, device) for name, network in networks.items()
    }
    slowest = 0.0
    for run in runs.values():
        run()
        slowest = max(slowest, run())
    rounds = max(LEAST, min(MOST, int(budget_s / max(slowest, 1e-6))))
    took: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        if stopping():
            break
        for name, run in runs.items():
            took[name].append(run())
    return {name: statistics.median(seconds) / batch for name, seconds in took.items() if seconds}


def _run(network: Network | CropModel, batch: int, device: str) -> Callable[[], float]:
    x = torch.zeros(batch, network.channels, network.input_size, network.input_size, device=device)

    def run() -> float:
        with torch.inference_mode():
            begun = time.perf_counter()
            network(x)
            if x.is_cuda:
                torch.cuda.synchronize()
            return time.perf_counter() - begun

    return run
