"""The figures of a page: every plot that the store has data for, and why the others are missing."""

from __future__ import annotations

import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from vpbench.core.counting import Counter
from vpbench.core.errors import VpbenchError
from vpbench.core.user_warning import warn
from vpbench.reporting.frame import Filters
from vpbench.reporting.plot_registry import Plot, plot_registry
from vpbench.store.store import Store

FOLDER = "figures"
MOST = 60  # figures of one kind
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
class Drawn:
    """All figures of one kind; ``missing`` is the reason why there is none, or where the others are."""

    name: str
    title: str
    pictures: tuple[Picture, ...]
    missing: str = ""


def draw_all(
    store: Store, runs: pd.DataFrame, filters: Filters, site: Path, large: bool = False, on_progress: Counter | None = None
) -> list[Drawn]:
    """Draw every plot into ``site/figures``.

    Args:
        runs: of the whole store, so that a filter changes no colour.
        large: draw overviews only, and name the command for each of the others.
        on_progress: called with the plots that are done, how many there are, and the figure that is drawn now.
    """
    # Imported here: matplotlib takes a second that a refused folder need not wait for.
    from vpbench.reporting.figures import draw_figures

    plots: list[Plot] = sorted((plot for _, plot in plot_registry().working()), key=lambda plot: (plot.place, plot.name))
    drawn = []
    for number, plot in enumerate(plots):

        def report(figure: str = plot.option, done: int = number) -> None:
            if on_progress is not None:
                on_progress(done, len(plots), figure)

        report()
        if large and not plot.overview:
            advice = f"vpbench report --plot {plot.option} --results RESULTS draws it, best with --dataset or --method."
            drawn.append(Drawn(plot.name, plot.title, (), f"left out, as there are so many runs: {advice}"))
            continue
        try:
            paths = draw_figures(plot.name, store, runs, filters, site / FOLDER / plot.name, report, MOST)
        except OSError:
            raise  # a disk that is full, not the plot
        except Exception as error:  # a broken plot takes no other away
            shutil.rmtree(site / FOLDER / plot.name, ignore_errors=True)  # what it drew before the error
            reason = str(error)
            if not isinstance(error, VpbenchError):
                reason = f"{type(error).__name__}: {reason}"
                warn(f"the plot {plot.option} cannot be drawn: {reason}")
            drawn.append(Drawn(plot.name, plot.title, (), without_folder(reason, store)))
            continue
        pictures = tuple(_picture(path, site) for path in paths if path.suffix == ".png")
        others = f"No more than {MOST} are shown: vpbench report --plot {plot.option} --results RESULTS draws all."
        drawn.append(Drawn(plot.name, plot.title, pictures, others if len(pictures) == MOST else ""))
    return drawn


def without_folder(text: str, store: Store) -> str:
    """``text`` with RESULTS for the folder: a page has the same bytes wherever its store is."""
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
