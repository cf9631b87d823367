"""Energy counters of a machine: RAPL of the processor packages, NVML of the GPUs, idle power.

A counter belongs to the whole machine. What it counts while nothing of ours runs is sampled once a
machine and study; the rest is what else ran, and our share of it is told by CPU time.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from .nvml import Nvml

POWERCAP, STAT = Path("/sys/class/powercap"), Path("/proc/stat")
SAMPLE_S = 60.0  # RAPL counters wrap around after about 10 minutes at full power, at the soonest
IDLE_S, IDLE_STEP_S = 5.0, 0.1
BUSY = ("user", "nice", "system", "irq", "softirq", "steal")  # of a processor's time
COLUMNS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


def machine_cpu_s(stat: Path = STAT) -> float | None:
    """Return the CPU seconds that all processes of the machine have used since it was started.

    None where the kernel does not tell.
    """
    words = next(iter(text_of(stat).splitlines()), "").split()
    if len(words) <= len(COLUMNS) or words[0] != "cpu":
        return None
    ticks = dict(zip(COLUMNS, map(int, words[1:]), strict=False))
    return sum(ticks[name] for name in BUSY) / os.sysconf("SC_CLK_TCK")


# ---------------------------------------------------------------- idle power


@dataclass(frozen=True)
class IdlePower:
    """Power of a machine while nothing of ours runs.

    machine    digest of its name
    seconds    that were sampled
    cpu_w      of the processor packages; None without a counter
    gpu_w      number of a GPU → watts
    busy       processors that others kept busy meanwhile, on average; None where it is not told
    """

    machine: str
    seconds: float
    cpu_w: float | None
    gpu_w: Mapping[str, float] = field(default_factory=dict)
    busy: float | None = None

    def to_json(self) -> dict[str, object]:
        """Return it as plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Self:
        """Return what `to_json` gave."""
        known: dict[str, Any] = dict(value)
        return cls(**known)


def this_machine() -> str:
    """Return a digest of the machine's name."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:12]


def sample_idle(
    *,
    with_gpus: bool,
    powercap: Path = POWERCAP,
    stat: Path = STAT,
    pause: Callable[[float], bool] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> IdlePower | None:
    """Measure the power of the idle machine for 5 s; None, at once, where there is no counter.

    with_gpus  whether the GPUs are measured too
    pause      waits so many seconds; True ends the sample, which then gives None
    """
    rapl, gpus = Rapl(powercap), GpuEnergy()
    if not rapl.is_readable() and not (with_gpus and gpus.is_readable()):
        return None
    wait = pause or threading.Event().wait
    rapl.start()
    if with_gpus:
        gpus.start()
    started, before = clock(), machine_cpu_s(stat)
    for _ in range(round(IDLE_S / IDLE_STEP_S)):
        if wait(IDLE_STEP_S):
            rapl.stop()
            return None
    seconds, after = clock() - started, machine_cpu_s(stat)
    joules = rapl.stop()
    by_gpu = (gpus.by_device() or {}) if with_gpus else {}
    return IdlePower(
        this_machine(),
        seconds,
        None if joules is None else joules / seconds,
        {str(number): used / seconds for number, used in by_gpu.items()},
        None if before is None or after is None else (after - before) / seconds,
    )


@functools.cache
def idle_power(with_gpus: bool) -> IdlePower | None:
    """Return the idle power of this machine, sampled once a process; None without a counter."""
    return sample_idle(with_gpus=with_gpus)


# ---------------------------------------------------------------- counters


class Rapl:
    """Energy counters of the processor packages in /sys/class/powercap, unwrapped by sampling."""

    def __init__(self, powercap: Path = POWERCAP):
        packages = [
            zone
            for zone in sorted(powercap.glob("*-rapl:*"))
            if zone.name.count(":") == 1 and text_of(zone / "name").startswith("package")
        ]
        self._range_uj = {
            zone: int(text_of(zone / "max_energy_range_uj") or 0) for zone in packages
        }
        self._last: dict[Path, int] = {}  # empty: no counter can be read
        self._used_uj, self._lock, self._ended = 0, threading.Lock(), threading.Event()

    def is_readable(self) -> bool:
        """Return whether there are counters that this user may read."""
        return bool(self._read())

    @property
    def is_counting(self) -> bool:
        """Return whether it was started and counters can be read."""
        return bool(self._last)

    def start(self) -> None:
        """Start counting."""
        self._last = self._read()
        if self._last:
            threading.Thread(target=self._keep_sampling, daemon=True).start()

    def stop(self) -> float | None:
        """Return joules since `start`; None where no counter can be read."""
        self._ended.set()
        return self.joules()

    def joules(self) -> float | None:
        """Return joules from `start` until now; None where no counter can be read."""
        self.sample()
        return self._used_uj / 1e6 if self._last else None

    def sample(self) -> None:
        """Add the energy since the last sample.

        A sample must be taken before a counter can wrap around twice.
        """
        with self._lock:
            now = self._read() if self._last else {}
            for zone, uj in now.items():
                wrapped = self._range_uj[zone] if uj < self._last[zone] else 0
                self._used_uj += uj - self._last[zone] + wrapped
            self._last = now

    def _keep_sampling(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            self.sample()

    def _read(self) -> dict[Path, int]:
        values = {zone: text_of(zone / "energy_uj") for zone in self._range_uj}
        return {zone: int(text) for zone, text in values.items()} if all(values.values()) else {}


def text_of(path: Path) -> str:
    """Return a system file's text; "" if it cannot be read.

    RAPL counters are often for root only.
    """
    try:
        return path.read_text().strip()
    except OSError:
        return ""


class GpuEnergy:
    """Energy counters of the GPUs that are visible to this process, by NVML."""

    def __init__(self, nvml: Nvml | None = None):
        self._nvml = nvml or Nvml()
        self._before: dict[int, int] = {}

    def is_readable(self) -> bool:
        """Return whether there are counters that this user may read."""
        return bool(self._read_mj())

    def start(self) -> None:
        """Start counting."""
        self._before = self._read_mj()

    def stop(self) -> float | None:
        """Return joules since `start` of all GPUs visible to this process.

        None where no counter can be read.
        """
        used = self.by_device()
        return None if used is None else sum(used.values())

    def by_device(self) -> dict[int, float] | None:
        """Return number of a visible GPU → joules since `start`; None without counters."""
        now = self._read_mj()
        if not now or now.keys() != self._before.keys():
            return None
        return {number: (now[number] - self._before[number]) / 1e3 for number in now}

    def _read_mj(self) -> dict[int, int]:
        """Return number of a GPU → millijoules, of those that count them."""
        readings = {number: self._nvml.energy_mj(number) for number in self._nvml.visible_devices()}
        return {number: energy for number, energy in readings.items() if energy is not None}
