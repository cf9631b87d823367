"""Public Python API: run and plan studies, read a store, load a network.

    import tlx

    report = tlx.run("fine-tuning", dataset="photos/", shots=(1, 5, 10))
    report.frame()      # one row a trial
    report.summary()    # means with confidence intervals

`tlx.fine_tuning(…)`, `tlx.feature_extraction(…)` and so on are the same with every setting in the
signature.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .errors import UnknownNameError
from .lab import store as lab_store
from .lab.settings import Figures, Settings
from .spec import Spec, make_specs
from .studies import STUDIES, Session, Study, StudyReport, run_study
from .studies.listing import study_rows
from .studies.planning import StudyPlan, plan_study

if TYPE_CHECKING:
    import pandas

    from .models.network import Network


def run(name: str, /, *, progress: bool = True, **settings: object) -> StudyReport:
    """Run a study and return its report.

    Finished trials are found in the store and not repeated; run the same call again to resume.

    Args:
        name: the study, as on the command line: "fine-tuning", "feature-extraction", "quanta", …
        progress: show bars (terminal, notebook) and the closing table.
        **settings: any setting of the study's command by its Python name, and those of the
            machine: dataset, shots, workers, store, tracking, figures, … `tlx.settings(name)`
            lists them with their defaults.

    Returns:
        A report with `.results`, `.frame()`, `.summary()`, `.figures`, `.folder`, `.url`. A search
        ("tune") returns a SearchReport, which has `.best` and `.tried` too.

    Raises:
        UsageError, BadDataError: before anything is computed, with everything that is wrong.
        TrialsFailedError: some trials failed; the others are kept.
        Stopped: Ctrl-C; what is done is kept.
    """
    study, session = _prepared(name, settings, progress)
    report: StudyReport = run_study(study, session)
    return report


def plan(name: str, /, **settings: object) -> StudyPlan:
    """Return what a study would run, with estimates of time and disk. Trains nothing.

    Images are read and checked as they are before a study. Arguments as for `run`.
    """
    study, session = _prepared(name, settings, False)
    return plan_study(study, session)


def settings(name: str, /) -> pandas.DataFrame:
    """Return the settings of a study: name, default, meaning (pandas)."""
    import pandas

    rows = [
        {"setting": field, "default": spec.defaults()[field], "meaning": row.help}
        for spec, field, row in _declared(_study(name))
    ]
    return pandas.DataFrame(rows)


def load_backbone(
    name: str, *, weights: str | None = "default", classes: int | None = None, seed: int = 0
) -> Network:
    """Return a network of `tlx backbones`, torchvision ("torchvision:…") or timm ("timm:…").

    Args:
        name: the backbone.
        weights: "default" (its own), a weight file, or None for random weights of `seed`.
        classes: outputs of a new head; None keeps the number of the backbone's row.
        seed: of random weights and of the new head.
    """
    from .models import backbones

    outputs = classes if classes is not None else max(1, backbones.lookup(name).classes)
    return backbones.load(name, weights=weights, classes=outputs, seed=seed)


class ResultStore(lab_store.Store):
    """Results in a folder: studies and trials, each verified when it is read."""

    def frame(self) -> pandas.DataFrame:
        """Return one row a study: key, study, title, data set, trials, finished, when, verdict."""
        import pandas

        return pandas.DataFrame(study_rows(self))


Store = ResultStore  # as tlx.Store


def _study(name: str) -> type[Study]:
    study = STUDIES.get(name.replace("_", "-"))
    if study is None:
        raise UnknownNameError("study", name, STUDIES)
    return study


def _prepared(name: str, given: Mapping[str, object], progress: bool) -> tuple[Study, Session]:
    kind = _study(name)
    *own, machine, figures = make_specs((*kind.specs, Settings, Figures), given)
    assert isinstance(machine, Settings)
    assert isinstance(figures, Figures)
    if not progress:
        return kind(*own), Session(machine, figures)
    from .cli.running import Terminal

    return kind(*own), Terminal(machine, figures)


def _declared(study: type[Study]) -> Iterable[tuple[type[Spec], str, Any]]:
    """Yield (class, field, declaration) of every setting, each name once."""
    names = set()
    specs: tuple[type[Spec], ...] = (*study.specs, Settings, Figures)
    for spec in specs:
        for field, row in spec.settings().items():
            if row.cli and field not in names:
                names.add(field)
                yield spec, field, row


def study_function(name: str) -> Callable[..., StudyReport]:
    """Return the function of one study, with every setting in its signature."""
    study = _study(name)

    def function(*, progress: bool = True, **settings: object) -> StudyReport:
        return run(study.name, progress=progress, **settings)

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("progress", keyword, default=True, annotation="bool")]
    lines = []
    for spec, field, row in _declared(study):
        hint, default = spec.hints()[field], spec.defaults()[field]
        annotation = getattr(hint, "__name__", None) if isinstance(hint, type) else None
        parameters.append(
            inspect.Parameter(field, keyword, default=default, annotation=annotation or str(hint))
        )
        lines.append(f"    {field}: {row.help}.")
    function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        parameters, return_annotation="StudyReport"
    )
    function.__name__ = function.__qualname__ = study.name.replace("-", "_")
    function.__doc__ = "\n".join([inspect.cleandoc(study.help), "", "Settings:", *lines])
    return function
