"""File names and anchors for whatever a store holds."""

from __future__ import annotations

import re

from vpbench.core.hashing import digest

_PLAIN = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def file_stem(name: str) -> str:
    """``name`` where it is a harmless file name on every system, else its harmless letters and a hash.

    Capital letters count as harmful: there are systems on which A.html and a.html are one file.
    """
    if _PLAIN.fullmatch(name):
        return name
    kept = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-_")[:40].rstrip("-_")
    return "-".join(filter(None, [kept, digest(name, 8)]))


def base_method(label: str) -> str:
    """The method of a label, without its preset; a page is about a method with all of its presets."""
    return label.partition(":")[0]


def method_file(label: str) -> str:
    """The page of a label's method, as seen from the root of the site."""
    return f"methods/{file_stem(base_method(label))}.html"
