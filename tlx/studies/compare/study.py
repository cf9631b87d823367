"""Study of tlx compare."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ... import files
from ...errors import BadDataError, TlxError, TrialsFailedError, UsageError, counted, raise_all
from ...lab.records import DataInput, StoredStudy
from ...lab.settings import expanded
from ...models.tune_choices import NOTHING_TO_TUNE
from ...spec import Spec
from ..base import Stage, Stages, Study, StudyReport, Trial
from ..export_options import ExportOptions
from ..feature_extraction.spec import FeatureExtraction
from ..fine_tuning.spec import FineTuning
from ..source_list import SourceChoice, parse_sources, source_label
from .spec import (
    EXPERIMENT,
    ChoiceRules,
    CompareClassifiers,
    CompareDraws,
    CompareGrid,
    Decision,
)

if TYPE_CHECKING:
    from ...result import Result
    from ..planning import StudyPlan
    from ..session import Progress, Session
    from .decision import Ending
    from .evidence import Evidence, FailedArm, Side
    from .use import FrozenPlan


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
    test_files: tuple[str, ...] = ()  # of the test images, in the order of predictions
    frozen: Mapping[str, FrozenPlan] = field(default_factory=dict)  # key of a trial → it, to refit


@dataclass(frozen=True)
class PlannedSides:
    """Stages of both sides with every split: by recipe, and by source; files of the test images."""

    tuning: dict[str, Stage]
    features: dict[str, Stage]
    test_files: tuple[str, ...]


class CompareStudy(Study):
    """Study of both sides on the same draws, with a decision."""

    name = "compare"
    short = "Feature extraction or fine-tuning?"
    help = """Compare feature extraction and fine-tuning on the same draws and say which to use.

    Every classifier is trained on every draw; fine-tuning is run where it shrinks the expected
    loss of a wrong choice most per second. Ends with one sentence each on which to use, how sure
    that is, what it costs and what would change it, and with a page (page.html) that says why.
    Given several data sets (--dataset A,B,C), it does so for each, and says what simple rules
    would have lost there.
    """
    specs: ClassVar[tuple[type[Spec], ...]] = (
        CompareGrid,
        FineTuning,
        FeatureExtraction,
        CompareClassifiers,
        CompareDraws,
        ExportOptions,
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
        "export",
        "register",
        "refit",
    )

    def plan(self, session: Session) -> StudyPlan:
        """Plan every fine-tuning and feature extraction; a race leaves many fine-tunings out."""
        from ..feature_extraction import plan as features_plan
        from ..few_shot_inputs import draws
        from ..planning import of_stage, with_extractions, without_trials

        grid, few = self.of(CompareGrid), self.of(CompareDraws)
        tuning, frozen = self.of(FineTuning), self.of(FeatureExtraction)
        if grid.from_studies:
            return without_trials(self, "finished studies", (), trials=0)
        stages: list[Stage] = []
        extractions, feature_trials = [], 0
        for name in data_sets(tuning.dataset):
            for source in parse_sources(grid.sources, tuning.architecture, tuning.model):
                own = {
                    "dataset": name,
                    "architecture": source.architecture,
                    "model": source.model,
                }
                with session.steps("reading images") as progress:
                    recipes, unfit = self._recipes(session, tuning.replace(**own), progress)
                if unfit is not None and not recipes:
                    raise unfit
                stages += recipes.values()
                spec = frozen.replace(**own)
                result = features_plan.look_at_features(spec, few, session.settings, keep=False)
                raise_all(result.problems)
                assert result.splits is not None
                extractions.append(features_plan.extracted(spec, result))
                names = self.of(CompareClassifiers).classifiers
                feature_trials += len(names) * len(draws(spec, few, result.splits))
        whole = replace(
            stages[0],
            title=f"both sides on {tuning.dataset}",
            trials=tuple(trial for stage in stages for trial in stage.trials),
            further=(),
        )
        notes = (RACING,) if grid.any_time else ()
        trainings = of_stage(self, whole, session.settings, notes)
        return with_extractions(trainings, extractions, feature_trials, session.settings)

    def stages(self, session: Session) -> Stages:
        """Run both sides, or find them in the store; then decide, for each data set."""
        from .. import exporting

        grid, options = self.of(CompareGrid), self.of(ExportOptions)
        exporting.check(options, session.settings, self._frozen_trials())
        hours = human_hours(grid.human_hours)
        decided: list[tuple[str, Result]] = []
        keys: list[str] = []
        failed: list[FailedArm] = []
        if grid.from_studies:
            _check_unused(self.given.values())
            of_studies = _from_store(grid.from_studies, session)
            if options.is_wanted:
                exporting.check_served(
                    result.spec
                    for compared in of_studies
                    for trials in compared.features.arms.values()
                    for result in trials.values()
                )
            for compared in of_studies:
                decided.append((yield from self._decide(compared, session, hours, keys)))
        else:
            if self.of(FineTuning).model_selection:
                raise UsageError(
                    "conflict",
                    "--model-selection",
                    expected="trials that are tested: sides are compared on test images",
                )
            names = data_sets(self.of(FineTuning).dataset)
            _check_places(names, self.of(FineTuning), grid, options)
            for name in names:
                compared = yield from self._run_sides(session, name)
                failed += compared.ending.failed
                decided.append((yield from self._decide(compared, session, hours, keys)))
        if len(decided) > 1:
            yield _rules_stage(decided)
        _require_decisions(decided, session)
        if len(keys) == 1:
            exporting.export_study(options, session, keys[0])
        elif options.is_wanted:
            raise UsageError(
                "conflict",
                f"--export or --register with {counted(len(keys), 'data set')}",
                expected="one data set",
                remedy="tlx export KEY takes the model of one comparison",
            )
        if failed:
            raise TrialsFailedError(
                "arms-failed",
                "the decision is without what failed: " + "; ".join(row.words for row in failed),
                remedy="the same command tries it again and keeps the finished trials",
            )

    def _frozen_trials(self) -> list[dict[str, object]]:
        """Return the settings of feature extraction, one a classifier; [] of finished studies."""
        from .. import exporting

        if self.of(CompareGrid).from_studies:
            return []
        return exporting.of_classifiers(
            self.of(FeatureExtraction).to_json(), self.of(CompareClassifiers).classifiers
        )

    def _decide(
        self,
        compared: Compared,
        session: Session,
        hours: Mapping[str, float],
        keys: list[str],
    ) -> Generator[Stage, StudyReport, tuple[str, Result]]:
        """Record the decision on one data set; return the data set and the record.

        keys  the key of its study is added
        """
        from . import evidence, examples, report

        grid = self.of(CompareGrid)
        data = evidence.gather(compared.features, compared.tuning)
        _check_at(grid.at, [pair.shots for pair in data.pairs])
        at = grid.at or max(pair.shots for pair in data.pairs)
        shown: dict[str, str] = {}
        if grid.thumbnails and compared.test_files:
            pairs = next(pair for pair in data.pairs if pair.shots == at)
            for row in examples.confusions(evidence.tables_of(session.store, pairs)):
                shown |= {str(image): compared.test_files[image] for image in row.images}
        done = yield self._decision(data, compared, hours, shown)
        keys.append(done.key)
        if grid.out:
            target = expanded(grid.out)
            files.write_bytes(target, (done.study_folder / report.PAGE).read_bytes())
            session.say(f"page: {target}")
        return compared.dataset, done.results[-1]

    def _sides(
        self, session: Session, tuning: FineTuning, sources: Sequence[SourceChoice]
    ) -> PlannedSides:
        """Check the data and plan both sides: every source, with every recipe and classifier."""
        from ..feature_extraction.plan import feature_extraction_study

        draws = self.of(CompareDraws)
        frozen = self.of(FeatureExtraction).replace(dataset=tuning.dataset)
        sides = PlannedSides({}, {}, ())
        unfit: TlxError | None = None
        modules = _modules(sources)
        with session.preparing("reading and extracting", modules) as progress:
            for source in sources:
                own = tuning.replace(architecture=source.architecture, model=source.model)
                stages, error = self._recipes(session, own, progress)
                sides.tuning.update(stages)
                unfit = error or unfit
                stage, preflight = feature_extraction_study(
                    frozen.replace(architecture=source.architecture, model=source.model),
                    draws,
                    self.of(CompareClassifiers),
                    session.settings,
                    progress,
                )
                sides.features[source.label] = replace(stage, is_grouped=True)
                session.note(*preflight.notes)
        if unfit is not None and not sides.tuning:
            raise unfit
        for stages in (sides.tuning, sides.features):
            for name, stage in stages.items():
                stages[name] = replace(
                    stage,
                    write_trial_figures=_no_figures,
                    leaves_out_failures=True,
                    is_optional=True,
                    preload=(*modules, *stage.preload),
                )
        assert preflight.splits is not None
        test_files = tuple(str(preflight.find(row)) for row in preflight.splits.test)
        return replace(sides, test_files=test_files)

    def _recipes(
        self, session: Session, tuning: FineTuning, progress: Progress | None
    ) -> tuple[dict[str, Stage], TlxError | None]:
        """Return the fine-tunings of a source by name: every recipe at every learning rate.

        A recipe that the network has no part for is left out with a note; its error comes second.
        """
        from ..fine_tuning.plan import fine_tuning_study
        from . import evidence

        grid, draws = self.of(CompareGrid), self.of(CompareDraws)
        recipes = [
            (tune, rate)
            for tune in grid.tunes(tuning.tune)
            for rate in grid.rates(tuning.learning_rate)
        ]
        stages: dict[str, Stage] = {}
        unfit: TlxError | None = None
        for tune, rate in recipes:
            spec = tuning.replace(tune=tune, learning_rate=rate)
            name = evidence.recipe_name(
                source_label(tuning.to_json()), {"tune": tune, "learning_rate": rate}
            )
            try:
                stage, preflight = fine_tuning_study(spec, draws, session.settings, progress)
            except TlxError as error:
                if error.code != NOTHING_TO_TUNE:
                    raise
                unfit = error
                session.note(f"{name} is left out: {error.what}")
                continue
            if grid.learning_rates:
                stage = replace(stage, title=f"{stage.title}, learning rate {rate:g}")
            stages[name] = stage
            session.note(*preflight.notes)
        return stages, unfit

    def _run_sides(self, session: Session, dataset: str) -> Generator[Stage, StudyReport, Compared]:
        """Run feature extraction on every draw of a data set, then race fine-tuning."""
        from . import evidence, race, use
        from .decision import Ending

        grid = self.of(CompareGrid)
        tuning = self.of(FineTuning).replace(dataset=dataset)
        sources = parse_sources(grid.sources, tuning.architecture, tuning.model)
        planned = self._sides(session, tuning, sources)
        stages = planned.tuning
        whole = next(iter(stages.values()))
        _check_at(grid.at, {trial.spec.shots for trial in whole.trials})
        scored = yield from self._score(grid.sources, tuning, session)
        side = evidence.Side(evidence.FEATURES)
        limit = max(trial.spec.split for trial in whole.trials) + 1
        racing = race.Race(evidence.Side(evidence.TUNING), limit, {})
        yield from race.features_first(planned.features, side, session, racing)
        yield from race.fine_tune(stages, side, grid, session, racing)
        dataset = whole.inputs[0]["name"]
        return Compared(
            side,
            racing.side,
            f"{', '.join(source.label for source in sources)} on {dataset}",
            dataset,
            whole.inputs,
            Ending(racing.stopped, racing.share, racing.dropped_arms(), tuple(racing.failed)),
            scored,
            tuple(
                result.key
                for trials in racing.left_out.arms.values()
                for result in trials.values()
                if scored
            ),
            planned.test_files,
            {
                trial.spec.key: use.FrozenPlan(trial.spec, trial.inputs)
                for stage in planned.features.values()
                for trial in stage.trials
            },
        )

    def _score(
        self, sources: tuple[str, ...], tuning: FineTuning, session: Session
    ) -> Generator[Stage, StudyReport, tuple[str, ...]]:
        """Score the sources, and return the keys of their trials; () of one source."""
        from ..scores.plan import DrawChoice, scores_study
        from ..scores.spec import SourceScores

        if len(sources) < 2:
            return ()
        modules = _modules(sources)
        spec = SourceScores(
            architecture=tuning.architecture,
            source=tuning.source,
            model=tuning.model,
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
        report = yield replace(
            stage, format_summary=_scored, leaves_out_failures=True, preload=modules
        )
        return tuple(result.key for result in report.results)

    def _decision(
        self,
        data: Evidence,
        compared: Compared,
        hours: Mapping[str, float],
        shown: Mapping[str, str],
    ) -> Stage:
        """Return the stage that records the decision; the page shows these test images."""
        from . import report, use
        from .evidence import FEATURES

        grid = self.of(CompareGrid)
        keys = sorted(result.key for result in data.trials)
        at = grid.at or max(pair.shots for pair in data.pairs)
        about = _about(grid, at, data, compared, hours)
        champions = {side.name: _first_of(side, at) for side in (data.features, data.tuning)}
        details = {
            "trials": keys,
            "classes": list(data.classes),
            "networks": {side: use.network_of(result) for side, result in champions.items()},
            "frozen": {FEATURES: compared.frozen.get(champions[FEATURES].key)},
            **about,
            **({"example_files": dict(shown)} if shown else {}),
        }
        spec = Decision(
            dataset=compared.dataset,
            evidence=files.digest(keys),
            at=at,
            alpha=grid.alpha,
            margin=grid.margin,
            about=files.digest(_identity(about, compared.ending)),
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


def _require_decisions(decided: Iterable[tuple[str, Result]], session: Session) -> None:
    """Raise TrialsFailedError where trials failed so that nothing is decided on a data set."""
    from . import report

    open_ = [
        name
        for name, result in decided
        if report.has_no_decision(report.outcome_of(session.store, result))
    ]
    if open_:
        raise TrialsFailedError(
            "no-decision",
            f"fine-tuning diverged or failed in too many draws on {', '.join(open_)}",
            remedy="try a smaller --learning-rate",
        )


def _first_of(side: Side, at: int) -> Result:
    """Return the trial of the first split of a side's champion at these shots."""
    trials = side.arms[side.champion(at)]
    return trials[min(place for place in trials if place[0] == at)]


