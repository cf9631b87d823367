"""Study of tlx layer-transfer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ...result import Result
from ...spec import Spec
from ..base import Stages, Study
from ..recipes import LayerTransferRecipe
from .spec import LayerTransfer, LayerTransferGrid

if TYPE_CHECKING:
    from ..session import Session


class LayerTransferStudy(Study):
    """Study of base networks, then the networks that copy blocks from them."""

    name = "layer-transfer"
    short = "Copy blocks 1…n: AnB, BnB, AnB+"
    help = """Where transfer happens: copy blocks 1…n from A (AnB) or B (BnB), draw the rest
    anew, train on B, for every n.

    Without options: MNIST's small CNN on scikit-learn's digits, A the digits 0 to 4, B 5 to 9.
    The base networks are trained first. Rerun with more repeats, depths, treatments or ways of
    batch norm to extend the study. Accuracies are mean per-class, as fractions.
    """
    specs: ClassVar[tuple[type[Spec], ...]] = (
        LayerTransfer,
        LayerTransferGrid,
        LayerTransferRecipe,
    )
    is_chained = True
    shown = (
        "dataset",
        "architecture",
        "source",
        "model",
        "recipe",
        "treatments",
        "depths",
        "bn",
        "repeats",
        "epochs",
        "batch_size",
        "learning_rate",
    )

    def stages(self, session: Session) -> Stages:
        """Yield the base networks, then the networks built from them."""
        from . import networks, plan, report

        export, trained = self.of(LayerTransferGrid).export, list[Result]()
        with session.preparing("reading images") as progress:
            planned = plan.plan_layer_transfer(
                self.of(LayerTransfer), self.of(LayerTransferGrid), session.settings, progress
            )
        store, bases = None, planned.first()
        session.note(*planned.notes)
        if bases is not None:
            is_alone = not planned.conditions
            done = yield replace(
                bases,
                further=planned.expected,
                write_summary=report.write_summary,
                format_summary=report.format_summary if is_alone else report.format_bases,
            )
            trained += done.results
            store = session.store
        copies = planned.rest(store)
        session.note(*planned.notes)
        if copies is not None:
            if export:
                networks.check(copies.trials, session.store)
            done = yield replace(
                copies, write_summary=report.write_summary, format_summary=report.format_summary
            )
            trained += done.results
        if export:
            for path in networks.export(trained, session.store, Path(export).expanduser()):
                session.say(f"weights: {path}")
