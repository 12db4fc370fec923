"""``vpbench report --statistics``: all methods over all data sets."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from report_rows import fill, labels_of, make_row, title_of

from vpbench.models.registry import working_methods
from vpbench.reporting.definition import leaderboard, load_definition
from vpbench.reporting.frame import Filters
from vpbench.reporting.make_report import make_report
from vpbench.reporting.rank_table import LARGEST_SQUARE, statistics_table
from vpbench.store.store import Store


def ranked(folder: Path, accuracy: dict[str, float], datasets: int) -> Store:
    """Runs of methods that have the same order on all data sets."""
    rows = [make_row(name, f"data{place}", acc1=value - place) for place in range(datasets) for name, value in accuracy.items()]
    return fill(folder, *rows)


def test_all_methods_over_all_data_sets(tmp_path: Path) -> None:
    store = ranked(tmp_path, {"insvp": 95, "vpt": 75, "linear": 50}, datasets=6)
    store.write_row(make_row("vpt", "alone"))
    table = statistics_table(store.load(), load_definition("insvp", "1"), Filters())
    ranks, pairs, nemenyi = table.sections
    assert labels_of(ranks) == ["insvp", "vpt", "linear"]  # best first
    assert [row.cells[0].text for row in ranks.rows] == ["1.00", "2.00", "3.00"]
    assert [row.cells[2].text for row in ranks.rows] == ["12/0/0", "6/0/6", "0/0/12"]
    assert [row.cells[3].text for row in ranks.rows] == ["-", *(row.cells[0].text for row in nemenyi.rows[1:])]
    assert "Left out, as not every method has them: alone." in ranks.notes
    assert "chi2 = 12.00 with 2 degrees of freedom, p = 0.002, approximate below 10 data sets" in ranks.notes[-1]
    assert dict(zip(labels_of(pairs), (row.cells[0].text for row in pairs.rows)))["linear"] == "0/0/6 (0.094)"
    assert title_of(nemenyi, table).startswith("Nemenyi's p: vit-nano, ")


def test_all_methods_against_the_reference(tmp_path: Path) -> None:
    rows = [make_row(method, dataset, acc1=acc1) for method, dataset, acc1 in [
        ("linear", "digits", 50.0), ("vpt", "digits", 60.0), ("insvp", "digits", 40.0),
        ("linear", "flowers", 50.0), ("vpt", "flowers", 50.04), ("insvp", "flowers", 70.0),
    ]]  # fmt: skip
    (ranks, _), names = (
        statistics_table(fill(tmp_path, *rows).load(), leaderboard(), Filters()).sections,
        ["vpt", "insvp", "linear"],
    )
    assert labels_of(ranks) == names
    place = [column.name for column in ranks.columns].index("Against linear")
    assert [row.cells[place].text for row in ranks.rows] == ["1/1/0", "1/0/1", "-"]
    groups = "partial tuning 2.50 (1, from 2.50 to 2.50); prompts 1.75 (2, from 1.50 to 2.00)"
    assert f"Mean rank by group of methods: {groups}." in ranks.notes


def test_pairs_of_many_methods_are_for_programs(tmp_path: Path) -> None:
    names = [name for name, _ in working_methods()][: LARGEST_SQUARE + 1]
    store = ranked(tmp_path, {name: 20 + 4 * place for place, name in enumerate(names)}, datasets=5)
    text = str(make_report(results=store.folder, statistics=True))
    assert "Nemenyi's p, against the first" in text and "Wins/ties/losses: vit-nano" not in text
    assert f"All pairs of {len(names)} methods: with --format json or csv; --method keeps fewer." in text
    sections = json.loads(str(make_report(results=store.folder, statistics=True, format="json")))["sections"]
    assert [len(section["rows"]) for section in sections] == [len(names)] * 3
    fewer = str(make_report(results=store.folder, statistics=True, method=names[1:]))
    assert "Wins/ties/losses: vit-nano" in fewer and "All pairs" not in fewer


def test_csv_has_the_texts_of_tests(tmp_path: Path) -> None:
    store = ranked(tmp_path, {"insvp": 95, "vpt": 75, "linear": 50}, datasets=6)
    lines = list(csv.DictReader(io.StringIO(str(make_report(results=store.folder, statistics=True, format="csv")))))
    found = {(line["section"].partition(":")[0], line["method"], line["column"]): line for line in lines}
    assert found["Mean ranks, 1 is best", "vpt", "Wins/ties/losses"]["text"] == "6/0/6"
    assert found["Mean ranks, 1 is best", "vpt", "Against linear"]["text"] == "6/0/0"
    pair = found["Wins/ties/losses", "linear", "insvp"]
    assert pair["text"] == "0/0/6 (0.094)" and float(pair["mean"]) == 0.09375
    assert found["Wins/ties/losses", "linear", "linear"]["text"] == "", "nothing to say"
    shown = json.loads(str(make_report(results=store.folder, statistics=True, format="json")))["sections"]
    texts = [cell["text"] for section in shown for row in section["rows"] for cell in row["cells"]]
    assert [line["text"] or "-" for line in lines] == texts


def test_all_methods_with_too_little(tmp_path: Path) -> None:
    text = str(make_report(results=fill(tmp_path / "a", make_row("vpt"), make_row("linear")).folder, statistics=True))
    assert "Friedman and Nemenyi: not tested. Friedman's test needs 3 methods, and there are 2." in text
    assert "Wilcoxon: not tested. It needs 6 data sets, and there are 1." in text
    assert "nothing to compare: there is one method." in str(
        make_report(results=fill(tmp_path / "b", make_row()).folder, statistics=True)
    )
    apart = fill(tmp_path / "d", make_row("linear"), make_row("vpt"), make_row("vpt", "photos"), make_row("insvp", "photos"))
    text = str(make_report(results=apart.folder, statistics=True))
    assert "nothing to compare: no data set has linear, vpt, insvp, --method leaves some out." in text
    assert "No run has a number." in str(make_report(results=fill(tmp_path / "c", make_row(acc1=None)).folder, statistics=True))
