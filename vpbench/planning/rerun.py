"""Which stored runs are to be repeated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from vpbench.core.names import unknown
from vpbench.spec.device import describe
from vpbench.store.store import Store

SOFTWARE = ("vpbench_version", "git_commit", "torch", "timm")


def to_repeat(which: str | None, store: Store) -> frozenset[str]:
    """Ids of the stored runs that ``--rerun WHICH`` means.

    Args:
        which: ``failed``: every status but ok; ``stale``: by another version or commit of vpbench, or another torch or timm,
            than here; ``all``; None for none of them.

    Raises:
        UsageError: for another word.
    """
    here = describe(torch.device("cpu"))
    kinds: dict[str, Callable[[dict[str, Any]], bool]] = {
        "failed": lambda row: row["status"] != "ok",
        "stale": lambda row: any(row[name] != here[name] for name in SOFTWARE),
        "all": lambda row: True,
    }
    if which is None:
        return frozenset()
    if which not in kinds:
        raise unknown("value of --rerun", which, kinds)
    return frozenset(row["run_id"] for row in store.read_columns(["run_id", "status", *SOFTWARE]) if kinds[which](row))
