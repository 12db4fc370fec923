"""Tables over VTAB-1k: means by group, and which runs stand together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_rows import fill, frame_of, grid, make_row, title_of
from report_tables import cells, labels, only_section, table_of

from vpbench.data.catalog import dataset_card
from vpbench.models.registry import resolve_method
from vpbench.planning.suites import group_of, method_options, recipe_entries, resolve_recipe, suite_card
from vpbench.reporting.build_table import build_table
from vpbench.reporting.definition import load_definition
from vpbench.reporting.frame import Filters
from vpbench.reporting.table import Cell, Table

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


def test_a_part_of_a_suite_has_its_own_mean() -> None:
    """Two groups that are no part have none: it would pass for VTAB's."""
    rows = [row for row in vtab_rows() if row["dataset_group"] == "natural"]
    section = only_section(vtab_table(rows))
    own = cells(section, "vpt")
    assert own["Mean of 7"].mean == pytest.approx(53)
    assert [name for name in own if name.startswith("Mean")] == ["Mean of 7"]
    keys = [str(column.key) for column in section.columns if column.kind == "mean"]
    assert keys == ["mean:vtab1k-natural:datasets"], "no paper's mean of VTAB stands beside it"
    rows += [row for row in vtab_rows() if row["dataset_group"] == "specialized"]
    section = only_section(vtab_table(rows))
    own = cells(section, "vpt")
    assert own["Mean of 19"] == own["Mean of 3 groups"] == Cell("-")
    structured = [name for name, group in VTAB.items() if group == "structured"]
    assert section.notes[-1] == f"No mean: of vtab1k's data sets {', '.join(structured)} have no run here."


def test_groups_without_a_run_have_no_column() -> None:
    rows = [row for row in vtab_rows() if row["dataset_group"] != "structured"]
    section = only_section(build_table(frame_of(*rows), load_definition("insvp", "2")))
    own = cells(section, "vpt")
    assert [name for name in own if name.startswith("Mean")][-4:] == [
        "Mean of natural", "Mean of specialized", "Mean of 19", "Mean of 3 groups"
    ]  # fmt: skip
    assert own["Mean of natural"].mean == pytest.approx(53) and own["Mean of 19"] == Cell("-")


def test_a_suite_without_a_whole_group_names_all_that_lacks() -> None:
    suite = suite_card("photos-mini")
    done = ("photos.cub100", "photos.flowers12", "photos.eurosat1k")
    rows = [make_row("vpt", name, suite="photos-mini", dataset_group=group_of(suite, name)) for name in done]
    section = only_section(build_table(frame_of(*rows), load_definition("vpbench", "leaderboard")))
    own = cells(section, "vpt")
    assert own["Mean of 7"] == own["Mean of 3 groups"] == Cell("-")
    missing = ", ".join(name for name in suite.datasets if name not in done)
    assert section.notes[-1] == f"No mean: of photos-mini's data sets {missing} have no run here." and "gtsrb" in missing


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
        "best of its column, over all groups of methods",
        "best of its column, over all groups of methods (a number alone in its column has no mark)",
    ]
    assert all(table.ranked for table in tables)


def test_own_images_are_not_asked_for_a_papers_grid(tmp_path: Path) -> None:
    own = fill(tmp_path / "own", make_row("vpt", "photos", suite="custom")).load()
    mini = fill(tmp_path / "mini", make_row("vpt", suite="mini")).load()
    papers = fill(tmp_path / "papers", make_row("vpt", "vtab.dtd", suite="vtab1k")).load()
    footers = [" ".join(build_table(runs, load_definition("insvp", "2")).footer) for runs in (own, mini, papers)]
    for footer in footers[:2]:
        assert "these are others." not in footer and "To fill this table" not in footer
    assert "No run here has the paper's backbone" in footers[2] and "To fill this table: vpbench run" in footers[2]
