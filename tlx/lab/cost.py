"""Cost of a block of work in seconds, bytes, joules, grams of CO2, each with its source.

Nothing is invented. Energy is read from a counter (RAPL for the processor, NVML for the GPU), or
modelled as CPU seconds × declared watts, or it is None. A counter belongs to the machine: it
includes what else ran at the time, and the row states that.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from .nvml import Nvml

MEASURED, MODELLED = "measured", "modelled"
POWERCAP = Path("/sys/class/powercap")
SAMPLE_S = 60.0  # RAPL counters wrap around after about 10 minutes at full power, at the soonest
J_PER_KWH = 3.6e6


@dataclass(frozen=True)
class Carbon:
    """Declared grid factor: grams of CO2 per kWh, its source, and the data centre's overhead.

    The overhead is the PUE.
    """

    g_per_kwh: float
    source: str
    pue: float = 1.0


class Meter:
    """Meter of a with-block; `cost()` gives Result.cost.

    watts    declared power of one busy core, for the modelled energy where no counter can be read
    carbon   declared grid factor; without one there is no number of grams
    """

    # all that run in this process: a nested one resets the kernel's mark
    _active: ClassVar[list[Meter]] = []

    def __init__(
        self, *, watts: float | None = None, carbon: Carbon | None = None, powercap: Path = POWERCAP
    ):
        self.watts, self.carbon = watts, carbon
        self._rapl, self._gpus = Rapl(powercap), GpuEnergy()
        self.wall_s = self.cpu_s = 0.0
        self.peak_bytes = 0
        self.gpu_peak_bytes: int | None = None
        self.cpu_j: float | None = None
        self.gpu_j: float | None = None

    def __enter__(self) -> Meter:
        for meter in self._active:
            meter.peak_bytes = max(meter.peak_bytes, _peak_bytes())
        self._active.append(self)
        _reset_peak()
        cuda = _cuda()
        if cuda is not None:
            cuda.reset_peak_memory_stats()
        self._rapl.start()
        self._gpus.start()
        self._cpu, self._wall = _cpu_s(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall_s, self.cpu_s = time.perf_counter() - self._wall, _cpu_s() - self._cpu
        self.cpu_j, self.gpu_j = self._rapl.stop(), self._gpus.stop()
        self._active.remove(self)
        self.peak_bytes = max(self.peak_bytes, _peak_bytes())
        cuda = _cuda()
        if cuda is None:
            self.gpu_j = None  # a GPU that was not used is none of this block's cost
        else:
            self.gpu_peak_bytes = sum(
                cuda.max_memory_allocated(i) for i in range(cuda.device_count())
            )

    def cost(self) -> dict[str, dict[str, Any]]:
        """Return name → {"value", "unit", "source"}.

        value and source are None where nothing is known.
        """
        rows = {
            "wall_s": _row(self.wall_s, "s"),
            "cpu_s": _row(self.cpu_s, "s"),
            "memory_peak_bytes": _row(self.peak_bytes, "bytes"),
        }
        if self.gpu_peak_bytes is not None:
            rows["gpu_memory_peak_bytes"] = _row(self.gpu_peak_bytes, "bytes")
        energy = self._energy()
        return rows | {"energy_j": energy, "co2_g": self._co2(energy)}

    def _energy(self) -> dict[str, object]:
        cpu_j, source = self.cpu_j, MEASURED
        if cpu_j is None and self.watts is not None:
            cpu_j, source = self.cpu_s * self.watts, MODELLED
        parts = {"cpu": cpu_j, "gpu": self.gpu_j}
        known = {name: joules for name, joules in parts.items() if joules is not None}
        if not known:
            return _row(None, "J")
        counted = (
            "counters of the whole machine"
            if source == MEASURED
            else f"{self.watts:g} W declared per busy core"
        )
        return _row(sum(known.values()), "J", source) | {"parts": known, "note": counted}

    def _co2(self, energy: dict[str, Any]) -> dict[str, object]:
        if self.carbon is None or energy["value"] is None:
            return _row(None, "g")
        grams = energy["value"] / J_PER_KWH * self.carbon.pue * self.carbon.g_per_kwh
        return _row(grams, "g", MODELLED) | {
            "factor": asdict(self.carbon),
            "energy": energy["source"],
        }


def is_energy_known(watts: float | None, *, on_gpu: bool, powercap: Path = POWERCAP) -> bool:
    """Return whether a Meter with these watts would report joules on this machine.

    on_gpu   the block computes on a GPU, whose counter then counts
    """
    return (
        watts is not None or Rapl(powercap).is_readable() or (on_gpu and GpuEnergy().is_readable())
    )


def _row(value: float | None, unit: str, source: str = MEASURED) -> dict[str, object]:
    return {"value": value, "unit": unit, "source": None if value is None else source}


# ---------------------------------------------------------------- time and memory


def _cpu_s() -> float:
    """Return CPU seconds of this process and of the children that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def _peak_bytes() -> int:
    """Return the peak memory of this process since the last reset.

    Since its start where the kernel cannot reset.
    """
    for line in _text(Path("/proc/self/status")).splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _reset_peak() -> None:
    with contextlib.suppress(OSError):  # then the peak is that of the process, not of the block
        Path("/proc/self/clear_refs").write_text("5")


def _cuda() -> Any:
    """Return torch.cuda if torch is loaded and has used it, else None."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


# ---------------------------------------------------------------- energy counters


class Rapl:
    """Energy counters of the processor packages in /sys/class/powercap, unwrapped by sampling."""

    def __init__(self, powercap: Path = POWERCAP):
        packages = [
            zone
            for zone in sorted(powercap.glob("*-rapl:*"))
            if zone.name.count(":") == 1 and _text(zone / "name").startswith("package")
        ]
        self._range_uj = {zone: int(_text(zone / "max_energy_range_uj") or 0) for zone in packages}
        self._last: dict[Path, int] = {}  # empty: no counter can be read
        self._used_uj, self._lock, self._ended = 0, threading.Lock(), threading.Event()

    def is_readable(self) -> bool:
        """Return whether there are counters that this user may read."""
        return bool(self._read())

    def start(self) -> None:
        """Start counting."""
        self._last = self._read()
        if self._last:
            threading.Thread(target=self._keep_sampling, daemon=True).start()

    def stop(self) -> float | None:
        """Return joules since `start`; None where no counter can be read."""
        self._ended.set()
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
        values = {zone: _text(zone / "energy_uj") for zone in self._range_uj}
        return {zone: int(text) for zone, text in values.items()} if all(values.values()) else {}


def _text(path: Path) -> str:
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
        now = self._read_mj()
        if not now or now.keys() != self._before.keys():
            return None
        return sum(now[number] - self._before[number] for number in now) / 1e3

    def _read_mj(self) -> dict[int, int]:
        """Return number of a GPU → millijoules, of those that count them."""
        readings = {number: self._nvml.energy_mj(number) for number in self._nvml.visible_devices()}
        return {number: energy for number, energy in readings.items() if energy is not None}
