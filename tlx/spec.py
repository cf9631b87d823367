"""Specs: one declaration of a setting gives its identity, option and search range.

A spec states what to compute, never where. Its key is the SHA-256 of its `kind` and of every
identity field that differs from its default, so a field that is added later leaves old keys
unchanged, and a default must never change its meaning. Fields declared with ``identity=False`` are
paths and the like; their content enters through a digest field.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self, TypeVar

from . import files
from .errors import ErrorGroup, TlxError, UnknownNameError, UsageError, raise_all

FORMAT = 2  # of keys: 1 used class names, 2 uses `kind`
REQUIRED = dataclasses.MISSING
T = TypeVar("T")
Presets = Mapping[str, Mapping[str, object]]  # value of a setting → other settings that it gives


@dataclasses.dataclass(frozen=True)
class Setting:
    """Declaration of a field, in addition to its type and default.

    help      what the setting means; units in words
    low, high inclusive bounds of a number, or of each item of a tuple
    log       search on a logarithmic scale
    choices   allowed values
    identity  False for a place (a path, a device): it does not enter the key
    cli       False for a field that the program fills in: it has no option
    short     one-letter option
    argument  also given by words without an option: `tlx analyze mnist`
    repeated  the option may be given several times
    search    what a search tries inside the allowed values: (low, high[, "log"]) or choices; False:
              nothing
    writes    "file" or "folder" where the setting names what is written, else ""
    only_with other setting → its values with which this one has an effect; () stands for any but
              its default. Of several other settings one is enough
    presets   its values → settings that each gives: `make_specs` takes them where they are not
              given themselves
    """

    help: str = ""
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Any, ...] | None = None
    identity: bool = True
    cli: bool = True
    short: str | None = None
    argument: bool = False
    repeated: bool = False
    search: Any = None
    writes: str = ""
    only_with: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict, hash=False)
    presets: Presets | None = dataclasses.field(default=None, compare=False)


def setting(  # noqa: PLR0913 — the declaration of a setting, all by name
    default: object = REQUIRED,
    *,
    help: str = "",
    low: float | None = None,
    high: float | None = None,
    log: bool = False,
    choices: Iterable[object] | None = None,
    identity: bool = True,
    cli: bool = True,
    short: str | None = None,
    argument: bool = False,
    repeated: bool = False,
    search: object = None,
    writes: str = "",
    only_with: Mapping[str, tuple[object, ...]] | None = None,
    presets: Presets | None = None,
) -> Any:
    """Declare a field of a spec; see `Setting` for the arguments."""
    allowed = None if choices is None else tuple(choices)
    row = Setting(
        *(help, low, high, log, allowed, identity, cli, short, argument, repeated, search, writes),
        only_with or {},
        presets,
    )
    return dataclasses.field(default=default, metadata={"setting": row})


def setting_of(base: type[Spec], name: str, default: object = REQUIRED, **changes: object) -> Any:
    """Declare a field as another spec declares it.

    With another default if one is given, and with these arguments of `setting` changed.
    """
    own = {field.name: field for field in dataclasses.fields(base)}[name]
    row = dataclasses.replace(own.metadata["setting"], **changes)
    value = own.default if default is REQUIRED else default
    return dataclasses.field(default=value, metadata={"setting": row})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """Base class of everything that can be requested.

    Subclasses are frozen, keyword-only dataclasses whose fields are declared with `setting`. A
    class whose instances have keys declares its own `kind`, a name that is kept when the class is
    renamed.
    """

    kind: ClassVar[str] = ""

    def __post_init__(self) -> None:
        problems: list[TlxError] = []
        for name, row in self.settings().items():
            try:
                value = _coerce(self.hints()[name], getattr(self, name), name)
                _check_range(name, value, row)
            except TlxError as error:
                problems.append(error)
            else:
                object.__setattr__(self, name, value)
        raise_all(problems)  # everything that is wrong, at once

    @classmethod
    @functools.cache
    def hints(cls) -> dict[str, Any]:
        """Return field name → resolved type."""
        return typing.get_type_hints(cls)

    @classmethod
    @functools.cache
    def settings(cls) -> dict[str, Setting]:
        """Return field name → declaration, in order."""
        return {f.name: f.metadata.get("setting", Setting()) for f in dataclasses.fields(cls)}

    @classmethod
    @functools.cache
    def defaults(cls) -> dict[str, Any]:
        """Return field name → default as an instance holds it, for the fields that have one."""
        fields = [field for field in dataclasses.fields(cls) if field.default is not REQUIRED]
        return {f.name: _coerce(cls.hints()[f.name], f.default, f.name) for f in fields}

    @classmethod
    def own_kind(cls) -> str:
        """Return the kind that this class itself declares.

        Raises TypeError if it has none.

        A kind is not inherited: two classes of one kind would give one key to two results.
        """
        kind = cls.__dict__.get("kind", "")
        if not kind:
            raise TypeError(f"{cls.__name__} declares no kind, so it has no key")
        return str(kind)

    def identity(self) -> dict[str, Any]:
        """Return what the key is computed from.

        The kind and each identity field that is not at its default.
        """
        fields = {}
        for name, row in self.settings().items():
            value = getattr(self, name)
            if row.identity and not _same(value, self.defaults().get(name, REQUIRED)):
                fields[name] = _plain(value, identity=True)
        return {"kind": self.own_kind(), **fields}

    @functools.cached_property
    def key(self) -> str:
        """Return the SHA-256 of the identity, in hexadecimal."""
        return files.digest({"format": FORMAT, "spec": self.identity()})

    def to_json(self) -> dict[str, object]:
        """Return the kind and every field as plain JSON; `from_json` reads it back."""
        return {
            "kind": self.own_kind(),
            **{name: _plain(getattr(self, name)) for name in self.settings()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the spec of `to_json`.

        Raises UnknownNameError for an unknown kind or field.
        """
        kinds = kinds_of(Spec)
        kind = kinds.get(value.get("kind", ""))
        if kind is None or not issubclass(kind, cls):
            raise UnknownNameError("kind of spec", str(value.get("kind")), kinds)
        return kind.with_settings({k: v for k, v in value.items() if k != "kind"})

    @classmethod
    def with_settings(cls, settings: Mapping[str, object]) -> Self:
        """Return a spec of these settings.

        Raises UnknownNameError with the nearest name.
        """
        for name in settings:
            if name not in cls.settings():
                raise UnknownNameError(
                    f"setting of {cls.__dict__.get('kind') or cls.__name__}", name, cls.settings()
                )
        return cls(**settings)

    def replace(self, **changes: object) -> Self:
        """Return this spec with some fields changed."""
        return dataclasses.replace(self, **changes)


