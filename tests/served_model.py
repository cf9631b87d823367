"""`mlflow models serve` of an exported model, as a context manager, and a request to it."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

READY_S = 240  # seconds until a server that is not up counts as one that never will be


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@contextlib.contextmanager
def serving(python: Path, model: Path, **environment: str) -> Iterator[int]:
    """Serve an MLflow model with the mlflow of an interpreter's environment; give the port.

    environment  further variables of the server
    """
    port, programs = free_port(), Path(tempfile.mkdtemp())
    shim = programs / "uvicorn"  # which mlflow starts by its name, for where it is not on the path
    shim.write_text(f'#!/bin/sh\nexec "{python}" -m uvicorn "$@"\n')
    shim.chmod(0o755)
    path = os.pathsep.join([str(python.parent), str(programs), os.environ.get("PATH", "")])
    words = ["-m", "mlflow", "models", "serve", "-m", str(model), "--env-manager", "local"]
    log = programs / "log"
    with open(log, "wb") as out:
        server = subprocess.Popen(
            [str(python), *words, "--port", str(port)],
            env=os.environ | {"PATH": path, **environment},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # it starts processes of its own
        )
    try:
        _wait(server, port, log)
        yield port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        shutil.rmtree(programs)


def _wait(server: subprocess.Popen, port: int, log: Path) -> None:
    """Wait until the server answers; RuntimeError with its words if it ends or never does."""
    pause = threading.Event()
    for _ in range(4 * READY_S):
        with contextlib.suppress(OSError):
            if _answer(port, "GET", "/ping")[0] == 200:
                return
        if server.poll() is not None:
            break
        pause.wait(0.25)
    raise RuntimeError(f"no server: {log.read_text(errors='replace')[-2000:]}")


def _answer(port: int, method: str, path: str, body: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    with contextlib.closing(connection):
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read().decode()


def ask(port: int, photos: Sequence[Path]) -> tuple[int, str]:
    """Return the status and the text that a server answers to photos."""
    rows = [[base64.b64encode(photo.read_bytes()).decode()] for photo in photos]
    body = json.dumps({"dataframe_split": {"columns": ["image"], "data": rows}})
    return _answer(port, "POST", "/invocations", body)


def labels_of(port: int, photos: Sequence[Path]) -> list[dict[str, object]]:
    """Return label and probabilities that a server gives each photo."""
    status, text = ask(port, photos)
    if status != 200:
        raise RuntimeError(f"status {status}: {text[:2000]}")
    predictions: list[dict[str, object]] = json.loads(text)["predictions"]
    return predictions
