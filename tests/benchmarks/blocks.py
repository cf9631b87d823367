"""Metrics over blocks: the rectangular search beside the square one and beside peers, block pairs
beside one call, also by two processes, and a file of a million rows in bounded memory. Run by hand:

    python tests/benchmarks/blocks.py --parts rates --peers PYTHON      PYTHON has faiss-cpu …
    python tests/benchmarks/blocks.py --parts pairs         20,000 rows in 4 blocks and in one call
    python tests/benchmarks/blocks.py --parts tasks --rows 100000 --width 512   two local workers
    python tests/benchmarks/blocks.py --parts million       1,000,000 × 512 float16, 1.2 GB on disk
    python tests/benchmarks/blocks.py --quick               all, of smaller shapes

rates    `square`: n rows among themselves; `both`: two arrays of n/√2 rows, each in the other, as
         many pairs; `between`: one of these in the other. They take turns in processes of their
         own; medians without the first round. GF/s of a core: 2 flops a term and pair.
pairs    the same of BlockedNeighbours and of NeighbourRows; distances and indices are compared
tasks    exact 2-NN of a file by two local workers of one thread each, in pairs of blocks, and by
         one call with two threads; their processes start within the time that is measured
million  each metric in a fresh process, its largest resident memory by getrusage. The file is
         written block by block into the folder for temporary files and removed afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import kernels_neighbours
import numpy as np
import turns

BAR = 0.9  # rate of the rectangular search as a share of that of the square one
BAR_TASKS = 0.85  # of the speed of one call with as many threads as there are workers
BAR_GIB = 2.0  # largest resident memory
BLOCK_ROWS = 50_000  # of the million
SAMPLE = 5_000


def halves(x):
    """Return two arrays that make as many pairs as all rows of x among themselves."""
    rows = int(len(x) / 2**0.5)
    return x[:rows], x[-rows:][::-1].copy()


def square(x, threads):
    from tlx.kernels import neighbours

    return lambda: neighbours.nearest(x, 2, threads=threads)[0]


def both(x, threads):
    from tlx.kernels import neighbours

    a, b = halves(x)
    return lambda: neighbours.nearest_both(a, b, 2, threads=threads)[0][0]


def between(x, threads):
    from tlx.kernels import neighbours

    a, b = halves(x)
    return lambda: neighbours.nearest_between(a, b, 2, threads=threads)[0]


def sklearn(x, threads):
    from sklearn.neighbors import NearestNeighbors

    a, b = halves(x)
    search = NearestNeighbors(n_neighbors=2, algorithm="brute", n_jobs=threads).fit(b)
    return lambda: search.kneighbors(a)[0]


def torch(x, threads):
    import torch

    torch.set_num_threads(threads)
    a, b = (torch.from_numpy(part) for part in halves(x))

    def call():
        squares = (b * b).sum(dim=1)
        parts = [
            torch.addmm(squares, a[i : i + 1024], b.T, alpha=-2).topk(2, largest=False).values
            for i in range(0, len(a), 1024)
        ]
        return torch.cat(parts).numpy()

    return call


def faiss(x, threads):
    import faiss

    faiss.omp_set_num_threads(threads)
    a, b = halves(x)

    def call():
        index = faiss.IndexFlatL2(b.shape[1])
        index.add(b)
        return index.search(a, 2)[0]

    return call


def one_call(x, threads):
    from tlx.metrics.neighbours import NeighbourRows

    return lambda: NeighbourRows(x, 2, threads).nearest(2, ties=True)


def block_pairs(x, threads):
    from tlx.metrics.blocks.neighbours import BlockedNeighbours
    from tlx.metrics.blocks.rows import BlockRows

    rows = BlockRows(x)
    ranges = rows.ranges(-(-len(x) // 4))
    return lambda: BlockedNeighbours(rows, 2, ranges, threads).nearest(2, ties=True)


def two_workers(x, threads):
    from tlx.lab.settings import Settings
    from tlx.metrics.blocks import pieces
    from tlx.metrics.blocks.neighbours import BlockedNeighbours
    from tlx.metrics.blocks.rows import BlockRows
    from tlx.studies.block_tasks import EnginePieces

    path = Path(tempfile.mkdtemp(dir=os.environ["TLX_BENCHMARK_FOLDER"])) / "x.npy"
    np.save(path, x)
    rows = BlockRows(str(path))
    run = EnginePieces(Settings(workers=threads, threads=1))
    # where a task would be too small to be worth a process, one for each worker all the same
    share_s = len(x) ** 2 * x.shape[1] / pieces.NEIGHBOUR_RATE / threads
    pieces.LEAST_S = min(pieces.LEAST_S, 0.9 * share_s)
    return lambda: BlockedNeighbours(rows, 2, rows.ranges(len(x)), run=run).nearest(2, ties=True)


OWN = ("square", "both", "between", "one_call", "block_pairs", "two_workers")
MEASURED = {
    call.__name__: call
    for call in (square, both, between, sklearn, torch, faiss, one_call, block_pairs, two_workers)
}


def work(name):
    """Answer what the benchmark asks: a shape, or to measure."""
    call = None

    def handle(asked):
        nonlocal call
        if "n" in asked:
            x = kernels_neighbours.rows(asked["n"], asked["d"])
            call = MEASURED[name](x, asked["threads"])
            return {"blas": turns.blas()}
        result, answer = turns.measured(call)
        if isinstance(result, tuple) and asked["keep"]:
            np.savez(asked["keep"], *result)
        return answer

    turns.serve(handle)


def compared(names, asked, n, d, keep=lambda name: ""):
    """Return name → worker that has measured, in turns."""
    pythons = {name: sys.executable if name in OWN else asked.peers for name in names}
    data = {"n": n, "d": d}
    return turns.in_turns(pythons, asked.threads, asked.repeats, data, keep=keep)


def rates(asked):
    for n, d in [(3000, 256)] if asked.quick else [(10_000, 512), (10_000, 2048)]:
        workers = compared(["square", "both", "between", "sklearn", "torch", "faiss"], asked, n, d)
        print(f"\n### rates, n = {n}, d = {d}\n\n| | wall | cpu | GF/s a core |\n|---|---|---|---|")
        rate = {}
        for name, worker in workers.items():
            rate[name] = n * n * d / worker.median("cpu") / 1e9
            print(
                f"| {name} | {worker.median('wall'):.3f} | {worker.median('cpu'):.3f} | "
                f"{rate[name]:.0f} |"
            )
            worker.end()
        for name in ("both", "between"):
            share = rate[name] / rate["square"]
            met = "met" if share >= BAR else "**missed**"
            print(f"\n{name}: **{share:.2f}** of the rate of square (bar {BAR}: {met})")


def pairs(asked):
    n, d = (3000, 256) if asked.quick else (20_000, 512)
    with tempfile.TemporaryDirectory() as folder:
        names = ["one_call", "block_pairs"]
        workers = compared(names, asked, n, d, lambda name: str(Path(folder) / name))
        results = [np.load(Path(folder) / f"{name}.npz") for name in names]
        same = all((results[0][key] == results[1][key]).all() for key in results[0].files)
    print(f"\n### 2-NN, n = {n}, d = {d}, 4 blocks\n\n| | wall | cpu |\n|---|---|---|")
    for name, worker in workers.items():
        print(f"| {name} | {worker.median('wall'):.3f} | {worker.median('cpu'):.3f} |")
        worker.end()
    print(f"\ndistances and indices bit-equal: {same}")


def tasks(asked):
    n, d = (3000, 256) if asked.quick else (asked.rows, asked.width)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TLX_BENCHMARK_FOLDER"] = folder
        names = ["one_call", "two_workers"]
        workers = compared(names, asked, n, d, lambda name: str(Path(folder) / name))
        results = [np.load(Path(folder) / f"{name}.npz") for name in names]
        same = all((results[0][key] == results[1][key]).all() for key in results[0].files)
    print(f"\n### 2-NN, n = {n}, d = {d}, as tasks\n\n| | wall |\n|---|---|")
    walls = {name: worker.median("wall") for name, worker in workers.items()}
    print(f"| one call, {asked.threads} threads | {walls['one_call']:.3f} |")
    print(f"| {asked.threads} workers of one thread | {walls['two_workers']:.3f} |")
    for worker in workers.values():
        worker.end()
    share = walls["one_call"] / walls["two_workers"]
    met = "met" if share >= BAR_TASKS else "**missed**"
    print(f"\nefficiency **{share:.2f}** (bar {BAR_TASKS}: {met}); bit-equal: {same}")


def written(path, n, width, seed):
    """Write rows of float16 block by block: activations of rank 16 with noise, ten classes."""
    draw = np.random.default_rng(seed)
    mix = draw.standard_normal((16, width), dtype=np.float32)
    header = np.lib.format.header_data_from_array_1_0(np.empty((0, width), np.float16))
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header | {"shape": (n, width)})
        for start in range(0, n, 10_000):
            rows = min(10_000, n - start)
            base = np.random.default_rng([start]).standard_normal((rows, 16), dtype=np.float32)
            base[:, 0] += np.arange(start, start + rows) % 10
            noise = 0.5 * draw.standard_normal((rows, width), dtype=np.float32)
            file.write((base @ mix + noise).astype(np.float16).tobytes())


TASKS = {
    "sum_of_squares": lambda x, y, labels: {"labels": labels},
    "cka": lambda x, y, labels: {"y": y},
    "intrinsic_dimension": lambda x, y, labels: {"sample": SAMPLE},
}


def alone(folder, metric):
    """Compute one metric of the million in this process; print what it takes."""
    from tlx import metrics

    x, y = (np.load(Path(folder) / f"{name}.npy", mmap_mode="r") for name in "xy")
    beside = TASKS[metric](x, y, np.arange(len(x)) % 10)
    if "sample" in beside:
        beside["sample"] = min(SAMPLE, len(x) // 10)
    started = time.perf_counter(), time.process_time()
    result = metrics.over(x, metric, block_rows=BLOCK_ROWS, **beside)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    value = getattr(result.value, "ratio", getattr(result.value, "dimension", result.value))
    print(
        json.dumps(
            {
                "wall": time.perf_counter() - started[0],
                "cpu": time.process_time() - started[1],
                "gib": peak,
                "value": value,
                "deviation": result.deviation,
            }
        )
    )


def million(asked):
    n = 60_000 if asked.quick else 1_000_000
    print(f"\n### {n} × 512 float16, blocks of {BLOCK_ROWS}\n")
    print("| | wall | cpu | peak GiB | value |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        written(Path(folder) / "x.npy", n, 512, 0)
        written(Path(folder) / "y.npy", n, 64, 1)
        for metric in TASKS:
            call = [sys.executable, __file__, "alone", folder, metric]
            answer = json.loads(subprocess.run(call, check=True, capture_output=True).stdout)
            met = "met" if answer["gib"] < BAR_GIB else "**missed**"
            spread = f" ± {answer['deviation']:.3f}" if answer["deviation"] else ""
            print(
                f"| {metric} | {answer['wall']:.1f} | {answer['cpu']:.1f} | "
                f"{answer['gib']:.2f} (bar {BAR_GIB}: {met}) | {answer['value']:.6g}{spread} |",
                flush=True,
            )


def main():
    if sys.argv[1:2] == ["alone"]:
        return alone(*sys.argv[2:])
    if sys.argv[1:2] == ["--worker"]:
        return work(sys.argv[2])
    parts = {"rates": rates, "pairs": pairs, "tasks": tasks, "million": million}
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    options.add_argument("--peers", default=sys.executable, help="a Python that has the peers")
    options.add_argument("--quick", action="store_true", help="small shapes, 3 rounds")
    options.add_argument("--repeats", type=int, help="rounds that count (default 5)")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--rows", type=int, default=100_000, help="of the part tasks")
    options.add_argument("--width", type=int, default=512, help="of the part tasks")
    asked = options.parse_args()
    asked.repeats = asked.repeats or (3 if asked.quick else 5)
    print(f"{asked.threads} threads, medians of {asked.repeats}")
    for part in asked.parts:
        print(f"\nload {os.getloadavg()[0]:.1f}")
        parts[part](asked)
    return 0


if __name__ == "__main__":
    sys.exit(main())
