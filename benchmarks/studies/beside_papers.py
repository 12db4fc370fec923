"""The order of methods here beside that of a paper's table, and how far the two agree.

    python benchmarks/studies/beside_papers.py --paper insvp

A line per method that both have: the mean that the paper prints and its place, then the mean rank and the place in each suite of
the results. Last, Spearman's rank correlation of the paper's means with each suite's mean ranks; 1: the same order. What the
paper has on another backbone than its first methods is left out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd
from scipy.stats import spearmanr

from vpbench.core.errors import UsageError, VpbenchError
from vpbench.reporting.definition import leaderboard, load_definition
from vpbench.reporting.frame import Filters, load_rows
from vpbench.reporting.keys import RowKey
from vpbench.reporting.published import published_figures
from vpbench.reporting.rank_table import statistics_table
from vpbench.store.store import Store


def printed(paper: str) -> dict[str, float]:
    """The mean of table 1, over data sets or over groups of them, by our name of the method."""
    definition = load_definition(paper, "1")
    figures = published_figures(definition, paper)
    backbone = figures[0].backbone, figures[0].pretraining
    means = [each for each in figures if each.key.kind == "mean" and (each.backbone, each.pretraining) == backbone]
    rows = {definition.row_of(figure.method): figure.value for figure in means if figure.value is not None}
    return {row.name: value for row, value in rows.items() if isinstance(row, RowKey)}


def mean_ranks(results: Path, suite: str) -> dict[str, float]:
    """Of all methods of a suite, 1 is best."""
    rows = load_rows(Store(results), ("score",))
    sections = statistics_table(rows, leaderboard(), Filters(suite=(suite,))).sections
    if len({section.key for section in sections}) != 1:
        raise UsageError(f"{results} has {len(sections)} groups of comparable runs of {suite}, and one is needed.")
    keys = {row.key: row.cells[0].mean for row in sections[0].rows}
    return {key.name: rank for key, rank in keys.items() if isinstance(key, RowKey) and rank is not None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--paper", default="insvp", choices=["insvp", "ivpt"])
    parser.add_argument("--results", type=Path, default=Path("results/published"))
    parser.add_argument("--suites", default="open-mini,photos-mini", help="names, with commas")
    asked = parser.parse_args()
    suites = asked.suites.split(",")
    try:
        frame = pd.DataFrame({"printed": printed(asked.paper), **{name: mean_ranks(asked.results, name) for name in suites}})
    except VpbenchError as error:
        parser.error(str(error))
    frame = frame[frame["printed"].notna() & frame[suites].notna().any(axis=1)].sort_values("printed", ascending=False)
    places = pd.DataFrame({"printed": frame["printed"].rank(ascending=False), **{name: frame[name].rank() for name in suites}})
    sys.stdout.write(f"| method | {asked.paper}, table 1 | place | {' | '.join(f'{name}, rank | place' for name in suites)} |\n")
    sys.stdout.write("|---|" + "---:|" * (2 + 2 * len(suites)) + "\n")
    for method, row in frame.iterrows():
        cells = [str(method), f"{row['printed']:g}", f"{places.loc[method, 'printed']:g}"]
        for name in suites:
            cells += ["-", "-"] if pd.isna(row[name]) else [f"{row[name]:.2f}", f"{places.loc[method, name]:g}"]
        sys.stdout.write(f"| {' | '.join(cells)} |\n")
    for name in suites:
        both = frame[frame[name].notna()]
        rho = spearmanr(-both["printed"], both[name]).statistic
        sys.stdout.write(f"\nSpearman's rank correlation with {name}: {rho:.2f}, {len(both)} methods.\n")


if __name__ == "__main__":
    main()
