"""Why a report has no row to show, and what adds some."""

from __future__ import annotations

from collections import Counter

from vpbench.core.errors import StoreError
from vpbench.core.names import counted
from vpbench.store.store import Store

FILL = "vpbench run --methods linear,vpt --suite mini --results {}"


def no_rows(store: Store, shifts: bool = False) -> StoreError:
    """The error for a store without a row of the kind that a report shows.

    Args:
        shifts: whether that are stored models on other data sets; else runs that were tested.
    """
    folder = store.folder
    try:
        store.check_there()
    except StoreError as error:
        return StoreError(f"{error} Make it: {FILL.format(folder)}")
    stages = Counter(row["stage"] for row in store.read_columns(["stage"]))
    trials, elsewhere = stages.pop("search", 0), stages.pop("shift", 0)
    if shifts and (runs := stages.total()):
        return StoreError(
            f"none of the {counted(runs, 'run')} in {folder} has been tested on other data. Repeat the command that made them "
            "with --test-on NAMES or --wise-ft 0,0.5,1, which adds such rows; a model that is stored is not trained again."
        )
    if trials:
        return StoreError(
            f"{folder} holds {counted(trials, 'trial')} of a search, which are not tested, and no run. Repeat the vpbench tune "
            "command that made them: it completes the search and runs what wins. vpbench report --plot trials shows the trials."
        )
    if elsewhere:
        return StoreError(
            f"{folder} holds {counted(elsewhere, 'row')} of models tested on other data and none of a run: "
            f"vpbench report --paper vpbench --table shift --results {folder} shows them."
        )
    return StoreError(f"no runs in {folder}. Fill it: {FILL.format(folder)}")
