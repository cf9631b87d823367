"""Batches in parts: the time of an epoch, and the bits, for each number of processes.

    python tests/benchmarks/replicas.py [--rounds 5] [--rows 256] [--architecture resnet18]

time   the second epoch of a training on the CPU, one thread a process: whole batches, and 4 parts
       in 1 and 2 processes, interleaved, medians; the first epoch warms up
bits   weights after two epochs of 4 parts in 1, 2 and 4 processes, of a network with batch norm and
       dropout, whose last batch is short
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import statistics
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import parted

from tlx.features import voting
from tlx.models import backbones, training
from tlx.models.recipe import Recipe
from tlx.studies import replicas

WAYS = {"whole batches": (1, 1), "4 parts, 1 process": (4, 1), "4 parts, 2 processes": (4, 2)}


def trained(architecture: str, rows: int, size: int, parts: int, processes: int):
    """The network after two epochs, and the seconds of the second."""
    noise = parted.Noise(rows + 8, size=size)
    network = backbones.load(architecture, weights=None, classes=3, seed=0, input_size=size)
    recipe = Recipe(
        epochs=2,
        batch_size=32,
        replicas=parts,
        replica_processes=processes if parts > 1 else None,
        early_stopping=False,
        keep_epoch="last",
    )
    outcome = training.fit(
        network,
        noise.samples(0, rows),
        noise.samples(rows, rows + 8),
        recipe,
        seed=1,
        score=voting.accuracy,
        place=training.TrainingContext(recruit=functools.partial(replicas.recruit, device="cpu")),
    )
    return network, outcome.history[1]["train_epoch_s"]


def digest(network) -> str:
    total = hashlib.sha256()
    for name, value in network.state_dict().items():
        total.update(name.encode() + value.numpy().tobytes())
    return total.hexdigest()[:16]


def times(architecture: str, rows: int, size: int, rounds: int) -> None:
    took: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, (parts, processes) in WAYS.items():
            took[name].append(trained(architecture, rows, size, parts, processes)[1])
    whole = statistics.median(took["whole batches"])
    for name, seconds in took.items():
        median = statistics.median(seconds)
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        print(f"{name:<22} {median:7.2f} s ({spread})   {median / whole:5.2f} of whole batches")


def bits(rows: int) -> bool:
    digests = {n: digest(trained("quanta-cnn", rows, 32, 4, n)[0]) for n in (1, 2, 4)}
    for processes, value in digests.items():
        print(f"4 parts, {processes} processes: {value}")
    return len(set(digests.values())) == 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--size", type=int, default=64, help="of the images, in pixels")
    parser.add_argument("--architecture", default="resnet18")
    options = parser.parse_args()
    training.deterministic(1)
    print(
        f"{options.architecture}, {options.rows} rows of {options.size} pixels, torch "
        f"{torch.__version__}, one thread a process, {options.rounds} rounds"
    )
    times(options.architecture, options.rows, options.size, options.rounds)
    same = bits(52)
    print("bits are equal" if same else "BITS DIFFER")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
