"""Registry of backbones: name → network with blocks 1…N, head, input size, normalisation.

Written-out rows are in BACKBONES; any other classification model of torchvision goes by its own
name there, any of timm as `timm:<name>`. The table is readable without importing torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import (
    BadDataError,
    IntegrityError,
    MissingError,
    ResourceError,
    UnknownNameError,
    UsageError,
    counted,
)

if TYPE_CHECKING:
    from torch import nn

    from .network import Network
    from .weights.container import Weights
    from .weights.matching import WeightMatch

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class BackboneRow:
    """Definition of a backbone: its network, input and weights.

    family      who builds it: "own", "torchvision" or "timm"
    model       its name there
    input_size  height and width in pixels
    mean, std   of each channel, for values in 0-1
    classes     of its own weights
    head        what `auto` means for it, a row of HEADS
    source      what its own weights were trained on; "" when it has none
    weights     where they come from: "packaged", "offline", "torchvision", "timm" or ""
    top1        published top-1 accuracy of these weights on ImageNet, a fraction; None where it is
                not known, or the weights are of other images
    """

    title: str
    family: str = "torchvision"
    model: str
    input_size: int = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    classes: int = 1000
    head: str = "linear"
    source: str = "ImageNet"
    weights: str = "torchvision"
    top1: float | None = None

    @property
    def channels(self) -> int:
        """Return the number of input channels."""
        return len(self.mean)


BACKBONES: dict[str, BackboneRow] = {
    "mnist-cnn": BackboneRow(
        title="MNIST CNN",
        family="own",
        model="mnist-cnn",
        input_size=28,
        mean=(0.1307,),
        std=(0.3081,),
        classes=10,
        source="MNIST",
        weights="packaged",
    ),
    "resnet20-cifar": BackboneRow(
        title="ResNet-20 for CIFAR",
        family="own",
        model="resnet20-cifar",
        input_size=32,
        classes=10,
        source="",
        weights="",
    ),
    "dense-1333-200": BackboneRow(
        title="Dense 10800-1333-200",
        family="own",
        model="dense-1333-200",
        input_size=60,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        classes=3,
        source="",
        weights="",
    ),
    **{
        f"mobilenet-v1{ending}": BackboneRow(
            title=f"MobileNet v1{f', α = {ending[1:]}' if ending else ''}",
            family="own",
            model=f"mobilenet-v1{ending}",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            source="",
            weights="",
        )
        for ending in ("", "-0.75", "-0.5", "-0.25")
    },
    **{
        name: BackboneRow(
            title=title,
            family="own",
            model=name,
            input_size=32,
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
            classes=10,
            source="",
            weights="",
        )
        for name, title in (("quanta-cnn", "QUANTA CNN"), ("quanta-cnn-2020", "QUANTA CNN of 2020"))
    },
    "vgg11": BackboneRow(title="VGG11", model="vgg11", top1=0.6902),
    "vgg13": BackboneRow(title="VGG13", model="vgg13", top1=0.69928),
    "vgg16": BackboneRow(title="VGG16", model="vgg16", top1=0.71592, head="mlp256"),
    "vgg16-4096": BackboneRow(title="VGG16 with its own dense layers", model="vgg16", top1=0.71592),
    "vgg19": BackboneRow(title="VGG19", model="vgg19", top1=0.72376),
    "vgg11_bn": BackboneRow(title="VGG11-BN", model="vgg11_bn", top1=0.7037),
    "vgg13_bn": BackboneRow(title="VGG13-BN", model="vgg13_bn", top1=0.71586),
    "vgg16_bn": BackboneRow(title="VGG16-BN", model="vgg16_bn", top1=0.7336),
    "vgg19_bn": BackboneRow(title="VGG19-BN", model="vgg19_bn", top1=0.74218),
    "resnet50": BackboneRow(title="ResNet50", model="resnet50", top1=0.80858),
    "resnet152": BackboneRow(title="ResNet152", model="resnet152", top1=0.82284),
    "efficientnet-lite0": BackboneRow(
        title="EfficientNet-Lite0",
        family="timm",
        model="tf_efficientnet_lite0",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        weights="offline",
        top1=0.751,
    ),
}
TIMM = "timm:"
RANDOM = "random"  # what `digest` says of weights that are drawn
PACKAGED = {"mnist-cnn": "mnist-cnn-mnist.safetensors"}


def names(*, everything: bool = False) -> list[str]:
    """Return the names of the written-out rows.

    With `everything` also torchvision's and, where it is installed, timm's.
    """
    result = list(BACKBONES)
    if everything:
        result += [name for name in _torchvision_names() if name not in BACKBONES]
        with contextlib.suppress(ResourceError):
            result += [TIMM + name for name in _timm().list_models()]
    return result


def lookup(name: str) -> BackboneRow:
    """Return the row of a name, in any case.

    A row is created if torchvision or timm know the name. Raises UnknownNameError.
    """
    key = name.strip().lower()
    if key in BACKBONES:
        return BACKBONES[key]
    if key.startswith(TIMM):
        return _timm_row(key.removeprefix(TIMM))
    if key in _torchvision_names():
        return _torchvision_row(key)
    raise UnknownNameError(
        "backbone",
        name,
        names() + _torchvision_names(),
        remedy="timm's models are named timm:<name>",
    )


def name_of(row: BackboneRow) -> str:
    """Return the name by which `lookup` finds a row again."""
    own = [
        name
        for name, known in BACKBONES.items()
        if (known.family, known.model, known.head) == (row.family, row.model, row.head)
    ]
    if own:
        return own[0]
    return TIMM + row.model if row.family == "timm" else row.model


def load(  # noqa: PLR0913 — which network, and by name which weights it gets
    name: str,
    *,
    weights: str | Path | None,
    classes: int | None,
    head: str = "auto",
    seed: int,
    source: str | None = None,
    input_size: int | None = None,
    sha256: str | None = None,
    unused: Sequence[str] = (),
) -> Network:
    """Load the network `name` for `classes` classes, in evaluation mode.

    classes None: as many as the head of the weights has.

    weights     None: random; "default": the row's own; else a weight file, read through the safe
                door
    head        a row of HEADS, or "auto". Random weights with a linear head start as the network
                itself starts;
                any other fresh head is Glorot-uniform with zero biases
    seed        of what is random; the global random state is not touched
    source      what the weights were trained on; for "default" it must be what they were trained on
    input_size  pixels; a transformer made for one size is built for this one, its positions
                interpolated
    sha256      what `digest` gave when a study was planned: IntegrityError if the weights are
                others by now; "": not checked
    unused      modules that nothing is taken from: a weight file may lack their tensors
    """
    from . import chopped, heads, network
    from .weights import promises

    row = lookup(name)
    row = replace(row, input_size=input_size or row.input_size)
    head = row.head if head == "auto" else head
    if head not in heads.HEADS:
        raise UnknownNameError("head", head, ["auto", *heads.HEADS])
    path = _file(row, weights, source)
    promised = sha256 or None
    if promised is not None and (path is None) != (promised == RANDOM):
        raise IntegrityError(
            "weights-sha256",
            f"the weights are {weights or RANDOM}",
            expected=promised,
            remedy=promises.RERUN,
        )
    if weights not in (None, "default") and path is not None and chopped.is_recorded(path):
        return chopped.backbone(
            path, name, classes, head=head, seed=seed, input_size=input_size, sha256=promised
        )
    as_given = classes is None
    if classes is None:
        classes = _outputs(row, path, promised) if path is not None else row.classes
    if classes < 1:
        raise UsageError(
            "classes", f"{counted(classes, 'class', 'classes')}", expected="at least 1"
        )
    own_head = weights is None and head in ("linear", "keep")
    is_keras = path is not None and path.suffix in (".h5", ".hdf5")  # its head is not looked at
    as_asked = own_head or as_given or (is_keras and head == "keep")
    net = network.build(row, classes if as_asked else row.classes or classes, seed)
    names_of_head = network.head_of(net, row)
    match, notes, digest_read = None, [], RANDOM
    if path is not None:
        replaced = () if head == "keep" else heads.replaced(net, names_of_head, head)
        row, match, weights_read = _fill(net, row, path, (*replaced, *unused), promised)
        notes, digest_read = weights_read.notes, weights_read.sha256
    if not own_head:
        names_of_head = heads.HEADS[head](
            net, names_of_head, classes, network.generator(seed, "head")
        )
    return network.Network(net, row, names_of_head, match=match, notes=notes, weights=digest_read)


def meta_model(name: str, head: str = "auto") -> Network:
    """Return the network of `name` without numbers, for its blocks, layers and sizes.

    Takes no memory and fetches nothing.
    """
    from . import network

    with network.meta_device():
        return load(name, weights=None, classes=max(1, lookup(name).classes), head=head, seed=0)


def digest(name: str, weights: str | Path | None, source: str | None = None) -> str:
    """Return what identifies the weights: "random", or the SHA-256 (hex) of their file."""
    from .weights import promises

    path = _file(lookup(name), weights, source)
    if path is None:
        return RANDOM
    with promises.permitted(path):
        if not path.is_file():
            raise MissingError("weight file", path)
        return promises.check(path)


def default_file(row: BackboneRow, source: str | None = None) -> Path:
    """Return the file of a row's own weights, fetched if need be.

    Raises MissingError, ResourceError or UnknownNameError (of a source).
    """
    from . import sources
    from .weights.given import where_published

    remedy = "give a file: --model /path/to/weights.pth"
    if not row.weights:
        raise MissingError(
            f"weights of {row.title} that come with it", made_by="--model /path/to/weights.pth"
        )
    if source is not None and source.lower() != row.source.lower():
        origin = where_published(row.model, source)
        remedy = f"for weights from elsewhere {remedy}" + (f". {origin}" if origin else "")
        raise UnknownNameError("source", source, [row.source], remedy=remedy)
    if row.weights == "packaged":
        return sources.packaged(PACKAGED[row.model])
    if row.weights == "offline":
        return sources.offline_efficientnet()
    return (
        sources.torchvision_file(row.model)
        if row.weights == "torchvision"
        else sources.timm_file(row.model)
    )


def _file(row: BackboneRow, weights: str | Path | None, source: str | None) -> Path | None:
    if weights is None:
        return None
    return default_file(row, source) if weights == "default" else Path(weights)


def _outputs(row: BackboneRow, path: Path, sha256: str | None) -> int:
    """Return the number of classes of the head in a weight file.

    The row's number where the file has no head of that name.
    """
    from . import network
    from .weights import reader as weights_reader

    with network.meta_device():
        net = network.build(row, max(1, row.classes), 0)
        names = [f"{name}.weight" for name in network.head_of(net, row)]
    if path.suffix == ".h5":
        return row.classes
    tensors = weights_reader.read(path, sha256=sha256, like=net)
    shapes = [tuple(tensors[name].shape) for name in names if name in tensors]
    return int(shapes[-1][0]) if shapes else row.classes


def named(
    net: nn.Module, row: BackboneRow, path: Path, sha256: str | None = None
) -> tuple[Weights, BackboneRow]:
    """Return a file's weights under the names of `net`, and the adapted row.

    `net` is adapted where Keras' networks differ; Keras' weights need another normalisation.
    """
    from . import mobilenet_v1, positions, sources
    from .weights import keras as weights_keras
    from .weights import reader as weights_reader

    tensors = weights_reader.read(path, sha256=sha256, like=net)
    if tensors.kind == "keras" and row.model.startswith("mobilenet-v1"):
        return mobilenet_v1.from_keras(tensors), row  # it sees −1 to 1, as the row says
    if tensors.kind == "keras":
        return weights_keras.translated(tensors, net, row.model), replace(
            row, mean=weights_keras.MEAN, std=weights_keras.STD
        )
    if path.name == sources.OFFLINE_FILE:
        return sources.in_order(tensors, net), row
    return positions.resized(tensors, net), row


def _fill(
    net: nn.Module, row: BackboneRow, path: Path, replaced: tuple[str, ...], sha256: str | None
) -> tuple[BackboneRow, WeightMatch, Weights]:
    """Copy a file's weights into the network; return the adapted row, the match, the weights."""
    from .weights import reader as weights_reader

    tensors, row = named(net, row, path, sha256)
    try:
        match = weights_reader.load_into(net, tensors, ignore=replaced)
    except BadDataError as error:
        error.where = error.where or str(path)
        raise
    return row, match, tensors


