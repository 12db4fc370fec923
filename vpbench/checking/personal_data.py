"""What texts of a row say of the machine or the person that made it, which nobody should publish by accident."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from vpbench.core.escaping import one_line
from vpbench.core.hub import is_on_hub
from vpbench.core.names import shortened

PATH_COLUMNS = ("data_path", "weights_path")

# A slash within a word, an address or a pattern ("mean/std", "https://...", "sh/*.sh") begins no path.
_BEGINS = r"(?<![\w.:/*~)}\]-])"
_KINDS = {
    "an absolute path": re.compile(rf"{_BEGINS}(?:/[\w.@+-]+){{2,}}|\b[A-Za-z]:\\[^\s\"']+|\\\\[\w.-]+\\[\w.$-]+|\bfile://\S+"),
    "a home folder": re.compile(rf"{_BEGINS}~[\w.-]*/[^\s\"']*"),
    "an address of a person or an account": re.compile(r"\b[\w.+-]+@(?:[\w-]+\.)+[A-Za-z]{2,}\b"),
    "the name of a machine": re.compile(r"\b[\w-]+\.(?:local|localdomain|lan|internal|intranet|corp)\b"),
}


def personal_data(row: Mapping[str, Any]) -> Iterator[str]:
    """Sentences on columns that hold a path or a name of somebody's machine."""
    for column, value in row.items():
        if column in PATH_COLUMNS:
            if value is not None and not is_on_hub(value):
                yield f"{column} says where files lie on your machine, and must be empty"
        elif isinstance(value, str) and (found := found_in(value)) is not None:
            yield f"{column} holds {found[0]}, '{one_line(shortened(found[1]))}', which says who or where you are"


def found_in(text: str) -> tuple[str, str] | None:
    """The kind of the first thing in a text that identifies a person or a machine, and the thing itself."""
    for kind, pattern in _KINDS.items():
        if found := pattern.search(text):
            return kind, found[0]
    return None
