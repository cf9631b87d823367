"""One declaration, one identity: what is the same has one key, what is not has another."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlx import files
from tlx.errors import UnknownNameError, UsageError
from tlx.spec import Spec, derive_seed, parse_spec, setting


@dataclass(frozen=True, kw_only=True)
class Near(Spec):
    kind: ClassVar[str] = "near"

    k: int = setting(5, low=1)


@dataclass(frozen=True, kw_only=True)
class Far(Spec):
    kind: ClassVar[str] = "far"

    k: int = setting(5, low=1)


@dataclass(frozen=True, kw_only=True)
class Asked(Spec):
    """A spec with one of everything."""

    kind: ClassVar[str] = "asked"

    name: str = setting(help="required")
    rate: float = setting(0.5, low=0.0, high=1.0)
    count: int = setting(1)
    flag: bool = setting(False)
    ratio: float | None = setting(None)
    sizes: tuple[int, ...] = setting((1, 2))
    rule: str = setting("a", choices=("a", "b"))
    folder: str = setting("", identity=False)
    model: Spec = setting(Near())  # noqa: RUF009  a spec is frozen


def key(**settings) -> str:
    return Asked(name="x", **settings).key


def test_pinned_keys():
    """The key is the digest of the written-out identity, and of nothing else."""
    identities = {
        Asked(name="x"): {"kind": "asked", "name": "x"},
        Asked(name="x", rate=1, sizes=[3], model=Far(k=5)): {
            "kind": "asked",
            "name": "x",
            "rate": 1.0,
            "sizes": [3],
            "model": {"kind": "far"},
        },
        Near(): {"kind": "near"},
        Near(k=7): {"kind": "near", "k": 7},
    }
    for spec, identity in identities.items():
        assert spec.identity() == identity
        assert spec.key == files.digest({"format": 2, "spec": identity})
    assert [s.key[:16] for s in identities] == PINNED


# printf '{"format":2,"spec":{"kind":"near"}}' | sha256sum
PINNED = ["4a7977e870aaa9ad", "73f8b0e0593c98a6", "e8a645797aac5596", "95f9fb8b60b076f0"]


@pytest.mark.parametrize(
    ("field", "spellings"),
    [
        ("rate", (1, 1.0, "1", "1.0", "1e0", " 1 ")),
        ("count", (3, 3.0, "3", "3.0", "3e0", "+3")),
        ("flag", (True, "true", "yes", "On", "1")),
        ("ratio", (2, 2.0, "2")),
        ("ratio", (None, "", "none", "None")),
        ("sizes", ((3, 4), [3, 4], "3,4", " 3 , 4 ", (3.0, "4"))),
    ],
)
def test_one_value_one_key(field, spellings):
    keys = {key(**{field: spelling}) for spelling in spellings}
    assert len(keys) == 1
    values = {repr(getattr(Asked(name="x", **{field: spelling}), field)) for spelling in spellings}
    assert len(values) == 1


def test_zero_has_no_sign():
    assert key(rate=0.0) == key(rate=-0.0)


@given(st.integers(-(2**53), 2**53))
def test_whole_numbers_are_whole_however_they_come(number):
    assert key(count=number) == key(count=str(number)) == key(count=float(number))


def test_large_whole_numbers_keep_their_digits():
    assert key(count=2**60 + 1) == key(count=str(2**60 + 1)) != key(count=2**60)


def test_a_default_is_left_out_and_a_place_too():
    assert key() == key(
        rate=0.5, count=1, flag=False, ratio=None, sizes=(1, 2), rule="a", model=Near()
    )
    assert key(folder="/somewhere") == key(folder="/else") == key()
    assert Asked(name="x").identity() == {"kind": "asked", "name": "x"}


def test_a_default_is_left_out_however_it_is_declared():
    @dataclass(frozen=True, kw_only=True)
    class Loose(Spec):
        kind: ClassVar[str] = "loose"
        rate: float = setting(1)
        sizes: tuple[float, ...] = setting((1, 2))

    assert Loose().identity() == Loose(rate=1.0, sizes=(1.0, 2.0)).identity() == {"kind": "loose"}


def test_a_field_added_later_leaves_old_keys_alone():
    @dataclass(frozen=True, kw_only=True)
    class Grown(Spec):
        kind: ClassVar[str] = "near"
        k: int = setting(5)
        new: str = setting("off")

    assert Grown().key == Near().key
    assert Grown(k=7).key == Near(k=7).key
    assert Grown(new="on").key != Near().key


def test_a_class_without_a_kind_of_its_own_has_no_key():
    """An inherited kind would give one key to the results of two classes."""

    @dataclass(frozen=True, kw_only=True)
    class Heir(Near):
        pass

    with pytest.raises(TypeError, match="Heir declares no kind"):
        _ = Heir().key


def test_every_change_changes_the_key():
    changes = [
        {},
        {"rate": 0.25},
        {"count": 2},
        {"flag": True},
        {"ratio": 0.0},
        {"sizes": (2, 1)},
        {"sizes": (1,)},
        {"sizes": ()},
        {"rule": "b"},
        {"model": Near(k=6)},
        {"model": Far()},
        {"model": Far(k=6)},
    ]
    assert len({key(**change) for change in changes} | {Asked(name="y").key}) == len(changes) + 1


def test_nested_kinds_do_not_collide():
    assert Near(k=7).key != Far(k=7).key
    assert key(model=Near(k=7)) != key(model=Far(k=7))


def test_a_key_is_the_same_in_another_process():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from tlx.spec import Spec, setting\nfrom dataclasses import dataclass\n"
        "from typing import ClassVar\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Renamed(Spec):\n    kind: ClassVar[str] = "
        "'near'\n    k: int = setting(5)\nprint(Renamed(k=7).key)"
    )
    for seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(Path(__file__).parents[1])],
            text=True,
            check=True,
            capture_output=True,
            env={"PYTHONHASHSEED": seed, "TZ": "Asia/Tokyo", "LANG": "C"},
        )
        assert done.stdout.strip() == Near(k=7).key


def test_a_spec_comes_back_from_json():
    spec = Asked(name="x", rate=0.25, sizes=(7,), folder="/here", model=Far(k=2), ratio=1.5)
    data = files.parse_json(files.canonical_json(spec.to_json()))
    assert Spec.from_json(data) == spec
    assert Asked.from_json(data).key == spec.key
    with pytest.raises(UnknownNameError):
        Near.from_json(data)  # another kind
    with pytest.raises(UnknownNameError, match="nearest: rate"):
        Asked.from_json(data | {"rat": 1})
    with pytest.raises(UnknownNameError):
        Spec.from_json({"kind": "os.system"})


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"rate": 1.5}, "out-of-range"),
        ({"rate": -0.1}, "out-of-range"),
        ({"rate": "nan"}, "setting-type"),
        ({"rate": float("inf")}, "setting-type"),
        ({"rate": True}, "setting-type"),
        ({"rate": "x"}, "setting-type"),
        ({"count": 1.5}, "setting-type"),
        ({"count": True}, "setting-type"),
        ({"count": None}, "setting-type"),
        ({"count": "1e400"}, "setting-type"),
        ({"flag": "maybe"}, "setting-type"),
        ({"flag": 2}, "setting-type"),
        ({"sizes": {3}}, "setting-type"),
        ({"sizes": "1,x"}, "setting-type"),
        ({"rule": "c"}, "unknown-rule"),
        ({"model": "knn"}, "setting-type"),
        ({"model": Near}, "setting-type"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_the_setting_named(settings, code):
    with pytest.raises(UsageError) as caught:
        Asked(name="x", **settings)
    assert (caught.value.code, caught.value.exit_code) == (code, 2)
    assert next(iter(settings)) in str(caught.value)


def test_a_spec_is_frozen_and_is_changed_by_copy():
    spec = Asked(name="x")
    with pytest.raises(FrozenInstanceError):
        spec.rate = 1.0
    first = spec.key
    assert spec.replace(rate="1").rate == 1.0
    assert spec.replace(rate=1).key != first == spec.key


def test_names_with_settings():
    table = {"near": Near, "far": Far}
    assert parse_spec(table, "near") == Near()
    assert parse_spec(table, "far:k=7") == Far(k=7)
    for text, words in (
        ("nea", "nearest: near"),
        ("near:k", "near:setting=value"),
        ("near:kk=3", "nearest: k"),
        ("near:k=0", "at least 1"),
    ):
        with pytest.raises(UsageError, match=words):
            parse_spec(table, text, "classifier")


def test_streams_of_chance_have_their_names():
    seeds = [
        derive_seed(0),
        derive_seed(1),
        derive_seed(0, "init"),
        derive_seed(0, "shuffle", 1),
        derive_seed(0, "shuffle", 2),
        derive_seed(0, "shuffle1"),
        derive_seed(1, "init"),
    ]
    assert len(set(seeds)) == len(seeds)
    assert derive_seed(0, "shuffle", 1) == derive_seed(0, "shuffle", "1")
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_one_item_stands_for_a_list_of_one():
    assert Asked(name="x", sizes=3).sizes == Asked(name="x", sizes="3").sizes == (3,)
