"""Style of figures: a colour and a marker for every method, titles, captions and legends."""

from __future__ import annotations

import math
import textwrap
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib import font_manager
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from vpbench.core.hashing import digest
from vpbench.reporting.figures import data_sets, rows_in_order
from vpbench.reporting.frame import arrange, known_methods
from vpbench.reporting.keys import RowKey

# Of variants of a method: hollow markers, and lines that are not full.
_MARKERS = ("X", "p", "h", "*", "<", ">", "d", "8")
_DASHES: tuple[Any, ...] = ((0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)), (0, (7, 1.5)))
_POINTS = 72  # per inch
_DATA_SETS = ("#0173b2", "#de8f05", "#029e73", "#cc78bc", "#ca9161", "#56b4e9", "#6e6e6e", "#d55e00")


@dataclass(frozen=True)
class RowStyle:
    """How a row of the tables (a method with its options) is drawn, the same in every figure.

    Attributes:
        colour: of the method; its variants share it.
        marker: the method's own, or another one for a variant.
        dashes: matplotlib's line style; a method without options has a full line.
        filled: whether the marker is; a variant's is hollow.
    """

    colour: str
    marker: str
    dashes: Any = "-"
    filled: bool = True

    @property
    def marker_kwargs(self) -> dict[str, Any]:
        """Keyword arguments for the markers of ``Axes.plot``."""
        return {"marker": self.marker, "color": self.colour, "markerfacecolor": self.colour if self.filled else "white"}

    def legend_handle(self, label: str, line: bool = False) -> Line2D:
        """An entry of a legend, with the marker alone or with a line through it."""
        return Line2D([], [], ls=self.dashes if line else "", label=label, markersize=5, **self.marker_kwargs)


def method_styles(methods: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of every method: fixed in ``reports/palette.toml``, else selected by a hash of its name.

    No two methods share both, up to 168 of them. Where two names select the same pair, the later one in the alphabet takes the
    next free pair; methods that this version has go before others.
    """
    palette = tomllib.loads(files("vpbench.reports").joinpath("palette.toml").read_text(encoding="utf-8"))
    pairs = [(colour, marker) for marker in palette["markers"] for colour in palette["colours"]]
    found = {name: (style["colour"], style["marker"]) for name, style in palette["methods"].items()}
    taken = set(found.values())
    for method in [*sorted(known_methods()), *sorted(set(methods) - known_methods())]:
        if method in found:
            continue
        start = int(digest(method, 8), 16)
        candidates = [pairs[(start + step) % len(pairs)] for step in range(len(pairs))]
        found[method] = next((pair for pair in candidates if pair not in taken), candidates[0])
        taken.add(found[method])
    return found


def row_styles(runs: pd.DataFrame) -> dict[RowKey, RowStyle]:
    """The style of every row in a store.

    Args:
        runs: the whole store's, so that a filter changes no colour.
    """
    rows = rows_in_order(arrange(runs)["row"])
    known = method_styles(row.method for row in rows)
    found: dict[RowKey, RowStyle] = {}
    variants: dict[str, int] = {}
    for row in rows:
        colour, marker = known[row.method]
        if row == RowKey(row.method):
            found[row] = RowStyle(colour, marker)
            continue
        nth = variants[row.method] = variants.get(row.method, -1) + 1
        found[row] = RowStyle(colour, _MARKERS[nth % len(_MARKERS)], _DASHES[nth % len(_DASHES)], False)
    return found


def dataset_palette(runs: pd.DataFrame) -> dict[str, str]:
    """A colour per data set of a store, the same in every figure."""
    return {name: _DATA_SETS[place % len(_DATA_SETS)] for place, name in enumerate(data_sets(runs))}


def subplot_grid(count: int) -> tuple[Figure, list[Axes]]:
    """A figure of so many small panels with the same axes, six in a row; numbers stand on the left and below each column."""
    columns = min(count, 6)
    lines = -(-count // columns)
    figure = Figure(figsize=(max(1.25 * columns + 0.5, 4.2), 1.15 * lines + 1.2), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel().tolist()
    for ax in axes[count:]:
        ax.set_visible(False)
    for ax in axes[max(0, count - columns) : count]:
        ax.tick_params(labelbottom=True)
    for ax in axes[:count]:
        despine(ax)
        ax.tick_params(labelsize=6)
    return figure, axes[:count]


def despine(ax: Axes, grid: str = "both") -> None:
    """No box around the panel, and a light grid in the background."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, axis=grid, color="0.9", linewidth=0.6)  # type: ignore[arg-type]
    ax.set_axisbelow(True)


def logarithmic(axis: Axis) -> None:
    """A logarithmic scale for positive values that are drawn, unless the largest is not even three times the smallest.

    Numbers stand at 1, 2, 5, 10; at all digits of a short range, at powers of ten of a long one.
    """
    low, high = axis.get_data_interval()
    if high < 3 * low:
        return
    set_scale = axis.axes.set_xscale if isinstance(axis, XAxis) else axis.axes.set_yscale
    set_scale("log")
    digits = range(1, 10) if high / low < 5 else (1, 2, 5) if high / low < 100 else (1,)
    axis.set_major_locator(LogLocator(subs=tuple(map(float, digits))))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def name_ticks(ax: Axes, names: Sequence[str]) -> None:
    """Words below the places 0, 1, ... of a panel; on a slant where they would touch."""
    slant: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if sum(map(len, names)) > 22 else {}
    ax.set_xticks(range(len(names)), names, **slant)
    ax.margins(x=0.15)


def deviation_bars(means: Iterable[float], deviations: Iterable[float | None]) -> list[list[float]]:
    """Lengths of error bars down and up, (2, n), for accuracies in percent: no bar leaves 0 ... 100."""
    known = [0.0 if deviation is None or math.isnan(deviation) else deviation for deviation in deviations]
    pairs = list(zip(means, known, strict=True))
    return [[min(bar, mean) for mean, bar in pairs], [min(bar, 100 - mean) for mean, bar in pairs]]


def nested_sizes(points: Sequence[tuple[float, float]], smallest: float = 6.0, step: float = 4.0) -> list[float]:
    """A marker's size per point: of points in the same place each later one is smaller, so that a rim of all is seen.

    Args:
        points: as drawn, in shares of the axes: nearer than 0.01 is the same place.
    """
    sizes = []
    for place, (x, y) in enumerate(points):
        later = sum(math.hypot(x - other_x, y - other_y) < 0.01 for other_x, other_y in points[place + 1 :])
        sizes.append(smallest + step * later)
    return sizes


def in_shares(values: Sequence[float]) -> list[float]:
    """Values as shares of their range, for :func:`nested_sizes`; all 0 where they are equal."""
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]


