"""Safe reader of weights: it returns numbers and names, never a program.

`read` looks at the content before anything parses it, refuses what could run code, and checks that
every number is finite. `load_into` puts tensors into a network by name and stops when too few fit.
`write` leaves safetensors behind, durably.
"""

from __future__ import annotations

import contextlib
import json
import math
import pickle
import shlex
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import safetensors.torch
import torch
from torch import nn

from ... import files
from ...errors import (
    BadDataError,
    IntegrityError,
    MissingError,
    ResourceError,
    UnsafeError,
    raise_all,
)
from . import archives as weights_archives
from . import hdf5 as weights_hdf5
from . import promises, wrappings
from .container import Weights
from .matching import WeightMatch, load_into
from .promises import permitted

__all__ = ["WeightMatch", "Weights", "load_into", "read", "write"]

LARGEST = 8 << 30  # bytes of a weight file
FORMATS = {  # what the content is → the endings that say so
    "safetensors": (".safetensors",),
    "zip": (".pth", ".pt", ".th", ".bin", ".ckpt", ".tar"),
    "pickle": (".pth", ".pt", ".th", ".bin", ".ckpt", ".tar"),
    "tar": (".pth", ".pt", ".th", ".bin", ".ckpt", ".tar"),
    "hdf5": (".h5", ".hdf5"),
}


def read(path: str | Path, *, sha256: str | None = None, like: nn.Module | None = None) -> Weights:
    """Read the tensors of a weight file, with notes on what was done.

    name → float32 (or integer) tensor on the CPU.

    .safetensors, .pth .pt .th .bin .ckpt (a state_dict, plain or wrapped: see wrappings), .h5 .hdf5
    (Keras weights; kernels come turned to PyTorch's layout). Raises MissingError, BadDataError
    (unreadable, not weights, NaN), UnsafeError (it holds a program, or reaches for other files),
    ResourceError (too large), IntegrityError (a checksum does not match). sha256: what the file
    must be, e.g. what a trial's identity promises. The record that `tlx pretrain --out` or `tlx
    chop --out` wrote with a file is checked as well. The digest of what was read is in
    `Weights.sha256`. like: the network that the weights are for; of several state_dicts and
    prefixes those are taken that fit it best.
    """
    path = Path(path)
    with permitted(path):
        return _read(path, sha256, like)


def _read(path: Path, sha256: str | None, like: nn.Module | None) -> Weights:
    content = _looked_at(path)
    before = _fingerprint(path)
    digest = promises.check(path, sha256)
    weights = _opened(content, path, None if like is None else like.state_dict())
    if not weights:
        raise BadDataError(
            "weights-empty", "it holds no tensors", where=path, expected="a state_dict"
        )
    if _fingerprint(path) != before:
        raise IntegrityError(
            "weights-changed",
            "the file was replaced while it was read",
            where=path,
            expected=f"SHA-256 {digest}",
            remedy="run the command again once nothing writes to it",
        )
    weights.sha256 = digest
    return _checked(weights, path)


def _opened(content: str, path: Path, like: Mapping[str, torch.Tensor] | None) -> Weights:
    """Return the tensors of a file of this kind, without containers and prefixes of wrappers."""
    if content == "hdf5":
        return weights_hdf5.read(path)
    readers = {"safetensors": _safetensors, "zip": _torch, "pickle": _torch, "tar": _tar}
    tensors, metadata = readers[content](path)
    opened, notes = wrappings.opened(tensors, like)
    return Weights(opened, notes=notes, metadata=metadata)


def _fingerprint(path: Path) -> tuple[int, ...]:
    """Return a value that changes when a file is written to or replaced."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def write(
    path: str | Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors durably as safetensors.

    The same tensors and metadata give the same bytes.
    """
    whole = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    data = safetensors.torch.save(whole)
    if metadata:  # put in here, because the library's order of metadata is not the same twice
        length = int.from_bytes(data[:8], "little")
        header = {
            "__metadata__": dict(sorted(metadata.items())),
            **json.loads(data[8 : 8 + length]),
        }
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        data = len(text).to_bytes(8, "little") + text + data[8 + length :]
    files.write_bytes(Path(path), data)


# ---------------------------------------------------------------- what is it?


def available_bytes() -> int:
    """Return the memory available without swapping, in bytes."""
    available: int = psutil.virtual_memory().available
    return available


