"""``vpbench compact``, ``export`` and ``import`` on real rows."""

from __future__ import annotations

import io
import json
import shlex
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import rows, traces, vpbench

from vpbench.store.store import Store


def test_compact(results: Path, command: list[str]) -> None:
    table = vpbench("report", "--results", results).out
    before = traces(results)
    planned = vpbench("compact", "--results", results, "--dry-run")
    assert (planned.code, planned.out, planned.err) == (0, "2 rows of 2 files would be merged. Nothing was written.\n", "")
    assert json.loads(vpbench("compact", "--results", results, "--dry-run", "--json").out)["merged"] == 2
    assert traces(results) == before
    done = vpbench("compact", "--results", results)
    assert (done.code, done.err) == (0, "")
    (path,) = results.glob("*.parquet")
    assert done.out.startswith(f"2 rows of 2 files are now in {path}, ")
    assert vpbench("report", "--results", results).out == table
    run_id = pd.read_parquet(path)["run_id"].iloc[0]
    assert json.loads(vpbench("show", "run", run_id[:8], "--results", results, "--json").out)["run_id"] == run_id
    assert json.loads(vpbench("status", "--results", results, "--json").out)["rows"] == {"ok": 2}
    planned = vpbench(*command, results, "--methods", "linear,vpt", "--dry-run")
    assert "2 runs, 2 stored, 0 missing" in planned.out
    assert vpbench("compact", "--results", results).out == f"{results}: nothing to merge.\n"
    again = json.loads(vpbench("compact", "--results", results, "--json").out)
    assert again == {"file": None, "rows": 0, "merged": 0, "left": 0, "broken": []}


def test_a_compacted_run_is_done_again(results: Path, command: list[str], unmeasured: None) -> None:
    vpbench("compact", "--results", results)
    (path,) = results.glob("*.parquet")
    before = pd.read_parquet(path).set_index("method")
    done = vpbench(*command, results, "--methods", "linear", "--rerun", "all", "--json")
    assert done.code == 0, done.err
    (row,) = json.loads(done.out)
    assert row["acc1"] == before.loc["linear", "acc1"]
    assert pd.Timestamp(row["started_at"]) > before.loc["linear", "started_at"]
    assert len(list(results.glob("*.parquet"))) == 2
    assert json.loads(vpbench("compact", "--results", results, "--json").out)["rows"] == 2


def test_to_another_machine_and_back(results: Path, tmp_path: Path) -> None:
    """One row through a file, both with what lies beside them through the folder; then one that differs."""
    file, other = tmp_path / "vpt.parquet", tmp_path / "other"
    done = vpbench("export", "--to", file, "--results", results, "--method", "vpt")
    assert (done.code, done.err) == (0, "")
    assert done.out == f"1 row in {file}. To read it into another folder: vpbench import vpt.parquet\n"
    assert vpbench("import", file, "--results", other).out.startswith(f"{other}: 1 new row.")
    assert "1 new row, 1 the same here and there." in vpbench("import", results, "--results", other).out
    linear = pd.read_parquet(results).set_index("method").loc["linear", "run_id"]
    assert (other / "_artefacts" / linear / "predictions.npz").exists()
    assert (
        vpbench("report", "--results", other, "--format", "csv").out
        == vpbench("report", "--results", results, "--format", "csv").out
    )

    table = pq.read_table(file)
    for name, value in (("acc1", 12.5), ("correct", None)):  # a count would say otherwise
        table = table.set_column(table.column_names.index(name), table.schema.field(name), pa.array([value], table[name].type))
    pq.write_table(table, file)
    before = traces(other)
    done = vpbench("import", file, "--results", other)
    assert done.code == 1
    assert "12.5" in done.out and "acc1" in done.out
    assert len(done.err.splitlines()) == 1
    assert "1 run with other numbers there, so nothing was written: say --on-conflict keep or --on-conflict replace." in done.err
    assert traces(other) == before
    assert json.loads(vpbench("import", file, "--results", other, "--json").out)["conflicts"][0]["differ"]["acc1"][1] == 12.5
    assert "1 that differ kept as here" in vpbench("import", file, "--results", other, "--on-conflict", "keep").out
    assert traces(other) == before
    assert "1 replaced" in vpbench("import", file, "--results", other, "--on-conflict", "replace").out
    assert 12.5 in pd.read_csv(_exported(other, tmp_path))["acc1"].tolist()


