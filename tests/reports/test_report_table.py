"""What stands in a table: rows, sections, ranks, means, footer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_rows import DATA_SETS, fill, frame_of, grid, labels_of, make_row, title_of
from sweeps import some

from vpbench.core.errors import UsageError
from vpbench.data.catalog import dataset_card
from vpbench.models.registry import resolve_method
from vpbench.planning.suites import method_options, recipe_entries, resolve_recipe, suite_card
from vpbench.reporting.build_table import build_table
from vpbench.reporting.definition import TableDefinition, load_definition
from vpbench.reporting.frame import Filters
from vpbench.reporting.table import Cell, Row, Section, Table


def table_of(folder: Path, *rows: dict[str, Any], **filters: tuple[Any, ...]) -> Table:
    return build_table(fill(folder, *rows).load(), load_definition("insvp", "1"), Filters(**filters))


def only_section(table: Table) -> Section:
    (section,) = table.sections
    return section


def labels(section: Section) -> list[str]:
    return labels_of(section)


def cells(section: Section, label: str) -> dict[str, Cell]:
    row: Row = section.rows[labels(section).index(label)]
    return {column.name: cell for column, cell in zip(section.columns, row.cells, strict=True)}


def footer(table: Table) -> str:
    return "\n".join(table.footer)


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


def test_definitions_of_all_tables_are_valid() -> None:
    for file in (Path(__file__).parents[2] / "reports" / "tables").glob("*/*.toml"):
        assert load_definition(file.parent.name, file.stem).number == file.stem


def test_unknown_tables_papers_and_columns() -> None:
    with pytest.raises(UsageError, match=r"unknown table '9'\. Known: 1"):
        load_definition("insvp", "9")
    with pytest.raises(UsageError, match=r"unknown paper 'insvpp'\. Did you mean 'insvp'"):
        load_definition("insvpp", "1")
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


# VTAB-1k

VTAB = {name: dataset_card(name).group for name in suite_card("vtab1k").datasets}
BICUBIC = {"resize": "stretch", "interpolation": "bicubic", "antialias": True, "normalisation": "weights"}


def vtab_row(method: str, dataset: str, acc1: float, **columns: Any) -> dict[str, Any]:
    """A run as ``vpbench run --suite vtab1k`` leaves it: options and recipe are the ones of the recipe."""
    name, _, preset = method.partition(":")
    entries = recipe_entries(name, "vtab1k", dataset, preset or None)
    recipe, source = resolve_recipe(suite_card("vtab1k"), entries, {})
    given: dict[str, Any] = {
        "suite": "vtab1k",
        "dataset_group": VTAB[dataset],
        "method_config": json.dumps(resolve_method(method, method_options(entries)).config),
        "recipe": json.dumps(recipe.model_dump(mode="json")),
        "recipe_source": source,
        "epochs": recipe.epochs,
        "preprocess": json.dumps(BICUBIC),
        "n_train": 1000,
        "n_val": 0,
    }
    return {**make_row(method, dataset, acc1=acc1), **given, **columns}


def vtab_table(rows: list[dict[str, Any]], **filters: tuple[Any, ...]) -> Table:
    return build_table(frame_of(*rows), load_definition("insvp", "1"), Filters(**filters))


def vtab_rows(method: str = "vpt", start: float = 50.0) -> list[dict[str, Any]]:
    """Scores start, start + 1, ... in the suite's order."""
    return [vtab_row(method, dataset, start + place) for place, dataset in enumerate(VTAB)]


def test_vtab_always_has_both_means() -> None:
    section = only_section(vtab_table(vtab_rows("vpt") + vtab_rows("ivpt", 60.0)))
    assert [column.name for column in section.columns if column.kind == "mean"] == ["Mean of 19", "Mean of 3 groups"]
    own = cells(section, "vpt")
    # Places 0 to 6, 7 to 10 and 11 to 18 of 0 to 18: their means are 3, 8.5 and 14.5.
    assert own["Mean of 19"].mean == pytest.approx(50 + 9)
    assert own["Mean of 3 groups"].mean == pytest.approx(50 + (3 + 8.5 + 14.5) / 3, abs=1e-8)
    assert own["Mean of 3 groups"].text == "58.7"
    assert [cells(section, label)["Mean of 19"].rank for label in ("vpt", "ivpt")] == [2, 1]


def test_a_recipe_that_differs_by_data_set_is_one_row() -> None:
    rows = vtab_rows("vpt") + vtab_rows("vpt:shallow") + vtab_rows("e2vpt") + vtab_rows("ivpt") + vtab_rows("insvp")
    assert len({row["method_config"] for row in rows if row["method"] == "vpt"}) > 3
    assert labels(only_section(vtab_table(rows))) == ["vpt", "vpt:shallow", "e2vpt", "insvp", "ivpt"]


def test_what_a_user_changed_is_still_a_row_of_its_own() -> None:
    changed = vtab_row("vpt", "vtab.svhn", 70.0)
    config = {**json.loads(changed["method_config"]), "prompt_length": 7}
    changed = {**changed, "run_id": "c", "method_config": json.dumps(config)}
    section = only_section(vtab_table([*vtab_rows(), changed]))
    assert labels(section) == ["vpt", "vpt (prompt_length=7)"]
    assert cells(section, "vpt")["Mean of 19"].mean == pytest.approx(59)
    assert cells(section, "vpt (prompt_length=7)")["Mean of 19"] == Cell("-")


