"""NVIDIA's management library (NVML) by ctypes: energy and load of the GPUs, without a package.

It comes with the driver. Where there is none, there are no devices and nothing is raised.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Any

LIBRARY = "libnvidia-ml.so.1"


class _Memory(ctypes.Structure):
    _fields_ = [
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    ]


class _Utilization(ctypes.Structure):
    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]  # percent of the last interval


@dataclass(frozen=True)
class GpuLoad:
    """Load of one GPU; None where the device does not report it."""

    used_bytes: int | None
    total_bytes: int | None
    busy_percent: int | None
    power_w: float | None


class Nvml:
    """Connection to the library; `close` releases it."""

    def __init__(self, library: str = LIBRARY):
        self._library = _load(library)
        if self._library is not None and self._library.nvmlInit_v2() != 0:
            self._library = None

    def close(self) -> None:
        """Release the library: from then on there are no devices."""
        if self._library is not None:
            self._library.nvmlShutdown()
        self._library = None

    def devices(self) -> list[int]:
        """Return the numbers of the machine's GPUs."""
        count = ctypes.c_uint()
        if self._library is None or self._library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return []
        return list(range(count.value))

    def visible_devices(self) -> list[int]:
        """Return the numbers of the GPUs that CUDA_VISIBLE_DEVICES leaves to this process.

        All of them where it names them by other than numbers.
        """
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        if not all(word.isdigit() for word in chosen):
            return self.devices()
        return [number for number in self.devices() if str(number) in chosen]

    def energy_mj(self, number: int) -> int | None:
        """Return the energy in millijoules that a GPU has used since its driver was loaded.

        None if the device does not count it.
        """
        energy = ctypes.c_ulonglong()
        is_known = self._read("nvmlDeviceGetTotalEnergyConsumption", number, energy)
        return energy.value if is_known else None

    def load(self, number: int) -> GpuLoad:
        """Return the memory, utilization and power of a GPU at this moment."""
        memory, busy, power_mw = _Memory(), _Utilization(), ctypes.c_uint()
        has_memory = self._read("nvmlDeviceGetMemoryInfo", number, memory)
        has_busy = self._read("nvmlDeviceGetUtilizationRates", number, busy)
        has_power = self._read("nvmlDeviceGetPowerUsage", number, power_mw)
        return GpuLoad(
            memory.used if has_memory else None,
            memory.total if has_memory else None,
            busy.gpu if has_busy else None,
            power_mw.value / 1000 if has_power else None,
        )

    def _read(self, function: str, number: int, result: Any) -> bool:
        """Fill `result` with what a function says of a device; return whether it said anything."""
        if self._library is None:
            return False
        device = ctypes.c_void_p()
        if self._library.nvmlDeviceGetHandleByIndex_v2(number, ctypes.byref(device)) != 0:
            return False
        status: int = getattr(self._library, function)(device, ctypes.byref(result))
        return status == 0


def _load(library: str) -> Any:
    """Return the loaded library; None if it is not installed."""
    try:
        return ctypes.CDLL(library)
    except OSError:
        return None