def _no_figures(folder: Path, result: Result, form: str | None = "png") -> None:
    """Draw nothing: of hundreds of trials, tlx plot draws those that are wanted."""


def _scored(report: StudyReport) -> str:
    """Return the closing lines of the scores: where they are, and what has none."""
    lines = [
        f"{counted(len(report.results), 'source')} scored; {report.study_folder / 'scores.csv'}"
    ]
    for trial, outcome in zip(report.stage.trials, report.outcomes, strict=True):
        if isinstance(outcome, TlxError):
            lines.append(f"{trial.spec.title} is left out of the scores: {outcome}")
    return "\n".join(lines)


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


def data_sets(text: str) -> tuple[str, ...]:
    """Return the data sets of --dataset: one, or several with commas between them.

    Raises UsageError for an empty name or one that is there twice.
    """
    if "," not in text or Path(text).expanduser().exists():
        return (text,)
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise UsageError("dataset", f"--dataset {text}", expected="each data set once, as A,B,C")
    return names


def _check_places(
    names: tuple[str, ...], tuning: FineTuning, grid: CompareGrid, options: ExportOptions
) -> None:
    """Refuse what belongs to one data set where there are several."""
    given = {
        "--split-path": tuning.split_path,
        "--precomputed-crops": tuning.precomputed_crops,
        "--out": grid.out,
        "--export": options.export,
        "--register": options.register,
    }
    for option, value in given.items():
        if value and len(names) > 1:
            raise UsageError(
                "conflict",
                f"{option} with {counted(len(names), 'data set')}",
                expected="one data set: it is of one",
                remedy="compare each by itself, then tlx compare --from KEY,KEY,…",
            )


