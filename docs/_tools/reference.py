"""MkDocs hook: write the reference pages from the code, so that they cannot fall behind it.

One page for each command, with every option, from the command line's own parser; one page for each
public module, for mkdocstrings to fill; and the gallery, from the table of its figures.
"""

from __future__ import annotations

import html
import importlib
import inspect
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
CLI, API = "reference/cli", "reference/api"
MODULES = {  # module → what its page says first
    "tlx": "Run studies from Python. Attributes are loaded when they are first used.",
    "tlx.metrics": "Numbers about representations: arrays in, plain results out.",
    "tlx.models": "Networks: transfer between them, the QUANTA gate.",
    "tlx.spec": "Settings: one declaration gives the option, its help, its range and its key.",
    "tlx.errors": "Errors: one class for each exit code.",
    "tlx.result": "The result of one trial.",
    "tlx.features.classifiers": "The classifiers that `--classifier` takes.",
    "tlx.features.fitting": "Fit a classifier on rows of features.",
    "tlx.data.catalogue": "The data sets that are known by name.",
    "tlx.models.backbones": "The backbones that are known by name, and loading weights into them.",
}
PARTS = (
    "data",
    "errors",
    "features",
    "metrics",
    "models",
)  # modules of tlx with pages of their own


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the generated pages to the navigation."""
    commands: list[Any] = [f"{CLI}/index.md"]
    commands += [{f"tlx {name}": f"{CLI}/{page_name(name)}.md"} for name, _ in commands_of()]
    modules = [{name: f"{API}/{name}.md"} for name in MODULES]
    for section in config.nav or []:
        if "Reference" in section:
            section["Reference"] += [{"Command line": commands}, {"Python API": modules}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the site."""
    for name, command in commands_of():
        path = f"{CLI}/{page_name(name)}.md"
        files.append(File.generated(config, path, content=command_page(name, command)))
    files.append(File.generated(config, f"{CLI}/index.md", content=commands_page()))
    for name, summary in MODULES.items():
        page = module_page(name, summary)
        files.append(File.generated(config, f"{API}/{name}.md", content=page))
    files.append(File.generated(config, "gallery/index.md", content=gallery_page()))
    return files


def gallery_page() -> str:
    """Return the page of the gallery: each figure with its caption and command."""
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        from gallery import FIGURES
    finally:
        sys.path.pop(0)
    lines = ["# Gallery", "", "Figures of small studies of scikit-learn's digits, made by", ""]
    lines += ["```bash", "python docs/_tools/gallery.py", "```"]
    for figure in FIGURES:
        lines += ["", f"## {figure.name}", "", figure.caption, "", "```bash"]
        lines += [shlex.join(["tlx", *figure.command]), "```", ""]
        lines += [f"![{figure.caption}]({figure.name}.png)"]
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- command line


def commands_of() -> Iterator[tuple[str, Any]]:
    """Yield the words and the parser of every command, those of groups included, by name."""
    import typer

    from tlx.cli.app import app

    root = typer.main.get_command(app)
    for name, command in sorted(root.commands.items()):
        members = getattr(command, "commands", None)
        if members is None:
            yield name, command
        else:
            yield from ((f"{name} {member}", members[member]) for member in sorted(members))


def commands_page() -> str:
    """Return the page that lists all commands with their entry points of `mlflow run`."""
    entries = re.findall(r"^  (\w+):$", (ROOT / "MLproject").read_text(), re.MULTILINE)
    rows = []
    for name, command in commands_of():
        entry = name.replace("-", "_")
        shown = f"`-e {entry}`" if entry in entries else ""
        sentence = " ".join((command.help or "").split("\n\n")[0].split())
        rows.append((f"[`tlx {name}`]({page_name(name)}.md)", shown, sentence))
    lines = ["# Commands", "", *table(("command", "`mlflow run .`", "what it does"), rows), ""]
    lines += ["`-P name=value` of `mlflow run` is `--name value`. A relative path counts from the"]
    lines += [
        "checkout there, in which MLflow runs the command. An empty value leaves an option out."
    ]
    return "\n".join(lines) + "\n"


def page_name(name: str) -> str:
    """Return the stem of a command's page."""
    return name.replace(" ", "-")


