"""Measure the latency of the networks of a chop study, in turns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ... import files
from ...lab import signals
from ...lab.settings import Settings
from ...lab.store import Store
from ...models import chopped
from ...models.footprint import latency
from ...models.network import Network
from ...result import FINISHED
from .spec import LATENCY, NETWORK

BATCHES = (1, 64)
TOGETHER_BYTES = 2 << 30  # of weights of networks that are timed in turns


def measure(
    store: Store, key: str, settings: Settings, tell: Callable[[int], None] = lambda count: None
) -> None:
    """Time the study's networks and write the times as latency.json; existing times are kept.

    Done after all training, when nothing else of ours runs, in this process: of every cut the
    network of its first finished repeat, in turns, warm, at `settings.threads` threads. Times are
    of the machine, so they are in no result.
    """
    study = store.read_study(key)
    if study is None:
        return
    device = settings.resolved_device()
    about = {
        "device": torch.cuda.get_device_name() if device != "cpu" else "cpu",
        "threads": settings.threads,
        "torch": torch.__version__,
    }
    folders: dict[str, Path] = {}
    for row in study["trials"]:
        name = str(row["spec"]["cut"] or "whole")
        if (
            name not in folders
            and (result := store.find_or_none(row["key"]))
            and result.status == FINISHED
        ):
            folders[name] = store.file(row["key"], f"{NETWORK}.json")
    path = store.root / "studies" / key / LATENCY
    known = files.read_json(path) if path.is_file() else {}
    if not folders or (
        known.get("about") == about and known.get("seconds", {}).keys() >= folders.keys()
    ):
        return
    tell(len(folders))
    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        seconds: dict[str, dict[str, float]] = {name: {} for name in folders}
        for group in _groups(folders):
            networks: dict[str, Network] = {name: chopped.read(folders[name])[0] for name in group}
            for batch in BATCHES:
                for name, value in latency(
                    networks, batch, device, stopping=signals.stopping
                ).items():
                    seconds[name][str(batch)] = value
        signals.stop_if_asked()
    finally:
        torch.set_num_threads(before)
    files.write_json(path, {"about": about, "seconds": seconds})


def _groups(folders: dict[str, Path]) -> list[list[str]]:
    """Group networks that fit into memory together, as many as possible: they take turns."""
    groups: list[list[str]] = [[]]
    room = TOGETHER_BYTES
    for name, path in folders.items():
        size = path.with_suffix(".safetensors").stat().st_size
        if groups[-1] and size > room:
            groups.append([])
            room = TOGETHER_BYTES
        groups[-1].append(name)
        room -= size
    return groups
