"""Calls to a tracking store, each safe to repeat: no second run, no second point.

A lost reply makes a client send again, and mlflow's run creation has no key of its own. So a run is
searched by its tag `tlx.key` before it is created. On a server it is searched again after; of
several the first created is kept, the others are deleted. A local database loses no reply, and a
lock beside it makes search and creation one step.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import tempfile
import urllib.parse
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ... import files, locks
from ..records import DataInput
from . import models as tracking_models
from .records import EXPERIMENT_TAGS, TAG_LIMIT, Point, name, text_of
from .target import TrackingTarget, prepare

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

METRICS_A_CALL, PAIRS_A_CALL, DIGEST_LIMIT = 800, 100, 36  # what every store accepts
SET_ASIDE = "replaced:"  # before the key of a run that another is taking the place of
LOST = ("RESOURCE_DOES_NOT_EXIST", "INVALID_STATE")  # the run was removed by somebody
REFUSED = (*LOST, "INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS")


class Abandoned(Exception):  # noqa: N818 — a signal: the mirror stops trying
    """Request to the mirror to stop; what is not sent is sent later."""


def refused(error: BaseException) -> bool:
    """Return whether the store understood and will refuse this again.

    False if it may work later (a lost connection).
    """
    return getattr(error, "error_code", "") in REFUSED


class Sender:
    """Client of one store and one experiment in it.

    The experiment is known by name, or by id (`experiment`) where one was chosen.

    `is_abandoned()` is asked before every call; true raises Abandoned.
    """

    def __init__(
        self,
        target: TrackingTarget,
        experiment_name: str,
        *,
        experiment: str = "",
        is_abandoned: Callable[[], bool] = lambda: False,
    ):
        self.target, self.is_abandoned = target, is_abandoned
        self.experiment_name, self.experiment = experiment_name, experiment
        self._experiment_id: str | None = None
        self._client: MlflowClient | None = None
        self._inode: int | None = None
        # of the last run: address and repository
        self._artifacts: tuple[str, ArtifactRepository] | None = None

    @property
    def client(self) -> MlflowClient:
        """Return mlflow's client; the local database is created first."""
        if self.is_abandoned():
            raise Abandoned
        if self._client is None:
            from mlflow import MlflowClient

            prepare(self.target)
            self._inode = self._database()
            self._client = MlflowClient(tracking_uri=self.target.uri)
        return self._client

    def _database(self) -> int | None:
        path = self.target.database
        return path.stat().st_ino if path and path.exists() else None

    def replaced(self) -> bool:
        """Return True (once) if the local database is another file than before.

        Its connections are dropped.
        """
        if self._client is None or self._database() == self._inode:
            return False
        with contextlib.suppress(Exception):
            self._client._tracking_client.store.engine.dispose()
        self._client = self._experiment_id = None
        return True

    # ------------------------------------------------------------ experiment and runs

    @property
    def experiment_id(self) -> str:
        """Return the experiment, created if need be, restored if it was deleted.

        A deleted experiment's name stays taken.
        """
        if self._experiment_id is None:
            chosen = self._chosen_experiment()
            experiment = (
                chosen
                or self.client.get_experiment_by_name(self.experiment_name)
                or self._make_experiment()
            )
            if experiment.lifecycle_stage != "active":
                self.client.restore_experiment(experiment.experiment_id)
            if chosen is None:
                self._describe(experiment)
            self._experiment_id = experiment.experiment_id
        return self._experiment_id

    def _describe(self, experiment: Experiment) -> None:
        """Add to an experiment its description and MLflow's view of trainings.

        What a person wrote, or emptied, is kept.
        """
        for tag, value in EXPERIMENT_TAGS.items():
            if tag not in experiment.tags:
                self.client.set_experiment_tag(experiment.experiment_id, tag, value)

    def _chosen_experiment(self) -> Experiment | None:
        if not self.experiment:
            return None
        try:
            return self.client.get_experiment(self.experiment)
        except Exception as error:
            if not refused(error):
                raise
            return None  # of a database that is no more

    def _make_experiment(self) -> Experiment:
        root = self.target.artifacts
        folder = "".join(c if c.isalnum() else "-" for c in self.experiment_name).lower()
        try:
            self.client.create_experiment(
                self.experiment_name, artifact_location=root and f"{root}/{folder}"
            )
        except Exception as error:
            if not refused(error):
                raise  # a lost reply is found by its name the next time
        experiment = self.client.get_experiment_by_name(self.experiment_name)
        if experiment is None:
            raise ConnectionError("the store does not show the experiment it was just given")
        return experiment

    def children(self, parent_id: str) -> dict[str, list[Run]]:
        """Return key → runs under a parent."""
        children: dict[str, list[Run]] = {}
        for run in self.search(f"tags.`mlflow.parentRunId` = '{parent_id}'"):
            children.setdefault(run.data.tags.get("tlx.key", ""), []).append(run)
        return children

    def search(self, condition: str, experiment_id: str | None = None) -> list[Run]:
        """Return every active run that matches, whatever their number."""
        runs: list[Run] = []
        token = None
        while True:
            page = self.client.search_runs(
                [experiment_id or self.experiment_id], condition, max_results=1000, page_token=token
            )
            runs += page
            token = page.token
            if not token:
                return runs

    def find(self, key: str) -> Run | None:
        """Return the only run of a key, or None; duplicates are tagged and deleted."""
        return self.settle(self.search(f"tags.`tlx.key` = '{key}'"))

    def find_showing(self, key: str) -> Run | None:
        """Return the run that shows a trial: its own, else that of its group; None if neither."""
        own = self.find(key)
        if own is not None:
            return own
        groups = self.search("tags.`tlx.role` = 'group'")
        return next((run for run in groups if key in run.data.tags.values()), None)

    def find_replacing(self, key: str) -> tuple[Run | None, list[Run]]:
        """Return the run of a key (or None), and those that it replaces.

        The latter are not yet copied.
        """
        runs = self.search(f"tags.`tlx.key` LIKE '%{key}'")
        by_key = {
            word: [run for run in runs if run.data.tags["tlx.key"] == word]
            for word in (key, SET_ASIDE + key)
        }
        return self.settle(by_key[key]), by_key[SET_ASIDE + key]

    def set_aside(self, run_id: str, key: str) -> None:
        """Make room for a run that replaces this one.

        It is kept until its content is copied.
        """
        self.client.set_tag(run_id, "tlx.key", SET_ASIDE + key)

    def settle(self, runs: Sequence[Run]) -> Run | None:
        """Delete these replaced runs once their content is copied."""
        if not runs:
            return None
        first, *others = sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))
        for other in others:
            self.client.set_tag(other.info.run_id, "tlx.duplicate_of", first.info.run_id)
            self.client.delete_run(other.info.run_id)
        return first

    @contextlib.contextmanager
    def creation(self) -> Iterator[None]:
        """Hold the right to create runs in a local database inside the block.

        It covers the search for a run and its creation, so that two studies which share a trial
        create one run. A server has no such lock: `create` searches again there.
        """
        database = self.target.database
        if database is None:
            yield
            return
        path = database.with_name(f".{database.name}.create.lock")
        with locks.lock(path, wait=True, signed=False):
            yield

    def create(self, key: str, run_name: str, start_ms: int, tags: Mapping[str, str]) -> Run | None:
        """Create the run of a key that `find` did not find, inside `creation`.

        None if a server does not show it.
        """
        own_tags = {
            "mlflow.user": _user(),
            "mlflow.source.name": "tlx",
            "mlflow.source.type": "LOCAL",
            **tags,
        }
        run = self.client.create_run(
            self.experiment_id,
            start_time=start_ms,
            tags={**own_tags, "tlx.key": key},
            run_name=run_name,
        )
        return run if self.target.database else self.find(key)

    def retire(
        self, run_id: str, why: str = "its run folder was removed and the trial made again"
    ) -> None:
        """Delete a run that another replaces."""
        self.client.set_tag(run_id, "tlx.superseded", why)
        self.client.delete_run(run_id)

    # ------------------------------------------------------------ contents

    def batch(
        self,
        run_id: str,
        points: Sequence[Point] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Send metrics, parameters and tags in as few calls as the store's limits allow."""
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(n, value, ms, step) for n, value, ms, step in points]
        pairs = [Param(k, v) for k, v in (params or {}).items()]
        marks = [RunTag(k, v) for k, v in (tags or {}).items()]
        while metrics or pairs or marks:
            self.client.log_batch(
                run_id, metrics[:METRICS_A_CALL], pairs[:PAIRS_A_CALL], marks[:PAIRS_A_CALL]
            )
            metrics, pairs, marks = (
                metrics[METRICS_A_CALL:],
                pairs[PAIRS_A_CALL:],
                marks[PAIRS_A_CALL:],
            )

    @staticmethod
    def is_one_call(
        points: Sequence[Point], params: Mapping[str, str], tags: Mapping[str, str]
    ) -> bool:
        """Return whether `batch` sends these in one call."""
        return len(points) <= METRICS_A_CALL and max(len(params), len(tags)) <= PAIRS_A_CALL

    def points_of(self, run: Run, names: Collection[str] | None = None) -> list[Point]:
        """Return every metric point of a run, of the metrics that its entity names.

        names  of the metrics that are asked for; None: all
        """
        return [
            (point.key, point.value, point.timestamp, point.step)
            for name_ in run.data.metrics
            if names is None or name_ in names
            for point in self.client.get_metric_history(run.info.run_id, name_)
        ]

    def artifacts_of(self, run_id: str, folder: str | None = None) -> list[str]:
        """Return the path of every file among a run's artifacts."""
        paths: list[str] = []
        for row in self.client.list_artifacts(run_id, folder):
            paths += self.artifacts_of(run_id, row.path) if row.is_dir else [row.path]
        return paths

    def copy_artifact(self, path: str, from_id: str, to_id: str) -> None:
        """Copy one artifact to another run, under the same path; skip one that no longer exists."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                file = self.client.download_artifacts(from_id, path, folder)
            except Exception as error:
                if isinstance(error, FileNotFoundError) or refused(error):
                    return
                raise
            self.artifact(self.client.get_run(to_id), Path(file), path)

    def inputs(self, run_id: str, rows: Sequence[DataInput]) -> None:
        """Log data sets as inputs, by our own digest.

        [{"name", "source", "digest", "context"}].
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        datasets = []
        for row in rows:
            digest = str(row["digest"])
            source = json.dumps({"uri": text_of(str(row.get("source", "")), TAG_LIMIT)})
            dataset = Dataset(name(str(row["name"])), digest[:DIGEST_LIMIT], "local", source)
            tags = [
                InputTag("mlflow.data.context", str(row.get("context", "train"))),
                InputTag("tlx.digest", digest),
            ]
            datasets.append(DatasetInput(dataset, tags))
        if datasets:
            self.client.log_inputs(run_id, datasets=datasets)

    def artifact(self, run: Run, path: Path, name_: str) -> None:
        """Upload a file as the artifact `name_`, a relative path."""
        inside = Path(name_).parent.as_posix()
        self._upload(run, path, None if inside == "." else inside)

    def json_artifact(self, run: Run, value: object, file_name: str) -> None:
        """Upload a value as an artifact of canonical JSON."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / file_name
            path.write_bytes(files.canonical_json(value) + b"\n")
            self._upload(run, path, None)

    def _upload(self, run: Run, path: Path, folder: str | None) -> None:
        """Upload a file below a folder of the run's artifacts.

        MLflow's client would read the whole run to learn where they are, which its entity says.
        """
        client, run_id, uri = self.client, run.info.run_id, run.info.artifact_uri
        if urllib.parse.urlsplit(uri).scheme == "dbfs":  # needs the client's databricks profile
            client.log_artifact(run_id, str(path), folder)
            return
        if self._artifacts is None or self._artifacts[0] != uri:
            from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

            self._artifacts = (uri, get_artifact_repository(uri, self.target.uri))
        self._artifacts[1].log_artifact(str(path), folder)

    def model(self, run_id: str, folder: Path) -> None:
        """Log a folder in mlflow's format as a model of the run."""
        tracking_models.send(self.client, self.experiment_id, run_id, folder)

    def reopen(self, run: Run) -> None:
        """Set a resumed run to running."""
        if run.info.status != "RUNNING":
            self.client.update_run(run.info.run_id, status="RUNNING")

    def end(self, run_id: str, status: str, end_ms: int) -> None:
        """End a run, as its last call: FINISHED, FAILED or KILLED.

        At a time that does not depend on when it is sent.
        """
        self.client.set_terminated(run_id, status, end_time=end_ms)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container whose user has no name
        return str(os.getuid())
