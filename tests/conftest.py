"""What every test shares: one thread, a private cache, no terminal, the real data where it is.

Tests run in several processes (pytest-xdist), a module in one of them. What is made once for all
processes is made in `shared_folder`, under a lock.
"""

from __future__ import annotations

import fcntl
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # in a shell's background; tests send it, programs inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MPLBACKEND", "agg")
for name in (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_RUN_ID",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_EXPERIMENT_NAME",
    "TLX_STORE",
):
    os.environ.pop(name, None)
# Whatever a test draws at random comes from this seed: TLX_TEST_SEED=… repeats a run
SEED = int(os.environ.setdefault("TLX_TEST_SEED", str(random.SystemRandom().randrange(10**6))))

import hypothesis  # noqa: E402 — libraries read the variables above when they are loaded
import pytest  # noqa: E402
import tracking_tables  # noqa: E402

hypothesis.settings.register_profile("any machine", deadline=None)  # however slow it is
hypothesis.settings.load_profile("any machine")

REAL_DATA = Path(
    os.environ.get("TLX_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
)


def pytest_report_header() -> str:
    """Say which seed this run has."""
    return f"TLX_TEST_SEED={SEED}"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items) -> None:
    """Of each test that is marked `sampled`, keep so many of its cases, drawn by the seed."""
    if os.environ.get("TLX_TEST_ALL"):
        return
    cases: dict[tuple[object, str], list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("sampled"):
            cases.setdefault((item.path, item.originalname), []).append(item)
    left_out: set[pytest.Item] = set()
    for (_, name), some in cases.items():
        (number,) = some[0].get_closest_marker("sampled").args
        left_out.update(random.Random(f"{SEED} {name}").sample(some, max(0, len(some) - number)))
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=list(left_out))


@pytest.fixture
def rng(request) -> random.Random:
    """A generator of this test alone, from the seed of the run."""
    return random.Random(f"{SEED} {request.node.nodeid}")


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
def shared_folder(tmp_path_factory) -> Path:
    """One folder for all processes of this run."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session", autouse=True)
def tables_of_tracking(shared_folder) -> None:
    """Copy the tables of every tracking database: MLflow takes seconds to make them."""
    os.environ[tracking_tables.TEMPLATE] = str(shared_folder / "tables.db")
    tracking_tables.copy_them()


@pytest.fixture(scope="session")
def make_once(shared_folder) -> Callable[[str, Callable[[Path], None]], Path]:
    """Make a folder once for all processes: make_once(name, make) → the folder."""

    def folder_of(name: str, make: Callable[[Path], None]) -> Path:
        folder, done = shared_folder / name, shared_folder / f"{name}.done"
        with open(shared_folder / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed
            if not done.exists():
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return folder_of


@pytest.fixture(scope="session")
def cache(make_once) -> Path:
    """One cache for the run, so that a data set is materialised once."""
    return make_once("cache", lambda folder: None)


def draw_images(
    root: Path,
    *,
    classes: int = 3,
    per_class: int = 8,
    size: int = 20,
    splits=("train", "test"),
    seed: int = 0,
) -> Path:
    """A folder root/<split>/<label>/<image> of PNGs that a small network can tell apart: a bright
    bar per class.
    """
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(seed)
    for split in splits:
        for label in range(classes):
            folder = root / split / f"bar{label}"
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(per_class):
                pixels = rng.integers(0, 90, (size, size), dtype=np.uint8)
                top = 2 + label * (size // classes)
                pixels[top : top + 3] += 140
                Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return root


@pytest.fixture(scope="session")
def bars(make_once) -> Path:
    """Three classes, train 12 and test 8 images each."""

    def draw(root: Path) -> None:
        draw_images(root, per_class=12, splits=("train",), seed=1)
        draw_images(root, per_class=8, splits=("test",), seed=2)

    return make_once("bars", draw)


@pytest.fixture
def settings(tmp_path, cache):
    """Settings of a study in this process, with a store of this test alone and no tracking."""
    from tlx.lab.settings import Settings

    return Settings(
        store=str(tmp_path / "runs"),
        cache=str(cache),
        tracking=False,
        workers=0,
        system_metrics=False,
    )


@pytest.fixture
def tlx(tmp_path, monkeypatch, cache, capsys):
    """Run a command in an empty directory: (exit code, what it printed, what it complained)."""
    from tlx import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TLX_CACHE", str(cache))

    def run(*words):
        code = 0
        try:
            cli.main(list(map(str, words)))
        except SystemExit as left:
            code = left.code or 0
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def with_two_nodes(cluster):
    """Add two nodes to a cluster; end it with the tests."""
    try:
        cluster.add_node()
        cluster.add_node()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="session")
def dask_cluster(tmp_path_factory):
    """A Dask cluster of two nodes."""
    from lab import clusters

    yield from with_two_nodes(clusters.DaskCluster(tmp_path_factory.mktemp("dask")))


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory):
    """A Ray cluster of two nodes with three CPUs each."""
    from lab import clusters

    yield from with_two_nodes(clusters.RayCluster(tmp_path_factory.mktemp("ray"), cpus=3))
