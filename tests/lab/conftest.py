"""One empty tracking database a session, copied for each test; one tracking server, behind a proxy
that fails.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tlx.lab.tracking import api as tracking_api


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    target = tracking_api.resolve(str(tmp_path_factory.mktemp("store") / "mlflow.db"), {})
    tracking_api.prepare(target)
    return target.database


@pytest.fixture
def local(empty_database, tmp_path):
    """A local tracking store of this test alone."""
    folder = tmp_path / "local"
    folder.mkdir()
    shutil.copy(empty_database, folder / "mlflow.db")
    return tracking_api.resolve(str(folder / "mlflow.db"), {})


class Server:
    """A real `mlflow server` that can be stopped and started again on its port."""

    def __init__(self, folder: Path):
        self.folder, self.process = folder, None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "-w",
            "1",
            "--backend-store-uri",
            f"sqlite:///{self.folder}/mlflow.db",
            "--artifacts-destination",
            str(self.folder / "artifacts"),
        ]
        environ = {
            **os.environ,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                command, env=environ, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + 90
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2):
                    return
            except OSError:
                if time.monotonic() > end or self.process.poll() is not None:
                    pytest.fail((self.folder / "log").read_text()[-3000:])
                time.sleep(0.1)

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="session")
def server(empty_database, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_database, folder / "mlflow.db")
    made = Server(folder)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def proxy(server):
    from lab.faults import Proxy

    with Proxy(server.port) as made:
        yield made
