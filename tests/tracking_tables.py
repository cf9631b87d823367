"""Tables of a new tracking database from a copy: MLflow makes them by 67 migrations, in seconds.

Programs that the tests start cold (see processes.py) make them as MLflow does.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.abc
import importlib.util
import os
import sqlite3
import sys
from pathlib import Path

TEMPLATE = "TLX_TEST_TABLES"  # variable: a file with the tables, made when it is first needed
MODULE = "mlflow.store.db.utils"


def copy_them() -> None:
    """Have this process copy the tables of new SQLite databases, from when MLflow is loaded."""
    if MODULE in sys.modules:
        _patch(sys.modules[MODULE])
    else:
        sys.meta_path.insert(0, WhenLoaded())


class WhenLoaded(importlib.abc.MetaPathFinder):
    """Finder of modules that patches the one of MLflow's tables once it is executed."""

    def find_spec(self, fullname, path=None, target=None):
        """Return the ordinary spec of that module, with a loader that patches it."""
        if fullname != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        execute = spec.loader.exec_module

        def exec_module(module) -> None:
            execute(module)
            _patch(module)

        spec.loader.exec_module = exec_module
        return spec


def _patch(utils) -> None:
    import sqlalchemy

    template, migrate = Path(os.environ[TEMPLATE]), utils._initialize_tables

    def initialize(engine) -> None:
        """Give a database without tables those of MLflow."""
        if engine.dialect.name != "sqlite" or not engine.url.database:
            migrate(engine)
            return
        with open(f"{template}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not template.exists():
                whole = template.with_suffix(".new")
                whole.unlink(missing_ok=True)
                fresh = sqlalchemy.create_engine(f"sqlite:///{whole}")
                migrate(fresh)
                fresh.dispose()
                whole.replace(template)
        own = engine.raw_connection()
        with contextlib.closing(own), contextlib.closing(sqlite3.connect(template)) as given:
            given.backup(own.driver_connection)

    utils._initialize_tables = initialize
