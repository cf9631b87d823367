"""What a search may try: parameters with their ranges or choices, some of them only where another
came out so.

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
    """One thing that a search chooses.

    choices    what it may be; else it is a number from low to high, both included
    log        low…high is covered evenly by logarithm
    whole      whole numbers only
    steps      points of a grid over low…high
    when       (name, values): asked for only where that parameter is one of these
    default    where nothing is searched; None where that is outside
    bounds     what is allowed at all: a range, choices, or None where only a trial can tell
    unasked    searched only if its name is given
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
    unasked: bool = False

    def includes(self, value: float) -> bool:
        """Return whether this number may be drawn."""
        return value in self.choices if self.choices is not None else self.low <= value <= self.high

    def points(self) -> list[Any]:
        """Its values on a grid."""
        if self.choices is not None:
            return list(self.choices)
        if self.steps == 1 or self.low == self.high:
            return [self._number(self.low)]
        shares = [i / (self.steps - 1) for i in range(self.steps)]
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            found = [
                self.low,
                *(float(f"{math.exp(low + s * (high - low)):.6g}") for s in shares[1:-1]),
                self.high,
            ]
        else:
            found = [self.low + s * (self.high - self.low) for s in shares]
        return list(dict.fromkeys(map(self._number, found)))

    def holds(self, value: Any) -> bool:
        """Whether a value is one that the search may choose."""
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
    """Parameters in an order in which each stands after the one it depends on."""

    parameters: tuple[Parameter, ...]

    def draw(self, choose: Callable[[Parameter], Any]) -> dict[str, Any]:
        """A configuration: name → value of every parameter that applies, each as `choose` says."""
        values: dict[str, Any] = {}
        for one in self.parameters:
            if one.when is None or values.get(one.when[0]) in one.when[1]:
                values[one.name] = choose(one)
        return values

    def default(self) -> dict[str, Any] | None:
        """The configuration that is there without a search; None where it lies outside."""
        values = self.draw(lambda one: one.default)
        known = {one.name: one for one in self.parameters}
        return values if all(known[name].holds(value) for name, value in values.items()) else None

    def grid(self) -> list[dict[str, Any]]:
        """Every configuration of the grid, in order; Usage where there are more than 100,000."""
        found: list[dict[str, Any]] = [{}]
        for one in self.parameters:
            if len(found) * len(one.points()) > GRID_LIMIT * len(self.parameters):
                raise UsageError(
                    "grid-size",
                    f"more than {GRID_LIMIT:,} configurations",
                    where="--sampler grid",
                    remedy="narrow it with --space, or use another --sampler",
                )
            points = one.points()
            found = [
                {**values, **extra}
                for values in found
                for extra in (
                    [{one.name: point} for point in points]
                    if one.when is None or values.get(one.when[0]) in one.when[1]
                    else [{}]
                )
            ]
        return found

    def to_json(self) -> list[dict[str, Any]]:
        """Plain JSON, in order."""
        return [
            {k: v for k, v in asdict(one).items() if k not in ("bounds", "unasked")}
            for one in self.parameters
        ]

    # ------------------------------------------------------------ which of them, and how far

    def picked(self, names: Sequence[str]) -> Space:
        """Those of these names, a choice with the settings of what is chosen ("linear-svc.C"); such
        a setting's own name brings the choice, held to where the setting applies.
        """
        known = {one.name: one for one in self.parameters}
        for name in names:
            if name not in known:
                raise UnknownNameError("search parameter", name, known)
        taken, held = set(names), {name for name in names if known[name].when is None}
        kept: dict[str, Parameter] = {}
        for one in self.parameters:
            under = one.when[0] if one.when else None
            own = under in held and under in kept and "." in one.name and not one.unasked
            if one.name in taken or own:
                kept[one.name] = one
                held |= {one.name} if own else set()
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
                name = condition[0]
        return Space(tuple(kept[one.name] for one in self.parameters if one.name in kept))

    def narrowed(self, changes: Mapping[str, Any], where: object = "") -> Space:
        """This space with ranges and choices of one's own: {"C": {"low": 0.01, "high": 10},
        "classifier": ["ridge"]}.

        Raises all that is wrong at once: unknown names, types, values outside what the setting
        allows.
        """
        known = {one.name: one for one in self.parameters}
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
        for one in known.values():
            parent = next((p for p in reachable if one.when and p.name == one.when[0]), None)
            if one.when is None or (parent and set(parent.choices or ()) & set(one.when[1])):
                reachable.append(one)
        return Space(tuple(reachable))


