"""Layer metrics of many checkpoints on one set of images.

They are the trials of `tlx analyze`, under the same keys, but each extracts its activations in its
own process and removes them afterwards. 720 checkpoints would be 54 GB.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ... import files
from ...data.folders import ImageFolder
from ...data.pixels import Pixels
from ...data.sizing import Sizing
from ...errors import BusyError, IntegrityError, MissingError
from ...features import dump
from ...features.dump import ExtractionConfig
from ...features.dumps import Dumps
from ...features.extract import ExtractionContext, extract
from ...lab.records import DataInput
from ...lab.settings import Settings
from ...models.network import Network
from ...result import Result
from ..activations import dump_folder, is_default, layers_of, sampled, whole_network
from ..base import Stage, Trial, TrialContext
from ..few_shot_inputs import Progress, common_settings
from ..image_data import decoded, located
from ..layer_metrics import report as layer_metrics_report
from ..layer_metrics import spec as layer_metrics_spec
from ..layer_metrics import trial as layer_metrics_trial
from ..layer_metrics.plan import blocks_of, usual_layers
from ..layer_metrics.spec import LayerMetrics, Observed
from ..layer_metrics.trial import Activations
from .spec import CheckpointGrid

OURS = "training.dump"  # in a trial's folder: the dump is the trial's, and is removed with it


@dataclass(frozen=True)
class ProbeImages:
    """Images that layers are measured on, and the data to measure the next network.

    observed  of no network in particular
    paths     key of the dump → the network's weight file
    """

    observed: Observed
    pixels: Pixels
    ids: tuple[str, ...]
    labels: tuple[str, ...]
    blocks: tuple[int, ...]
    paths: Mapping[str, str]
    root: Path
    images_root: str
    dataset: str
    keep: bool
    normalisation: tuple[float, ...] = ()


@dataclass(frozen=True)
class LayerStudy:
    """Study of layer metrics, and digest of a weight file → key of its trial."""

    study: Stage
    keys: dict[str, str]


Named = tuple[str, str, str, int, str, int]  # path, digest, source, seed, tag, index


def plan_layers(
    chain: CheckpointGrid,
    measures: LayerMetrics,
    settings: Settings,
    *,
    typed: str,
    name: str,
    models: Sequence[Named],
    progress: Progress | None = None,
) -> LayerStudy:
    """Return the trials that measure these models on the images of one data set.

    Nothing is extracted yet.
    """
    observed = Observed(
        architecture=chain.architecture,
        dataset=typed,
        input_size=chain.input_size,
        samples=chain.samples,
        layers=chain.layers,
    )
    notes: list[str] = []
    folder = located(typed, settings, notes)
    chosen = sampled(
        folder, observed.part, observed.samples, notes, at_most=is_default(observed, "samples")
    )
    normalisation = chain.values_of(typed).normalisation
    first = _network(observed, models[0][0], normalisation)
    sizing = Sizing(first.input_size, crops=False, mode=observed.sizing, channels=first.channels)
    held = decoded(folder, chosen, sizing, settings, notes, progress)
    observed = observed.replace(
        layers=observed.layers or usual_layers(first, observed.replace(model=models[0][0]))
    )
    layers = layers_of(first, observed.layers, None)
    labels = tuple(image.label for image in chosen)
    resolved = measures.replace(
        layers=layers, labels=files.digest(list(labels)), dataset=folder.name
    )
    specs = _layer_specs(resolved, observed, models, held.digest, normalisation)
    groups = {digest: f"{name} {source} {seed}" for _, digest, source, seed, _, _ in models}
    gallery = ProbeImages(
        observed,
        held,
        tuple(image.path for image in chosen),
        labels,
        blocks_of(first, layers),
        {specs[digest].dump: path for path, digest, *_ in models},
        dump_folder(settings),
        str(folder.root),
        folder.name,
        chain.keep_dumps,
        normalisation,
    )
    question: list[object] = [measures.identity(), resolved.labels, held.digest, list(layers)]
    if normalisation:
        question.append(list(normalisation))
    study = Stage(
        key=files.digest(["study", "checkpoints", *question]),
        run=run,
        experiment=layer_metrics_spec.EXPERIMENT,
        title=f"Layers of checkpoints on {name}",
        spec=common_settings(resolved),
        trials=tuple(Trial(spec, gallery, groups[digest]) for digest, spec in specs.items()),
        inputs=(_image_record(folder, held),),
        tags={"tlx.dataset": folder.name},
        preload=("tlx.metrics", "tlx.studies.checkpoints.layers"),
        write_trial_figures=layer_metrics_report.dress_table,
        notes=tuple(notes),
    )
    return LayerStudy(study, {digest: spec.key for digest, spec in specs.items()})


def _layer_specs(
    resolved: LayerMetrics,
    observed: Observed,
    models: Sequence[Named],
    images: str,
    normalisation: tuple[float, ...],
) -> dict[str, LayerMetrics]:
    """Return digest of a weight file → the trial that measures it; each once."""
    specs: dict[str, LayerMetrics] = {}
    for path, digest, source, seed, tag, index in models:
        if digest not in specs:
            network = _network(observed, path, normalisation)
            specs[digest] = resolved.replace(
                dump=dump.key(network, digest, images, _how(observed)),
                model=f"{source} seed {seed}",
                trained_on=source,
                checkpoint=tag,
                split=index,
            )
    return specs


def _image_record(folder: ImageFolder, held: Pixels) -> DataInput:
    return {
        "name": folder.name,
        "source": str(folder.root),
        "digest": held.digest[:36],
        "context": "analysis",
    }


def run(spec: LayerMetrics, gallery: ProbeImages, context: TrialContext) -> Result:
    """Extract, measure, and remove the activations.

    Unless they are to be kept or existed before.
    """
    path = gallery.paths[spec.dump]
    network = _network(gallery.observed, path, gallery.normalisation)
    if (
        dump.key(network, network.weights, gallery.pixels.digest, _how(gallery.observed))
        != spec.dump
    ):
        raise IntegrityError(
            "weights-sha256",
            "the weights have changed since the study began",
            where=path,
            remedy="run the command again",
        )
    mark = context.folder / OURS
    if not (gallery.root / spec.dump / files.MANIFEST).exists():
        files.write_text(mark, "")
    extracted = extract(
        network,
        network.weights,
        gallery.pixels,
        spec.layers,
        ExtractionContext(
            gallery.root,
            context.device,
            ids=gallery.ids,
            labels=gallery.labels,
            stopping=context.stopping,
            about={
                "backbone": network.row.title,
                "dataset": gallery.dataset,
                "root": gallery.images_root,
            },
        ),
        _how(gallery.observed),
    )
    result = layer_metrics_trial.run(
        spec, Activations(extracted, gallery.labels, gallery.blocks), context
    )
    del extracted  # it holds the dump in use
    if mark.exists() and not gallery.keep:
        with contextlib.suppress(BusyError, MissingError):  # somebody reads it now, and may have it
            Dumps(gallery.root).remove(spec.dump)
    return result


def _network(observed: Observed, path: str, normalisation: tuple[float, ...]) -> Network:
    network = whole_network(observed.replace(model=path), (), None)
    network.normalise(normalisation)
    return network


def _how(observed: Observed) -> ExtractionConfig:
    return ExtractionConfig(
        reduce=observed.reduce,
        dtype=observed.dtype,
        fold=observed.fold,
        precision=observed.precision,
    )
