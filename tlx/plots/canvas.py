"""Empty figures, whose layout is the same to the bit each time they are drawn."""

from __future__ import annotations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

DPI = 150
DIGITS = 9  # of a position, as a share of the figure's width or height


class RoundedLayout(ConstrainedLayoutEngine):
    """Constrained layout, with the positions of axes rounded.

    The solver goes through its unknowns in the order of their addresses, so that the last bits
    of a position change from one drawing to the next; an SVG names its clip paths by them.
    """

    def execute(self, fig: Figure) -> None:
        """Lay the figure out and round where its axes stand."""
        super().execute(fig)
        for axes in fig.axes:
            left, bottom, width, height = axes.get_position(original=True).bounds
            taking_part = axes.get_in_layout()
            axes.set_position(
                (
                    round(left, DIGITS),
                    round(bottom, DIGITS),
                    round(width, DIGITS),
                    round(height, DIGITS),
                )
            )
            axes.set_in_layout(taking_part)  # a position that is set takes axes out of the layout


def new_figure(width: float, height: float, *, laid_out: bool = True) -> Figure:
    """Create an empty figure of this size in inches.

    laid_out    place axes without overlaps; False where they are placed in inches: a layout
                engine would take as long as all drawing
    """
    figure = Figure(figsize=(width, height), dpi=DPI, layout=RoundedLayout() if laid_out else None)
    FigureCanvasAgg(figure)
    return figure