def make_specs(classes: Iterable[type[Spec]], settings: Mapping[str, object]) -> list[Spec]:
    """Return a spec of each class from one mapping of settings; a shared name goes to each.

    Everything that is wrong is raised at once: unknown names, and values that are refused. None
    means "not given". A setting with presets gives others their values, where these are not given.
    """
    classes = tuple(classes)
    given = {name.replace("-", "_"): value for name, value in settings.items() if value is not None}
    own_words = set(given)
    given = _preset(classes, given) | given
    known = {name for cls in classes for name, row in cls.settings().items() if row.cli}
    problems: dict[str, TlxError] = {}
    for name in given:
        if name not in known:
            unknown = UnknownNameError("setting", name, known)
            problems[str(unknown)] = unknown
    specs = []
    for cls in classes:
        shown = {name for name, row in cls.settings().items() if row.cli}
        own = {name: value for name, value in given.items() if name in shown}
        try:
            specs.append(cls(**own))
        except ErrorGroup as group:
            problems |= {str(problem): problem for problem in group.problems}
        except TlxError as problem:  # of a setting that two specs share it is raised once
            problems[str(problem)] = problem
    raise_all(list(problems.values()))
    raise_all(without_effect(specs, own_words))
    return specs


def _preset(classes: Iterable[type[Spec]], given: Mapping[str, object]) -> dict[str, object]:
    """Return the settings that the given values of settings with presets stand for."""
    preset: dict[str, object] = {}
    for cls in classes:
        for name, row in cls.settings().items():
            if row.presets is not None and name in given:
                preset |= row.presets.get(str(given[name]), {})
    return preset