RACING = (
    "this is the full grid: the race of --any-time ends as soon as the decision is clear, and then "
    "takes less"
)
NOT_OF_STUDIES = ("sources", "recipes", "learning_rates", "any_time", "budget")


def _check_unused(specs: Iterable[Spec]) -> None:
    """Refuse settings of trials beside --from, which takes finished trials as they are."""
    kinds = (FineTuning, FeatureExtraction, CompareClassifiers, CompareDraws)
    given = [
        f"--{name.replace('_', '-')}"
        for spec in specs
        for name, row in spec.settings().items()
        if row.cli and (isinstance(spec, kinds) or name in NOT_OF_STUDIES)
        if getattr(spec, name) != spec.defaults().get(name)
    ]
    if given:
        raise UsageError(
            "no-effect",
            f"{', '.join(dict.fromkeys(given))} with --from",
            expected="the keys alone: finished trials are compared as they are",
            remedy="leave these out, or leave out --from to run trials with them",
        )


def _check_at(at: int | None, shots: Iterable[int]) -> None:
    """Raise UsageError for an answer at a number of training images that is not compared."""
    known = sorted(shots)
    if at is not None and at not in known:
        raise UsageError("shots", f"--at {at}", expected=f"one of {', '.join(map(str, known))}")


def _modules(sources: Sequence[object]) -> tuple[str, ...]:
    """Return the modules of all trials of a comparison: its stages share one server of workers."""
    from ..feature_extraction import plan as features_plan
    from ..scores import plan as scores_plan

    several = scores_plan.PRELOAD if len(sources) > 1 else ()
    return (*features_plan.PRELOAD, *several)


