"""The trials of searches, as figures and tables use them: loaded, and the values that each has tried."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from vpbench.core.errors import StoreError
from vpbench.reporting.frame import Filters
from vpbench.reporting.scores import with_scores
from vpbench.reporting.settings import options_of, settings_in
from vpbench.store.store import Store


def trials_in(store: Store, filters: Filters) -> pd.DataFrame:
    """The trials of all searches, in the order in which they were made.

    Raises:
        StoreError: when there is none.
    """
    rows = with_scores(store.load())
    trials = rows[rows["stage"] == "search"].sort_values(["started_at", "run_id"])
    if trials.empty:
        raise StoreError(
            f"no trial of a search in {store.folder}. Make some: vpbench tune --methods vpt --suite mini --results {store.folder}"
        )
    return filters.apply(trials)


def has_score(trials: pd.DataFrame) -> pd.Series[bool]:
    """Which trials ended well."""
    return trials["status"].eq("ok") & trials["val_score"].notna()


def whole_ones(trials: pd.DataFrame) -> pd.DataFrame:
    """Those that ended well; a pruned trial was a short run, and only whole ones are compared."""
    done = trials[has_score(trials)]
    return done[done["epochs"] == done["epochs"].max()]


def tried(trials: pd.DataFrame, searched: Sequence[str]) -> pd.DataFrame:
    """A row per finished trial: the value of every setting, as ``recipe.lr`` or an option, and ``score``, percent."""
    lines = []
    for trial in trials[["method", "method_config", "recipe", "val_score"]].to_dict("records"):
        recipe, options = settings_in(trial["recipe"]), options_of(trial)
        values = {name: recipe.get(name[7:]) if name.startswith("recipe.") else options.get(name) for name in searched}
        lines.append({**values, "score": trial["val_score"]})
    return pd.DataFrame(lines)


def place_of_best(trials: pd.DataFrame) -> int:
    """The place of the trial that the search selects among whole ones; ties as :func:`vpbench.search.study.winner` has them."""
    by = ["val_correct", "val_score", "lr", "weight_decay"]
    ranked = trials[by].reset_index(drop=True).sort_values(by, ascending=[False, False, True, True], kind="stable")
    return int(ranked.index[0])
