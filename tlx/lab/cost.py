"""Cost of a block of work in seconds, bytes, joules, grams of CO2, each with its source.

Nothing is invented. Energy is read from a counter (RAPL for the processor, NVML for the GPU), or
modelled as CPU seconds × declared watts, or it is None with the reason. A counter belongs to the
machine: what it counts of an idle one is subtracted, and our share of the rest is told by CPU time.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from . import grid
from .energy import POWERCAP, STAT, GpuEnergy, IdlePower, Rapl, machine_cpu_s, text_of

if TYPE_CHECKING:
    from .settings import Settings

MEASURED, MODELLED = "measured", "modelled"
COUNTER, SHARE = "counter", "counter, our share"
J_PER_KWH = 3.6e6
MODEL_RANGE = (0.5, 1.5)  # of the declared watts, where no range of them is declared
INHERITED = "inherited_"  # begins the rows of what trials share
NO_COUNTER = "no energy counter of this machine can be read, and --watts was not given"
NOT_METERED = "its CPU time was not measured"
NO_GPU_COUNTER = "the GPU has no energy counter that can be read"
NO_FACTOR = "no --country or --grid was given"

Row = dict[str, Any]  # value, unit, source; note, low, high where there is more to say
Rows = dict[str, Row]  # by name of the cost

# What a block used, in sums, so that usages of several blocks add up. What is absent is unknown.
# wall_s, cpu_s    seconds of the clock; CPU seconds of the process and its children
# machine_cpu_s    CPU seconds of all processes of the machine meanwhile
# gpu_s            seconds that it held GPUs, times their number; absent: none
# cpu_j, gpu_j     joules of the counters, idle power subtracted where it was sampled
# idle_j           joules that were subtracted
# disk_bytes       bytes that it wrote
Usage = dict[str, float]


def added(first: Usage, second: Usage) -> Usage:
    """Return the sum of two usages: what is known of both; of a GPU, what is known of either."""
    names = first.keys() & second.keys()
    if ("gpu_s" in first) != ("gpu_s" in second):
        used = first if "gpu_s" in first else second
        names |= {"gpu_s", "gpu_j"} & used.keys()
    return {name: first.get(name, 0.0) + second.get(name, 0.0) for name in names}


def subtracted(later: Usage, earlier: Usage) -> Usage:
    """Return what was used between two readings of one meter."""
    return {name: value - earlier.get(name, 0.0) for name, value in later.items()}


def scaled(usage: Mapping[str, float], share: float) -> Usage:
    """Return a share of a usage."""
    return {name: share * value for name, value in usage.items()}


@dataclass(frozen=True)
class Carbon:
    """Declared grid factor: grams of CO2 per kWh, its source, and the data centre's overhead.

    The overhead is the PUE.
    """

    g_per_kwh: float
    source: str
    pue: float = 1.0


@dataclass(frozen=True)
class Declared:
    """What was declared of a machine and its electricity.

    watts        power of one busy core, for the modelled energy where no counter can be read
    watts_range  least and most that it may be; None: half and one and a half of it
    carbon       grid factor; without one there is no number of grams
    """

    watts: float | None = None
    watts_range: tuple[float, float] | None = None
    carbon: Carbon | None = None

    def rows(self, usage: Usage) -> Rows:
        """Return the rows of seconds, bytes, energy and CO2 of a usage.

        Each has "value", "unit", "source"; where there is more to say "note", "low" and "high".
        value and source are None where nothing is known, and the note is the reason.
        """
        units = {"wall_s": "s", "cpu_s": "s", "gpu_s": "s", "disk_bytes": "bytes"}
        rows = {name: _row(usage[name], unit) for name, unit in units.items() if name in usage}
        if "gpu_s" in rows:
            rows["gpu_s"]["note"] = "seconds that GPUs were held, times their number"
        energy = self._energy(usage)
        return rows | {"energy_j": energy, "co2_g": self._co2(energy)}

    def _energy(self, usage: Usage) -> Row:
        if "gpu_s" in usage and "gpu_j" not in usage:
            return _unknown("J", NO_GPU_COUNTER)
        parts: dict[str, float] = {}
        low = high = 0.0
        source, notes = COUNTER, []
        if "cpu_j" in usage:
            every = max(0.0, usage["cpu_j"])
            machine_s = usage.get("machine_cpu_s", 0.0)
            parts["cpu"], low, high = every, every, every
            notes.append("counters of the whole machine")
            if machine_s > 0.0 and "cpu_s" in usage:
                share = min(1.0, usage["cpu_s"] / machine_s)
                source, parts["cpu"], low = SHARE, every * share, every * share
                notes[0] += f", {100 * share:.3g} % of the CPU time was ours"
        elif self.watts is not None and "cpu_s" in usage:
            source, parts["cpu"] = MODELLED, usage["cpu_s"] * self.watts
            least, most = self.watts_range or tuple(self.watts * end for end in MODEL_RANGE)
            low, high = usage["cpu_s"] * least, usage["cpu_s"] * most
            notes.append(f"{self.watts:g} W declared per busy core ({least:g} to {most:g} W)")
        if "gpu_j" in usage:
            parts["gpu"] = max(0.0, usage["gpu_j"])
            low, high = low + parts["gpu"], high + parts["gpu"]
            notes.append("counters of the GPUs" if "cpu" in parts else "the GPUs alone")
        if not parts:
            return _unknown("J", NO_COUNTER if "cpu_s" in usage else NOT_METERED)
        if "cpu_j" in usage or "gpu_j" in usage:
            notes.append("idle power subtracted" if "idle_j" in usage else "idle power included")
        row = _row(sum(parts.values()), "J", source) | {"parts": parts, "note": "; ".join(notes)}
        if "idle_j" in usage and source != MODELLED:
            row["idle_j"] = usage["idle_j"]
        return row | ({"low": low, "high": high} if low < high else {})

    def _co2(self, energy: Row) -> Row:
        if energy["value"] is None:
            return _unknown("g", str(energy["note"]))
        if self.carbon is None:
            return _unknown("g", NO_FACTOR)
        factor = self.carbon.pue * self.carbon.g_per_kwh / J_PER_KWH
        row = _row(energy["value"] * factor, "g", MODELLED) | {
            "factor": asdict(self.carbon),
            "energy": energy["source"],
            "note": f"{self.carbon.g_per_kwh:g} g per kWh, {self.carbon.source}",
        }
        return row | {end: energy[end] * factor for end in ("low", "high") if end in energy}


def declared_of(settings: Settings) -> Declared:
    """Return what the settings declare of the machine and its electricity."""
    carbon = None
    if settings.grid is not None:
        carbon = Carbon(settings.grid, "declared")
    elif settings.country is not None:
        factor = grid.factor_of(settings.country)
        carbon = Carbon(factor.g_per_kwh, factor.words)
    least_most = settings.watts_range
    bounds = (least_most[0], least_most[1]) if least_most else None
    return Declared(settings.watts, bounds, carbon)


class Meter:
    """Meter of a with-block; `cost()` gives Result.cost.

    declared  what was declared of the machine
    idle      its idle power, which is subtracted from what the counters tell
    """

    # all that run in this process: a nested one resets the kernel's mark
    _active: ClassVar[list[Meter]] = []

    def __init__(
        self,
        declared: Declared | None = None,
        *,
        idle: IdlePower | None = None,
        powercap: Path = POWERCAP,
        stat: Path = STAT,
    ):
        self.declared, self.idle = declared or Declared(), idle
        self._rapl, self._gpus, self._stat = Rapl(powercap), GpuEnergy(), stat
        self._used: Usage | None = None  # when the block has ended
        self.peak_bytes = 0
        self.gpu_peak_bytes: int | None = None

    @property
    def cpu_s(self) -> float:
        """Return the CPU seconds of the block."""
        return self.usage()["cpu_s"]

    def __enter__(self) -> Meter:
        for meter in self._active:
            meter.peak_bytes = max(meter.peak_bytes, _peak_bytes())
        self._active.append(self)
        _reset_peak()
        _Companions.gpus = 0
        cuda = _cuda()
        if cuda is not None:
            cuda.reset_peak_memory_stats()
        self._rapl.start()
        self._gpus.start()
        # without a counter it is of no use, and a machine of many cores takes long to tell
        self._machine = machine_cpu_s(self._stat) if self._rapl.is_counting else None
        self._cpu, self._wall = _cpu_s(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._used = self._read()
        self._rapl.stop()
        self._active.remove(self)
        self.peak_bytes = max(self.peak_bytes, _peak_bytes())
        cuda = _cuda()
        if cuda is not None:
            self.gpu_peak_bytes = sum(
                cuda.max_memory_allocated(i) for i in range(cuda.device_count())
            )

    def usage(self) -> Usage:
        """Return what the block has used so far; after its end, what it used."""
        return dict(self._used if self._used is not None else self._read())

    def _read(self) -> Usage:
        wall_s, cpu_s = time.perf_counter() - self._wall, _cpu_s() - self._cpu
        usage = {"wall_s": wall_s, "cpu_s": cpu_s}
        if self._machine is not None and (machine := machine_cpu_s(self._stat)) is not None:
            usage["machine_cpu_s"] = machine - self._machine
        idle_j = 0.0
        if (joules := self._rapl.joules()) is not None:
            idle_w = self.idle.cpu_w if self.idle is not None else None
            idle_j += wall_s * (idle_w or 0.0)
            usage["cpu_j"] = joules - wall_s * (idle_w or 0.0)
        held = _gpus_held()
        if held:  # a GPU that was not used is none of this block's cost
            usage["gpu_s"] = wall_s * held
            if (by_gpu := self._gpus.by_device()) is not None:
                idle_of = self.idle.gpu_w if self.idle is not None else {}
                gpu_idle_j = wall_s * sum(idle_of.get(str(number), 0.0) for number in by_gpu)
                idle_j += gpu_idle_j
                usage["gpu_j"] = sum(by_gpu.values()) - gpu_idle_j
        if self.idle is not None:
            usage["idle_j"] = idle_j
        return usage

    def cost(self, inherited: Usage | None = None, disk_bytes: int | None = None) -> Rows:
        """Return name → row, see `Declared.rows`.

        inherited   what the block uses of work that was done once for several: rows of their own,
                    whose names begin so
        disk_bytes  that it wrote
        """
        usage = self.usage() | ({} if disk_bytes is None else {"disk_bytes": float(disk_bytes)})
        rows = self.declared.rows(usage)
        rows["memory_peak_bytes"] = _row(self.peak_bytes, "bytes")
        if self.gpu_peak_bytes is not None:
            rows["gpu_memory_peak_bytes"] = _row(self.gpu_peak_bytes, "bytes")
        if inherited is not None:
            own = self.declared.rows(inherited)
            rows |= {INHERITED + name: row for name, row in own.items()}
        return rows


def is_energy_known(watts: float | None, *, on_gpu: bool, powercap: Path = POWERCAP) -> bool:
    """Return whether a Meter with these watts would report joules on this machine.

    on_gpu   the block computes on a GPU, whose counter then counts
    """
    return (
        watts is not None or Rapl(powercap).is_readable() or (on_gpu and GpuEnergy().is_readable())
    )


def _row(value: float, unit: str, source: str = MEASURED) -> Row:
    return {"value": value, "unit": unit, "source": source}


def _unknown(unit: str, reason: str) -> Row:
    return {"value": None, "unit": unit, "source": None, "note": reason}


# ---------------------------------------------------------------- time and memory


class _Companions:
    """What processes have used that shared a trial with this one, since each began and in all."""

    cpu_s, gpus = 0.0, 0


def add_companion(cpu_s: float, gpus: int) -> None:
    """Count what a process used that shared a trial with this one and has ended."""
    _Companions.cpu_s += cpu_s
    _Companions.gpus += gpus


def own_usage() -> tuple[float, int]:
    """Return what `add_companion` takes, of this process."""
    return _cpu_s(), _gpus_held()


def _cpu_s() -> float:
    """Return CPU seconds of this process, its children that have ended, and its companions."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used) + _Companions.cpu_s


def _peak_bytes() -> int:
    """Return the peak memory of this process since the last reset.

    Since its start where the kernel cannot reset.
    """
    for line in text_of(Path("/proc/self/status")).splitlines():
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


def _gpus_held() -> int:
    """Return how many GPUs this process has tensors on, or had in the running block.

    Those of companions that have ended are counted with them.
    """
    cuda = _cuda()
    if cuda is None:
        return 0
    own = [i for i in range(cuda.device_count()) if cuda.max_memory_allocated(i) > 0]
    return len(own) + _Companions.gpus
