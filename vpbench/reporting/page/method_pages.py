"""The content of a method's page: its description where this version has it, and what its runs record in any case."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from vpbench.core.errors import VpbenchError
from vpbench.reporting.describe import describe, fidelity_words
from vpbench.reporting.keys import split_name
from vpbench.reporting.page.leaderboard import Results
from vpbench.reporting.page.links import method_file


@dataclass(frozen=True)
class MethodPage:
    """A method with all its presets. ``facts`` are those of ``vpbench show method``, empty where there is a ``problem``."""

    name: str
    file: str
    facts: dict[str, Any]
    problem: str
    seen: tuple[tuple[str, str], ...]
    results: list[Results] = field(default_factory=list)

    @property
    def fidelity(self) -> str:
        """In words."""
        return fidelity_words(str(self.facts["fidelity"]))

    @property
    def title(self) -> str:
        return str(self.facts.get("title", self.name))


def method_pages(runs: pd.DataFrame, results: dict[str, list[Results]]) -> list[MethodPage]:
    """One per method of the runs, in the order of their names."""
    bases = runs["method"].map(lambda name: split_name(str(name))[0])
    return [_page(str(name), own, results.get(str(name), [])) for name, own in runs.groupby(bases)]


def _page(name: str, own: pd.DataFrame, results: list[Results]) -> MethodPage:
    try:
        facts, problem = describe("method", name, Path()), ""
    except VpbenchError as error:
        facts, problem = {}, str(error)
    return MethodPage(name, method_file(name), facts, problem, tuple(_seen(own)), results)


def _seen(own: pd.DataFrame) -> list[tuple[str, str]]:
    """What the rows record about a method, which is all there is when it was deleted since."""
    statuses = own["status"].value_counts().sort_index()
    known = [
        ("runs", ", ".join(f"{count} {status}" for status, count in statuses.items())),
        ("labels", ", ".join(sorted(own["method"].dropna().unique()))),
        ("versions", ", ".join(map(str, sorted(own["method_version"].dropna().unique())))),
        ("fidelity", ", ".join(fidelity_words(value) for value in sorted(own["fidelity"].dropna().unique()))),
        ("backbones", ", ".join(sorted(own["backbone"].dropna().unique()))),
        ("data sets", ", ".join(sorted(own["dataset"].dropna().unique()))),
    ]
    return [(name, text) for name, text in known if text]
