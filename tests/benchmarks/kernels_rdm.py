"""Dissimilarity matrices beside every peer, against the bars of their issue. Run by hand:

    python tests/benchmarks/kernels_rdm.py --peers PYTHON     many minutes; PYTHON has rsatoolbox
      (and its own numpy)
    python tests/benchmarks/kernels_rdm.py --quick            small shapes, one round of slow peers

Each peer lives in a process of its own, with the data, and they take turns, in another order each
round (whoever comes after a long one is slower); the first round is dropped, the rest are medians.
Peers that would take minutes run once, after a small call that loads their code, and are marked 1×.
OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE are taken out of the environment of all of them, so that
OpenBLAS is at its native speed; the core type it then takes is printed. What is not installed is
left out, and said. Output is Markdown.

wall, cpu    seconds; of all threads
+MiB         largest resident memory beyond what was there before the call, answer included
error        largest relative difference from scipy's pdist in float64, over the pairs of the first
             1000 rows
sgemm        numpy's product of two different matrices, 2·n²·d / wall; the rate of an RDM is n²·d /
             wall, half the pairs
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

SAMPLE = 1000  # rows whose dissimilarities are checked


def rows(n, d):
    """Activations of rank 48 with noise, float32: the same numbers in every process."""
    draw = np.random.default_rng(0)
    x = draw.standard_normal((n, 48), dtype=np.float32) @ draw.standard_normal(
        (48, d), dtype=np.float32
    )
    for part in range(0, n, 1000):
        x[part : part + 1000] += (
            0.5 * draw.standard_normal((len(x[part : part + 1000]), d), dtype=np.float32) + 0.1
        )
    return x


# ---------------------------------------------------------------- what is measured: x → a call that
# gives the answer


def ours(metric, condensed=True, **how):
    def prepare(x, threads):
        from tlx.metrics.rsa import rdm

        return lambda: rdm(x, metric, condensed, threads=threads, **how)

    return prepare


def product(x, threads):
    return lambda: x @ x.T


def sgemm(x, threads):
    y = x[::-1].copy()  # a product with itself is taken for half the work
    return lambda: x @ y.T


def numpy_correlation(x, threads):
    def call():
        u = x - x.mean(axis=1, keepdims=True)
        u /= np.sqrt(np.einsum("ij,ij->i", u, u))[:, None]
        return 1 - u @ u.T

    return call


def numpy_euclidean(x, threads):
    def call():
        squares = np.einsum("ij,ij->i", x, x)
        return np.sqrt(np.maximum(squares[:, None] + squares - 2 * (x @ x.T), 0))

    return call


def torch_correlation(x, threads):
    import torch

    torch.set_num_threads(threads)
    return lambda: 1 - torch.corrcoef(torch.from_numpy(x)).numpy()


def torch_euclidean(x, threads):
    import torch

    torch.set_num_threads(threads)
    return lambda: torch.cdist(torch.from_numpy(x), torch.from_numpy(x)).numpy()


def scipy_pdist(metric):
    def prepare(x, threads):
        from scipy.spatial.distance import pdist

        return lambda: pdist(x, metric)

    return prepare


def sklearn_distances(metric):
    def prepare(x, threads):
        from sklearn.metrics import pairwise_distances

        return lambda: pairwise_distances(x, metric=metric)

    return prepare


def rsatoolbox(metric):
    def prepare(x, threads):
        from rsatoolbox.data import Dataset
        from rsatoolbox.rdm import calc_rdm

        data, width = Dataset(x), x.shape[1]

        def call():
            found = calc_rdm(data, method=metric).dissimilarities[0]
            return found if metric == "correlation" else np.sqrt(np.maximum(found, 0) * width)

        return call

    return prepare


MEASURED = {
    "ours correlation": ours("correlation"),
    "ours correlation square": ours("correlation", False),
    "ours euclidean": ours("euclidean"),
    "ours euclidean square": ours("euclidean", False),
    "X@X.T": product,
    "sgemm": sgemm,
    "numpy correlation": numpy_correlation,
    "numpy euclidean": numpy_euclidean,
    "torch corrcoef": torch_correlation,
    "torch cdist": torch_euclidean,
    "rsatoolbox correlation": rsatoolbox("correlation"),
    "rsatoolbox euclidean": rsatoolbox("euclidean"),
    "sklearn correlation": sklearn_distances("correlation"),
    "sklearn euclidean": sklearn_distances("euclidean"),
    "scipy pdist correlation": scipy_pdist("correlation"),
    "scipy pdist euclidean": scipy_pdist("euclidean"),
}
SLOW = {
    "rsatoolbox correlation",
    "sklearn correlation",
    "scipy pdist correlation",
    "scipy pdist euclidean",
}
VERY_SLOW = {
    "torch corrcoef",
    "torch cdist",
    "sklearn euclidean",
    "rsatoolbox euclidean",
}  # above 10¹¹ n²·d

# (peer, what of ours, its time must be at least this many times ours, and should be)
BARS = {
    (10_000, 512): [
        ("X@X.T", "correlation", 1.4, 1.8),
        ("numpy correlation", "correlation", 1.6, 2),
        ("torch corrcoef", "correlation", 7, 9),
        ("scipy pdist correlation", "correlation", 30, 45),
    ],
    (2000, 4096): [("rsatoolbox euclidean", "euclidean", 1.0, 1.4)],
}
RATE_BARS = {(20_000, 2048): (0.85, 0.95)}  # of sgemm's rate
SQUARE_BAR = (1.2, 1.1)
SHAPES, QUICK = [(10_000, 512), (2000, 4096), (20_000, 2048)], [(2000, 512), (1000, 2048)]


# ---------------------------------------------------------------- a worker: one of them, in a
# process of its own


def first_rows(answer, n):
    """The pairs of the first rows, condensed."""
    answer, m = np.asarray(answer), min(n, SAMPLE)
    i, j = np.triu_indices(m, 1)
    return (
        answer[i, j] if answer.ndim == 2 else answer[i * (2 * n - i - 1) // 2 - i - 1 + j]
    ).astype(np.float64)


def work(name):
    """Answer what the benchmark asks: a shape, or to measure."""
    call, n = None, 0

    def handle(asked):
        nonlocal call, n
        if "n" in asked:
            x = rows(asked["n"], asked["d"])
            MEASURED[name](x[:64].copy(), asked["threads"])()
            call, n = MEASURED[name](x, asked["threads"]), len(x)
            return {"blas": turns.blas()}
        found, answer = turns.measured(call)
        if asked["keep"]:
            np.save(asked["keep"], first_rows(found, n))
        return answer

    turns.serve(handle)


def compare(n, d, asked, folder):
    """One shape: all in turns, then its table."""
    once = SLOW | (VERY_SLOW if n * n * d > 1e11 else set())
    pythons = {}
    for name in MEASURED:
        if n * n * d > 1e11 and name in SLOW and not asked.all:
            print(f"- {name}: left out at this size (minutes)")
        else:
            pythons[name] = (
                asked.peers if name.startswith("rsatoolbox") and asked.peers else sys.executable
            )
    by_name = turns.in_turns(
        pythons,
        asked.threads,
        asked.repeats,
        {"n": n, "d": d},
        once=once,
        keep=lambda name: str(folder / f"{name}.npy"),
    )
    report(n, d, by_name, folder)
    for worker in by_name.values():
        worker.end()


def report(n, d, by_name, folder):
    from scipy.spatial.distance import pdist

    sample = rows(n, d)[:SAMPLE].astype(np.float64)
    exact = {"correlation": pdist(sample, "correlation"), "euclidean": pdist(sample, "euclidean")}
    given, answered = n * d * 4 / 2**20, n * (n - 1) * 2 / 2**20
    print(
        f"\n### n = {n}, d = {d}: input {given:.0f} MiB, condensed answer {answered:.0f} MiB\n\n"
        "| | wall | min | cpu | wall / ours | cpu / ours | +MiB | error | BLAS |\n"
        + "|---" * 9
        + "|"
    )
    for name, worker in by_name.items():
        metric = "euclidean" if "euclidean" in name or "cdist" in name else "correlation"
        own, error = by_name[f"ours {metric}"], ""
        if name not in ("X@X.T", "sgemm"):
            got = np.load(folder / f"{name}.npy")
            error = f"{np.abs(got / exact[metric] - 1).max():.0e}"
        (folder / f"{name}.npy").unlink()
        print(
            f"| {name}{' (1×)' if len(worker.runs) == 1 else ''} | {worker.median('wall'):.3f} | "
            f"{min(run['wall'] for run in worker.counted):.3f} | {worker.median('cpu'):.3f} | "
            f"{worker.median('wall') / own.median('wall'):.2f} | "
            f"{worker.median('cpu') / own.median('cpu'):.2f} | "
            f"{max(run['mib'] for run in worker.runs):.0f} | {error} | {worker.blas} |"
        )
    print("\n| bar | wall | cpu | must | should | by wall |\n|---|---|---|---|---|---|")
    for name, metric, must, should in BARS.get((n, d), ()):
        if name in by_name:
            wall, cpu = (
                by_name[name].median(w) / by_name[f"ours {metric}"].median(w)
                for w in ("wall", "cpu")
            )
            print(
                f"| {metric} beside {name} | {wall:.2f}× | {cpu:.2f}× | {must}× | {should}× | "
                f"{verdict(wall, must, should)} |"
            )
    for metric in ("correlation", "euclidean"):
        own, square, peer = (
            by_name[f"ours {metric}"],
            by_name[f"ours {metric} square"],
            by_name["sgemm"],
        )
        wall, cpu = (square.median(w) / own.median(w) for w in ("wall", "cpu"))
        must, should = SQUARE_BAR
        print(
            f"| square / condensed, {metric} | {wall:.2f} | {cpu:.2f} | {must} | {should} | "
            f"{verdict(-wall, -must, -should)} |"
        )
        wall, cpu = (peer.median(w) / own.median(w) / 2 for w in ("wall", "cpu"))
        must, should = RATE_BARS.get((n, d), (0, 0))
        print(
            f"| rate / sgemm's, {metric}: {n * n * d / own.median('wall') / 1e9:.0f} GF/s beside "
            f"{2 * n * n * d / peer.median('wall') / 1e9:.0f} | {wall:.2f} | {cpu:.2f} | "
            f"{must or ''} | "
            f"{should or ''} | {verdict(wall, must, should) if must else ''} |"
        )
        used = max(run["mib"] for run in own.runs) - answered
        print(
            f"| MiB beyond the answer, {metric} | {used:.0f} | | {given + 16:.0f} | 256 | "
            f"{verdict(-used, -given - 16, -256)} |"
        )
    sys.stdout.flush()


def verdict(found, must, should):
    return (
        "**missed**" if found < must else "met" if found < should else "met, and what it should be"
    )


FIRST = """
import time, sys, numpy as np
x = np.random.default_rng(0).standard_normal((500, 64), dtype=np.float32)
started = time.perf_counter()
from tlx.metrics.rsa import rdm
loaded = time.perf_counter()
rdm(x, condensed=sys.argv[1] == "condensed")
first = time.perf_counter()
rdm(x, condensed=sys.argv[1] == "condensed")
print(loaded - started, first - loaded, time.perf_counter() - first)
"""


def first_calls():
    """Seconds of the first call with an empty and with a filled cache of compiled code."""
    print(
        "\n### first call (500 × 64)\n\n| cache | | import | first | second | bar 0.5 s "
        "|\n|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as cache:
        for state, form in (
            ("empty", "condensed"),
            ("empty", "square"),
            ("filled", "condensed"),
            ("filled", "square"),
            ("filled", "condensed"),
            ("filled", "square"),
        ):
            run = subprocess.run(
                [sys.executable, "-c", FIRST, form],
                env=os.environ | {"NUMBA_CACHE_DIR": cache},
                check=True,
                capture_output=True,
                text=True,
            )
            load, first, second = map(float, run.stdout.split())
            print(
                f"| {state} | {form} | {load:.3f} | {first:.3f} | {second:.4f} | "
                f"{verdict(-first, -0.5, -0.5) if state == 'filled' else ''} |"
            )


def main():
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--worker", choices=MEASURED, help=argparse.SUPPRESS)
    options.add_argument(
        "--peers", help="a Python interpreter that has rsatoolbox; default: this one"
    )
    options.add_argument("--quick", action="store_true", help="small shapes")
    options.add_argument("--all", action="store_true", help="peers that take minutes, too")
    options.add_argument("--shapes", nargs="+", help="n×d, such as 10000x512")
    options.add_argument(
        "--repeats", type=int, help="rounds that count (default 7; 5 with --quick)"
    )
    options.add_argument("--threads", type=int, default=2)
    asked = options.parse_args()
    if asked.worker:
        return work(asked.worker)
    asked.repeats = asked.repeats or (5 if asked.quick else 7)
    shapes = [tuple(map(int, s.split("x"))) for s in asked.shapes or ()] or (
        QUICK if asked.quick else SHAPES
    )
    print(
        f"{asked.threads} threads, medians of {asked.repeats}, load {os.getloadavg()[0]:.1f} at "
        f"the start, "
        f"OPENBLAS_CORETYPE {os.environ.get('OPENBLAS_CORETYPE', 'not set')} here, dropped for "
        f"what is measured\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        for n, d in shapes:
            compare(n, d, asked, Path(folder))
    first_calls()


if __name__ == "__main__":
    sys.exit(main())
