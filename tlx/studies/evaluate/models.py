"""Models that can be evaluated: weight files, networks of tlx chop, exports, finished trials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ... import files
from ...errors import BadDataError, MissingError, UsageError
from ...lab.settings import Settings
from ...lab.store import Store
from ...models import backbones, chopped
from ...models.network import Network
from ...models.onnx_file import ONNX, OnnxModel
from ...models.weights import described, promises
from ..photos import model_folder
from ..session import Progress
from .spec import Evaluation

WEIGHTS = (".safetensors", ".pth", ".pt", ".th", ".bin", ".ckpt", ".h5", ".hdf5")


@dataclass(frozen=True)
class GivenModel:
    """Model to evaluate.

    path          weight file, or folder of an export
    architecture  of a weight file; "" of an export
    classes       names in the order of its outputs; () where a file does not say
    digest        SHA-256 of what it is
    is_refit      whether it learned from all training images of its data set, as an export can
    input_size    pixels that it was trained on, where its file says so
    """

    path: Path
    architecture: str
    classes: tuple[str, ...]
    digest: str
    is_refit: bool = False
    input_size: int | None = None

    @property
    def is_export(self) -> bool:
        """Return whether it is an exported model."""
        return not self.architecture


@dataclass(frozen=True)
class ModelPlace:
    """Where trials are found, and who is told while a model is made again."""

    store: Store
    settings: Settings
    note: Callable[[str], None]
    progress: Progress | None = None


def given_model(word: str, spec: Evaluation, place: ModelPlace) -> GivenModel:
    """Return the model that a word means: a file, a folder of an export, or the key of a trial.

    A trial's model is made again and kept in the cache, as for `tlx predict`.

    Raises MissingError, UsageError for a weight file without an architecture, and BadDataError.
    """
    path = Path(word).expanduser()
    if path.suffix == ".json" and chopped.is_recorded(path.with_suffix(".safetensors")):
        path = path.with_suffix(".safetensors")  # tlx chop names the record of the weights
    if path.suffix.lower() in WEIGHTS and not path.is_dir():
        with promises.permitted(path):
            if not path.is_file():
                raise MissingError("weight file", path)
        return _weights(path, spec)
    folder = model_folder(word)
    if folder is None:
        folder = _of_trial(word, place)
    opened = OnnxModel(folder)
    digest = files.sha256(folder / ONNX)
    return GivenModel(folder, "", opened.classes, digest, "refit" in opened.record)


def _weights(path: Path, spec: Evaluation) -> GivenModel:
    known, about = chopped.described(path), described.description(path)
    if known is None and about is not None:
        known = about.architecture, about.classes
    architecture = spec.architecture or (known[0] if known else "")
    if not architecture:
        raise UsageError(
            "architecture",
            f"{path.name} does not say of which network it is",
            where=path,
            expected="--architecture NAME, of `tlx backbones`",
        )
    size = about.input_size if about is not None else None
    classes = known[1] if known else ()
    return GivenModel(path, architecture, classes, promises.check(path), input_size=size)


def _of_trial(word: str, place: ModelPlace) -> Path:
    from ..export import ExportRequest, kept
    from ..served_trial import choose

    chosen = choose(place.store, word)
    return kept(ExportRequest(chosen, place.store, place.settings, place.note, place.progress))


def network_of(model: GivenModel, spec: Evaluation, classes: int) -> Network:
    """Return the network of a weight file with its own head, in evaluation mode.

    classes  of the data set, for Keras files, whose head is not looked at before it is filled

    Raises BadDataError where the head has another number of outputs than the names that are known,
    or than the data set has classes.
    """
    network = backbones.load(
        model.architecture,
        weights=model.path,
        classes=classes if model.path.suffix in (".h5", ".hdf5") else None,
        head="keep",
        seed=0,
        input_size=spec.input_size,
        sha256=model.digest,
    )
    x = torch.zeros(1, network.channels, network.input_size, network.input_size)
    with torch.no_grad():
        outputs = int(network(x).shape[1])
    expected = len(model.classes) or classes
    if outputs != expected:
        raise BadDataError(
            "classes",
            f"its head has {outputs} outputs",
            where=model.path,
            expected=f"{expected}, the classes of the data set",
            remedy="evaluate it on the data set that it was trained on",
        )
    return network
