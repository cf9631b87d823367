"""Lookup of the stored studies of one network and one target, by content: SOURCES.

A study counts where its architecture, the SHA-256 of its source's weights, its input size and
sizing, its classes and the digest of all its images are those of the atlas. That digest is computed
anew for every study, from the atlas's images by the study's own rules (how many of each class,
which are held back), so that no name of a folder decides. Studies that differ in other settings
(epochs, batch size, …) are different sources, of which one is taken.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import files
from ...data.folders import ImageFolder
from ...errors import TlxError, UnknownNameError
from ...lab.settings import Settings
from ...lab.store import JOURNAL, Store
from ...models import backbones
from ...result import FINISHED, Result
from ...spec import Spec
from ..layer_transfer.spec import LayerTransfer, LayerTransferGrid
from ..parameter_distance.spec import (
    UNKNOWN,
    ParameterDistance,
    ParameterDistanceGrid,
    TargetTuning,
)
from ..quanta.data import images_of
from ..quanta.spec import WITNESS, Quanta, QuantaGrid
from ..whole_dataset import DEFAULT, WEIGHTS
from ..whole_dataset_inputs import read
from .spec import Atlas, AtlasGrid

TREATMENTS = ("baseB", "baseB+", "AnB", "AnB+")
Trials = Sequence[Mapping[str, Any]]  # lines of study.json
SAME = (
    "architecture",
    "model",
    "source",
    "dataset",
    "input_size",
    "sizing",
)  # what an atlas hands on to commands


@dataclass(frozen=True)
class Wanted:
    """Network and target that a study must be of.

    weights    SHA-256 of the network's weights, or "random"
    finetuned  a weight file of the network fine-tuned on the target, where one was given
    """

    spec: Atlas
    weights: str
    folder: ImageFolder
    settings: Settings
    finetuned: Path | None = None

    @property
    def input_size(self) -> int:
        """Return the input size of the network, in pixels."""
        return self.spec.input_size or backbones.lookup(self.spec.architecture).input_size


@dataclass(frozen=True)
class PanelSource:
    """Source of panels.

    spec_class  of the trials
    of       which trials of this kind in a study's record are of the network and target: their keys
    command  the command that makes them, and the specs that say what it is to do
    """

    spec_class: type[Spec]
    of: Callable[[PanelSource, Trials, Wanted, Store], list[str]]
    command: str
    specs: Callable[[Atlas, AtlasGrid], tuple[Spec, ...]]


@dataclass(frozen=True)
class StudyMatch:
    """Study of the network and target, with its finished trials.

    The settings in which it is not as usual, in words; when its last trial ended (milliseconds
    since 1970); how many of its trials are not finished.
    """

    source: str
    study: str
    title: str
    trials: tuple[str, ...]
    settings: str
    at_ms: int
    missing: int

    @property
    def words(self) -> str:
        """Return a description of the study."""
        lacking = (
            f"; {self.missing} of {self.missing + len(self.trials)} trials missing"
            if self.missing
            else ""
        )
        return (
            f"{self.title}, study "
            f"{self.study[:12]}{f' ({self.settings})' if self.settings else ''}{lacking}"
        )


def find(name: str, wanted: Wanted, store: Store) -> list[StudyMatch]:
    """Find the studies of this row of SOURCES for the network and target, the newest first."""
    if wanted.weights == "random":
        return []  # drawn anew by every study: no two are of the same
    matches = [
        match for key in store.studies() if (match := _match(name, key, wanted, store)) is not None
    ]
    return sorted(matches, key=lambda match: (-match.at_ms, match.study))


def chosen(
    by_source: Mapping[str, Sequence[StudyMatch]], keys: Sequence[str]
) -> dict[str, StudyMatch]:
    """Choose the study of each source: the one requested by its key, else the newest.

    The beginning of a key is enough. Raises UnknownNameError for a key that none of them has.
    """
    every = [match.study for matches in by_source.values() for match in matches]
    for key in keys:
        if not any(study.startswith(key) for study in every):
            raise UnknownNameError(
                "study",
                key,
                dict.fromkeys(study[:12] for study in every),
                remedy="these are of this network and target; without --study the newest are taken",
            )
    taken = {}
    for name, matches in by_source.items():
        requested = [match for match in matches if any(match.study.startswith(key) for key in keys)]
        if matches:
            taken[name] = (requested or list(matches))[0]
    return taken


def results(store: Store, keys: Sequence[str]) -> list[Result]:
    """Return the finished results of these trials.

    Damaged ones count as missing; `Store.find` raises on them.
    """
    return [
        result
        for key in keys
        if (result := store.find_or_none(key)) is not None and result.status == FINISHED
    ]


def study_of(name: str, spec: Atlas, parts: AtlasGrid) -> tuple[str, tuple[Spec, ...]]:
    """Return the study that makes this source and the settings it is asked with."""
    row = SOURCES[name]
    return row.command, row.specs(spec, parts)


def command(name: str, spec: Atlas, parts: AtlasGrid, settings: Settings) -> str:
    """Return the command for this source: the settings that are not as usual, and the paths."""
    study, specs = study_of(name, spec, parts)
    return typed(study, *specs, settings)


def typed(words: str, *specs: Spec) -> str:
    """Format a command line with these specs.

    >>> typed("quanta", QuantaSweep(repeats=2, halves=True, positions=("0", "co")))
    'tlx quanta --positions 0,co --repeats 2 --halves'
    """
    line, given = ["tlx", words], set[str]()
    for spec in specs:
        for name, value in (
            (name, getattr(spec, name)) for name, row in spec.settings().items() if row.cli
        ):
            if name in given:
                continue  # an option that two share is the first's
            given.add(name)
            if value == spec.defaults().get(name):
                continue
            option = name.replace("_", "-")
            if isinstance(value, bool):
                line.append(f"--{option}" if value else f"--no-{option}")
                continue
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            line += [f"--{option}={text}"] if text.startswith("-") else [f"--{option}", text]
    return shlex.join(line)


# ---------------------------------------------------------------- one study


def _match(name: str, key: str, wanted: Wanted, store: Store) -> StudyMatch | None:
    row = SOURCES[name]
    try:
        record = store.read_study(key)
        trials = (
            [t for t in record["trials"] if _kind_of(t) == row.spec_class.own_kind()]
            if record
            else []
        )
        own = row.of(row, trials, wanted, store) if trials else []
    # damaged: raised when it is read itself; or the images cannot be divided as the study's were
    except TlxError:
        return None
    whole = results(store, own)
    if not whole or record is None:
        return None
    spec = row.spec_class.from_json(whole[0].spec)
    words = [
        f"{n.replace('_', ' ')} {value}"
        for n, value in spec.identity().items()
        if n in spec.settings() and spec.settings()[n].cli and n not in SAME
    ]
    return StudyMatch(
        name,
        key,
        record["title"],
        tuple(result.key for result in whole),
        ", ".join(words),
        max(_ended(store, result.key) for result in whole),
        len(own) - len(whole),
    )


def _kind_of(row: Mapping[str, Any]) -> str:
    """Return the kind of a trial of study.json.

    "" for those of a search, whose rows carry no spec.
    """
    return str((row.get("spec") or {}).get("kind", ""))


def _by_images(
    carries: Callable[[Mapping[str, Any]], bool], images: Callable[[Any, Wanted], str]
) -> Callable[[PanelSource, Trials, Wanted, Store], list[str]]:
    """Return the trials of a study on the target's images with the network's weights.

    At least one must carry the weights (`carries`, of their specs), none others. `images` is the
    digest that a spec has if its images are the atlas's.
    """

    def of(row: PanelSource, trials: Trials, wanted: Wanted, store: Store) -> list[str]:
        weighted = [trial for trial in trials if carries(trial["spec"])]
        for content in dict.fromkeys(trial["spec"]["images"] for trial in weighted):
            matching = [trial for trial in weighted if trial["spec"]["images"] == content]
            first = next((r for trial in matching for r in results(store, [trial["key"]])), None)
            if first is None or {trial["spec"]["weights"] for trial in matching} != {
                wanted.weights
            }:
                continue
            spec: Any = row.spec_class.from_json(first.spec)
            if (
                _network(spec.architecture) == _network(wanted.spec.architecture)
                and getattr(spec, "source_architecture", None) in (None, spec.architecture)
                and (spec.input_size or backbones.lookup(spec.architecture).input_size, spec.sizing)
                == (wanted.input_size, wanted.spec.sizing)
                and tuple(first.details.get("classes", ())) == tuple(wanted.folder.classes)
                and _readable(images, spec, wanted) == content
            ):  # last: it reads images
                return [trial["key"] for trial in trials if trial["spec"]["images"] == content]
        return []

    return of


def _readable(images: Callable[[Any, Wanted], str], spec: object, wanted: Wanted) -> str:
    """Return the digest; "" where the atlas's images cannot be divided as the study's were.

    Then they are different images.
    """
    try:
        return images(spec, wanted)
    except TlxError:
        return ""


def _by_states(row: PanelSource, trials: Trials, wanted: Wanted, store: Store) -> list[str]:
    """Return the trials on the network's weights and weights fine-tuned from them on the target."""
    ends = {
        str(files.manifest(store.folder(key))[WEIGHTS]["sha256"])
        for match in find("tuned", wanted, store)
        for key in match.trials
    } | ({files.sha256(wanted.finetuned)} if wanted.finetuned else set())
    return [
        trial["key"]
        for trial in trials
        if trial["spec"]["states"][1] == wanted.weights
        and trial["spec"]["states"][2] in ends
        and trial["spec"]["architecture"] != UNKNOWN
        and _network(trial["spec"]["architecture"]) == _network(wanted.spec.architecture)
    ]


