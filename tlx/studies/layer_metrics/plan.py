"""Plan of an analysis: dumps, weight files, checkpoint folders or sources → a study of layers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ... import files, metrics
from ...errors import BadDataError, MissingError, TlxError, UnknownNameError, counted, raise_all
from ...features.dump import Dump
from ...features.dumps import Dumps
from ...lab.records import DataInput
from ...lab.settings import Settings
from ...lab.store import Store
from ...models import backbones
from ...models.layers import INPUT, module_of
from ...models.network import Network
from ..activations import dump_folder, extraction, layers_of, whole_network
from ..base import Stage, Trial
from ..block_tasks import pieces_for
from ..few_shot_inputs import Progress, common_settings
from ..model_folder import WEIGHT_SUFFIXES, run_of, tag_of, weight_files
from . import report as layer_metrics_report
from . import spec as layer_metrics_spec
from . import trial as layer_metrics_trial
from .spec import LayerMetrics, Observed
from .trial import RDMS, Activations

ROUNDING = 1e-12
COMPARED = 400  # dissimilarity matrices that are compared pair by pair


@dataclass(frozen=True)
class MeasuredLayers:
    """Network to analyse: its weights and its name."""

    spec: Observed
    model: str
    trained_on: str = ""
    checkpoint: str = ""
    number: int = 0  # of the checkpoint, in its order
    dump: Path | None = None


def plan_layer_metrics(
    words: Sequence[str],
    observed: Observed,
    measures: LayerMetrics,
    settings: Settings,
    progress: Progress | None = None,
    notes: list[str] | None = None,
) -> Stage:
    """Plan the study of every requested network, its activations extracted or found.

    Raises ErrorGroup with all errors.

    What was done to weights and images joins `notes`.
    """
    targets: list[MeasuredLayers] = []
    problems: list[TlxError] = []
    for word in words or [""]:
        try:
            for target in targets_of(word, observed, settings):
                if target.dump is None:
                    whole_network(target.spec, target.spec.layers, target.spec.model_description)
                targets.append(target)
        except TlxError as error:
            problems.append(error)
    raise_all(problems)
    notes = [] if notes is None else notes
    trials = [_trial(target, measures, settings, notes, progress) for target in targets]
    pieces = pieces_for(settings)
    in_pieces = pieces is not None and any(_has_blocks(measures, t.inputs.dump) for t in trials)
    if in_pieces:
        trials = [replace(t, inputs=replace(t.inputs, pieces=pieces)) for t in trials]
    first = trials[0].spec
    key = files.digest(["study", measures.identity(), first.labels, first.dataset])
    return Stage(
        key=key,
        run=layer_metrics_trial.run,
        experiment=layer_metrics_spec.EXPERIMENT,
        title=f"Layers on {first.dataset}",
        spec=common_settings(measures),
        trials=tuple(trials),
        inputs=tuple({t.inputs.dump.key: _image_input(t) for t in trials}.values()),
        tags={"tlx.dataset": first.dataset},
        preload=("tlx.metrics",),
        write_trial_figures=layer_metrics_report.write_trial_figures,
        notes=tuple(notes),
        runs_here=in_pieces,
    )


def _has_blocks(measures: LayerMetrics, dump: Dump) -> bool:
    """Return whether a layer is measured block by block."""
    return any(
        dump.rows > layer_metrics_trial.block_rows_of(measures, dump.array(layer))
        for layer in dump.layers
    )


def _image_input(trial: Trial) -> DataInput:
    dump = trial.inputs.dump
    return {
        "name": trial.spec.dataset,
        "source": str(dump.folder),
        "digest": dump.key[:36],
        "context": "analysis",
    }


def targets_of(word: str, observed: Observed, settings: Settings) -> list[MeasuredLayers]:
    """Return what a word means: a dump, a weight file, a folder of weight files, or a source.

    A dump is given by its folder, its key or the beginning of it; a source as for --trained-on; ""
    is what the options define.
    """
    path = Path(word).expanduser() if word else Path()
    if not word:
        spec = observed.resolved
        return [MeasuredLayers(spec, _called(spec), spec.source or "")]
    if (path / "header.json").is_file():
        return [_of_dump(path, observed)]
    if path.is_dir():
        paths = weight_files(path)
        called = path.name.removesuffix("-checkpoints")
        return [
            replace(_of_file(p, observed, called), number=number) for number, p in enumerate(paths)
        ]
    if path.is_file():
        return [_of_file(path, observed, path.stem)]
    if re.fullmatch(r"[0-9a-f]{6,64}", word):
        dumps = Dumps(dump_folder(settings))
        return [_of_dump(dumps.root / dumps.find(word), observed)]
    if word.startswith((".", "/", "~")) or path.suffix in WEIGHT_SUFFIXES:
        raise MissingError("dump, weight file or folder of them", path)
    spec = observed.replace(trained_on=word).resolved
    return [MeasuredLayers(spec, word, spec.source or "")]


def _of_dump(folder: Path, observed: Observed) -> MeasuredLayers:
    dump = Dump(folder)
    name = dump.about.get("backbone", "network")
    return MeasuredLayers(observed, f"{name} {dump.key[:8]}", dump=folder)


def _of_file(path: Path, observed: Observed, called: str) -> MeasuredLayers:
    tag = tag_of(path)
    called = run_of(path) or called
    return MeasuredLayers(
        observed.replace(model=str(path)).resolved,
        called if tag or path.stem == called else f"{called}/{path.stem}",
        called if tag else "",
        tag,
    )


def _called(spec: Observed) -> str:
    return (
        f"{spec.architecture} {spec.source or (Path(spec.model).stem if spec.model else 'default')}"
    )


def _trial(
    target: MeasuredLayers,
    measures: LayerMetrics,
    settings: Settings,
    notes: list[str],
    progress: Progress | None,
) -> Trial:
    spec = target.spec
    if target.dump is not None:
        dump, blocks = _opened(target.dump)
        notes += _outdated(dump)
    else:
        network = whole_network(spec, spec.layers, None)
        spec = spec.replace(layers=spec.layers or usual_layers(network, spec))
        dump = extraction(spec, settings, progress, notes)
        blocks = blocks_of(network, dump.layers)
    labels = tuple(map(str, dump.row_labels()))
    if len(labels) != dump.rows:
        raise BadDataError(
            "dump-labels",
            f"{counted(len(labels), 'label')} for {counted(dump.rows, 'row')}",
            where=dump.folder,
            remedy="extract again: tlx extract keeps the labels of image folders",
        )
    resolved = measures.replace(
        dump=dump.key,
        layers=dump.layers,
        labels=files.digest(list(labels)),
        model=target.model,
        trained_on=target.trained_on,
        checkpoint=target.checkpoint,
        split=target.number,
        dataset=dump.about.get("dataset", "images"),
    )
    return Trial(resolved, Activations(dump, labels, blocks))


def _outdated(dump: Dump) -> list[str]:
    """Report where the labels of a dump come from, if its images are no longer there.

    Then the labels may be old.
    """
    if not dump.labels:
        return []
    root = Path(dump.about.get("root", ""))
    again = "extract again to take the labels as they are now"
    if not dump.ids or not dump.about.get("root"):
        return [f"dump {dump.key[:12]}: labels are those of its extraction; {again}"]
    gone = sum(not (root / name).exists() for name in dump.ids)
    if not gone:
        return []
    return [
        f"dump {dump.key[:12]}: {gone} of its {counted(len(dump.ids), 'image')} cannot be seen "
        f"where they were, below {root}, "
        f"so that labels and name of the data set may be old; {again}"
    ]


def _opened(folder: Path) -> tuple[Dump, tuple[int, ...]]:
    """Open a dump, its layers in run order, and their blocks, as far as known."""
    dump = Dump(folder)
    family, model = dump.header["identity"]["network"][:2]
    try:
        network = backbones.meta_model(f"timm:{model}" if family == "timm" else model)
    except TlxError:  # of a package that is not here
        return dump, (0,) * len(dump.layers)
    order = {name: turn for turn, name in enumerate((INPUT, *network.order))}
    layers = sorted(dump.layers, key=lambda name: order.get(module_of(name), len(order)))
    return Dump(folder, layers), blocks_of(network, layers)


def blocks_of(network: Any, layers: Sequence[str]) -> tuple[int, ...]:
    """Return the block, from 1, that each layer is in; 0: none."""
    place: dict[str, int] = {}
    for number, block in enumerate(network.blocks, 1):
        for module in block.modules:
            inside = [name for name, _ in network.net.get_submodule(module).named_modules()]
            place |= {f"{module}.{name}".rstrip("."): number for name in inside}
    return tuple(place.get(module_of(layer), 0) for layer in layers)


def usual_layers(network: object, spec: Observed) -> tuple[str, ...]:
    """Return the default layers of a network: the thesis's if its output is among them."""
    try:
        whole = whole_network(spec, ("thesis",), None)
    except UnknownNameError:
        return ("input", "blocks")
    return usual_set(whole)


