"""Figures by name, and how they become files. A figure is one module in ``reports/plots`` with a function ``draw``."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vpbench.core.errors import UsageError
from vpbench.core.hashing import digest
from vpbench.core.names import unknown
from vpbench.core.plugins import Registry
from vpbench.reporting.definition import load_definition
from vpbench.reporting.output_files import write_whole
from vpbench.reporting.runs import Filters, arrange, of_section
from vpbench.reporting.sections import in_order, titles
from vpbench.store.store import Store

# Given the store, its runs (one per row) and what to keep of them: pairs of a file name without suffix and a figure.
Draw = Callable[[Store, pd.DataFrame, Filters], Iterable[tuple[str, Figure]]]

# Text stays text in PDFs (type 42), and files of the same figure are equal: no date, no version in them.
_STYLE: dict[Any, Any] = {"font.size": 8, "axes.titlesize": 8, "legend.fontsize": 8, "figure.titlesize": 9, "pdf.fonttype": 42}
_METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


ACCURACY = "top-1 accuracy (%)"

# The palette that seaborn calls "colorblind"; every method has a marker of its own as well.
_METHODS = {
    "linear": ("#6e6e6e", "s"),
    "vpt": ("#0173b2", "o"),
    "e2vpt": ("#56b4e9", "D"),
    "insvp": ("#d55e00", "^"),
    "viapt": ("#029e73", "v"),
    "ivpt": ("#cc78bc", "P"),
}
_OTHERS = ("#de8f05", "#ca9161", "#000000", "#fbafe4", "#b8a90a")
_MARKERS = ("X", "p", "h", "*", "<", ">", "d", "8")
_DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)), (0, (7, 1.5)))
_DATA_SETS = ("#0173b2", "#de8f05", "#029e73", "#cc78bc", "#ca9161", "#56b4e9", "#6e6e6e", "#d55e00")


@dataclass(frozen=True)
class Look:
    """How a row of the tables (a method with its options) is drawn, the same in every figure of a store.

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
    def dot(self) -> dict[str, Any]:
        """Keyword arguments for the markers of ``Axes.plot``."""
        return {"marker": self.marker, "color": self.colour, "markerfacecolor": self.colour if self.filled else "white"}

    def key(self, label: str, line: bool = False) -> Line2D:
        """An entry of a legend, with the marker alone or with a line through it."""
        return Line2D([], [], ls=self.dashes if line else "", label=label, markersize=5, **self.dot)


@dataclass(frozen=True)
class Section:
    """Runs that may be compared, one per row, with the columns of :func:`vpbench.reporting.runs.arrange`.

    Attributes:
        title: what they have in common, for a reader.
        stem: a part of file names: the backbone, and a hash where the store has other sections of this backbone.
        runs: all of them, failed ones too.
    """

    title: str
    stem: str
    runs: pd.DataFrame

    @property
    def scored(self) -> pd.DataFrame:
        """One run per row, data set and seed, with an accuracy."""
        return self.runs[usable(self.runs) & self.runs["acc1"].notna()]

    @property
    def rows(self) -> list[str]:
        """Labels of the scored runs, in the order of the tables."""
        return in_table_order(self.scored)["row"].drop_duplicates().tolist()

    @property
    def datasets(self) -> list[str]:
        """Data sets of all runs, by group, then by name."""
        return data_sets(self.runs)


def sections(runs: pd.DataFrame, filters: Filters) -> Iterator[Section]:
    """The filtered runs by section; a figure shows one."""
    runs = arrange(runs, filters)
    names = titles(in_order(runs["section"]))
    backbones = [section[0] for section in names]
    for section, title in names.items():
        # Two sections of one backbone (say, 10 and 100 epochs) need different file names.
        suffix = f"_{digest(list(section), 6)}" if backbones.count(section[0]) > 1 else ""
        yield Section(title, f"{section[0]}{suffix}", of_section(runs, section))


def usable(runs: pd.DataFrame) -> pd.Series[bool]:
    """Which runs ended well and are no repetition."""
    return (runs["status"] == "ok") & ~runs["repeat"].astype(bool)


def data_sets(runs: pd.DataFrame) -> list[str]:
    """Data sets of runs, by group, then by name."""
    names = runs[["dataset_group", "dataset"]].fillna("").drop_duplicates("dataset")
    return [str(name) for name in names.sort_values(["dataset_group", "dataset"])["dataset"]]


