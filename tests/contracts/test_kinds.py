"""Every spec that has a key declares a kind of its own, used once."""

from __future__ import annotations

import importlib
import pkgutil
import re

import pytest

import tlx
from tlx.spec import Spec, _subclasses

for module in pkgutil.walk_packages(tlx.__path__, "tlx."):
    if not module.name.startswith(("tlx.kernels", "tlx.__main__")):
        importlib.import_module(module.name)
DECLARED = {
    cls: cls.__dict__["kind"]
    for cls in _subclasses(Spec)
    if cls.__module__.startswith("tlx.") and cls.__dict__.get("kind")
}


def test_a_kind_is_used_once():
    names = list(DECLARED.values())
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("cls", DECLARED, ids=lambda cls: cls.__name__)
def test_a_kind_is_a_name_in_lower_case(cls):
    assert re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", DECLARED[cls])


@pytest.mark.parametrize(
    "cls",
    [c for c in DECLARED if all(n in c.defaults() for n in c.settings())],
    ids=lambda cls: cls.__name__,
)
def test_a_spec_comes_back_as_its_class(cls):
    spec = cls()
    assert type(Spec.from_json(spec.to_json())) is cls
    assert Spec.from_json(spec.to_json()).key == spec.key
