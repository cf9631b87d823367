"""Sources of a study: networks by name, each with its own weights or with a weight file."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import UsageError


def parse_sources(
    words: Sequence[str], architecture: str, model: str | None
) -> dict[str, str | None]:
    """Return backbone → weight file, None for its own weights; in the order given.

    words         NAME or NAME=FILE; (): the one of `architecture` with `model`
    Raises UsageError for an empty name or one with two files, and for --model beside several.
    """
    if not words:
        return {architecture: model}
    sources: dict[str, str] = {}
    for word in words:
        name, equals, weights = word.partition("=")
        name, weights = name.strip(), weights.strip()
        if not name or (equals and not weights) or sources.get(name, weights) != weights:
            raise UsageError(
                "sources",
                f"'{word}'",
                expected="NAME or NAME=FILE, a backbone with one file of weights at most",
            )
        sources[name] = weights
    if model and (len(sources) > 1 or any(sources.values())):
        raise UsageError(
            "conflict",
            f"--model with --sources {','.join(words)}",
            expected="one of the two: a weight file is of one network",
            remedy="give each network its file: --sources NAME=FILE,…",
        )
    return {name: weights or model for name, weights in sources.items()}
