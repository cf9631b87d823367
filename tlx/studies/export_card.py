"""Model card of an exported trial, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import counted
from ..result import Result

if TYPE_CHECKING:
    from .export import ExportRequest

SHOWN_CLASSES = 200  # rows of the table per class


def card(
    record: dict[str, Any],
    result: Result,
    siblings: Sequence[Result],
    request: ExportRequest,
) -> str:
    """Return the card: use, data, accuracy, classes, cost, limits, commands."""
    sections = [
        _head(record, result, request),
        _use(record),
        _accuracy(record, result, siblings),
        _per_class(record),
        _cost(record, result),
        _limits(record, result),
        _made_with(record, request),
    ]
    return "\n\n".join(sections) + "\n"


def _head(record: dict[str, Any], result: Result, request: ExportRequest) -> str:
    spec, classes = result.spec, record["classes"]
    shown = ", ".join(classes[:20])
    if len(classes) > 20:
        shown += f" and {len(classes) - 20} more"
    way = "a fine-tuned network"
    if result.kind == "feature-extraction":
        way = f"the classifier {spec['classifier']} on features of a frozen network"
    return "\n".join(
        [
            f"# {record['title'] or 'Image classifier'}",
            "",
            f"Image classifier with {counted(len(classes), 'class', 'classes')}: "
            f"{shown}. It is {way} "
            f"({spec['architecture']}), trained on {_amount(record, result)} of the data set "
            f"{request.chosen.study.get('tags', {}).get('tlx.dataset', '')}.",
            "",
            f"Chosen: {request.chosen.reason}.",
        ]
    )


def _amount(record: dict[str, Any], result: Result) -> str:
    """Return how many images the model learned from, in words."""
    if "refit" in record:
        return f"all {record['refit']['train_images']} training images"
    train = result.details.get("train_images", 0)
    return f"{result.spec['shots']} images per class ({train} in all)"


def _use(record: dict[str, Any]) -> str:
    colour = "grey" if record["channels"] == 1 else "RGB"
    count = len(record["crops"])
    crops = "the image as a whole is classified"
    if count > 1:
        crops = f"{counted(count, 'crop')} vote ({record['vote']})"
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
    of, same_labels = accuracy["of"], _same_labels(is_refit="refit" in record)
    lines = [
        "## Accuracy",
        "",
        f"{_percent(accuracy['value'])} of {accuracy['images']} {of}, as the mean over classes "
        f"({interval}, over other images of the same kind). {same_labels}",
    ]
    scores = [r.scores["test_accuracy"] for r in siblings]
    if "refit" in record:
        lines.append(_refit(record, result))
    elif len(scores) > 1:
        lines.append(
            f"Other draws of {result.spec['shots']} training images per class gave "
            f"{_percent(min(scores))} to {_percent(max(scores))}, {_percent(np.mean(scores))} on "
            f"average ({counted(len(scores), 'draw')})."
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


def _same_labels(*, is_refit: bool) -> str:
    """Return what the labels of the exported model were compared with."""
    maker = "the network and classifier that were trained for it" if is_refit else ""
    return (
        "The exported model gives each of these images the label that "
        f"{maker or 'the trial'} gave it."
    )


def _refit(record: dict[str, Any], result: Result) -> str:
    """Return what is known of a model that no trial has scored."""
    refit = record["refit"]
    text = (
        "It was trained again, with the settings of the chosen trial, on all training images. No "
        "trial scored this model, so its labels could not be compared with a trial's: its accuracy "
        f"on validation images is {_percent(refit['val_accuracy'])}, that of the trial, which "
        f"learned from {result.spec['shots']} images per class, was "
        f"{_percent(refit['trial_val_accuracy'])}"
    )
    if refit["trial_test_accuracy"] is not None:
        text += f" ({_percent(refit['trial_test_accuracy'])} on test images)"
    return f"{text}."


def _per_class(record: dict[str, Any]) -> str:
    counts = np.array(record["confusion"])
    lines = ["## Per class", "", "| class | images | recognised |", "|---|---|---|"]
    for number, name in enumerate(record["classes"][:SHOWN_CLASSES]):
        images = int(counts[number].sum())
        share = _percent(counts[number, number] / images) if images else "–"
        lines.append(f"| {_cell(name)} | {images} | {share} |")
    more = len(record["classes"]) - SHOWN_CLASSES
    if more > 0:
        lines.append(f"\nand {more} more classes")
    return "\n".join(lines)


def _cost(record: dict[str, Any], result: Result) -> str:
    lines = ["## Cost of the trial", "", "What could not be measured is left out.", ""]
    for name, row in result.cost.items():
        value = row.get("value")
        if value is not None:
            unit = f"{value:.4g} {row.get('unit', '')}".strip()
            lines.append(f"- {name}: {unit} ({row.get('source')})")
    seconds = result.scores.get("total_s")
    if seconds is not None:
        lines.append(f"- seconds of training and scoring: {seconds:.2f}")
    if "refit" in record:
        took = record["refit"]["seconds"]
        lines.append(f"- seconds of training on all images and of scoring them: {took:.2f}")
    return "\n".join(lines)


def _limits(record: dict[str, Any], result: Result) -> str:
    few = [
        name
        for name, row in zip(record["classes"], record["confusion"], strict=True)
        if sum(row) < 10
    ]
    lines = [
        "## Limits",
        "",
        "- It knows these classes only: a picture of anything else gets one of these labels.",
        "- The accuracy holds for images of the same kind as those it was scored on.",
        f"- It learned from {_amount(record, result)}.",
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
