"""Locks between processes: one holder, freed by its death, also where the file system's own locks
do nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time

import pytest

from tlx import files, locks
from tlx.errors import BusyError, ResourceError


def test_a_lock_is_one_holders(tmp_path):
    path = tmp_path / "locks" / "a"
    with (
        locks.lock(path),
        pytest.raises(BusyError, match=f"process {os.getpid()}") as caught,
        locks.lock(path),
    ):
        pass
    assert caught.value.exit_code == 8
    with locks.lock(path):
        pass


def test_a_lock_left_by_a_dead_process_is_free(tmp_path):
    path = tmp_path / "a"
    code = (
        f"import os; from pathlib import Path; from tlx import locks\n"
        f"with locks.lock(Path({str(path)!r})): os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    with locks.lock(path):
        pass


def test_waiting_for_a_lock(tmp_path):
    path = tmp_path / "a"
    code = (
        f"import time; from pathlib import Path; from tlx import locks\nwith "
        f"locks.lock(Path({str(path)!r})):\n"
        "  print('held', flush=True); time.sleep(0.3)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with locks.lock(path, wait=True):
            assert path.read_text() == f"{os.getpid()}\n"


# ---------------------------------------------------------------- file systems whose locks do
# nothing

NO_OP_FLOCK = """
import errno, fcntl, os, sys, time
from pathlib import Path
if sys.argv[1] == "no-op":
    fcntl.flock = lambda fd, operation: None
elif sys.argv[1] == "refused":
    def refuse(fd, operation): raise OSError(errno.ENOSYS, "Function not implemented")
    fcntl.flock = refuse
from tlx import locks
from tlx.errors import BusyError
"""


@pytest.fixture(params=["no-op", "refused"])
def flockless(request, monkeypatch):
    """This process's flock does nothing, or is refused; returns the word for NO_OP_FLOCK."""

    def refuse(fd, operation):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(
        fcntl, "flock", refuse if request.param == "refused" else lambda fd, operation: None
    )
    locks._kind_of_locks.cache_clear()
    yield request.param
    locks._kind_of_locks.cache_clear()