def preset_names(classes: Iterable[type[Spec]]) -> set[str]:
    """Return the settings that some preset of these classes gives a value."""
    tables = [row.presets for cls in classes for row in cls.settings().values() if row.presets]
    return {name for table in tables for settings in table.values() for name in settings}


def without_effect(specs: Sequence[Spec], given: Collection[str]) -> list[TlxError]:
    """Return an error for each given setting that has no effect beside the values of the others.

    One that has its default is no error: scripts may give every setting.
    """
    owners = {name: spec for spec in reversed(specs) for name in spec.settings()}
    problems: dict[str, TlxError] = {}
    for spec in specs:
        for name, row in spec.settings().items():
            value = getattr(spec, name)
            if not row.only_with or name not in given or value == spec.defaults().get(name):
                continue
            known = {other: allowed for other, allowed in row.only_with.items() if other in owners}
            if not known or any(_allows(owners[n], n, allowed) for n, allowed in known.items()):
                continue
            problems[name] = UsageError(
                "no-effect",
                f"{_option(name, value)} without {' and '.join(_options(known))}",
                remedy=f"add {' or '.join(_options(known))}, or leave out {_option(name)}",
            )
    return list(problems.values())


def _allows(spec: Spec, name: str, allowed: tuple[object, ...]) -> bool:
    value = getattr(spec, name)
    if not allowed:
        return bool(value != spec.defaults().get(name))
    return value in allowed or (isinstance(value, str) and value.partition(":")[0] in allowed)


def _options(known: Mapping[str, tuple[object, ...]]) -> list[str]:
    """Return the options that a setting has an effect with, each with its values."""
    options = []
    for name, allowed in known.items():
        if allowed in ((True,), ()):
            options.append(_option(name))
        else:
            options.append(f"{_option(name)} {' or '.join(map(str, allowed))}")
    return options