def in_table_order(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs in the order of InsVP's Table 1, variants behind their method."""
    definition = load_definition("insvp", "1")
    places = {
        key: (definition.place(key[0]), key[1] != key[0], key[1])
        for key in runs[["method", "row"]].drop_duplicates().itertuples(index=False, name=None)
    }
    keys = list(zip(runs["method"], runs["row"], strict=True))
    return runs.iloc[sorted(range(len(runs)), key=lambda index: places[keys[index]])]


def looks(runs: pd.DataFrame) -> dict[str, Look]:
    """The look of every row in a store.

    Args:
        runs: the whole store's, so that a filter changes no colour.
    """
    known = in_table_order(arrange(runs)[["method", "row"]].drop_duplicates())
    found: dict[str, Look] = {}
    others: list[str] = []
    variants: dict[str, int] = {}
    for label, row in known.itertuples(index=False, name=None):
        method = label.partition(":")[0]
        if method not in _METHODS and method not in others:
            others.append(method)
        place = others.index(method) if method in others else 0
        colour, marker = _METHODS.get(method) or (_OTHERS[place % len(_OTHERS)], _MARKERS[place % len(_MARKERS)])
        if row == method:
            found[row] = Look(colour, marker)
            continue
        nth = variants[method] = variants.get(method, 0) + 1
        found[row] = Look(colour, _MARKERS[(nth - 1) % len(_MARKERS)], _DASHES[1 + (nth - 1) % (len(_DASHES) - 1)], False)
    return found


def data_set_colours(runs: pd.DataFrame) -> dict[str, str]:
    """A colour per data set of a store, the same in every figure."""
    return {name: _DATA_SETS[place % len(_DATA_SETS)] for place, name in enumerate(data_sets(runs))}


def tidy(ax: Axes, grid: str = "both") -> None:
    """No box around the panel, and a light grid behind what it shows."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, axis=grid, color="0.9", linewidth=0.6)  # type: ignore[arg-type]
    ax.set_axisbelow(True)


def headline(figure: Figure, text: str) -> None:
    """The figure's title, broken into lines that fit its width."""
    figure.suptitle(_balanced(text, _letters(figure)))


def below(figure: Figure, caption: str, keys: Sequence[Artist] = ()) -> None:
    """Legend and caption below the panels. ``keys`` read row by row."""
    letters = _letters(figure)
    if not keys:
        figure.supxlabel(_balanced(caption, round(1.25 * letters)), fontsize=7, color="0.3")
        return
    # A key takes its label, its line and a gap.
    widest = max((len(str(key.get_label())) for key in keys), default=1) + 9
    columns = max(1, min(len(keys), letters // widest))
    lines = -(-len(keys) // columns)
    figure.set_figheight(figure.get_figheight() + 0.17 * (lines - 1))  # inches, so that a long legend takes no panel's place
    legend = figure.legend(
        handles=row_wise(keys, columns), ncols=columns, title=_balanced(caption, round(1.25 * letters)),
        loc="outside lower center", frameon=False, handletextpad=0.5,
    )  # fmt: skip
    legend.get_title().set(multialignment="center", fontsize=7, color="0.3")


def row_wise(keys: Sequence[Artist], columns: int) -> list[Artist]:
    """Reordered for a legend, which fills its columns first, so that it reads row by row."""
    return [key for first in range(columns) for key in keys[first::columns]]


def _balanced(text: str, letters: int) -> str:
    """Lines of at most so many letters, as equally long as can be: no word stands alone on the last one."""

    def wrapped(width: int) -> list[str]:
        return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)

    lines = len(wrapped(letters))
    return "\n".join(wrapped(next(width for width in range(1, letters + 1) if len(wrapped(width)) <= lines)))


def _letters(figure: Figure) -> int:
    """How many letters of a title fit on a line."""
    return int(13.5 * figure.get_figwidth())


def figure_registry() -> Registry[Draw]:
    """Every file in ``reports/plots``."""
    return Registry("plot", "vpbench.reports.plots", _pick)


def draw_figures(name: str, store: Store, runs: pd.DataFrame, filters: Filters, folder: Path) -> list[Path]:
    """Write the figures called ``name`` as PNG (150 dots per inch) and PDF into ``folder``; their paths.

    Raises:
        UsageError: for an unknown figure, or a folder that cannot be written.
        StoreError: when the store lacks what the figure needs.
    """
    registry = figure_registry()
    known = {each.replace("_", "-"): each for each in registry.names()}  # critical-difference is a file that Python can import
    if (asked := name.replace("_", "-")) not in known:
        raise unknown("plot", name, known)
    draw = registry.get(known[asked])
    if folder.suffix in _METADATA:
        raise UsageError(f"--out {folder} names a file; figures need a folder, as each is written as PNG and as PDF.")
    paths = []
    with matplotlib.rc_context(_STYLE):
        for stem, figure in draw(store, runs, filters):
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # both files take the places that were found now
            paths += [_save(figure, folder / f"{stem}{suffix}") for suffix in _METADATA]
    return paths


def _save(figure: Figure, path: Path) -> Path:
    return write_whole(path, lambda partial: figure.savefig(partial, dpi=150, metadata=_METADATA[path.suffix]))


def _pick(name: str, module: Any) -> Draw:
    draw: Draw | None = getattr(module, "draw", None)
    if draw is None:
        raise UsageError(f"plot '{name}': {module.__file__} has no function 'draw'.")
    return draw
