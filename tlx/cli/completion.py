"""Shell completion: choices of a setting, and names in tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ..spec import Setting


def _architectures() -> Sequence[str]:
    from ..models import backbones

    return backbones.names()


def _datasets() -> Sequence[str]:
    from ..data.catalogue import DATASETS

    return list(DATASETS)


def _classifiers() -> Sequence[str]:
    from ..features.classifiers import CLASSIFIERS

    return list(CLASSIFIERS)


def _embeddings() -> Sequence[str]:
    from ..features.embedding import EMBEDDINGS

    return list(EMBEDDINGS)


def _treatments() -> Sequence[str]:
    from ..studies.layer_transfer.spec import TREATMENTS

    return TREATMENTS


def _tunes() -> Sequence[str]:
    from ..models.tune_choices import TUNES

    return list(TUNES)


def _studies() -> Sequence[str]:
    from ..studies.tuning.spec import KINDS

    return list(KINDS)


NAMES: dict[
    str, Callable[[], Sequence[str]]
] = {  # setting → the names it may have, where it declares no choices
    "architecture": _architectures,
    "dataset": _datasets,
    "source_dataset": _datasets,
    "sources": _datasets,
    "targets": _datasets,
    "classifier": _classifiers,
    "embedding": _embeddings,
    "recipes": _tunes,
    "treatments": _treatments,
    "tune": _tunes,
    "study": _studies,
}
FOLDERS = ("dataset", "source_dataset", "sources", "targets")  # settings that take a folder as well


def completion(name: str, row: Setting) -> Callable[[str], list[str]] | None:
    """Return what completes the value of a setting, or None where any text will do."""
    if row.choices is None and name not in NAMES:
        return None

    def complete(incomplete: str) -> list[str]:
        before, comma, begun = incomplete.rpartition(",")
        names = (
            [str(choice) for choice in row.choices] if row.choices is not None else NAMES[name]()
        )
        matches = [known for known in names if known.startswith(begun)]
        if name in FOLDERS:
            matches += _folders(begun)
        return [before + comma + known for known in matches]

    return complete


def _folders(begun: str) -> list[str]:
    """Return folders whose path begins so, with a slash at their end."""
    parent, slash, start = begun.rpartition("/")
    try:
        paths = sorted(Path(parent or slash or ".").expanduser().iterdir())
        return [
            f"{parent}{slash}{path.name}/"
            for path in paths
            if path.name.startswith(start) and path.is_dir()
        ]
    except (OSError, RuntimeError):
        return []
