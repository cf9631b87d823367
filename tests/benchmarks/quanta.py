"""QUANTA on real pairs: λ of every position with its CI, a same task beside a far one, gated
targets beside witnesses.

    python tests/benchmarks/quanta.py DATA [--pairs far,same,halves] [--repeats 5] [--epochs 10]
    [--figures FOLDER]

DATA holds mnist5k, fashion-mnist (IDX files) and cifar10-mini.

far     source: MNIST's CNN as it comes with tlx; target: Fashion-MNIST, few training images a class
same    the same source; target: MNIST (mnist5k), as many images
halves  QUANTA's CNN (or --architecture) trained on one half of the classes of cifar10-mini, the
        other half the target
v learns at --gate-rate (default 0.005): at the original's 2e-4 it moves by at most 2e-4 a step, so
  that a short
training cannot tell. "original" as the rate leaves it with everything else.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from tlx.lab.settings import Settings
from tlx.lab.store import Store
from tlx.studies import runner
from tlx.studies.quanta import plan as quanta_plan
from tlx.studies.quanta import report as quanta_report
from tlx.studies.quanta import source as quanta_source
from tlx.studies.quanta.spec import Quanta, QuantaGrid


def pair(name: str, data: Path, asked: argparse.Namespace) -> tuple[Quanta, QuantaGrid]:
    rate = None if asked.gate_rate == "original" else float(asked.gate_rate)
    shared = {
        "epochs": asked.epochs,
        "gate_rate": rate,
        "train_per_class": asked.train_per_class,
        "val_per_class": 20,
        "test_per_class": asked.test_per_class,
    }
    if name == "halves":
        return (
            Quanta(architecture=asked.architecture, dataset=str(data / "cifar10-mini"), **shared),
            QuantaGrid(
                halves=True,
                repeats=asked.repeats,
                source_epochs=2 * asked.epochs,
                positions=asked.positions,
            ),
        )
    target = {"far": "fashion-mnist", "same": "mnist5k"}[name]
    return Quanta(dataset=str(data / target), **shared), QuantaGrid(repeats=asked.repeats)


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("data", type=Path)
    options.add_argument("--pairs", default="far,same,halves")
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--epochs", type=int, default=10)
    options.add_argument("--train-per-class", type=int, default=100)
    options.add_argument("--test-per-class", type=int, default=100)
    options.add_argument("--gate-rate", default="0.005")
    options.add_argument(
        "--positions", type=lambda text: tuple(text.split(",")), default=("0", "2", "4", "6", "co")
    )
    options.add_argument(
        "--architecture",
        default="quanta-cnn",
        help="of the pair halves; mnist-cnn sees grey images "
        "of 28 pixels, and takes minutes where quanta-cnn takes hours without a GPU",
    )
    options.add_argument("--workers", type=int, default=1)
    options.add_argument(
        "--store", type=Path, help="kept and continued; default: a temporary folder"
    )
    options.add_argument("--figures", type=Path)
    asked = options.parse_args()
    base = asked.store or Path(tempfile.mkdtemp())
    settings = Settings(
        store=str(base / "runs"),
        cache=str(base / "cache"),
        tracking=False,
        workers=asked.workers,
        system_metrics=False,
        device="cpu",
    )
    for name in asked.pairs.split(","):
        spec, sweep = pair(name, asked.data, asked)
        look = quanta_plan.plan_quanta(spec, sweep, settings)
        source, first = look.source, look.source_study
        if first is not None:
            learned = runner.run_stage(first, settings, lambda event: None, lambda store, key: None)
            print(
                f"source of {name}: test accuracy {learned.results[0].scores['test_accuracy']:.3f}",
                flush=True,
            )
            source = quanta_source.trained(
                learned.results[0], Store(learned.folder), spec, look.learned
            )
        report = runner.run_stage(
            look.study(source), settings, lambda event: None, quanta_report.write_summary
        )
        print(
            f"\n{name}: {report.stage.title}, {asked.epochs} epochs, {asked.repeats} repeats, "
            f"{report.wall_s:.0f} s\n{quanta_report.table(quanta_report.rows_of(report.results))}",
            flush=True,
        )
        if asked.figures:
            asked.figures.mkdir(parents=True, exist_ok=True)
            for figure in (report.folder / "studies" / report.key).glob("*.png"):
                shutil.copy(figure, asked.figures / f"quanta_{name}_{figure.name}")
    if asked.store is None:
        shutil.rmtree(base)


if __name__ == "__main__":
    main()
