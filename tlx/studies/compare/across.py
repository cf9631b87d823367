"""Comparison over several data sets: what simple rules lose there, and what tlx's decision does.

The decision is made once for each draw, without that draw, and scored on it: nothing is scored on
what it was chosen by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ... import files
from ...errors import IntegrityError, counted
from ...lab.records import MetricPoint, StoredStudy
from ...lab.store import Store
from ...metrics.choice_rules import ChoicePoint, RuleScore, score_rules
from ...metrics.paired import DECIDED, analyse
from ...plots import figures, tables
from ...result import FINISHED, Result
from .. import drawings, reporting, summaries
from ..base import StudyReport, TrialContext
from ..drawings import Drawings
from . import evidence, sentences
from .costs import mean_seconds
from .decision import ComparisonOutcome
from .evidence import Evidence, Pairs, Tables
from .spec import ChoiceRules

FEW_SHOTS = 20  # images per class from which on the third rule fine-tunes
OURS = "tlx compare"
RULES: Mapping[str, Callable[[int], bool]] = {  # rule → whether it fine-tunes at so many shots
    "always feature extraction": lambda shots: False,
    "always fine-tuning": lambda shots: True,
    f"feature extraction below {FEW_SHOTS} images per class": lambda shots: shots >= FEW_SHOTS,
}
TABLE = "rules"

Decide = Callable[[Store, Result], ComparisonOutcome]  # of the record of a decision


@dataclass(frozen=True)
class DataSetRow:
    """One data set: its name, the answer there, rule → regret and cost."""

    name: str
    answer: str
    shots: tuple[int, ...]
    draws: int
    rules: Mapping[str, RuleScore]


@dataclass(frozen=True)
class AcrossOutcome:
    """Everything that the table and the figure are made from."""

    rows: tuple[DataSetRow, ...]

    @property
    def rules(self) -> list[str]:
        """Return the names of the rules, tlx's last."""
        return list(self.rows[0].rules)

    def mean(self, rule: str) -> RuleScore:
        """Return the mean over data sets."""
        scores = [row.rules[rule] for row in self.rows]
        return RuleScore(
            float(np.mean([score.regret for score in scores])),
            float(np.mean([score.cost for score in scores])),
        )

    def worst(self, rule: str) -> float:
        """Return the largest regret over data sets."""
        return max(row.rules[rule].regret for row in self.rows)


def run(spec: ChoiceRules, inputs: Mapping[str, object], context: TrialContext) -> Result:
    """Record which decisions are set side by side; their table follows from them."""
    context.tell(1, 1)
    return Result.of(spec, status=FINISHED, scores={}, details=dict(inputs))


def outcome_of(store: Store, result: Result, decide: Decide) -> AcrossOutcome:
    """Return what rules lose on the data sets whose decisions a record names.

    Raises IntegrityError if one of them is gone.
    """
    rows = []
    for name, key in result.details["decisions"]:
        decision = store.find(key)
        if decision is None:
            raise IntegrityError(
                "trial-gone",
                f"decision {key[:12]} on {name}",
                where=store.root,
                remedy="run the comparison again",
            )
        outcome = decide(store, decision)
        points = choice_points(store, outcome.data, outcome.alpha, outcome.margin)
        rows.append(
            DataSetRow(
                name,
                sentences.answer(outcome),
                tuple(pairs.shots for pairs in outcome.data.pairs if pairs.features),
                max(len(pairs.features) for pairs in outcome.data.pairs),
                score_rules(points) if points else {},
            )
        )
    return AcrossOutcome(tuple(row for row in rows if row.rules))


def choice_points(store: Store, data: Evidence, alpha: float, margin: float) -> list[ChoicePoint]:
    """Return the scores of both sides at each number of shots, and what every rule chose."""
    scored = [pairs for pairs in data.pairs if pairs.features]
    known = [(pairs, evidence.tables_of(store, pairs)) for pairs in scored]
    chosen = _decided_without(known, data.pool, alpha, margin)
    return [
        ChoicePoint(
            first=np.array([r.scores["test_accuracy"] for r in pairs.features]),
            second=np.array([r.scores["test_accuracy"] for r in pairs.tuning]),
            first_cost=mean_seconds(pairs.features),
            second_cost=mean_seconds(pairs.tuning),
            chose_second={
                **{rule: fine_tunes(pairs.shots) for rule, fine_tunes in RULES.items()},
                OURS: np.array([chosen[pairs.shots, split] for split in _splits(pairs)]),
            },
        )
        for pairs in scored
    ]


def _decided_without(
    known: Sequence[tuple[Pairs, Tables | None]], pool: int, alpha: float, margin: float
) -> dict[tuple[int, int], bool]:
    """Return (shots, split) → whether the decision from all other splits is to fine-tune."""
    chosen = {}
    for split in sorted({split for pairs, _ in known for split in _splits(pairs)}):
        others = [_without(pairs, table, split) for pairs, table in known]
        contrasts = [
            evidence.contrast_of(pairs, table, pool) for pairs, table in others if pairs.features
        ]
        verdicts = {v.shots: v for v in analyse(contrasts, alpha=alpha, margin=margin)}
        for pairs, _ in known:
            if split not in _splits(pairs):
                continue
            verdict = verdicts.get(pairs.shots)
            if verdict is not None and verdict.verdict == DECIDED:
                chosen[pairs.shots, split] = verdict.mean > 0
            else:
                cheaper = mean_seconds(pairs.tuning) < mean_seconds(pairs.features)
                chosen[pairs.shots, split] = cheaper
    return chosen


def _splits(pairs: Pairs) -> list[int]:
    return [int(result.spec["split"]) for result in pairs.tuning]