def process(how, code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", NO_OP_FLOCK + code, how, *map(str, arguments)],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


HOLD = """
with locks.lock(Path(sys.argv[2]), shared=sys.argv[3] == "shared"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_lease_is_one_holders(tmp_path, flockless):
    path = tmp_path / "a"
    with process(flockless, HOLD, path, "alone") as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match=f"process {holder.pid}"), locks.lock(path):
            pass
        with pytest.raises(BusyError), locks.lock(path, shared=True):
            pass
        holder.stdin.write("\n")
    with locks.lock(path), pytest.raises(BusyError), locks.lock(path):
        pass
    assert [name for name in os.listdir(tmp_path) if name != "a"] == []


def test_a_lease_may_be_shared(tmp_path, flockless):
    path = tmp_path / "a"
    with process(flockless, HOLD, path, "shared") as holder:
        assert holder.stdout.readline() == "held\n"
        with locks.lock(path, shared=True):
            pass
        with pytest.raises(BusyError), locks.lock(path):
            pass
        holder.stdin.write("\n")
    with locks.lock(path):
        pass


@pytest.mark.parametrize("how", ["alone", "shared"])
def test_a_dead_process_of_this_machine_frees_its_lease_at_once(tmp_path, flockless, how):
    with process(flockless, HOLD, tmp_path / "a", how) as holder:
        assert holder.stdout.readline() == "held\n"
        holder.kill()
        holder.wait()
    with locks.lock(tmp_path / "a"):
        pass


def of_another_machine(path, pid=1):
    """A claim as another machine writes it."""
    files.write_text(path, f'{{"token": "t", "host": "elsewhere", "boot": "other", "pid": {pid}}}')


def test_a_lease_of_another_machine_is_taken_over_when_it_is_no_longer_renewed(
    tmp_path, flockless, monkeypatch
):
    now = [0.0]
    monkeypatch.setattr(locks.time, "monotonic", lambda: now[0])
    path = tmp_path / "a"
    of_another_machine(tmp_path / "a.owner")
    for renewals in range(3):
        for _ in range(3):
            now[0] += locks.LEASE_S / 3
            with pytest.raises(BusyError, match="on elsewhere"), locks.lock(path):
                pass
        os.utime(tmp_path / "a.owner", (renewals, renewals))
    with pytest.raises(BusyError), locks.lock(path):
        pass
    now[0] += locks.LEASE_S + 1
    with locks.lock(path) as held:
        held.confirm()


def test_whoever_was_paused_for_too_long_is_told_before_it_commits(tmp_path, flockless):
    with locks.lock(tmp_path / "a") as held:
        held.confirm()
        of_another_machine(tmp_path / "a.owner")
        with pytest.raises(BusyError, match="lease-lost"):
            held.confirm()
    assert (tmp_path / "a.owner").exists(), "another's claim is not released"


def test_of_many_that_take_over_one_dead_lease_one_gets_it(tmp_path, flockless):
    """Four processes at once, twenty times; each says when it holds the lock and when it lets
    go.
    """
    code = """
for number in range(20):
    while True:
        try:
            with locks.lock(Path(sys.argv[2])):
                with open(sys.argv[3], "a") as log: log.write(f"in {os.getpid()}\\n")
                time.sleep(0.001)
                with open(sys.argv[3], "a") as log: log.write(f"out {os.getpid()}\\n")
            break
        except BusyError:
            time.sleep(0.002)
"""
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        text=True,
        capture_output=True,
        check=True,
    ).stdout.strip()
    claim = locks._content("dead").replace(
        f'"pid": {os.getpid()}'.encode(), f'"pid": {dead}'.encode()
    )
    (tmp_path / "a.owner").write_bytes(claim)
    crowd = [process(flockless, code, tmp_path / "a", tmp_path / "log") for _ in range(4)]
    for one in crowd:
        one.communicate()
        assert one.returncode == 0
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 2 * 20 * len(crowd)
    for entered, left in zip(lines[::2], lines[1::2], strict=True):
        assert (entered, left) == (f"in {entered.split()[1]}", f"out {entered.split()[1]}")


def test_where_the_lock_service_is_down_it_is_said(tmp_path, monkeypatch):
    with locks.lock(tmp_path / "a"):
        pass  # this file system's locks are known to work

    def refuse(fd, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(ResourceError, match="TLX_LOCKS=lease") as caught,
        locks.lock(tmp_path / "a"),
    ):
        pass
    assert caught.value.exit_code == 5


def test_a_network_file_system_has_leases_as_well(tmp_path, monkeypatch):
    """Its locks may hold against processes of this machine only."""
    monkeypatch.setattr(locks, "_file_system", lambda folder: "nfs4")
    locks._kind_of_locks.cache_clear()
    try:
        with locks.lock(tmp_path / "a"):
            assert (tmp_path / "a.owner").exists()
    finally:
        locks._kind_of_locks.cache_clear()


def test_the_file_system_of_a_folder_is_known(tmp_path):
    assert locks._file_system(tmp_path)
    assert locks._file_system("/proc/self") == "proc"


def test_a_process_renews_what_it_holds(tmp_path, flockless, monkeypatch):
    monkeypatch.setattr(locks, "RENEW_S", 0.01)
    monkeypatch.setattr(locks, "_renewing", None)
    with locks.lock(tmp_path / "a"):
        os.utime(tmp_path / "a.owner", (1, 1))
        while (tmp_path / "a.owner").stat().st_mtime == 1:
            time.sleep(0.01)


def test_two_processes_never_make_one_trial_twice_where_flock_does_nothing(tmp_path):
    """Each waits for the other to begin; one of the two is told that the other is at it, or finds
    its result.
    """
    code = """
from tlx.lab.store import Store
from tlx.result import Result
store, log, barrier = Store(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
(barrier / str(os.getpid())).touch()
while len(list(barrier.iterdir())) < 2:
    time.sleep(0.001)
for number in range(12):
    key = f"trial-{number}"

    def make(draft):
        with open(log, "a") as file: file.write(f"{key}\\n")
        draft.log(0, {"loss": 1.0})
        time.sleep(0.01)
        return Result(key=key, kind="Tiny", spec={}, scores={"loss": 1.0})

    while store.find(key) is None:
        try:
            store.get_or_compute(key, make)
        except BusyError:
            time.sleep(0.002)
"""
    (tmp_path / "barrier").mkdir()
    pair = [
        process("no-op", code, tmp_path / "store", tmp_path / "log", tmp_path / "barrier")
        for _ in range(2)
    ]
    for one in pair:
        one.communicate()
        assert one.returncode == 0
    assert sorted((tmp_path / "log").read_text().split()) == sorted(f"trial-{n}" for n in range(12))
