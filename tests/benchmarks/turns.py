"""Processes that measure one thing each and take turns: what the benchmarks of kernels share.
Standard library only, as the interpreters of the peers run it too.

OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE are taken out of the environment of every process, so that
OpenBLAS is at its native speed.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

DROPPED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


# ---------------------------------------------------------------- in the process


def serve(handle):
    """Answer each line of JSON on standard input by handle(what it says), a dict, as one on
    standard output; what cannot be imported is said to be absent.
    """
    for line in sys.stdin:
        try:
            answer = handle(json.loads(line))
        except ImportError as error:
            answer = {"absent": str(error)}
        print(json.dumps(answer), flush=True)


def measured(call):
    """(what it gives, its wall and CPU seconds and the largest resident memory beyond what was
    there before, MiB).
    """
    Path("/proc/self/clear_refs").write_text("5")  # forgets the largest so far
    before, wall, cpu = _peak_mib(), time.perf_counter(), time.process_time()
    found = call()
    return found, {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "mib": _peak_mib() - before,
    }


def _peak_mib():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def blas():
    """The libraries of linear algebra that are loaded, and the kernels that they chose; "?" where
    nothing tells.
    """
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return "?"
    return ", ".join(
        sorted(
            {
                f"{i['internal_api']} {i['version']} {i.get('architecture') or ''}".strip()
                for i in threadpool_info()
                if i["user_api"] == "blas"
            }
        )
    )


# ---------------------------------------------------------------- in the benchmark


class Worker:
    """A process that measures one thing, over and over: the script that was started, called with
    --worker NAME.
    """

    def __init__(self, name, python, threads, **variables):
        environment = {k: v for k, v in os.environ.items() if k not in DROPPED}
        environment |= variables | dict.fromkeys(THREADS, str(threads))
        self.name, self.runs, self.blas = name, [], "?"
        self.process = subprocess.Popen(
            [python, "-W", "ignore", sys.argv[0], "--worker", name],
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def ask(self, **what):
        """What it answers; that it is absent where it has ended."""
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"absent": f"ended with {self.process.wait()}"}

    @property
    def counted(self):
        """Its runs without the first, unless that is the only one."""
        return self.runs[1:] or self.runs

    def median(self, what):
        return statistics.median(run[what] for run in self.counted)

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def in_turns(pythons, threads, repeats, data, *, once=(), keep=lambda name: ""):
    """Name → worker that has measured, of those whose packages are there.

    pythons  name → interpreter
    data     what each is asked at first
    once     names that measure in the first round only; the others `repeats` rounds more, in
             another order each round
    keep     where the first answer of a name is to be saved
    """
    workers = []
    for name, python in pythons.items():
        worker = Worker(name, python, threads)
        answer = worker.ask(threads=threads, **data)
        if "absent" in answer:
            print(f"- {name}: not here ({answer['absent']})")
            worker.end()
        else:
            worker.blas = answer["blas"]
            workers.append(worker)
    for turn in range(repeats + 1):
        for worker in random.Random(turn).sample(workers, len(workers)):
            if turn == 0 or worker.name not in once:
                worker.runs.append(worker.ask(keep=keep(worker.name) if turn == 0 else ""))
    return {worker.name: worker for worker in workers}
