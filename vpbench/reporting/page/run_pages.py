"""The content of a run's page. In a large store one page holds all seeds of a specification, a column for each."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vpbench.core.errors import VpbenchError
from vpbench.reporting.describe import describe
from vpbench.reporting.frame import is_missing
from vpbench.reporting.keys import split_name
from vpbench.reporting.page.curve import curves, read_epochs
from vpbench.reporting.page.links import method_file
from vpbench.reporting.quantities import MISSING, blocks, meaning, quantity
from vpbench.reporting.repeat_command import Command, Plans, repeat_command
from vpbench.reporting.scores import score_title
from vpbench.reporting.settings import options_of, settings_in
from vpbench.store.store import Store

# Shown in parts of the page of their own.
_ELSEWHERE = frozenset({"error", "spec", "method_config", "preprocess", "recipe", "recipe_source"})

Run = Mapping[Hashable, Any]


@dataclass(frozen=True)
class Setting:
    """An option or a field of the recipe: what it was, and what it means."""

    name: str
    value: str
    meaning: str = ""


@dataclass(frozen=True)
class Fact:
    """A column of the store: a value per run, or one that they share."""

    name: str
    values: tuple[str, ...]
    meaning: str


@dataclass(frozen=True)
class OneRun:
    """What differs between the runs of a page."""

    run_id: str
    anchor: str
    seed: str
    status: str
    accuracy: str
    error: str
    command: Command
    curve: tuple[Markup, ...]
    no_curve: str


@dataclass(frozen=True)
class RunPage:
    """One run, or the seeds of a specification; what they share comes from the first."""

    file: str
    title: str
    method: str
    method_href: str
    options: tuple[Setting, ...]
    recipe: tuple[Setting, ...]
    sources: tuple[str, ...]
    preprocess: tuple[Setting, ...]
    blocks: tuple[tuple[str, tuple[Fact, ...]], ...]
    runs: tuple[OneRun, ...]
    spec: str


@dataclass
class Shared:
    """What the pages of a site share, found once.

    Attributes:
        store: with the learning curves.
        columns: of the store's rows.
        plans: for the commands.
        meanings: of options, by the label of a method.
    """

    store: Store
    columns: Sequence[str]
    plans: Plans = field(default_factory=Plans)
    meanings: dict[str, Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.blocks = blocks([name for name in self.columns if name not in _ELSEWHERE])


def run_page(file: str, runs: Sequence[Run], anchors: Sequence[str], shared: Shared) -> RunPage:
    """The page of ``runs``, which agree in all but their seeds.

    Args:
        file: its place, as seen from the root of the site.
        runs: rows of the store, at least one.
        anchors: one per run.
    """
    first = runs[0]
    label = str(first["method"])
    seeds = " and ".join([", ".join(map(_seed, runs[:-1])), _seed(runs[-1])]) if len(runs) > 1 else _seed(first)
    if label not in shared.meanings:
        shared.meanings[label] = _option_meanings(label)
    return RunPage(
        file,
        f"{label} on {quantity('dataset', first['dataset'])}, seed{'s' if len(runs) > 1 else ''} {seeds}",
        label,
        f"../{method_file(split_name(label)[0])}",
        tuple(_values(options_of(first), shared.meanings[label])),
        tuple(_values(settings_in(first["recipe"]))),
        _sources(first["recipe_source"]),
        tuple(_values(settings_in(first["preprocess"]))),
        tuple((title, tuple(_fact(name, runs) for name in names)) for title, names in shared.blocks),
        tuple(_one(run, anchor, shared) for run, anchor in zip(runs, anchors, strict=True)),
        _pretty(first["spec"]),
    )


def _fact(name: str, runs: Sequence[Run]) -> Fact:
    values = tuple(quantity(name, run[name]) for run in runs)
    return Fact(name, values[:1] if len(set(values)) == 1 else values, meaning(name))


def _one(run: Run, anchor: str, shared: Shared) -> OneRun:
    title = f"{run['method']} on {run['dataset']}, seed {_seed(run)}"
    drawn, problem = _curve(str(run["run_id"]), title, score_title(run["task"]), shared.store)
    return OneRun(
        str(run["run_id"]),
        anchor,
        _seed(run),
        quantity("status", run["status"]),
        MISSING if is_missing(run["score"]) else f"{run['score']:.2f}",
        "" if is_missing(run["error"]) else str(run["error"]).strip(),
        repeat_command(run, shared.plans),
        drawn,
        problem,
    )


def _seed(run: Run) -> str:
    return quantity("seed", run["seed"])


def _curve(run_id: str, title: str, score: str, store: Store) -> tuple[tuple[Markup, ...], str]:
    """The pictures, or why there is none."""
    path = store.artefact_path(run_id, "curve.csv")
    # A run id is read from a file, so it must not lead out of the store.
    if Path(run_id).name != run_id or not path.is_file():
        return (), "No learning curve was stored; --save curve keeps one."
    try:
        store.read_artefact(run_id, "curve.csv")  # raises for one that is damaged
        drawn = curves(read_epochs(path), title, score)
    except (OSError, ValueError) as error:
        return (), f"curve.csv cannot be read: {str(error).splitlines()[0]}."
    return tuple(drawn), "" if drawn else "The learning curve has no finite number."


def _values(settings: Mapping[str, Any], meanings: Mapping[str, str] | None = None) -> list[Setting]:
    return [Setting(str(name), _text(value), (meanings or {}).get(str(name), "")) for name, value in settings.items()]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _pretty(text: Any) -> str:
    value = settings_in(text)
    return json.dumps(value, indent=2, sort_keys=True) if value else ""


def _sources(text: Any) -> tuple[str, ...]:
    """A recipe names its sources one after the other, from the general to the specific."""
    return () if is_missing(text) else tuple(part for part in str(text).split("; ") if part)


def _option_meanings(label: str) -> Mapping[str, str]:
    """Meaning and source of every option, where this version still has the method."""
    try:
        options = describe("method", label, Path())["options"]
    except VpbenchError:
        return {}
    return {str(option["option"]): " - ".join(filter(None, [option["meaning"], option["source"]])) for option in options}