def command_page(name: str, command: Any) -> str:
    """Return the page of one command: usage, description, arguments and options as tables."""
    paragraphs = [cell(text) for text in (command.help or "").split("\n\n")]
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    words = [f"tlx {name}", *(argument_usage(p) for p in arguments), "[OPTIONS]"]
    lines = [
        f"# tlx {name}",
        "",
        "\n\n".join(paragraphs),
        "",
        "```text",
        " ".join(words),
        "```",
    ]
    if arguments:
        rows = [(f"`{p.name}`", p.help or "") for p in arguments]
        lines += ["", "## Arguments", "", *table(("argument", "meaning"), rows)]
    panels: dict[str, list[Any]] = {}
    for option in options:
        panels.setdefault(getattr(option, "rich_help_panel", None) or "Options", []).append(option)
    for panel, members in panels.items():
        rows = [(option_name(p), option_default(p), p.help or "") for p in members]
        lines += ["", f"## {panel}", "", *table(("option", "default", "meaning"), rows)]
    return "\n".join(lines) + "\n"


def argument_usage(argument: Any) -> str:
    """Return an argument as the usage line shows it."""
    text = argument.name.upper() + ("..." if argument.nargs != 1 else "")
    return text if argument.required else f"[{text}]"


def option_name(option: Any) -> str:
    """Return all spellings of an option and what its value looks like."""
    names = sorted(
        [*option.opts, *option.secondary_opts], key=lambda word: not word.startswith("--")
    )
    shown = ", ".join(f"`{name}`" for name in names)
    if option.secondary_opts or not option.metavar:
        return shown
    value = html.escape(option.metavar).replace("|", "&#124;")
    return f"{shown} <code>{value}</code>"


def option_default(option: Any) -> str:
    """Return the default of an option; nothing where its help explains it."""
    default = option.default
    if default in (None, "", ()) or callable(default):
        return ""
    if option.secondary_opts:
        default = "on" if default else "off"
    return f"`{default}`"


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(cell(str(text)) for text in row) + " |" for row in rows]
    return lines


def cell(text: str) -> str:
    """Return the text of a cell: one line, with nothing outside code that Markdown would read."""
    line = " ".join(text.split())
    if line.startswith("["):  # a link that this module wrote
        return line
    parts = re.split(r"(`[^`]*`|<code>.*?</code>)", line)  # every second part is code
    parts[::2] = map(escape, parts[::2])
    return "".join(parts)


def escape(text: str) -> str:
    """Return text with what Markdown would read as markup escaped."""
    return re.sub(r"([*_|])", r"\\\1", text.replace("<", "&lt;"))


# ---------------------------------------------------------------- Python


def module_page(name: str, summary: str) -> str:
    """Return the page of a module: its public names, most of them for mkdocstrings to fill."""
    module = importlib.import_module(name)
    lines = [f"# {name}", "", summary, ""]
    for member, value in public_members(module):
        path = f"{value.__module__}.{value.__qualname__}"
        if is_defined(value):
            lines += [f"::: {path}", "    options:", f"      heading: {name}.{member}", ""]
        else:
            lines += made_function(f"{name}.{member}", value)
    return "\n".join(lines)


def is_defined(value: Any) -> bool:
    """Return whether a function or class is found in the source under its own name."""
    return getattr(importlib.import_module(value.__module__), value.__qualname__, None) is value


def made_function(name: str, function: Any) -> list[str]:
    """Return the entry of a function that is made when it is asked for: signature, docstring."""
    description, _, settings = inspect.cleandoc(function.__doc__ or "").partition("\nSettings:\n")
    meanings = dict(re.findall(r"^ +(\w+): (.*)$", settings, re.MULTILINE))
    parameters = inspect.signature(function).parameters.values()
    rows = [
        (f"`{p.name}`", f"`{p.default!r}`", meanings[p.name])
        for p in parameters
        if p.name in meanings
    ]
    lines = [f"## {name}", "", "\n\n".join(map(cell, description.split("\n\n"))), ""]
    return [*lines, *table(("setting", "default", "meaning"), rows), ""]


def public_members(module: Any) -> list[tuple[str, Any]]:
    """Return the public functions and classes of a module by name.

    Names come from `__all__`; else from `dir`, where what another module defines is left out.
    """
    listed = getattr(module, "__all__", None)
    members = []
    for name in listed or dir(module):
        if name.startswith("_") or (module.__name__ == "tlx" and name in PARTS):
            continue
        value = getattr(module, name)
        if not (inspect.isfunction(value) or inspect.isclass(value)):
            continue
        home = str(value.__module__)
        lazy = name in getattr(module, "LAZY", ()) or module.__name__ == "tlx"
        if home == module.__name__ or (home.startswith("tlx") and (listed or lazy)):
            members.append((name, value))
    return members
