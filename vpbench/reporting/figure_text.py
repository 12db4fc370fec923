"""The text of a figure: names are drawn as they are, whatever matplotlib or a font would make of them."""

from __future__ import annotations

from typing import Any

from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import Formatter, LogFormatterMathtext

from vpbench.core.escaping import visible

# Dollar signs in names are no formulas; tick labels of logarithmic axes, which are, become plain numbers below.
PLAIN: dict[Any, Any] = {"text.parse_math": False, "text.usetex": False}


def escape_text(figure: Figure) -> None:
    """Show control characters, which no font has, in everything that a figure says."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_text(visible(text.get_text()))
    for axis in figure.findobj(Axis):
        assert isinstance(axis, Axis)
        for formatter in (axis.get_major_formatter(), axis.get_minor_formatter()):
            _escape_ticks(formatter)


def _escape_ticks(formatter: Formatter) -> None:
    """Tick labels are made when the figure is drawn, so the formatter itself escapes them."""
    made = formatter.format_ticks
    formulas = isinstance(formatter, LogFormatterMathtext)

    def format_ticks(values: list[float]) -> list[str]:
        return [f"{value:g}" if formulas and label else visible(label) for value, label in zip(values, made(values))]

    changed: Any = formatter
    changed.format_ticks = format_ticks
