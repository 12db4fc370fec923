"""What figures are drawn from, the comparable runs of a store, and how they become files."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd

from vpbench.core.errors import StoreError, UsageError, VpbenchError
from vpbench.core.file_names import file_name
from vpbench.core.files import write_atomically
from vpbench.core.hashing import digest
from vpbench.reporting.definition import leaderboard
from vpbench.reporting.figure_text import PLAIN, escape_text
from vpbench.reporting.frame import Filters, arrange, of_section, sections_in
from vpbench.reporting.keys import RowKey, SectionKey
from vpbench.reporting.plot_registry import find_plot
from vpbench.reporting.row_labels import section_titles
from vpbench.reporting.scores import score_title
from vpbench.store.store import Store

# Text stays text in PDFs (type 42), and files of the same figure are equal: no date, no version in them.
_STYLE: dict[Any, Any] = {
    "font.size": 8, "axes.titlesize": 8, "legend.fontsize": 8, "figure.titlesize": 9, "pdf.fonttype": 42,
    "axes.formatter.useoffset": False,
}  # fmt: skip
_METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


Made = Iterable[tuple[str, Any]]
"""Pairs of a file name without suffix and a matplotlib figure."""

_GAP = 3  # between tick labels, in hundredths of an inch


@dataclass(frozen=True)
class SectionRuns:
    """Runs that may be compared, with the columns of :func:`vpbench.reporting.frame.arrange`.

    Attributes:
        key: what they have in common.
        title: the same for a reader.
        suffix: for file names: a hash where the store has other sections of this backbone, else empty.
        runs: all of them, failed ones too.
    """

    key: SectionKey
    title: str
    suffix: str
    runs: pd.DataFrame

    @property
    def stem(self) -> str:
        """A part of file names: the backbone and the suffix."""
        return f"{self.key.backbone}{self.suffix}"

    @property
    def scored(self) -> pd.DataFrame:
        """One run per row, data set and seed, with a score."""
        return self.runs[usable(self.runs) & self.runs["score"].notna()]

    @property
    def score(self) -> str:
        """The score as the label of an axis."""
        return f"{score_title(self.key.task)} (%)"

    @property
    def score_word(self) -> str:
        """The score in one word, at the beginning of a title."""
        return score_title(self.key.task) if self.key.task else "Accuracy"

    @property
    def rows(self) -> list[RowKey]:
        """Rows of the scored runs, in the order of the leaderboard."""
        return rows_in_order(self.scored["row"])

    @property
    def datasets(self) -> list[str]:
        """Data sets of all runs, by group, then by name."""
        return data_sets(self.runs)


def sections(runs: pd.DataFrame, filters: Filters) -> Iterator[SectionRuns]:
    """The filtered runs by section; a figure shows one."""
    runs = arrange(runs, filters)
    titles = section_titles(sections_in(runs))
    backbones = [key.backbone for key in titles]
    for key, title in titles.items():
        # Two sections of one backbone (say, 10 and 100 epochs) need different file names.
        version = [part for part in key.data or () if part] or ""
        suffix = f"_{digest([*key.values[:-1], version], 6)}" if backbones.count(key.backbone) > 1 else ""
        yield SectionRuns(key, title, suffix, of_section(runs, key))


def sections_by_class(runs: pd.DataFrame, filters: Filters) -> Iterator[SectionRuns]:
    """Those whose models give an image one class; what a segmentation leaves of an image is something else.

    Raises:
        StoreError: when there are others only.
    """
    found = list(sections(runs, filters))
    own = [section for section in found if not section.key.task]
    if found and not own:
        tasks = " and ".join(sorted({str(section.key.task) for section in found}))
        raise StoreError(f"this shows one class for each image, and all runs here are of {tasks}: choose other runs or results.")
    return iter(own)


class UnsuitedError(StoreError):
    """Something that a figure is not for, which is no fault."""


def by_dataset(
    found: Iterable[SectionRuns], make: Callable[[SectionRuns, str, pd.DataFrame], Made], none: str
) -> Iterator[tuple[str, Any]]:
    """The figures of every data set of every section, by :func:`one_by_one`.

    Args:
        make: from a section, the name of a data set and its runs; none, when they lack what the figure needs.
    """
    parts = [
        (f"{dataset} on {section.stem}", partial(make, section, dataset, section.runs[section.runs["dataset"] == dataset]))
        for section in found
        for dataset in section.datasets
    ]
    return one_by_one(parts, none)


def one_by_one(parts: Iterable[tuple[str, Callable[[], Made]]], none: str) -> Iterator[tuple[str, Any]]:
    """All figures. A part whose files, model or data are damaged or absent is a warning, and the others are drawn; nothing is
    said of a part that the figure is not for.

    Args:
        parts: what is drawn, in words, and what draws it.
        none: the error when there is nothing to draw.

    Raises:
        VpbenchError: the first problem, or ``none``, when no figure came of any part.
    """
    problems: list[tuple[str, VpbenchError]] = []
    drawn = False
    for name, make in parts:
        try:
            for made in make():
                drawn = True
                yield made
        except VpbenchError as error:
            problems.append((name, error))
    if not drawn:
        raise problems[0][1] if problems else StoreError(none)
    for name, problem in problems:
        if not isinstance(problem, UnsuitedError):
            warnings.warn(f"no figure of {name}: {problem}", stacklevel=2)


def usable(runs: pd.DataFrame) -> pd.Series[bool]:
    """Which runs ended well and are no repetition."""
    return (runs["status"] == "ok") & ~runs["repeat"].astype(bool)


def data_sets(runs: pd.DataFrame) -> list[str]:
    """Data sets of runs, by group, then by name."""
    names = runs[["dataset_group", "dataset"]].fillna("").drop_duplicates("dataset")
    return [str(name) for name in names.sort_values(["dataset_group", "dataset"])["dataset"]]


def rows_in_order(rows: Iterable[RowKey]) -> list[RowKey]:
    """Each row once, in the order of the leaderboard, variants after their method."""
    return sorted(set(rows), key=leaderboard().order)


def in_table_order(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs by the order of their rows."""
    places = {row: place for place, row in enumerate(rows_in_order(runs["row"]))}
    order = [places[row] for row in runs["row"]]
    return runs.iloc[sorted(range(len(runs)), key=order.__getitem__)]


