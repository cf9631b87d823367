"""Spellings of the original programs: their options, by the tlx command that does their work."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

ORIGINALS: dict[str, dict[str, str]] = {  # command → option of an original → the words for it
    "quanta": {
        "--outdir": "--export",
        "--output-dir": "--export",
        "--repeat": "--repeats",
        "--nb-of-runs": "--repeats",
        "--layer": "--positions",
        "--layer-to-transfer": "--positions",
        "--target-task": "--dataset",
        "--targetTask": "--dataset",
        "-t": "--dataset",
        "--source-task": "--source",
        "-s": "--source",
        "--source-weights": "--model",
        "-sw": "--model",
        "--nb-of-epochs": "--epochs",
        "--augment-data": "--augment=2025",
    },
    "layer-transfer": {
        "-data-path": "--dataset",
        "--data": "--dataset",
        "-freeze": "--depths",
        "--n-freeze": "--depths",
        "-copy": "--depths",
        "--n-copy": "--depths",
        "-base": "--model",
        "--base": "--model",
        "--pre-dataset": "--source",
    },
    "chop": {
        "-data-path": "--dataset",
        "--data": "--dataset",
        "-freeze": "--depths",
        "--n-freeze": "--depths",
    },
    "prune": {
        "-data-path": "--dataset",
        "--data": "--dataset",
        "-base-model": "--model",
        "-keep-iter": "--keep",
        "-iter": "--iterations",
        "--iter": "--iterations",
    },
    "evaluate": {
        "-model": "--models",
        "--trained-model": "--models",
        "-data": "--dataset",
        "-data-path": "--dataset",
        "--data": "--dataset",
    },
    "checkpoints": {
        "--pre-dataset": "--sources",
        "--trained-on": "--sources",
        "--dataset": "--targets",
    },
    "fine-tuning": {
        "--pre-dataset": "--source",
    },
    "analyze": {
        "--model-folder": "--networks",
    },
    "pretrain": {
        "--data-dir": "--dataset",
        "--max-epoch": "--epochs",
    },
    "parameter-distance": {
        "--data-dir": "--dataset",
        "--max-epoch": "--epochs",
    },
}
WEIGHT_FILE = (".pth", ".pt", ".safetensors")
SHORT_WITH_VALUE = re.compile(r"(-[A-Za-z])=(.*)", re.DOTALL)


def translated(words: list[str]) -> list[str]:
    """Return a command's words with the spellings of its original in those of tlx.

    An option of one letter may have its value after "=", and --model of the trade-off study may
    have two values, weights and their description.
    """
    if "--" in words:  # what follows is no option
        end = words.index("--")
        return [*translated(words[:end]), *words[end:]]
    command = next((word for word in words if not word.startswith("-")), "")
    command = command.replace("_", "-")
    known = ORIGINALS.get(command, {})
    if command == "feature-extraction":
        words = list(_with_description(words))
    if command == "pretrain":
        words = list(_with_output(words))
    return [part for word in words for part in _translated(word, known)]


def _translated(word: str, known: Mapping[str, str]) -> list[str]:
    if match := SHORT_WITH_VALUE.fullmatch(word):
        option, value = match.groups()
        return [known.get(option, option), value]
    option, equals, value = word.partition("=")
    ours = known.get(option) or known.get(option.replace("_", "-"))
    if not ours or not word.startswith("-"):
        return [word]
    return [f"{ours}{equals}{value}"]


def _with_description(words: list[str]) -> Iterator[str]:
    """Give the second value of --model an option of its own: the description, a JSON file."""
    for number, word in enumerate(words):
        if number > 1 and words[number - 2] in ("--model", "-m") and word.endswith(".json"):
            yield "--model-description"
        yield word


def _with_output(words: list[str]) -> Iterator[str]:
    """Take a weight file after -a for where the converged weights are to be written."""
    for number, word in enumerate(words):
        following = words[number + 1] if number + 1 < len(words) else ""
        yield "--out" if word == "-a" and following.endswith(WEIGHT_FILE) else word