def figure_title(figure: Figure, text: str) -> None:
    """The figure's title, broken into lines that fit its width."""
    figure.suptitle(_balanced(text, _letters(figure)))


def legend_below(figure: Figure, caption: str, keys: Sequence[Artist] = ()) -> None:
    """Legend and caption below the panels. ``keys`` read row by row."""
    letters = _letters(figure)
    if not keys:
        figure.supxlabel(_balanced(caption, round(1.25 * letters)), fontsize=7, color="0.3")
        return
    columns = max(1, min(len(keys), int(_POINTS * figure.get_figwidth() / max(map(_key_width, keys)))))
    lines = -(-len(keys) // columns)
    figure.set_figheight(figure.get_figheight() + 0.17 * (lines - 1))  # inches, so that a long legend takes no panel's place
    legend = figure.legend(
        handles=row_wise(keys, columns), ncols=columns, title=_balanced(caption, round(1.25 * letters)),
        loc="outside lower center", frameon=False, handletextpad=0.5,
    )  # fmt: skip
    legend.get_title().set(multialignment="center", fontsize=7, color="0.3")


def _key_width(key: Artist) -> float:
    """A column of a legend in points: the label, and in letter heights the line (2), the gaps (0.5 and 2)."""
    size = font_manager.FontProperties(size=mpl.rcParams["legend.fontsize"]).get_size_in_points()
    label = TextPath((0, 0), str(key.get_label()), size=size)
    return 4.5 * size + (label.get_extents().width if len(label.vertices) else 0)


def row_wise(keys: Sequence[Artist], columns: int) -> list[Artist]:
    """Reordered for a legend, which fills its columns first, so that it reads row by row."""
    return [key for first in range(columns) for key in keys[first::columns]]


def shortened(name: str, letters: int) -> str:
    """A name of at most so many letters, without its middle where it is longer: names often differ at their ends."""
    if len(name) <= letters:
        return name
    end = (letters - 1) // 2
    return f"{name[: letters - 1 - end]}…{name[-end:]}"


def _balanced(text: str, letters: int) -> str:
    """Lines of at most so many letters, as equally long as can be: no word stands alone on the last one."""

    def wrapped(width: int) -> list[str]:
        return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)

    lines = len(wrapped(letters))
    return "\n".join(wrapped(next(width for width in range(1, letters + 1) if len(wrapped(width)) <= lines)))


def _letters(figure: Figure) -> int:
    """How many letters of a title fit on a line."""
    return int(13.5 * figure.get_figwidth())