# ---------------------------------------------------------------- rows created on first use


def _torchvision_names() -> list[str]:
    from torchvision import models

    result: list[str] = models.list_models(module=models)
    return result


def _torchvision_row(name: str) -> BackboneRow:
    from torchvision import models

    best = models.get_model_weights(name).DEFAULT
    view = best.transforms()
    published = best.meta.get("_metrics", {}).get("ImageNet-1K", {}).get("acc@1")
    return BackboneRow(
        title=name,
        model=name,
        input_size=view.crop_size[0],
        mean=tuple(view.mean),
        std=tuple(view.std),
        top1=None if published is None else round(published / 100.0, 5),
    )


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise ResourceError(
            "package-missing", "timm is not installed", remedy="pip install 'tlx[timm]'"
        ) from error
    return timm


def _timm_row(name: str) -> BackboneRow:
    timm = _timm()
    if not timm.is_model(name.partition(".")[0]):
        raise UnknownNameError("timm model", name, timm.list_models())
    row = timm.get_pretrained_cfg(name, allow_unregistered=False) or timm.get_pretrained_cfg(
        name.partition(".")[0]
    )
    mean, std = tuple(row.mean), tuple(row.std)
    return BackboneRow(
        title=name,
        family="timm",
        model=name,
        input_size=row.input_size[1],
        mean=mean,
        std=std,
        classes=row.num_classes,
        source=(row.tag or "").split("_")[-1] or "timm",
        weights="timm",
    )
