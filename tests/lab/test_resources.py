"""The sampler: mlflow's names, at the start, on time and at the end, and never in the way of a
trial.
"""

from __future__ import annotations

import math
import time

import pytest

from tlx import files
from tlx.lab import nvml, resources
from tlx.lab.cost import GpuEnergy


def test_samples_carry_the_names_of_system_metrics(tmp_path):
    found = []
    with resources.Sampler(found.append, every_s=0.05, folder=tmp_path):
        time.sleep(0.4)
    assert len(found) >= 3
    for sample in found:
        assert {
            "system/cpu_utilization_percentage",
            "system/system_memory_usage_percentage",
            "system/process_memory_usage_megabytes",
            "system/disk_usage_percentage",
        } <= set(sample)
        assert all(
            name.startswith("system/") and math.isfinite(value) for name, value in sample.items()
        )
        assert 0 < sample["system/system_memory_usage_percentage"] <= 100


def test_a_short_trial_has_a_sample_too():
    found = []
    with resources.Sampler(found.append, every_s=3600):
        pass
    assert len(found) == 1


def test_the_end_does_not_wait_for_the_interval():
    with resources.Sampler(lambda sample: None, every_s=3600):
        time.sleep(0.3)


def test_a_failing_journal_ends_the_sampling_only():
    calls = []

    def full(sample):
        calls.append(sample)
        raise OSError("disk full")

    with resources.Sampler(full, every_s=0.01):
        time.sleep(0.3)
    assert len(calls) == 1


def test_sampler_and_trial_write_one_journal(tmp_path):
    with files.Journal(tmp_path / "j") as journal:
        with resources.Sampler(
            lambda found: journal.append({"t": "system", "ts": 1, "values": found}), every_s=1e-3
        ):
            for step in range(200):
                journal.append({"t": "metrics", "step": step, "ts": step, "values": {"x": 1.0}})
        assert files.Journal.read(tmp_path / "j") == journal.records
    assert [r["step"] for r in files.Journal.read(tmp_path / "j") if r["t"] == "metrics"] == list(
        range(200)
    )


class FakeLibrary:
    """NVML with two GPUs that do not report their power; the second counts no energy."""

    UNSUPPORTED = 3

    def __init__(self):
        self.users = 0

    def nvmlInit_v2(self):
        self.users += 1
        return 0

    def nvmlShutdown(self):
        self.users -= 1
        return 0

    def nvmlDeviceGetCount_v2(self, count):
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, number, device):
        device._obj.value = number + 1
        return 0

    def nvmlDeviceGetMemoryInfo(self, device, memory):
        memory._obj.used, memory._obj.total = 2 * 10**9 * device.value, 8 * 10**9
        return 0

    def nvmlDeviceGetUtilizationRates(self, device, rates):
        rates._obj.gpu = 40
        return 0

    def nvmlDeviceGetPowerUsage(self, device, power):
        return self.UNSUPPORTED

    def nvmlDeviceGetTotalEnergyConsumption(self, device, energy):
        energy._obj.value = 5000
        return 0 if device.value == 1 else self.UNSUPPORTED


@pytest.fixture
def library(monkeypatch):
    fake = FakeLibrary()
    monkeypatch.setattr(nvml, "_load", lambda name: fake)
    return fake


def test_each_gpu_is_sampled_as_far_as_it_tells(library):
    found = []
    with resources.Sampler(found.append, every_s=3600):
        pass
    assert found[0]["system/gpu_0_memory_usage_percentage"] == pytest.approx(25)
    assert found[0]["system/gpu_1_memory_usage_percentage"] == pytest.approx(50)
    assert found[0]["system/gpu_1_memory_usage_megabytes"] == pytest.approx(4000)
    assert found[0]["system/gpu_0_utilization_percentage"] == 40
    assert "system/gpu_0_power_usage_watts" not in found[0]
    assert library.users == 0


def test_without_nvml_there_are_no_gpu_names(monkeypatch):
    monkeypatch.setattr(nvml, "_load", lambda name: None)
    found = []
    with resources.Sampler(found.append, every_s=3600):
        pass
    assert not [name for name in found[0] if "gpu" in name]


@pytest.mark.parametrize(
    ("variable", "seen"), [(None, [0, 1]), ("1", [1]), ("0,1", [0, 1]), ("GPU-5a", [0, 1])]
)
def test_energy_is_that_of_the_visible_gpus(library, monkeypatch, variable, seen):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert nvml.Nvml().visible_devices() == seen
    assert GpuEnergy().is_readable() == (0 in seen)  # the second one counts none


def test_an_absent_library_has_no_devices():
    absent = nvml.Nvml("libdoes-not-exist.so")
    assert absent.devices() == absent.visible_devices() == []
    assert absent.energy_mj(0) is None
    assert absent.load(0) == nvml.GpuLoad(None, None, None, None)
    absent.close()
