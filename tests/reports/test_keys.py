"""Keys of rows, columns and sections: data from the frame to the table, text in the formats alone."""

from __future__ import annotations

import json
from pathlib import Path

from report_rows import fill, frame_of, make_row

from vpbench.reporting.build_table import build_table
from vpbench.reporting.definition import load_definition
from vpbench.reporting.describe import describe, in_words, without_empty
from vpbench.reporting.frame import arrange, sections_in
from vpbench.reporting.keys import ColumnKey, RowKey, SectionKey
from vpbench.reporting.make_report import make_report
from vpbench.reporting.row_labels import differences, row_label, row_labels, section_titles


def test_a_run_keeps_its_key_from_the_frame_to_the_table() -> None:
    shallow = make_row("vpt:shallow", options={"deep": False, "x": "a, b"}, minutes=1)
    runs = frame_of(make_row(), make_row(dataset="flowers"), shallow)
    rows = arrange(runs)["row"].tolist()
    assert rows[:2] == [RowKey("vpt")] * 2
    (section,) = build_table(runs, load_definition("insvp", "1")).sections
    assert [row.key for row in section.rows] == [rows[0], rows[2]]
    assert section.key == arrange(runs)["section"].iloc[0]
    assert [column.key for column in section.columns][:3] == [
        ColumnKey("dataset", "digits"), ColumnKey("dataset", "flowers"), ColumnKey("mean", over="datasets")
    ]  # fmt: skip


def test_text_that_looks_like_a_separator_separates_nothing() -> None:
    """Names with commas, brackets and parentheses, which labels and titles are made with."""
    odd = "vit, random weights [x] (y)"
    runs = frame_of(make_row(backbone=odd), make_row(backbone="b"), make_row("m (a=1)", backbone="b", options={"n": "1, k=2) ["}))
    keys = sections_in(arrange(runs))
    assert differences(keys) == {keys[0]: "b", keys[1]: odd}
    (section,) = build_table(runs, load_definition("insvp", "1"), mix=True).sections
    assert len(section.rows) == len(set(row_labels(row.key for row in section.rows).values())) == 3
    assert {row.key.protocol for row in section.rows if isinstance(row.key, RowKey)} == set(keys)


def test_a_line_and_a_method_of_the_same_name_are_two_rows(tmp_path: Path) -> None:
    definition = load_definition("ivpt", "2")
    line = definition.lines[1]
    assert definition.place(RowKey("ivpt", line=line.label)) < definition.place(RowKey(line.label))
    assert not definition.lists(RowKey(line.label))
    assert definition.published_name(RowKey("ivpt", line=line.label)) == "iVPT: CDC"
    assert definition.row_of("iVPT: CDC") == RowKey("ivpt", line="CDC")
    assert definition.row_of("a method that only the paper has") == "a method that only the paper has"


def test_sections_are_sorted_by_values_and_not_by_text() -> None:
    """2 images per class before 16, and a missing value before all."""
    keys = [SectionKey("b", images=number) for number in (16, 2)] + [SectionKey("b", images="train"), SectionKey()]
    assert sorted(keys) == [keys[3], keys[1], keys[0], keys[2]]
    assert sorted([RowKey("b"), RowKey("a", options=(("x", "1"),)), RowKey("a")])[0] == RowKey("a")


def test_labels_and_titles() -> None:
    options = (("deep", None), ("lr", "0.1"), ("name", '"a"'))
    assert row_label(RowKey("vpt", "shallow", options)) == "vpt:shallow (deep=-, lr=0.1, name=a)"
    assert row_label(RowKey("ivpt", line="CDC")) == "CDC"
    one, other = (SectionKey("b", "random", image_size=48, precision=precision) for precision in ("fp32", "bf16"))
    assert section_titles([one]) == {one: "b, random weights, 48 px"}
    assert section_titles([one, other])[other] == "b, random weights, 48 px, bf16"
    with_flips, without = (
        SectionKey("b", preprocess=json.dumps({"random_flip": flip, "new": 1 + flip})) for flip in (True, False)
    )
    titles = section_titles([with_flips, without])
    assert titles[with_flips].endswith(", new 2, random flips") and titles[without].endswith(", new 1, no flips")


def test_a_table_as_json_has_text_for_its_keys(tmp_path: Path) -> None:
    table = json.loads(str(make_report(1, results=fill(tmp_path, make_row()).folder, format="json")))
    (section,) = table["sections"]
    assert section["title"] == "vit-nano, embedded weights, 48 px, 12 epochs, last epoch"
    assert section["rows"][0]["label"] == "vpt"
    assert section["columns"][0] == {"group": "natural", "name": "digits", "kind": "score", "key": "dataset:digits"}


def test_codes_are_words_for_readers() -> None:
    facts = describe("suite", "vtab1k", Path())
    assert facts["fit"] == "train+val"
    assert in_words(facts)["trained_on"] == "training and validation images"
    assert "fit" not in in_words(facts)
    assert (facts["preprocess"]["orientation"], "orientation" in in_words(facts)["preprocess"]) == ("stored", False)
    assert without_empty({"a": None, "b": "", "c": [], "d": {"e": None}, "f": False, "g": 0}) == {"f": False, "g": 0}
    assert in_words({"fidelity": "both-differ"}) == {"fidelity": "paper and released code differ; presets for both"}


def test_recipes_of_several_sources_name_their_data_sets(tmp_path: Path) -> None:
    def footer(*sources: str) -> str:
        rows = [
            make_row("linear", name, recipe_source=source) for name, source in zip(("digits", "photos"), sources, strict=True)
        ]
        return str(make_report(1, results=fill(tmp_path / "_".join(sources), *rows).folder, format="md"))

    assert "Recipe of linear on digits: mini." in footer("mini", "custom")
    assert "Recipe of linear on photos: custom." in footer("mini", "custom")
    assert "Recipe of linear: mini." in footer("mini", "mini")


def test_what_all_recipes_share_is_said_once(tmp_path: Path) -> None:
    sources = {"linear": "mini; searched", "lora": "mini; LoRA: assumption; searched", "vpt": "mini; searched"}
    store = fill(tmp_path, *(make_row(method, recipe_source=source) for method, source in sources.items()))
    text = str(make_report(1, results=store.folder, format="md"))
    assert [line for line in text.splitlines() if "Recipe" in line] == [
        "- Recipe of all: mini; searched.", "- Recipe of lora, further: LoRA: assumption."
    ]  # fmt: skip
