"""Two choices that make small networks quicker on a CPU, each against its opposite, interleaved,
medians.

    python tests/benchmarks/small_networks.py [--rounds 7]

weights   the MNIST CNN with weights held channels last, beside channels first: training (64 rows)
          and scoring (256)
memory    a training step of EfficientNet-Lite0 (96 px, 64 rows, 9 of 18 blocks frozen, random
          weights) in a process
          with the allocator settings of the engine's workers, beside one without: CPU seconds
One thread throughout.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

import torch

from tlx.lab.engines.forkserver import MALLOC
from tlx.models import backbones, freezing


def step(network, x, y) -> None:
    network.zero_grad()
    torch.nn.functional.cross_entropy(network(x), y).backward()


def cpu_s(call, *arguments) -> float:
    began = time.process_time()
    call(*arguments)
    return time.process_time() - began


def weights(rounds: int) -> None:
    formats = {"first": torch.contiguous_format, "last": torch.channels_last}
    nets = {
        name: backbones.load("mnist-cnn", weights=None, classes=10, seed=0).to(memory_format=how)
        for name, how in formats.items()
    }
    took: dict[tuple[str, str], list[float]] = {}
    train, score, y = (
        torch.randn(64, 1, 28, 28),
        torch.randn(256, 1, 28, 28),
        torch.zeros(64, dtype=torch.long),
    )
    for _ in range(rounds):
        for name, net in nets.items():
            net.train()
            step(net, train, y)
            took.setdefault(("training", name), []).append(cpu_s(step, net, train, y))
            net.eval()
            with torch.inference_mode():
                net(score)
                took.setdefault(("scoring", name), []).append(cpu_s(net, score))
    for what in ("training", "scoring"):
        first, last = (statistics.median(took[what, name]) for name in ("first", "last"))
        print(
            f"weights: {what} channels first {1e3 * first:.2f} ms, last {1e3 * last:.2f} ms, "
            f"ratio {first / last:.2f}"
        )


def worker() -> None:
    net = backbones.load("efficientnet-lite0", weights=None, classes=10, seed=0, input_size=96)
    net.to(memory_format=torch.channels_last)
    x = torch.randn(64, 3, 96, 96).to(memory_format=torch.channels_last)
    freezing.freeze(net, 9).train()
    step(net, x, torch.zeros(64, dtype=torch.long))
    print(
        statistics.median(cpu_s(step, net, x, torch.zeros(64, dtype=torch.long)) for _ in range(5))
    )


def memory(rounds: int) -> None:
    took: dict[str, list[float]] = {"without": [], "with": []}
    for _ in range(rounds):
        for name, settings in (("without", {}), ("with", MALLOC)):
            found = subprocess.run(
                [sys.executable, __file__, "--worker"],
                env={**os.environ, **settings},
                check=True,
                capture_output=True,
                text=True,
            )
            took[name].append(float(found.stdout))
    without, kept = (statistics.median(took[name]) for name in ("without", "with"))
    print(
        f"memory: a step without {without:.3f} s, with {kept:.3f} s of CPU, ratio "
        f"{without / kept:.2f}"
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument(
        "--worker", action="store_true", help="one measurement, for the other process"
    )
    given = options.parse_args()
    torch.set_num_threads(1)
    if given.worker:
        worker()
        return
    weights(5 * given.rounds)
    memory(given.rounds)


if __name__ == "__main__":
    main()