def _network(architecture: str) -> tuple[str, str]:
    row = backbones.lookup(architecture)
    return row.family, row.model


def _ended(store: Store, key: str) -> int:
    return max(
        (int(record.get("ts", 0)) for record in files.Journal.read(store.folder(key) / JOURNAL)),
        default=0,
    )


# ---------------------------------------------------------------- the rows


def _pooled(spec: Any, wanted: Wanted) -> str:
    return read(spec, wanted.settings, folder=wanted.folder).task(wanted.folder.classes)[1]


def _of_quanta(spec: Any, wanted: Wanted) -> str:
    row = backbones.lookup(spec.architecture)
    return images_of(wanted.folder, wanted.folder.classes, spec, row, wanted.settings).digest


def _handed(kind: type[Spec], spec: Atlas, parts: AtlasGrid, **more: object) -> Any:
    """Build a spec of this kind for the atlas's network and images.

    With the settings requested for all trainings.
    """
    requested = {"epochs": parts.epochs, "repeats": parts.repeats, "seeds": parts.repeats}
    given = (
        {name: getattr(spec, name) for name in SAME}
        | {n: v for n, v in requested.items() if v is not None}
        | more
    )
    shown = [name for name, row in kind.settings().items() if row.cli]
    return kind(**{name: value for name, value in given.items() if name in shown})


