"""Parts of the tests of replicas that other processes import: images, and companions that fail."""

from __future__ import annotations

import functools
import os
import signal
import time

import numpy as np

from tlx.errors import BadDataError
from tlx.models.samples import Samples

REFUSAL = "the other process refuses"


class Noise:
    """Pixels of random images of three classes; class k is brighter in row k."""

    def __init__(self, n: int, crops: int = 1, size: int = 32, channels: int = 3):
        rng = np.random.default_rng(n)
        self.crops, self.labels = crops, np.arange(n) % 3
        self.array = rng.integers(0, 80, (n * crops, size, size, channels), dtype=np.uint8)
        for row, label in enumerate(np.repeat(self.labels, crops)):
            self.array[row, 4 + 6 * label : 8 + 6 * label] += 150

    def take(self, rows):
        return self.array[rows]

    def samples(self, first: int, last: int) -> Samples:
        images = np.arange(first, last)
        return Samples(self, images, self.labels[images])


def never_joins(request, *, link) -> None:
    """Come to the first meeting, and no further."""
    link.meet()
    time.sleep(600)


def never_starts(request, *, link) -> None:
    """Come to no meeting."""
    time.sleep(600)


def train_with_a_frozen_companion(*, emit) -> None:
    """Train in two processes, of which the other stops for ever in its first step."""
    from tlx.features import voting
    from tlx.lab.engines import companions
    from tlx.models import backbones, process_group, training
    from tlx.models.recipe import Recipe
    from tlx.studies import replicas

    process_group.EXCHANGE_S, companions.BREAK_S = 2.0, 1.0
    noise = Noise(14)
    network = backbones.load("resnet20-cifar", weights=None, classes=3, seed=0)
    training.fit(
        network,
        noise.samples(0, 8),
        noise.samples(8, 14),
        Recipe(epochs=1, batch_size=8, replicas=2, replica_processes=2),
        seed=0,
        score=voting.accuracy,
        place=training.TrainingContext(
            recruit=functools.partial(replicas.recruit, device="cpu", call="parted:freezes")
        ),
    )


def freezes(request, *, link) -> None:
    from tlx.models import process_group

    link.meet()
    with process_group.joined(request.member, link):
        link.meet()
        os.kill(os.getpid(), signal.SIGSTOP)


def refuses(request, *, link) -> None:
    link.meet()
    raise BadDataError("refused", REFUSAL)


def breaks(request, *, link) -> None:
    link.meet()
    raise ZeroDivisionError("of the other process")
