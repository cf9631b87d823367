"""Command-line options built from specs: one declaration gives option, help and default."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from ..errors import ErrorGroup, TlxError
from ..spec import FALSE, TRUE, Setting, Spec, make_specs
from .completion import completion
from .help import section_of

CONTEXT = "context"  # parameter that typer gives the parser's context
WORDS = "_words"  # ends the name of a parameter for words without an option
ALIASES = {
    "batch_size": ("--bs",),
    "learning_rate": ("--lr",),
    "from_studies": ("--from",),
    "price_cpu_hour": ("--price-hour",),
}  # further spellings of the originals


def options(*specs: type[Spec]) -> Callable[..., Any]:
    """Decorate a function of (spec, spec, …) so that typer sees one option for each setting."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        def command(**given: object) -> Any:
            context = typing.cast("typer.Context | None", given.pop(CONTEXT, None))
            typed = given if context is None else _typed(context, given)
            return function(*make_specs(specs, _joined(specs, typed)))

        once = {
            name: kind for kind in reversed(specs) for name in _shown(kind)
        }  # a name that two share: the first's
        parameters = [
            _parameter(kind, name) for kind in specs for name in _shown(kind) if once[name] is kind
        ]
        parameters += [
            _words(kind, name)
            for kind in specs
            for name, row in kind.settings().items()
            if row.argument
        ]
        parameters.append(
            inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        )
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.specs = specs  # type: ignore[attr-defined]
        command.__doc__, command.__name__ = function.__doc__, function.__name__
        return command

    return decorate


def _typed(context: typer.Context, given: Mapping[str, object]) -> dict[str, object]:
    """Return the settings without those that the parser filled in: the specs know the defaults."""
    sources = {name: context.get_parameter_source(name) for name in given}
    filled = {name for name, source in sources.items() if source and source.name == "DEFAULT"}
    return {name: value for name, value in given.items() if name not in filled}


def _joined(specs: typing.Sequence[type[Spec]], given: Mapping[str, Any]) -> dict[str, object]:
    """Return the settings that were given, with words and repeated options as tuples."""
    joined = {name: value for name, value in given.items() if not name.endswith(WORDS)}
    for kind in specs:
        for name, row in kind.settings().items():
            values = given.get(name)
            if row.repeated and values:
                joined[name] = tuple(part for value in values for part in value.split(",") if part)
            if row.argument:
                parts = [part.strip() for part in (values or "").split(",") if part.strip()]
                words = [word for word in given.get(name + WORDS) or () if word.strip()]
                joined[name] = (*words, *parts) or None
    return {name: value for name, value in joined.items() if value is not None and value != []}


def problems_of(command: Callable[..., Any], given: Mapping[str, object]) -> list[TlxError]:
    """Return the errors of the settings given to a command built by `options`.

    Other commands have no settings: what they are given is not looked at.
    """
    specs = getattr(command, "specs", ())
    if not specs:
        return []
    try:
        make_specs(specs, _joined(specs, given))
    except ErrorGroup as several:
        return several.problems
    except TlxError as problem:
        return [problem]
    return []


def without(words: list[str], option: str) -> list[str]:
    """Return the words without an option and its value.

    The value is the next word unless that is an option too.
    """
    kept: list[str] = []
    indices = iter(range(len(words)))
    for i in indices:
        if words[i].partition("=")[0] != option:
            kept.append(words[i])
        elif "=" not in words[i] and i + 1 < len(words) and not words[i + 1].startswith("-"):
            next(indices)
    return kept


def _shown(kind: type[Spec]) -> list[str]:
    return [name for name, row in kind.settings().items() if row.cli]


def _parameter(kind: type[Spec], name: str) -> inspect.Parameter:
    row, default, hint = kind.settings()[name], kind.defaults()[name], kind.hints()[name]
    flag = name.replace("_", "-")
    short = [f"-{row.short}"] if row.short else []
    names = [
        f"--{flag}/--no-{flag}" if hint is bool else f"--{flag}",
        *ALIASES.get(name, ()),
        *short,
    ]
    option = typer.Option(
        *names,
        help=row.help + ".",
        show_default=default not in (None, "", ()),
        metavar=_metavar(hint, row),
        rich_help_panel=section_of(name),
        autocompletion=completion(name, row),
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=_plain_default(default),
        annotation=Annotated[list[str] | None if row.repeated else _click_type(hint), option],
    )


def _words(kind: type[Spec], name: str) -> inspect.Parameter:
    """Return the parameter of a command's words that sets a setting."""
    words = typer.Argument(
        metavar=f"[{name.removesuffix('s').upper()}]...",
        show_default=False,
        help=f"The same as --{name.replace('_', '-')}.",
    )
    return inspect.Parameter(
        name + WORDS,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[list[str] | None, words],
    )


def _click_type(hint: object) -> Any:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        inner = next(a for a in typing.get_args(hint) if a is not type(None))
        return _click_type(inner) | None
    return hint if hint in (bool,) else str  # the spec coerces and refuses, in its own words


def _metavar(hint: object, row: Setting) -> str | None:
    if hint is bool:
        return None
    if row.choices:
        return "|".join(map(str, row.choices))
    text = str(hint)
    if "tuple" in text:
        return "N,N,…" if "int" in text else "A,B,…"
    if "int" in text:
        return "N"
    return "X" if "float" in text else "TEXT"


def _plain_default(default: object) -> Any:
    if isinstance(default, bool):
        return default
    text = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
    return text if default is not None and text else None


def normalised(arguments: list[str], flags: typing.Collection[str]) -> list[str]:
    """Translate `mlflow run`'s spellings of options.

    --a_b is --a-b, --flag=true is --flag, --flag true too, --flag=false is --no-flag, and --option=
    (no value) is left out.
    """
    words: list[str] = []
    remaining = iter(enumerate(arguments))
    for i, word in remaining:
        if not word.startswith("--") or word == "--":
            words.append(word)
            continue
        name, equals, value = word.partition("=")
        name = name.replace("_", "-")
        plain = name.removeprefix("--")
        if plain in flags:
            following = arguments[i + 1].lower() if i + 1 < len(arguments) else ""
            if not equals and following in TRUE + FALSE:
                value, equals = following, "="
                next(remaining)
            if equals and value.lower() in ("", "none"):
                continue
            if equals:
                words.append(_flag(plain, value))
                continue
        elif equals and value in ("", "None"):
            continue
        words.append(name + equals + value)
    return words


def _flag(name: str, value: str) -> str:
    if value.lower() in TRUE:
        return f"--{name}"
    return f"--no-{name}" if value.lower() in FALSE else f"--{name}={value}"
