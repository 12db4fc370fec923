"""Figures by name. A figure is a module in ``reports/plots``, or an entry point of the group ``vpbench.plots``.

Listing the names imports none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from vpbench.core.errors import UsageError
from vpbench.core.names import unknown
from vpbench.core.plugins import Registry

LAST = 1000


@dataclass(frozen=True)
class Plot:
    """One kind of figure.

    Attributes:
        draw: function of the store, its runs (one per row) and the :class:`Filters` to apply; yields pairs of a file name
            without suffix and a matplotlib figure. Raises StoreError where the store lacks what the figure needs.
        title: what it shows, the first paragraph of the module's docstring.
        place: position on a page, smallest first; ``PLACE`` of the module.
        overview: whether it is readable, and quick to draw, for thousands of runs; ``OVERVIEW`` of the module.
        of_trials: whether it shows the trials of searches, and so needs no run; ``OF_TRIALS`` of the module.
        of_costs: whether it can show the costs of a file of ``vpbench measure``; ``OF_COSTS`` of the module.
    """

    name: str
    draw: Callable[..., Iterable[tuple[str, Any]]]
    title: str
    place: int = LAST
    overview: bool = False
    of_trials: bool = False
    of_costs: bool = False

    @property
    def option(self) -> str:
        """The name as a command takes it."""
        return self.name.replace("_", "-")


def plot_registry() -> Registry[Plot]:
    """Every file in ``reports/plots``, in ``plots`` of the user's folders, and the group ``vpbench.plots``."""
    return Registry("plot", "vpbench.reports.plots", _pick, group="vpbench.plots", folder="plots")


def plot_names() -> list[str]:
    """The names as a command takes them, sorted."""
    return [name.replace("_", "-") for name in plot_registry().names()]


def find_plot(name: str) -> Plot:
    """The plot that a user names.

    Raises:
        UsageError: for an unknown name.
    """
    if (asked := name.replace("_", "-")) not in plot_names():
        raise unknown("plot", name, plot_names())
    return plot_registry().get(asked.replace("-", "_"))


def _pick(name: str, found: Any) -> Plot:
    """A plot from its module, or from a function ``draw`` that an entry point names."""
    draw = found if callable(found) else getattr(found, "draw", None)
    if draw is None:
        raise UsageError(f"plot '{name}': {found!r} has no function 'draw'.")
    title = " ".join((found.__doc__ or name).strip().split("\n\n")[0].replace("``", "").split())
    marks = (getattr(found, mark, False) for mark in ("OVERVIEW", "OF_TRIALS", "OF_COSTS"))
    return Plot(name, draw, title, getattr(found, "PLACE", LAST), *marks)