def _about(
    grid: CompareGrid, at: int, data: Evidence, compared: Compared, hours: Mapping[str, float]
) -> dict[str, object]:
    """Return what a record says besides its trials; it is part of the decision's key."""
    ending, gpu_price = compared.ending, grid.price_gpu_hour
    about: dict[str, object] = {
        "title": compared.title,
        "rules": {
            "at": at,
            "alpha": grid.alpha,
            "margin": grid.margin,
            "human_hours": dict(hours),
            "price_hour": grid.price_cpu_hour,
            "currency": grid.currency,
            **({} if gpu_price is None else {"price_gpu_hour": gpu_price}),
        },
        "stopped": {str(shots): reason for shots, reason in ending.stopped.items()},
        "share": ending.share,
        "left_out": [asdict(row) for row in ending.left_out],
    }
    failed = {
        side.name: sorted(map(list, side.failed))
        for side in (data.features, data.tuning)
        if side.failed
    }
    if failed:
        about["failed"] = failed
    if ending.failed:
        about["failed_arms"] = [asdict(row) for row in ending.failed]
    if not grid.thumbnails:
        about["thumbnails_off"] = True
    if compared.scores:
        about |= {"scores": list(compared.scores), "left_trials": sorted(compared.left_trials)}
    return about


def _identity(about: Mapping[str, object], ending: Ending) -> dict[str, object]:
    """Return the part of a record that is in its key: no title, and no words of errors."""
    kept = {name: value for name, value in about.items() if name != "title"}
    if ending.failed:
        kept["failed_arms"] = [row.identity() for row in ending.failed]
    return kept