def draw_figures(
    name: str,
    store: Store,
    runs: pd.DataFrame,
    filters: Filters,
    folder: Path,
    on_figure: Callable[[str], None] | None = None,
    most: int | None = None,
) -> list[Path]:
    """Write the figures called ``name`` as PNG (150 dots per inch) and PDF into ``folder``; their paths.

    Args:
        on_figure: called with each figure before it is written.
        most: how many of the figures to write; None: all.

    Raises:
        UsageError: for an unknown figure, or a file in place of a folder.
        OSError: when a file cannot be written.
        StoreError: when the store lacks what the figure needs.
    """
    plot = find_plot(name)
    if folder.suffix.removeprefix(".").isalpha() and not folder.is_dir():  # .png, .docx; but runs.v2 is a folder
        raise UsageError(f"--out {folder} names a file; figures need a folder, as each is written as PNG and as PDF.")
    paths = []
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's matplotlibrc, with LaTeX say, is for other figures
        matplotlib.rcParams.update({**_STYLE, **PLAIN})
        for stem, figure in islice(plot.draw(store, runs, filters), most):
            if on_figure is not None:
                on_figure(stem)
            escape_text(figure)
            for _ in range(2):  # the first pass places the panels, and the second what is around them
                figure.draw_without_rendering()
            figure.set_layout_engine("none")  # both files take the places that were found now
            _thin_out_labels(figure)
            paths += [_save(figure, folder / f"{file_name(stem)}{suffix}") for suffix in _METADATA]
    return paths


def _thin_out_labels(figure: Any) -> None:
    """Hides every tick label that would touch the one before it on its axis."""
    for ax in figure.axes:
        for axis, across in ((ax.xaxis, True), (ax.yaxis, False)):
            end = -math.inf
            labels = [label for label in axis.get_majorticklabels() if label.get_visible() and label.get_text()]
            spans = [(box.x0, box.x1) if across else (box.y0, box.y1) for box in (label.get_window_extent() for label in labels)]
            for place in sorted(range(len(labels)), key=lambda place: sum(spans[place])):
                if spans[place][0] < end + _GAP and not labels[place].get_rotation() % 90:
                    labels[place].set_visible(False)
                else:
                    end = spans[place][1]


def _save(figure: Any, path: Path) -> Path:
    write_atomically(path, lambda partial: figure.savefig(partial, dpi=150, metadata=_METADATA[path.suffix]))
    return path