def usual_set(whole: Network) -> tuple[str, ...]:
    """Return the default layers of a network with a head, whatever its weights."""
    try:
        last = module_of(layers_of(whole, ("thesis",), None)[-1])
    except UnknownNameError:
        return ("input", "blocks")
    return ("thesis",) if last in whole.head_names else ("input", "blocks")


# ---------------------------------------------------------------- what all of a study's trials come
# to


def compare(
    store: Store, key: str, bootstrap: int = 0, seed: int = 0, progress: Progress | None = None
) -> None:
    """Compare the RDMs of the study's layers, each with each, and write the result to its folder.

    rdm_comparison.json: names of model and layer, Spearman's ρ of every two, and for every layer
      that two or more
    networks have a map of the networks: points whose distances are 1 − ρ.
    bootstrap  so many draws of the stimuli, with replacement, seeded: adds "bootstrap", the 95 %
               confidence intervals
               of ρ of every two ("low", "high") and of every one with the classes' RDM
               ("label_low", "label_high"); 2 ms a dissimilarity matrix and draw for 500 images
    """
    record = store.read_study(key)
    if record is None:
        return
    kept = _comparable(_kept_rdms(store, record))
    if len(kept) < 2:
        return
    rdms = [rdm for _, rdm in kept]
    names = [name for name, _ in kept]
    rho = metrics.compare_rdms(np.stack(rdms), np.stack(rdms), method="spearman")
    comparison: dict[str, Any] = {
        "names": [{n: row[n] for n in ("model", "checkpoint", "layer")} for row in names],
        "spearman": np.asarray(rho).tolist(),
        "maps": _maps([row["layer"] for row in names], rho),
    }
    if bootstrap:
        comparison["bootstrap"] = _intervals(
            store, names[0]["trial"], rdms, bootstrap, seed, progress
        )
    files.write_json(store.root / "studies" / key / "rdm_comparison.json", comparison)


