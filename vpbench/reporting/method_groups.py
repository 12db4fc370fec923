"""What groups of methods are called in every table, and where they stand."""

from __future__ import annotations

from vpbench.core.errors import UsageError
from vpbench.models.registry import method_class

# By ``Method.group``, in the order of tables.
GROUPS = {"partial": "Partial tuning", "extra": "Extra modules", "prompts": "Prompts"}


def group_title(method: str) -> str:
    """What the group of a method is called; "" for a method that is not there."""
    try:
        return GROUPS[method_class(method).group]
    except UsageError:
        return ""


def group_place(method: str) -> int:
    """The place of a method's group, from 0; methods that are not there come last."""
    titles = [*GROUPS.values(), ""]
    return titles.index(group_title(method))
