"""Accuracy of trained models on noisy test images (as iVPT's Figures 4 and 6), from what ``vpbench run --noise`` left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from vpbench.analysis.noise import NOISE_FILE, read_noise
from vpbench.reporting.figures import SectionRuns, by_dataset, in_table_order, sections, usable
from vpbench.reporting.frame import Filters
from vpbench.reporting.keys import RowKey
from vpbench.reporting.row_labels import row_label
from vpbench.reporting.styles import RowStyle, despine, deviation_bars, figure_title, legend_below, row_styles
from vpbench.store.store import Store

PLACE = 70  # on a page


def draw(store: Store, runs: pd.DataFrame, filters: Filters) -> Iterator[tuple[str, Figure]]:
    """One figure per group of comparable runs and data set, named ``noise_<backbone>_<dataset>``.

    Raises:
        StoreError: when no run was evaluated under noise, or a file is no such table.
    """
    style = row_styles(runs)
    none = (
        f"no accuracy under noise in {store.folder} for these runs: repeat the command that made them with "
        "--save weights --noise 0,0.1,0.2; a model that is stored is not trained again."
    )
    return by_dataset(sections(runs, filters), partial(_of_dataset, store, style), none)


def _of_dataset(
    store: Store, style: Mapping[RowKey, RowStyle], section: SectionRuns, dataset: str, runs: pd.DataFrame
) -> Iterator[tuple[str, Figure]]:
    if tables := _tables(store, runs):
        yield f"noise_{section.stem}_{dataset}", _figure(section, dataset, tables, style, set(runs["row"]))


def _tables(store: Store, runs: pd.DataFrame) -> dict[RowKey, pd.DataFrame]:
    """Per row, in the order of the tables: mean, standard deviation and number of seeds at every sigma that all have."""
    found: dict[RowKey, list[pd.DataFrame]] = {}
    for row, run_id in in_table_order(runs[usable(runs)])[["row", "run_id"]].itertuples(index=False, name=None):
        if store.artefact_path(run_id, NOISE_FILE).exists():
            found.setdefault(row, []).append(read_noise(store, run_id))
    over_seeds = {row: pd.concat(tables).groupby("sigma")["acc1"].agg(["mean", "std", "count"]) for row, tables in found.items()}
    return {row: table[table["count"] == len(found[row])] for row, table in over_seeds.items()}


def _figure(
    section: SectionRuns, dataset: str, tables: Mapping[RowKey, pd.DataFrame], style: Mapping[RowKey, RowStyle], rows: set[RowKey]
) -> Figure:
    figure = Figure(figsize=(4.8, 3.9), layout="constrained")
    ax = figure.subplots()
    despine(ax)
    for row, table in tables.items():
        row_style = style[row]
        bars = deviation_bars(table["mean"], table["std"]) if (table["count"] > 1).all() else None
        ax.errorbar(
            table.index,
            table["mean"],
            yerr=bars,
            ls=row_style.dashes,
            linewidth=1.2,
            markersize=5,
            elinewidth=0.8,
            capsize=2,
            **row_style.marker_kwargs,
        )
    ax.set(xlabel="standard deviation of the noise (pixels in 0 ... 1)", ylabel=section.score)
    figure_title(figure, f"Noise on the test images, {dataset}: {section.title}")
    seeds = sorted({int(count) for table in tables.values() for count in table["count"]})
    parts = ["Gaussian noise, the same on every method's images; nothing is trained again."]
    parts.append(f"Mean and standard deviation over {'/'.join(map(str, seeds))} seeds." if seeds[-1:] > [1] else "One seed each.")
    if absent := sorted(map(row_label, rows - tables.keys())):
        parts.append(f"Not evaluated: {', '.join(absent)}.")
    legend_below(figure, " ".join(parts), [style[row].legend_handle(row_label(row), line=True) for row in tables])
    return figure
