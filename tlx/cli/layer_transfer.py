"""tlx layer-transfer."""

from __future__ import annotations

from ..lab.settings import Settings
from ..trials.layer_transfer import LayerTransfer, Treatments
from .options import options
from .progress import steps
from .running import run


@options(LayerTransfer, Treatments, Settings)
def command(spec: LayerTransfer, asked: Treatments, settings: Settings) -> None:
    """Where transfer happens: copy blocks 1…n from A (AnB) or B (BnB), draw the rest anew, train on B, for every n.

    Without options: MNIST's small CNN on scikit-learn's digits, A the digits 0 to 4, B 5 to 9. The base networks are
    trained first. Asked again with more repeats, depths, treatments or ways of batch norm, the study grows. Accuracies
    are mean per-class, as fractions.
    """
    from ..lab.store import Store
    from ..report import transfer_studies
    from ..trials import transfer_plan

    with steps("reading images") as progress:
        plan = transfer_plan.look(spec, asked, settings, progress)
    store, first, notes = None, plan.first(), tuple(plan.notes)
    if first is not None:
        alone = not plan.conditions
        report = run(first, settings, notes, summarise=transfer_studies.summarise,
                     closing=transfer_studies.closing if alone else transfer_studies.closing_bases)
        store = Store(report.folder)
    rest = plan.rest(store)
    if rest is not None:
        run(rest, settings, plan.notes[len(notes) * (first is not None):], summarise=transfer_studies.summarise,
            closing=transfer_studies.closing)