def _option(name: str, value: object = True) -> str:
    """Return a setting as it is typed, with its value unless that is a switch or long."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag} {value}" if isinstance(value, (int, float)) else f"--{flag}"


def parse_spec(table: Mapping[str, type[Spec]], text: str, kind: str = "name") -> Spec:
    """Return the spec of 'name' or 'name:setting=value,setting=value' in a table of specs."""
    name, _, pairs = text.partition(":")
    if name not in table:
        raise UnknownNameError(kind, name, table)
    settings = {}
    for pair in filter(None, pairs.split(",")):
        field, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(
                "setting-form",
                f"'{pair}' in '{text}'",
                expected=f"{name}:setting=value,setting=value",
            )
        settings[field.strip().replace("-", "_")] = value.strip()
    return table[name].with_settings(settings)


def split_words(text: str) -> list[str]:
    """Split "knn:k=3,weights=distance ridge,lda" into names with their settings.

    Commas also separate settings.

    After a comma, name=value without a colon before it is a further setting of the name
    before.
    """
    words: list[str] = []
    for part in text.split():
        begins = True
        for piece in filter(None, part.split(",")):
            is_setting = "=" in piece.partition(":")[0] and not begins and ":" in words[-1]
            if is_setting:
                words[-1] += f",{piece}"
            else:
                words.append(piece)
            begins = False
    return words


def format_spec(name: str, spec: Spec) -> str:
    """Return `spec` as the text that `parse_spec` reads.

    'name' or 'name:setting=value,…' of what is not default.
    """
    changed = []
    for field in spec.settings():
        value = getattr(spec, field)
        if not _same(value, spec.defaults().get(field, REQUIRED)):
            changed.append(f"{field}={value}")
    return f"{name}:{','.join(changed)}" if changed else name


# ---------------------------------------------------------------- coercion: 1 and 1.0 must be one
# key

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def _coerce(hint: object, value: object, name: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        options = [a for a in args if a is not type(None)]
        if value is None or (
            isinstance(value, str) and value.lower() in ("", "none") and type(None) in args
        ):
            return None
        return _coerce(options[0], value, name)
    if origin is tuple:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        elif isinstance(value, (int, float, Path)) and not isinstance(value, bool):
            value = [value]  # one item, as on the command line
        return tuple(_coerce(args[0], item, name) for item in _listed(value, name))
    if isinstance(hint, type) and issubclass(hint, Spec):
        value = hint.from_json(value) if isinstance(value, Mapping) else value
        return value if isinstance(value, hint) else _refuse(name, value, f"a {hint.__name__}")
    return SCALARS[hint](value, name) if hint in SCALARS else value


def _listed(value: object, name: str) -> Any:
    return (
        value
        if isinstance(value, (list, tuple))
        else _refuse(name, value, "a list, comma-separated")
    )


def _refuse(name: str, value: object, expected: str) -> NoReturn:
    raise UsageError("setting-type", f"{value!r}", where=name.replace("_", "-"), expected=expected)


def _to_bool(value: object, name: str) -> bool:
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
        _refuse(name, value, "a whole number")


def _whole(number: float, name: str) -> int:
    return int(number) if number.is_integer() else _refuse(name, number, "a whole number")


def _to_float(value: Any, name: str) -> float:
    if isinstance(value, bool):
        _refuse(name, value, "a number")
    try:
        number = float(value)
    except (TypeError, ValueError):
        _refuse(name, value, "a number")
    return (
        number + 0.0 if math.isfinite(number) else _refuse(name, value, "a finite number")
    )  # + 0.0: no minus zero


SCALARS: dict[Any, Callable[[Any, str], Any]] = {
    bool: _to_bool,
    int: _to_int,
    float: _to_float,
    str: lambda value, name: str(value),
}


def _check_range(name: str, value: object, row: Setting) -> None:
    option = name.replace("_", "-")
    if row.choices is not None and value is not None and value not in row.choices:
        raise UnknownNameError(option, str(value), [str(c) for c in row.choices])
    for item in value if isinstance(value, tuple) else (value,):
        if not isinstance(item, (int, float)) or isinstance(item, bool):
            continue
        if (row.low is not None and item < row.low) or (row.high is not None and item > row.high):
            bounds = ([f"at least {row.low}"] if row.low is not None else []) + (
                [f"at most {row.high}"] if row.high is not None else []
            )
            raise UsageError(
                "out-of-range", f"{item}", where=option, expected=f"a value {' and '.join(bounds)}"
            )


def _plain(value: object, identity: bool = False) -> Any:
    if isinstance(value, Spec):
        return value.identity() if identity else value.to_json()
    return [_plain(item, identity) for item in value] if isinstance(value, tuple) else value


def _same(a: object, b: object) -> bool:
    return type(a) is type(b) and a == b


S = TypeVar("S", bound=Spec)


def kinds_of(base: type[S]) -> dict[str, type[S]]:
    """Return kind → class of the subclasses of `base` that declare a kind."""
    return {cls.__dict__["kind"]: cls for cls in _subclasses(base) if cls.__dict__.get("kind")}


def _subclasses(cls: type[S]) -> Iterator[type[S]]:
    for child in cls.__subclasses__():
        yield child
        yield from _subclasses(child)


def derive_seed(seed: int, *names: object) -> int:
    """Return the 63-bit seed of one named random stream.

    Every use of chance has its own name, so that neither worker count nor order nor a resumed run
    changes it; sums such as seed + 1 would overlap.
    """
    return int(files.digest([seed, *map(str, names)])[:16], 16) >> 1
