"""Runs by the first digits of their ids, and the latest ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from vpbench.core.errors import StoreError
from vpbench.core.names import counted, shortened
from vpbench.store.store import Store, as_dicts

SHORT = 8  # digits of an id that are shown
SHOWN = 5  # of several runs that begin alike
LISTED = ("run_id", "method", "dataset", "backbone", "seed", "score", "val_score", "metric", "status", "stage", "started_at")
_DIGITS = re.compile(r"[0-9a-f]{1,32}")


def is_run_id(text: str) -> bool:
    """Whether ``text`` can be the id of a run, or its beginning."""
    return bool(_DIGITS.fullmatch(text))


def find_run_id(store: Store, beginning: str, known: Sequence[str] | None = None) -> str:
    """The id of the one run whose id begins so.

    Args:
        known: ids of all runs, where they are read already.

    Raises:
        StoreError: when there is none, or several, or no results folder.
    """
    store.check_there()
    ids = [row["run_id"] for row in store.read_columns(["run_id"])] if known is None else known
    found = [run_id for run_id in ids if run_id.startswith(beginning)]
    if len(found) == 1:
        return found[0]
    many = f"no run '{shortened(beginning)}'"
    if found:
        shown = sorted(found)[:SHOWN]
        listed = ", ".join(run_id[: _apart(shown)] for run_id in shown)
        many = f"{len(found)} runs begin with '{beginning}' ({listed}{', ...' if len(found) > SHOWN else ''}); use more digits"
    raise StoreError(f"{store.folder}: {many} ({counted(len(ids), 'run')} there; --results chooses another folder).")


def _apart(ids: Sequence[str]) -> int:
    """How many digits tell ids apart; as many as are shown everywhere, or more where these begin alike."""
    return next(
        (digits for digits in range(SHORT, len(ids[0])) if len({run_id[:digits] for run_id in ids}) == len(ids)), len(ids[0])
    )


def latest_runs(store: Store) -> tuple[list[dict[str, Any]], list[str]]:
    """All runs with the columns :data:`LISTED`, the latest last, and a line for each file that is no readable result."""
    found = store.read(list(LISTED))
    rows = as_dicts(found.table, list(LISTED))
    return sorted(rows, key=lambda row: (str(row["started_at"] or ""), row["run_id"])), list(found.left_out)
