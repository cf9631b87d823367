"""Fitted scikit-learn models in mlflow's format.

They are written into a trial's folder, and sent to the store with its run.
"""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mlflow import MlflowClient

FOLDER, MARK = "model", "MLmodel"
PACKAGES = ("tlx", "scikit-learn", "numpy", "scipy")


def save(
    model: Any,
    folder: Path,
    example: np.ndarray,
    *,
    trusted: Sequence[str],
    packages: Sequence[str] = (),
) -> Path:
    """Write a fitted estimator to `folder`/model with input example and signature.

    Without pickle (skops).

    example    a few rows of its input
    trusted    full names of its types that are not scikit-learn's
    packages   distributions it needs besides tlx and scikit-learn
    """
    import mlflow.sklearn
    from mlflow.models import infer_signature

    path = folder / FOLDER
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of mlflow's own schema
        mlflow.sklearn.save_model(
            model,
            str(path),
            signature=infer_signature(example, model.predict(example)),
            input_example=example,
            serialization_format="skops",
            skops_trusted_types=list(trusted),
            pip_requirements=[
                f"{name}=={importlib.metadata.version(name)}" for name in (*PACKAGES, *packages)
            ],
        )
    return path


def send(client: MlflowClient, experiment_id: str, run_id: str, folder: Path) -> None:
    """Log `folder`, as written by `save`, as a model of a run.

    Sent again, it is still one model.
    """
    from mlflow.entities import LoggedModelOutput

    logged = client.search_logged_models(
        [experiment_id], f"source_run_id = '{run_id}' AND name = '{FOLDER}'"
    )
    ready = [model for model in logged if str(model.status).upper().endswith("READY")]
    for half in logged:
        if half not in ready:
            client.delete_logged_model(half.model_id)
    if ready:
        return
    model = client.create_logged_model(
        experiment_id, name=FOLDER, source_run_id=run_id, model_type="sklearn"
    )
    client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
