"""Plan of a study of scores: check the data, extract each source once, list the draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from ... import files
from ...data import splits
from ...data.csvs import Row
from ...errors import TlxError, UsageError, raise_all
from ...features.dump import Dump, ExtractionConfig
from ...features.extract import extract
from ...lab import signals
from ...lab.settings import Settings
from ...metrics.source_nulls import null_values
from ...models.network import Network
from ...spec import derive_seed
from ..activations import _dump_place, layers_of, whole_network
from ..base import Stage, Trial
from ..few_shot import FewShotGrid
from ..few_shot_inputs import PreflightResult, Progress, draws, pool_rows, preflight, rows_digest
from ..image_data import digests
from ..source_list import parse_sources
from . import report
from . import trial as scores_trial
from .spec import ALL_IMAGES, EXPERIMENT, SourceScores
from .trial import ScoredDraw, ScoreInputs

PRELOAD = ("tlx.metrics.scores", "sklearn.mixture")
NO_WEIGHTS = "the source has random weights, and no head of its own"
OTHER_HEAD = "the source's head is no single dense layer"


DrawnRows = tuple[int, int, tuple[Row, ...]]  # shots, split, rows


@dataclass(frozen=True)
class DrawChoice:
    """Which draws of a grid are scored.

    at    training images per class that the answer is for; None: the most, 0: all images
    only  the draws of `at` alone, besides all training images; else every draw
    """

    few: FewShotGrid
    at: int | None = None
    only: bool = False

    def draws(
        self, spec: SourceScores, result: PreflightResult, settings: Settings
    ) -> list[DrawnRows]:
        """Return what is scored; all training images come last, at 0 shots.

        Raises UsageError if there is no draw of `at`.
        """
        folder = result.splits
        assert folder is not None
        listed = draws(spec, self.few, folder)
        shots = sorted({k for k, _ in listed})
        if self.at not in (None, ALL_IMAGES, *shots):
            known = ", ".join(map(str, shots))
            raise UsageError(
                "shots",
                f"--at {self.at}",
                expected=f"one of {known}" + ("" if self.only else ", or 0"),
            )
        if self.only:
            listed = [(k, s) for k, s in listed if k == (self.at or shots[-1])]
        rows = [(k, s, folder.train(k, s)) for k, s in listed]
        return [*rows, (ALL_IMAGES, 0, _sampled(spec, folder, _pool(result, settings)))]


@dataclass(frozen=True)
class LookedAt:
    """Preflight of one source, and what is scored."""

    spec: SourceScores
    result: PreflightResult
    draws: list[DrawnRows]


def _pool(result: PreflightResult, settings: Settings) -> list[Row]:
    """Return the training images, each content once.

    Left out are copies of validation and test images, and what has two labels.
    """
    folder = result.splits
    assert folder is not None
    pool, held = pool_rows(folder), [*folder.val, *folder.test]
    contents = digests([result.find(row) for row in (*pool, *held)], settings.cache_folder)
    labels: dict[str, set[str]] = {}
    for row, content in zip(pool, contents, strict=False):
        labels.setdefault(content, set()).add(row.label)
    seen = set(contents[len(pool) :])
    kept = []
    for row, content in zip(pool, contents, strict=False):
        if content not in seen and len(labels[content]) == 1:
            kept.append(row)
        seen.add(content)
    return kept


def _sampled(
    spec: SourceScores, folder: splits.SplitFolder, pool: Sequence[Row]
) -> tuple[Row, ...]:
    """Return at most `pool_images` of each class, drawn with the seed."""
    by_class: dict[str, list[Row]] = {label: [] for label in folder.classes}
    for row in pool:
        by_class[row.label].append(row)
    chosen: list[Row] = []
    for label, rows in by_class.items():
        rng = np.random.default_rng(derive_seed(spec.seed, "pool", label))
        order = rng.permutation(len(rows))[: spec.pool_images]
        chosen += [rows[number] for number in np.sort(order)]
    return tuple(chosen)


def scores_study(
    spec: SourceScores,
    sources: Sequence[str],
    choice: DrawChoice,
    settings: Settings,
    progress: Progress | None = None,
) -> tuple[Stage, list[str]]:
    """Return a trial for each source, its activations extracted (once, ever), and notes.

    sources  backbones, as `parse_sources` reads them; (): the one of `spec`
    Raises ErrorGroup with the errors of all sources.
    """
    looked = look_at_sources(spec, sources, choice, settings, progress)
    notes: list[str] = []
    trials = []
    for own in looked.values():
        trials.append(_trial(own.spec, own, settings, progress))
        notes += [note for note in own.result.notes if note not in notes]
    return _stage(spec, looked, choice.few, tuple(trials)), notes


def look_at_sources(
    spec: SourceScores,
    sources: Sequence[str],
    choice: DrawChoice,
    settings: Settings,
    progress: Progress | None = None,
    *,
    keep: bool = True,
) -> dict[str, LookedAt]:
    """Run the preflight of each source, as `preflight`, and return them by name.

    Raises ErrorGroup with the errors of all sources.
    """
    problems: list[TlxError] = []
    looked: dict[str, LookedAt] = {}
    for source in parse_sources(sources, spec.architecture, spec.model):
        own = spec.replace(architecture=source.architecture, model=source.model)
        looked[source.label] = _look(own, choice, settings, progress, keep)
        problems += [
            p for p in looked[source.label].result.problems if str(p) not in map(str, problems)
        ]
    raise_all(problems)
    return looked


def _look(
    spec: SourceScores,
    choice: DrawChoice,
    settings: Settings,
    progress: Progress | None,
    keep: bool,
) -> LookedAt:
    """Run the preflight of one source; of the images only those that are scored are read."""

    def load() -> Network:
        return whole_network(spec, spec.layers, None)

    drawn: list[DrawnRows] = []

    def used(result: PreflightResult) -> list[Row]:
        drawn.extend(choice.draws(spec, result, settings))
        return list(dict.fromkeys(row for _, _, rows in drawn for row in rows))

    result = preflight(spec, choice.few, settings, load, progress, keep=keep, used=used)
    return LookedAt(spec, result, drawn)


def _trial(
    spec: SourceScores, looked: LookedAt, settings: Settings, progress: Progress | None
) -> Trial:
    result = looked.result
    assert result.network is not None
    assert result.splits is not None
    network, classes = result.network, result.splits.classes
    layers = layers_of(network, spec.layers, None)
    head, no_head = _head(spec, network)
    dump = _extracted(spec, result, (*layers, *([head] if head else [])), settings, progress)
    code = {label: number for number, label in enumerate(classes)}
    drawn = []
    for shots, split, rows in looked.draws:
        images = np.array([result.places[result.find(row)] for row in rows], np.int64)
        labels = np.array([code[row.label] for row in rows], np.int64)
        drawn.append(ScoredDraw(shots, split, images, labels))
    inputs = ScoreInputs(
        classes,
        dump,
        layers,
        head,
        no_head,
        tuple(drawn),
        null_values(
            spec.architecture.strip().lower(),
            parameters=_parameters(network),
            top1=network.row.top1,
            is_published=spec.start_from == "default",
        ),
    )
    return Trial(
        spec.replace(weights=result.weights, layers=layers, images=_content(result, inputs)),
        inputs,
    )


def _head(spec: SourceScores, network: Network) -> tuple[str, str]:
    """Return the layer of the logits of the source's own head, or why there is none."""
    if spec.start_from is None:
        return "", NO_WEIGHTS
    if len(network.head_names) != 1 or not isinstance(network.head, nn.Linear):
        return "", OTHER_HEAD
    return network.head_names[0], ""


