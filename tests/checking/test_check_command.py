"""``vpbench check`` on stored rows: exit codes, files, a new baseline, and mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from check_rows import Call, as_frame, grid, make_row, write_store
from sweeps import some

from vpbench.checking.baseline import read_baseline, write_baseline
from vpbench.store.schema import COLUMNS, SCHEMA
from vpbench.store.store import Store

BROKEN = {"params_trainable": 13440, "acc1": 5.0}


def test_no_regression(call: Call, baseline: Path, results: Path) -> None:
    code, out, err = call("check", "--baseline", baseline, "--results", results)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "No regression in 3 cells."
    assert "raise one in at most 1 % of runs (0.33 % for each of 3 cells, Bonferroni)" in out


def test_a_regression_names_the_cell(call: Call, baseline: Path, results: Path, tmp_path: Path) -> None:
    write_store([make_row(seed=3, **BROKEN)], results)
    comment, junit = tmp_path / "new" / "check.md", tmp_path / "check.xml"
    code, out, _ = call("check", "--baseline", baseline, "--results", results, "--markdown", comment, "--junit", junit)
    assert code == 1
    table = [line.split() for line in out.split("\n\n")[0].splitlines()]
    assert table[0] == ["method", "data", "set", "column", "baseline", "now", "allowed"]
    assert table[1] == ["vpt", "digits", "params_trainable", "13,450", "13,440", "the", "same"]
    assert table[2][:3] == ["vpt", "digits", "acc1"]
    assert len(table) == 3
    assert out.splitlines()[-1] == "Regression: 2 numbers of 1 cell outside of what the baseline allows."

    lines = comment.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "### ❌ vpbench check"
    assert "| vpt | digits | params\\_trainable | 13,450 | 13,440 | the same |" in lines
    assert sum(line.startswith("| insvp | digits |") for line in lines) == 1  # among all accuracies only

    suite = ElementTree.parse(junit).getroot()[0]
    assert {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "11", "failures": "2", "errors": "0", "skipped": "0",
    }  # fmt: skip
    failed = {(case.get("classname"), case.get("name")) for case in suite if case.find("failure") is not None}
    assert failed == {("digits.vpt", "same"), ("digits.vpt", "accuracy")}
    assert len(suite) == 11  # four checks of each cell; linear probing is the reference for cost


def test_json(call: Call, baseline: Path, results: Path) -> None:
    write_store([make_row(seed=3, **BROKEN)], results)
    code, out, _ = call("check", "--baseline", baseline, "--results", results, "--json")
    found = json.loads(out)
    assert (code, found["regression"], found["cells"], found["false_alarm"]) == (1, True, 3, 0.01)
    assert [finding["column"] for finding in found["findings"]] == ["params_trainable", "acc1"]


@pytest.mark.sweep
def test_costs_are_reported(call: Call, baseline: Path, results: Path) -> None:
    write_store([make_row(seed=3, train_step_ms=1000.0)], results)
    words = ("check", "--baseline", baseline, "--results", results)
    code, out, _ = call(*words)
    assert (code, out.splitlines()[-1]) == (0, "No regression in 3 cells; 1 difference reported only.")
    assert "up to 2.10 (reported only)" in out
    assert call(*words, "--fail-on-cost")[0] == 1
    assert call(*words, "--fail-on-cost", "--tolerance", "cost=9")[0] == 0


def test_some_methods_only(call: Call, baseline: Path, results: Path) -> None:
    write_store([make_row(seed=3, **BROKEN)], results)
    code, out, _ = call("check", "--baseline", baseline, "--results", results, "--methods", "insvp,linear")
    assert (code, out.splitlines()[-1]) == (0, "No regression in 2 cells.")


@pytest.mark.sweep
def test_values_with_markup_stay_in_their_cell(call: Call, baseline: Path, results: Path, tmp_path: Path) -> None:
    write_store([make_row(seed=3, status="failed", error="Error: a|b <i>\x1b[bold]&")], results)
    comment, junit = tmp_path / "check.md", tmp_path / "check.xml"
    code, out, _ = call("check", "--baseline", baseline, "--results", results, "--markdown", comment, "--junit", junit)
    assert code == 1
    assert "[bold]" in out
    assert r"a\|b \<i\>\\x1b\[bold\]\&" in comment.read_text(encoding="utf-8")
    assert r"a|b <i>\x1b[bold]&" in str(next(ElementTree.parse(junit).iter("failure")).get("message"))


@pytest.mark.sweep
def test_rows_of_real_runs(call: Call, tmp_path: Path) -> None:
    """Published rows against themselves: six methods, three seeds."""
    published = Path(__file__).resolve().parents[2] / "results" / "published" / "mini_vit-nano_3seeds.parquet"
    rows = pq.read_table(published).filter(pc.field("dataset") == "digits").to_pylist()
    write_baseline(as_frame(rows), tmp_path / "mini.parquet")
    folder = write_store([{name: row.get(name) for name in COLUMNS} for row in rows], tmp_path / "runs")
    cells = len({row["method"] for row in rows})
    code, out, _ = call("check", "--baseline", tmp_path / "mini.parquet", "--results", folder)
    assert code == 0, out
    assert out.splitlines()[-1].startswith(f"No regression in {cells} cells")


def write_older(path: Path, without: list[str]) -> None:
    """As a vpbench that did not know these columns left it."""
    table = pq.read_table(path).drop_columns(without)
    pq.write_table(table.replace_schema_metadata({b"vpbench_schema": b"1"}), path)


@pytest.mark.sweep
def test_columns_that_an_older_baseline_lacks(call: Call, baseline: Path, results: Path) -> None:
    write_older(baseline, ["macs_fvcore", "latency_ms_p50", "timm", "python"])
    words = ("check", "--baseline", baseline, "--results", results)
    code, out, _ = call(*words)
    assert code == 0
    assert "The baseline is without macs_fvcore, so it is not compared." in out
    write_store([make_row(seed=3, **BROKEN)], results)
    assert call(*words)[0] == 1  # the others are


@pytest.mark.sweep
def test_an_older_baseline_is_renewed_in_part(call: Call, baseline: Path, tmp_path: Path) -> None:
    write_older(baseline, ["macs_fvcore", "latency_ms_p50", "python"])
    folder = write_store(grid(range(8)), tmp_path / "new")
    assert call("check", "--baseline", baseline, "--results", folder, "--methods", "vpt", "--update")[0] == 0
    rows = read_baseline(baseline)
    assert rows.groupby("method")["macs_fvcore"].count().to_dict() == {"insvp": 0, "linear": 0, "vpt": 8}
    assert call("check", "--baseline", baseline, "--results", folder)[0] == 0


# A new baseline


def test_update_shows_the_difference_and_replaces_the_file(call: Call, baseline: Path, tmp_path: Path) -> None:
    new = grid(range(4, 6))
    for row in new:
        row["flops_forward"] += 1
    folder = write_store(new, tmp_path / "new")
    words = ("check", "--baseline", baseline, "--results", folder)
    code, out, _ = call(*words, "--update")
    assert code == 0
    assert sum("flops_forward" in line for line in out.splitlines()) == 3
    assert out.splitlines()[-1].endswith("6 rows, suite ci, data sets digits, methods insvp, linear, vpt, 2 seeds.")
    assert pq.read_schema(baseline).metadata[b"vpbench_schema"] == SCHEMA.metadata[b"vpbench_schema"]
    assert [path.name for path in baseline.parent.iterdir()] == ["ci.parquet"]
    assert call(*words)[0] == 0


def test_update_of_one_method_keeps_the_others(call: Call, baseline: Path, tmp_path: Path) -> None:
    folder = write_store(grid(range(2), bytes_saved=1), tmp_path / "new")
    assert call("check", "--baseline", baseline, "--results", folder, "--methods", "vpt", "--update")[0] == 0
    rows = read_baseline(baseline)
    assert rows.groupby("method").size().to_dict() == {"insvp": 8, "linear": 8, "vpt": 2}
    assert set(rows[rows["method"] == "vpt"]["bytes_saved"]) == {1}


@pytest.mark.sweep
def test_update_of_one_suite_keeps_the_others(call: Call, baseline: Path, tmp_path: Path) -> None:
    folder = write_store(grid(range(2), suite="mini"), tmp_path / "mini")
    words = ("check", "--baseline", baseline, "--results", folder, "--suite", "mini", "--update")
    assert [call(*words)[0], call(*words)[0]] == [0, 0]
    assert read_baseline(baseline).groupby("suite").size().to_dict() == {"ci": 24, "mini": 6}
    code, _, err = call("check", "--baseline", baseline, "--results", folder)
    assert (code, "holds several suites (ci, mini); choose one with --suite" in err) == (2, True)


def test_the_first_baseline(call: Call, results: Path, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "first.parquet"
    code, out, _ = call("check", "--baseline", path, "--results", results, "--update")
    assert (code, out) == (
        0, f"Wrote {path}: 3 rows, suite ci, data sets digits, methods insvp, linear, vpt, 1 seed.\n"
    )  # fmt: skip
    pd.testing.assert_frame_equal(
        read_baseline(path).set_index("run_id").sort_index(), Store(results).load().set_index("run_id").sort_index()
    )


def test_a_failed_run_is_no_baseline(call: Call, baseline: Path, results: Path) -> None:
    write_store([make_row(seed=3, status="diverged", error="the loss became nan")], results)
    before = baseline.read_bytes()
    code, _, err = call("check", "--baseline", baseline, "--results", results, "--update")
    assert code == 5
    assert "vpt on digits, seed 3, is diverged (the loss became nan)" in err
    assert baseline.read_bytes() == before


def test_a_baseline_that_cannot_be_written(call: Call, results: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = call("check", "--baseline", tmp_path / "file" / "ci.parquet", "--results", results, "--update")
    assert code == 5
    assert "cannot be written" in err


# Mistakes


def write_other_schema(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({b"vpbench_schema": b"77"}), path)


def write_strangers_table(path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), path)


@pytest.mark.sweep
def test_a_baseline_of_an_older_schema(call: Call, baseline: Path, results: Path) -> None:
    """What it does not know is not compared; everything else is."""
    table = pq.read_table(baseline).drop_columns(["flops_inference", "params_by_part", "energy_infer_j"])
    pq.write_table(table.replace_schema_metadata({b"vpbench_schema": b"1"}), baseline)
    words = ("check", "--baseline", baseline, "--results", results)
    assert call(*words)[0] == 0
    wrong = table.set_column(table.column_names.index("flops_forward"), "flops_forward", pa.array([1] * len(table)))
    pq.write_table(wrong.replace_schema_metadata({b"vpbench_schema": b"1"}), baseline)
    code, out, _ = call(*words)
    assert code == 1
    assert "flops_forward" in out and "The baseline is without flops_inference" in out
    assert call(*words, "--update")[0] == 0
    assert call(*words)[0] == 0


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.unlink(), "does not exist; write one with: vpbench check --baseline"),
        pytest.param(lambda path: path.write_bytes(b"PAR1"), "cannot be read", marks=pytest.mark.sweep),
        (write_other_schema, "has schema version 77"),
        pytest.param(write_strangers_table, "has schema version none", marks=pytest.mark.sweep),
        pytest.param(lambda path: write_baseline(as_frame([]), path), "has no rows", marks=pytest.mark.sweep),
    ],
)
def test_unusable_baselines(call: Call, baseline: Path, results: Path, spoil: object, said: str) -> None:
    assert callable(spoil)
    spoil(baseline)
    words = ("check", "--baseline", baseline, "--results", results)
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert call(*words, "--update")[0] == 0
    assert call(*words)[0] == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    some(
        [
            (["--results", "{tmp}/nowhere"], 2, "nowhere does not exist"),
            (["--results", "{tmp}"], 2, "has no rows"),
            (["--results", "{results}", "--suite", "mini"], 2, "has no row of suite mini; it has suite ci"),
            (["--results", "{results}", "--methods", "vptt"], 2, "has no row of suite ci, method vptt"),
            (["--results", "{results}", "--seeds", "1"], 2, "--seeds and --keep are for running"),
            (["--results", "{results}", "--tolerance", "los=1"], 2, "Did you mean 'loss'?"),
            (["--seeds", "a"], 2, "--seeds a: write whole numbers"),
            (["--seeds", "-1"], 2, "none below 0"),
            (["--tolerance", "loss=much"], 2, "must be a number above 0"),
        ],
        5,
    ),
)
def test_mistakes(call: Call, baseline: Path, results: Path, tmp_path: Path, words: list[str], code: int, said: str) -> None:
    given = [word.format(tmp=tmp_path, results=results) for word in words]
    before = baseline.read_bytes()
    found, out, err = call("check", "--baseline", baseline, *given)
    assert (found, out) == (code, "")
    assert said in err
    assert err.count("\n") == 1
    assert baseline.read_bytes() == before


def test_a_results_folder_without_the_suite(call: Call, baseline: Path, tmp_path: Path) -> None:
    folder = write_store([make_row(suite="mini")], tmp_path / "other")
    code, _, err = call("check", "--baseline", baseline, "--results", folder)
    assert code == 2
    assert "has no row of suite ci" in err


@pytest.mark.sweep
def test_stored_rows_are_compared_without_torch(baseline: Path, results: Path) -> None:
    """Checked in a process of its own, as this one has torch already."""
    program = (
        f"import sys; sys.argv = ['vpbench', 'check', '--baseline', {str(baseline)!r}, '--results', {str(results)!r}]\n"
        "from vpbench.cli.app import main\n"
        "try:\n    main()\nfinally:\n    print('torch' in sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stderr) == (0, "False\n")
