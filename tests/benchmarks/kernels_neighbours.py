"""The two nearest distances of every row, and what is made of them, beside every peer. Run by hand:

    python tests/benchmarks/kernels_neighbours.py --peers PYTHON      minutes; PYTHON has faiss-cpu,
      scikit-dimension …
    python tests/benchmarks/kernels_neighbours.py --quick             smaller shapes, three rounds

Each peer lives in a process of its own, with its data, and they take turns in any order; the first
round is dropped, the rest are medians. OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE are taken out of
their environment, so that OpenBLAS is at its native speed. A peer that PYTHON (or, without --peers,
this interpreter) has not is left out, and said. Output is Markdown.

ours         as it comes: bfloat16 where a sample of the rows is settled by it
differences  the same by direct float32 differences alone; double: float64 rows; plain: the way for
             any processor
wall, cpu    seconds, of all threads
+MiB         largest resident memory beyond what was there before a second call, in a process that
             gives back at once
             what it frees (MALLOC_MMAP_THRESHOLD_): no page is used again, and none is hidden
error        largest relative difference from the distances of this project (which are exact to
1e-12)
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import turns

SHAPES = [(10_000, 512), (20_000, 512), (10_000, 4096), (50_000, 64)]
QUICK = [(3000, 256), (6000, 64)]
BAR = 4.0  # times the best of sklearn, torch and faiss
RESAMPLING_BAR = 3.0  # times one estimate
BFLOAT16_BAR = 1.6  # times as fast as differences, where d is at least 512; a stretch


def rows(n, d, dtype="float32"):
    """Activations of rank 48 with noise: the same numbers in every process."""
    draw = np.random.default_rng(0)
    x = draw.standard_normal((n, 48), dtype=np.float32) @ draw.standard_normal(
        (48, d), dtype=np.float32
    )
    for part in range(0, n, 1000):
        x[part : part + 1000] += (
            0.5 * draw.standard_normal((len(x[part : part + 1000]), d), dtype=np.float32) + 0.1
        )
    return x.astype(dtype)


# ---------------------------------------------------------------- what is measured: x → (n, 2)
# distances, or None


def ours(x, threads):
    from tlx.metrics.neighbours import nearest_distances

    return lambda: nearest_distances(x, 2, threads)


def sklearn(x, threads):
    from sklearn.neighbors import NearestNeighbors

    return lambda: (
        NearestNeighbors(n_neighbors=2, algorithm="brute", n_jobs=threads).fit(x).kneighbors()[0]
    )


def torch(x, threads):
    import torch

    torch.set_num_threads(threads)
    t = torch.from_numpy(x)

    def call():
        squares = (t * t).sum(dim=1)
        parts = [
            torch.addmm(squares, t[i : i + 1024], t.T, alpha=-2)
            .add_(squares[i : i + 1024, None])
            .topk(3, largest=False)
            .values[:, 1:]
            for i in range(0, len(t), 1024)
        ]
        return torch.cat(parts).clamp_(min=0).sqrt().numpy()

    return call


def faiss(x, threads):
    import faiss

    faiss.omp_set_num_threads(threads)

    def call():
        index = faiss.IndexFlatL2(x.shape[1])
        index.add(x)
        return np.sqrt(np.maximum(index.search(x, 3)[0][:, 1:], 0))

    return call


def skdim(x, threads):
    from skdim.id import TwoNN

    def call():
        TwoNN().fit(x)

    return call


def dadapy(x, threads):
    from dadapy import Data

    def call():
        Data(coordinates=x, verbose=False, n_jobs=threads).compute_id_2NN()

    return call


def sgemm(x, threads):
    a = x[:2048, :512].copy()
    b = a[::-1].copy()  # a product with itself is taken for half the work

    def call():
        for _ in range(10):
            a @ b.T

    return call


def estimate(x, threads):
    from tlx.metrics.intrinsic_dimension import intrinsic_dimension

    def call():
        intrinsic_dimension(x, threads=threads)

    return call


def resampled(x, threads):
    from tlx.metrics.dimension_spread import intrinsic_dimension_resampled

    def call():
        intrinsic_dimension_resampled(x, threads=threads)

    return call


def double(x, threads):
    return ours(x.astype(np.float64), threads)


def differences(x, threads):
    from tlx.kernels import dispatch

    dispatch.has_bfloat16 = lambda: False
    return ours(x, threads)


def plain(x, threads):
    from tlx.kernels import candidates

    candidates.worthwhile = lambda n, k: False
    return ours(x, threads)


MEASURED = {
    call.__name__: call
    for call in (
        ours,
        sklearn,
        torch,
        faiss,
        skdim,
        dadapy,
        sgemm,
        estimate,
        resampled,
        differences,
        double,
        plain,
    )
}
PEERS = ("sklearn", "torch", "faiss")
ESTIMATORS = ("skdim", "dadapy")
OWN = ("ours", "differences", "double", "plain", "estimate", "resampled", "sgemm")


# ---------------------------------------------------------------- a worker: one of them, in a
# process of its own


def work(name):
    """Answer what the benchmark asks: a shape, or to measure."""
    call = None

    def handle(asked):
        nonlocal call
        if "n" in asked:
            call = MEASURED[name](rows(asked["n"], asked["d"]), asked["threads"])
            return {"blas": turns.blas()}
        found, answer = turns.measured(call)
        if found is not None and asked["keep"]:
            np.save(asked["keep"], np.asarray(found, np.float64))
        return answer

    turns.serve(handle)


def python_of(name, asked):
    return sys.executable if name in OWN else asked.peers or sys.executable


def extra_memory(name, n, d, asked):
    """MiB of the second call in a process of its own."""
    worker = turns.Worker(
        name,
        python_of(name, asked),
        asked.threads,
        MALLOC_MMAP_THRESHOLD_="131072",
        MALLOC_TRIM_THRESHOLD_="131072",
    )
    worker.ask(n=n, d=d, threads=asked.threads)
    worker.ask(keep="")
    found = worker.ask(keep="")["mib"]
    worker.end()
    return found


def compare(n, d, asked, folder):
    """One shape: all in turns, then its table."""
    names = [*OWN, *PEERS, *(ESTIMATORS if n * n * d <= 6e10 or asked.all else ())]
    by_name = turns.in_turns(
        {name: python_of(name, asked) for name in names},
        asked.threads,
        asked.repeats,
        {"n": n, "d": d},
        keep=lambda name: str(folder / name),
    )
    own = by_name["ours"]
    exact = np.load(folder / "ours.npy")
    print(
        f"\n### n = {n}, d = {d}\n\n| | wall | cpu | wall / ours | cpu / ours | +MiB | error | "
        f"BLAS |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for worker in by_name.values():
        kept = folder / f"{worker.name}.npy"
        error = (
            ""
            if not kept.exists()
            else f"{np.abs(np.load(kept) / np.maximum(exact, 1e-300) - 1).max():.0e}"
        )
        print(
            f"| {worker.name} | {worker.median('wall'):.3f} | {worker.median('cpu'):.3f} | "
            f"{worker.median('wall') / own.median('wall'):.2f} | "
            f"{worker.median('cpu') / own.median('cpu'):.2f} | "
            f"{'' if worker.name == 'sgemm' else f'{extra_memory(worker.name, n, d, asked):.0f}'} "
            f"| {error} | "
            f"{worker.blas} |",
            flush=True,
        )
        kept.unlink(missing_ok=True)
    present = [by_name[name] for name in PEERS if name in by_name]
    if present:
        for what in ("wall", "cpu"):
            best = min(present, key=lambda worker: worker.median(what))
            ratio = best.median(what) / own.median(what)
            print(
                f"\nbest peer by {what}: {best.name}, **{ratio:.2f}×** (bar {BAR}×: "
                f"{verdict(ratio >= BAR)})"
            )
    ratio = [by_name["differences"].median(what) / own.median(what) for what in ("wall", "cpu")]
    print(
        f"\nours beside differences alone: **{ratio[0]:.2f}×** wall, {ratio[1]:.2f}× cpu"
        + (f" (stretch {BFLOAT16_BAR}×: {verdict(min(ratio) >= BFLOAT16_BAR)})" if d >= 512 else "")
    )
    ratio = by_name["resampled"].median("wall") / by_name["estimate"].median("wall")
    print(
        f"\n50 resamplings: **{ratio:.2f}×** one estimate (bar {RESAMPLING_BAR}×: "
        f"{verdict(ratio <= RESAMPLING_BAR)})"
    )
    rate, product = (
        n * n * d / own.median("cpu"),
        20 * 2048**2 * min(512, d) / by_name["sgemm"].median("cpu"),
    )
    print(
        f"\nrate: {rate / 1e9:.0f} GF/s of a core (2 flops a term, half the pairs), "
        f"{rate / product:.2f} of numpy's "
        f"product; input {n * d * 4 / 2**20:.0f} MiB",
        flush=True,
    )
    for worker in by_name.values():
        worker.end()


FIRST = """
import time, numpy as np
from tlx.metrics.neighbours import nearest_distances
x = np.random.default_rng(0).standard_normal((500, 64), dtype=np.float32)
started = time.perf_counter(); nearest_distances(x); print(time.perf_counter() - started)
started = time.perf_counter(); nearest_distances(x); print(time.perf_counter() - started)
"""


def first_calls():
    """Seconds of the first call with an empty and with a filled cache of compiled code."""
    print("\n### first call (500 × 64)\n\n| cache | first | second |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as cache:
        for state in ("empty", "filled", "filled"):
            run = subprocess.run(
                [sys.executable, "-c", FIRST],
                env=os.environ | {"NUMBA_CACHE_DIR": cache},
                check=True,
                capture_output=True,
                text=True,
            )
            first, second = map(float, run.stdout.split())
            print(
                f"| {state} | {first:.3f} "
                f"s{'' if state == 'empty' else f' (bar 0.5 s: {verdict(first <= 0.5)})'} | "
                f"{second:.4f} s |"
            )


def verdict(good):
    return "met" if good else "**missed**"


def main():
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--worker", choices=MEASURED, help=argparse.SUPPRESS)
    options.add_argument(
        "--peers", help="a Python interpreter that has the peers; default: this one"
    )
    options.add_argument("--quick", action="store_true", help="small shapes, 3 rounds")
    options.add_argument("--all", action="store_true", help="packages of estimators at every shape")
    options.add_argument("--shapes", nargs="+", help="n×d, such as 10000x512")
    options.add_argument("--repeats", type=int, help="rounds that count (default 5)")
    options.add_argument("--threads", type=int, default=2)
    asked = options.parse_args()
    if asked.worker:
        return work(asked.worker)
    asked.repeats = asked.repeats or (3 if asked.quick else 5)
    shapes = [tuple(map(int, s.split("x"))) for s in asked.shapes or ()] or (
        QUICK if asked.quick else SHAPES
    )
    print(
        f"{asked.threads} threads, medians of {asked.repeats}, load {os.getloadavg()[0]:.1f} at "
        f"the start, "
        f"OPENBLAS_CORETYPE {os.environ.get('OPENBLAS_CORETYPE', 'not set')} here, dropped for all "
        f"that is measured"
    )
    with tempfile.TemporaryDirectory() as folder:
        for n, d in shapes:
            compare(n, d, asked, Path(folder))
    first_calls()


if __name__ == "__main__":
    sys.exit(main())
