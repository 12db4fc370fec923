"""The figures of a page: every plot that the store has data for, and why the others are missing."""

from __future__ import annotations

import shutil
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from vpbench.core.errors import VpbenchError
from vpbench.reporting.runs import Filters
from vpbench.store.store import Store

FOLDER = "figures"
# Overviews first, models from inside last; a plot that is not named here comes behind them.
_ORDER = (
    *("pareto", "heatmap", "critical_difference", "seeds", "curves", "hyperparameters", "noise"),
    *("tsne", "prompts", "gradcam", "attention"),
)
# In a large store the others take minutes, and nobody reads a hundred lines of one.
_OVERVIEWS = ("pareto", "critical_difference")
_RESOLUTION = 150  # dots per inch of the PNGs
_SCREEN = 96


@dataclass(frozen=True)
class Picture:
    """A figure's files, as seen from the root of the site, and its size on the screen in pixels."""

    name: str
    png: str
    pdf: str
    width: int
    height: int


@dataclass(frozen=True)
class Plot:
    """All figures of one kind; ``missing`` says why there is none."""

    name: str
    title: str
    pictures: tuple[Picture, ...]
    missing: str = ""


def draw_all(store: Store, runs: pd.DataFrame, filters: Filters, site: Path, large: bool = False) -> list[Plot]:
    """Draw every plot into ``site/figures``.

    Args:
        runs: of the whole store, so that a filter changes no colour.
        large: draw overviews only, and say how to get the others.
    """
    # Imported here: matplotlib takes a second that a refused folder need not wait for.
    from vpbench.reporting.figures import draw_figures, figure_registry

    registry = figure_registry()
    names = registry.names()
    ordered = [name for name in _ORDER if name in names] + [name for name in names if name not in _ORDER]
    plots = []
    for name in ordered:
        story = sys.modules[registry.get(name).__module__].__doc__ or name
        title = " ".join(story.strip().split("\n\n")[0].replace("``", "").split())
        if large and name not in _OVERVIEWS:
            advice = (
                f"vpbench report --plot {name.replace('_', '-')} --results RESULTS draws it, best with --dataset or --method."
            )
            plots.append(Plot(name, title, (), f"left out, as there are so many runs: {advice}"))
            continue
        try:
            paths = draw_figures(name, store, runs, filters, site / FOLDER / name)
        except VpbenchError as error:
            shutil.rmtree(site / FOLDER / name, ignore_errors=True)  # what it drew before the error
            plots.append(Plot(name, title, (), without_folder(str(error), store)))
            continue
        plots.append(Plot(name, title, tuple(_picture(path, site) for path in paths if path.suffix == ".png")))
    return plots


def without_folder(text: str, store: Store) -> str:
    """``text`` with RESULTS for the folder: a page is for others, and is the same wherever its store lies."""
    return text.replace(str(store.folder.resolve()), "RESULTS").replace(str(store.folder), "RESULTS")


def _picture(path: Path, site: Path) -> Picture:
    with path.open("rb") as stream:
        width, height = struct.unpack(">II", stream.read(24)[16:])  # in a PNG's header
    place = path.relative_to(site)
    return Picture(
        path.stem,
        place.as_posix(),
        place.with_suffix(".pdf").as_posix(),
        *(round(n * _SCREEN / _RESOLUTION) for n in (width, height)),
    )
