"""Every number has a source, and where nothing is known there is no number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from tlx.errors import TlxError, UsageError
from tlx.lab import cost, energy, environment, grid, redaction
from tlx.lab.cost import Carbon, Declared
from tlx.lab.energy import GpuEnergy, IdlePower, Rapl
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


def Meter(**given):
    declared = {name: given.pop(name) for name in ("watts", "carbon") if name in given}
    if "powercap" in given:
        given.setdefault("stat", given["powercap"] / "no-stat")
    return cost.Meter(Declared(**declared), **given)


def stat(folder: Path, *, user: int, idle: int = 0) -> Path:
    """Write the first lines of a /proc/stat: ticks of processes, and idle ones."""
    path = folder / "stat"
    path.write_text(f"cpu  {user} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n")
    return path


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


def test_processes_that_shared_the_work_count_in_the_block_in_which_they_ended(monkeypatch):
    seen = types.SimpleNamespace(
        device_count=lambda: 2,
        max_memory_allocated=lambda number: 1 - number,  # the first alone
        reset_peak_memory_stats=lambda: None,
    )
    monkeypatch.setattr(cost, "_cuda", lambda: seen)
    with Meter() as meter:
        cost.add_companion(7.5, 3)
        usage = meter.usage()
    assert 7.5 <= usage["cpu_s"] < 8.5
    assert usage["gpu_s"] == pytest.approx(4 * usage["wall_s"], rel=0.01)
    with Meter() as meter:
        usage = meter.usage()
    assert usage["cpu_s"] < 1
    assert usage["gpu_s"] == pytest.approx(usage["wall_s"], rel=0.01)


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
    for name, unit in (("energy_j", "J"), ("co2_g", "g")):
        assert rows[name] == {
            "value": None,
            "unit": unit,
            "source": None,
            "note": cost.NO_COUNTER,
        }


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
    assert (energy["value"], energy["source"], energy["parts"]) == (0.75, "counter", {"cpu": 0.75})


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

    readings = iter([{0: 0}, {0: 1000}, {0: 6000}])
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
        "source": "counter",
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
        assert row["source"] in ("measured", "modelled", None)
        assert (row["value"] is None) == (row["source"] is None)
        assert row["value"] is not None or row["note"]


# ---------------------------------------------------------------- counters: idle power and share


def idle_of(folder: Path, *values: int, **given) -> IdlePower | None:
    """Sample idle power of 5 s of a clock that counts the pauses, the counters set after it."""
    passed = []

    def pause(seconds: float) -> bool:
        passed.append(seconds)
        if len(passed) == 50:
            rapl(folder, *values)
            stat(folder, user=1000)
        return False

    return energy.sample_idle(
        with_gpus=False,
        powercap=folder,
        stat=folder / "stat",
        pause=pause,
        clock=lambda: sum(passed),
        **given,
    )


def test_idle_power_is_that_of_all_packages_over_five_seconds(tmp_path):
    rapl(tmp_path, 900_000, 0)
    stat(tmp_path, user=0)
    idle = idle_of(tmp_path, 400_000, 500_000)  # one wraps around
    assert idle.seconds == pytest.approx(5.0)
    assert idle.cpu_w == pytest.approx((0.5 + 0.5) / 5.0)
    assert idle.busy == pytest.approx(1000 / os.sysconf("SC_CLK_TCK") / 5.0)
    assert IdlePower.from_json(json.loads(json.dumps(idle.to_json()))) == idle


@pytest.mark.parametrize("is_there", [False, True])
def test_a_machine_without_a_readable_counter_is_not_kept_waiting(tmp_path, is_there):
    if is_there:
        rapl(tmp_path, 1, 2)
        (tmp_path / "intel-rapl:1" / "energy_uj").unlink()

    def pause(seconds):
        raise AssertionError("it waits")

    assert energy.sample_idle(with_gpus=False, powercap=tmp_path, pause=pause) is None


def test_a_sample_that_is_stopped_is_none(tmp_path):
    rapl(tmp_path, 1)
    assert (
        energy.sample_idle(with_gpus=False, powercap=tmp_path, pause=lambda seconds: True) is None
    )


def test_idle_power_is_subtracted_from_what_a_block_is_charged(tmp_path):
    rapl(tmp_path, 0, limit=10**12)
    idle = IdlePower("here", 5.0, 1.0)
    with Meter(powercap=tmp_path, idle=idle) as meter:
        rapl(tmp_path, 50_000_000, limit=10**12)
    row = meter.cost()["energy_j"]
    wall_s = meter.cost()["wall_s"]["value"]
    assert row["value"] == pytest.approx(50.0 - wall_s)
    assert row["idle_j"] == pytest.approx(wall_s)
    assert "idle power subtracted" in row["note"]
    with Meter(powercap=tmp_path) as meter:
        pass
    assert "idle power included" in meter.cost()["energy_j"]["note"]


def test_less_than_the_idle_power_is_no_energy_and_not_a_negative_one():
    usage = {"cpu_s": 1.0, "cpu_j": -3.0, "idle_j": 10.0}
    assert Declared().rows(usage)["energy_j"]["value"] == 0.0


def test_our_share_of_a_counter_is_told_by_cpu_time_and_all_of_it_is_the_upper_end(tmp_path):
    ticks = os.sysconf("SC_CLK_TCK")
    rapl(tmp_path, 0, limit=10**12)
    with Meter(powercap=tmp_path, stat=stat(tmp_path, user=0), carbon=Carbon(360, "x")) as meter:
        burn(0.05)
        rapl(tmp_path, 10_000_000, limit=10**12)
        stat(tmp_path, user=10 * ticks, idle=99 * ticks)
    rows = meter.cost()
    row, share = rows["energy_j"], rows["cpu_s"]["value"] / 10
    assert row["source"] == "counter, our share"
    assert row["value"] == row["low"] == pytest.approx(10 * share)
    assert row["high"] == pytest.approx(10.0)
    assert rows["co2_g"]["high"] == pytest.approx(10 * 360 / 3.6e6)
    assert rows["co2_g"]["low"] == rows["co2_g"]["value"]


def test_more_cpu_time_than_the_machine_tells_is_all_of_it():
    row = Declared().rows({"cpu_s": 2.0, "machine_cpu_s": 1.0, "cpu_j": 7.0})["energy_j"]
    assert row["value"] == 7.0
    assert "low" not in row


@pytest.mark.parametrize("text", ["", "cpu", "cpu 1 2", "intr 1 2 3 4 5 6 7 8 9"])
def test_a_kernel_that_tells_no_cpu_time_is_not_guessed(tmp_path, text):
    (tmp_path / "stat").write_text(text)
    assert energy.machine_cpu_s(tmp_path / "stat") is None


@pytest.mark.parametrize(
    ("ends", "low", "high"), [(None, 4.0, 12.0), ((7.0, 9.5), 7.0, 9.5)], ids=["half", "declared"]
)
def test_a_modelled_energy_has_the_declared_range(ends, low, high):
    row = Declared(8.0, ends).rows({"cpu_s": 1.0})["energy_j"]
    assert (row["low"], row["value"], row["high"]) == (low, 8.0, high)


def test_a_gpu_without_counter_makes_the_energy_unknown_and_says_why():
    row = Declared(8.0).rows({"cpu_s": 1.0, "gpu_s": 2.0})["energy_j"]
    assert (row["value"], row["note"]) == (None, cost.NO_GPU_COUNTER)


def test_usages_add_up_and_what_one_does_not_tell_is_unknown():
    cpu = {"wall_s": 1.0, "cpu_s": 2.0, "cpu_j": 5.0}
    assert cost.added(cpu, {"wall_s": 1.0, "cpu_s": 1.0}) == {"wall_s": 2.0, "cpu_s": 3.0}
    on_gpu = {"wall_s": 1.0, "cpu_s": 2.0, "cpu_j": 1.0, "gpu_s": 1.0, "gpu_j": 4.0}
    assert cost.added(cpu, on_gpu) == cost.added(on_gpu, cpu)
    assert cost.added(cpu, on_gpu)["gpu_j"] == 4.0
    assert cost.subtracted(cost.added(cpu, cpu), cpu) == cpu
    assert cost.scaled(cpu, 0.5)["cpu_j"] == 2.5


def test_inherited_usage_has_rows_of_its_own(tmp_path):
    with Meter(watts=4.0, powercap=tmp_path) as meter:
        pass
    rows = meter.cost({"wall_s": 3.0, "cpu_s": 2.0, "disk_bytes": 10.0}, disk_bytes=7)
    assert rows["inherited_energy_j"]["value"] == 8.0
    assert rows["inherited_cpu_s"]["value"] == 2.0
    assert (rows["disk_bytes"]["value"], rows["inherited_disk_bytes"]["value"]) == (7.0, 10.0)
    assert rows["energy_j"]["value"] < 8.0
    unknown = meter.cost({"wall_s": 3.0})["inherited_energy_j"]
    assert unknown["value"] is None


@pytest.mark.parametrize("load", [1, 2])
def test_a_busy_loop_is_charged_its_cpu_seconds_beside_noisy_neighbours(tmp_path, load):
    """Closure: n CPU seconds are charged n ± 3 %, energy is watts × that and says modelled."""
    noise = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * load)]
    try:
        with Meter(watts=9.0, powercap=tmp_path) as meter:
            burn(0.8)
    finally:
        for process in noise:
            process.kill()
            process.wait()
    rows = meter.cost()
    assert rows["cpu_s"]["value"] == pytest.approx(0.8, rel=0.03)
    assert rows["energy_j"]["value"] == pytest.approx(9.0 * rows["cpu_s"]["value"])
    assert rows["energy_j"]["source"] == "modelled"


# ---------------------------------------------------------------- grid factors


def test_the_table_of_grid_factors_is_small_and_every_row_has_year_and_source():
    assert grid.TABLE.stat().st_size <= 10_000
    assert "CC BY 4.0" in grid.TABLE.read_text()
    rows = grid.factors()
    assert len(rows) > 200
    for code, row in rows.items():
        assert code == row.iso3 == code.upper()
        assert len(code) == 3
        assert 0 < row.g_per_kwh < 1500
        assert 2000 < row.year < 2030
        assert row.source
    assert rows["DEU"].g_per_kwh == 381


@pytest.mark.parametrize(
    ("asked", "near"),
    [("DUE", "DEU (Germany)"), ("germany", "DEU (Germany)"), ("swe den", "SWE (Sweden)")],
)
def test_an_unknown_country_is_refused_with_the_nearest_codes(asked, near):
    with pytest.raises(UsageError, match="unknown country") as caught:
        grid.factor_of(asked)
    assert near in caught.value.expected
    assert "--grid" in caught.value.remedy


def test_a_country_gives_grams_with_year_and_attribution():
    from tlx.lab.settings import Settings

    declared = cost.declared_of(Settings(country="deu", watts=10.0))
    row = declared.rows({"cpu_s": 3.6e5})["co2_g"]
    assert row["value"] == pytest.approx(381.0)
    assert "Germany 2023" in row["note"]
    assert "CC BY 4.0" in row["note"]
    assert cost.declared_of(Settings(watts=10.0)).rows({"cpu_s": 1.0})["co2_g"]["value"] is None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"country": "XYZ"}, "unknown country"),
        ({"country": "DEU", "grid": 300.0}, "--grid and --country"),
        ({"watts_range": (1.0, 2.0)}, "--watts-range 1,2"),
        ({"watts": 9.0, "watts_range": (1.0, 2.0)}, "--watts-range 1,2"),
        ({"watts": 9.0, "watts_range": (1.0,)}, "--watts-range 1"),
    ],
)
def test_declarations_that_cannot_be_are_refused(given, says):
    from tlx.lab.settings import Settings

    with pytest.raises(TlxError, match=says):
        Settings(**given)


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
