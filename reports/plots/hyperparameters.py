"""Accuracy against the value of an option (as InsVP's Figure 7 and iVPT's Figure 5), over runs that differ in it alone.

Which option varies is found in the store. Two weights that always add up to 1, as InsVP's beta and 1 - beta, count as one
option.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, NullLocator

from vpbench.core.errors import StoreError
from vpbench.core.hashing import canonical_json
from vpbench.reporting.figures import SectionRuns, sections
from vpbench.reporting.frame import Filters
from vpbench.reporting.settings import options_of, settings_in
from vpbench.reporting.styles import dataset_palette, despine, deviation_bars, figure_title, legend_below, name_ticks
from vpbench.store.store import Store

PLACE = 60  # on a page
_COLUMNS = 3
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


@dataclass(frozen=True)
class Sweep:
    """One option of one method over its values, everything else equal.

    Attributes:
        option: its name; a field of the recipe begins with ``recipe.``.
        tied: an option that moves against it, so that their sum stays 1; empty where there is none.
        lines: per data set a frame with ``value``, ``mean``, ``std`` (of seeds; NaN for one) and ``n``, sorted by value.
    """

    option: str
    tied: str
    lines: dict[str, pd.DataFrame]

    @property
    def title(self) -> str:
        return f"{self.option}\n({self.tied} = 1 - {self.option})" if self.tied else self.option


def draw(store: Store, runs: pd.DataFrame, filters: Filters) -> Iterator[tuple[str, Figure]]:
    """One figure per group of comparable runs and method, named ``hyperparameters_<backbone>_<method>``.

    Raises:
        StoreError: when no option varies.
    """
    palette = dataset_palette(runs)
    drawn = False
    for section in sections(runs, filters):
        for method in sorted({row.method for row in section.rows}):
            if sweeps := sweeps_of(section, method):
                drawn = True
                yield f"hyperparameters_{section.stem}_{method}", _figure(section, method, sweeps, palette)
    if not drawn:
        raise StoreError(
            f"no runs in {store.folder} differ in one option only. Make some, one command per value: "
            f"vpbench run --methods vpt --set vpt.prompt_length=50 --results {store.folder}"
        )


def sweeps_of(section: SectionRuns, method: str) -> list[Sweep]:
    """What varies among a method's runs, by name. Where several sets of runs vary an option, the largest is taken."""
    scored = section.scored
    own = scored[[row.method == method for row in scored["row"]]]
    settings = [_settings(run) for run in own[["method", "method_config", "recipe", "method_version"]].to_dict("records")]
    found: dict[tuple[str, str], dict[str, pd.DataFrame]] = {}
    for dataset in section.datasets:
        rows = [
            (given, seed, score)
            for given, name, seed, score in zip(settings, own["dataset"], own["seed"], own["score"], strict=True)
            if name == dataset
        ]
        for key, line in _lines(rows).items():
            found.setdefault(key, {})[dataset] = line
    return [Sweep(option, tied, lines) for (option, tied), lines in sorted(found.items())]


def _settings(run: Mapping[Any, Any]) -> dict[str, Any]:
    """All options of a run, those of the recipe with a prefix; epochs are left out, as a section fixes them."""
    options = options_of(run)
    recipe = {f"recipe.{name}": value for name, value in settings_in(run["recipe"]).items() if name != "epochs"}
    return {**options, **recipe, "method version": None if pd.isna(run["method_version"]) else int(run["method_version"])}


def _lines(rows: Sequence[tuple[dict[str, Any], int, float]]) -> dict[tuple[str, str], pd.DataFrame]:
    """By (option, tied option or ""): the line with the most values."""
    names = sorted({name for given, _, _ in rows for name in given})
    varying = [name for name in names if len({canonical_json(given.get(name)) for given, _, _ in rows}) > 1]
    found: dict[tuple[str, str], pd.DataFrame] = {}
    for option in varying:
        if (line := _longest(rows, (option,))) is not None:
            found[option, ""] = line
    for one, two in combinations(varying, 2):
        if (line := _longest(rows, (one, two))) is not None:
            found[one, two] = line
    return found


