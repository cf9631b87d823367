"""Linear models fitted in the span of their training rows beside the direct scikit-learn fit. Run
by hand:

    python tests/benchmarks/linear_span.py            n = 200, 500, 1000, 2000; d = 12,416; minutes
    python tests/benchmarks/linear_span.py --small    n = 60; d = 2,000; seconds

The two ways take turns; times are medians. `difference` is the largest difference of decision
values on 500 test rows beside the largest decision value. A span is made anew for every fit, unless
the line says that it is shared.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import numpy as np
from threadpoolctl import threadpool_limits

from tlx.features.classifiers import Ridge, classifier, format_classifier
from tlx.features.embedding import EMBEDDINGS
from tlx.features.fitting import fit
from tlx.features.spans import Training

ASKED = ["linear-svc", "linear-svc:tol=1e-8,max_iter=20000", "logistic:tol=1e-10", "ridge", "sgd"]


def rows(n, d, classes, seed):
    """Activations behind a ReLU: classes differ in their means."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    means = 0.25 * np.random.default_rng(7).standard_normal((classes, d), dtype=np.float32)
    return np.maximum(means[y] + rng.standard_normal((n, d), dtype=np.float32), 0), y


def timed(call):
    started = time.perf_counter()
    found = call()
    return time.perf_counter() - started, found


def beside(direct, spanned, repeats):
    """Medians of both, taken in turns, and their last results."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for into, call in zip(times, (direct, spanned), strict=True):
            seconds, found = timed(call)
            into.append(seconds)
            if into is times[0]:
                one = found
    return statistics.median(times[0]), statistics.median(times[1]), one, found


def line(n, what, direct_s, span_s, a, b, test):
    want, got = a.scores(test), b.scores(test)
    difference = np.abs(got - want).max() / np.abs(want).max()
    same = (a.predict(test) == b.predict(test)).mean()
    print(
        f"{n:6d}  {what:42s} {direct_s:9.3f} {span_s:9.3f} {direct_s / span_s:8.1f}x  "
        f"{difference:10.1e}"
        f"  {a.converged!s:6s}{b.converged!s:6s} {same:.3f}",
        flush=True,
    )


def compare(n, d, asked):
    """The lines of one number of training rows."""
    x, y = rows(n, d, 10, 0)
    embedded = EMBEDDINGS[asked.embedding]().fit(x)
    train, test = embedded.transform(x), embedded.transform(rows(500, d, 10, 1)[0])
    for spec in map(classifier, asked.classifiers):
        line(
            n,
            format_classifier(spec),
            *beside(
                lambda s=spec: fit(s, train, y),
                lambda s=spec: Training(train, y).fit(s),
                asked.repeats,
            ),
            test,
        )
    shared, spec = Training(train, y), classifier(asked.classifiers[0])
    made_s, _ = timed(lambda: shared.span)
    line(
        n,
        f"{format_classifier(spec)}, shared ({made_s:.2f} s)",
        *beside(lambda: fit(spec, train, y), lambda: shared.fit(spec), asked.repeats),
        test,
    )
    grid = [Ridge(alpha=a) for a in np.logspace(-5, 5, 11)]
    line(
        n,
        "ridge, 11 λ (span: left-out errors too)",
        *beside(
            lambda: [fit(s, train, y) for s in grid][5],
            lambda: [f for f, _ in Training(train, y).ridge(grid)][5],
            asked.repeats,
        ),
        test,
    )


def main():
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--small", action="store_true")
    options.add_argument("--rows", type=int, nargs="+")
    options.add_argument("--features", type=int)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--embedding", default="fne", choices=EMBEDDINGS)
    options.add_argument("--classifiers", nargs="+", default=ASKED)
    asked = options.parse_args()
    sizes = asked.rows or ([60] if asked.small else [200, 500, 1000, 2000])
    d = asked.features or (2000 if asked.small else 12_416)
    print(
        f"d = {d}, 10 classes, embedding {asked.embedding}, medians of {asked.repeats}, "
        f"{asked.threads} threads"
    )
    print(
        f"{'n':>6s}  {'classifier':42s} {'direct s':>9s} {'span s':>9s} {'ratio':>9s}  "
        f"{'difference':>10s}"
        "  both converged, same predictions"
    )
    with threadpool_limits(asked.threads):
        for n in sizes:
            compare(n, d, asked)


if __name__ == "__main__":
    sys.exit(main())
