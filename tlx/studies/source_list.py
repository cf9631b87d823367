"""Sources of a study: networks by name, each with its own weights or with a file of weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError


@dataclass(frozen=True)
class SourceChoice:
    """Network with weights.

    model  file of weights; None for its own
    """

    architecture: str
    model: str | None = None

    @property
    def label(self) -> str:
        """Return its name: the backbone, with the name of the file where there is one."""
        return source_label({"architecture": self.architecture, "model": self.model})


def source_label(spec: Mapping[str, object]) -> str:
    """Return the name of the source of a trial, of its settings."""
    name, model = str(spec.get("architecture")), spec.get("model")
    return f"{name} ({Path(str(model)).name})" if model else name


def labels_of(specs: Sequence[Mapping[str, object]]) -> list[str]:
    """Return the names of the sources of trials: each its own, with its digest where needed.

    specs  settings of one trial of each source
    """
    labels = [source_label(spec) for spec in specs]
    return [
        label if labels.count(label) == 1 else f"{label}, weights {str(spec.get('weights'))[:8]}"
        for label, spec in zip(labels, specs, strict=True)
    ]


def parse_sources(
    words: Iterable[str], architecture: str, model: str | None
) -> tuple[SourceChoice, ...]:
    """Return each source once, in the order given.

    words  NAME or NAME=FILE, a backbone with several files if they have different names; ():
           `architecture` with `model`
    Raises UsageError for an empty name, two files of one name, and for --model beside several.
    """
    given = [word.partition("=") for word in words]
    if not given:
        return (SourceChoice(architecture, model),)
    sources: list[SourceChoice] = []
    for name, equals, weights in given:
        source = SourceChoice(name.strip(), weights.strip() or None)
        if not source.architecture or (equals and not source.model):
            raise UsageError("sources", f"'{name}{equals}{weights}'", expected="NAME or NAME=FILE")
        if source in sources:
            continue
        for other in sources:
            if other.label == source.label:
                raise UsageError(
                    "sources",
                    f"{other.architecture}={other.model} and {source.architecture}={source.model}",
                    expected="files of different names: they are told apart by them",
                )
        sources.append(source)
    if model and (len(sources) > 1 or sources[0].model):
        raise UsageError(
            "conflict",
            f"--model with --sources {','.join(''.join(parts) for parts in given)}",
            expected="one of the two: a weight file is of one network",
            remedy="give each network its file: --sources NAME=FILE,…",
        )
    return tuple(sources) if not model else (SourceChoice(sources[0].architecture, model),)
