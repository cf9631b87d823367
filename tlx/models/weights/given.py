"""Weight file that a user means: a file, one of a folder, or one in a folder of its own name.

Readable without torch.
"""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import BadDataError, MissingError

ENDINGS = (".safetensors", ".pth", ".pt", ".th", ".bin", ".ckpt", ".h5", ".hdf5")
KERAS = "https://storage.googleapis.com/tensorflow/keras-applications"
ORIGINS = {  # (architecture, source) of the trade-off study → where its weights are published
    ("vgg16", "imagenet"): f"{KERAS}/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels.h5",
    ("resnet50", "imagenet"): f"{KERAS}/resnet/resnet50_weights_tf_dim_ordering_tf_kernels.h5",
    ("resnet152", "imagenet"): f"{KERAS}/resnet/resnet152_weights_tf_dim_ordering_tf_kernels.h5",
    ("vgg16", "places365"): "https://github.com/GKalliatakis/Keras-VGG16-places365/releases",
    ("resnet50", "places365"): "http://places2.csail.mit.edu/models_places365/"
    "resnet50_places365.pth.tar, to be renamed to .pth",
}
SAME_WEIGHTS = {"vgg16-4096": "vgg16"}  # backbone → whose weights it takes
SOURCES = ("imagenet", "places365")


def given_file(model: str, architecture: str, source: str | None) -> str:
    """Return the weight file that `--model` means.

    A folder is searched for the file whose name has the architecture and the source: a file without
    a source in its name is of ImageNet. For x.h5 that is not there x/x.h5 is taken, as by the
    trade-off study. Anything else is returned as it is.

    Raises MissingError where a folder has no such file, with where it is published; BadDataError
    where several fit.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return str(_in_folder(path, architecture, source))
    own = path.with_suffix("") / path.name
    return str(own) if not path.exists() and own.is_file() else model


def where_published(architecture: str, source: str) -> str:
    """Return where weights of these are published, in words; "" where that is not known."""
    place = ORIGINS.get((_plain(architecture), _plain(source)))
    return f"{source} weights of {architecture}: {place}" if place else ""


def _in_folder(folder: Path, architecture: str, source: str | None) -> Path:
    wanted = _plain(source or SOURCES[0])
    architecture = SAME_WEIGHTS.get(architecture.lower(), architecture)
    fitting = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in ENDINGS
        and _plain(architecture) in _plain(path.name)
        and _source_of(path, wanted) == wanted
    ]
    whole = [path for path in fitting if "notop" not in _plain(path.name)] or fitting
    if not whole:
        origin = where_published(architecture, source or "ImageNet")
        raise MissingError(
            f"weight file of {architecture} from {source or 'ImageNet'}",
            folder,
            made_by=f"--model FILE. {origin}".rstrip(". "),
        )
    if len(whole) > 1:
        raise BadDataError(
            "several-weights",
            f"{', '.join(path.name for path in whole[:5])} are all of {architecture} from "
            f"{source or 'ImageNet'}",
            where=folder,
            expected="one file",
            remedy="name it: --model FILE",
        )
    return whole[0]


def _source_of(path: Path, wanted: str) -> str:
    """Return the source that a file's name says; ImageNet if it says none."""
    name = _plain(path.name)
    return next((source for source in (wanted, *SOURCES) if source in name), SOURCES[0])


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
