"""All rows of a store that reports show."""

from __future__ import annotations

import warnings

import pandas as pd

from vpbench.store.folder import Store, as_frame


def load_rows(store: Store) -> pd.DataFrame:
    """What :meth:`Store.load` returns, without the trials of searches, which are not tested.

    Warns, in a line each, of files that cannot be read and of mixed schema versions.
    """
    rows = store.read()
    for path, reason in rows.broken:
        warnings.warn(f"{path} is not a readable result and is left out: {reason}", stacklevel=2)
    if len(rows.versions) > 1:
        counts = ", ".join(f"{count} of version {version}" for version, count in sorted(rows.versions.items()))
        warnings.warn(f"the results follow several schema versions ({counts}); what a version lacks stays empty.", stacklevel=2)
    frame = as_frame(rows.table)
    return frame[frame["stage"] != "search"].reset_index(drop=True)