def _rules_stage(decided: Sequence[tuple[str, Result]]) -> Stage:
    """Return the stage that sets the decisions beside rules that need none."""
    from . import across, report

    rows = [[name, result.key] for name, result in decided]
    names = tuple(name for name, _ in decided)
    spec = ChoiceRules(datasets=names, decisions=files.digest(sorted(key for _, key in rows)))
    return Stage(
        key=files.digest(["compare", spec.key]),
        run=across.run,
        experiment=EXPERIMENT,
        title=f"rules on {', '.join(names)}",
        spec=spec.to_json(),
        trials=(Trial(spec, {"decisions": rows}),),
        write_trial_figures=_no_figures,
        write_summary=report.write_summary,
        format_summary=report.format_summary,
    )


def _from_store(requested: tuple[str, ...], session: Session) -> list[Compared]:
    """Return both sides on each data set from finished studies of the store."""
    from ..listing import find
    from ..reporting import results_of
    from . import evidence
    from .decision import Ending

    by_images: dict[tuple[str, ...], list[StoredStudy]] = {}
    for word in requested:
        for key in find(session.store, word):
            study = session.store.read_study(key)
            if study is not None:
                digests = tuple(sorted(row["digest"] for row in study.get("inputs", [])))
                by_images.setdefault(digests, []).append(study)
    compared = []
    for studies in by_images.values():
        features, tuning = evidence.Side(evidence.FEATURES), evidence.Side(evidence.TUNING)
        for study in studies:
            results = results_of(session.store, study)
            features.add(results)
            tuning.add(results)
        inputs = {row["digest"]: row for study in studies for row in study.get("inputs", [])}
        dataset = ", ".join(dict.fromkeys(row["name"] for row in inputs.values()))
        title = ", ".join(dict.fromkeys(str(study["title"]) for study in studies))
        compared.append(
            Compared(features, tuning, title, dataset, tuple(inputs.values()), Ending())
        )
    if len(compared) > 1 and not all(
        side.arms for pair in compared for side in (pair.features, pair.tuning)
    ):
        names = ", ".join(pair.dataset for pair in compared)
        raise BadDataError(
            "other-images",
            f"{len(compared)} sets of test images: {names}",
            where="--from",
            expected="both sides on each data set, with the same splits and sizes",
        )
    return compared
