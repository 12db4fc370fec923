"""Odd files in a results folder, and names that nobody would choose: every command names them, and shows the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure
from report_rows import fill, make_row
from sweeps import marks, some

from vpbench.reporting.figures import draw_figures
from vpbench.reporting.frame import Filters, load_rows
from vpbench.reporting.page.site import write_page
from vpbench.store.store import Store

ROW = {"run_id": "odd", "status": "ok", "method": "vpt", "dataset": "digits", "seed": 9, "acc1": 50.0}


def parquet(path: Path, **columns: object) -> None:
    pq.write_table(pa.table({name: pa.array([value]) for name, value in {**ROW, **columns}.items()}), path)


def clashing(folder: Path) -> None:
    parquet(folder / "odd0.parquet", run_id="fine", note=1)
    parquet(folder / "odd.parquet", note="text")


def repeated(folder: Path) -> None:
    pq.write_table(pa.Table.from_arrays([pa.array(["odd"])] * 2, names=["run_id"] * 2), folder / "odd.parquet")


def bad_text(folder: Path) -> None:
    text = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])
    table = pa.table({name: pa.array([value]) for name, value in ROW.items()}).append_column("error", text)
    pq.write_table(table, folder / "odd.parquet")


def odd_time(folder: Path) -> None:
    """Of the year 146 million, which Python's dates do not have."""
    table = pa.table({name: pa.array([value]) for name, value in ROW.items()})
    pq.write_table(
        table.append_column("started_at", pa.array([2**62]).cast(pa.timestamp("ms", tz="UTC"))), folder / "odd.parquet"
    )


def bad_name(folder: Path) -> None:
    parquet(folder / "odd.parquet")
    (folder / "odd.parquet").rename(folder / "odd\udcff.parquet")
    (folder / "a\udcff-odd.parquet").write_bytes(b"no")


ODD: dict[str, Callable[[Path], object]] = {
    "a column of two types": clashing,
    "run_id twice": repeated,
    "no method": lambda folder: parquet(folder / "odd.parquet", method=None),
    "no run_id": lambda folder: parquet(folder / "odd.parquet", run_id=None),
    "UTF-8": bad_text,
    "a file name": bad_name,
    "a reserved column": lambda folder: parquet(folder / "odd.parquet", _file="a"),
    "another type": lambda folder: parquet(folder / "odd.parquet", acc1="high"),
    "a list": lambda folder: parquet(folder / "odd.parquet", seed=[1]),
    "a run id that is none": lambda folder: parquet(folder / "odd.parquet", run_id="../../odd"),
    "a time": odd_time,
    "an accuracy": lambda folder: parquet(folder / "odd.parquet", acc1=101.1),
    "a folder": lambda folder: (folder / "odd.parquet").mkdir(),
    "no parquet": lambda folder: (folder / "odd.parquet").write_bytes(b"PAR1"),
}
WORDS = [
    ["report"], ["report", "--format", "csv"], ["status"], ["compact"], ["show", "run", "RUN"], ["export", "--to", "FILE"],
    ["report", "--html", "PAGE"], ["logs", "RUN"],
]  # fmt: skip


