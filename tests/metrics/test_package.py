"""The package of metrics: functions are loaded when used, whatever module has their name."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tlx import metrics


def test_every_function_is_listed_once_and_loaded_from_its_module():
    assert sorted(metrics.SOURCES) == metrics.__all__
    for name, source in metrics.SOURCES.items():
        function = getattr(metrics, name)
        assert callable(function), name
        assert function.__module__ == f"tlx.metrics.{source}"


def test_what_type_checkers_see_is_what_is_loaded():
    tree = ast.parse(Path(metrics.__file__).read_text())
    seen = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 1
        for alias in node.names
    }
    assert seen == metrics.SOURCES


def test_a_function_is_not_hidden_by_the_module_of_its_name():
    """In a process where nothing is loaded yet: here the tests have loaded both."""
    code = """
import sys
from tlx.metrics import crossed
loaded = [name for name in sys.modules if name.startswith("tlx.metrics.")]
assert "tlx.metrics.cka" not in loaded, loaded
assert "scipy.stats" not in sys.modules
import tlx.metrics.cka, tlx.metrics.parameter_distance.parts, tlx.metrics.mds
from tlx import metrics
from tlx.metrics import mds
for function in (metrics.cka, metrics.parameter_distance, mds, metrics.rdm):
    assert callable(function), function
assert "cka" in dir(metrics) and "rdm" in dir(metrics)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_intervals_of_a_study_load_no_compiled_kernel():
    """Loading one takes more than a second, at the end of every command."""
    code = """
import sys
import numpy as np
from tlx.metrics import crossed
crossed.components(np.eye(20, 200), np.arange(200) % 10)
assert "numba" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        metrics.nothing  # noqa: B018 — asked for
    assert not hasattr(metrics, "nothing")
