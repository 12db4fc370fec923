"""A run by the first digits of its id."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vpbench.core.errors import StoreError
from vpbench.core.names import counted, shortened
from vpbench.store.store import Store

_DIGITS = re.compile(r"[0-9a-f]{1,32}")


def is_run_id(text: str) -> bool:
    """Whether ``text`` can be the id of a run, or its beginning."""
    return bool(_DIGITS.fullmatch(text))


def find_run_id(store: Store, beginning: str, known: Sequence[str] | None = None) -> str:
    """The id of the one run whose id begins so.

    Args:
        known: ids of all runs, where they are read already.

    Raises:
        StoreError: when there is none, or several.
    """
    ids = [row["run_id"] for row in store.read_columns(["run_id"])] if known is None else known
    found = [run_id for run_id in ids if run_id.startswith(beginning)]
    if len(found) == 1:
        return found[0]
    many = f"{len(found)} runs begin with '{beginning}'; use more digits" if found else f"no run '{shortened(beginning)}'"
    raise StoreError(f"{store.folder}: {many} ({counted(len(ids), 'run')} there; --results chooses another folder).")