def vpbench(*words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command in this process."""
    import io
    import sys
    from contextlib import redirect_stderr, redirect_stdout

    from vpbench.cli.app import main

    out, err = io.StringIO(), io.StringIO()
    argv = mock.patch.object(sys, "argv", ["vpbench", *words])
    with argv, redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0), out.getvalue(), err.getvalue()


@pytest.mark.parametrize(
    "make", [pytest.param(make, id=name, marks=marks(name, always=list(ODD)[:5:3])) for name, make in ODD.items()]
)
def test_every_command_names_it_and_does_the_rest(
    make: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    good = [make_row(), make_row("linear")]
    folder = fill(tmp_path / "runs", *good).folder
    make(folder)
    places = {"RUN": good[0]["run_id"][:8], "FILE": str(tmp_path / "all.csv"), "PAGE": str(tmp_path / "page")}
    with mock.patch("vpbench.reporting.page.site.draw_all", lambda *_: []):
        for words in WORDS:
            code, out, err = vpbench(*(places.get(word, word) for word in words), "--results", str(folder))
            assert code == 0 and "Traceback" not in out + err, (words, err)
            if words[0] != "logs":
                lines = [line for line in (out + err).splitlines() if "is not a readable result" in line]
                assert lines and all("odd" in line for line in lines), (words, out, err)
    assert {row["run_id"] for row in good} <= set(pd.read_csv(tmp_path / "all.csv")["run_id"])
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert "is not a readable result" in page
    assert list(folder.glob("*odd*"))  # left where it is


DEEP = ["[" * 100_000, "[" * 900 + "]" * 900, '{"a":' * 500 + "1" + "}" * 500]


@pytest.mark.parametrize(
    "text", [DEEP[0], *(pytest.param(text, marks=pytest.mark.sweep) for text in DEEP[1:])], ids=["open", "closed", "mappings"]
)
def test_deeply_nested_settings(text: str, tmp_path: Path) -> None:
    """They are text as any other."""
    columns = dict.fromkeys(("spec", "method_config", "recipe", "preprocess", "search"), text)
    store = fill(tmp_path / "runs", make_row(), {**make_row("linear"), **columns, "run_id": "odd"})
    for words in (["report"], ["status"], ["show", "run", "odd"], ["show", "run", "odd", "--json"], ["logs", "odd"], ["compact"]):
        code, out, err = vpbench(*words, "--results", str(store.folder))
        assert code == 0 and "Traceback" not in out + err, (words, err)
    write_page(store.folder, tmp_path / "page", figures=False)


def test_a_version_with_thousands_of_digits(tmp_path: Path) -> None:
    store = fill(tmp_path, make_row())
    table = pa.table({name: pa.array([value]) for name, value in ROW.items()})
    pq.write_table(table.replace_schema_metadata({"vpbench_schema": "9" * 5000}), tmp_path / "odd.parquet")
    assert len(store.statuses()) == 2


HOSTILE = ["/../../../victim/fig1", "../../victim/fig1", "a\0b", "a/b", "\x1b[31mred", "x" * 300, "a\nb", "..", "\\\\host\\x"]


@pytest.mark.parametrize("name", some(HOSTILE, 3))
def test_figures_stay_in_their_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    for suffix in ("png", "pdf"):
        (victim / f"fig1.{suffix}").write_text("mine")
    store = fill(tmp_path / "runs", make_row(backbone=name, dataset=name))
    drawn = [(f"{name}{end}", Figure(figsize=(0.1, 0.1))) for end in ("", "_b")]
    monkeypatch.setattr("vpbench.reports.plots.pareto.draw", lambda *_: iter(drawn))
    figures = tmp_path / "deep" / "figures"
    paths = draw_figures("pareto", store, load_rows(store), Filters(), figures)
    assert len(set(paths)) == 4 and all(path.is_file() and path.resolve().parent == figures.resolve() for path in paths)
    assert {path.name: path.read_text() for path in victim.iterdir()} == {"fig1.png": "mine", "fig1.pdf": "mine"}
    assert {path.name for path in (*tmp_path.iterdir(), *figures.parent.iterdir())} == {"deep", "victim", "runs", "figures"}


@pytest.mark.parametrize("plot", some(["pareto", "seeds"], 1))
def test_the_backbone_of_a_row_is_no_path(plot: str, tmp_path: Path) -> None:
    rows = [make_row(method, seed=seed, backbone=HOSTILE[0]) for method in ("linear", "vpt") for seed in (0, 1)]
    store, figures = fill(tmp_path / "runs", *rows), tmp_path / "deep" / "figures"
    paths = draw_figures(plot, store, load_rows(store), Filters(), figures)
    assert len(paths) == 2 and all(path.resolve().parent == figures.resolve() for path in paths)
    assert {path.name for path in tmp_path.iterdir()} == {"deep", "runs"}


def test_hostile_names_are_refused_by_import_and_named(tmp_path: Path) -> None:
    there = fill(tmp_path / "there", make_row(backbone=HOSTILE[0]))
    code, _, err = vpbench("import", str(there.folder), "--results", str(tmp_path / "here"))
    assert code == 5 and err.count("\n") == 1 and "whose backbone is no name: '/../../../victim/fig1'" in err
    assert not (tmp_path / "here").exists()


def test_a_row_leads_to_no_file_outside(tmp_path: Path) -> None:
    """A run id of a foreign file is a name below the folder, or its row is left out."""
    store = Store(tmp_path / "runs")
    store.folder.mkdir()
    parquet(store.folder / "odd.parquet", run_id="../../victim")
    assert store.statuses() == {} and "../../victim" in store.read().left_out[0]
    assert json.dumps(store.read().left_out)
