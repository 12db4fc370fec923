"""What a row stores as JSON: options, recipe, preprocessing, search."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vpbench.models.registry import current_options
from vpbench.spec.parsing import is_shallow

WHITE = "#ffffff"  # as a row says it


def settings_in(text: Any) -> dict[str, Any]:
    """The settings by name; {} for none. Text that is no JSON, or no settings, becomes ``{"value": text}``."""
    if not isinstance(text, str) or not text:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    value = value if is_shallow(value) else text
    return value if isinstance(value, dict) else {"value": value}


def decoding_in(text: Any) -> str:
    """How a run's images were decoded, in words, from its preprocessing; empty for the plain way of the papers' loaders."""
    return decoding_words(settings_in(text))


def decoding_words(found: Mapping[str, Any]) -> str:
    """The same from the options of a preprocessing."""
    ground = found.get("background", "ignored")
    ground = "white" if ground == WHITE else ground
    parts = ["EXIF orientation"] if found.get("orientation") == "exif" else []
    return ", ".join([*parts, *([f"transparency on {ground}"] if ground != "ignored" else [])])


def options_of(row: Mapping[Any, Any]) -> dict[str, Any]:
    """The options of a row's method, by their present names. All of reporting reads the column ``method_config`` here.

    Args:
        row: with the columns ``method`` and ``method_config``.
    """
    return current_options(str(row["method"]).partition(":")[0], settings_in(row["method_config"]))


def search_in(text: Any) -> dict[str, Any]:
    """Space, sampler, trials and searched settings of the search that chose a run's settings; {} for none."""
    found = settings_in(text)
    return found if {"space", "sampler", "trials", "searched"} <= found.keys() else {}
