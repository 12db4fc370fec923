"""Published numbers beside measured ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from report_rows import fill, frame_of, labels_of, make_row
from reported_tables import cell, hta_row, reported

from vpbench.core.errors import UsageError
from vpbench.planning.suites import suite_card
from vpbench.reporting.build_table import build_table
from vpbench.reporting.definition import load_definition
from vpbench.reporting.formats import comma_separated
from vpbench.reporting.keys import RowKey
from vpbench.reporting.make_report import make_report
from vpbench.reporting.published import our_backbones
from vpbench.reporting.table import Cell

# Beside runs


def test_reported_columns_stand_apart_from_measured_ones() -> None:
    rows = [hta_row(method, "cub", acc1) for method, acc1 in (("linear", 86.0), ("vpt", 80.0))]
    plain = build_table(frame_of(*rows), load_definition("insvp", "1"))
    section = reported(rows).sections[0]
    assert cell(section, "linear", "score", "cub") == cell(plain.sections[0], "linear", "score", "cub")
    assert cell(section, "linear", "reported", "cub") == Cell("85.3", 85.3)
    assert cell(section, "linear", "gap", "cub") == Cell("+0.7", 0.7)
    assert cell(section, "vpt", "gap", "cub").text == "-8.5"
    for row in section.rows:
        for column, own in zip(section.columns, row.cells, strict=True):
            assert column.kind not in ("reported", "gap") or own.rank is None
    theirs = [(column.group, column.name) for column in section.columns if column.kind in ("reported", "gap")]
    assert theirs[0] == ("Reported", "cub") and theirs[-1] == ("Gap", "cub")
    assert len(theirs) == 12, "ten data sets and a mean, and one gap"


def test_methods_without_a_run_have_reported_numbers_alone() -> None:
    section = reported([hta_row("vpt", "cub")]).sections[0]
    assert cell(section, "transhp", "score", "cub") == cell(section, "transhp", "gap", "cub") == Cell()
    assert cell(section, "transhp", "reported", "cub").text == "87.1"
    assert {row.group for row in section.rows if row.key == RowKey("transhp")} == {"Prompts"}


def test_a_variant_or_another_protocol_has_no_reported_number() -> None:
    rows = [hta_row("vpt", "cub"), hta_row("vpt", "dtd"), hta_row("vpt", "cub", options={"prompt_length": 99}, minutes=5)]
    section = reported(rows).sections[0]
    assert cell(section, "vpt (prompt_length=99)", "reported", "cub") == Cell()
    few = [hta_row("vpt", "cub", suite="fewshot-16")]
    first, *others = reported(few).sections
    assert all(column.kind != "reported" for column in first.columns)
    assert others[0].caption == "Reported by the paper: ViT-B/16, supervised ImageNet-21k"


def test_vtab_cells_in_a_full_data_table_are_footnoted() -> None:
    table = reported([hta_row("linear", "dtd"), hta_row("linear", "cub")])
    (letter,) = cell(table.sections[0], "linear", "reported", "dtd").notes
    assert cell(table.sections[0], "linear", "reported", "cub").notes == ()
    (line,) = [line for line in table.footer if line.startswith(f"[{letter}] ")]
    assert "VTAB-1k (1000 training images)" in line


def test_figures_of_another_backbone_are_never_beside_ours() -> None:
    """InsVP's Table 1 has one method on MoCo v3: a section of its own; and two on backbones of others: a footnote."""
    table = reported([hta_row("vpt", "cub")])
    assert [section.caption for section in table.sections[1:]] == ["Reported by the paper: ViT-B/16, MoCo v3"]
    assert labels_of(table.sections[1]) == ["gapt"]
    notes = cell(table.sections[0], "ilm_vp", "reported", "cub").notes
    assert any(line.startswith(f"[{letter}] On ResNeXt-101") for letter in notes for line in table.footer)
    assert our_backbones("ViT-B/16", "MoCo v3") == ("vit-b16-mocov3",)
    assert our_backbones("ViT-B/32", "none") == ()


@pytest.mark.parametrize(
    ("number", "method", "printed", "note"),
    [("1", "full", "68.90", "68.97"), ("1", "lora", "74.63", "0.035"), ("14", "vpt", "71.97", "71.96")],
)
def test_known_contradictions_of_ivpt(number: str, method: str, printed: str, note: str) -> None:
    table = reported([], "ivpt", number)
    found = cell(table.sections[0], method, "reported", "Mean of groups")
    assert found.text == printed
    assert any(note in line for line in table.footer for letter in found.notes if line.startswith(f"[{letter}]"))


def test_a_suspicious_line_of_swin_is_footnoted() -> None:
    (swin,) = [section for section in reported([], "ivpt", "13").sections if "Swin-B" in section.caption]
    assert cell(swin, "ivpt", "reported", "vtab.dmlab").notes
    assert cell(swin, "vpt", "reported", "vtab.sun397").text == "-"


