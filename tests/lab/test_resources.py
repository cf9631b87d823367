"""The sampler: mlflow's names, at the start, on time and at the end, and never in the way of a
trial.
"""

from __future__ import annotations

import math
import sys
import time
import types

import pytest

from tlx import files
from tlx.lab import resources


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
    begun = time.monotonic()
    with resources.Sampler(lambda sample: None, every_s=3600):
        time.sleep(0.3)
    assert time.monotonic() - begun < 2


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


class FakeNvml(types.ModuleType):
    class NVMLError(Exception):
        pass

    def __init__(self):
        super().__init__("pynvml")
        self.shut = 0

    def nvmlInit(self): ...
    def nvmlShutdown(self):
        self.shut += 1

    def nvmlDeviceGetCount(self):
        return 2

    def nvmlDeviceGetHandleByIndex(self, i):
        return i

    def nvmlDeviceGetMemoryInfo(self, i):
        return types.SimpleNamespace(used=2e9, total=8e9)

    def nvmlDeviceGetUtilizationRates(self, i):
        return types.SimpleNamespace(gpu=40)

    def nvmlDeviceGetPowerUsage(self, i):
        raise self.NVMLError


def test_each_gpu_is_sampled_as_far_as_it_tells(monkeypatch):
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    found = []
    with resources.Sampler(found.append, every_s=3600):
        pass
    assert found[0]["system/gpu_1_memory_usage_percentage"] == pytest.approx(25)
    assert found[0]["system/gpu_0_utilization_percentage"] == 40
    assert "system/gpu_0_power_usage_watts" not in found[0]
    assert fake.shut == 1


def test_without_nvml_there_are_no_gpu_names(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    found = []
    with resources.Sampler(found.append, every_s=3600):
        pass
    assert not [name for name in found[0] if "gpu" in name]
