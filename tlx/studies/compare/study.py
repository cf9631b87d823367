"""Study of tlx compare."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ... import files
from ...errors import BadDataError, TrialsFailedError, UsageError
from ...lab.records import DataInput
from ...spec import Spec
from ..base import Stage, Stages, Study, StudyReport, Trial
from ..feature_extraction.spec import FeatureExtraction
from ..fine_tuning.spec import FineTuning
from .spec import EXPERIMENT, CompareClassifiers, CompareDraws, CompareGrid, Decision

if TYPE_CHECKING:
    from ...result import Result
    from ..session import Session
    from .decision import Ending
    from .evidence import Evidence, Side


@dataclass(frozen=True)
class Compared:
    """What was run or found: the two sides, and what the record says of them."""

    features: Side
    tuning: Side
    title: str
    dataset: str
    inputs: tuple[DataInput, ...]
    ending: Ending
    scores: tuple[str, ...] = ()  # keys of the trials of scores, one a source
    left_trials: tuple[str, ...] = ()  # of fine-tunings of sources that were not gone on with


class CompareStudy(Study):
    """Study of both sides on the same draws, with a decision."""

    name = "compare"
    short = "Feature extraction or fine-tuning?"
    help = """Compare feature extraction and fine-tuning on the same draws and say which to use.

    Every classifier is trained on every draw; fine-tuning is run where it shrinks the expected
    loss of a wrong choice most per second. Ends with one sentence each on which to use, how sure
    that is, what it costs and what would change it, and with a page (page.html) that says why.
    """
    specs: ClassVar[tuple[type[Spec], ...]] = (
        CompareGrid,
        FineTuning,
        FeatureExtraction,
        CompareClassifiers,
        CompareDraws,
    )
    is_chained = True
    shown = (
        "dataset",
        "sources",
        "recipes",
        "architecture",
        "source",
        "shots",
        "splits",
        "split_path",
        "at",
        "alpha",
        "margin",
        "any_time",
        "budget",
        "classifier",
        "use_crops",
        "epochs",
        "learning_rate",
        "from_studies",
        "out",
    )

    def stages(self, session: Session) -> Stages:
        """Run both sides, or find them in the store; then decide."""
        from . import evidence, report

        grid = self.of(CompareGrid)
        hours = human_hours(grid.human_hours)
        if grid.from_studies:
            compared = _from_store(grid.from_studies, session)
        else:
            compared = yield from self._run_sides(session)
        data = evidence.gather(compared.features, compared.tuning)
        if grid.at is not None and grid.at not in [pair.shots for pair in data.pairs]:
            raise UsageError(
                "shots",
                f"--at {grid.at}",
                expected=f"one of {', '.join(str(pair.shots) for pair in data.pairs)}",
            )
        done = yield self._decision(data, compared, hours)
        outcome = report.outcome_of(session.store, done.results[-1])
        if grid.out:
            target = Path(grid.out).expanduser()
            files.write_bytes(target, (done.study_folder / report.PAGE).read_bytes())
            session.say(f"page: {target}")
        if report.has_no_decision(outcome):
            raise TrialsFailedError(
                "no-decision",
                "fine-tuning diverged or failed in too many draws",
                remedy="try a smaller --learning-rate",
            )

    def _run_sides(self, session: Session) -> Generator[Stage, StudyReport, Compared]:
        """Run feature extraction on every draw, then race fine-tuning."""
        from ..feature_extraction.plan import feature_extraction_study
        from ..fine_tuning.plan import fine_tuning_study
        from . import evidence, race
        from .decision import Ending

        grid, draws = self.of(CompareGrid), self.of(CompareDraws)
        tuning, features = self.of(FineTuning), self.of(FeatureExtraction)
        sources = grid.sources or (tuning.architecture,)
        if len(sources) > 1 and tuning.model:
            raise UsageError(
                "conflict",
                f"--model with {len(sources)} --sources",
                expected="one of the two: a weight file is of one network",
            )
        stages: dict[str, Stage] = {}
        feature_stages: dict[str, Stage] = {}
        with session.steps("reading and extracting") as progress:
            for source in sources:
                for tune in grid.tunes(tuning.tune):
                    spec = tuning.replace(architecture=source, tune=tune)
                    name = evidence.recipe_name(source, {"tune": tune})
                    stages[name], preflight = fine_tuning_study(
                        spec, draws, session.settings, progress
                    )
                    session.note(*preflight.notes)
                feature_stages[source], preflight = feature_extraction_study(
                    features.replace(architecture=source),
                    draws,
                    self.of(CompareClassifiers),
                    session.settings,
                    progress,
                )
                session.note(*preflight.notes)
        for of_sources in (stages, feature_stages):
            for source, stage in of_sources.items():
                of_sources[source] = replace(stage, write_trial_figures=_no_figures)
        whole = next(iter(stages.values()))
        scored = yield from self._score(sources, session)
        side = evidence.Side(evidence.FEATURES)
        yield from race.features_first(feature_stages, side)
        limit = max(trial.spec.split for trial in whole.trials) + 1
        racing = race.Race(evidence.Side(evidence.TUNING), limit, {})
        yield from race.fine_tune(stages, side, grid, session, racing)
        dataset = whole.inputs[0]["name"]
        return Compared(
            side,
            racing.side,
            f"{', '.join(sources)} on {dataset}",
            dataset,
            whole.inputs,
            Ending(racing.stopped, racing.share, racing.dropped_arms(grid.at)),
            scored,
            tuple(
                result.key
                for trials in racing.left_out.arms.values()
                for result in trials.values()
                if scored
            ),
        )

    def _score(
        self, sources: tuple[str, ...], session: Session
    ) -> Generator[Stage, StudyReport, tuple[str, ...]]:
        """Score the sources, and return the keys of their trials; () of one source."""
        from ..scores.plan import DrawChoice, scores_study
        from ..scores.spec import SourceScores

        if len(sources) < 2:
            return ()
        tuning = self.of(FineTuning)
        spec = SourceScores(
            architecture=sources[0],
            source=tuning.source,
            dataset=tuning.dataset,
            split_path=tuning.split_path,
            sizing=tuning.sizing,
            input_size=tuning.input_size,
            seed=tuning.seed,
        )
        choice = DrawChoice(self.of(CompareDraws), self.of(CompareGrid).at, only=True)
        with session.steps("scoring the sources") as progress:
            stage, notes = scores_study(spec, sources, choice, session.settings, progress)
        session.note(*notes)
        report = yield replace(stage, format_summary=_scored)
        return tuple(result.key for result in report.results)

    def _decision(self, data: Evidence, compared: Compared, hours: Mapping[str, float]) -> Stage:
        """Return the stage that records the decision."""
        from . import report

        grid = self.of(CompareGrid)
        keys = sorted(result.key for result in data.trials)
        at = grid.at or max(pair.shots for pair in data.pairs)
        ending = compared.ending
        about: dict[str, object] = {
            "title": compared.title,
            "rules": {
                "at": at,
                "alpha": grid.alpha,
                "margin": grid.margin,
                "human_hours": dict(hours),
                "price_hour": grid.price_hour,
                "currency": grid.currency,
            },
            "stopped": {str(shots): reason for shots, reason in ending.stopped.items()},
            "share": ending.share,
            "left_out": [asdict(row) for row in ending.left_out],
        }
        if compared.scores:
            about |= {"scores": list(compared.scores), "left_trials": sorted(compared.left_trials)}
        details = {"trials": keys, "classes": list(data.classes), **about}
        spec = Decision(
            dataset=compared.dataset,
            evidence=files.digest(keys),
            at=at,
            alpha=grid.alpha,
            margin=grid.margin,
            about=files.digest(about),
        )
        return Stage(
            key=files.digest(["compare", spec.key]),
            run=report.run,
            experiment=EXPERIMENT,
            title=compared.title,
            spec=spec.to_json(),
            trials=(Trial(spec, details),),
            inputs=compared.inputs,
            write_trial_figures=_no_figures,
            write_summary=report.write_summary,
            format_summary=report.format_summary,
        )


def _no_figures(folder: Path, result: Result, form: str | None = "png") -> None:
    """Draw nothing: of hundreds of trials, tlx plot draws those that are wanted."""


def _scored(report: StudyReport) -> str:
    """Return the closing line of the scores, which are on the page."""
    return f"{len(report.results)} sources scored; {report.study_folder / 'scores.csv'}"


def human_hours(words: tuple[str, ...]) -> dict[str, float]:
    """Return side → declared hours. Raises UsageError for anything but SIDE=HOURS."""
    from .evidence import SIDES

    names = {kind: side for side, kind in SIDES.items()}
    hours = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            hours[names[name.strip()]] = float(value)
            if not 0.0 <= hours[names[name.strip()]] < math.inf:
                raise ValueError
        except (KeyError, ValueError):
            raise UsageError(
                "human-hours",
                f"'{word}'",
                expected="feature-extraction=HOURS or fine-tuning=HOURS",
            ) from None
    return hours


def _from_store(requested: tuple[str, ...], session: Session) -> Compared:
    """Return both sides from finished studies of the store."""
    from ..listing import find
    from ..reporting import results_of
    from . import evidence
    from .decision import Ending

    features, tuning = evidence.Side(evidence.FEATURES), evidence.Side(evidence.TUNING)
    titles: list[str] = []
    inputs: dict[str, DataInput] = {}
    for word in requested:
        for key in find(session.store, word):
            study = session.store.read_study(key)
            if study is None:
                continue
            titles.append(str(study["title"]))
            inputs |= {row["digest"]: row for row in study.get("inputs", [])}
            results = results_of(session.store, study)
            features.add(results)
            tuning.add(results)
    if len(inputs) > 1:
        names = ", ".join(row["name"] for row in inputs.values())
        raise BadDataError(
            "other-images",
            f"{len(inputs)} sets of test images: {names}",
            where="--from-studies",
            expected="studies of one data set, with the same splits and sizes",
        )
    dataset = next(iter(inputs.values()))["name"] if inputs else ""
    title = ", ".join(dict.fromkeys(titles))
    return Compared(features, tuning, title, dataset, tuple(inputs.values()), Ending())
