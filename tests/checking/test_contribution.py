"""``vpbench check --contribution``: what is published, and every reason to refuse a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from published_row import PUBLISHED, published_row
from sweeps import some

from vpbench.checking.contribution import check_contributions
from vpbench.checking.personal_data import found_in
from vpbench.execution.spec_columns import spec_columns
from vpbench.planning.suites import recipe_entries, resolve_recipe, suite_card
from vpbench.search.space import read_space, split
from vpbench.spec.run_spec import RunSpec, Search
from vpbench.store.exporting import write_export
from vpbench.store.schema import COLUMNS, SCHEMA

SPACE = "rate-and-decay"
UNTESTED = dict.fromkeys(
    ("score", "acc1", "acc5", "mean_per_class", "correct", "correct5", "total", "flops_forward", "macs_forward")
)
Row = dict[str, Any]
Call = Callable[..., tuple[int, str, str]]


def written(rows: list[Row], path: Path) -> Path:
    write_export(pa.Table.from_pylist(rows, schema=SCHEMA), path)
    return path


def faults(path: Path) -> str:
    (found,) = check_contributions([path])
    return "\n".join(found.faults)


@pytest.fixture(scope="module")
def row() -> Row:
    """A run of linear probing on digits."""
    return published_row()


def remade(row: Row, columns: Row | None = None, **changes: Any) -> Row:
    """The row of a run with another specification."""
    spec = RunSpec.model_validate(json.loads(row["spec"])).model_copy(update=changes)
    made = {
        "spec": json.dumps(spec.identity()),
        "search": spec.search.model_dump_json() if spec.search else None,
        "recipe": spec.recipe.model_dump_json(),
    }
    return {**row, **spec_columns(spec), **made, **(columns or {})}


def with_recipe(row: Row, **values: Any) -> Row:
    spec = RunSpec.model_validate(json.loads(row["spec"]))
    return remade(row, recipe=spec.recipe.model_copy(update=values))


@pytest.fixture(scope="module")
def study(row: Row) -> list[Row]:
    """A search of eight short trials, of which the last is the best, and two final runs."""
    space, card = read_space(SPACE), suite_card("mini")
    search = Search(
        space=SPACE,
        digest=space.digest("linear"),
        searched=tuple(space.parameters("linear")),
        sampler="grid",
        trials=8,
        trial_epochs=4,
    )

    def searched(point: dict[str, Any], stage: Any, seed: int, epochs: int, columns: Row) -> Row:
        overrides = split({**space.settings("linear"), **point})[1]
        recipe, _ = resolve_recipe(card, recipe_entries("linear", "mini", "digits", None), {**overrides, "epochs": epochs})
        return remade(row, columns, recipe=recipe, stage=stage, seed=seed, search=search)

    rows = []
    for place, point in enumerate(space.grid("linear")):
        validated = {"val_correct": 100 + place, "val_acc1": 50 + place / 2, "val_score": 50 + place / 2}
        rows.append(searched(point, "search", 42, 4, {**UNTESTED, **validated}))
    return rows + [searched(point, "final", seed, 12, {}) for seed in (42, 44)]


def test_what_is_published_can_be(call: Call) -> None:
    """All that lies in results/published; the gate of a pull request runs the same command."""
    code, out, err = call("check", "--contribution", PUBLISHED)
    assert (code, err) == (0, ""), out
    assert f"{PUBLISHED / 'mini_vit-nano_3seeds.parquet'}: 42 rows, 6 methods, 3 data sets, suite mini: can be published." in out


def test_a_fair_search(study: list[Row], tmp_path: Path) -> None:
    assert faults(written(study, tmp_path / "study.parquet")) == ""


CHANGED: list[tuple[Callable[[Row], Row], str]] = [
    (lambda row: {**row, "run_id": "0" * 32}, "its run_id is 000"),
    (lambda row: {**row, "lr": 0.5}, "its lr is 0.5, and by its specification 0.01"),
    (lambda row: {**row, "spec": "{}"}, "its specification is that of another version"),
    (lambda row: {**row, "spec": "no JSON"}, "it has no readable specification"),
    (lambda row: {**row, "git_dirty": True}, "it was made with uncommitted changes on cdcd0806"),
    (lambda row: {**row, "git_commit": None}, "it names no commit, because vpbench did not run from a clone"),
    (lambda row: {**row, "torch": None, "platform": ""}, "it does not record torch, platform"),
    (lambda row: {**row, "recipe_source": ""}, "it does not say where its recipe comes from"),
    (lambda row: {**row, "status": "failed"}, "it is failed, which another attempt may change; leave it out"),
    (lambda row: {**row, "data_path": "/data/mine"}, "data_path says where files lie on your machine"),
    (lambda row: {**row, "experiment": 'results = "/home/kim/out"'}, "experiment holds an absolute path, '/home/kim/out'"),
    (lambda row: {**row, "acc1": 99.0}, "its acc1 99 is not correct by total"),
    (lambda row: {**row, "score": 99.0}, "its score 99 is not its acc1"),
    (lambda row: {**row, "score": None, "acc1": None}, "it is ok, and has no score"),
    (lambda row: {**row, "started_at": datetime(2200, 1, 1, tzinfo=UTC)}, "it began at 2200"),
    (lambda row: {**row, "params_trainable": 0}, "it has no trained parameters"),
    (lambda row: {**row, "n_train": 900}, "its n_train is 900, and by the suite mini it is 800"),
    (lambda row: {**row, "dataset_group": "structured"}, "its dataset_group is structured, and by the suite mini it is natural"),
    (lambda row: remade(row, selection="best_val"), "its selection is best_val, and by the suite mini it is last"),
    (lambda row: remade(row, seed=7), "its seed 7 is none of the suite mini: 42, 44"),
    (lambda row: with_recipe(row, epochs=20), "its recipe.epochs is 20, and by the suite mini it is 12"),
    (lambda row: with_recipe(row, lr=0.02), "its recipe.lr is 0.02, and by the suite mini it is 0.01"),
    (lambda row: {**row, "search": "{}"}, "its specification is that of another version"),
    (lambda row: remade(row, stage="final"), "its stage is final, and no search is named"),
]


@pytest.mark.parametrize(("change", "words"), some(CHANGED, 8), ids=[words[:40] for _, words in CHANGED])
def test_what_is_refused(change: Callable[[Row], Row], words: str, row: Row, tmp_path: Path) -> None:
    found = faults(written([change(row)], tmp_path / "mine.parquet"))
    assert words in found and found.count("\n") == 0, found
    assert found.startswith("linear on digits, seed ")


def test_other_names(row: Row, tmp_path: Path) -> None:
    """A data set that the suite lacks, a suite and a method without a card."""
    spec = RunSpec.model_validate(json.loads(row["spec"]))
    for data, words in (
        ({"dataset": "textures"}, "the suite mini has no data set textures"),
        ({"suite": "mine"}, "benchmarks/suites/mine.toml"),
    ):
        changed = remade(row, data=spec.data.model_copy(update=data))
        assert words in faults(written([changed], tmp_path / "mine.parquet"))
    unknown = remade(row, method=spec.method.model_copy(update={"name": "mine"}))
    assert "the method mine is none of vpbench's" in faults(written([unknown], tmp_path / "mine.parquet"))


def test_unfair_searches(study: list[Row], tmp_path: Path) -> None:
    trials, finals = study[:8], study[8:]
    spec = RunSpec.model_validate(json.loads(finals[0]["spec"]))
    assert spec.search is not None
    other = remade(finals[0], search=spec.search.model_copy(update={"trials": 4}))
    worse = remade(finals[0], recipe=spec.recipe.model_copy(update={"lr": 5e-4}))
    outside = remade(finals[0], recipe=spec.recipe.model_copy(update={"lr": 0.3}))
    longer = with_recipe(trials[0], epochs=5)
    own = remade(finals[0], search=spec.search.model_copy(update={"space": "mine"}))
    changed = remade(finals[0], search=spec.search.model_copy(update={"digest": "0"}))
    for rows, words in (
        ([*trials[:7], *finals], "linear on digits: 7 of the 8 trials of its search rate-and-decay are there; add the others"),
        (finals, "0 of the 8 trials"),
        ([*study[:-1], other], "searched with different budgets (linear: sampler grid, trials 8, trial_epochs 4; linear: "),
        ([*study[:-1], worse], "1 final run with other settings than the best trial of its search: 0.0005, 0.01 and not 0.032"),
        ([outside], "its recipe.lr is 0.3, which the search space rate-and-decay does not have"),
        ([{**longer, "search": trials[0]["search"]}, *study[1:]], "its recipe.epochs is 5, and by the suite mini it is 4"),
        ([own], "its search space mine has no card: add benchmarks/searches/mine.toml"),
        ([changed], "its search space rate-and-decay is another than the card of that name"),
        ([{**trials[0], "score": 50.0, "acc1": 50.0}, *study[1:]], "it is a trial, and was tested"),
    ):
        assert words in faults(written(rows, tmp_path / "study.parquet"))


def test_tests_on_other_data(row: Row, tmp_path: Path) -> None:
    """A row of the stage shift stands beside the run whose model it is of."""
    shift = {**row, "run_id": "1" * 32, "stage": "shift", "trained_run": row["run_id"], "trained_on": "digits"}
    assert faults(written([row, shift], tmp_path / "mine.parquet")) == ""
    assert "which is not in the file" in faults(written([shift], tmp_path / "mine.parquet"))


def test_files_that_are_not_as_they_were_written(row: Row, tmp_path: Path) -> None:
    good, path = written([row], tmp_path / "good.parquet"), tmp_path / "mine.parquet"
    table = pq.read_table(good)
    for write, words in (
        (lambda: path.write_bytes(b"rows"), "it is no readable file of rows"),
        (
            lambda: path.write_bytes(good.read_bytes().replace(b"linear", b"LINEAR")),
            "it is no readable file of rows (its checksum",
        ),
        (lambda: pq.write_table(table, path), "it has no checksum; write it with: vpbench export --publish --to FILE.parquet"),
        (lambda: pq.write_table(table.replace_schema_metadata({}), path), "it has no schema version"),
        (
            lambda: write_export(table.append_column("author", pa.array(["me"])), path),
            "columns that no row of vpbench has: author",
        ),
        (lambda: write_export(pa.concat_tables([table, table]), path), "1 run twice in it"),
        (lambda: write_export(table[:0], path), "it has no rows"),
    ):
        write()
        assert words in faults(path)
    assert faults(good) == ""


def test_beside_other_files(row: Row, tmp_path: Path, call: Call) -> None:
    """The same run with the same numbers may be there again; with others, and with other images, it may not."""
    written([row], tmp_path / "theirs.parquet")
    assert faults(written([row], tmp_path / "mine.parquet")) == ""
    correct = row["correct"] - 1
    other = {**row, "correct": correct, "acc1": 100 * correct / row["total"], "score": 100 * correct / row["total"]}
    code, out, _ = call("check", "--contribution", written([other], tmp_path / "mine.parquet"))
    assert (
        code == 1
        and f"is in {tmp_path / 'theirs.parquet'}, too, with other numbers: " in out
        and f"correct {row['correct']} there and {correct} here" in out
    )
    spec = RunSpec.model_validate(json.loads(row["spec"]))
    images = remade(row, data=spec.data.model_copy(update={"digest": "0" * 32}))
    assert "digits has other images than in" in faults(written([images], tmp_path / "mine.parquet"))


def test_the_command(row: Row, tmp_path: Path, call: Call) -> None:
    bad = written([{**row, "git_dirty": True}], tmp_path / "bad.parquet")
    code, out, err = call("check", "--contribution", bad)
    assert (code, err) == (1, "") and out.startswith(f"{bad}: linear on digits, seed 42, run ") and out.count("\n") == 1
    code, out, _ = call("check", "--contribution", bad, "--json")
    (facts,) = json.loads(out)
    assert code == 1 and facts["rows"] == 1 and len(facts["faults"]) == 1
    for words, said in (
        (("--contribution", tmp_path / "none.parquet"), "none.parquet does not exist: give a parquet file"),
        (("--contribution", bad, "--update"), "--contribution checks files of rows and runs nothing"),
    ):
        code, _, err = call("check", *words)
        assert code == 2 and said in err and err.count("\n") == 1


def test_equal_faults_are_told_once(row: Row, tmp_path: Path) -> None:
    rows = [remade(row, {"git_commit": None}, seed=seed) for seed in (42, 44, 82)]
    found = faults(written(rows, tmp_path / "mine.parquet"))
    assert found.endswith("and run it again with another --results (and of 2 other runs)")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("/home/kim/photos", "an absolute path"),
        ('results = "/mnt/disk1/out"', "an absolute path"),
        (r"D:\data\photos", "an absolute path"),
        ("file:///tmp/x", "an absolute path"),
        ("~kim/photos", "a home folder"),
        ("asked kim@lab.example", "an address of a person or an account"),
        ("ran on node7.local", "the name of a machine"),
        ("KMnP/vpt tune_vtab.py, mean/std; github.com/KMnP/vpt, https://huggingface.co/a/b", None),
        ("in the range of the released scripts (5e-4 to 5e-3, sh/*.sh); lr x batch / 256", None),
        ('results = "../../results/open-mini"', None),
        ("hf:uni/cifar:small@v1.0", None),
        ("AMD EPYC, family 25, model 1, AVX2", None),
    ],
)
def test_what_identifies_a_person(text: str, kind: str | None) -> None:
    found = found_in(text)
    assert (found and found[0]) == kind


def test_no_published_text_is_taken_for_a_path() -> None:
    """Recipes, descriptions and options of all that is published hold none."""
    texts = {
        value
        for file in PUBLISHED.glob("*.parquet")
        for row in pq.read_table(file).to_pylist()
        for value in row.values()
        if isinstance(value, str)
    }
    assert texts and not [text for text in texts if found_in(text)]
    assert set(UNTESTED) <= set(COLUMNS)
