"""Settings of where and how work is done: no part of a spec, so of no key."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..errors import ResourceError, UsageError, no_home
from ..spec import Spec, setting
from .engines import ENGINES
from .grid import factor_of

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
        help="trials at once, one process each; 0: in this "
        "process. Default: one per core on a CPU (at most 8), one per GPU",
    )
    engine: str = setting(
        "local",
        identity=False,
        cli=False,
        choices=ENGINES,
        help="what runs the trials: local (processes of this machine)",
    )
    threads: int = setting(
        1,
        identity=False,
        low=1,
        high=1024,
        help="CPU threads of a trial; another number, other bits",
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
        help="folder of results. Default: $TLX_STORE, or tlx-runs next to a local tracking "
        "database",
    )
    cache: str | None = setting(
        None, identity=False, help="folder of decoded images. Default: $TLX_CACHE or ~/.cache/tlx"
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
    tracking: bool = setting(True, identity=False, help="mirror to MLflow")
    require_tracking: bool = setting(
        False, identity=False, help="exit with 6 if records could not be delivered"
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

    def resolved_device(self) -> str:
        """Return cpu or cuda[:N].

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

    def resolved_workers(self, device: str, trials: int) -> int:
        """Return how many processes run trials; 0 is this process."""
        if self.workers is not None:
            return min(self.workers, trials)
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        if device == "cpu":
            return max(1, min(cores // self.threads, trials, 8))
        return 1 if device != "cuda" else max(1, min(_gpus(), trials))


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
    form: str = setting(FORMS[0], identity=False, choices=FORMS, help="file type of figures")

    @property
    def trial_form(self) -> str | None:
        """Return the file type of the figures of a trial; None if they are not drawn."""
        return self.form if self.figures == ALL else None

    @property
    def study_form(self) -> str | None:
        """Return the file type of the figures of a study; None if they are not drawn."""
        return None if self.figures == NONE else self.form


@dataclass(frozen=True, kw_only=True)
class Reporting(Spec):
    """What the command of a study prints."""

    verbose: bool = setting(
        False, identity=False, help="off a terminal, print a line per epoch too, not only per trial"
    )
    json: bool = setting(
        False,
        identity=False,
        help="print the outcome as JSON to standard output, everything else to standard error",
    )


def expanded(path: str) -> Path:
    """Replace a leading ~ by the home folder.

    Raises Resource where this user has none.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise no_home() from error


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
