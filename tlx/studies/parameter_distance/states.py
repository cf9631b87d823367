"""States of a network: weight files, a backbone's own weights, finished trials with weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ... import files
from ...errors import BadDataError, MissingError, UsageError, counted
from ...lab.store import Store
from ...models.weights.promises import permitted
from ...result import FINISHED, Result
from ..pretraining_spec import PreTraining
from ..whole_dataset import DEFAULT, WEIGHTS
from .spec import TargetTuning

KEPT = (WEIGHTS, "network.safetensors")  # what trials call the weights that they keep
NEW_HEAD = (TargetTuning.own_kind(), "chop", "pruning")  # kinds of trials that replace the head
KEY = re.compile(r"[0-9a-f]{6,64}")


@dataclass(frozen=True)
class WeightState:
    """Weights, and what is known of them.

    path          a file, or "default"
    name          for people: what it was trained on, as far as that is known
    architecture  of the trial that it comes from, else ""
    training      how that trial came to it
    start         seed of the `tlx pretrain` that made it, from which its random state is known
    """

    path: str
    name: str
    architecture: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    start: int | None = None


def state_of(word: str, store: Store, where: str) -> WeightState:
    """Return the state that a word means: "default", a weight file, or a finished trial.

    A trial is given by its folder, its key, or the beginning of its key.

    Raises MissingError, BadDataError for a trial without weights, UsageError for a beginning that
    several have; `where` is the option.
    """
    if word == DEFAULT:
        return WeightState(DEFAULT, DEFAULT)
    path = Path(word).expanduser()
    with permitted(path):
        if path.is_file():
            return WeightState(str(path), path.stem, start=recorded_start(path))
    if path.is_dir() and KEY.fullmatch(path.name) and path.parent.name == "trials":
        return _of_trial(Store(path.absolute().parent.parent), path.name, where)
    if KEY.fullmatch(word):
        keys = store.keys()
        matches = [key for key in keys if key.startswith(word)]
        if len(matches) > 1:
            raise UsageError(
                "ambiguous",
                f"{counted(len(matches), 'trial')} begin with '{word}'",
                where=where,
                expected="a longer key",
            )
        if matches:
            return _of_trial(store, matches[0], where)
        raise MissingError(f"trial '{word}' (in {store.root})", where)
    raise MissingError("weight file, or folder of a finished trial,", f"{where} {word}")


def _of_trial(store: Store, key: str, where: str) -> WeightState:
    result = store.find(key)
    if result is None:
        raise MissingError(f"finished trial '{key[:12]}' (in {store.root})", where)
    name = next((n for n in KEPT if (store.folder(key) / n).is_file()), None)
    if result.status != FINISHED or name is None:
        what = "keeps no weights" if result.status == FINISHED else f"is {result.status}"
        raise BadDataError(
            "no-weights",
            f"the {result.kind} trial {key[:12]} {what}",
            where=where,
            expected="one of tlx parameter-distance, pretrain, chop, prune or a base of "
            "layer-transfer",
        )
    dataset = str(
        result.spec.get("target") or Path(str(result.spec.get("dataset", ""))).name or key[:8]
    )
    return WeightState(
        str(store.file(key, name)),
        dataset,
        str(result.spec.get("architecture", "")),
        training_of(result),
        _start(result.spec),
    )


def recorded_start(path: Path) -> int | None:
    """Return the seed in the record that `tlx pretrain --out` writes with its weights.

    None without a record of them.
    """
    beside = path.with_suffix(".json")
    if path.suffix != ".safetensors" or not beside.is_file():
        return None
    try:
        record = files.read_json(beside)
        return _start(record["spec"]) if record["sha256"] == files.sha256(path) else None
    except (BadDataError, KeyError, TypeError, AttributeError):  # somebody else's .json
        return None


def _start(spec: Mapping[str, Any]) -> int | None:
    return int(spec["seed"]) if spec.get("kind") == PreTraining.own_kind() else None


def training_of(result: Result) -> dict[str, object]:
    """Return the training facts needed to interpret T.

    How long, how fast and on how much the network was trained, and its accuracy.
    """
    spec, details = result.spec, result.details
    training = {
        name: spec.get(name)
        for name in ("optimizer", "learning_rate", "weight_decay", "batch_size", "freeze")
    }
    training |= {name: details.get(name) for name in ("epochs", "best_epoch", "train_images")}
    if training["train_images"] and training["best_epoch"] is not None and training["batch_size"]:
        training["steps"] = -(-training["train_images"] // training["batch_size"]) * (
            training["best_epoch"] + 1
        )
    training["test_accuracy"] = result.scores.get("test_accuracy")
    training |= {"key": result.key, "head": "new" if result.kind in NEW_HEAD else "own"}
    return {name: value for name, value in training.items() if value is not None}


def targets_of(words: Sequence[str], store: Store) -> dict[str, list[WeightState]]:
    """Return target → its fine-tuned states, of words NAME=WHERE or WHERE.

    Several of one name are its repeats.

    Without a name a file is called by its stem, and by its folder too where stems agree; a trial by
    its data set.
    """
    named: list[tuple[str, WeightState]] = []
    plain: list[WeightState] = []
    for word in words:
        name, equals, where = word.partition("=")
        if equals and not Path(word).expanduser().exists() and "/" not in name:
            named.append((name.strip(), state_of(where.strip(), store, "-b")))
        else:
            plain.append(state_of(word, store, "-b"))
    stems = [state.name for state in plain if not state.training]
    for state in plain:
        again = not state.training and stems.count(state.name) > 1
        named.append(
            (
                f"{Path(state.path).absolute().parent.name}/{state.name}" if again else state.name,
                state,
            )
        )
    targets: dict[str, list[WeightState]] = {}
    for name, state in named:
        targets.setdefault(name, []).append(state)
    for name, states in targets.items():
        if len(
            {
                state.path if state.path == DEFAULT else files.sha256(Path(state.path))
                for state in states
            }
        ) < len(states):
            raise UsageError(
                "same-weights",
                f"'{name}' has the same weights twice",
                where="-b",
                expected="repeats that differ, or a name of its own for each",
            )
    return targets
