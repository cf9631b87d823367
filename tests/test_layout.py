"""The house as it was drawn: five names at the top, imports that point down only."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EVERYWHERE = {"spec", "result", "files", "locks", "errors"}
MAY_IMPORT = {  # floor → the floors it may stand on
    "__main__": {"cli"},
    "api": {"cli", "studies", "lab", "models"},
    "cli": {"studies", "plots", "lab", "metrics", "features", "models", "data"},
    "studies": {"plots", "lab", "metrics", "features", "models", "data", "kernels"},
    "plots": set(),
    "metrics": {"features", "models", "data", "kernels"},
    "features": {"models", "data"},
    "models": {"data"},
    "data": set(),
    "lab": set(),
    "kernels": set(),
}
ALONE = {
    "typer": "tlx/cli/",
    "mlflow": "tlx/lab/tracking/",
    "optuna": "tlx/lab/tuning/",
    "multiprocessing": "tlx/lab/engines/",
}
SOURCES = sorted((ROOT / "tlx").rglob("*.py"))


def imports(path: Path):
    """The absolute dotted names that a file imports, wherever in it."""
    package = list(path.relative_to(ROOT).with_suffix("").parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join(base + ([node.module] if node.module else []))
            yield from (f"{stem}.{alias.name}" for alias in node.names)


def test_the_five_names_at_the_top():
    for name in ("pyproject.toml", "README.md", "MLproject", "tlx", "kernels", "splits", "tests"):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    parts = path.relative_to(ROOT / "tlx").with_suffix("").parts
    floor = parts[0]
    for name in imports(path):
        if name == "kernels" or name.startswith("kernels."):
            pytest.fail(f"{path}: import tlx.kernels, never kernels")
        if name.startswith("tlx."):
            target = name.split(".")[1]
            if target in ("__version__",):
                continue
            if floor in EVERYWHERE or floor == "__init__":
                assert target in EVERYWHERE, (
                    f"{path} may stand on nothing but {sorted(EVERYWHERE)}, not {name}"
                )
            elif target != floor and target not in EVERYWHERE:
                assert target in MAY_IMPORT[floor], f"{path}: {floor} may not import {name}"


@pytest.mark.parametrize(
    "path",
    [
        p
        for p in SOURCES
        if p.relative_to(ROOT).parts[1] in ("studies", "cli", "plots") and p.name != "image_data.py"
    ],
    ids=lambda p: p.name,
)
def test_images_are_listed_and_decoded_in_one_place(path):
    """studies/image_data.py holds the rules for links, copies and notes; who goes past it goes past
    them.
    """
    past = {"tlx.data.pixels.pixels", "tlx.data.folders.list_images", "tlx.data.datasets.locate"}
    assert not past & set(imports(path))
    calls = {
        ast.unparse(node.func)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    }
    assert not {"datasets.locate", "folders.list_images", "pixels.pixels", "pixels"} & calls


@pytest.mark.parametrize("path", sorted((ROOT / "kernels").glob("*.py")), ids=lambda p: p.name)
def test_kernels_stand_on_numba_and_numpy_alone(path):
    """And Numba's own threading layers are not used: parallel.py says why. fastmath=True would lose
    NaN.
    """
    siblings = {p.stem for p in path.parent.glob("*.py")}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1
            assert node.module in siblings or not node.module
            continue
        names = (
            [a.name for a in node.names]
            if isinstance(node, ast.Import)
            else ([node.module] if isinstance(node, ast.ImportFrom) else [])
        )
        for name in names:
            top = name.split(".")[0]
            assert top in {"numba", "numpy", "llvmlite", "tlx"} | set(sys.stdlib_module_names), (
                f"{path} imports {name}"
            )
            assert top != "tlx", f"{path}: import siblings relatively"
        if isinstance(node, ast.keyword):
            assert (node.arg, ast.unparse(node.value)) not in (
                ("parallel", "True"),
                ("fastmath", "True"),
            ), path
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("njit", "numba.njit"):
            assert {"cache", "nogil"} <= {k.arg for k in node.keywords}, f"{path}:{node.lineno}"
    assert not (path.parent / "__init__.py").exists(), (
        "it would stand in for another package named kernels"
    )


@pytest.mark.parametrize(("package", "home"), ALONE.items())
def test_one_home_for_each_platform(package, home):
    for path in SOURCES:
        used = any(name == package or name.startswith(package + ".") for name in imports(path))
        assert not used or str(path.relative_to(ROOT)).startswith(home), f"{path} imports {package}"


def test_no_door_but_ours_runs_pickles_or_shells():
    """Nothing in the package unpickles, evaluates or starts a shell."""
    forbidden = {
        "eval",
        "exec",
        "pickle.load",
        "pickle.loads",
        "joblib.load",
        "yaml.load",
        "os.system",
        "cloudpickle",
    }
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in forbidden, f"{path}:{node.lineno} calls {called}"
                for keyword in node.keywords:
                    value = ast.unparse(keyword.value)
                    assert (keyword.arg, value) not in (
                        ("shell", "True"),
                        ("allow_pickle", "True"),
                        ("weights_only", "False"),
                    ), f"{path}:{node.lineno}"
                if called == "torch.load":
                    assert str(path).endswith("models/weights/reader.py"), (
                        f"{path}:{node.lineno} opens its own door"
                    )
                    assert any(k.arg == "weights_only" for k in node.keywords), (
                        f"{path}:{node.lineno}"
                    )
