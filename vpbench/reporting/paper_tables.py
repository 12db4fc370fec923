"""Which tables come with vpbench: the files of ``reports/tables/<paper>/``, by their names alone. Imports nothing heavy."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

# Tables without a definition, by name, and their titles.
MADE = {
    "methods": "All methods, what they change and what they cost; needs no runs",
    "scores": "Calibration and scores that weigh classes, of runs with --save predictions,probabilities",
    "search": "What searches have selected on each data set, and whether it lies on the border of the grid",
}


def paper_tables() -> dict[str, dict[str, Path]]:
    """The file of every table by its number, by paper, in the order of the numbers."""
    folder = Path(str(files("vpbench.reports").joinpath("tables")))
    papers = sorted(paper for paper in folder.iterdir() if paper.is_dir())
    return {paper.name: {file.stem: file for file in sorted(paper.glob("*.toml"), key=_by_number)} for paper in papers}


def _by_number(file: Path) -> tuple[float, str]:
    return (int(file.stem) if file.stem.isdigit() else float("inf"), file.stem)


def in_a_line(numbers: dict[str, Path]) -> str:
    """``1 to 5``, ``1``, or ``1, leaderboard, shift``."""
    names = list(numbers)
    is_range = len(names) > 2 and names == [str(number) for number in range(1, len(names) + 1)]
    return f"1 to {names[-1]}" if is_range else ", ".join(names)
