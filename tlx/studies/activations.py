"""Extraction of activations for a study: settings → network, layers, images, dump."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..data import datasets
from ..data.folders import TEST, TRAIN, VAL
from ..data.pixels import Pixels
from ..data.sizing import Sizing
from ..errors import BadDataError, UnknownNameError, UsageError, counted
from ..features.dump import Dump, ExtractionConfig
from ..features.embedding import EMBEDDINGS
from ..features.extract import ExtractionContext as ExtractionPlace
from ..features.extract import ShardRunner, extract
from ..lab import cost, energy, signals
from ..lab.settings import Settings
from ..models import backbones, descriptions, layers
from ..models.layers import after
from ..models.network import Network
from ..spec import Spec, format_spec, parse_spec
from .activations_spec import Extraction
from .few_shot import FewShotTrial
from .few_shot_inputs import PreflightResult, Progress, precomputed
from .image_data import decoded_files, located
from .summaries import command_line

# ---------------------------------------------------------------- fine-tuning


# ---------------------------------------------------------------- feature extraction


def whole_network(spec: FewShotTrial, layers: tuple[str, ...], description: str | None) -> Network:
    """Return the network with its own head, as its weights came; check the requested layers.

    A weight file need not have what runs after the last of them, such as the dense layers behind an
    encoder.
    """
    row = backbones.lookup(spec.architecture)
    unused: tuple[str, ...] = ()
    if spec.model and (layers or description):
        outline = backbones.meta_model(spec.architecture, head="keep")
        unused = after(outline, layers_of(outline, layers, description))
    network = backbones.load(
        spec.architecture,
        weights=spec.start_from,
        seed=0,
        classes=None if spec.model else row.classes,
        head="linear" if spec.start_from is None else "keep",
        source=spec.weight_source,
        input_size=spec.input_size,
        unused=unused,
    )
    layers_of(network, layers, description)
    if unused and network.match is not None and network.match.absent:
        absent = network.match.absent
        note = (
            f"{spec.model}: {len(absent)} tensors behind the last layer taken, first "
            f"'{absent[0]}', are not in the file or of another shape; they are not needed"
        )
        network.notes = (*network.notes, note)
    return network


def layers_of(network: Network, names: tuple[str, ...], description: str | None) -> tuple[str, ...]:
    """Return the canonical names of the requested layers.

    By name, by block number, by set, or by a description.
    """
    if description and names:
        raise UsageError("conflict", "--layers and --model-description", expected="one of the two")
    if description:
        return descriptions.described(
            network, descriptions.read(Path(description).expanduser()), where=description
        )
    sets: dict[str, tuple[str | int, ...]] = {
        "last": (len(network.blocks),),
        **descriptions.LAYER_SETS,
    }
    if not names or "blocks" in names:
        sets["blocks"] = _blocks_with_rows(network)
    if "all" in names:
        sets["all"] = layers.everything(network)
    if "thesis" in names:
        rows = descriptions.THESIS_LAYERS
        known = {backbones.lookup(name).title: chosen for name, chosen in rows.items()}
        if network.row.title not in known:
            raise UnknownNameError(
                "network with layers of the thesis", network.row.title, list(rows)
            )
        sets["thesis"] = known[network.row.title]
    requested = [part for name in names or ("blocks",) for part in sets.get(name, (name,))]
    return descriptions.modules(network, requested)


def _blocks_with_rows(network: Network) -> tuple[int, ...]:
    """Return the blocks that can be taken as layers.

    Those that are left out are in the network's notes.
    """
    numbers = layers.blocks_with_rows(network)
    left_out = [str(n) for n in range(1, len(network.blocks) + 1) if n not in numbers]
    if left_out:
        note = (
            f"layers of {network.row.title}: block {', '.join(left_out)} left out, which gives no "
            f"row for each "
            "image"
        )
        network.notes = tuple(dict.fromkeys([*network.notes, note]))
    return numbers


def extraction(
    spec: Extraction,
    settings: Settings,
    progress: Progress | None = None,
    notes: list[str] | None = None,
) -> Dump:
    """Return the activations of images of a data set, extracted or found.

    What was done to weights and images is added to `notes`. Shards are made by the engine of the
    settings, on a cluster or by --workers processes of this machine; else by this process.
    """
    spec = spec.resolved
    notes = [] if notes is None else notes
    preflight = PreflightResult()
    network = preflight.network = whole_network(spec, spec.layers, spec.model_description)
    notes += [note for note in network.notes if note not in notes]
    folder = preflight.folder = located(spec.dataset, settings, notes)
    chosen = sampled(folder, spec.part, spec.samples, notes, at_most=is_default(spec, "samples"))
    paths = [folder.root / image.path for image in chosen]
    sizing = Sizing(
        network.input_size, crops=spec.use_crops, mode=spec.sizing, channels=network.channels
    )
    crop_files = None
    if spec.precomputed_crops:
        crop_files = precomputed(spec.precomputed_crops, preflight, paths, settings)
    held = decoded_files(paths, sizing, settings, notes, progress, crop_files)
    preflight.places = {path: number for number, path in enumerate(paths)}
    how = ExtractionConfig(
        reduce=spec.reduce, dtype=spec.dtype, fold=spec.fold, precision=spec.precision
    )
    with signals.graceful() as stopping:
        labels = [image.label for image in chosen]
        # on a cluster the nodes have the device, and this machine need not
        here = settings.replace(device="cpu") if settings.on_cluster else settings
        place = _dump_place(preflight, here, progress, stopping, labels=labels)
        runner = _by_engine(spec, network, held, settings, notes)
        place = replace(place, run_shards=runner, note=notes.append)
        names = layers_of(network, spec.layers, spec.model_description)
        dump = extract(network, network.weights, held, names, place, how)
        signals.stop_if_asked()
    return dump


def _by_engine(
    spec: Extraction, network: Network, pixels: Pixels, settings: Settings, notes: list[str]
) -> ShardRunner | None:
    """Return what has shards made by other processes; None where this one makes them."""
    from .shard_tasks import EngineShards

    if not settings.on_cluster and not settings.workers:
        return None
    return EngineShards(spec, network.weights, pixels, settings, notes)


def is_default(spec: Spec, name: str) -> bool:
    """Return whether a setting is at its default, so was not explicitly requested."""
    return bool(getattr(spec, name) == spec.defaults()[name])


def sampled(
    folder: datasets.ImageFolder,
    part: str,
    samples: int | None,
    notes: list[str] | None = None,
    *,
    at_most: bool = False,
) -> list[datasets.Image]:
    """Return the images of a part of a folder, all of them in order, or as many of each class.

    The latter are the first ones, class by class.

    at_most   take what there is of a class that has fewer, and say so in `notes`; else that is
    refused
    """
    if part == "auto":
        part = "test" if folder.of(TEST) else "all"
    names = {"train": TRAIN, "val": VAL, "test": TEST}.get(part, ())
    images = list(folder.images if part == "all" else folder.of(names))
    if not images:
        raise BadDataError(
            "no-images",
            f"no image in a folder named {' or '.join(names)}",
            where=folder.root,
            expected=f"split folders; found {', '.join(filter(None, folder.splits)) or 'none'}",
            remedy="use --part all",
        )
    if not samples:
        return images
    each, remainder = divmod(samples, len(folder.classes))
    if (remainder and not at_most) or not each:
        raise UsageError(
            "out-of-range",
            f"{samples} samples of {counted(len(folder.classes), 'class', 'classes')}",
            where="--samples",
            expected=f"a multiple of {len(folder.classes)}: as many of each class",
        )
    by_class = {
        label: [image for image in images if image.label == label] for label in folder.classes
    }
    short = [
        f"'{label}' {len(members)}" for label, members in by_class.items() if len(members) < each
    ]
    if len(short) > 10:
        short = [*short[:10], f"and {counted(len(short) - 10, 'more class', 'more classes')}"]
    if short and at_most:
        message = f"fewer than {each} images of {', '.join(short)}: what there is of them is taken"
        if notes is not None and message not in notes:
            notes.append(message)
    elif short:
        raise BadDataError(
            "too-few-images",
            f"{each} images of each class requested; there are of {', '.join(short)}",
            where=folder.root,
            remedy="use a smaller --samples",
        )
    return [image for members in by_class.values() for image in members[:each]]


def normalised_embedding(text: str) -> str:
    """Return the canonical text of an embedding.

    'name' or 'name:setting=value,…' of what is not default.
    """
    return format_spec(text.partition(":")[0], parse_spec(EMBEDDINGS, text, "embedding"))


def _dump_place(
    preflight: PreflightResult,
    settings: Settings,
    progress: Progress | None,
    stopping: Callable[[], bool],
    *,
    labels: Sequence[str] = (),
) -> ExtractionPlace:
    assert preflight.network is not None
    assert preflight.folder is not None
    device = settings.resolved_device()
    paths = [
        str(path.relative_to(preflight.folder.root))
        if path.is_relative_to(preflight.folder.root)
        else path.name
        for path in preflight.places
    ]
    return ExtractionPlace(
        dump_folder(settings),
        device,
        ids=paths,
        labels=labels,
        about={
            "backbone": preflight.network.row.title,
            "dataset": preflight.folder.name,
            "root": str(preflight.folder.root),
        },
        progress=progress or (lambda done, of: None),
        stopping=stopping,
        metered=functools.partial(metered, device),
        note=preflight.notes.append,
        command=command_line(),
    )


@contextlib.contextmanager
def metered(device: str) -> Iterator[Callable[[], cost.Usage]]:
    """Meter the block: the context gives a function that tells what it has used so far."""
    with cost.Meter(idle=energy.idle_power(device != "cpu")) as meter:
        yield meter.usage


def dump_folder(settings: Settings) -> Path:
    """Return the folder of activation dumps."""
    return settings.cache_folder / "dumps"


# ---------------------------------------------------------------- what all few-shot studies need


# ---------------------------------------------------------------- pre-training