def _longest(rows: Sequence[tuple[dict[str, Any], int, float]], moving: tuple[str, ...]) -> pd.DataFrame | None:
    """Among runs that agree in everything but ``moving`` (one option, or two weights with the sum 1): the set with the most
    values."""
    sets: dict[str, list[tuple[Any, int, float]]] = {}
    for given, seed, score in rows:
        values = [given.get(name) for name in moving]
        fixed = {name: value for name, value in given.items() if name not in moving}
        if len(moving) == 2 and not _add_to_one(values):
            continue
        sets.setdefault(canonical_json(fixed), []).append((values[0], seed, score))
    frames = {text: _over_seeds(runs) for text, runs in sets.items()}
    best = min(frames, key=lambda text: (-len(frames[text]), -int(frames[text]["n"].sum()), text), default=None)
    if best is None or len(frames[best]) < 2:
        return None
    return frames[best]


def _over_seeds(runs: Sequence[tuple[Any, int, float]]) -> pd.DataFrame:
    """Mean, standard deviation and number of seeds per value, numbers by size, words by the alphabet."""
    by_value: dict[str, tuple[Any, list[float]]] = {}
    for value, _, score in runs:
        by_value.setdefault(canonical_json(value), (value, []))[1].append(score)
    numeric = all(_is_number(value) for value, _ in by_value.values())
    ordered = sorted(by_value.values(), key=lambda item: item[0] if numeric else canonical_json(item[0]))
    return pd.DataFrame(
        [
            {
                "value": value if numeric else _word(value),
                "mean": pd.Series(scores).mean(),
                "std": pd.Series(scores).std(),
                "n": len(scores),
            }
            for value, scores in ordered
        ]
    )


def _add_to_one(values: Sequence[Any]) -> bool:
    # Rounded, as 0.7 + 0.3 need not be exactly 1.
    return all(_is_number(value) and 0 <= value <= 1 for value in values) and round(sum(values), 9) == 1


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _figure(section: SectionRuns, method: str, sweeps: Sequence[Sweep], palette: Mapping[str, str]) -> Figure:
    columns = min(len(sweeps), _COLUMNS)
    lines = -(-len(sweeps) // columns)
    figure = Figure(figsize=(max(2.5 * columns, 4.2), 2.4 * lines + 1.2), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    marks = dict(zip(palette, _MARKERS * (1 + len(palette) // len(_MARKERS))))
    for ax, sweep in zip(axes, sweeps):
        _panel(ax, sweep, palette, marks)
    for ax in axes[len(sweeps) :]:
        ax.set_visible(False)
    for place in range(0, len(sweeps), columns):
        axes[place].set_ylabel(section.score)
    shown = [name for name in palette if any(name in sweep.lines for sweep in sweeps)]
    keys = [Line2D([], [], color=palette[name], marker=marks[name], markersize=4, label=name) for name in shown]
    figure_title(figure, f"Options of {method}: {section.title}")
    counts = sorted({int(n) for sweep in sweeps for line in sweep.lines.values() for n in line["n"]})
    spread = "Bars: standard deviation over seeds. " if counts[-1] > 1 else ""
    seeds = "/".join(map(str, counts))
    each = f"{seeds} seed{'' if seeds == '1' else 's'} per point."
    legend_below(figure, f"Along a line only the option below it differs. {spread}{each}", keys)
    return figure


def _panel(ax: Axes, sweep: Sweep, palette: Mapping[str, str], marks: Mapping[str, str]) -> None:
    despine(ax)
    frames = sweep.lines.values()
    numeric = all(_is_number(value) for line in frames for value in line["value"])
    values = sorted(
        {value for line in frames for value in line["value"]} if numeric else {str(v) for line in frames for v in line["value"]}
    )
    for name, line in sweep.lines.items():
        at = line["value"] if numeric else [values.index(str(value)) for value in line["value"]]
        bars = deviation_bars(line["mean"], line["std"]) if (line["n"] > 1).any() else None
        ax.errorbar(
            at, line["mean"], yerr=bars, color=palette[name], linewidth=1.2,
            marker=marks[name], markersize=4, elinewidth=0.8, capsize=2,
        )  # fmt: skip
    if not numeric:
        name_ticks(ax, values)
    else:
        if values[0] > 0 and values[-1] / values[0] >= 10:
            ax.set_xscale("log")
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_minor_formatter(NullFormatter())
        if len(values) <= 8:
            ax.set_xticks(values, [f"{value:g}" for value in values])
    ax.set_xlabel(sweep.title)
