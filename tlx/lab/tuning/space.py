"""Search space: parameters with ranges or choices, some conditional on another.

Built from the declarations of specs (`declared`), picked by name (`picked`), narrowed by a person
(`narrowed`).
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ...errors import BadDataError, TlxError, UnknownNameError, UsageError, raise_all
from ...spec import Setting, Spec

AUTO, GIVEN = "default", "value"  # of a setting that may also be left to itself
STEPS, GRID_LIMIT = 5, 100_000  # points of a range on a grid; configurations of a whole grid
SLOTS = {"low", "high", "log", "steps"}


@dataclass(frozen=True)
class Parameter:
    """Parameter of a search.

    choices       what it may be; else it is a number from low to high, both included
    log           low…high is covered evenly by logarithm
    whole         whole numbers only
    steps         points of a grid over low…high
    when          (name, values): drawn only where that parameter is one of these
    default       where nothing is searched; None where that is outside
    bounds        what is allowed at all: a range, choices, or None where only a trial can find out
    by_name_only  searched only if its name is given
    """

    name: str
    choices: tuple[Any, ...] | None = None
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    steps: int = STEPS
    when: tuple[str, tuple[Any, ...]] | None = None
    default: Any = None
    bounds: tuple[Any, ...] | None = None
    by_name_only: bool = False

    def includes(self, value: float) -> bool:
        """Return whether this number may be drawn."""
        return value in self.choices if self.choices is not None else self.low <= value <= self.high

    def points(self) -> list[Any]:
        """Return its values on a grid."""
        if self.choices is not None:
            return list(self.choices)
        if self.steps == 1 or self.low == self.high:
            return [self._number(self.low)]
        shares = [i / (self.steps - 1) for i in range(self.steps)]
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            points = [
                self.low,
                *(float(f"{math.exp(low + s * (high - low)):.6g}") for s in shares[1:-1]),
                self.high,
            ]
        else:
            points = [self.low + s * (self.high - self.low) for s in shares]
        return list(dict.fromkeys(map(self._number, points)))

    def holds(self, value: object) -> bool:
        """Return whether a value is one that the search may choose."""
        if self.choices is not None:
            return any(type(value) is type(c) and value == c for c in self.choices)
        return (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            and self.low <= value <= self.high
        )

    def _number(self, value: float) -> float:
        return round(value) if self.whole else float(value)


@dataclass(frozen=True)
class Space:
    """Parameters, each after the one it depends on."""

    parameters: tuple[Parameter, ...]

    def draw(self, choose: Callable[[Parameter], Any]) -> dict[str, Any]:
        """Draw a configuration: name → value of every applicable parameter, from `choose`."""
        values: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter.when is None or values.get(parameter.when[0]) in parameter.when[1]:
                values[parameter.name] = choose(parameter)
        return values

    def default(self) -> dict[str, Any] | None:
        """Return the default configuration; None where it is outside the space."""
        values = self.draw(lambda parameter: parameter.default)
        known = {parameter.name: parameter for parameter in self.parameters}
        return values if all(known[name].holds(value) for name, value in values.items()) else None

    def grid(self) -> list[dict[str, Any]]:
        """Return every configuration of the grid, in order.

        Raises Usage where there are more than 100,000.
        """
        configurations: list[dict[str, Any]] = [{}]
        for parameter in self.parameters:
            if len(configurations) * len(parameter.points()) > GRID_LIMIT * len(self.parameters):
                raise UsageError(
                    "grid-size",
                    f"more than {GRID_LIMIT:,} configurations",
                    where="--sampler grid",
                    remedy="narrow it with --space, or use another --sampler",
                )
            points = parameter.points()
            configurations = [
                {**values, **extra}
                for values in configurations
                for extra in (
                    [{parameter.name: point} for point in points]
                    if parameter.when is None or values.get(parameter.when[0]) in parameter.when[1]
                    else [{}]
                )
            ]
        return configurations

    def to_json(self) -> list[dict[str, object]]:
        """Return plain JSON, in order."""
        return [
            {k: v for k, v in asdict(parameter).items() if k not in ("bounds", "by_name_only")}
            for parameter in self.parameters
        ]

    # ------------------------------------------------------------ which of them, and how far

    def picked(self, names: Sequence[str]) -> Space:
        """Return the parameters of these names, a choice with the settings of its values.

        These are named "linear-svc.C"; such a setting's own name brings the choice, held to where
        the setting applies.
        """
        known = {parameter.name: parameter for parameter in self.parameters}
        for name in names:
            if name not in known:
                raise UnknownNameError("search parameter", name, known)
        taken, held = set(names), {name for name in names if known[name].when is None}
        kept: dict[str, Parameter] = {}
        for parameter in self.parameters:
            under = parameter.when[0] if parameter.when else None
            own = (
                under in held
                and under in kept
                and "." in parameter.name
                and not parameter.by_name_only
            )
            if parameter.name in taken or own:
                kept[parameter.name] = parameter
                held |= {parameter.name} if own else set()
        for name in names:
            while (condition := known[name].when) is not None and condition[0] not in taken:
                parent = kept.get(condition[0], replace(known[condition[0]], choices=()))
                choices = tuple(
                    c
                    for c in known[condition[0]].choices or ()
                    if c in condition[1] or c in (parent.choices or ())
                )
                default = parent.default if parent.default in choices else choices[0]
                kept[condition[0]] = replace(known[condition[0]], choices=choices, default=default)
                name = condition[0]  # noqa: PLW2901 — its own condition is looked at next
        return Space(
            tuple(kept[parameter.name] for parameter in self.parameters if parameter.name in kept)
        )

    def narrowed(self, changes: Mapping[str, object], where: object = "") -> Space:
        """Return this space with the given ranges and choices.

        {"C": {"low": 0.01, "high": 10}, "classifier": ["ridge"]}.

        Raises all that is wrong at once: unknown names, types, values outside what the setting
        allows.
        """
        known = {parameter.name: parameter for parameter in self.parameters}
        problems: list[TlxError] = []
        for name, change in changes.items():
            if name not in known:
                problems.append(
                    UnknownNameError(
                        "search parameter", name, known, remedy=f"see {where}" if where else ""
                    )
                )
                continue
            try:
                known[name] = _narrow(known[name], change, where)
            except TlxError as error:
                problems.append(error)
        raise_all(problems)
        reachable: list[Parameter] = []
        for parameter in known.values():
            parent = next(
                (p for p in reachable if parameter.when and p.name == parameter.when[0]), None
            )
            if parameter.when is None or (
                parent and set(parent.choices or ()) & set(parameter.when[1])
            ):
                reachable.append(parameter)
        return Space(tuple(reachable))


def _narrow(parameter: Parameter, change: Any, where: object) -> Parameter:
    if isinstance(change, list):
        return _chosen(parameter, change, where)
    _check_form(parameter, change, where)
    low, high = (
        _in_bounds(parameter, change.get(name, getattr(parameter, name)), where)
        for name in ("low", "high")
    )
    log, steps = _log_and_steps(parameter, change, where)
    if low > high or (log and low <= 0):
        raise BadDataError(
            "space-range",
            f"'{parameter.name}': from {low:g} to {high:g}" + (", by logarithm" if log else ""),
            where=where,
            expected="low below high" + (", above 0 where log is true" if log else ""),
        )
    has_default = parameter.default is not None and low <= parameter.default <= high
    default = parameter.default if has_default else None
    return replace(parameter, low=low, high=high, log=log, steps=steps, default=default)


def _check_form(parameter: Parameter, change: object, where: object) -> None:
    """Raise unless a change is a range, and one of a parameter that has a range."""
    if not isinstance(change, Mapping):
        raise BadDataError(
            "space-form",
            f"'{parameter.name}': {change!r}",
            where=where,
            expected=_example(parameter),
        )
    if parameter.bounds is None or parameter.choices is not None:
        raise BadDataError(
            "space-form",
            f"'{parameter.name}' has choices, no range",
            where=where,
            expected=_example(parameter),
        )
    if wrong := [key for key in change if key not in SLOTS]:
        raise UnknownNameError(
            "key of a range", wrong[0], SLOTS, remedy=f"in '{parameter.name}' of {where}"
        )


def _log_and_steps(
    parameter: Parameter, change: Mapping[str, Any], where: object
) -> tuple[bool, int]:
    """Return whether a range is searched by logarithm, and its number of steps in a grid."""
    log, steps = change.get("log", parameter.log), change.get("steps", parameter.steps)
    has_steps = isinstance(steps, int) and not isinstance(steps, bool) and 1 <= steps <= 10_000
    if not isinstance(log, bool) or not has_steps:
        raise BadDataError(
            "space-type",
            f"'{parameter.name}': log {log!r}, steps {steps!r}",
            where=where,
            expected="log true or false, steps a whole number from 1 to 10,000",
        )
    return log, steps


def _chosen(parameter: Parameter, values: Sequence[object], where: object) -> Parameter:
    if not values:
        raise BadDataError(
            "space-form",
            f"'{parameter.name}': no choice",
            where=where,
            expected=_example(parameter),
        )
    if parameter.choices is None:
        values = [_in_bounds(parameter, value, where) for value in values]
    elif parameter.bounds is None:
        if wrong := [v for v in values if not isinstance(v, str)]:
            raise BadDataError(
                "space-type", f"'{parameter.name}': {wrong[0]!r}", where=where, expected="words"
            )
    else:
        for value in values:
            if not any(type(value) is type(c) and value == c for c in parameter.bounds):
                raise UnknownNameError(
                    f"choice of {parameter.name}",
                    str(value),
                    map(str, parameter.bounds),
                    remedy=f"in {where}",
                )
    kept = tuple(dict.fromkeys(values))
    return replace(
        parameter, choices=kept, default=parameter.default if parameter.default in kept else None
    )


def _in_bounds(parameter: Parameter, value: object, where: object) -> float:
    assert parameter.bounds is not None
    low, high = parameter.bounds
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or (parameter.whole and not float(value).is_integer())
    ):
        raise BadDataError(
            "space-type",
            f"'{parameter.name}': {value!r}",
            where=where,
            expected="a whole number" if parameter.whole else "a number",
        )
    if not low <= value <= high:
        raise UsageError(
            "out-of-range",
            f"{value:g} for '{parameter.name}'",
            where=where,
            expected=f"from {low:g} to {high:g}",
        )
    return int(value) if parameter.whole else float(value)


def _example(parameter: Parameter) -> str:
    if parameter.choices is not None:
        return f'{{"{parameter.name}": {list(parameter.choices[:2])}}}'.replace("'", '"')
    limits = f'"low": {parameter.low:g}, "high": {parameter.high:g}'
    return f'{{"{parameter.name}": {{{limits}}}}} or a list of numbers'


# ---------------------------------------------------------------- from the declarations of a spec


def declared(
    kind: type[Spec],
    prefix: str = "",
    when: tuple[str, tuple[object, ...]] | None = None,
    *,
    names: Sequence[str] | None = None,
    defaults: Mapping[str, object] | None = None,
    at_most: Mapping[str, float] | None = None,
) -> Iterator[Parameter]:
    """Return the parameters of a spec's settings: those with a range, choices, or on and off.

    prefix    "linear-svc." for parameters named linear-svc.C
    names     of the settings, where not all are meant
    defaults  instead of the spec's own
    at_most   setting → its end, where that is known here only (the blocks of a network, the
              training rows of a split)
    """
    start = {**kind.defaults(), **(defaults or {})}
    for name, row in kind.settings().items():
        if (names is not None and name not in names) or not row.cli:
            continue
        parameter = _parameter(
            prefix + name, row, kind.hints()[name], start.get(name), (at_most or {}).get(name)
        )
        if parameter is None:
            continue
        if _optional(kind.hints()[name]):
            given = f"{prefix}{name}.by"
            yield Parameter(
                given,
                (AUTO, GIVEN),
                when=when,
                default=AUTO if start.get(name) is None else GIVEN,
                bounds=(AUTO, GIVEN),
                by_name_only=parameter.by_name_only,
            )
            yield replace(parameter, when=(given, (GIVEN,)))
        else:
            yield replace(parameter, when=when)


def _parameter(
    name: str, row: Setting, hint: Any, default: Any, at_most: float | None
) -> Parameter | None:
    kind, searched, by_name_only = _plain(hint), row.search, row.search is False
    if kind is bool:
        return Parameter(
            name, (True, False), default=default, bounds=(True, False), by_name_only=by_name_only
        )
    if kind is str:
        choices = tuple(searched) if searched else row.choices
        return (
            None
            if choices is None
            else Parameter(
                name, choices, default=default, bounds=row.choices, by_name_only=by_name_only
            )
        )
    limits = [limit for limit in (row.high, at_most) if limit is not None]
    high = min(limits, default=None)
    if kind not in (int, float) or row.low is None or high is None:
        return None
    start, end, *how = searched if isinstance(searched, tuple) else (row.low, high)
    convert = int if kind is int else float
    start, end = convert(min(start, high)), convert(min(end, high))
    kept_default = default if default is not None and start <= default <= end else None
    return Parameter(
        name,
        low=start,
        high=end,
        log=(row.log or "log" in how) and start > 0,
        whole=kind is int,
        default=kept_default,
        bounds=(row.low, high),
        by_name_only=by_name_only,
    )


def _optional(hint: object) -> bool:
    return typing.get_origin(hint) in (types.UnionType, typing.Union) and type(
        None
    ) in typing.get_args(hint)


def _plain(hint: object) -> Any:
    return (
        next(a for a in typing.get_args(hint) if a is not type(None)) if _optional(hint) else hint
    )
