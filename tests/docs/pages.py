"""The pages of the documentation, read as text: code blocks, commands, options."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
BLOCK = re.compile(
    r"(?P<mark><!-- run -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, and whether the page says that it runs."""

    language: str
    code: str
    is_run: bool


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [Block(m["language"], m["code"], bool(m["mark"])) for m in BLOCK.finditer(text)]


def commands(page: Path) -> list[list[str]]:
    """Return the words of every command line in a page's shell blocks, without comments."""
    lines: list[list[str]] = []
    for block in blocks(page):
        if block.language == "bash":
            text = block.code.replace("\\\n", " ")
            lines += [shlex.split(line, comments=True) for line in text.splitlines()]
    parts = []
    for line in lines:
        words = line
        while "&&" in words:
            at = words.index("&&")
            parts.append(words[:at])
            words = words[at + 1 :]
        parts.append(words)
    return [words for words in parts if words]
