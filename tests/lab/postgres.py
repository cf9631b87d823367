"""A PostgreSQL server of a test's own: Debian's package, an unprivileged user, a folder that goes
away.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

BIN = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
USER = "postgres"


def missing() -> str:
    """Why there is none; "" if there is."""
    if BIN is None or not (BIN / "initdb").exists():
        return "PostgreSQL is not installed (apt-get install postgresql)"
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "psycopg is not installed (pip install 'tlx[postgresql]')"
    return ""


class Server:
    """Started in its block; `url` is what Optuna takes. Its password is asked for."""

    def __enter__(self) -> Server:
        self.folder = Path(tempfile.mkdtemp(prefix="tlx-postgres-"))
        self.identity = {}
        if os.geteuid() == 0:  # the server refuses to run as root
            row = pwd.getpwnam(USER)
            os.chown(self.folder, row.pw_uid, row.pw_gid)
            self.identity = {"user": row.pw_uid, "group": row.pw_gid, "extra_groups": []}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        secret = self.folder / "secret"
        secret.write_text("s3cr3t\n")
        secret.chmod(0o644)
        self._run(
            "initdb",
            "-D",
            self.folder / "data",
            "-U",
            "tlx",
            "-A",
            "scram-sha-256",
            f"--pwfile={secret}",
            "--no-sync",
            "-E",
            "UTF8",
        )
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._run(
            "pg_ctl",
            "-D",
            self.folder / "data",
            "-l",
            self.folder / "log",
            "-w",
            "-o",
            options,
            "start",
        )
        self.url = f"postgresql+psycopg://tlx:s3cr3t@127.0.0.1:{self.port}/postgres"
        return self

    def __exit__(self, *_: object) -> None:
        self._run("pg_ctl", "-D", self.folder / "data", "-m", "immediate", "stop")
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, name: str, *words: object) -> None:
        done = subprocess.run(
            [str(BIN / name), *map(str, words)],
            cwd="/",
            capture_output=name != "pg_ctl",
            text=True,
            timeout=90,
            **self.identity,
        )
        assert done.returncode == 0, (done.stdout, done.stderr)
