"""Plan of an atlas: check network and images, find studies, extract outputs, plan measures."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ... import files
from ...data import datasets
from ...errors import BadDataError, MissingError, UsageError, counted
from ...features.dump import Dump
from ...lab.settings import Settings
from ...lab.store import Store
from ...models import backbones, layers
from ...models.network import Network
from ...models.weights import promises
from ..activations import extraction, layers_of, sampled, whole_network
from ..base import Stage, Trial
from ..few_shot import RANDOM
from ..few_shot_inputs import Progress, common_settings
from ..image_data import located
from ..whole_dataset import WEIGHTS
from . import lookup as atlas_lookup
from . import report as atlas_report
from . import spec as atlas_spec
from . import trial as atlas_trial
from .lookup import StudyMatch, Wanted
from .sources import AtlasSources, TakenStudy
from .spec import Atlas, AtlasGrid, BlockMeasures
from .trial import AtlasInputs

AUTO_BYTES = (
    1 << 30
)  # of all blocks' outputs together: above, --reduce auto keeps their spatial means


@dataclass
class AtlasPlan:
    """Plan before anything is extracted.

    spec     resolved: which weights, how many samples, which reduction
    model    what the network is called
    blocks   the names of blocks 1…N; layers: the layer at the end of those that give a row for each
             image;
             numbers: the numbers of these blocks
    taken    source → the study that was taken; others: source → those that were not
    notes    for people
    """

    spec: Atlas
    wanted: Wanted
    model: str
    blocks: tuple[str, ...]
    layers: tuple[str, ...]
    numbers: tuple[int, ...]
    usual: bool  # whether it sees images normalised as its backbone's row says
    taken: dict[str, StudyMatch] = field(default_factory=dict)
    others: dict[str, list[StudyMatch]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def search(self, store: Store, parts: AtlasGrid) -> None:
        """Find the studies of this network and target.

        Raises UnknownNameError for a --study that is none of them.
        """
        matches = {
            name: atlas_lookup.find(name, self.wanted, store) for name in atlas_lookup.SOURCES
        }
        self.taken = atlas_lookup.chosen(matches, parts.study)
        self.others = {
            name: [match for match in matches[name] if match != taken]
            for name, taken in self.taken.items()
        }

    def lacking(self, parts: AtlasGrid, settings: Settings) -> dict[str, str]:
        """Return missing source → the command for it, or why there is none."""
        known = set(self.taken)
        if self.wanted.finetuned:
            known.add("tuned")
        return {
            name: self.without(name) or atlas_lookup.command(name, self.spec, parts, settings)
            for name in atlas_lookup.SOURCES
            if name not in known
        }

    def missing(self, sources: Collection[str]) -> list[str]:
        """Return those of these sources that were not found and that a study makes."""
        known = set(self.taken)
        if self.wanted.finetuned:
            known.add("tuned")
        return [
            name
            for name in atlas_lookup.SOURCES
            if name in sources and name not in known and not self.without(name)
        ]

    def without(self, name: str) -> str:
        """Return why no command makes this source, or ""."""
        if self.wanted.weights == RANDOM:
            return "random weights are drawn anew by every study"
        if name in ("tuned", "distance") and not self.usual:
            return "weights fine-tuned here would be shown images normalised in another way"
        return ""


def plan_atlas(spec: Atlas, parts: AtlasGrid, settings: Settings) -> AtlasPlan:
    """Check network and images.

    Raises ErrorGroup with all errors, before anything is computed.
    """
    spec = spec.resolved
    network = whole_network(spec, (), None)
    notes = [*network.notes]
    folder = located(spec.dataset, settings, notes)
    finetuned = Path(parts.finetuned).expanduser() if parts.finetuned else None
    if finetuned is not None:
        with promises.permitted(finetuned):
            if not finetuned.is_file():
                raise MissingError("weight file", finetuned)
    if len(folder.classes) < 2:
        raise BadDataError(
            "one-class",
            f"only one class, '{folder.classes[0]}'",
            where=folder.root,
            expected="at least 2",
        )
    spec = spec.replace(samples=_samples(folder, spec, notes))
    names = layers_of(
        network, (), None
    )  # one for every block whose output has a row for each image
    row = backbones.lookup(spec.architecture)
    spec = spec.replace(
        layers=names,
        reduce=_reduction(
            network, names, len(sampled(folder, spec.part, spec.samples)), spec, notes
        ),
    )
    source = RANDOM if spec.start_from is None else spec.source or row.source
    return AtlasPlan(
        spec,
        Wanted(spec, network.weights, folder, settings, finetuned),
        f"{spec.architecture} {Path(spec.model).stem if spec.model else source}",
        tuple(block.name for block in network.blocks),
        names,
        layers.blocks_with_rows(network),
        (network.mean, network.std) == (row.mean, row.std),
        notes=notes,
    )


def _samples(folder: datasets.ImageFolder, spec: Atlas, notes: list[str]) -> int:
    """Choose the number of images: as many of each class as possible, up to the limit; 0: all."""
    if not spec.samples:
        return 0
    counts = dict.fromkeys(folder.classes, 0)
    for image in sampled(folder, spec.part, 0):
        counts[image.label] += 1
    each = min(spec.samples // len(counts), *counts.values())
    if each < 2:
        least = min(counts, key=lambda label: counts[label])
        raise UsageError(
            "out-of-range",
            f"{spec.samples} samples of {counted(len(counts), 'class', 'classes')}, "
            f"of '{least}' {counts[least]}",
            where="--samples",
            expected=f"at least {2 * len(counts)}, and 2 images of every class",
            remedy="use --samples 0 or --part all",
        )
    if each < spec.samples // len(counts):
        notes.append(f"{each} images of each class, as there are no more of every one")
    return each * len(counts)


def _reduction(
    network: Network, names: tuple[str, ...], images: int, spec: Atlas, notes: list[str]
) -> str:
    if spec.reduce != "auto":
        return spec.reduce
    size = 4 * images * sum(int(np.prod(row.shape)) for row in layers.survey(network, names))
    if size > AUTO_BYTES:
        notes.append(
            f"the spatial means of the blocks' outputs are measured: as they are, they take "
            f"{size / 1e9:.1f} "
            "GB (--reduce flat measures them)"
        )
    return "pooled" if size > AUTO_BYTES else "flat"


def atlas_study(
    looked: AtlasPlan,
    measures: BlockMeasures,
    store: Store,
    settings: Settings,
    progress: Progress | None = None,
) -> Stage:
    """Plan the measures of the blocks, with their outputs extracted or found.

    Also those of the network trained on the target, where there is one.
    """
    spec, name = looked.spec, looked.wanted.folder.name
    dump = extraction(spec, settings, progress, looked.notes)
    labels = tuple(map(str, dump.row_labels()))
    resolved = measures.replace(
        dump=dump.key,
        layers=dump.layers,
        numbers=looked.numbers,
        labels=files.digest(list(labels)),
        model=looked.model,
        dataset=name,
    )
    trials = [Trial(resolved, AtlasInputs(dump, labels))]
    weights = _tuned(looked, store)
    if weights is not None:
        tuned = spec.replace(model=str(weights), source=None)
        beside = extraction(tuned, settings, progress, looked.notes)
        trials.append(
            Trial(
                resolved.replace(against=beside.key, split=1),
                AtlasInputs(_of(dump), labels, beside),
            )
        )
    return Stage(
        key=files.digest(["study", resolved.identity()]),
        run=atlas_trial.run,
        experiment=atlas_spec.EXPERIMENT,
        title=f"{looked.model} on {name}",
        spec=common_settings(resolved),
        trials=tuple(trials),
        tags={"tlx.dataset": name, "tlx.source": looked.model},
        inputs=(
            {
                "name": name,
                "source": str(looked.wanted.folder.root),
                "digest": dump.key[:36],
                "context": "analysis",
            },
        ),
        preload=("tlx.studies.atlas.measures",),
        write_trial_figures=atlas_report.write_trial_figures,
    )


def _of(dump: Dump) -> Dump:
    """Open the dump again: trials of two groups may run in two processes."""
    return Dump(dump.folder, dump.layers, ids=dump.ids, labels=dump.labels)


def _tuned(looked: AtlasPlan, store: Store) -> Path | None:
    """Return the weights of the network trained on the target.

    Those given, else those of the study's first repeat.
    """
    if looked.wanted.finetuned is not None:
        return looked.wanted.finetuned
    match = looked.taken.get("tuned")
    if match is None:
        return None
    first = min(
        atlas_lookup.results(store, match.trials),
        key=lambda result: (result.spec["split"], result.key),
    )
    return store.file(first.key, WEIGHTS)


def about(looked: AtlasPlan, parts: AtlasGrid, settings: Settings) -> AtlasSources:
    """Return what an atlas is of and made from, as plain JSON for the report."""
    wanted, spec = looked.wanted, looked.spec
    return {
        "model": looked.model,
        "architecture": spec.architecture,
        "weights": wanted.weights,
        "dataset": wanted.folder.name,
        "classes": list(wanted.folder.classes),
        "input_size": wanted.input_size,
        "reduce": spec.reduce,
        "samples": spec.samples,
        "blocks": list(looked.blocks),
        "layers": list(looked.layers),
        "taken": {name: _plain(match) for name, match in looked.taken.items()},
        "others": {name: [_plain(m) for m in matches] for name, matches in looked.others.items()},
        "lacking": looked.lacking(parts, settings),
        "finetuned": files.sha256(wanted.finetuned) if wanted.finetuned else None,
        "notes": looked.notes,
    }


def _plain(match: StudyMatch) -> TakenStudy:
    return {"study": match.study, "words": match.words, "trials": list(match.trials)}
