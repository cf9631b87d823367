"""Searches beside a plain Optuna + scikit-learn script, what real searches find, and many kills.
Run by hand:

    python tests/benchmarks/tuning.py speed            trials a minute of both, taking turns; the
      share not fitting
    python tests/benchmarks/tuning.py real --data DIR  cifar10-mini and sign-digits with
      EfficientNet-Lite0, on test
    python tests/benchmarks/tuning.py kills --kills 100   SIGKILLs of workers and driver; Optuna and
      MLflow afterwards

The plain script loads the same embedded rows of the same draws, and fits and scores the same
classifiers on the same validation rows with scikit-learn's estimators, one configuration after the
other, on all splits, in memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from tlx.lab.settings import Settings
from tlx.lab.tuning import api as tuning_api
from tlx.lab.tuning import worker as tuning_worker
from tlx.studies.few_shot import FewShotGrid
from tlx.studies.tuning import plan as tuning_plan
from tlx.studies.tuning.features import SearchContext
from tlx.studies.tuning.spec import Search, SearchBase

# ---------------------------------------------------------------- speed


def speed(options) -> None:
    """Trials a minute, same proposals: linear support vectors over C, and all classifiers."""
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        settings = Settings(store=f"{folder}/runs", tracking=False, workers=0)
        base = SearchBase(
            dataset=options.dataset,
            architecture=options.architecture,
            input_size=options.pixels,
            use_crops=options.crops,
            embedding=options.embedding,
        )
        asked = Search(
            trials=options.trials, search=options.search, sampler="random", pruner="none"
        )
        ready = tuning_plan.plan_search(
            asked, base.of("feature-extraction"), FewShotGrid(splits=options.splits), settings
        )
        side = ready.inputs.sides[options.crops]
        width = sum(side.dump.array(layer).shape[1] for layer in ready.inputs.base.layers)
        print(
            f"{options.dataset}, {options.architecture}: {len(side.draws[0].train.rows)} training "
            f"rows, "
            f"{len(side.val.rows)} validation rows, {width} features, {len(side.draws)} splits, "
            f"{options.trials} trials of {','.join(options.search)}"
        )
        ours, plain, shares = [], [], []
        for turn in range(options.turns):
            a, share = _ours(ready, settings, f"{folder}/{turn}", options.trials)
            b, done = _plain(ready, settings, options.plain_trials, options.limit_s)
            ours.append(60 * options.trials / a)
            plain.append(60 * done / b)
            shares.append(share)
            print(
                f"  turn {turn}: tlx {ours[-1]:.1f} trials/min, not fitting {share:.1%}; plain "
                f"{plain[-1]:.1f} "
                f"trials/min ({done} trials)",
                flush=True,
            )
        a, b = statistics.median(ours), statistics.median(plain)
        print(
            f"median: {a:.1f} and {b:.1f} trials/min, {a / b:.1f}×; not fitting "
            f"{statistics.median(shares):.1%}"
        )


def _ours(ready, settings, root, trials) -> tuple[float, float]:
    """Seconds of the loop (ask, fit, write down durably, tell), embedding included; the share that
    is not fitting.
    """
    search = ready.search
    tuning_api.prepare(search, root)
    started = time.perf_counter()
    tuning_worker.work(
        search,
        ready.inputs,
        SearchContext(root, "cpu", settings),
        root,
        "driver",
        emit=lambda report: None,
    )
    wall = time.perf_counter() - started
    found = tuning_api.completed_trials(search, root)
    assert len(found) == trials
    return wall, 1 - sum(t.spent_s for t in found) / wall


def _plain(ready, settings, trials, limit_s) -> tuple[float, int]:
    """Seconds of so many trials (fewer if the time is up) by Optuna and scikit-learn alone."""
    import optuna

    from tlx.features.embedding import EMBEDDINGS
    from tlx.spec import parse_spec

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    spec, side = ready.inputs.base, ready.inputs.sides[ready.inputs.base.use_crops]
    layers = [side.dump.array(layer) for layer in spec.layers]
    draws = []
    for draw in side.draws:
        embedding = parse_spec(EMBEDDINGS, spec.embedding).fit(layers, draw.train.rows)
        rows = [
            embedding.transform(layers, s.rows).astype(np.float64) for s in (draw.train, side.val)
        ]
        draws.append((*rows, draw.train.row_labels))

    def objective(trial):
        values = ready.search.space.draw(lambda one: tuning_worker._suggested(trial, one))
        scores = []
        for X, V, y in draws:
            model = ready.inputs.classifier(values).make(0).fit(X, y)
            votes = model.predict(V).reshape(len(side.val), -1)
            voted = np.array([np.bincount(v).argmax() for v in votes.astype(np.int64)])
            scores.append(
                np.mean(
                    [(voted[side.val.labels == k] == k).mean() for k in np.unique(side.val.labels)]
                )
            )
        return float(np.mean(scores))

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    import warnings

    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study.optimize(objective, n_trials=trials, timeout=limit_s)
    return time.perf_counter() - started, len(study.trials)


# ---------------------------------------------------------------- real searches


def real(options) -> None:
    """What searches find on real images, and the seeds' defaults, on test."""
    jobs = [
        (
            "FE classifiers × C",
            {"study": "feature-extraction", "search": (), "trials": options.trials},
            {},
        ),
        (
            "FT learning rate × frozen blocks",
            {
                "study": "fine-tuning",
                "search": ("learning_rate", "freeze"),
                "trials": options.ft_trials,
            },
            {"epochs": options.epochs},
        ),
    ]
    for name, pixels in (("cifar10-mini", 64), ("sign-digits", 64)):
        for title, asked, changes in jobs:
            shared = [
                "--dataset",
                Path(options.data) / name,
                "--architecture",
                "efficientnet-lite0",
                "--input-size",
                pixels,
                "--no-use-crops",
                "--splits",
                5,
                "--shots",
                10,
                "--no-tracking",
                *(w for k, v in changes.items() for w in (f"--{k}", v)),
            ]
            default = [
                asked["study"],
                *shared,
                *["--classifier", "linear-svc"] * ("feature" in asked["study"]),
            ]
            words = [
                "tune",
                "--study",
                asked["study"],
                "--trials",
                asked["trials"],
                *shared,
                *["--search", ",".join(asked["search"])] * bool(asked["search"]),
            ]
            print(f"== {name}: {title}", flush=True)
            for line in (default, words):
                started = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, "-m", "tlx", *map(str, line)],
                    capture_output=True,
                    text=True,
                    cwd=options.out,
                )
                print(f"$ tlx {' '.join(map(str, line))}   ({time.perf_counter() - started:.0f} s)")
                print("\n".join(done.stdout.splitlines()[-14:]), done.stderr[-500:], flush=True)


