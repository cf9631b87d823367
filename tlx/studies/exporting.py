"""Export at the end of a study: checked before anything is computed, done when it has ended."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..lab.settings import expanded
from .export_options import ExportOptions

if TYPE_CHECKING:
    from ..lab.settings import Settings
    from ..lab.tracking.serving import Registered
    from .export import ExportedTrial, ExportRequest
    from .session import Session


def check(
    options: ExportOptions, settings: Settings, trials: Iterable[Mapping[str, object]] = ()
) -> None:
    """Raise UsageError or ResourceError for an export that cannot be made.

    trials  settings of the feature extractions of the study, one a classifier: any may turn out
            the best, so that each must be one that can be served
    """
    if not options.is_wanted:
        return
    from ..lab.tracking import serving
    from ..models import onnx_file
    from . import export

    if options.register is not None:
        serving.check_name(options.register)
        if not settings.tracking:
            raise UsageError(
                "conflict",
                "--register and --no-tracking",
                expected="a tracking store to register in",
            )
    if options.export is not None:
        export.check_folder(expanded(options.export))
    onnx_file.check_packages()
    check_served(trials)


def of_classifiers(
    spec: Mapping[str, object], classifiers: Iterable[str]
) -> list[dict[str, object]]:
    """Return the settings of a trial with each classifier."""
    return [{**spec, "classifier": name} for name in classifiers]


def check_served(trials: Iterable[Mapping[str, object]]) -> None:
    """Raise UsageError if one of these feature extractions gives a model that cannot be served."""
    from ..features import graphs

    trials = list(trials)
    names = list(dict.fromkeys(str(spec.get("classifier", "")) for spec in trials))
    others = [name for name in names if name.partition(":")[0] not in graphs.NOT_SERVED]
    remedy = "or leave out --export and --register"
    if others:
        remedy = f"give --classifier '{' '.join(others)}', {remedy}"
    else:
        remedy = f"give others with --classifier, {remedy}"
    for spec in trials:
        graphs.check(spec, others, remedy)


def export_study(options: ExportOptions, session: Session, key: str) -> None:
    """Export and register the model of a finished study, if that is asked for."""
    if not options.is_wanted:
        return
    from . import export, summaries
    from .served_trial import choose

    chosen = choose(session.store, key, refit=options.refit)
    session.say(f"exporting {chosen.reason}")
    with session.steps("making the model again") as progress, tempfile.TemporaryDirectory() as held:
        request = export.ExportRequest(
            chosen,
            session.store,
            session.settings,
            note=session.note,
            progress=progress,
            command=summaries.command_line(),
        )
        folder = Path(held) / "model" if options.export is None else expanded(options.export)
        exported = export.export(request, folder)
        if options.register is not None:
            session.say(said(register(request, exported, options.register, options.alias)))
    if options.export is not None:
        session.say(f"model: {folder}")


def register(
    request: ExportRequest, exported: ExportedTrial, name: str, alias: str | None
) -> Registered:
    """Return the registered version of an export, made if there is none."""
    from ..lab.tracking import api as tracking_api
    from ..lab.tracking import serving
    from ..models.onnx_file import CARD

    chosen = request.chosen
    return serving.register(
        tracking_api.resolve(request.settings.mlflow_path),
        str(chosen.study["experiment"]),
        name,
        exported.mlflow_folder,
        key=chosen.result.key,
        description=(exported.folder / CARD).read_text(encoding="utf-8"),
        alias=alias or chosen.alias or None,
        tags={**chosen.tags, **({"tlx.refit": "true"} if chosen.refit else {})},
    )


def said(version: Registered) -> str:
    """Return a line about a registered version."""
    known = "registered as" if version.is_new else "was registered before as"
    return f"{known} {version.name}, version {version.version}"
