"""Network: a module with numbered blocks, a named head and its input normalisation."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from .. import files
from ..errors import ResourceError, UsageError
from . import blocks
from .backbones import BackboneRow, lookup, name_of
from .blocks import Block
from .freezing import Freeze
from .mobilenet_v1 import MobileNetV1
from .quanta.cnn import QuantaCnn, QuantaCnn2020
from .small import CifarResNet, DenseNetwork, MnistCnn
from .weights.matching import WeightMatch

OWN: dict[str, Callable[[int], nn.Module]] = {
    "mnist-cnn": MnistCnn,
    "resnet20-cifar": CifarResNet,
    "mobilenet-v1": MobileNetV1,
    "dense-1333-200": DenseNetwork,
    "quanta-cnn": QuantaCnn,
    "quanta-cnn-2020": QuantaCnn2020,
    **{
        f"mobilenet-v1-{alpha}": functools.partial(MobileNetV1, alpha=alpha)
        for alpha in (0.75, 0.5, 0.25)
    },
}
AUXILIARY = (
    "googlenet",
    "inception_v3",
)  # they have side heads, and rescale the input for their own weights


class Network(nn.Module):
    """Backbone with its head.

    net          the whole module; names of blocks, layers and the head are names in it
    blocks       blocks 1…N in the order in which they run, without the head
    head_names   the modules of the head
    input_size   height and width in pixels; channels, mean, std: of the input, for values in 0-1
    match        how the loaded weights fitted, or None; notes: what was done to them, in words
    weights      SHA-256 of the file that was loaded, as `backbones.digest` gives it, or "random"
    hold         what `freezing.freeze` holds, also in training mode, or None

    x  (n, channels, input_size, input_size) float32, normalised  →  logits (n, classes) float32
    """

    def __init__(
        self,
        net: nn.Module,
        row: BackboneRow,
        head_names: tuple[str, ...],
        *,
        match: WeightMatch | None = None,
        notes: Sequence[str] = (),
        weights: str = "random",
    ):
        super().__init__()
        self.net, self.row, self.head_names = net, row, head_names
        self.input_size, self.channels, self.mean, self.std = (
            row.input_size,
            row.channels,
            row.mean,
            row.std,
        )
        self.match, self.notes, self.weights = match, tuple(notes), weights
        self.hold: Freeze | None = None
        self.order = _order(net, row)
        self.blocks = blocks.derive(net, head_names, self.order)
        names = list(net.named_parameters(remove_duplicate=False))
        self._shares = len(list(net.parameters())) < len(names)  # a parameter has two names

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, classes) of x (n, channels, input_size, input_size)."""
        result: torch.Tensor = self.net(x)
        return result

    def train(self, mode: bool = True) -> Network:
        """Set training or evaluation mode; what is frozen stays as `hold` says."""
        super().train(mode)
        if mode and self.hold is not None:
            self.hold.settle()
        return self

    def normalise(self, values: Sequence[float]) -> None:
        """Set mean and standard deviation of the input, the same for all channels; (): as it is."""
        if not values:
            return
        mean, std = values
        self.mean, self.std = (mean,) * self.channels, (std,) * self.channels

    @property
    def head(self) -> nn.Module:
        """Return the (first) module of the head."""
        return self.net.get_submodule(self.head_names[0])

    def layers(self) -> dict[str, nn.Module]:
        """Return every named module that runs, in the order in which it first runs."""
        return {name: self.net.get_submodule(name) for name in self.order if name}

    def tensors(self, block: Block) -> dict[str, torch.Tensor]:
        """Return parameters and buffers of one block, name in `net` → tensor.

        A tensor that blocks share belongs to the first one.
        """
        result = blocks.tensors(self.net, block)
        if not self._shares:
            return result
        earlier = {
            id(tensor)
            for other in self.blocks[: self.blocks.index(block)]
            for tensor in blocks.tensors(self.net, other).values()
        }
        return {name: tensor for name, tensor in result.items() if id(tensor) not in earlier}

    def end_of_block(self, number: int) -> str | None:
        """Return the module whose output ends a block, 1…N.

        It is the last to run of its modules; None if none runs by itself.
        """
        running = set(self.order)
        return next(
            (name for name in reversed(self.blocks[number - 1].modules) if name in running), None
        )


