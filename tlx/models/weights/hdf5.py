"""Keras weights from HDF5: the numbers only, after a check of the whole file.

The model in a full .h5 is not built.
"""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
import torch

from ... import files
from ...data.hdf5 import checked_datasets
from ...errors import BadDataError, TlxError
from .container import Weights

DEPTHWISE = re.compile(r"(^|_)(dw|depthwise)(_|\d|$)|depthwise_conv")  # names of depthwise layers

ROLES = {  # last name of a Keras variable → PyTorch's name
    "kernel": "weight",
    "W": "weight",
    "depthwise_kernel": "weight",
    "pointwise_kernel": "pointwise.weight",
    "gamma": "weight",
    "bias": "bias",
    "b": "bias",
    "beta": "bias",
    "moving_mean": "running_mean",
    "running_mean": "running_mean",
    "moving_variance": "running_var",
    "running_std": "running_var",
}
TURNS = {2: (1, 0), 3: (2, 1, 0), 4: (3, 2, 0, 1), 5: (4, 3, 0, 1, 2)}  # …, in, out → out, in, …


def read(path: Path) -> Weights:
    """Read `<layer>.weight`, `.bias`, `.running_mean`, `.running_var`.

    Kernels are transposed to (out, in, …).

    Raises UnsafeError for what reaches out of the file, BadDataError for a damaged file or one
    without layer names.
    """
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            datasets = checked_datasets(file, path, "weights-h5")
            return _weights(file, datasets, path)
    except (OSError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:160]
        raise BadDataError(
            "weights-damaged",
            f"damaged HDF5; {path.stat().st_size:,} bytes ({reason})",
            where=path,
            expected="a whole .h5 file",
        ) from error


def _weights(file: h5py.File, datasets: list[str], path: Path) -> Weights:
    weights, depthwise = Weights({}, kind="keras"), _depthwise_layers(file)
    whole_model = "model_weights" in file
    if whole_model:
        weights.note("a whole Keras model: only its weights are read")
        if "Lambda" in str(file.attrs.get("model_config", "")):
            weights.note("its Lambda layers are left out: they are programs")
    for name in datasets:
        if not whole_model or name.startswith("model_weights/"):
            key, tensor = _variable(name, file[name], path, depthwise)
            if key in weights:
                raise BadDataError(
                    "weights-names", f"two variables come to '{key}'", where=f"{path}:{name}"
                )
            if key:
                weights[key] = tensor
            else:
                weights.note(f"left out, no known kind of variable: '{name}'")
    return weights


def _depthwise_layers(file: h5py.File) -> set[str] | None:
    """Return the depthwise layers in the model's description; None where the file has none."""
    text = file.attrs.get("model_config")
    try:
        config = files.parse_json(
            text.encode() if isinstance(text, str) else bytes(text or b""), where=file.filename
        )
    except (TlxError, TypeError, ValueError):
        return None
    names: set[str] = set()
    pending: list[object] = [config]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending += item
        elif isinstance(item, dict):
            pending += item.values()
            inside = item.get("config")
            if str(item.get("class_name", "")).startswith("Depthwise") and isinstance(inside, dict):
                names.add(str(inside.get("name", "")))
    return names


def _is_depthwise(layer: str, known: set[str] | None) -> bool:
    """Return whether a layer is a depthwise convolution.

    By the model's description or else its name.
    """
    return layer in known if known is not None else DEPTHWISE.search(layer) is not None


def _variable(
    name: str, item: h5py.Dataset, path: Path, depthwise: set[str] | None
) -> tuple[str, torch.Tensor]:
    """Return PyTorch-like name and tensor of one Keras variable.

    The name is empty for a variable of no known role.

    The kernel of a depthwise layer is called depthwise_kernel up to Keras 2 and kernel from Keras 3
    on.
    """
    layer, last = (["", *name.split("/")])[-2:]
    if layer == "vars":
        raise BadDataError(
            "weights-names",
            f"'{name}': this .weights.h5 has numbers for layer names",
            where=path,
            remedy="save the weights in the older form: model.save_weights('weights.h5') "
            "of Keras 2",
        )
    if item.dtype.kind not in "fiu":
        raise BadDataError(
            "weights-dtype", f"'{name}' is {item.dtype}", where=path, expected="numbers"
        )
    role = re.sub(r"_\d+$", "", last.split(":")[0].removeprefix(layer + "_"))
    array = np.asarray(item[()])
    of_channels = role == "kernel" and array.ndim == 4 and _is_depthwise(layer, depthwise)
    if (
        role == "depthwise_kernel" or of_channels
    ):  # (h, w, in, multiplier) → (in·multiplier, 1, h, w)
        array = array.transpose(2, 3, 0, 1).reshape(-1, 1, *array.shape[:2])
    elif role in ("kernel", "W", "pointwise_kernel"):
        array = array.transpose(TURNS.get(array.ndim, range(array.ndim)))
    key = f"{layer}.{ROLES[role]}" if role in ROLES else ""
    return key, torch.from_numpy(np.ascontiguousarray(array))
