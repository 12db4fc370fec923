"""File names and anchors of a page, for any names that a store may hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pandas as pd

from vpbench.core.file_names import file_name
from vpbench.reporting.frame import is_missing

# Up to here every run has a page of its own; in larger stores runs that differ in their seed share one.
OWN_PAGE = 2000


def file_stem(name: str) -> str:
    """``name`` where it is a safe file name on every system, else its safe letters and a hash."""
    return file_name(name, lower=True)


def method_file(method: str) -> str:
    """The page of a method with all its presets, as seen from the root of the site."""
    return f"methods/{file_stem(method)}.html"


@dataclass(frozen=True)
class Place:
    """A page as seen from the root of the site, and the anchor of a run on it."""

    file: str
    anchor: str

    @property
    def href(self) -> str:
        return f"{self.file}#{self.anchor}"


def places(runs: pd.DataFrame, own_page: int = OWN_PAGE) -> list[Place]:
    """The place of every run, in the order of ``runs``.

    Two rows of one run, which a copied file makes, share their page.
    """
    shared = len(runs) > own_page
    found = []
    times: Counter[str] = Counter()
    for run, group in runs[["run_id", "group_id"]].itertuples(index=False, name=None):
        times[run] += 1
        copy = f"-{times[run]}" if times[run] > 1 else ""
        page = group if shared and not is_missing(group) else run
        found.append(Place(f"runs/{file_stem(str(page))}.html", f"run-{file_stem(str(run))}{copy}"))
    return found
