"""Serve an exported model where there is nothing but what it asks for, and compare the answers.

    tlx compare --dataset digits --export my-model
    python tests/benchmarks/served_alone.py my-model PHOTOS...

Makes a virtual environment of the packages in my-model/mlflow/requirements.txt alone, checks that
it has neither tlx nor torch, runs `mlflow models serve` in it, and compares its labels and
probabilities with those of `tlx predict`. Says the seconds until the server answers and for all
photos.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from served_model import labels_of, serving

from tlx.models.onnx_file import OnnxModel
from tlx.studies.export import labelled


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("model", type=Path)
    options.add_argument("photos", type=Path, nargs="+")
    given = options.parse_args()
    model = OnnxModel(given.model)
    labels, probabilities = labelled(model, given.photos)
    with tempfile.TemporaryDirectory() as folder:
        python = _environment(Path(folder) / "venv", given.model / "mlflow" / "requirements.txt")
        started = time.perf_counter()
        with serving(python, (given.model / "mlflow").absolute()) as port:
            print(f"seconds until the server answers: {time.perf_counter() - started:.1f}")
            started = time.perf_counter()
            answers = labels_of(port, given.photos)
            print(f"seconds for {len(answers)} photos: {time.perf_counter() - started:.3f}")
    columns = [f"p_{name}" for name in model.classes]
    served = np.array([[answer[name] for name in columns] for answer in answers])
    same = [
        answer["label"] == model.classes[label]
        for answer, label in zip(answers, labels, strict=True)
    ]
    print(f"same labels: {sum(same)} of {len(same)}")
    print(f"largest difference of a probability: {np.abs(served - probabilities).max():.1e}")
    raise SystemExit(0 if all(same) else 1)


def _environment(folder: Path, requirements: Path) -> Path:
    """Return the interpreter of a new environment with these packages, without tlx and torch."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "-r", requirements], check=True)
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=freeze"], check=True, capture_output=True, text=True
    )
    names = {line.partition("==")[0].lower() for line in listed.stdout.splitlines()}
    assert not {"tlx", "torch"} & names, names
    print(f"packages: {len(names)}; {', '.join(requirements.read_text().split())}")
    return python


if __name__ == "__main__":
    main()