def _looked_at(path: Path) -> str:
    """Return the file's kind, by its first bytes; refuse what cannot be weights."""
    if not path.exists():
        near = (
            [p.name for p in path.parent.glob("*") if p.suffix == path.suffix]
            if path.parent.is_dir()
            else []
        )
        hint = f"; in its folder: {', '.join(sorted(near)[:5])}" if near else ""
        raise MissingError(f"weight file (asked from {Path.cwd()}{hint})", path)
    if not path.is_file():
        what = "it is a directory" if path.is_dir() else "it is no regular file"
        raise BadDataError("weights-not-a-file", what, where=path, expected="a weight file")
    size = path.stat().st_size
    if size == 0:
        raise BadDataError(
            "weights-empty", "empty file (0 bytes)", where=path, expected="a weight file"
        )
    if size > LARGEST or size > available_bytes():
        raise ResourceError(
            "weights-size",
            f"needs {size:,} bytes of memory; {available_bytes():,} available",
            where=path,
            expected=f"at most {LARGEST:,} bytes, and what memory holds",
        )
    with open(path, "rb") as file:
        start = file.read(512)
    content = _content(start, size)
    if content not in FORMATS:
        raise BadDataError(
            "weights-not-weights",
            f"{content}, {size:,} bytes" + _remedy_inside(content),
            where=path,
            expected=".safetensors, .pth/.pt/.th or .h5 weights",
        )
    if path.suffix.lower() not in FORMATS[content]:
        raise BadDataError(
            "weights-extension",
            f"the ending is '{path.suffix}' and the content is {content}",
            where=path,
            expected=f"for this content one of {', '.join(FORMATS[content])}",
        )
    return content


