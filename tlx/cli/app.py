"""Commands of the command line, one row each."""

from __future__ import annotations

import io
import os
from typing import Annotated, Any

import typer

from .. import __version__
from ..errors import TlxError
from ..studies import STUDIES
from . import (
    backbones,
    check,
    crops,
    datasets,
    dumps,
    export,
    extract,
    plan,
    plot,
    regression,
    results,
    splits,
    study,
    sync,
)
from .help import SectionedCommand, SectionedGroup
from .options import normalised, problems_of, without
from .originals import translated
from .output import complain, say

SETTINGS = {
    "token_normalize_func": lambda word: word.replace("_", "-"),
    "help_option_names": ["-h", "--help"],
}
TOOLS: dict[str, tuple[Any, str]] = {  # name → function, what it does in a few words
    "extract": (extract.command, "Write the activations of a network"),
    "regression": (regression.command, "Regress transferability on data properties"),
    "ls": (results.ls, "List the studies of a store"),
    "show": (results.show, "Show a study: table, figures, command"),
    "plot": (plot.command, "Redraw the figures of a study"),
    "export": (export.export, "Write the model of a trial as ONNX"),
    "predict": (export.predict, "Label photos with a trial or an export"),
    "check": (check.command, "Check data and network, estimate the cost"),
    "crops": (crops.command, "Write ten crops of every image"),
    "datasets": (datasets.command, "List the data sets known by name"),
    "backbones": (backbones.command, "List the networks, or one's blocks"),
    "sync": (sync.command, "Send to MLflow what could not be sent"),
}
COMMANDS: dict[str, Any] = {
    **{name: study.command(row) for name, row in STUDIES.items()},
    **{name: function for name, (function, _) in TOOLS.items()},
}
SHORT = {name: row.short for name, row in STUDIES.items()} | {
    name: short for name, (_, short) in TOOLS.items()
}
SectionedGroup.sections = {
    "Studies": tuple(STUDIES),
    "Data and networks": (
        *("datasets", "splits", "crops", "check", "plan", "backbones", "extract", "dumps"),
        "regression",
    ),
    "Results": ("ls", "show", "plot", "export", "predict", "sync"),
}
app = typer.Typer(
    cls=SectionedGroup,
    context_settings=SETTINGS,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    rich_markup_mode=None,
)
for name, function in COMMANDS.items():
    app.command(name, cls=SectionedCommand, context_settings=SETTINGS, short_help=SHORT[name])(
        function
    )
app.add_typer(
    splits.app,
    name="splits",
    context_settings=SETTINGS,
    short_help="Draw few-shot splits, or check them",
)
app.add_typer(
    dumps.app,
    name="dumps",
    context_settings=SETTINGS,
    short_help="List, verify or remove activation dumps",
)
plan.add_commands(SETTINGS)
app.add_typer(
    plan.app,
    name="plan",
    context_settings=SETTINGS,
    short_help="Estimate time, disk, memory of a study",
)


def _version(is_requested: bool) -> None:
    if is_requested:
        say(f"tlx {__version__}")
        raise typer.Exit


@app.callback()
def tlx(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Choose a pretrained network, how to use it, and where to cut or freeze it."""


def invoke(words: list[str]) -> int:
    """Run a command in this process; return its exit code.

    Errors are raised, except those of the command's words.
    """
    if "_TLX_COMPLETE" in os.environ:  # the shell asks what could be typed
        app(words, prog_name="tlx")
    command = typer.main.get_command(app)
    words = normalised(translated(words), flags())
    try:
        with command.make_context("tlx", list(words)) as context:
            command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        return _refuse_words(error, words)
    return 0


def _refuse_words(error: Any, words: list[str]) -> int:
    """Print all that the parser refuses and the errors of the other options, after the usage."""
    text = io.StringIO()
    error.show(file=text)
    complain(text.getvalue().rstrip("\n"))
    others, problems = _further(error, words)
    for other in others:
        complain(f"Error: {other.format_message()}")
    for problem in problems:
        complain(problem)
    return int(error.exit_code)


def _further(first: object, words: list[str]) -> tuple[list[Any], list[TlxError]]:
    """Parse the words again without what was refused, until nothing is.

    Finds the other refusals, and the errors of the remaining settings.
    """
    context = getattr(first, "ctx", None)
    if context is None or context.command.name not in COMMANDS or context.command.name not in words:
        return [], []
    name, others = context.command.name, []
    remaining, error = words[words.index(name) + 1 :], first
    while (option := _option_of(error, remaining)) is not None:
        remaining = without(remaining, option)
        try:
            parsed = context.command.make_context(name, list(remaining), parent=context.parent)
        except typer.Exit:
            break
        except Exception as another:
            if not hasattr(another, "format_message"):
                raise
            error = another
            if _option_of(error, remaining) is not None:
                others.append(error)
            continue
        return others, problems_of(COMMANDS[name], parsed.params)
    return others, []


def _option_of(error: object, words: list[str]) -> str | None:
    """Return the option among the words that a parser's error is about, or None."""
    parameter = getattr(error, "param", None)
    names = [
        getattr(error, "option_name", None),
        *(parameter.opts if parameter is not None else ()),
    ]
    given = {word.partition("=")[0] for word in words}
    return next((option for option in names if option in given), None)


def flags() -> set[str]:
    """Return the names of all options that are switches."""
    from ..spec import Spec

    return {
        name.replace("_", "-")
        for kind in _kinds(Spec)
        for name, hint in kind.hints().items()
        if hint is bool
    }


def _kinds(base: Any) -> list[Any]:
    return [kind for child in base.__subclasses__() for kind in (child, *_kinds(child))]