def _without(pairs: Pairs, table: Tables | None, split: int) -> tuple[Pairs, Tables | None]:
    """Leave one split out."""
    kept = [i for i, other in enumerate(_splits(pairs)) if other != split]
    fewer = replace(
        pairs,
        features=tuple(pairs.features[i] for i in kept),
        tuning=tuple(pairs.tuning[i] for i in kept),
    )
    if table is None:
        return fewer, None
    rows = ("features", "tuning", "predicted_features", "predicted_tuning")
    return fewer, replace(table, **{name: getattr(table, name)[kept] for name in rows})


# ---------------------------------------------------------------- table, figure, closing lines


def rules_table(outcome: AcrossOutcome) -> tuple[list[str], list[list[str]]]:
    """Return headings and a row for each rule: regret on each data set, mean, worst, cost."""
    headings = [
        "regret, in points",
        *(row.name for row in outcome.rows),
        "mean",
        "worst",
        "a training",
    ]
    rows = []
    for rule in outcome.rules:
        mean = outcome.mean(rule)
        values = [row.rules[rule].regret for row in outcome.rows]
        rows.append(
            [
                rule,
                *map(_points, (*values, mean.regret, outcome.worst(rule))),
                tables.seconds(mean.cost),
            ]
        )
    return headings, rows


def _points(regret: float) -> str:
    return f"{100 * regret:.2f}".replace("-", "−")


def closing_words(outcome: AcrossOutcome) -> list[str]:
    """Return the sentences of the comparison over data sets."""
    if not outcome.rows:
        return ["No data set has a pair of finished trainings: rules cannot be compared."]
    regrets = {rule: outcome.mean(rule).regret for rule in outcome.rules}
    others = {rule: regret for rule, regret in regrets.items() if rule != OURS}
    best = min(others, key=lambda rule: others[rule])
    lines = [f"{row.name}: {row.answer}" for row in outcome.rows]
    lines.append(
        f"Over {counted(len(outcome.rows), 'data set')}, deciding by tlx compare loses "
        f"{_points(regrets[OURS])} points on average; the best of the other rules, “{best}”, "
        f"{_points(others[best])}."
    )
    draws = min(row.draws for row in outcome.rows)
    if draws < sentences.FEWEST_SPLITS:
        lines.append(
            f"With {counted(draws, 'draw')} of a data set these "
            "figures are hardly more than chance: "
            "--splits 10 or more tells."
        )
    return lines


def study_drawings(outcome: AcrossOutcome) -> Drawings:
    """Return the figure of a comparison over data sets."""
    if not outcome.rows:
        return {}
    return {"rules": lambda form: draw(outcome, form)}


def draw(outcome: AcrossOutcome, form: str = "png") -> bytes:
    """Draw the regret of each rule: a point a data set, and their mean as a bar."""
    with figures.figure_style():
        figure, axes = figures.new_subplots(6.8, 1.4 + 0.45 * len(outcome.rules))
        for place, rule in enumerate(reversed(outcome.rules)):
            axes.barh(place, 100 * outcome.mean(rule).regret, height=0.55, color="#BBBBBB")
            for number, row in enumerate(outcome.rows):
                axes.plot(
                    100 * row.rules[rule].regret,
                    place,
                    figures.MARKERS[number % len(figures.MARKERS)],
                    color=figures.COLOURS[number % len(figures.COLOURS)],
                    label=row.name if place == 0 else None,
                )
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(outcome.rules)), list(reversed(outcome.rules)))
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("Regret, in points of mean per-class accuracy (bar: mean)")
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return figures.render(figure, form)


def write_summary(
    store: Store, study: StoredStudy, outcome: AcrossOutcome, form: str | None
) -> None:
    """Write rules.csv, rules.json, the figure and the summary of a comparison over data sets."""
    folder = store.study_folder(study["key"])
    headings, rows = rules_table(outcome) if outcome.rows else ([], [])
    files.write_text(folder / f"{TABLE}.csv", _csv(outcome))
    drawings.write(folder, study_drawings(outcome), form)
    summaries.write(
        folder,
        study,
        list(_metrics(outcome)),
        finished=1,
        verdict=closing_words(outcome)[len(outcome.rows)] if outcome.rows else "",
        table=tables.as_markdown(headings, rows) if rows else "",
        intervals=False,
    )


def _csv(outcome: AcrossOutcome) -> str:
    """Return a row for each data set and rule."""
    rows = [
        [row.name, rule, score.regret, score.cost, row.draws, " ".join(map(str, row.shots))]
        for row in outcome.rows
        for rule, score in row.rules.items()
    ]
    return tables.as_csv(["data_set", "rule", "regret", "training_s", "draws", "shots"], rows)


def _metrics(outcome: AcrossOutcome) -> Iterable[MetricPoint]:
    names = ("features", "tuning", "few_shots", "tlx")
    if not outcome.rows:
        return
    for name, rule in zip(names, outcome.rules, strict=True):
        yield {"name": f"regret_{name}", "value": outcome.mean(rule).regret, "step": 0}


def format_summary(report: StudyReport, outcome: AcrossOutcome) -> str:
    """Return the closing lines: an answer for each data set, the table of rules."""
    lines = closing_words(outcome)
    if outcome.rows:
        headings, rows = rules_table(outcome)
        lines += ["", tables.as_text(headings, rows).rstrip()]
        lines.append(
            "regret: accuracy of the side that is better on average minus that of the rule's "
            "choices, mean over numbers of images per class; tlx compare decides for each draw "
            "from the others"
        )
    return "\n".join([*lines, *reporting.footer(report)])