MARKS = (  # format, offset, what stands there in one of its files; the first that fits
    ("a Git-LFS pointer", 0, (b"version https://git-lfs",)),
    ("hdf5", 0, (b"\x89HDF\r\n\x1a\n",)),
    ("zip", 0, (b"PK\x03\x04",)),
    ("tar", 257, (b"ustar",)),
    ("safetensors", 8, (b"{",)),
    ("pickle", 0, (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")),
)


def _content(start: bytes, size: int) -> str:
    for form, offset, marks in MARKS:
        if any(start[offset:].startswith(mark) for mark in marks):
            return form
    text = start.decode("utf-8", "ignore").strip()
    if text.startswith("<"):
        return "an HTML or XML page, perhaps of a failed download"
    if text and sum(c.isprintable() or c.isspace() for c in text) > 0.95 * len(start):
        return f"text that begins '{text[:40]}'"
    return f"not a format of weights (it begins {start[:8].hex(' ')})"


def _remedy_inside(content: str) -> str:
    return ": run git lfs pull" if "LFS" in content else ""


# ---------------------------------------------------------------- safetensors

Read = tuple[Mapping[Any, Any], dict[str, str]]  # what a file holds, and its metadata


def _safetensors(path: Path) -> Read:
    metadata = weights_archives.safetensors_metadata(path)  # the library is asked only after it
    try:
        tensors = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise BadDataError(
            "weights-damaged", f"not whole safetensors: {error}", where=path
        ) from error
    return tensors, metadata


# ---------------------------------------------------------------- torch.save


def _tar(path: Path) -> Read:
    raise UnsafeError(
        "weights-tar",
        "a tar archive, the form of PyTorch before 0.1.10, cannot be read without running it",
        where=path,
        remedy="load it with a PyTorch you trust and save its state_dict anew",
    )


def _torch(path: Path) -> Read:
    names = weights_archives.inspect(path)
    try:
        with _no_added_globals(), warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # what old files make PyTorch say is not the user's to mend
            content = torch.load(path, weights_only=True, map_location="cpu")
    except MemoryError as error:
        raise ResourceError("weights-memory", "not enough memory to read it", where=path) from error
    except (
        Exception
    ) as error:  # the parser meets arbitrary bytes; whatever it says, the file is not whole
        if weights_archives.foreign(names) or (
            isinstance(error, pickle.UnpicklingError) and "nsupported" in str(error)
        ):
            raise _refused(path, names) from error
        size = path.stat().st_size
        raise BadDataError(
            "weights-damaged",
            f"cut short or damaged; {size:,} bytes ({_first_line(error)})",
            where=path,
            expected="a whole file of torch.save",
        ) from error
    if not isinstance(content, Mapping):
        raise BadDataError(
            "weights-not-weights",
            f"it holds a {type(content).__name__}",
            where=path,
            expected="a state_dict: names and tensors",
        )
    return content, {}


def _refused(path: Path, names: tuple[str, ...]) -> UnsafeError:
    unknown = weights_archives.foreign(names) or names
    remedy = "refused; convert with a trusted tool: torch.save(model.state_dict(), 'weights.pth')"
    if any(name.startswith("torch.nn.modules.") for name in names):
        remedy += (
            "; this is a whole module: where the code of its class can be imported, and if you "
            f"trust whoever made it, {resaving(path)}"
        )
    what = (
        f"a pickle that would run code: {', '.join(unknown[:8])}"
        if unknown
        else "a pickle with more than tensors in it"
    )
    return UnsafeError(
        "weights-code",
        what,
        where=path,
        expected="a state_dict: names and tensors only",
        remedy=remedy,
    )


def resaving(path: Path) -> str:
    """Return the command that writes the tensors of a pickled module beside it."""
    target = path.with_name(f"{path.stem}-state.pth")
    script = (
        f"import torch; m = torch.load({str(path)!r}, map_location='cpu', weights_only=False); "
        f"torch.save(m.state_dict(), {str(target)!r})"
    )
    is_plain = not set(script) & set('"$`\\!')
    return f'python -c "{script}"' if is_plain else f"python -c {shlex.quote(script)}"


@contextlib.contextmanager
def _no_added_globals() -> Iterator[None]:
    """Ignore what other code in this process has declared safe to unpickle."""
    added = list(torch.serialization.get_safe_globals())
    torch.serialization.clear_safe_globals()
    try:
        yield
    finally:
        torch.serialization.add_safe_globals(added)


def _first_line(error: Exception) -> str:
    if "weights only" in str(error).lower() or "weights_only" in str(
        error
    ):  # it continues with advice for the unsafe way
        return "it is no whole pickle of plain tensors"
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


# ---------------------------------------------------------------- are the numbers sound?

WIDE = (torch.float16, torch.bfloat16, torch.float64)
WHOLE = (torch.int32, torch.int64, torch.bool)  # counters, index tables and masks


def _checked(weights: Weights, path: Path) -> Weights:
    """Return the weights in float32.

    Raises BadDataError for every tensor that is no plain, finite array of a known type.
    """
    problems = [p for name, t in weights.items() for p in _form_problems(name, t, path)]
    logical = sum(t.numel() * t.element_size() for t in weights.values())
    if not problems and logical > 4 * path.stat().st_size + (1 << 20) and weights.kind != "keras":
        problems.append(
            BadDataError(
                "weights-inflated",
                f"tensors of {logical:,} bytes in {path.stat().st_size:,}",
                where=path,
            )
        )
    raise_all(problems)
    for name, given in list(weights.items()):
        t = given
        if given.dtype in WIDE:
            weights.note(f"{str(given.dtype).removeprefix('torch.')} made float32")
            weights[name] = t = given.float()
        if t.is_floating_point() and (bad := t.numel() - int(torch.isfinite(t).sum())):
            what = f"'{name}' has {bad:,} of {t.numel():,} values NaN or infinite"
            problems.append(BadDataError("weights-not-finite", what, where=path))
        elif (
            name.endswith("weight")
            and t.ndim > 1
            and t.numel() > 1
            and bool((t == t.flatten()[0]).all())
        ):
            weights.note(f"warning: '{name}' is {float(t.flatten()[0]):g} throughout")
    raise_all(problems)
    return weights


def _form_problems(name: str, t: torch.Tensor, path: Path) -> Iterator[BadDataError]:
    if t.layout != torch.strided or t.device.type != "cpu" or t.is_quantized:
        yield BadDataError(
            "weights-form",
            f"'{name}' is {t.layout} on {t.device}",
            where=path,
            expected="a plain array",
        )
    elif t.dtype not in (torch.float32, *WIDE, *WHOLE):
        kind = str(t.dtype).removeprefix("torch.")
        yield BadDataError(
            "weights-dtype",
            f"'{name}' is {kind}",
            where=path,
            expected="float32, float16, bfloat16 or float64; quantised weights are not read",
        )
    elif math.prod(t.shape) * t.element_size() > t.untyped_storage().nbytes():
        what = f"'{name}' of shape {tuple(t.shape)} shows few numbers many times"
        yield BadDataError("weights-inflated", what, where=path)
