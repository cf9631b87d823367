"""Inspection of a weight file before anything parses it: no byte is unpickled here."""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from pathlib import Path

from ... import files
from ...errors import BadDataError, IntegrityError, UnsafeError

MOST_ENTRIES = 10_000
LARGEST_HEADER = 8 << 20  # bytes of a safetensors header
MOST_TENSORS = 100_000
LARGEST_PICKLE = 64 << 20  # bytes of the pickle inside; the numbers are outside it
PLAIN = re.compile(
    r"collections\.OrderedDict|torch\.(\w+Storage|Size|device|\w*float\w*|\w*int\w*|bool)"
    r"|torch\.(_utils|_tensor|storage)\.\w+|torch\.nn\.parameter\.Parameter"
)


def inspect(path: Path) -> tuple[str, ...]:
    """Return the globals that its pickles name, as "module.name".

    Raises what the archive itself is refused for.
    """
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return _globals_of_stream(path)
    try:
        with zipfile.ZipFile(path) as archive:
            _check_entries(archive, path)
            pickles = [i for i in archive.infolist() if i.filename.endswith(".pkl")]
            names = {name for i in pickles for name in _globals(archive.read(i))}
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, OverflowError) as error:
        raise BadDataError(
            "weights-truncated",
            f"the zip archive is cut short or damaged; {path.stat().st_size:,} bytes ({error})",
            where=path,
            expected="a whole file of torch.save",
        ) from error
    return tuple(sorted(names))


def foreign(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the globals that plain tensors do not need."""
    return tuple(n for n in names if not PLAIN.fullmatch(n))


def _check_entries(archive: zipfile.ZipFile, path: Path) -> None:
    rows = archive.infolist()
    names = [row.filename for row in rows]
    if len(rows) > MOST_ENTRIES:
        raise UnsafeError(
            "weights-entries",
            f"{len(rows):,} entries in the archive",
            where=path,
            expected=f"at most {MOST_ENTRIES:,}",
        )
    if any(name.split("/", 1)[-1] == "constants.pkl" or "/code/" in f"/{name}" for name in names):
        raise UnsafeError(
            "weights-program",
            "a TorchScript archive: a program, not weights",
            where=path,
            remedy="load it with a PyTorch you trust and save its state_dict",
        )
    if sum(name.split("/")[-1] == "data.pkl" for name in names) > 1 or len(set(names)) < len(names):
        raise UnsafeError("weights-entries", "two entries of one name in the archive", where=path)
    if packed := [row.filename for row in rows if row.compress_type != zipfile.ZIP_STORED]:
        raise UnsafeError(
            "weights-compressed",
            f"compressed entry '{packed[0]}'",
            where=path,
            expected="entries stored as they are, as torch.save writes them",
        )
    if sum(row.file_size for row in rows) > path.stat().st_size:
        raise UnsafeError(
            "weights-entries", "entries that are larger together than the file", where=path
        )
    if not any(name.endswith("data.pkl") for name in names):
        raise BadDataError("weights-not-weights", "a zip archive without a state_dict", where=path)
    if any(row.filename.endswith(".pkl") and row.file_size > LARGEST_PICKLE for row in rows):
        raise UnsafeError(
            "weights-entries",
            "a pickle too large for names and shapes",
            where=path,
            expected=f"at most {LARGEST_PICKLE:,} bytes",
        )
    if (damaged := archive.testzip()) is not None:
        raise IntegrityError(
            "weights-crc",
            f"entry '{damaged}' does not match its CRC-32",
            where=path,
            remedy="fetch the file again",
        )


def _globals_of_stream(path: Path) -> tuple[str, ...]:
    """Return the globals of the pickles that a file of PyTorch before 1.6 begins with."""
    names: set[str] = set()
    with open(path, "rb") as file:
        for _ in range(5):  # magic number, protocol, system, content, storage keys
            if not (part := _globals(file)):
                part = []
            names.update(part)
    return tuple(sorted(names))


def _globals(source: bytes | io.BufferedReader) -> list[str]:
    """Return the globals that one pickle names.

    Reading stops quietly where it stops being a pickle.
    """
    names, texts = [], [""]
    try:
        for opcode, argument, _ in pickletools.genops(source):
            if opcode.name in ("GLOBAL", "INST"):
                names.append(str(argument).replace(" ", "."))
            elif opcode.name == "STACK_GLOBAL":
                names.append(".".join(texts[-2:]))
            elif isinstance(argument, str):
                texts.append(argument)
    except (ValueError, EOFError, IndexError, OverflowError):
        pass
    return names


def safetensors_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file after a check of its header."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > LARGEST_HEADER:
            raise BadDataError(
                "weights-header",
                f"a header of {length:,} bytes",
                where=path,
                expected=f"at most {LARGEST_HEADER:,}",
            )
        text = file.read(length)
    if len(text) < length:
        raise BadDataError(
            "weights-truncated", f"{size:,} bytes", where=path, expected=f"at least {8 + length:,}"
        )
    header = files.parse_json(text, where=path)
    rows = (
        {k: v for k, v in header.items() if k != "__metadata__"} if isinstance(header, dict) else {}
    )
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise BadDataError("weights-header", "metadata that is not text", where=path)
    if len(rows) > MOST_TENSORS:
        raise BadDataError(
            "weights-header",
            f"{len(rows):,} tensors",
            where=path,
            expected=f"at most {MOST_TENSORS:,}",
        )
    try:
        need = 8 + length + max((int(row["data_offsets"][1]) for row in rows.values()), default=0)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise BadDataError(
            "weights-header", f"a tensor without its place ({error})", where=path
        ) from error
    if size < need:
        raise BadDataError("weights-truncated", f"{size:,} bytes", where=path, expected=f"{need:,}")
    return metadata
