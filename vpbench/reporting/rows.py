"""All rows of a store that reports show."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import pandas as pd

from vpbench.store.store import Store, as_frame

# By which runs are filtered, labelled, put into sections and described below a table.
_ABOUT = (
    *("run_id", "status", "stage", "started_at", "method", "method_version", "method_config", "recipe", "recipe_source"),
    *("search", "backbone", "weights", "weights_sha256", "image_size", "preprocess", "selection", "epochs", "precision"),
    *("suite", "dataset", "dataset_group", "data_digest", "n_train", "n_val", "n_test", "seed"),
    *("vpbench_version", "git_commit", "git_dirty"),
)


def load_rows(store: Store, numbers: Iterable[str] | None = None) -> pd.DataFrame:
    """What :meth:`Store.load` returns, without the trials of searches, which are not tested.

    Warns, in a line each, of files that cannot be read and of mixed schema versions.

    Args:
        numbers: the columns that are reported, when those by which runs are arranged and described are all that is needed
            besides; None for all.
    """
    rows = store.read(None if numbers is None else [*_ABOUT, *numbers])
    for path, reason in rows.broken:
        warnings.warn(f"{path} is not a readable result and is left out: {reason}", stacklevel=2)
    if len(rows.versions) > 1:
        counts = ", ".join(f"{count} of version {version}" for version, count in sorted(rows.versions.items()))
        warnings.warn(f"the results follow several schema versions ({counts}); what a version lacks stays empty.", stacklevel=2)
    frame = as_frame(rows.table)
    return frame[frame["stage"] != "search"].reset_index(drop=True)
