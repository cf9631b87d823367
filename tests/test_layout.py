"""The house as it was drawn: five names at the top, imports that point down only."""

from __future__ import annotations

import ast
import collections
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
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
LENT = {  # a function by its floor above, which it takes when a notebook asks for an engine
    "tlx/metrics/blocks/over.py": "tlx.studies.block_tasks.pieces_by",
}
ALONE = {
    "typer": "tlx/cli/",
    "mlflow": "tlx/lab/tracking/",
    "optuna": "tlx/lab/tuning/",
    "multiprocessing": "tlx/lab/engines/",
}
SOURCES = sorted((ROOT / "tlx").rglob("*.py"))
SHIPPED = "tlx/_data/served.py"  # runs where tlx is not: copied into MLflow models, never imported


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
            if target in ("__version__",) or LENT.get(str(path.relative_to(ROOT))) == name:
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


STUDY_FOLDERS = {
    p.parent.name for p in SOURCES if p.parts[-3:-2] + p.parts[-1:] == ("studies", "study.py")
}
BUILDS_ON = {  # study → studies whose modules it imports; all others go through STUDIES
    "atlas": {"layer_metrics", "layer_transfer", "parameter_distance", "quanta"},
    "checkpoints": {"layer_metrics"},
    "compare": {"feature_extraction", "fine_tuning", "scores"},
    "tuning": {"feature_extraction", "fine_tuning"},
}


def studies_imported(path: Path) -> Iterator[tuple[str, str]]:
    """(study, dotted name) of every import from another study's folder."""
    own = path.parent.name
    for name in imports(path):
        parts = name.split(".")
        if parts[:2] == ["tlx", "studies"] and parts[2] in STUDY_FOLDERS - {own}:
            yield parts[2], name


def test_a_study_imports_no_other_study_but_those_it_is_said_to_build_on():
    """What studies share is in tlx/studies/*.py; others are asked for by name: STUDIES."""
    built: dict[str, set[str]] = {}
    for path in SOURCES:
        own = path.parent.name
        if own in STUDY_FOLDERS:
            for other, name in studies_imported(path):
                built.setdefault(own, set()).add(other)
                private = any(part.startswith("_") for part in name.split("."))
                assert not private, f"{path}: {name} is private to its study"
    assert built == BUILDS_ON
    assert not {other for others in built.values() for other in others} & set(built), (
        "what is built on builds on no study itself, so there is no circle"
    )


KERNELS = sorted((ROOT / "kernels").rglob("*.py"))
BUILDERS = ("llvmlite", "numba.extending", "numba.core.cgutils")  # of LLVM instructions


def is_below(path: Path, folder: str) -> bool:
    return folder in path.relative_to(ROOT).parts