def test_rows_to_publish(results: Path, tmp_path: Path) -> None:
    """Without the places of this machine and without runs that went wrong; what else is missing, the check of the file says."""
    store = Store(results)
    row = store.read_row(str(rows(results)["run_id"][0]))
    assert row is not None and row["data_path"] is not None
    store.write_row({**row, "run_id": "0" * 32, "status": "failed", "error": f"{tmp_path}/secret.py failed"})
    file = tmp_path / "mine.parquet"
    done = vpbench("export", "--publish", "--to", file, "--results", results)
    assert done.code == 0 and "1 run that went wrong left out." in done.out
    assert f"To check them: vpbench check --contribution {file}" in done.out
    found = pd.read_parquet(file)
    assert len(found) == len(rows(results)) - 1 and found["data_path"].isna().all()


def _exported(results: Path, folder: Path) -> Path:
    assert vpbench("export", "--to", folder / "rows.csv", "--results", results).code == 0
    return folder / "rows.csv"


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        ("export --to rows.xlsx", 2, "rows.xlsx: give a name that ends with .parquet or .csv"),
        ("export --to {there}/rows.csv --method vptt", 2, "Did you mean 'vpt'?"),
        ("export --to {there}/rows.csv --results {there}/none", 5, "there is no results folder {there}/none"),
        ("import {there}/none.parquet", 5, "{there}/none.parquet does not exist"),
        ("import {results} --on-conflict kepe", 2, "Did you mean 'keep'?"),
        ("import {results} {there}/newer", 5, "{there}/newer has rows of schema version 99"),
        ("compact --results {there}/none", 5, "there is no results folder {there}/none"),
        ("compact --results {there}/newer", 5, "{there}/newer has rows of schema version 99"),
        (
            "run --methods linear --suite mini --datasets digits --results {there}/newer",
            5,
            "{there}/newer has rows of schema version 99",
        ),
        (
            "tune --methods linear --suite mini --datasets digits --results {there}/newer",
            5,
            "{there}/newer has rows of schema version 99",
        ),
    ],
)
def test_mistakes(words: str, code: int, part: str, results: Path, tmp_path: Path) -> None:
    newer = Path(shutil.copytree(results, tmp_path / "newer"))
    for path in newer.glob("*.parquet"):
        pq.write_table(pq.read_table(path).replace_schema_metadata({"vpbench_schema": "99"}), path)
    before = traces(tmp_path)
    filled = [word.format(results=results, there=tmp_path) for word in words.split()]
    done = vpbench(*filled, *([] if "--results" in words else ["--results", results]))
    assert (done.code, done.out) == (code, ""), done.err
    assert len(done.err.splitlines()) == 1
    assert part.format(there=tmp_path) in done.err
    assert traces(tmp_path) == before


def test_rm(results: Path, tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing happens without a yes; then the run is missing, and its artefacts are gone."""
    place = Path(shutil.copytree(results, tmp_path / "runs"))
    vpbench("compact", "--results", place)
    linear, vpt = (pd.read_parquet(place).set_index("method").loc[name, "run_id"] for name in ("linear", "vpt"))
    before = traces(place)
    done = vpbench("rm", linear[:8], "--results", place)
    assert (done.code, done.out) == (2, "") and "--yes is needed to remove 1 run" in done.err
    done = vpbench("rm", linear[:8], "--results", place, "--dry-run")
    assert done.code == 0 and linear[:8] in done.out and "Nothing was removed." in done.out
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    done = vpbench("rm", linear[:8], "--results", place)
    assert done.code == 1 and "Remove 1 run from" in done.err and "Nothing was removed." in done.err
    assert traces(place) == before
    done = vpbench("rm", linear, "--results", place, "--yes", "--json")
    (removed,) = json.loads(done.out)
    assert (done.code, removed["run_id"], removed["method"], removed["row"]) == (0, linear, "linear", True)
    assert pd.read_parquet(place)["run_id"].tolist() == [vpt]
    assert [path.name for path in (place / "_artefacts").iterdir()] == [vpt]
    assert "1 stored, 1 missing" in vpbench(*command, place, "--methods", "linear,vpt", "--dry-run").out
    done = vpbench("rm", linear, "--results", place, "--yes")
    assert done.code == 5 and f"no run '{linear}'" in done.err


def test_the_command_that_repeats_a_run(results: Path) -> None:
    run_id = pd.read_parquet(results).set_index("method").loc["vpt", "run_id"]
    done = vpbench("show", "run", run_id[:8], "--results", results, "--as-command")
    assert done.code == 0 and done.out.count("\n") == 1
    (planned,) = json.loads(vpbench(*shlex.split(done.out)[1:], "--results", results, "--dry-run", "--json").out)
    assert (planned["run_id"], planned["status"]) == (run_id, "stored")
    done = vpbench("show", "suite", "mini", "--as-command")
    assert done.code == 2 and "--as-command is for 'vpbench show run ID'" in done.err
