"""The built wheel works outside a checkout: commands, Python API, packaged data and kernels."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = [pytest.mark.slow, pytest.mark.e2e]
FEW = ("--shots", "1", "--splits", "2", "--epochs", "1", "--no-use-crops", "--workers", "0")


def run(*words: object, cwd: Path, path: Path | None = None) -> str:
    """Run a command, outside the checkout and without its modules; return what it printed."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    if path is not None:
        environment["PATH"] = f"{path}{os.pathsep}{environment['PATH']}"
    environment["TLX_CACHE"] = str(cwd / "cache")
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The source distribution, and the wheel built from it: (sdist, wheel)."""
    pytest.importorskip("build", reason="the build package makes the distributions")
    folder = tmp_path_factory.mktemp("dist")
    run(
        *(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT),
        cwd=folder,
    )
    [sdist] = folder.glob("*.tar.gz")
    [wheel] = folder.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def programs(distributions, tmp_path_factory):
    """The folder of programs of a fresh environment that holds the wheel.

    It finds the libraries in this environment's folder. An editable installation of tlx there is
    not seen: that folder's own .pth files are not read.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(run(python, "-c", code, cwd=folder).strip())
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(
        *(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"),
        *("--ignore-installed", distributions[1]),
        cwd=folder,
    )
    return folder / "bin"


def test_the_distributions_hold_licence_data_and_kernels_and_no_tests(distributions):
    sdist, wheel = distributions
    names = zipfile.ZipFile(wheel).namelist()
    held = {name.split("/", 1)[0] for name in names}
    assert {part for part in held if not part.endswith(".dist-info")} == {"tlx"}
    for wanted in ("tlx/py.typed", "tlx/kernels/llvm/README.md", "tlx/_data/splits/"):
        assert any(name.startswith(wanted) for name in names), wanted
    assert any(name.endswith("licenses/LICENSE") for name in names)
    with tarfile.open(sdist) as archive:
        inside = [name.split("/", 1)[1] for name in archive.getnames() if "/" in name]
    assert {"pyproject.toml", "README.md", "MLproject", "CHANGELOG.md"} <= set(inside)
    assert not [name for name in inside if name.startswith((".ci", "site/"))]


def test_the_main_job_runs_from_the_wheel_in_another_directory(programs, tmp_path):
    where = run(programs / "python", "-c", "import tlx; print(tlx.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(programs.parent)
    printed = run(programs / "tlx", "fine-tuning", *FEW, cwd=tmp_path, path=programs)
    assert "mean per-class test accuracy" in printed
    assert (tmp_path / "mlflow.db").is_file()
    assert "Fine-tuning" in run(programs / "tlx", "ls", cwd=tmp_path, path=programs)


def test_the_python_api_runs_from_the_wheel_in_another_directory(programs, tmp_path):
    script = tmp_path / "study.py"
    script.write_text(
        "import numpy as np\n"
        "import tlx\n"
        "if __name__ == '__main__':\n"
        "    report = tlx.run('feature-extraction', shots=1, splits=2, classifier='knn',\n"
        "                     use_crops=False, workers=1, tracking=False)\n"
        "    print(len(report.frame()), tlx.metrics.rdm(np.eye(3, 5)).shape)\n"
    )
    assert run(programs / "python", script, cwd=tmp_path).split("\n")[-2] == "2 (3,)"