def test_costs_of_another_machine_have_no_gap() -> None:
    rows = [hta_row("vpt", name, suite="vtab1k", latency_ms_p50=5.0) for name in suite_card("vtab1k").datasets]
    section = reported(rows, "ivpt", "8").sections[0]
    assert cell(section, "vpt", "reported", "Latency (ms)").text == "249.80"
    gaps = {column.name for column in section.columns if column.kind == "gap"}
    assert gaps == {"Mean of 3 groups", "Params (M)", "MACs (G)"}


def test_the_gap_of_means_over_vtab() -> None:
    rows = [hta_row("linear", name, suite="vtab1k", recipe={"epochs": 100}) for name in suite_card("vtab1k").datasets]
    section = reported(rows, "ivpt", "1").sections[0]
    label = "linear"
    assert cell(section, label, "gap", "Mean of 3 groups").mean == pytest.approx(80 - 57.67)
    assert cell(section, label, "gap", "Mean of natural").text == "+11.1"
    assert cell(section, label, "gap", "vtab.svhn").text == "+43.4"
    assert all(column.name != "Mean of 19" for column in section.columns if column.kind == "reported")


def test_without_any_run_the_papers_figures_remain(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"only what the paper reports is shown: no runs in .*vpbench run "):
        text = str(make_report(1, results=tmp_path, reported=True))
    assert "No run here is comparable with these figures." in text
    with pytest.raises(UsageError, match="nothing is published for table 1 of vpbench: leave out --reported"):
        make_report(1, results=fill(tmp_path, make_row()).folder, paper="vpbench", reported=True)


def test_a_table_of_another_task(tmp_path: Path) -> None:
    folder = fill(tmp_path, make_row()).folder
    text = str(make_report(7, paper="ivpt", results=folder))
    assert "No run here is of segmentation. To fill this table: vpbench run --suite ade20k" in text and "80.0" not in text
    assert "35.12" in str(make_report(7, paper="ivpt", results=folder, reported=True))


def test_csv_never_mixes_reported_and_measured(tmp_path: Path) -> None:
    store = fill(tmp_path, hta_row("linear", "cub", 86.0))
    frame = pd.read_csv(make_report(1, results=store.folder, reported=True, out=tmp_path / "t.csv")[0])  # type: ignore[arg-type]
    cub = frame[frame["column"] == "cub"].set_index("method")
    assert cub.loc["linear", ["mean", "reported", "gap"]].tolist() == pytest.approx([86.0, 85.3, 0.7])
    assert pd.isna(cub.loc["transhp", "mean"])
    assert "reported" not in comma_separated(build_table(store.load(), load_definition("insvp", "1"))).splitlines()[0]


# Rows by options


def ivpt_row(acc1: float, minutes: int, **options: Any) -> dict[str, Any]:
    return make_row("ivpt", acc1=acc1, minutes=minutes, options={"structure": "cdc", "da": True, "ar": "topk", **options})


def test_lines_take_runs_by_their_options() -> None:
    """Asked for as a preset or by options, the components are the same row; what else differs is said behind it."""
    preset = {**ivpt_row(84.0, 1, da=False, ar="none"), "method": "ivpt:cdc"}
    rows = [make_row("vpt"), ivpt_row(90.0, 0), preset, ivpt_row(86.0, 2, ar="none"), make_row("insvp")]
    rows += [ivpt_row(85.0, 3, da=False, ar="none", prompt_length=5), make_row("vpt:shallow")]
    table = build_table(frame_of(*rows), load_definition("ivpt", "2"))
    (section,) = table.sections
    assert labels_of(section) == ["VPT", "CDC", "CDC (prompt_length=5)", "CDC + DA", "CDC + DA + AR"]
    assert cell(section, "CDC", "mean", "Mean of natural").mean == 84
    assert "Left out: 2 runs of other methods or options." in table.footer


def test_missing_lines_are_named_with_the_command() -> None:
    table = build_table(
        frame_of(make_row("vpt", "vtab.svhn", suite="vtab1k", backbone="vit-b16-in21k")), load_definition("ivpt", "2")
    )
    assert "No run here of CDC, CDC + DA, CDC + DA + AR. To fill this table: vpbench run --suite vtab1k" in "\n".join(
        table.footer
    )
    nothing = build_table(frame_of(make_row("insvp")), load_definition("ivpt", "4"))
    assert nothing.sections == ()
    assert nothing.footer[0].startswith(
        "No run here is of no AR or AR of all patch tokens or AR of the top k. To fill this table: "
    )


def test_the_papers_suite_is_shown_alone_once_it_has_runs() -> None:
    rows = [hta_row("vpt", "cub"), make_row("vpt", "digits")]
    table = build_table(frame_of(*rows), load_definition("insvp", "1"))
    assert [section.backbone for section in table.sections] == ["vit-b16-in21k"]
    assert "Left out: 1 run with another suite: mini (--suite shows them)." in table.footer
