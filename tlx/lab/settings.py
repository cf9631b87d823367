"""Settings of where and how work is done: no part of a spec, so of no key."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..errors import ResourceError, UsageError, no_home
from ..spec import Spec, setting
from .engines import CLUSTERS, ENGINES, LOCAL
from .grid import factor_of
from .tasks import ClusterOptions

FORMS = ("png", "svg", "pdf")  # of figures
ALL, STUDY, NONE = "all", "study", "none"  # which figures are drawn


@dataclass(frozen=True, kw_only=True)
class Settings(Spec):
    """Folders, machine and tracking."""

    kind: ClassVar[str] = "settings"

    device: str = setting(
        "auto", identity=False, help="auto (a GPU if there is one), cpu, cuda or cuda:N"
    )
    workers: int | None = setting(
        None,
        identity=False,
        low=0,
        high=1024,
        help="trials, or shards of an extraction, at once, one process each; 0: in this process. "
        "Default: one per core on a CPU (at most 8), one per GPU; this process extracts",
    )
    engine: str = setting(
        LOCAL,
        identity=False,
        choices=ENGINES,
        help="what runs the trials and makes the shards of extractions: local (processes of this "
        "machine), dask or ray (a cluster that already runs, at --address)",
    )
    address: str | None = setting(
        None,
        identity=False,
        only_with={"engine": tuple(CLUSTERS)},
        help="where the cluster of --engine is asked: tcp://HOST:8786 of a Dask scheduler, auto "
        "or HOST:6379 of Ray",
    )
    gpus: float | None = setting(
        None,
        identity=False,
        low=0.0,
        only_with={"engine": tuple(CLUSTERS)},
        help="share of a GPU that a trial (each of its --replica-processes) takes on a cluster, as "
        "0.25. Default: 1 where the cluster has GPUs and --device is not cpu",
    )
    silent_s: float = setting(
        60.0,
        identity=False,
        low=1.0,
        only_with={"engine": tuple(CLUSTERS)},
        help="seconds after which a trial on a cluster that says nothing is begun elsewhere",
    )
    mixed_nodes: bool = setting(
        False,
        identity=False,
        only_with={"engine": tuple(CLUSTERS)},
        help="take nodes of several kinds of CPU: results agree closely, not to the bit",
    )
    takeover: bool = setting(
        False,
        identity=False,
        only_with={"engine": tuple(CLUSTERS)},
        help="go on with a study on a cluster although another command seems to work on it",
    )
    threads: int = setting(
        1,
        identity=False,
        low=1,
        high=1024,
        help="CPU threads of a trial (of each of its --replica-processes); another number, other "
        "bits",
    )
    timeout: float | None = setting(
        None, identity=False, low=1.0, help="seconds a trial may take. Default: no limit"
    )
    data_root: str | None = setting(
        None, identity=False, help="folder that holds named data sets. Default: $TLX_DATA"
    )
    allow_outside: tuple[str, ...] = setting(
        (),
        identity=False,
        help="further folders that paths in split CSVs and links "
        "among the images may lead to, comma-separated",
    )
    store: str | None = setting(
        None,
        identity=False,
        writes="folder",
        help="folder of results. Default: $TLX_STORE, or tlx-runs next to a local tracking "
        "database",
    )
    cache: str | None = setting(
        None,
        identity=False,
        writes="folder",
        help="folder of decoded images. Default: $TLX_CACHE or ~/.cache/tlx",
    )
    decode_budget: float = setting(
        8.0,
        identity=False,
        low=0.0,
        help="GB of decoded images kept on disk a study; above, "
        "images are decoded as they are needed",
    )
    mlflow_path: str | None = setting(
        None,
        identity=False,
        help="tracking URI, database file or folder. Default: "
        "$MLFLOW_TRACKING_URI, or mlflow.db in the working directory",
    )
    run_name: str = setting(
        "",
        identity=False,
        help="name of the study's run in MLflow, given when it begins. Default: what the study is",
    )
    tracking: bool = setting(True, identity=False, help="mirror to MLflow")
    require_tracking: bool = setting(
        False,
        identity=False,
        only_with={"tracking": (True,)},
        help="exit with 6 if records could not be delivered",
    )
    wait: bool = setting(
        True,
        identity=False,
        help="wait at the end, up to 10 s, for a tracking server that is slow; else "
        "tlx sync sends the rest",
    )
    system_metrics: bool = setting(True, identity=False, help="log CPU, memory and GPU use")
    watts: float | None = setting(
        None, identity=False, low=0.0, help="watts a busy core draws, for an energy estimate"
    )
    watts_range: tuple[float, ...] = setting(
        (),
        identity=False,
        low=0.0,
        help="least and most that --watts may really be, as 6,12. Default: half and one and a half",
    )
    grid: float | None = setting(
        None, identity=False, low=0.0, help="g CO2 per kWh of your electricity, for an estimate"
    )
    country: str | None = setting(
        None,
        identity=False,
        help="country of your electricity by three letters (DEU), whose g CO2 per kWh are taken "
        "from a table of Our World in Data, in place of --grid",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.country is not None:
            if self.grid is not None:
                raise UsageError("conflict", "--grid and --country", expected="one of the two")
            factor_of(self.country)  # raises UsageError for an unknown one
        if self.watts_range:
            self._check_range()
        if self.timeout is not None and self.workers == 0:
            raise UsageError(
                "conflict",
                f"--timeout {self.timeout:g} and --workers 0",
                expected="at least one worker: a trial in this process cannot be ended",
                remedy="--workers 1, or leave out --timeout",
            )
        self._check_engine()

    def _check_engine(self) -> None:
        """Raise UsageError where the engine and the options of clusters do not agree."""
        if self.engine in CLUSTERS:
            if self.address is None:
                raise UsageError(
                    "address",
                    f"--engine {self.engine} without --address",
                    expected=f"where the cluster runs: --address {CLUSTERS[self.engine].address}",
                )
            if self.workers == 0:
                raise UsageError(
                    "conflict",
                    f"--workers 0 and --engine {self.engine}",
                    expected="at least 1: how many trials the cluster runs at once at most",
                )

    def _check_range(self) -> None:
        """Raise UsageError unless --watts-range is two numbers around --watts."""
        watts, ends = self.watts, self.watts_range
        if watts is None or len(ends) != 2 or not ends[0] <= watts <= ends[1]:
            given = ",".join(f"{end:g}" for end in ends)
            raise UsageError(
                "watts-range",
                f"--watts-range {given}" + ("" if watts is None else f" with --watts {watts:g}"),
                expected="--watts, and two numbers that it is between",
            )

    @property
    def cache_folder(self) -> Path:
        """Return the folder of decoded images and generated data sets, kept between studies."""
        base = self.cache or os.environ.get("TLX_CACHE")
        if base:
            return expanded(base).absolute()
        home = os.environ.get("XDG_CACHE_HOME")
        return (Path(home) if home else expanded("~/.cache")) / "tlx"

    def store_folder(self, database: Path | None) -> Path:
        """Return the folder of results.

        `database` is the local tracking database, if there is one.
        """
        given = self.store or os.environ.get("TLX_STORE")
        if given:
            return expanded(given).absolute()
        return (database.parent if database else Path.cwd()) / "tlx-runs"

    @property
    def on_cluster(self) -> bool:
        """Return whether trials run on other machines."""
        return self.engine in CLUSTERS

    def cluster_options(self, folders: tuple[str, ...] = ()) -> ClusterOptions:
        """Return the options of the engine for a cluster; `folders` must be seen by every node."""
        return ClusterOptions(
            address=self.address or "",
            gpus=0.0 if self.device == "cpu" else self.gpus,
            silent_s=self.silent_s,
            mixed=self.mixed_nodes,
            folders=folders,
        )

    def trial_device(self) -> str:
        """Return the device of trials, as `resolved_device` of the machine that runs them."""
        return self.device if self.on_cluster else self.resolved_device()

    def device_here(self, device: str) -> str:
        """Return the device that a trial has on this machine, which a cluster may have chosen."""
        return self.resolved_device() if self.on_cluster else device

    def resolved_device(self) -> str:
        """Return cpu or cuda[:N] of this machine.

        Raises Resource if the requested one is absent.
        """
        if self.device == "cpu":
            return "cpu"
        import torch

        count = torch.cuda.device_count()
        if self.device == "auto":
            return "cuda" if count else "cpu"
        if not self.device.startswith("cuda") or not count:
            raise ResourceError(
                "device",
                f"no device '{self.device}'; found cpu" + (f" and {count} GPU" if count else ""),
                where="device",
                remedy="use --device auto or --device cpu",
            )
        return self.device

    @property
    def local_slots(self) -> int:
        """Return how many processes the cores of this machine can run at once."""
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        return max(1, cores // self.threads)

    def resolved_workers(self, device: str, trials: int, processes: int = 1) -> int:
        """Return how many trials run at once, of so many processes each; 0: in this process.

        On a cluster, how many trials run at once at most: as many as it has room for.
        """
        if self.workers is not None:
            return min(self.workers, trials)
        if self.on_cluster:
            return trials
        if device == "cpu":
            return max(1, min(self.local_slots // processes, trials, 8))
        return 1 if device != "cuda" else max(1, min(gpu_count() // processes, trials))


@dataclass(frozen=True, kw_only=True)
class Figures(Spec):
    """Which figures a study draws, and as what files."""

    kind: ClassVar[str] = "figures"

    figures: str = setting(
        ALL,
        identity=False,
        choices=(ALL, STUDY, NONE),
        help="figures to draw: all, those of the study without those of each trial, or none. They "
        "take most of the time of a small trial; tlx plot draws them all later",
    )
    form: str = setting(
        FORMS[0],
        identity=False,
        choices=FORMS,
        help="file type of figures",
    )

    @property
    def trial_form(self) -> str | None:
        """Return the file type of the figures of a trial; None if they are not drawn."""
        return self.form if self.figures == ALL else None

    @property
    def study_form(self) -> str | None:
        """Return the file type of the figures of a study; None if they are not drawn."""
        return None if self.figures == NONE else self.form


@dataclass(frozen=True, kw_only=True)
class JsonOutput(Spec):
    """Whether a command prints JSON."""

    json: bool = setting(
        False,
        identity=False,
        help="print the outcome as JSON to standard output, everything else to standard error",
    )


@dataclass(frozen=True, kw_only=True)
class Reporting(JsonOutput):
    """What the command of a study prints."""

    verbose: bool = setting(
        False, identity=False, help="off a terminal, print a line per epoch too, not only per trial"
    )


def expanded(path: str) -> Path:
    """Replace a leading ~ by the home folder.

    Raises Resource where this user has none.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise no_home() from error


def gpu_count() -> int:
    """Return how many GPUs this process sees."""
    import torch

    return torch.cuda.device_count()
