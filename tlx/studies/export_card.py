"""Model card of an exported trial, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..features import voting
from ..result import Result

if TYPE_CHECKING:
    from .export import ExportRequest

SHOWN_CLASSES = 200  # rows of the table per class


def card(
    record: dict[str, Any],
    result: Result,
    labels: np.ndarray,
    decided: np.ndarray,
    siblings: Sequence[Result],
    request: ExportRequest,
) -> str:
    """Return the card: use, data, accuracy, classes, cost, limits, commands."""
    sections = [
        _head(record, result, request),
        _use(record),
        _accuracy(record, result, siblings),
        _per_class(record, labels, decided),
        _cost(result),
        _limits(record, result),
        _made_with(record, request),
    ]
    return "\n\n".join(sections) + "\n"


def _head(record: dict[str, Any], result: Result, request: ExportRequest) -> str:
    spec, details = result.spec, result.details
    classes = record["classes"]
    shown = ", ".join(classes[:20])
    if len(classes) > 20:
        shown += f" and {len(classes) - 20} more"
    way = "a fine-tuned network"
    if result.kind == "feature-extraction":
        way = f"the classifier {spec['classifier']} on features of a frozen network"
    train = details.get("train_images", 0)
    return "\n".join(
        [
            f"# {record['title'] or 'Image classifier'}",
            "",
            f"Image classifier with {len(classes)} classes: {shown}. It is {way} "
            f"({spec['architecture']}), trained on {spec['shots']} images per class ({train} in "
            f"all) of the data set {request.chosen.study.get('tags', {}).get('tlx.dataset', '')}.",
            "",
            f"Chosen: {request.chosen.reason}.",
        ]
    )


def _use(record: dict[str, Any]) -> str:
    colour = "grey" if record["channels"] == 1 else "RGB"
    count = len(record["crops"])
    crops = "the image as a whole is classified"
    if count > 1:
        crops = f"{count} crops vote ({record['vote']})"
    return "\n".join(
        [
            "## Use",
            "",
            f"Input: image files, made {colour} and scaled ({record['sizing']['mode']}) by the "
            f"model itself; {crops}. Output: a label, and a probability for each class.",
            "",
            "```bash",
            "tlx predict FOLDER_OF_THIS_CARD photos/",
            "mlflow models serve -m FOLDER_OF_THIS_CARD/mlflow --env-manager local",
            "```",
            "",
            "Without `--env-manager local` MLflow makes an environment of its own with pyenv.",
        ]
    )


def _accuracy(record: dict[str, Any], result: Result, siblings: Sequence[Result]) -> str:
    accuracy = record["accuracy"]
    interval = "one image a class is too few for an interval"
    if accuracy["low"] is not None:
        interval = f"95 % interval {_percent(accuracy['low'])} to {_percent(accuracy['high'])}"
    of = accuracy["of"]
    lines = [
        "## Accuracy",
        "",
        f"{_percent(accuracy['value'])} of {accuracy['images']} {of}, as the mean over classes "
        f"({interval}, over other images of the same kind). The exported model gives each of these "
        "images the label that the trial gave it.",
    ]
    scores = [r.scores["test_accuracy"] for r in siblings]
    if len(scores) > 1:
        lines.append(
            f"Other draws of {result.spec['shots']} training images per class gave "
            f"{_percent(min(scores))} to {_percent(max(scores))}, {_percent(np.mean(scores))} on "
            f"average ({len(scores)} draws)."
        )
    temperature = record["temperature"]
    error = record["calibration"]["expected_calibration_error"]
    lines.append(
        f"Probabilities: softmax at temperature {temperature['crop']:.4g} for a crop, and "
        f"{temperature['image']:.4g} for their mean, fitted on the "
        f"{result.details.get('val_images', 0)} validation images; expected calibration error "
        f"{error:.3f} ({record['calibration']['bins']} bins, {of}). The temperatures change no "
        "label."
    )
    return "\n".join(lines)


def _per_class(record: dict[str, Any], labels: np.ndarray, decided: np.ndarray) -> str:
    counts = voting.confusion(labels, decided, len(record["classes"]))
    lines = ["## Per class", "", "| class | images | recognised |", "|---|---|---|"]
    for number, name in enumerate(record["classes"][:SHOWN_CLASSES]):
        images = int(counts[number].sum())
        share = _percent(counts[number, number] / images) if images else "–"
        lines.append(f"| {_cell(name)} | {images} | {share} |")
    more = len(record["classes"]) - SHOWN_CLASSES
    if more > 0:
        lines.append(f"\nand {more} more classes")
    return "\n".join(lines)


def _cost(result: Result) -> str:
    lines = ["## Cost of the trial", "", "What could not be measured is left out.", ""]
    for name, row in result.cost.items():
        value = row.get("value")
        if value is not None:
            unit = f"{value:.4g} {row.get('unit', '')}".strip()
            lines.append(f"- {name}: {unit} ({row.get('source')})")
    seconds = result.scores.get("total_s")
    if seconds is not None:
        lines.append(f"- seconds of training and scoring: {seconds:.2f}")
    return "\n".join(lines)


def _limits(record: dict[str, Any], result: Result) -> str:
    few = [
        name
        for name, row in zip(record["classes"], result.details.get("confusion") or [], strict=False)
        if sum(row) < 10
    ]
    lines = [
        "## Limits",
        "",
        "- It knows these classes only: a picture of anything else gets one of these labels.",
        "- The accuracy holds for images of the same kind as those it was scored on.",
        f"- It learned from {result.spec['shots']} images per class.",
    ]
    if result.spec.get("precision") == "bfloat16":
        lines.append("- The trial computed in bfloat16, this model in float32.")
    if few:
        lines.append(f"- Fewer than 10 images were scored of: {', '.join(few[:20])}.")
    return "\n".join(lines)


def _made_with(record: dict[str, Any], request: ExportRequest) -> str:
    versions = record["versions"]
    shown = ", ".join(
        f"{name} {versions[name]}" for name in ("tlx", "torch", "python") if name in versions
    )
    return "\n".join(
        [
            "## Made with",
            "",
            f"Trial {record['key']}; {shown}.",
            "",
            "```bash",
            request.command or f"tlx export {record['key'][:12]}",
            "```",
        ]
    )


def _percent(share: Any) -> str:
    return f"{100 * float(share):.1f} %"


def _cell(name: str) -> str:
    return name.replace("|", "\\|").replace("\n", " ")
