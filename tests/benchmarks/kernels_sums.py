"""Sums of squares, and comparisons of RDMs, beside every peer, against the bars of their issue. Run
by hand:

    python tests/benchmarks/kernels_sums.py --peers PYTHON    minutes; PYTHON has rsatoolbox, pandas
      and scikit-learn
    python tests/benchmarks/kernels_sums.py --quick           small shapes, 3 rounds
    python tests/benchmarks/kernels_sums.py --big             also a dump of 16 GiB (a sparse file)

Each of them lives in a process of its own, with its data, and they take turns in any order; the
first round is dropped, the rest are medians. OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE are taken out
of their environment, so that OpenBLAS is at its native speed. What is not installed is left out,
and said. Output is Markdown.

wall, cpu    seconds; of all threads
+MiB         largest resident memory beyond what was there before the call
error        of SSW, relative to longer floats, at n = 2000, d = 64: rows of mean 0, sd 1; 1e4, 1;
             1e4, 1e-2
read-sum     adding up the same rows in order, by a compiled loop on as many threads: what memory
             gives
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import turns

CLASSES = 100
HARD = [(0, 1), (1e4, 1), (1e4, 1e-2)]


def rows(n, d, mean=0.0, sd=1.0):
    """(x, y) float32 and classes: the same numbers in every process."""
    draw = np.random.default_rng(0)
    y = draw.integers(0, CLASSES, n)
    means = draw.standard_normal((CLASSES, d), dtype=np.float32)
    x = np.empty((n, d), np.float32)
    for part in range(0, n, 1000):
        at = slice(part, part + 1000)
        x[at] = mean + sd * (means[y[at]] + draw.standard_normal((len(y[at]), d), dtype=np.float32))
    return x, y


def rdm_pair(pairs, dtype):
    """Two correlated RDMs of some 1 − r."""
    draw = np.random.default_rng(0)
    a = 1 + 0.2 * draw.standard_normal(pairs)
    return a.astype(dtype), (a + 0.2 * draw.standard_normal(pairs)).astype(dtype)


# ---------------------------------------------------------------- sums: (x, y, threads) → a call
# that gives SSW


def ours(x, y, threads):
    from tlx.metrics.sum_of_squares import sum_of_squares

    return lambda: sum_of_squares(x, y, threads=threads).within


def read_sum(x, y, threads):
    from numba import njit
    from tlx.kernels.parallel import parallel_for

    @njit(nogil=True, fastmath={"reassoc"})
    def add(numbers):
        total = np.float32(0)
        for i in range(numbers.size):
            total += numbers[i]
        return total

    parts = np.array_split(x.reshape(-1), 32)

    def call():
        parallel_for(len(parts), lambda part, _: add(parts[part]), threads)

    return call


def one_hot(x, y, threads):
    hot = (y == np.arange(CLASSES)[:, None]).astype(np.float32)

    def call():
        sums = hot @ x
        return float(np.einsum("ij,ij->", x, x)) - float((sums**2 / hot.sum(axis=1)[:, None]).sum())

    return call


def pandas_var(x, y, threads):
    import pandas

    frame, counts = pandas.DataFrame(x, copy=False), np.bincount(y, minlength=CLASSES)
    return lambda: float(
        (frame.groupby(y).var(ddof=0).to_numpy(np.float64) * counts[:, None]).sum()
    )


def class_loop(x, y, threads):
    def call():
        total = 0.0
        for c in range(CLASSES):
            own = x[y == c]
            total += float(((own - own.mean(axis=0)) ** 2).sum(dtype=np.float64))
        return total

    return call


def gaussian_nb(x, y, threads):
    from sklearn.naive_bayes import GaussianNB

    def call():
        fitted = GaussianNB(var_smoothing=0).fit(x, y)
        return float((fitted.var_.astype(np.float64) * fitted.class_count_[:, None]).sum())

    return call


def f_classif(x, y, threads):
    from sklearn.feature_selection import f_classif

    def call():
        f_classif(x, y)

    return call


SUMS = {
    call.__name__: call
    for call in (ours, read_sum, one_hot, pandas_var, class_loop, gaussian_nb, f_classif)
}
SUM_BARS = {
    "read_sum": ("at least 0.45 of it", lambda ratio: ratio >= 0.45),
    "pandas_var": ("4×", lambda r: r >= 4),
    "class_loop": ("9×", lambda r: r >= 9),
}


# ---------------------------------------------------------------- comparisons: (a, b, threads) → a
# call


def our_comparison(method):
    def prepare(a, b, threads):
        from tlx.metrics.comparison import compare_rdms

        return lambda: compare_rdms(a, b, method, threads=threads)

    return prepare


def scipy_comparison(name):
    def prepare(a, b, threads):
        from scipy import stats

        return lambda: float(getattr(stats, name)(a, b).statistic)

    return prepare


def rsatoolbox_comparison(method):
    def prepare(a, b, threads):
        from rsatoolbox.rdm import RDMs, compare

        first, second = RDMs(a[None].astype(np.float64)), RDMs(b[None].astype(np.float64))
        return lambda: float(compare(first, second, method=method)[0, 0])

    return prepare


COMPARED = {
    "ours, spearman": our_comparison("spearman"),
    "scipy spearmanr": scipy_comparison("spearmanr"),
    "rsatoolbox spearman": rsatoolbox_comparison("spearman"),
    "ours, kendall": our_comparison("kendall"),
    "scipy kendalltau": scipy_comparison("kendalltau"),
    "rsatoolbox tau-a": rsatoolbox_comparison("tau-a"),
    "ours, whitened-cosine": our_comparison("whitened-cosine"),
    "rsatoolbox cosine_cov": rsatoolbox_comparison("cosine_cov"),
}
COMPARED_BARS = {"scipy spearmanr": 8.0, "rsatoolbox tau-a": 2.5}
OWN = {"ours", "read_sum", *(name for name in COMPARED if name.startswith("ours"))}


# ---------------------------------------------------------------- a worker: one of them, in a
# process of its own


def work(name):
    """Answer what the benchmark asks: rows or RDMs, errors, or to measure."""
    call = None

    def handle(asked):
        nonlocal call
        if "errors" in asked:
            return {"errors": [SUMS[name](*rows(2000, 64, *how), 1)() for how in HARD]}
        if "n" in asked or "pairs" in asked:
            call = (
                SUMS[name](*rows(asked["n"], asked["d"]), asked["threads"])
                if "n" in asked
                else COMPARED[name](*rdm_pair(asked["pairs"], asked["dtype"]), asked["threads"])
            )
            return {"blas": turns.blas()}
        found, answer = turns.measured(call)
        return answer | {"found": found}

    turns.serve(handle)


def in_turns(names, asked, **data):
    """Workers that have measured, by name."""
    pythons = {
        name: sys.executable if name in OWN else asked.peers or sys.executable for name in names
    }
    return turns.in_turns(pythons, asked.threads, asked.repeats, data)


def sums(n, d, asked):
    found = in_turns(SUMS, asked, n=n, d=d)
    own, truth = found["ours"], [exact(*rows(2000, 64, *how)) for how in HARD]
    print(
        f"\n### sum of squares, n = {n}, d = {d}, {CLASSES} classes ({n * d * 4 / 2**20:.0f} "
        f"MiB)\n\n"
        "| | wall | cpu | wall / ours | cpu / ours | +MiB | error of SSW | bar | BLAS |\n"
        + "|---" * 9
        + "|"
    )
    for worker in found.values():
        ratios = [worker.median(what) / own.median(what) for what in ("wall", "cpu")]
        text, good = SUM_BARS.get(worker.name, ("", None))
        errors = worker.ask(errors=True)["errors"]
        errors = (
            ""
            if None in errors
            else " ".join(f"{abs(e / t - 1):.0e}" for e, t in zip(errors, truth, strict=True))
        )
        print(
            f"| {worker.name} | {worker.median('wall'):.4f} | {worker.median('cpu'):.4f} | "
            f"{ratios[0]:.2f} | "
            f"{ratios[1]:.2f} | {max(run['mib'] for run in worker.runs[1:]):.0f} | {errors} | "
            f"{text and f'{text}: {verdict(good(ratios[0]))}'} | {worker.blas} |",
            flush=True,
        )
        worker.end()


def exact(x, y):
    """SSW in the longest floats there are."""
    x, total = x.astype(np.longdouble) - x[0].astype(np.longdouble), 0
    for c in np.unique(y):
        own = x[y == c]
        total += ((own - own.mean(axis=0)) ** 2).sum()
    return float(total)


def comparisons(pairs, dtype, asked):
    names = [
        name for name in COMPARED if pairs < 5e6 or ("whitened" not in name and "_cov" not in name)
    ]
    found = in_turns(names, asked, pairs=pairs, dtype=dtype)
    print(
        f"\n### comparison of two RDMs, {pairs:,} pairs, {dtype}\n\n"
        "| | wall | cpu | wall / ours | cpu / ours | +MiB | result − ours | bar (cpu) |\n"
        + "|---" * 8
        + "|"
    )
    for worker in found.values():
        if worker.name in OWN:
            own = worker
        ratios = [worker.median(what) / own.median(what) for what in ("wall", "cpu")]
        bar = COMPARED_BARS.get(worker.name)
        print(
            f"| {worker.name} | {worker.median('wall'):.4f} | {worker.median('cpu'):.4f} | "
            f"{ratios[0]:.1f} | "
            f"{ratios[1]:.1f} | {max(run['mib'] for run in worker.runs[1:]):.0f} | "
            f"{worker.runs[0]['found'] - own.runs[0]['found']:.0e} | "
            f"{f'{bar}×: {verdict(ratios[1] >= bar)}' if bar else ''} |",
            flush=True,
        )
        worker.end()


# ---------------------------------------------------------------- files


def plain_reading(path, size, offset, chunk=16 << 20):
    """Two buffers in turn, one thread that reads and one that takes them: what a file gives."""
    buffers, full, free = (
        [np.empty(chunk, np.uint8) for _ in range(2)],
        threading.Semaphore(0),
        threading.Semaphore(2),
    )

    def read():
        with open(path, "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            for number, start in enumerate(range(0, size, chunk)):
                free.acquire()
                os.preadv(file.fileno(), [buffers[number % 2]], offset + start)
                full.release()

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(0, size, chunk):
        full.acquire()
        free.release()
    reader.join()


def drop(path):
    """Take a file out of the page cache."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def files(gib, asked, folder):
    """A file that lies on the disk, and in the page cache: in turns."""
    from tlx.metrics.sum_of_squares import sum_of_squares

    d, path = 4096, folder / "rows.npy"
    n = int(gib * 2**30) // (4 * d)
    out = np.lib.format.open_memmap(path, "w+", np.float32, (n, d))
    block, y = rows(4096, d)[0], np.random.default_rng(1).integers(0, CLASSES, n)
    for start in range(0, n, len(block)):
        out[start : start + len(block)] = block[: n - start]
    out.flush()
    del out
    size = 4 * d * n
    calls = {"plain reading": lambda: plain_reading(path, size, path.stat().st_size - size)}
    for name, read in (("ours, by reads", True), ("ours, by the map", False)):
        calls[name] = lambda read=read: sum_of_squares(path, y, threads=asked.threads, read=read)
    for call in calls.values():
        call()
    print(
        f"\n### sum of squares of a file of {size / 2**30:.1f} GiB\n\n"
        "| | cold GB/s | of plain | warm GB/s | of plain |\n|---|---|---|---|---|"
    )
    speeds = {name: ([], []) for name in calls}
    for warm in (0, 1):
        for _ in range(asked.repeats):
            for name, call in calls.items():
                if not warm:
                    drop(path)
                started = time.perf_counter()
                call()
                speeds[name][warm].append(size / 1e9 / (time.perf_counter() - started))
    plain = [statistics.median(found) for found in speeds["plain reading"]]
    for name, both in speeds.items():
        cold, warm = map(statistics.median, both)
        bar = f" (bar 0.85: {verdict(cold / plain[0] >= 0.85)})" if name == "ours, by reads" else ""
        print(
            f"| {name} | {cold:.2f} | {cold / plain[0]:.2f}{bar} | {warm:.2f} | "
            f"{warm / plain[1]:.2f} |",
            flush=True,
        )
    path.unlink()