@pytest.mark.parametrize("path", KERNELS, ids=lambda p: str(p.relative_to(ROOT)))
def test_kernels_stand_on_numba_and_numpy_alone(path):
    """And Numba's own threading layers are not used: parallel.py says why. fastmath=True would lose
    NaN.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1]
            assert base.is_relative_to(ROOT / "kernels"), f"{path}: imports leave kernels/"
            for name in [node.module] if node.module else [a.name for a in node.names]:
                place = base.joinpath(*name.split("."))
                assert place.is_dir() or place.with_suffix(".py").is_file(), f"{path}: {name}"
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
    assert not (ROOT / "kernels" / "__init__.py").exists(), (
        "it would stand in for another package named kernels"
    )


@pytest.mark.parametrize("path", KERNELS, ids=lambda p: str(p.relative_to(ROOT)))
def test_llvm_is_built_in_one_folder_that_plain_kernels_load_late(path):
    """A Numba that lacks what the builders import must not keep plain kernels from loading."""
    if is_below(path, "llvm"):
        return
    built = [n for n in imports(path) if n.startswith(BUILDERS) or n == "numba.core.cgutils"]
    assert not built, f"{path} builds LLVM instructions: that belongs in kernels/llvm/"
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            names = [node.module or "", *(alias.name for alias in node.names)]
            assert not any(n.split(".")[0] == "llvm" for n in names), (
                f"{path}:{node.lineno}: import llvm inside a function, after dispatch has agreed"
            )


@pytest.mark.parametrize("editable", [True, False], ids=["checkout", "installed"])
def test_kernels_of_the_folder_and_its_subfolder_are_imported_as_tlx_kernels(editable, tmp_path):
    """Installed, the wheel's force-include has put kernels/ into tlx/kernels/."""
    root = ROOT
    if not editable:
        root = tmp_path / "site"
        shutil.copytree(ROOT / "tlx", root / "tlx", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(
            ROOT / "kernels",
            root / "tlx" / "kernels",
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    names = [
        ".".join(("tlx", *p.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        for p in KERNELS
    ]
    script = (
        "import sys, importlib\n"
        "for name in sys.argv[1:]: print(importlib.import_module(name).__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *names],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    home = ROOT / "kernels" if editable else root / "tlx" / "kernels"
    assert done.stdout.split() == [str(home / p.relative_to(ROOT / "kernels")) for p in KERNELS]


def test_the_wheel_takes_the_whole_folder_of_kernels():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert build["targets"]["wheel"]["force-include"]["kernels"] == "tlx/kernels"
    assert (ROOT / "kernels" / "llvm" / "__init__.py").is_file()


@pytest.mark.parametrize(("package", "home"), ALONE.items())
def test_one_home_for_each_platform(package, home):
    for path in SOURCES:
        used = any(name == package or name.startswith(package + ".") for name in imports(path))
        own = str(path.relative_to(ROOT))
        assert not used or own.startswith((home, SHIPPED)), f"{path} imports {package}"


def test_what_is_shipped_with_a_model_imports_neither_tlx_nor_torch_and_is_never_imported():
    allowed = {"mlflow", "numpy", "pandas", "PIL", "onnxruntime"} | set(sys.stdlib_module_names)
    assert {name.split(".")[0] for name in imports(ROOT / SHIPPED)} <= allowed | {"__future__"}
    for path in SOURCES:
        assert not any(name.startswith("tlx._data") for name in imports(path)), path


def test_no_door_but_ours_runs_pickles_or_shells():
    """Nothing in the package unpickles, evaluates or starts a shell.

    But for messages to workers and within a cluster, which run the driver's code anyway.
    """
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
                is_wire = str(path).endswith("lab/engines/wire.py") and called == "pickle.loads"
                assert called not in forbidden or is_wire, f"{path}:{node.lineno} calls {called}"
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


def is_truth(node: ast.expr, truths: set[str]) -> bool:
    """Whether an expression is True or False: a comparison, a question, or a name in `truths`."""
    if isinstance(node, ast.BoolOp):
        return all(is_truth(value, truths) for value in node.values)
    if isinstance(node, ast.Call):
        questions = {"bool", "isinstance", "issubclass", "hasattr", "callable", "any", "all"}
        return isinstance(node.func, ast.Name) and node.func.id in questions
    is_not = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)
    is_name = isinstance(node, ast.Name) and node.id in truths
    return is_not or is_name or isinstance(node, ast.Compare)


def truths_of(function: ast.AST) -> set[str]:
    """The names in a function that hold True or False: annotated so, or assigned a comparison."""
    names = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and is_truth(node.value, set()):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.arg) and node.annotation and ast.unparse(node.annotation) == "bool":
            names.add(node.arg)
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_arithmetic_on_truth_values_and_no_condition_inside_another(path):
    """`"s" * (n > 1)` is `"s" if n > 1 else ""`; a condition in a condition is two statements."""
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for scope in (tree, *functions):
        truths = set() if scope is tree else truths_of(scope)
        for node in ast.walk(scope):
            if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mult, ast.Add)):
                assert not is_truth(node.left, truths), f"{path}:{node.lineno}"
                assert not is_truth(node.right, truths), f"{path}:{node.lineno}"
            if isinstance(node, ast.IfExp):
                inside = [n for n in ast.walk(node) if n is not node and isinstance(n, ast.IfExp)]
                assert not inside, f"{path}:{node.lineno}: a condition inside another"


ANY_AT_MOST = 253  # functions whose signature mentions Any, mostly where a library has no types
BODY_AT_MOST = 60  # lines of a function, without its docstring


def functions():
    """Every function of the package: (place, its node)."""
    for path in SOURCES:
        if not {"kernels", "_data"} & set(path.parts):  # _data: goes along with an export
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef):
                    yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node


def test_no_more_functions_than_before_take_or_give_any():
    def mentions_any(annotation):
        names = ast.walk(annotation) if annotation is not None else ()
        return any(isinstance(node, ast.Name) and node.id == "Any" for node in names)

    untyped = []
    for place, node in functions():
        arguments = [n for n in ast.walk(node.args) if isinstance(n, ast.arg)]
        annotations = [*(argument.annotation for argument in arguments), node.returns]
        if any(map(mentions_any, annotations)):
            untyped.append(place)
    assert len(untyped) <= ANY_AT_MOST, untyped


def test_no_body_of_a_function_is_longer_than_a_page():
    for place, node in functions():
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
        assert lines <= BODY_AT_MOST, f"{place}: {lines} lines"


def test_a_class_name_is_used_once_in_the_package():
    places = collections.defaultdict(list)
    for path in SOURCES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and "_data" not in path.parts:
                places[node.name].append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


NO_NOUNS = {"found", "made", "some", "mine", "one", "there", "said", "rest", "told"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_locals_and_arguments_are_named_by_nouns(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            assert node.id not in NO_NOUNS, f"{path}:{node.lineno}: name what {node.id} holds"
        if isinstance(node, ast.arg):
            assert node.arg not in NO_NOUNS, f"{path}:{node.lineno}: name what {node.arg} holds"
