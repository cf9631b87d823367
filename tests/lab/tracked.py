"""A small study on disk for the tracking tests, and everything that a tracking store says about
it.
"""

from __future__ import annotations

import json
from pathlib import Path

from tlx import files
from tlx.lab.store import Store
from tlx.result import Result

STUDY = "5" * 64
EPOCHS = 5


def key(number: int) -> str:
    return f"{number:064x}"


class Lab:
    """A root with one study of `n` trials, each written as far as a test wants it."""

    def __init__(self, root: Path, n: int = 3, study: str = STUDY, **record):
        self.root, self.store, self.study = root, Store(root), study
        self.keys = [key(i) for i in range(n)]
        rows = [
            {
                "key": k,
                "title": f"1-shot split {i}",
                "shots": 1,
                "split": i,
                "params": {"Architecture": "mnist-cnn", "Split": i, "Note": "é" * 7000},
            }
            for i, k in enumerate(self.keys)
        ]
        self.store.write_study(
            study,
            {
                "key": study,
                "kind": "fine-tuning",
                "experiment": "Fine-tuning",
                "title": "digits",
                "trials": rows,
                "spec": {"kind": "fine-tuning", "optimizer": {"kind": "SGDW", "momentum": 0.9}},
                "tags": {"owner": "me"},
                "environment": {"python": "3.11", "git": {"commit": "c0ffee", "dirty": False}},
                "inputs": [
                    {
                        "name": "digits",
                        "source": "/data/digits",
                        "digest": "d" * 64,
                        "context": "train",
                    }
                ],
                **record,
            },
        )

    def run(
        self, number: int, epochs: int = EPOCHS, *, whole: bool = True, status: str = "finished"
    ) -> None:
        """Train a trial up to `epochs`, continuing it; commit it if it shall be whole."""
        with self.store.claim(self.keys[number]) as draft:
            for epoch in range(epochs):
                draft.log(epoch, {"train_loss": 1 / (epoch + 1), "val_accuracy": epoch / 10})
            if epochs and not any(r["t"] == "system" for r in draft.journal.records):
                last = draft.journal.records[-1]["ts"]
                for i in range(2):
                    draft.journal.append(
                        {"t": "system", "ts": last + i, "values": {"system/cpu": 50.0 + i}}
                    )
            if whole:
                (draft.folder / "confusion.png").write_bytes(b"\x89PNG figure")
                (draft.folder / "weights.safetensors").write_bytes(b"too much for a tracking store")
                draft.commit(
                    Result(
                        key=self.keys[number],
                        kind="fine-tuning",
                        status=status,
                        spec={"kind": "fine-tuning", "shots": 1, "split": number},
                        scores={"test_accuracy": 0.5 + number / 10} if status == "finished" else {},
                        cost={
                            "wall_s": {"value": 2.0, "unit": "s", "source": "measured"},
                            "energy_j": {"value": None, "unit": "J", "source": None},
                        },
                        environment={"python": "3.11", "git": {"commit": "c0ffee", "dirty": False}},
                    )
                )

    def summarise(self, means=None) -> None:
        """Write the study's tables and figures; means: step → value."""
        folder = self.root / "studies" / self.study
        self.store.unseal_study(self.study)
        files.write_json(
            folder / "summary.json",
            {
                "metrics": [
                    {"name": "Test accuracy mean", "value": value, "step": step}
                    for step, value in (means or {1: 0.1, 5: 0.5, 10: 1.0}).items()
                ]
            },
        )
        files.write_bytes(folder / "curve.png", b"\x89PNG curve")
        self.store.seal_study(self.study)

    def finish(self) -> None:
        for number in range(len(self.keys)):
            self.run(number)
        self.summarise()


def client_of(target):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=target.uri)


def runs_of(target, experiment: str = "Fine-tuning"):
    client = client_of(target)
    found = client.get_experiment_by_name(experiment)
    return client, client.search_runs([found.experiment_id], max_results=1000) if found else []


def by_key(target, experiment: str = "Fine-tuning"):
    """tlx.key → run; fails if a key has two."""
    _, runs = runs_of(target, experiment)
    found = {run.data.tags["tlx.key"]: run for run in runs}
    assert len(found) == len(runs), "a key has two runs"
    return found


def content(target, experiment: str = "Fine-tuning") -> dict:
    """Everything but what a store numbers by itself, so that two stores can be compared."""
    client, runs = runs_of(target, experiment)
    names = {run.info.run_id: run.data.tags["tlx.key"] for run in runs}
    assert len(set(names.values())) == len(names), "a key has two runs"
    return {names[run.info.run_id]: _row(client, run, names) for run in runs}


def _row(client, run, names) -> dict:
    tags = dict(run.data.tags)
    tags["mlflow.parentRunId"] = names.get(tags.get("mlflow.parentRunId", ""), "")
    history = {
        name: sorted(
            (m.step, m.timestamp, m.value) for m in client.get_metric_history(run.info.run_id, name)
        )
        for name in run.data.metrics
    }
    inputs = sorted(
        (
            d.dataset.name,
            d.dataset.digest,
            d.dataset.source,
            sorted((t.key, t.value) for t in d.tags),
        )
        for d in run.inputs.dataset_inputs
    )
    return {
        "name": run.info.run_name,
        "status": run.info.status,
        "times": (run.info.start_time, run.info.end_time),
        "params": run.data.params,
        "tags": tags,
        "history": history,
        "inputs": inputs,
        "artifacts": sorted(a.path for a in client.list_artifacts(run.info.run_id)),
    }


def plain(value) -> str:
    return json.dumps(value, sort_keys=True, default=str)
