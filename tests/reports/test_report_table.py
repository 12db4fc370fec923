"""Tables: rows, columns, marks, sections, filters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_rows import DATA_SETS, fill, frame_of, grid, make_row, title_of
from report_tables import cells, footer, labels, only_section, table_of
from sweeps import some

from vpbench.core.errors import UsageError
from vpbench.reporting.build_table import build_table
from vpbench.reporting.definition import TableDefinition, load_definition
from vpbench.reporting.keys import RowKey, split_name
from vpbench.reporting.table import Cell, Section


def test_rows_and_columns_follow_the_definition(tmp_path: Path) -> None:
    extra = [make_row(method, "digits") for method in ("zebra", "aardvark", "insvp:released", "ivpt")]
    section = only_section(table_of(tmp_path, *grid(), *extra))
    assert labels(section) == ["linear", "vpt", "insvp", "insvp:released", "ivpt", "aardvark", "zebra"]
    assert [row.group for row in section.rows] == ["Partial tuning", *["Prompts"] * 4, *["Other methods"] * 2]
    names = [(column.group, column.name) for column in section.columns]
    assert names[:3] == [("natural", "digits"), ("natural", "flowers"), ("structured", "sprites_location")]
    assert [name for _, name in names[3:]] == ["Mean", "Params (M)", "FLOPs (G)"]


def test_mean_and_sample_deviation_over_seeds(tmp_path: Path) -> None:
    table = table_of(tmp_path, *(make_row(seed=seed, acc1=acc1) for seed, acc1 in enumerate((80.0, 82.0, 87.0))))
    cell = cells(only_section(table), "vpt")["digits"]
    assert (cell.mean, cell.n, cell.text) == (83.0, 3, "83.0 ± 3.6")
    assert cell.std == pytest.approx(13**0.5, abs=1e-9)
    assert "over n = 3 seeds" in footer(table)


def test_one_row_has_neither_deviation_nor_mark_nor_mean_column(tmp_path: Path) -> None:
    table = table_of(tmp_path, make_row())
    section = only_section(table)
    assert cells(section, "vpt")["digits"] == Cell("80.0", 80.0, None, 1, None)
    assert [column.name for column in section.columns] == ["digits", "Params (M)", "FLOPs (G)"]
    assert "One seed each" in footer(table)


def test_cells_show_their_seeds_when_these_differ(tmp_path: Path) -> None:
    table = table_of(tmp_path, make_row(seed=0), make_row(seed=1), make_row("linear", acc1=60))
    section = only_section(table)
    assert cells(section, "vpt")["digits"].text == "80.0 ± 0.0 (2)"
    assert cells(section, "linear")["digits"].text == "60.0 (1)"


def test_best_and_second_are_marked(tmp_path: Path) -> None:
    section = only_section(table_of(tmp_path, *grid()))
    ranks = {label: [cell.rank for cell in cells(section, label).values()] for label in labels(section)}
    assert ranks == {
        "linear": [None] * 6,
        "vpt": [2, 2, 2, 2, None, None],
        "insvp": [1, 1, 1, 1, None, None],
    }


def test_values_that_print_alike_share_the_mark(tmp_path: Path) -> None:
    scores = {"vpt": 80.04, "insvp": 79.96, "linear": 70.0, "ivpt": 69.0}
    section = only_section(table_of(tmp_path, *(make_row(method, acc1=acc1) for method, acc1 in scores.items())))
    assert {label: cells(section, label)["digits"].rank for label in labels(section)} == {
        "linear": 2, "vpt": 1, "insvp": 1, "ivpt": None
    }  # fmt: skip


def test_a_missing_cell_is_a_dash_and_switches_the_mean_off(tmp_path: Path) -> None:
    rows = [row for row in grid() if (row["method"], row["dataset"]) != ("insvp", "flowers")]
    table = table_of(tmp_path, *rows)
    own = cells(only_section(table), "insvp")
    assert own["flowers"] == own["Mean"] == Cell("-")
    assert cells(only_section(table), "vpt")["Mean"].rank == 1
    assert "Half-filled grid: 8 of 9 cells" in footer(table)


def test_failed_runs_are_counted_and_never_a_number(tmp_path: Path) -> None:
    failures = [make_row("ivpt", acc1=None, status="oom"), make_row("ivpt", seed=1, acc1=99.0, status="failed")]
    table = table_of(tmp_path, make_row(), make_row(seed=1, acc1=None), *failures)
    section = only_section(table)
    assert cells(section, "ivpt")["digits"] == Cell("-")
    assert cells(section, "vpt")["digits"].n == 1
    assert "Runs without a number: 1 diverged, 1 failed, 1 oom." in footer(table)


def test_nothing_but_failures_is_still_a_table(tmp_path: Path) -> None:
    table = table_of(tmp_path, make_row(acc1=None))
    assert cells(only_section(table), "vpt")["digits"] == Cell("-")
    assert "No run has a number." in footer(table)


@pytest.mark.parametrize(
    ("changes", "named"),
    some(
        [
            ({"backbone": "vit-tiny"}, "vit-tiny"),
            ({"weights": "random", "weights_sha256": None}, "random weights"),
            ({"weights_sha256": "c0ffee00" * 8}, "weight file c0ffee00"),
            ({"image_size": 64}, "64 px"),
            ({"recipe": {"epochs": 100}}, "100 epochs"),
            ({"selection": "best_val"}, "best validation epoch"),
            ({"precision": "bf16"}, "bf16"),
            ({"preprocess": {"resize": "crop", "crop_ratio": 0.875}}, "crop ratio 0.875, images cropped"),
            ({"data_digest": "feedbeef"}, "digits data feedbeef"),
            ({"preprocess": {"orientation": "exif"}}, "(EXIF orientation)"),
        ],
        4,
    ),
)
def test_runs_that_cannot_be_compared_get_sections(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    usual = [make_row("vpt", acc1=80), make_row("linear", acc1=60)]
    table = table_of(tmp_path, *usual, make_row("insvp", acc1=99, **changes))
    usual_section, other = sorted(table.sections, key=lambda section: -len(section.rows))
    assert labels(usual_section) == ["linear", "vpt"]
    assert labels(other) == ["insvp"]
    assert named in title_of(other, table)
    assert named not in title_of(usual_section, table)
    assert cells(usual_section, "vpt")["digits"].rank == 1
    assert cells(other, "insvp")["digits"].rank is None


def test_each_data_set_may_be_decoded_in_its_own_way(tmp_path: Path) -> None:
    upright = {"orientation": "exif", "background": "#ffffff"}
    table = table_of(tmp_path, make_row(), make_row(dataset="photos", preprocess=upright, seed=1))
    section = only_section(table)
    assert {"digits", "photos"} <= cells(section, "vpt").keys()
    assert "decoded with EXIF orientation, transparency on white (photos)" in section.notes[0]


def test_variants_are_labelled_by_what_differs(tmp_path: Path) -> None:
    rows = [make_row(dataset=dataset) for dataset in DATA_SETS]
    rows += [make_row(options={"prompt_length": 50}), make_row(recipe={"lr": 0.1}), make_row(method_version=2)]
    rows += [make_row(options={"deep": False}, recipe={"optimizer": "adamw"}), make_row(options={"dropout": 0.5})]
    assert set(labels(only_section(table_of(tmp_path, *rows)))) == {
        "vpt",
        "vpt (prompt_length=50)",
        "vpt (lr=0.1)",
        "vpt (version=2)",
        "vpt (deep=false, optimizer=adamw)",
        "vpt (dropout=0.5)",
    }


def test_of_equally_common_configurations_the_first_that_ran_is_the_usual_one(tmp_path: Path) -> None:
    rows = [make_row(options={"prompt_length": length}, minutes=minutes) for length, minutes in ((50, 0), (10, 5))]
    assert labels(only_section(table_of(tmp_path, *rows))) == ["vpt", "vpt (prompt_length=10)"]


def test_a_filter_does_not_rename_rows(tmp_path: Path) -> None:
    rows = [*(make_row(dataset=dataset) for dataset in DATA_SETS), make_row(dataset="pets", options={"prompt_length": 50})]
    assert labels(only_section(table_of(tmp_path, *rows, dataset=("pets",)))) == ["vpt (prompt_length=50)"]


def test_the_same_seed_in_two_suites_counts_once(tmp_path: Path) -> None:
    table = table_of(tmp_path, make_row(suite="mini"), make_row(suite="all"))
    assert cells(only_section(table), "vpt")["digits"].n == 1
    assert "Left out: 1 that repeat" in footer(table)


def test_filters(tmp_path: Path) -> None:
    rows = [*grid(), make_row("insvp:released")]
    section = only_section(table_of(tmp_path, *rows, method=("insvp",), dataset=("digits", "flowers"), seed=(0,)))
    assert labels(section) == ["insvp", "insvp:released"]
    assert [column.name for column in section.columns][:3] == ["digits", "flowers", "Mean"]
    with pytest.raises(UsageError, match=r"unknown dataset 'digit'\. Did you mean 'digits'"):
        table_of(tmp_path, dataset=("digit",))
    with pytest.raises(UsageError, match="all the filters together"):
        table_of(tmp_path, method=("insvp:released",), dataset=("flowers",))


def test_costs_are_ranges_where_data_sets_differ(tmp_path: Path) -> None:
    section = only_section(table_of(tmp_path, *grid()))
    assert cells(section, "linear")["Params (M)"].text == "0.00192\u20130.00307"
    assert cells(section, "linear")["FLOPs (G)"].text == "0.250"
    assert cells(section, "vpt")["FLOPs (G)"].mean == pytest.approx(0.291)


def test_group_means_are_a_second_mean(tmp_path: Path) -> None:
    rows = [make_row(dataset=dataset, acc1=acc1) for dataset, acc1 in zip(DATA_SETS, (60, 90, 80))]
    definition = load_definition("insvp", "1").model_copy(update={"means": ("datasets", "groups")})
    own = cells(only_section(build_table(fill(tmp_path, *rows).load(), definition)), "vpt")
    assert own["Mean"].mean == pytest.approx(230 / 3)
    assert own["Mean of groups"].mean == pytest.approx((70 + 90) / 2)


def test_footer_names_versions_and_recipes(tmp_path: Path) -> None:
    text = footer(table_of(tmp_path, make_row(), make_row("linear", git_dirty=True, recipe_source="assumption.")))
    assert "vpbench 0.1.0 (commit 84f0aa23); vpbench 0.1.0 (commit 84f0aa23, uncommitted changes: provisional)" in text
    assert "Recipe of vpt: VPT's released code.\nRecipe of linear: assumption." in text


def test_a_group_has_one_name_everywhere() -> None:
    """Methods that a definition does not name stand under what ``list methods`` calls their group."""
    board, paper = load_definition("vpbench", "leaderboard"), load_definition("insvp", "1")
    names = ("linear", "vpt", "vpt:shallow", "transhp", "lora", "nothing_of_this_name")
    keys = [RowKey(*split_name(name)) for name in names]
    assert [board.group_of(key) for key in keys] == ["Partial tuning", *["Prompts"] * 3, "Extra modules", "Other methods"]
    assert [board.lists(key) for key in keys] == [True, True, True, False, False, False]
    assert [paper.group_of(key) for key in keys[-2:]] == ["Other extra modules", "Other methods"]
    assert paper.group_of(RowKey("self_prompt", "")) == "Other prompts"
    assert sorted(keys, key=board.place)[3:] == [RowKey("transhp", ""), RowKey("lora", ""), RowKey("nothing_of_this_name", "")]


def test_definitions_of_all_tables_are_valid() -> None:
    for file in (Path(__file__).parents[2] / "reports" / "tables").glob("*/*.toml"):
        assert load_definition(file.parent.name, file.stem).number == file.stem


def test_unknown_tables_papers_and_columns() -> None:
    with pytest.raises(UsageError, match=r"unknown table '99'\. Known: 1"):
        load_definition("insvp", "99")
    with pytest.raises(UsageError, match=r"unknown paper 'insvpp'\. Did you mean 'insvp'"):
        load_definition("insvpp", "1")
    with pytest.raises(UsageError, match=r"table 7 is none of insvp's but of ivpt: --paper ivpt\."):
        load_definition("insvp", "7")
    with pytest.raises(UsageError, match=r"Known: 1, 2, 3, 4, 5, methods, scores, search\. .* vpbench list tables has all\."):
        load_definition("insvp", "foo")
    with pytest.raises(UsageError, match="Did you mean 'scores'"):
        load_definition("insvp", "score")
    with pytest.raises(ValueError, match="no column 'accuracy'"):
        TableDefinition(title="t", paper="p", number="1", metric="accuracy")


run = st.builds(
    make_row,
    method=st.sampled_from(["linear", "vpt", "insvp"]),
    dataset=st.sampled_from(["digits", "flowers"]),
    seed=st.integers(0, 1),
    acc1=st.one_of(st.none(), st.floats(0, 100)),
    recipe=st.sampled_from([{}, {"epochs": 100}]),
    precision=st.sampled_from(["fp32", "bf16"]),
    data_digest=st.sampled_from(["aaaa", "bbbb"]),
)


@pytest.mark.sweep
@settings(max_examples=15, deadline=None)
@given(st.lists(run, min_size=1, max_size=10))
def test_ranks_never_cross_sections(rows: list[dict[str, Any]]) -> None:
    """Sections come out the same without the other sections' runs, and the best of a column is its highest number."""
    runs, definition = frame_of(*rows), load_definition("insvp", "1")
    whole = build_table(runs, definition)
    part = runs[(runs["epochs"] == rows[0]["epochs"]) & (runs["precision"] == rows[0]["precision"])]
    known = [_marks(section) for section in whole.sections]
    assert all(_marks(section) in known for section in build_table(part, definition).sections)
    for section in whole.sections:
        for place, column in enumerate(section.columns):
            means = [row.cells[place].mean for row in section.rows if row.cells[place].mean is not None]
            best = [row.cells[place].mean for row in section.rows if row.cells[place].rank == 1]
            assert column.kind == "cost" or bool(best) == (len(means) > 1)
            assert not best or max(best) == max(means)


def _marks(section: Section) -> list[Any]:
    return [(row.key, [(cell.mean, cell.std, cell.rank) for cell in row.cells]) for row in section.rows]
