"""Spec: one declaration of a setting gives its identity, its command-line option and its search range.

A spec says what is asked, never where it runs. Its key is the SHA-256 of what it asks: class name and
every identity field that differs from its default (so a field added later leaves old keys alone, and
a default must never change its meaning). Fields marked ``place=True`` say where something lies; what
lies there enters through a digest field beside it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Self, TypeVar

from . import files
from .errors import TlxError, UnknownName, Usage, raise_all

REQUIRED = dataclasses.MISSING


@dataclasses.dataclass(frozen=True)
class Knob:
    """What a field's declaration says beside its type and default. Bounds are inclusive; unit is in words."""

    help: str = ""
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Any, ...] | None = None
    place: bool = False  # says where, so it is no part of the identity
    derived: bool = False  # filled in by the program: no option on the command line
    short: str | None = None  # one-letter option
    search: Any = None  # what a search tries: (low, high[, "log"]) or choices, inside what is allowed; False: nothing


def knob(default: Any = REQUIRED, *, help: str = "", low: float | None = None, high: float | None = None,
         log: bool = False, choices: typing.Iterable[Any] | None = None, place: bool = False,
         derived: bool = False, short: str | None = None, search: Any = None) -> Any:
    """Declare a setting: its default, what it means (units in words), its range, its choices, what a search tries."""
    row = Knob(help, low, high, log, tuple(choices) if choices is not None else None, place, derived, short, search)
    return dataclasses.field(default=default, metadata={"knob": row})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """Base of everything that can be asked for. Subclasses are frozen, keyword-only dataclasses of knobs."""

    def __post_init__(self) -> None:
        problems: list[TlxError] = []
        for name, row in self.knobs().items():
            try:
                value = _coerce(self.hints()[name], getattr(self, name), name)
                _check_range(name, value, row)
            except TlxError as error:
                problems.append(error)
            else:
                object.__setattr__(self, name, value)
        raise_all(problems)  # all that is wrong, at once

    @classmethod
    @functools.cache
    def hints(cls) -> dict[str, Any]:
        """Field name → resolved type."""
        return typing.get_type_hints(cls)

    @classmethod
    @functools.cache
    def knobs(cls) -> dict[str, Knob]:
        """Field name → its declaration, in order."""
        return {f.name: f.metadata.get("knob", Knob()) for f in dataclasses.fields(cls)}

    @classmethod
    @functools.cache
    def defaults(cls) -> dict[str, Any]:
        """Field name → default as a spec holds it, for the fields that have one."""
        return {f.name: _coerce(cls.hints()[f.name], f.default, f.name) for f in dataclasses.fields(cls)
                if f.default is not REQUIRED}

    def identity(self) -> dict[str, Any]:
        """What the key is made of: the kind, and each identity field that is not at its default."""
        fields = {name: _plain(getattr(self, name), identity=True) for name, row in self.knobs().items()
                  if not row.place and not _same(getattr(self, name), self.defaults().get(name, REQUIRED))}
        return {"kind": type(self).__name__, **fields}

    @functools.cached_property
    def key(self) -> str:
        """SHA-256 (hex) of the identity."""
        return files.digest({"format": 1, "spec": self.identity()})

    def to_json(self) -> dict[str, Any]:
        """Every field as plain JSON; `from_json` reads it back."""
        return {"kind": type(self).__name__, **{name: _plain(getattr(self, name)) for name in self.knobs()}}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The spec of `to_json`; unknown fields and kinds are refused."""
        kinds = {c.__name__: c for c in _family(Spec)}
        kind = kinds.get(value.get("kind", ""))
        if kind is None or not issubclass(kind, cls):
            raise UnknownName("kind of spec", str(value.get("kind")), kinds)
        return kind.with_settings({k: v for k, v in value.items() if k != "kind"})

    @classmethod
    def with_settings(cls, settings: Mapping[str, Any]) -> Self:
        """A spec of these settings; a name that is no field is refused with the nearest one."""
        for name in settings:
            if name not in cls.knobs():
                raise UnknownName(f"setting of {cls.__name__}", name, cls.knobs())
        return cls(**settings)

    def but(self, **changes: Any) -> Self:
        """This spec with some fields changed."""
        return dataclasses.replace(self, **changes)


def named(table: Mapping[str, type[Spec]], text: str, kind: str = "name") -> Spec:
    """The spec that 'name' or 'name:setting=value,setting=value' asks for, from a table of specs."""
    name, _, rest = text.partition(":")
    if name not in table:
        raise UnknownName(kind, name, table)
    settings = {}
    for pair in filter(None, rest.split(",")):
        setting, equals, value = pair.partition("=")
        if not equals:
            raise Usage("setting-form", f"'{pair}' in '{text}'", expected=f"{name}:setting=value,setting=value")
        settings[setting.strip().replace("-", "_")] = value.strip()
    return table[name].with_settings(settings)


# ---------------------------------------------------------------- coercion: 1 and 1.0 must be one key

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def _coerce(hint: Any, value: Any, name: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        options = [a for a in args if a is not type(None)]
        if value is None or (isinstance(value, str) and value.lower() in ("", "none") and type(None) in args):
            return None
        return _coerce(options[0], value, name)
    if origin is tuple:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        return tuple(_coerce(args[0], item, name) for item in _listed(value, name))
    if isinstance(hint, type) and issubclass(hint, Spec):
        value = hint.from_json(value) if isinstance(value, Mapping) else value
        return value if isinstance(value, hint) else _refuse(name, value, f"a {hint.__name__}")
    return SCALARS.get(hint, lambda v, n: v)(value, name)


def _listed(value: Any, name: str) -> Any:
    return value if isinstance(value, (list, tuple)) else _refuse(name, value, "a list, comma-separated")


def _refuse(name: str, value: Any, expected: str) -> Any:
    raise Usage("setting-type", f"{value!r}", where=name.replace("_", "-"), expected=expected)


def _to_bool(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).lower()
    return text in TRUE if text in TRUE + FALSE else _refuse(name, value, "true or false")


def _to_int(value: Any, name: str) -> int:
    if isinstance(value, bool):
        _refuse(name, value, "a whole number")
    try:
        if isinstance(value, (int, str)) and str(value).strip().lstrip("+-").isdigit():
            return int(value)
        return _whole(float(value), name)
    except (TypeError, ValueError, OverflowError):
        return _refuse(name, value, "a whole number")


def _whole(number: float, name: str) -> int:
    return int(number) if number.is_integer() else _refuse(name, number, "a whole number")


def _to_float(value: Any, name: str) -> float:
    if isinstance(value, bool):
        _refuse(name, value, "a number")
    try:
        number = float(value)
    except (TypeError, ValueError):
        return _refuse(name, value, "a number")
    return number + 0.0 if math.isfinite(number) else _refuse(name, value, "a finite number")  # + 0.0: no minus zero


SCALARS = {bool: _to_bool, int: _to_int, float: _to_float, str: lambda value, name: str(value)}


def _check_range(name: str, value: Any, row: Knob) -> None:
    option = name.replace("_", "-")
    if row.choices is not None and value is not None and value not in row.choices:
        raise UnknownName(option, str(value), [str(c) for c in row.choices])
    for item in value if isinstance(value, tuple) else (value,):
        if not isinstance(item, (int, float)) or isinstance(item, bool):
            continue
        if (row.low is not None and item < row.low) or (row.high is not None and item > row.high):
            bounds = [f"at least {row.low}"] * (row.low is not None) + [f"at most {row.high}"] * (row.high is not None)
            raise Usage("out-of-range", f"{item}", where=option, expected=f"a value {' and '.join(bounds)}")


def _plain(value: Any, identity: bool = False) -> Any:
    if isinstance(value, Spec):
        return value.identity() if identity else value.to_json()
    return [_plain(item, identity) for item in value] if isinstance(value, tuple) else value


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a == b


S = TypeVar("S", bound=Spec)


def _family(cls: type[S]) -> typing.Iterator[type[S]]:
    for child in cls.__subclasses__():
        yield child
        yield from _family(child)


def stream(seed: int, *names: object) -> int:
    """The seed (63 bits) of one named random stream. Every use of chance has a name of its own, so that
    neither worker count nor order nor a resumed run moves it; sums such as seed + 1 would overlap."""
    return int(files.digest([seed, *map(str, names)])[:16], 16) >> 1
