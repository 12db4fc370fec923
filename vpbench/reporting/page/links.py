"""Which page a run is on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pandas as pd

from vpbench.reporting.page.file_names import file_stem
from vpbench.reporting.page.quantities import is_missing

# Up to here every run has a page of its own; in larger stores runs that differ in their seed share one.
OWN_PAGE = 2000


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