def _transfer(spec: Atlas, parts: AtlasGrid) -> tuple[Spec, ...]:
    start = LayerTransfer.defaults()["source"] if spec.model else spec.source or DEFAULT
    return (
        _handed(LayerTransfer, spec, parts, source=start),
        _handed(LayerTransferGrid, spec, parts, treatments=TREATMENTS),
    )


def _distance(spec: Atlas, parts: AtlasGrid) -> tuple[Spec, ...]:
    return (
        _handed(ParameterDistance, spec, parts, pretrained=spec.model or DEFAULT),
        _handed(ParameterDistanceGrid, spec, parts),
        _handed(TargetTuning, spec, parts),
    )


SOURCES: dict[str, PanelSource] = {
    "tuned": PanelSource(
        TargetTuning, _by_images(lambda spec: True, _pooled), "parameter-distance", _distance
    ),
    "distance": PanelSource(ParameterDistance, _by_states, "parameter-distance", _distance),
    "quanta": PanelSource(
        Quanta,
        _by_images(lambda spec: spec["position"] != WITNESS, _of_quanta),
        "quanta",
        lambda spec, parts: (_handed(Quanta, spec, parts), _handed(QuantaGrid, spec, parts)),
    ),
    "transfer": PanelSource(
        LayerTransfer,
        _by_images(lambda spec: spec["of"] == "A", _pooled),
        "layer-transfer",
        _transfer,
    ),
}
