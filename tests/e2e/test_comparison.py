"""docs/study.md: every number comes from the published rows, by the commands that stand above it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from functools import cache

import pytest
from command import CHECKOUT, environment, vpbench

from vpbench.reporting.figures import sections
from vpbench.reporting.frame import Filters, load_rows
from vpbench.reporting.measured_costs import with_costs
from vpbench.reporting.row_labels import row_label
from vpbench.reports.plots.pareto import panels_of, pareto_front, points_of
from vpbench.store.store import Store

STUDY = (CHECKOUT / "docs" / "study.md").read_text(encoding="utf-8")
SECTIONS = {part.partition("\n")[0]: part for part in STUDY.split("\n## ")[1:]}
NUMBER = re.compile(r"(?<![\w.,])-?\d+(?:,\d{3})*\.\d+(?!\w|\.\d)")  # with decimals: others are counts in words of their own
PLOTS = ("--plot", "--html")


@cache
def output(command: str) -> str:
    """What a command of the page prints."""
    program, *words = shlex.split(command, comments=True)
    if program == "vpbench":
        outcome = vpbench(*words, as_given=True)
        assert outcome.code == 0, f"{command}: {outcome.err}"
        return outcome.out
    done = subprocess.run([sys.executable, *words], cwd=CHECKOUT, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def commands(section: str) -> list[str]:
    """Those that print numbers."""
    lines = [line for block in re.findall(r"```sh\n(.*?)```", section, re.S) for line in block.splitlines()]
    prints = [line for line in lines if line.startswith(("vpbench report", "vpbench check", "python "))]
    return [line for line in prints if not any(option in line for option in PLOTS)]


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CHECKOUT)


@pytest.mark.parametrize("name", SECTIONS)
def test_numbers_are_those_of_the_commands(name: str) -> None:
    text = re.sub(r"```.*?```", "", SECTIONS[name], flags=re.S)
    written = set(NUMBER.findall(text))
    printed = "\n".join(map(output, commands(SECTIONS[name])))
    assert written <= set(NUMBER.findall(printed)), f"not printed by the commands of '{name}'"


def table_of(section: str) -> tuple[list[str], dict[str, list[str]]]:
    """Headings and cells of the page's table, by method."""
    lines = [line.strip("| ").split(" | ") for line in SECTIONS[section].splitlines() if line.startswith("| ")]
    return lines[0][1:], {line[0]: [cell.strip("* ") for cell in line[1:]] for line in lines[1:]}


def printed_table(command: str) -> tuple[list[str], dict[str, dict[str, str]]]:
    section = json.loads(output(f"{command} --json"))["sections"][0]
    names = [column["name"].removeprefix("photos.") for column in section["columns"]]
    return names, {
        row["label"]: dict(zip(names, (cell["text"] for cell in row["cells"]), strict=True)) for row in section["rows"]
    }


def test_the_table_is_that_of_the_rows() -> None:
    headings, cells = table_of("Accuracy")
    cut = headings.index("rank") + 1
    listed: dict[str, str] = {}
    for suite, at, shown in (("open-mini", 2, headings[2:cut]), ("photos-mini", cut, headings[cut:])):
        where = f"vpbench report --results results/published --suite {suite}"
        _, scores = printed_table(f"{where} --paper vpbench --table leaderboard")
        _, ranks = printed_table(f"{where} --statistics")
        for method, own in scores.items():
            expected = [ranks[method]["Mean rank"] if name == "rank" else own[name] for name in shown]
            assert cells[method][at : at + len(shown)] == expected, method
            listed.setdefault(method, own["Params (M)"])
    assert {method: own[1] for method, own in cells.items()} == listed and len(listed) >= 43


def test_methods_below_linear_probing_are_all_named() -> None:
    """On more than a third of the data sets of a suite."""
    for suite in ("open-mini", "photos-mini"):
        _, ranks = printed_table(f"vpbench report --results results/published --suite {suite} --statistics")
        records = {method: row["Against linear"].split("/") for method, row in ranks.items() if method != "linear"}
        below = {method for method, record in records.items() if 3 * int(record[2]) > sum(map(int, record))}
        text = SECTIONS["Methods below linear probing"]
        (line,) = re.findall(rf"^- `{suite}`: (.*?)\.$", text, re.M | re.S)
        assert set(re.findall(r"`(\w+)`", line)) == below, suite


def test_fronts_are_those_of_the_figure() -> None:
    """By name and in their order, with costs to three digits."""
    filters, costs = Filters(suite=("open-mini",)), CHECKOUT / "results/costs/open-mini_vit-nano.parquet"
    runs = with_costs(load_rows(Store(CHECKOUT / "results/published")), costs, filters)
    (section,) = sections(runs, filters)
    fronts = []
    for cost in (panels := panels_of(runs)):
        points = [point for point in points_of(section, panels) if cost.column in point.costs]
        assert len(points) == 43, cost.title  # all methods were measured
        front = pareto_front([float(f"{point.costs[cost.column]:.3g}") for point in points], [point.accuracy for point in points])
        fronts.append([row_label(points[place].row) for place in front])
    lines = re.findall(r"^- (?:parameters|FLOPs|training step|memory): (.*)$", SECTIONS["Accuracy against cost"], re.M)
    assert [re.findall(r"`(\w+)`", line) for line in lines] == fronts