def _parameters(network: Network) -> int:
    """Count the parameters of the blocks: the head is replaced."""
    of_head = {id(p) for n in network.head_names for p in network.net.get_submodule(n).parameters()}
    return sum(p.numel() for p in network.net.parameters() if id(p) not in of_head)


def _extracted(
    spec: SourceScores,
    result: PreflightResult,
    layers: tuple[str, ...],
    settings: Settings,
    progress: Progress | None,
) -> Dump:
    assert result.network is not None
    assert result.pixels is not None
    with signals.graceful() as stopping:
        place = _dump_place(result, settings, progress, stopping)
        how = ExtractionConfig(reduce=spec.reduce)
        dump = extract(
            result.network, result.weights, result.pixels, tuple(dict.fromkeys(layers)), place, how
        )
        signals.stop_if_asked()
    return dump


def _content(result: PreflightResult, inputs: ScoreInputs) -> str:
    """Return the digest of pixels, labels and draws that the scores are made from."""
    assert result.pixels is not None
    rows = [
        [draw.shots, draw.split, draw.images.tolist(), draw.labels.tolist()]
        for draw in inputs.draws
    ]
    return files.digest([inputs.classes, result.pixels.digest, rows])


def _stage(
    spec: SourceScores,
    looked: Mapping[str, LookedAt],
    few: FewShotGrid,
    trials: tuple[Trial, ...],
) -> Stage:
    sources, result = tuple(looked), next(iter(looked.values())).result
    assert result.folder is not None
    assert result.splits is not None
    name = result.folder.name
    pool = rows_digest(pool_rows(result.splits))
    keys = sorted(trial.spec.key for trial in trials)
    shown = "many sources" if len(sources) > 3 else ", ".join(sources)
    return Stage(
        key=files.digest(["scores", keys]),
        run=scores_trial.run,
        experiment=EXPERIMENT,
        title=f"scores of {shown} on {name}",
        spec={
            name: value
            for name, value in spec.to_json().items()
            if name not in ("shots", "split", "images", "weights", "architecture")
        },
        trials=trials,
        inputs=(
            {
                "name": name,
                "source": str(result.folder.root),
                "digest": pool[:36],
                "context": "train",
            },
        ),
        tags={
            "tlx.dataset": name,
            "tlx.job": str(few.job),
            "tlx.splits": str(result.splits.folder),
        },
        preload=PRELOAD,
        write_trial_figures=report.no_figures,
        write_summary=report.write_summary,
        format_summary=report.format_summary,
    )