# ---------------------------------------------------------------- kills


def kills(options) -> None:
    """A search of 60 trials by two workers, killed again and again; then what Optuna and MLflow
    say.
    """
    import psutil

    moments = random.Random(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="tlx-kills-", dir=options.out))
    command = [
        sys.executable,
        "-m",
        "tlx",
        "tune",
        "--trials",
        "60",
        "--workers",
        str(options.workers),
    ]
    log = open(folder / "log", "a")  # noqa: SIM115 — it outlives the drivers that write to it

    def start():
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)

    warm = subprocess.run(
        [*command[:-4], "--trials", "1", "--workers", "0"], cwd=folder, stdout=log, stderr=log
    )
    assert warm.returncode == 0
    process, done = start(), 0
    while done < options.kills:
        time.sleep(moments.uniform(0.2, options.apart_s))
        if process.poll() is not None:
            process = start()
            continue
        workers = []
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                workers += [child] * (child.ppid() != process.pid)
        if workers and moments.random() < 0.6:
            with contextlib.suppress(psutil.NoSuchProcess):
                moments.choice(workers).kill()
        else:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            process = start()
        done += 1
    process.wait()
    last = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    _look(folder)


def _look(folder: Path) -> None:
    import optuna
    from mlflow import MlflowClient

    (path,) = (folder / "tlx-runs" / "studies").glob("*/optuna.journal")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    study = optuna.load_study(study_name=None, storage=storage)
    numbers = [t.number for t in study.trials]
    states = {
        s: sum(t.state.name == s for t in study.trials)
        for s in sorted({t.state.name for t in study.trials})
    }
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    runs = client.search_runs(
        [client.get_experiment_by_name("Tuning").experiment_id], max_results=1000
    )
    shown = sorted(
        int(r.data.tags["optuna.trial_number"])
        for r in runs
        if "tlx.final" not in r.data.tags and "optuna.trial_number" in r.data.tags
    )
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    print(
        json.dumps(
            {
                "optuna": {"numbers 0…59": numbers == list(range(60)), **states},
                "mlflow": {
                    "parents": len(parents),
                    "numbers 0…59": shown == list(range(60)),
                    "runs": len(runs),
                    "states": sorted({r.info.status for r in runs}),
                },
            },
            ensure_ascii=False,
            indent=1,
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("speed", "real", "kills"))
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--architecture", default="efficientnet-lite0")
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--crops", action="store_true")
    parser.add_argument("--embedding", default="fne")
    parser.add_argument(
        "--search", type=lambda text: tuple(text.split(",")), default=("linear-svc.C",)
    )
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--ft-trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--plain-trials", type=int, default=8)
    parser.add_argument("--limit-s", type=float, default=120.0)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--data", default="")
    parser.add_argument("--out", default=".")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--apart-s", type=float, default=6.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    {"speed": speed, "real": real, "kills": kills}[options.what](options)


if __name__ == "__main__":
    main()
