"""tlx layer-transfer."""

from __future__ import annotations

from ..lab.settings import Settings
from ..studies.layer_transfer.spec import LayerTransfer, LayerTransferGrid
from .options import options
from .progress import steps
from .running import run


@options(LayerTransfer, LayerTransferGrid, Settings)
def command(spec: LayerTransfer, asked: LayerTransferGrid, settings: Settings) -> None:
    """Where transfer happens: copy blocks 1…n from A (AnB) or B (BnB), draw the rest anew, train on
    B, for every n.

    Without options: MNIST's small CNN on scikit-learn's digits, A the digits 0 to 4, B 5 to 9. The
    base networks are trained first. Asked again with more repeats, depths, treatments or ways of
    batch norm, the study grows. Accuracies are mean per-class, as fractions.
    """
    from ..lab.store import Store
    from ..studies.layer_transfer import plan as layer_transfer_plan
    from ..studies.layer_transfer import report as layer_transfer_report

    with steps("reading images") as progress:
        plan = layer_transfer_plan.plan_layer_transfer(spec, asked, settings, progress)
    store, first, notes = None, plan.first(), tuple(plan.notes)
    if first is not None:
        alone = not plan.conditions
        report = run(
            first,
            settings,
            notes,
            summarise=layer_transfer_report.write_summary,
            closing=layer_transfer_report.format_summary
            if alone
            else layer_transfer_report.format_bases,
        )
        store = Store(report.folder)
    rest = plan.rest(store)
    if rest is not None:
        run(
            rest,
            settings,
            plan.notes[len(notes) * (first is not None) :],
            summarise=layer_transfer_report.write_summary,
            closing=layer_transfer_report.format_summary,
        )
