"""From what was typed to a study ready to run: its trials, each with what it runs on, named by
content.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..data import datasets
from ..data.folders import TEST, TRAIN, VAL
from ..data.sizing import Sizing
from ..errors import BadDataError, UnknownNameError, UsageError
from ..features.dump import Dump, ExtractionConfig
from ..features.embedding import EMBEDDINGS
from ..features.extract import ExtractionContext as ExtractionPlace
from ..features.extract import extract
from ..lab import signals
from ..lab.settings import Settings
from ..models import backbones, descriptions, layers
from ..models.network import Network
from ..spec import format_spec, parse_spec
from .activations_spec import Extraction
from .few_shot import FewShotTrial
from .few_shot_inputs import PreflightResult, Progress, precomputed
from .image_data import decoded_files, located

# ---------------------------------------------------------------- fine-tuning


# ---------------------------------------------------------------- feature extraction


def whole_network(spec: FewShotTrial, layers: tuple[str, ...], description: str | None) -> Network:
    """The network with its own head, as its weights came; layers asked for are looked up."""
    row = backbones.lookup(spec.architecture)
    network = backbones.load(
        spec.architecture,
        weights=spec.start_from,
        seed=0,
        classes=None if spec.model else row.classes,
        head="linear" if spec.start_from is None else "keep",
        source=spec.weight_source,
        input_size=spec.input_size,
    )
    layers_of(network, layers, description)
    return network


def layers_of(network: Network, names: tuple[str, ...], description: str | None) -> tuple[str, ...]:
    """The canonical names of the layers that are meant: by name, by block number, by set, or by a
    description.
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
    asked = [part for name in names or ("blocks",) for part in sets.get(name, (name,))]
    return descriptions.modules(network, asked)


def _blocks_with_rows(network: Network) -> tuple[int, ...]:
    """Numbers of the blocks that can be taken as layers; those that are left out are in the
    network's notes.
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
    """The activations of images of a data set, extracted or found; what was done to weights and
    images joins `notes`.
    """
    spec = spec.resolved
    notes = [] if notes is None else notes
    found = PreflightResult()
    network = found.network = whole_network(spec, spec.layers, spec.model_description)
    notes += [note for note in network.notes if note not in notes]
    folder = found.folder = located(spec.dataset, settings, notes)
    chosen = sampled(folder, spec.part, spec.samples, notes, at_most=is_default(spec, "samples"))
    paths = [folder.root / image.path for image in chosen]
    sizing = Sizing(
        network.input_size, crops=spec.use_crops, mode=spec.sizing, channels=network.channels
    )
    crop_files = None
    if spec.precomputed_crops:
        crop_files = precomputed(spec.precomputed_crops, found, paths, settings)
    held = decoded_files(paths, sizing, settings, notes, progress, crop_files)
    found.places = {path: number for number, path in enumerate(paths)}
    how = ExtractionConfig(
        reduce=spec.reduce, dtype=spec.dtype, fold=spec.fold, precision=spec.precision
    )
    with signals.graceful() as stopping:
        place = _dump_place(
            found, settings, progress, stopping, labels=[image.label for image in chosen]
        )
        names = layers_of(network, spec.layers, spec.model_description)
        dump = extract(network, network.weights, held, names, place, how)
        signals.stop_if_asked()
    return dump


def is_default(spec: Any, name: str) -> bool:
    """Return whether a setting is at its default, so that nobody asked for exactly this."""
    return bool(getattr(spec, name) == spec.defaults()[name])


def sampled(
    folder: datasets.ImageFolder,
    part: str,
    samples: int | None,
    notes: list[str] | None = None,
    *,
    at_most: bool = False,
) -> list[datasets.Image]:
    """The images of a part of a folder, all of them in order; or as many of each class, the first
    ones, class by class.

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
    each, rest = divmod(samples, len(folder.classes))
    if (rest and not at_most) or not each:
        raise UsageError(
            "out-of-range",
            f"{samples} samples of {len(folder.classes)} classes",
            where="--samples",
            expected=f"a multiple of {len(folder.classes)}: as many of each class",
        )
    by_class = {
        label: [image for image in images if image.label == label] for label in folder.classes
    }
    short = [f"'{label}' {len(some)}" for label, some in by_class.items() if len(some) < each]
    if len(short) > 10:
        short = [*short[:10], f"and {len(short) - 10} more classes"]
    if short and at_most:
        message = f"fewer than {each} images of {', '.join(short)}: what there is of them is taken"
        if notes is not None and message not in notes:
            notes.append(message)
    elif short:
        raise BadDataError(
            "too-few-images",
            f"{each} images of each class asked for; there are of {', '.join(short)}",
            where=folder.root,
            remedy="use a smaller --samples",
        )
    return [image for some in by_class.values() for image in some[:each]]


def normalised_embedding(text: str) -> str:
    """Return the one spelling of an embedding: 'name' or 'name:setting=value,…' of what is not
    default.
    """
    return format_spec(text.partition(":")[0], parse_spec(EMBEDDINGS, text, "embedding"))


def _dump_place(
    found: PreflightResult,
    settings: Settings,
    progress: Progress | None,
    stopping: Callable[[], bool],
    *,
    labels: Sequence[str] = (),
) -> ExtractionPlace:
    assert found.network is not None
    assert found.folder is not None
    paths = [
        str(path.relative_to(found.folder.root))
        if path.is_relative_to(found.folder.root)
        else path.name
        for path in found.places
    ]
    return ExtractionPlace(
        dump_folder(settings),
        settings.resolved_device(),
        ids=paths,
        labels=labels,
        about={
            "backbone": found.network.row.title,
            "dataset": found.folder.name,
            "root": str(found.folder.root),
        },
        progress=progress or (lambda done, of: None),
        stopping=stopping,
    )


def dump_folder(settings: Settings) -> Path:
    """Where activation dumps are kept."""
    return settings.cache_folder / "dumps"


# ---------------------------------------------------------------- what all few-shot studies need


# ---------------------------------------------------------------- pre-training
