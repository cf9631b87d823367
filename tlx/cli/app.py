"""The commands, one row each."""

from __future__ import annotations

import io
import os
from typing import Annotated, Any

import typer

from .. import __version__
from . import (
    analyze,
    atlas,
    backbones,
    check,
    checkpoints,
    chop,
    crops,
    datasets,
    dumps,
    extract,
    feature_extraction,
    fine_tuning,
    layer_transfer,
    parameter_distance,
    plot,
    pretrain,
    quanta,
    regression,
    splits,
    sync,
    tune,
)
from .options import normalised
from .output import complain, say

SETTINGS = {
    "token_normalize_func": lambda word: word.replace("_", "-"),
    "help_option_names": ["-h", "--help"],
}
COMMANDS: dict[str, Any] = {
    "feature-extraction": feature_extraction.command,
    "fine-tuning": fine_tuning.command,
    "pretrain": pretrain.command,
    "extract": extract.command,
    "analyze": analyze.command,
    "atlas": atlas.command,
    "plot": plot.command,
    "tune": tune.command,
    "quanta": quanta.command,
    "layer-transfer": layer_transfer.command,
    "chop": chop.command,
    "prune": chop.prune,
    "parameter-distance": parameter_distance.command,
    "regression": regression.command,
    "checkpoints": checkpoints.command,
    "check": check.command,
    "crops": crops.command,
    "datasets": datasets.command,
    "backbones": backbones.command,
    "sync": sync.command,
}
app = typer.Typer(
    context_settings=SETTINGS,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    rich_markup_mode=None,
)
for name, function in COMMANDS.items():
    app.command(name, context_settings=SETTINGS)(function)
app.add_typer(splits.app, name="splits", context_settings=SETTINGS)
app.add_typer(dumps.app, name="dumps", context_settings=SETTINGS)


def _version(asked: bool) -> None:
    if asked:
        say(f"tlx {__version__}")
        raise typer.Exit


@app.callback()
def tlx(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Which pre-trained network, feature extraction or fine-tuning, cut or frozen where, at what
    cost.
    """


def invoke(words: list[str]) -> int:
    """Run a command in this process; its exit code. Errors are raised, except those of the words
    themselves.
    """
    if "_TLX_COMPLETE" in os.environ:  # the shell asks what could be typed
        app(words, prog_name="tlx")
    command = typer.main.get_command(app)
    try:
        with command.make_context("tlx", normalised(words, flags())) as context:
            command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        return _refuse_words(error)
    return 0


def _refuse_words(error: Any) -> int:
    """Say what the command-line parser refuses, and how the command is used."""
    text = io.StringIO()
    error.show(file=text)
    complain(text.getvalue().rstrip("\n"))
    return int(error.exit_code)


def flags() -> set[str]:
    """Names of all options that are switches."""
    from ..spec import Spec

    return {
        name.replace("_", "-")
        for kind in _kinds(Spec)
        for name, hint in kind.hints().items()
        if hint is bool
    }


def _kinds(base: Any) -> list[Any]:
    return [kind for child in base.__subclasses__() for kind in (child, *_kinds(child))]
