"""Every number has a source, and where nothing is known there is no number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tlx.lab import cost, environment, redaction
from tlx.lab.cost import Carbon, GpuEnergy, Meter, Rapl
from tlx.lab.nvml import Nvml

ROOT = Path(__file__).resolve().parents[2]


def rapl(folder: Path, *values: int, limit: int = 1_000_000) -> Path:
    """A powercap tree: packages with these counters, and zones that are parts or wholes of them."""
    zones = {f"intel-rapl:{i}": (f"package-{i}", value) for i, value in enumerate(values)}
    zones |= {"intel-rapl:0:0": ("core", 5), "intel-rapl:9": ("psys", 7)}
    for zone, (name, value) in zones.items():
        (folder / zone).mkdir(parents=True, exist_ok=True)
        for file, text in (("name", name), ("energy_uj", value), ("max_energy_range_uj", limit)):
            (folder / zone / file).write_text(f"{text}\n")
    return folder


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_seconds_are_those_of_the_clock_and_of_the_processor():
    with Meter() as meter:
        burn(0.1)
        time.sleep(0.2)
    rows = meter.cost()
    assert 0.3 <= rows["wall_s"]["value"] < 3
    assert 0.1 <= rows["cpu_s"]["value"] < 0.2
    assert rows["wall_s"]["source"] == rows["cpu_s"]["source"] == "measured"


def test_children_that_were_waited_for_count():
    with Meter() as meter:
        code = "import time\nwhile time.process_time() < 0.3: pass"
        subprocess.run([sys.executable, "-c", code], check=True)
    assert meter.cpu_s >= 0.25


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="the kernel cannot reset the peak"
)
def test_the_peak_is_that_of_the_block_also_when_blocks_are_nested():
    code = """
from tlx.lab.cost import Meter
size = 200 << 20
with Meter() as outer:
    held = b"x" * size
    del held
    with Meter() as inner:
        pass
with Meter() as after:
    pass
