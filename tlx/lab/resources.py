"""Machine load while a trial runs, under the names of mlflow's system metrics.

A trial starts a Sampler with a place to put each sample (its journal); the tracking mirror sends
them on as `system/…`.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from .nvml import Nvml

EVERY_S, FIRST_S = 10.0, 0.2
MEGABYTE = 1e6  # bytes, as in mlflow's own monitor


class Sampler:
    """Thread that calls `record` with a sample at the start, every `every_s` seconds, at the end.

    As a context manager it stops with the block. A failing `record` ends the sampling, never the
    trial.
    """

    def __init__(
        self,
        record: Callable[[dict[str, float]], None],
        every_s: float = EVERY_S,
        *,
        folder: Path | None = None,
    ):
        self._record, self._every_s, self._folder = record, every_s, folder or Path.cwd()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tlx-resources", daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with contextlib.suppress(Exception), contextlib.closing(Nvml()) as nvml:
            process = psutil.Process()
            process.cpu_percent()  # the first call of each only sets the start of the interval
            psutil.cpu_percent()
            start = psutil.net_io_counters()
            last, pause = False, min(self._every_s, FIRST_S)
            while not last:
                last, pause = self._stop.wait(pause), self._every_s
                self._record(_sample(process, start, self._folder) | _gpu_sample(nvml))


def _sample(process: psutil.Process, start: Any, folder: Path) -> dict[str, float]:
    memory, disk, net = (
        psutil.virtual_memory(),
        psutil.disk_usage(os.fspath(folder)),
        psutil.net_io_counters(),
    )
    sample = {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / MEGABYTE,
        "system_memory_usage_percentage": memory.percent,
        "process_cpu_utilization_percentage": process.cpu_percent(),  # of one core
        "process_memory_usage_megabytes": process.memory_info().rss / MEGABYTE,
        "disk_usage_percentage": disk.percent,
        "disk_usage_megabytes": disk.used / MEGABYTE,
        "disk_available_megabytes": disk.free / MEGABYTE,
    }
    if net is not None and start is not None:  # a container without a network has none
        sample["network_receive_megabytes"] = (net.bytes_recv - start.bytes_recv) / MEGABYTE
        sample["network_transmit_megabytes"] = (net.bytes_sent - start.bytes_sent) / MEGABYTE
    return {f"system/{name}": float(value) for name, value in sample.items()}


def _gpu_sample(nvml: Nvml) -> dict[str, float]:
    """Return the load of every GPU of the machine, as far as each reports it."""
    sample: dict[str, float] = {}
    for number in nvml.devices():
        prefix, load = f"system/gpu_{number}_", nvml.load(number)
        if load.used_bytes is not None and load.total_bytes:
            sample[f"{prefix}memory_usage_megabytes"] = load.used_bytes / MEGABYTE
            sample[f"{prefix}memory_usage_percentage"] = 100 * load.used_bytes / load.total_bytes
        if load.busy_percent is not None:
            sample[f"{prefix}utilization_percentage"] = float(load.busy_percent)
        if load.power_w is not None:
            sample[f"{prefix}power_usage_watts"] = load.power_w
    return sample
