"""Fonts for letters that matplotlib's own font lacks."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterable

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

OWN = "DejaVu Sans"  # comes with matplotlib
PLACEHOLDERS = ("Last Resort",)  # fonts that have a box for every character
PREFERRED = ("Noto Sans", "Source Han Sans", "WenQuanYi", "Droid Sans Fallback", "IPA", "Unifont")
NAMED_UP_TO = 12  # characters that the note shows


@functools.lru_cache(64)
def _characters(path: str) -> frozenset[int]:
    """Return the code points that a font file has glyphs for.

    None for a file that cannot be read.
    """
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


def fallback_families(characters: Iterable[str]) -> list[str]:
    """Return installed font families that together cover as many characters as possible.

    Preferred ones come first.
    """
    wanted, families = {ord(c) for c in characters}, []
    for family, path in _installed():
        held = wanted & _characters(path)
        if held:
            families.append(family)
            wanted -= held
        if not wanted:
            break
    return families


@functools.lru_cache(1)
def _installed() -> tuple[tuple[str, str], ...]:
    """Return (family, file) of every installed font that may help, in order of preference."""
    fonts = {
        entry.name: entry.fname
        for entry in font_manager.fontManager.ttflist
        if entry.style == "normal" and not entry.name.startswith((OWN, *PLACEHOLDERS))
    }
    return tuple(
        sorted(fonts.items(), key=lambda font: (not font[0].startswith(PREFERRED), font[0]))
    )


def undrawable(texts: Iterable[str]) -> list[str]:
    """Return the characters of the texts that no installed font has; each once, in order."""
    own = _characters(font_manager.findfont(OWN))
    absent = [
        c
        for c in dict.fromkeys("".join(texts))
        if ord(c) not in own and unicodedata.category(c)[0] not in "CZ"
    ]
    if not absent:
        return []
    held = set().union(*(_characters(path) for _, path in _installed()))
    return [c for c in absent if ord(c) not in held]


def note(texts: Iterable[str]) -> str:
    """Return a note on names whose letters become boxes; "" where every letter can be drawn."""
    absent = undrawable(texts)
    if not absent:
        return ""
    more = "" if len(absent) <= NAMED_UP_TO else " …"
    return (
        f"no installed font has the letters {' '.join(absent[:NAMED_UP_TO])}{more}: they are boxes "
        f"in figures; "
        "install one that has them (Noto Sans CJK for Chinese, Japanese, Korean)"
    )
