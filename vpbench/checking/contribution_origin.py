"""Where rows to publish come from: a clone of vpbench, at a commit that everybody can check out."""

from __future__ import annotations

from collections.abc import Mapping
from re import fullmatch
from typing import Any

NO_COMMIT = (
    "it names no commit, because vpbench did not run from a clone: in the clone, pip install -e . (or python -m vpbench from its "
    "root), and run it again with another --results"
)


def origin_fault(row: Mapping[str, Any]) -> str | None:
    """What keeps others from running the code of a row, a sentence."""
    if not fullmatch("[0-9a-f]{40}", row["git_commit"] or ""):
        return NO_COMMIT
    if row["git_dirty"] is not False:
        return f"it was made with uncommitted changes on {row['git_commit'][:8]}: commit them, and run it again"
    return None