def _narrow(one: Parameter, change: Any, where: object) -> Parameter:
    if isinstance(change, list):
        return _chosen(one, change, where)
    if not isinstance(change, Mapping):
        raise BadDataError(
            "space-form", f"'{one.name}': {change!r}", where=where, expected=_example(one)
        )
    if one.bounds is None or one.choices is not None:
        raise BadDataError(
            "space-form", f"'{one.name}' has choices, no range", where=where, expected=_example(one)
        )
    if wrong := [key for key in change if key not in SLOTS]:
        raise UnknownNameError(
            "key of a range", wrong[0], SLOTS, remedy=f"in '{one.name}' of {where}"
        )
    low, high = (
        _in_bounds(one, change.get(name, getattr(one, name)), where) for name in ("low", "high")
    )
    log, steps = change.get("log", one.log), change.get("steps", one.steps)
    if (
        not isinstance(log, bool)
        or not isinstance(steps, int)
        or isinstance(steps, bool)
        or not 1 <= steps <= 10_000
    ):
        raise BadDataError(
            "space-type",
            f"'{one.name}': log {log!r}, steps {steps!r}",
            where=where,
            expected="log true or false, steps a whole number from 1 to 10,000",
        )
    if low > high or (log and low <= 0):
        raise BadDataError(
            "space-range",
            f"'{one.name}': from {low:g} to {high:g}" + ", by logarithm" * log,
            where=where,
            expected="low below high" + ", above 0 where log is true" * log,
        )
    default = one.default if one.default is not None and low <= one.default <= high else None
    return replace(one, low=low, high=high, log=log, steps=steps, default=default)


def _chosen(one: Parameter, values: Sequence[Any], where: object) -> Parameter:
    if not values:
        raise BadDataError(
            "space-form", f"'{one.name}': no choice", where=where, expected=_example(one)
        )
    if one.choices is None:
        values = [_in_bounds(one, value, where) for value in values]
    elif one.bounds is None:
        if wrong := [v for v in values if not isinstance(v, str)]:
            raise BadDataError(
                "space-type", f"'{one.name}': {wrong[0]!r}", where=where, expected="words"
            )
    else:
        for value in values:
            if not any(type(value) is type(c) and value == c for c in one.bounds):
                raise UnknownNameError(
                    f"choice of {one.name}", str(value), map(str, one.bounds), remedy=f"in {where}"
                )
    kept = tuple(dict.fromkeys(values))
    return replace(one, choices=kept, default=one.default if one.default in kept else None)


def _in_bounds(one: Parameter, value: Any, where: object) -> float:
    assert one.bounds is not None
    low, high = one.bounds
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or (one.whole and not float(value).is_integer())
    ):
        raise BadDataError(
            "space-type",
            f"'{one.name}': {value!r}",
            where=where,
            expected="a whole number" if one.whole else "a number",
        )
    if not low <= value <= high:
        raise UsageError(
            "out-of-range",
            f"{value:g} for '{one.name}'",
            where=where,
            expected=f"from {low:g} to {high:g}",
        )
    return int(value) if one.whole else float(value)


def _example(one: Parameter) -> str:
    if one.choices is not None:
        return f'{{"{one.name}": {list(one.choices[:2])}}}'.replace("'", '"')
    return f'{{"{one.name}": {{"low": {one.low:g}, "high": {one.high:g}}}}} or a list of numbers'


# ---------------------------------------------------------------- from the declarations of a spec


def declared(
    kind: type[Spec],
    prefix: str = "",
    when: tuple[str, tuple[Any, ...]] | None = None,
    *,
    names: Sequence[str] | None = None,
    defaults: Mapping[str, Any] | None = None,
    at_most: Mapping[str, float] | None = None,
) -> Iterator[Parameter]:
    """The parameters that a spec's settings are: those with a range, with choices, or on and off.

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
        found = _parameter(
            prefix + name, row, kind.hints()[name], start.get(name), (at_most or {}).get(name)
        )
        if found is None:
            continue
        if _optional(kind.hints()[name]):
            given = f"{prefix}{name}.by"
            yield Parameter(
                given,
                (AUTO, GIVEN),
                when=when,
                default=AUTO if start.get(name) is None else GIVEN,
                bounds=(AUTO, GIVEN),
                unasked=found.unasked,
            )
            yield replace(found, when=(given, (GIVEN,)))
        else:
            yield replace(found, when=when)


def _parameter(
    name: str, row: Setting, hint: Any, default: Any, at_most: float | None
) -> Parameter | None:
    kind, tried, unasked = _plain(hint), row.search, row.search is False
    if kind is bool:
        return Parameter(
            name, (True, False), default=default, bounds=(True, False), unasked=unasked
        )
    if kind is str:
        choices = tuple(tried) if tried else row.choices
        return (
            None
            if choices is None
            else Parameter(name, choices, default=default, bounds=row.choices, unasked=unasked)
        )
    high = at_most if row.high is None else min(row.high, row.high if at_most is None else at_most)
    if kind not in (int, float) or row.low is None or high is None:
        return None
    start, end, *how = tried if isinstance(tried, tuple) else (row.low, high)
    convert = int if kind is int else float
    start, end = convert(min(start, high)), convert(min(end, high))
    held = default if default is not None and start <= default <= end else None
    return Parameter(
        name,
        low=start,
        high=end,
        log=(row.log or "log" in how) and start > 0,
        whole=kind is int,
        default=held,
        bounds=(row.low, high),
        unasked=unasked,
    )


def _optional(hint: Any) -> bool:
    return typing.get_origin(hint) in (types.UnionType, typing.Union) and type(
        None
    ) in typing.get_args(hint)


def _plain(hint: Any) -> Any:
    return (
        next(a for a in typing.get_args(hint) if a is not type(None)) if _optional(hint) else hint
    )
