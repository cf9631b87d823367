"""Fine-tuning the last quarter of EfficientNet-Lite0 with and without the kept prefix: speed beside
the law.

    python tests/benchmarks/prefix_cache.py [--backbone efficientnet-lite0] [--held 14] [--size 96]
    [--small]

Three trainings of the same recipe take turns, epoch by epoch: on kept rows, with the prefix
computed in every epoch, and with the whole network run as one. The law (F_p + 3 F_s)/(3 F_s) counts
arithmetic; convolutions before the cut run at another speed than those behind it, so the same law
is also given in seconds measured of each part. CPU seconds say more than wall seconds on a busy
machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from tlx.features import voting
from tlx.models import backbones, training
from tlx.models.frozen_prefix.cache import CachedBatches
from tlx.models.recipe import Recipe
from tlx.models.samples import Samples

T = TypeVar("T")
VALIDATION = 16  # rows: scored in every epoch, they hardly count


class Noise:
    """Random pixels: what an image shows takes no time."""

    crops = 1

    def __init__(self, n: int, size: int, channels: int):
        self._array = np.random.default_rng(0).integers(
            0, 256, (n, size, size, channels), dtype=np.uint8
        )

    def take(self, rows: np.ndarray) -> np.ndarray:
        return self._array[rows]


def begin(asked: argparse.Namespace, way: str, channels_last: bool) -> training._Training:
    net = backbones.load(
        asked.backbone, weights=asked.weights, classes=10, seed=0, input_size=asked.size
    )
    recipe = Recipe(
        epochs=asked.rounds + 1,
        freeze=asked.held,
        channels_last=channels_last,
        early_stopping=False,
        batch_size=asked.batch,
    )
    pixels, labels = (
        Noise(asked.rows + VALIDATION, asked.size, net.channels),
        np.arange(asked.rows + VALIDATION) % 10,
    )
    train, val = (
        Samples(pixels, i, labels[i]) for i in np.split(np.arange(len(labels)), [asked.rows])
    )
    place = training.TrainingContext(prefix_bytes=1 << 40 if way == "kept" else 0)
    made = training._Training(
        net, train, val, recipe, seed=0, score=voting.accuracy, frozen=None, place=place
    )
    if way == "whole":
        made._choose_rows = lambda epochs: None
    return made


def timed(work: Callable[[], T]) -> tuple[T, tuple[float, float]]:
    """What work gives, with its wall and its CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    return work(), (time.perf_counter() - wall, time.process_time() - cpu)


def pass_of_the_prefix(made: training._Training) -> None:
    made.hold.train()
    for _ in made.train_rows.batches(made.recipe.batch_size):
        pass


def compare(asked: argparse.Namespace, channels_last: bool) -> None:
    runs = {way: begin(asked, way, channels_last) for way in ("kept", "computed", "whole")}
    seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in (*runs, "prefix")}
    losses: dict[str, list[float]] = {way: [] for way in runs}
    for epoch in range(asked.rounds + 1):
        for way, run in runs.items():
            _, took = timed(lambda run=run, epoch=epoch: losses[way].extend(train(run, epoch)))  # noqa: B023
            seconds[way].append(took)
        seconds["prefix"].append(timed(lambda: pass_of_the_prefix(runs["computed"]))[1])
    first = seconds["kept"][0][1]
    kept = runs["kept"].train_rows
    assert isinstance(kept, CachedBatches), runs["kept"].outcome.prefixes
    before, after = kept.cut.flops
    print(
        f"channels {'last' if channels_last else 'first'}: "
        f"{runs['kept'].outcome.prefixes[0].reason}"
    )
    for clock, name in enumerate(("wall", "CPU")):
        middle = {
            way: float(np.median([took[clock] for took in s[1:]])) for way, s in seconds.items()
        }
        print(
            f"  {name}: "
            + ", ".join(f"{way} {s:.3f} s" for way, s in middle.items())
            + f"; speed-up {middle['computed'] / middle['kept']:.2f}, against the whole network "
            f"{middle['whole'] / middle['kept']:.2f}; law in seconds "
            f"{(middle['prefix'] + middle['kept']) / middle['kept']:.2f}"
        )
    print(
        f"  law in arithmetic {(before + 3 * after) / (3 * after):.2f}; the epoch in which rows "
        f"are kept takes "
        f"{first / middle['computed']:.2f} computed epochs of CPU"
    )
    print(
        f"  losses equal to the bit: computed {losses['kept'] == losses['computed']}, "
        f"whole {losses['kept'] == losses['whole']}"
    )


def train(run: training._Training, epoch: int) -> list[float]:
    values = run._epoch(epoch)
    return [values["train_loss"], values["val_loss"]]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--backbone", default="efficientnet-lite0")
    options.add_argument("--weights", default=None)
    for name, value in {
        "held": 14,
        "size": 96,
        "rows": 256,
        "batch": 64,
        "rounds": 5,
        "threads": 1,
    }.items():
        options.add_argument(f"--{name}", type=int, default=value)
    options.add_argument("--small", action="store_true", help="a look in seconds")
    asked = options.parse_args()
    if asked.small:
        asked.rows, asked.rounds, asked.size = 128, 2, 64
    training.deterministic(asked.threads)
    for channels_last in (False, True):
        compare(asked, channels_last)


if __name__ == "__main__":
    main()
