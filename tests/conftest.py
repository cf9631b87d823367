"""What every test shares: one thread, a private cache, no terminal, the real data where it is."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MPLBACKEND", "agg")
for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "TLX_STORE"):
    os.environ.pop(name, None)

import pytest

REAL_DATA = Path(os.environ.get("TLX_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets: $TLX_TEST_DATA, or shared/data beside the checkout."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"the real data is not here ({REAL_DATA}); set TLX_TEST_DATA to its folder")
    return REAL_DATA


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """One cache for the session, so that a data set is materialised once."""
    return tmp_path_factory.mktemp("cache")
