"""Griffe extension: show tables of arguments in docstrings as lists, and examples as code.

House docstrings name arguments in two columns, a name and its meaning apart by two spaces or more,
which Markdown would run together; and an example is a paragraph that starts with `>>>`.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ROW = re.compile(r"(?P<name>[\w*→][\w,*.… |/=()-]{0,40}?) {2,}(?P<meaning>\S.*)")


class ArgumentTables(griffe.Extension):
    """Rewrite the docstring of every object that mkdocstrings reads."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite one docstring, where there is one."""
        if obj.docstring is not None:
            obj.docstring.value = with_code(with_lists(obj.docstring.value))


def with_code(text: str) -> str:
    """Return a docstring whose examples are fenced."""
    paragraphs = text.split("\n\n")
    examples = [f"```pycon\n{p}\n```" if p.lstrip().startswith(">>>") else p for p in paragraphs]
    return "\n\n".join(examples)


def with_lists(text: str) -> str:
    """Return a docstring whose rows of 'name  meaning' are list items."""
    lines: list[str] = []
    in_list = False
    for line in text.split("\n"):
        row = ROW.fullmatch(line)
        if row:
            lines += [] if in_list else [""]
            lines.append(f"- `{row['name'].strip()}`: {row['meaning']}")
            in_list = True
        elif in_list and line.strip():
            lines[-1] += f" {line.strip()}"
        else:
            in_list = False
            lines.append(line)
    return "\n".join(lines)
