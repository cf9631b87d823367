"""What holds for every figure: nothing that is written is cut by the canvas, no legend beside its
axes covers data.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.transforms import Bbox

SLACK = 1.5  # pixels


def faults(figure: Figure) -> list[str]:
    """Return what is wrong with a figure that has been drawn; [] where nothing is."""
    renderer = figure.canvas.get_renderer()
    canvas = figure.bbox
    found = []
    for text in written(figure):
        box = text.get_window_extent(renderer)
        if is_outside(box, canvas):
            found.append(f"cut: {text.get_text()!r} at {box.extents.round()} of {canvas.extents}")
    for legend in figure.findobj(Legend):
        box = legend.get_window_extent(renderer)
        if is_outside(box, canvas):
            found.append(f"cut legend: {[text.get_text() for text in legend.get_texts()]}")
        own = legend.axes.get_window_extent(renderer) if legend.axes is not None else None
        if own is not None and own.contains((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2):
            continue  # placed inside, where there is room
        for axes in figure.axes:
            if axes.get_visible() and overlap(box, axes.get_window_extent(renderer)) > SLACK:
                found.append(
                    f"legend over the data: {[text.get_text() for text in legend.get_texts()]}"
                )
    return found


def written(figure: Figure) -> list[Text]:
    """Return the texts that are drawn: those of ticks outside an axis's limits are not."""
    hidden = {
        id(text) for axes in figure.axes if not axes.get_visible() for text in axes.findobj(Text)
    }
    ticks = [tick for axis in figure.findobj(Axis) for tick in (*axis.majorTicks, *axis.minorTicks)]
    labels = {id(label) for tick in ticks for label in (tick.label1, tick.label2)}
    shown = {
        id(label)
        for axis in figure.findobj(Axis)
        for tick in axis._update_ticks()
        for label in (tick.label1, tick.label2)
    }
    return [
        text
        for text in figure.findobj(Text)
        if text.get_text().strip()
        and text.get_visible()
        and id(text) not in hidden
        and (id(text) not in labels or id(text) in shown)
    ]


def is_outside(box: Bbox, canvas: Bbox) -> bool:
    return (
        box.x0 < canvas.x0 - SLACK
        or box.y0 < canvas.y0 - SLACK
        or box.x1 > canvas.x1 + SLACK
        or box.y1 > canvas.y1 + SLACK
    )


def overlap(one: Bbox, other: Bbox) -> float:
    """Return the smaller side of what two boxes share, in pixels; 0 for nothing."""
    both = Bbox.intersection(one, other)
    return 0.0 if both is None else min(both.width, both.height)


@contextlib.contextmanager
def held(patch) -> Iterator[None]:
    """Hold every figure that is saved inside to the rules; `patch` is a pytest.MonkeyPatch."""
    from tlx.plots import figures

    save, found = figures._save, []

    def checked(figure, out, form, metadata):
        absent = save(figure, out, form, metadata)
        if (
            form == "png"
            # other forms are laid out at another resolution than the renderer's, from the same
            # figure
        ):
            found.extend(faults(figure))
        return absent

    patch.setattr(figures, "_save", checked)
    yield
    assert not found, "\n".join(found)
