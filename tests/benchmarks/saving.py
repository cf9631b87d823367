"""Saving a training's state after every epoch beside saving it as often as pays.

    python tests/benchmarks/saving.py [--rounds 5] [--folder DIR]

Few-shot trainings of 20 epochs on noise, 10 training and 40 validation rows, one thread, without
and with the rule of training_loop.SAVE_SHARE, and without any state, in turn; medians. The state
is flushed to disk: --folder says to which, by default the one for temporary files.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import parted

from tlx.features import voting
from tlx.models import backbones, training, training_loop
from tlx.models.recipe import Recipe

NETWORKS = {"mnist-cnn": 28, "resnet20-cifar": 32, "resnet18": 64}  # with the side of an image
EPOCHS, TRAIN, VAL = 20, 10, 40
WAYS = {"no state": None, "after every epoch": 1e9, "as often as pays": training_loop.SAVE_SHARE}


def seconds_of(name: str, share: float | None, folder: str) -> float:
    """Return the wall seconds of a training whose state may take this share of the time."""
    size = NETWORKS[name]
    network = backbones.load(name, weights=None, classes=3, seed=0, input_size=size)
    noise = parted.Noise(TRAIN + VAL, size=size, channels=network.channels)
    training_loop.SAVE_SHARE = share or 1.0
    with tempfile.TemporaryDirectory(dir=folder) as own:
        state = None if share is None else Path(own) / "training.safetensors"
        started = time.perf_counter()
        training.fit(
            network,
            noise.samples(0, TRAIN),
            noise.samples(TRAIN, TRAIN + VAL),
            Recipe(epochs=EPOCHS, early_stopping=False),
            seed=1,
            score=voting.accuracy,
            place=training.TrainingContext(checkpoint=state),
        )
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default=tempfile.gettempdir())
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in NETWORKS:
        took: dict[str, list[float]] = {way: [] for way in WAYS}
        seconds_of(name, None, arguments.folder)
        for _ in range(arguments.rounds):
            for way, share in WAYS.items():
                took[way].append(seconds_of(name, share, arguments.folder))
        print(f"\n{name}, {EPOCHS} epochs, medians of {arguments.rounds}")
        for way, seconds in took.items():
            ratios = [a / b for a, b in zip(seconds, took["no state"], strict=True)]
            median, ratio = statistics.median(seconds), statistics.median(ratios)
            print(f"  {way:18} {median:6.2f} s  {ratio:5.2f} x without", flush=True)


if __name__ == "__main__":
    main()
