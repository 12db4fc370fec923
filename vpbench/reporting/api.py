"""From a results folder to a table or to figures: what ``vpbench report`` and ``vpbench.report`` call."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from vpbench.core.errors import StoreError, UsageError
from vpbench.core.names import unknown
from vpbench.reporting.definition import load_definition
from vpbench.reporting.files import write_whole
from vpbench.reporting.formats import RENDERERS, SUFFIXES, terminal
from vpbench.reporting.runs import Filters
from vpbench.reporting.table import build_table
from vpbench.store.folder import DEFAULT_FOLDER, Store

DEFAULT_FIGURES = Path("results/figures")
Names = str | Iterable[str] | None


def make_report(
    table: str | int | None = None,
    plot: str | None = None,
    *,
    results: Path | str = DEFAULT_FOLDER,
    paper: str = "insvp",
    format: str | None = None,
    out: Path | str | None = None,
    dataset: Names = None,
    suite: Names = None,
    backbone: Names = None,
    method: Names = None,
    seed: int | None = None,
    width: int | None = None,
    colour: bool = False,
) -> str | list[Path]:
    """A table as text, or the paths of the files written. Without ``table`` and ``plot``: table 1.

    Args:
        table: number of a table of ``paper``.
        plot: name of a figure instead.
        results: the results folder.
        format: terminal, md, tex, csv or json; by default the one that ``out`` ends with, else terminal.
        out: file or folder to write to; figures go to ``results/figures`` by default.
        dataset, suite, backbone, method: keep only these: one name, names with commas between them, or a list.
        seed: keep only this seed.
        width: characters of a line in the terminal's format; None does not limit it.
        colour: let the terminal's format use escape codes.

    Raises:
        StoreError: when the store holds no run, or not what the figure needs.
        UsageError: for an unknown name or options that exclude each other.
    """
    if table is not None and plot is not None:
        raise UsageError("a table or a plot, not both: leave out --table or --plot.")
    keep = Filters(_names(dataset), _names(suite), _names(backbone), _names(method), None if seed is None else (seed,))
    store = Store(results)
    if plot is not None:
        if format is not None:
            raise UsageError("--format is for tables; figures are always written as PNG and PDF.")
        return _figures(plot, store, keep, Path(out or DEFAULT_FIGURES))
    target = Path(out) if out is not None else None
    kind = _format(format, target)
    definition = load_definition(paper, str(table if table is not None else 1))
    built = build_table(_runs(store), definition, keep)
    text = terminal(built, width, colour and target is None) if kind == "terminal" else RENDERERS[kind](built)
    if target is None:
        return text
    if target.is_dir() or not target.suffix:
        target = target / f"{paper}_table{definition.number}{SUFFIXES[kind]}"
    return [write_whole(target, lambda partial: partial.write_text(text, encoding="utf-8", newline="\n"))]


def _figures(name: str, store: Store, keep: Filters, folder: Path) -> list[Path]:
    # Imported here: matplotlib and scikit-learn take a second that a table need not wait for.
    from vpbench.reporting.figures import draw_figures

    return draw_figures(name, store, _runs(store), keep, folder)


def _runs(store: Store) -> pd.DataFrame:
    runs = store.load()
    if runs.empty:
        raise StoreError(
            f"no runs in {store.folder}. Fill it: vpbench run --methods linear,vpt --suite mini --results {store.folder}"
        )
    return runs


def _names(given: Names) -> tuple[str, ...] | None:
    if given is None:
        return None
    parts = given.split(",") if isinstance(given, str) else given
    return tuple(part.strip() for part in parts if part.strip())


def _format(given: str | None, out: Path | None) -> str:
    """The format asked for, or the one whose suffix the file has."""
    if given is not None and given not in RENDERERS:
        raise unknown("format", given, RENDERERS)
    by_suffix = {suffix: name for name, suffix in SUFFIXES.items()}
    return given or (by_suffix.get(out.suffix, "terminal") if out else "terminal")
