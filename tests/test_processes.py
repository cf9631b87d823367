"""A program of the warm process ends, reads, writes and is killed as one of a new interpreter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import processes
import pytest

STARTS = {"warm": processes.Popen, "cold": subprocess.Popen}
SAYS = """
import os, sys
print(__name__, sys.argv, os.getcwd(), os.environ.get("OWN"), os.environ.get("HOME"), sys.path[0])
print(os.getsid(0) == os.getpid(), sys.stdin.read(), file=sys.stderr)
sys.exit(7)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["-c", "-m", "file.py"])
def test_both_say_the_same(how, tmp_path):
    (tmp_path / "says.py").write_text(SAYS)
    words = {"-c": ["-c", SAYS], "-m": ["-m", "says"], "file.py": ["says.py"]}[how]
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    said = set()
    for name, start in STARTS.items():
        with start(
            [sys.executable, *words, "word"],
            cwd=tmp_path,
            env=environment | {"OWN": "given"},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process:
            said.add((*process.communicate("read"), process.returncode))
            assert getattr(process, "is_warm", False) == (name == "warm")
    ((out, err, code),) = said
    assert code == 7
    assert err == "True read\n"
    assert "'word'] " in out


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_told_as_of_a_child(number):
    code = "import time; print('here', flush=True); time.sleep(60)"
    with processes.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.poll() is None
        assert process.stdout.readline() == b"here\n"
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(timeout=20) == -number


@pytest.mark.slow
def test_other_threads_and_other_programs_start_cold():
    code = "import sys; print('torch' in sys.modules)"
    for words, environment in [
        ([sys.executable, "-c", code], os.environ | {"OMP_NUM_THREADS": "2"}),
        ([sys.executable, "-S", "-c", code], None),
    ]:
        done = processes.run(words, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == "False\n"
