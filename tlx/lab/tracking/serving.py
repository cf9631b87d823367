"""Exported models as MLflow models: written to a folder, and registered in a store."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UntrackedError, UsageError
from ..redaction import redact
from .client import Sender
from .target import TrackingTarget
from .timeouts import quiet, short_timeouts

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

CODE = Path(__file__).resolve().parents[2] / "_data" / "served.py"
PACKAGES = ("mlflow", "numpy", "pandas", "pillow", "onnxruntime")
BATCH = 32  # images at once, unless the request says otherwise
NO_BARS = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
NAME = "served"  # of the logged model
DESCRIPTION_LIMIT = 5000  # characters, what every store accepts


@dataclass(frozen=True)
class Registered:
    """Version of a registered model; `is_new` unless it was found."""

    name: str
    version: str
    is_new: bool


def save(network: Path, out: Path, classes: Sequence[str]) -> None:
    """Write an MLflow model of the files in `network` to the folder `out`.

    It needs mlflow, numpy, pandas, Pillow and onnxruntime to run, and neither tlx nor torch.
    """
    with warnings.catch_warnings(), quiet, _environment(**NO_BARS):
        warnings.simplefilter("ignore")  # of mlflow's own
        import mlflow.pyfunc

        mlflow.pyfunc.save_model(
            str(out),
            python_model=str(CODE),
            artifacts={"network": str(network)},
            signature=_signature(classes),
            pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in PACKAGES],
        )


def _signature(classes: Sequence[str]) -> ModelSignature:
    """Return the columns of a served model: an image in, a label and probabilities out."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    outputs: list[ColSpec | TensorSpec] = [ColSpec(DataType.string, "label")]
    outputs += [ColSpec(DataType.double, f"p_{name}") for name in classes]
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, "image")]),
        outputs=Schema(outputs),
        params=ParamSchema([ParamSpec("batch_size", DataType.long, BATCH)]),
    )


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set variables of mlflow inside the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def check_name(name: str) -> None:
    """Raise UsageError for a name that a registry refuses."""
    if not name.strip() or any(c in name for c in "/:"):
        raise UsageError(
            "registered-name",
            f"'{name}'",
            where="--register",
            expected="a name without / and :",
        )


def register(
    target: TrackingTarget,
    experiment: str,
    name: str,
    folder: Path,
    *,
    key: str,
    description: str,
    alias: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> Registered:
    """Return the version of the registered model `name` that is the trial `key`, made if need be.

    folder       an MLflow model, as `save` writes it; it is logged with the run that shows the
                 trial, where the store has one
    description  Markdown
    alias        that the version gets
    tags         that the version gets besides the key of the trial
    raises       UntrackedError if the store cannot be reached or refuses
    """
    check_name(name)
    sender = Sender(target, experiment)
    try:
        # a local registry looks for the model in the store of the environment
        with short_timeouts, quiet, _environment(MLFLOW_TRACKING_URI=target.uri, **NO_BARS):
            version = _register(sender, name, folder, key, description)
            for tag, value in (tags or {}).items():
                sender.client.set_model_version_tag(name, version.version, tag, value)
            if alias:
                sender.client.set_registered_model_alias(name, alias, version.version)
            return version
    except Exception as error:
        raise UntrackedError(
            "not-registered",
            f"the model was exported and not registered: {redact(error) or type(error).__name__}",
            remedy="run the same command again when the tracking server takes it",
        ) from error


def _register(sender: Sender, name: str, folder: Path, key: str, description: str) -> Registered:
    client = sender.client
    text = description[:DESCRIPTION_LIMIT]
    digest = _digest(folder)
    with sender.creation():
        found_version = _version_of(client, name, key, digest)
        version = found_version or _made_version(sender, name, folder, key, digest, text)
    client.update_model_version(name, version, description=text)
    return Registered(name, version, found_version is None)


def _digest(folder: Path) -> str:
    """Return the SHA-256 of the ONNX file of an MLflow model."""
    path = folder / "artifacts" / "network" / "model.json"
    return str(json.loads(path.read_text(encoding="utf-8"))["sha256"])


def _version_of(client: MlflowClient, name: str, key: str, digest: str) -> str | None:
    """Return the version with the tags of this trial and file, the first of several, or None."""
    escaped = name.replace("'", "''")
    versions = [
        version
        for version in client.search_model_versions(f"name = '{escaped}'")
        if (version.tags.get("tlx.key"), version.tags.get("tlx.sha256")) == (key, digest)
    ]
    return min((str(v.version) for v in versions), key=int, default=None)


def _made_version(sender: Sender, name: str, folder: Path, key: str, digest: str, text: str) -> str:
    from mlflow.exceptions import MlflowException

    client, tags = sender.client, {"tlx.key": key, "tlx.sha256": digest}
    model_id = _logged(sender, folder, tags)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    run = sender.find_showing(key)
    version = client.create_model_version(
        name,
        source=f"models:/{model_id}",
        run_id=run.info.run_id if run is not None else None,
        tags=tags,
        description=text,
        model_id=model_id,
    )
    return str(version.version)


def _logged(sender: Sender, folder: Path, tags: dict[str, str]) -> str:
    """Return the id of the logged model of these tags, whole; one that is half there is deleted."""
    client, experiment = sender.client, sender.experiment_id
    logged: list[Any] = client.search_logged_models([experiment], f"name = '{NAME}'")
    for model in logged:
        if {name: model.tags.get(name) for name in tags} != tags:
            continue
        if str(model.status).upper().endswith("READY"):
            return str(model.model_id)
        client.delete_logged_model(model.model_id)
    run = sender.find_showing(tags["tlx.key"])
    model = client.create_logged_model(
        experiment,
        name=NAME,
        source_run_id=run.info.run_id if run is not None else None,
        tags=tags,
        model_type="pyfunc",
    )
    client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)