most = outer.peak_bytes
print(most - inner.peak_bytes > size // 2, most - after.peak_bytes > size // 2)
"""  # in a process of its own: one that has held gigabytes before may reuse them
    found = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert found.split() == ["True", "True"]


def test_without_counter_and_without_watts_there_is_no_energy(tmp_path):
    with Meter(powercap=tmp_path, carbon=Carbon(400, "declared")) as meter:
        burn(0.01)
    rows = meter.cost()
    assert rows["energy_j"] == {"value": None, "unit": "J", "source": None}
    assert rows["co2_g"] == {"value": None, "unit": "g", "source": None}


@pytest.mark.parametrize(
    ("counters", "watts"), [((), None), ((), 0.0), ((), 8.0), ((5,), None), ((5,), 8.0)]
)
def test_energy_is_called_known_exactly_where_a_meter_tells_it(counters, watts, tmp_path):
    folder = rapl(tmp_path, *counters) if counters else tmp_path
    with Meter(powercap=folder, watts=watts) as meter:
        pass
    told = meter.cost()["energy_j"]["value"] is not None
    assert cost.is_energy_known(watts, on_gpu=False, powercap=folder) == told


def test_declared_watts_give_a_modelled_energy(tmp_path):
    with Meter(powercap=tmp_path, watts=8) as meter:
        burn(0.05)
    energy = meter.cost()["energy_j"]
    assert energy["value"] == pytest.approx(8 * meter.cost()["cpu_s"]["value"])
    assert energy["source"] == "modelled"
    assert "8 W declared" in energy["note"]
    assert meter.cost()["co2_g"]["value"] is None  # no declared factor, no number


def test_a_counter_is_preferred_and_adds_up_over_packages(tmp_path):
    rapl(tmp_path, 100, 200)
    with Meter(powercap=tmp_path, watts=8) as meter:
        rapl(tmp_path, 500_100, 250_200)
    energy = meter.cost()["energy_j"]
    assert (energy["value"], energy["source"], energy["parts"]) == (0.75, "measured", {"cpu": 0.75})


def test_a_counter_that_wraps_around_is_unwrapped(tmp_path):
    counter = Rapl(rapl(tmp_path, 900_000))
    counter.start()
    for value in (100_000, 700_000, 300_000):
        rapl(tmp_path, value)
        counter.sample()
    assert counter.stop() == pytest.approx(0.2 + 0.6 + 0.6)


def test_a_counter_that_cannot_be_read_is_no_counter(tmp_path):
    rapl(tmp_path, 100, 200)
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    with Meter(powercap=tmp_path) as meter:
        pass
    assert meter.cost()["energy_j"]["value"] is None
    assert GpuEnergy(Nvml("libdoes-not-exist.so")).stop() is None


def test_carbon_is_energy_times_overhead_times_the_declared_factor(tmp_path):
    rapl(tmp_path, 0, limit=10**13)
    with Meter(powercap=tmp_path, carbon=Carbon(380.0, "a grid operator, 2024", pue=1.5)) as meter:
        rapl(tmp_path, 3_600_000_000_000, limit=10**13)  # 1 kWh
    row = meter.cost()["co2_g"]
    assert row["value"] == pytest.approx(570.0)
    assert row["source"] == "modelled"
    assert row["factor"] == {"g_per_kwh": 380.0, "source": "a grid operator, 2024", "pue": 1.5}


def test_gpu_numbers_only_when_a_gpu_was_used(monkeypatch, tmp_path):
    class Cuda:
        def reset_peak_memory_stats(self):
            pass

        def device_count(self):
            return 2

        def max_memory_allocated(self, i):
            return 1000 * (i + 1)

    readings = iter([{0: 1000}, {0: 6000}, {0: 1000}, {0: 6000}])
    monkeypatch.setattr(GpuEnergy, "_read_mj", lambda self: next(readings))
    with Meter(powercap=tmp_path) as meter:
        pass
    assert "gpu_memory_peak_bytes" not in meter.cost()
    assert meter.cost()["energy_j"]["value"] is None
    monkeypatch.setattr(cost, "_cuda", Cuda)
    with Meter(powercap=tmp_path) as meter:
        pass
    assert meter.cost()["gpu_memory_peak_bytes"]["value"] == 3000
    assert meter.cost()["energy_j"] | {"note": ""} == {
        "value": 5.0,
        "unit": "J",
        "source": "measured",
        "parts": {"gpu": 5.0},
        "note": "",
    }


@pytest.mark.parametrize("watts", [None, 5.0])
def test_cost_is_plain_json_and_every_row_has_its_source(watts, tmp_path):
    with Meter(watts=watts, powercap=tmp_path) as meter:
        pass
    rows = json.loads(json.dumps(meter.cost(), allow_nan=False))
    for row in rows.values():
        assert {"value", "unit", "source"} <= set(row)
        assert row["source"] in ("measured", "modelled", "declared", None)
        assert (row["value"] is None) == (row["source"] is None)


# ---------------------------------------------------------------- environment


def test_the_environment_is_plain_json_with_the_versions_that_matter():
    found = json.loads(json.dumps(environment.gather(), allow_nan=False))
    assert {"python", "tlx", "torch", "numpy", "pillow", "scikit-learn"} <= set(found["versions"])
    assert found["cpu"]["model"]
    assert found["cpu"]["cores"] >= 1
    assert found["threads"]["torch"] == 1


def test_the_environment_is_gathered_without_loading_anything_heavy():
    code = (
        "import sys\nfrom tlx.lab import environment\nenvironment.gather()\n"
        "print('torch' in sys.modules or 'mlflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "False\n"


@pytest.fixture
def checkout(tmp_path):
    def git(*arguments):
        subprocess.run(
            ["git", "-c", "user.name=n", "-c", "user.email=e@e", "-C", str(tmp_path), *arguments],
            check=True,
            capture_output=True,
        )

    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    git("remote", "add", "origin", "https://bob:s3cr3t@example.org/x/tlx.git?token=s3cr3t")
    return tmp_path


def test_the_commit_says_whether_it_was_changed_and_keeps_secrets(checkout):
    found = environment.commit(checkout)
    assert len(found["commit"]) == 40
    assert found["dirty"] is False
    assert found["remote"] == "https://example.org/x/tlx.git"
    (checkout / "file").write_text("2")
    assert environment.commit(checkout)["dirty"] is True


def test_no_commit_outside_a_checkout_or_without_git(checkout, monkeypatch):
    inside = checkout / "site-packages"
    inside.mkdir()
    assert environment.commit(inside) is None  # an installed tlx inside somebody else's checkout
    monkeypatch.setenv("PATH", "")
    assert environment.commit(checkout) is None


@pytest.mark.parametrize(
    "url",
    [
        "https://bob:s3cr3t@host/x",
        "https://s3cr3t@host/x",
        "postgres://u:s3c@r3t@host/x",
        "https://host/x?token=s3cr3t",
        "ssh://git:s3cr3t@host/x",
    ],
)
def test_no_secret_is_left_in_an_address(url):
    clean = redaction.public_address(url)
    assert clean.endswith("host/x")
    assert "s3c" not in clean
    assert "r3t" not in clean