def test_a_missing_task_switches_off_both_means_of_that_row_alone() -> None:
    section = only_section(vtab_table([*vtab_rows("vpt")[:-1], *vtab_rows("ivpt")]))
    assert cells(section, "vpt")["Mean of 19"] == cells(section, "vpt")["Mean of 3 groups"] == Cell("-")
    assert cells(section, "ivpt")["Mean of 19"].mean == pytest.approx(59)


def test_a_task_without_any_run_switches_off_all_means() -> None:
    """The mean of 18 tasks must not pass for the mean of VTAB."""
    rows = [row for row in vtab_rows("vpt") + vtab_rows("ivpt") if row["dataset"] != "vtab.kitti"]
    section = only_section(vtab_table(rows))
    for label in ("vpt", "ivpt"):
        assert cells(section, label)["Mean of 19"] == cells(section, label)["Mean of 3 groups"] == Cell("-")
    assert section.notes[-1] == "No mean: of vtab1k's data sets vtab.kitti has no run here."
    failed = {**vtab_row("vpt", "vtab.kitti", 1.0), "status": "oom", "acc1": None}
    assert cells(only_section(vtab_table([*rows, failed])), "vpt")["Mean of 19"] == Cell("-")


def test_a_whole_group_has_its_own_mean() -> None:
    rows = [row for row in vtab_rows() if row["dataset_group"] == "natural"]
    own = cells(only_section(vtab_table(rows)), "vpt")
    assert own["Mean of 7"].mean == pytest.approx(53)
    assert [name for name in own if name.startswith("Mean")] == ["Mean of 7"]
    rows += [row for row in vtab_rows() if row["dataset_group"] == "specialized"]
    own = cells(only_section(vtab_table(rows)), "vpt")
    assert own["Mean of 11"].mean == pytest.approx(55)
    assert own["Mean of 2 groups"].mean == pytest.approx(50 + (3 + 8.5) / 2)


def test_other_suites_keep_the_tables_means(tmp_path: Path) -> None:
    columns = only_section(table_of(tmp_path, *grid())).columns
    assert [column.name for column in columns if column.kind == "mean"] == ["Mean"]


def test_the_whole_protocol_stands_below_a_section() -> None:
    (protocol, images, *others) = only_section(vtab_table(vtab_rows())).notes
    assert protocol == (
        "Protocol: images stretched to 48 x 48 (bicubic with antialias); normalised with mean and std of the weights; "
        "trained on training and validation images; last epoch; 100 epochs; seed 0; fp32."
    )
    assert "vtab.kitti 1000/0/500" in images
    assert others == []


@pytest.mark.sweep
def test_the_other_preprocessings_of_vtab_are_other_sections() -> None:
    blurred = {"resize": "stretch", "interpolation": "bilinear", "antialias": False, "normalisation": "imagenet"}
    others = [{**row, "run_id": f"v{place}", "suite": "vtab1k-vpt", "preprocess": json.dumps(blurred), "seed": 44}
              for place, row in enumerate(vtab_rows())]  # fmt: skip
    second, first = vtab_table(vtab_rows() + others).sections
    assert "bicubic with antialias" in first.notes[0]
    assert "(bilinear without antialias); normalised with mean and std of ImageNet; " in second.notes[0]
    assert "seed 44" in second.notes[0]
    assert [cells(section, "vpt")["Mean of 19"].mean for section in (first, second)] == [59, 59]


def test_suites_that_train_on_other_images_are_other_sections() -> None:
    """fewshot-1 and fewshot-4 differ from fgvc in nothing but the images, and must not share a row."""
    crop = {"resize": "crop", "crop_ratio": 0.875, "interpolation": "bilinear", "random_crop": True}
    rows = [
        make_row(
            "linear", dataset, acc1=acc1, suite=suite, dataset_group="fgvc", data_digest=f"{suite} {dataset}", preprocess=crop
        )
        for suite, dataset, acc1 in (("fewshot-1", "cub", 20.0), ("fewshot-4", "dogs", 40.0), ("fgvc", "cub", 80.0))
    ]
    table = vtab_table(rows)
    sections = table.sections
    assert [len(section.columns) for section in sections] == [3, 3, 3]  # one data set and two costs each
    titles = {title_of(section, table).rpartition("last epoch")[2] for section in sections}
    assert titles == {"", ", trained on 1 image per class", ", trained on 4 images per class"}
    assert {note for section in sections for note in section.notes[0].split("; ") if note.startswith("trained")} == {
        "trained on the training images", "trained on 1 image per class", "trained on 4 images per class"
    }  # fmt: skip


def test_the_legend_speaks_of_numbers_alone(tmp_path: Path) -> None:
    """A number that is alone in its column has no mark, and the legend says so; without such a column it does not."""
    two = fill(tmp_path / "two", make_row("vpt", acc1=80.0), make_row("linear", acc1=70.0)).load()
    more = fill(tmp_path / "more", make_row("vpt"), make_row("linear", acc1=70.0), make_row("vpt", "flowers")).load()
    tables = [build_table(runs, load_definition("insvp", "1")) for runs in (two, more)]
    assert [table.legend for table in tables] == [
        "best of a column within its section",
        "best of a column within its section (a number alone in its column has no mark)",
    ]
    assert all(table.ranked for table in tables)


def test_own_images_are_not_asked_for_a_papers_grid(tmp_path: Path) -> None:
    own = fill(tmp_path / "own", make_row("vpt", "photos", suite="custom")).load()
    mini = fill(tmp_path / "mini", make_row("vpt", suite="mini")).load()
    footers = [" ".join(build_table(runs, load_definition("insvp", "2")).footer) for runs in (own, mini)]
    assert "these are others." in footers[0] and "To fill this table" not in footers[0]
    assert "To fill this table: vpbench run" in footers[1]