KeptRdm = tuple[dict[str, str], np.ndarray]  # model, checkpoint, layer, labels, trial; the RDM


def _kept_rdms(store: Store, record: Mapping[str, Any]) -> list[KeptRdm]:
    """Return the RDMs that the trials of a study keep."""
    kept = []
    for row in record["trials"]:
        spec = row["spec"]
        about = {name: spec[name] for name in ("model", "checkpoint", "labels")}
        for index, layer in enumerate(spec["layers"]):
            name = f"{RDMS}/{index:02d}.npy"
            if (store.folder(row["key"]) / name).is_file():
                rdm = np.load(store.file(row["key"], name), allow_pickle=False)
                kept.append((about | {"layer": layer, "trial": row["key"]}, rdm))
    return kept


def _comparable(kept: Sequence[KeptRdm]) -> list[KeptRdm]:
    """Return the RDMs that vary and are of the same images as the first, at most COMPARED."""
    same = [
        (name, rdm)
        for name, rdm in kept
        if name["labels"] == kept[0][0]["labels"] and len(rdm) == len(kept[0][1])
    ]
    return [(name, rdm) for name, rdm in same if np.ptp(rdm) > 0][:COMPARED]


def _maps(layers: Sequence[str], rho: np.ndarray) -> dict[str, Any]:
    """Return a map of the networks for each layer that more than two have.

    What is the same in all of them, as the input is, needs none.
    """
    maps = {}
    for layer in dict.fromkeys(layers):
        rows = [i for i, name in enumerate(layers) if name == layer]
        apart = 1 - rho[np.ix_(rows, rows)]
        apart[apart < ROUNDING] = 0
        if len(rows) > 2 and apart.any():
            maps[layer] = {"rows": rows, "points": metrics.mds(apart).points.tolist()}
    return maps


def _intervals(
    store: Store,
    trial: str,
    rdms: list[np.ndarray],
    draws: int,
    seed: int,
    progress: Progress | None,
) -> dict[str, object]:
    """Compute confidence intervals over stimuli of all RDMs with each other and the classes'.

    NaN becomes None.
    """
    result = store.find(trial)
    assert result is not None
    codes = np.array(result.details["codes"])
    several = [metrics.model_rdm(codes)] if len(np.unique(codes)) > 1 else []
    intervals = metrics.bootstrap_all(
        [*rdms, *several], "spearman", draws, seed, progress=progress or (lambda d, of: None)
    )
    n = len(rdms)
    ends = {"low": intervals.low, "high": intervals.high}
    return {
        "resamplings": draws,
        "seed": seed,
        "confidence": intervals.confidence,
        **{name: _plain(end[:n, :n]) for name, end in ends.items()},
        **({f"label_{name}": _plain(end[:n, n]) for name, end in ends.items()} if several else {}),
    }


def _plain(values: np.ndarray) -> list[object]:
    if values.ndim > 1:
        return [_plain(row) for row in values]
    return [None if math.isnan(v) else v for v in values.tolist()]
