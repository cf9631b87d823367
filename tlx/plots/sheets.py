"""Panels of a figure placed in inches, with bars of colours and titles."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from . import axes


def panel(figure: Figure, left: float, below: float, wide: float, high: float) -> Axes:
    """Add a panel at this place and of this size, in inches from the figure's lower left."""
    width, height = figure.get_size_inches()
    return figure.add_axes((left / width, below / height, wide / width, high / height))


def bar(
    figure: Figure,
    image: ScalarMappable,
    *,
    left: float,
    below: float,
    high: float,
    unit: str,
    extend: str = "neither",
) -> None:
    """Draw the colour bar of an image, right of a panel that ends at `left` inches.

    Numbers pass it where it `extend`s.
    """
    colour_bar = figure.colorbar(
        image, cax=panel(figure, left + 0.15, below, 0.17, high), extend=extend, extendfrac=0.03
    )
    colour_bar.ax.yaxis.set_major_locator(MaxNLocator(nbins=6))
    colour_bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: plain(v)))
    colour_bar.set_label(unit)


def bar_room(norm: Normalize) -> float:
    """Return the inches that a colour bar takes next to a panel."""
    numbers = MaxNLocator(nbins=6).tick_values(norm.vmin or 0.0, norm.vmax or 0.0)
    return 0.75 + axes.widest([plain(v) for v in numbers], 10)


def plain(value: float) -> str:
    """Format a number in few digits, with a minus sign."""
    return f"{value:g}".replace("-", "−")