def build(row: BackboneRow, classes: int, seed: int) -> nn.Module:
    """Build the row's module with random weights.

    The same seed gives the same weights.
    """
    with _seeded(seed):
        if row.family == "own":
            return OWN[row.model](classes)
        try:
            return (
                _timm_module(row, classes)
                if row.family == "timm"
                else _torchvision_module(row, classes)
            )
        except (AssertionError, ValueError) as error:
            if row.input_size == _usual_size(row):
                raise
            raise _wrong_size(row, error) from error


def head_of(net: nn.Module, row: BackboneRow) -> tuple[str, ...]:
    """Return the layers that give the logits: the last dense layer or convolution that runs."""
    config = getattr(net, "default_cfg", None) or {}
    if row.family == "timm" and (named := config.get("classifier")):
        return (named,) if isinstance(named, str) else tuple(named)
    modules = dict(net.named_modules())
    last = [name for name in _order(net, row) if isinstance(modules[name], (nn.Linear, nn.Conv2d))]
    return (last[-1],)


def generator(seed: int, *purpose: str) -> torch.Generator:
    """Return an independent stream of random numbers for each purpose."""
    words = hashlib.sha256(files.canonical_json([seed, *purpose])).digest()
    return torch.Generator().manual_seed(int.from_bytes(words[:8], "little") >> 1)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the CPU's random numbers inside, and restore them afterwards."""
    state = torch.get_rng_state()
    torch.default_generator.set_state(generator(seed, "weights").get_state())
    try:
        yield
    finally:
        torch.set_rng_state(state)


class _Nowhere(TorchFunctionMode):
    """Mode in which arrays to be filled later have shapes only.

    Arrays that a constructor computes with are left alone.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.empty, torch.zeros, torch.ones):
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def meta_device() -> TorchFunctionMode:
    """Return a context in which networks are built of shapes only."""
    return _Nowhere()


def _order(net: nn.Module, row: BackboneRow) -> tuple[str, ...]:
    try:
        return blocks.execution(net, (2, row.channels, row.input_size, row.input_size))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise _wrong_size(row, error) from error


def _wrong_size(row: BackboneRow, error: Exception) -> UsageError:
    reason = (str(error).splitlines() or ["it refuses"])[0]
    return UsageError(
        "input-size",
        f"{row.title} cannot take images of {row.input_size} pixels ({reason})",
        expected=f"its own size, {_usual_size(row)}, or one that its patches and windows divide",
    )


def _usual_size(row: BackboneRow) -> int:
    """Return the size that the row's model is built for, whatever size was requested."""
    return lookup(name_of(row)).input_size


def _torchvision_module(row: BackboneRow, classes: int) -> nn.Module:
    from torchvision import models

    options: dict[str, object] = {}
    if row.model in AUXILIARY:
        options = {"aux_logits": False, "init_weights": True, "transform_input": True}
    elif row.model.startswith("vit_"):
        options = {"image_size": row.input_size}  # its position embedding is made for one size
    elif row.model.startswith("maxvit"):
        options = {"input_size": (row.input_size, row.input_size)}
    result: nn.Module = models.get_model(row.model, weights=None, num_classes=classes, **options)
    return result


def _timm_module(row: BackboneRow, classes: int) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        extra = "offline" if row.weights == "offline" else "timm"
        raise ResourceError(
            "package-missing", "timm is not installed", remedy=f"pip install 'tlx[{extra}]'"
        ) from error
    if row.input_size != _usual_size(row):
        with contextlib.suppress(
            TypeError
        ):  # of a model that takes any size, and so has no such option
            net = timm.create_model(
                row.model, pretrained=False, num_classes=classes, img_size=row.input_size
            )
            patch, *_ = getattr(getattr(net, "patch_embed", None), "patch_size", None) or (1,)
            if row.input_size % patch:  # timm would leave the last pixels out
                raise ValueError(f"its patches have {patch} pixels")
            return net
    return timm.create_model(row.model, pretrained=False, num_classes=classes)