BIG = """
import sys, threading, time
from pathlib import Path
import numpy as np
from tlx.metrics.sum_of_squares import sum_of_squares
def status(what):
    return int(Path("/proc/self/status").read_text().split(what + ":")[1].split()[0]) / 1024
sum_of_squares(np.ones((4, 4), np.float32), [0, 1, 0, 1])
y = np.random.default_rng(0).integers(0, 100, int(sys.argv[2]))
most, done, before = [0.0], threading.Event(), status("RssAnon")
def watch():
    while not done.wait(0.01): most[0] = max(most[0], status("RssAnon"))
threading.Thread(target=watch).start()
started = time.perf_counter()
found = sum_of_squares(sys.argv[1], y, read={"read": True, "map": False, "rule": None}[sys.argv[3]])
seconds = time.perf_counter() - started
done.set()
print(seconds, most[0] - before, status("VmHWM"), found.total)
"""


def big(gib, folder):
    """A dump of many GiB, sparse: the rows that are not zero are few."""
    d, path = 4096, folder / "big.npy"
    n = int(gib * 2**30) // (4 * d)
    out = np.lib.format.open_memmap(path, "w+", np.float32, (n, d))
    for row in (0, n // 2, n - 1):
        out[row] = 1 + np.arange(d) % 7
    out.flush()
    del out
    print(
        f"\n### a dump of {gib:.0f} GiB ({os.stat(path).st_blocks * 512 / 2**20:.0f} MiB on the "
        f"disk), "
        f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB of memory\n\n"
        "| way | s | GB/s | own memory at most, MiB | resident with mapped pages of the file, MiB "
        "| bar 2048 MiB |"
        "\n|---|---|---|---|---|---|"
    )
    for way in ("rule", "read", "map"):
        run = subprocess.run(
            [sys.executable, "-c", BIG, path, str(n), way],
            check=True,
            capture_output=True,
            text=True,
        )
        seconds, own, resident, _ = map(float, run.stdout.split())
        print(
            f"| {way} | {seconds:.1f} | {n * d * 4 / 1e9 / seconds:.1f} | {own:.0f} | "
            f"{resident:.0f} | "
            f"{verdict(own < 2048)} |",
            flush=True,
        )
    path.unlink()


FIRST = """
import time, numpy as np
from tlx.metrics.comparison import compare_rdms
from tlx.metrics.sum_of_squares import sum_of_squares
x = np.random.default_rng(0).standard_normal((500, 64), dtype=np.float32)
pairs = np.random.default_rng(1).random(4950)
for call in (lambda: sum_of_squares(x, np.arange(500) % 10),
             lambda: compare_rdms(pairs, pairs[::-1].copy()),
             lambda: compare_rdms(pairs, pairs[::-1].copy(), "kendall")):
    for _ in range(2):
        started = time.perf_counter(); call(); print(time.perf_counter() - started)
"""


def first_calls():
    """Seconds of the first call with an empty and with a filled cache of compiled code."""
    print(
        "\n### first call, second call, s\n\n"
        "| cache | sum of squares | Spearman | Kendall, after it |\n|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as cache:
        for state in ("empty", "filled", "filled"):
            run = subprocess.run(
                [sys.executable, "-c", FIRST],
                env=os.environ | {"NUMBA_CACHE_DIR": cache},
                check=True,
                capture_output=True,
                text=True,
            )
            taken = list(map(float, run.stdout.split()))
            cells = [
                f"{first:.3f}, {second:.4f}"
                + ("" if state == "empty" else f" (bar 0.5: {verdict(first <= 0.5)})")
                for first, second in zip(taken[::2], taken[1::2], strict=True)
            ]
            print(f"| {state} | {' | '.join(cells)} |", flush=True)


def verdict(good):
    return "met" if good else "**missed**"


def main():
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--worker", choices=SUMS | COMPARED, help=argparse.SUPPRESS)
    options.add_argument(
        "--peers", help="a Python interpreter that has the peers; default: this one"
    )
    options.add_argument("--quick", action="store_true", help="small shapes, 3 rounds")
    options.add_argument(
        "--parts",
        nargs="+",
        default=["sums", "files", "comparisons", "first"],
        choices=["sums", "files", "comparisons", "first"],
    )
    options.add_argument(
        "--big", action="store_true", help="also a dump of 16 GiB (sparse; 1 GiB with --quick)"
    )
    options.add_argument(
        "--pairs", type=int, nargs="+", help="dissimilarities, n(n − 1)/2 (default 2,001,000)"
    )
    options.add_argument("--file-gib", type=float, help="size of the file that is read (default 4)")
    options.add_argument(
        "--folder", help="where files are put (default: the system's temporary folder)"
    )
    options.add_argument("--repeats", type=int, help="rounds that count (default 5)")
    options.add_argument("--threads", type=int, default=2)
    asked = options.parse_args()
    if asked.worker:
        return work(asked.worker)
    asked.repeats = asked.repeats or (3 if asked.quick else 5)
    print(
        f"{asked.threads} threads, medians of {asked.repeats}, load {os.getloadavg()[0]:.1f} at "
        f"the start, "
        f"OPENBLAS_CORETYPE {os.environ.get('OPENBLAS_CORETYPE', 'not set')} here, dropped for all "
        f"that is measured"
    )
    if "sums" in asked.parts:
        sums(*((5000, 512) if asked.quick else (50_000, 4096)), asked)
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        if "files" in asked.parts:
            files(asked.file_gib or (0.25 if asked.quick else 4), asked, Path(folder))
        if asked.big:
            big(1 if asked.quick else 16, Path(folder))
    if "comparisons" in asked.parts:
        for pairs in asked.pairs or ([79_800] if asked.quick else [2_001_000]):
            for dtype in ("float64", "float32"):
                comparisons(pairs, dtype, asked)
    if "first" in asked.parts:
        first_calls()


if __name__ == "__main__":
    sys.exit(main())
