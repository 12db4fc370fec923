"""``vpbench report --table methods``: what methods change and cost, with times from a file of measurements alone."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from vpbench.core.errors import StoreError, UsageError
from vpbench.measure.cost_file import COLUMNS, write_costs
from vpbench.models.registry import resolve_method
from vpbench.reporting.make_report import make_report

LABELS = ["linear", "partial", "bias", "lora", "vpt", "insvp"]


def table(labels: list[str] = LABELS, **options: Any) -> dict[str, dict[str, str]]:
    """Texts of the table's cells, by method and column."""
    made = make_report("methods", method=labels, backbone="vit-nano", format="json", **options)
    assert isinstance(made, str)
    (section,) = json.loads(made)["sections"]
    names = [column["name"] for column in section["columns"]]
    return {row["label"]: dict(zip(names, (cell["text"] for cell in row["cells"]))) for row in section["rows"]}


def costs(path: Path, *labels: str, backbone: str = "vit-nano", **columns: Any) -> Path:
    fixed = {
        "status": "ok", "backbone": backbone, "image_size": 40, "precision": "fp32", "device": "cpu", "device_name": "a CPU",
        "threads": 2, "train_batch": 8, "mem_kind": "peak RSS", "train_ratio": 2.125, "mem_train_peak": 300 * 2**20, **columns,
    }  # fmt: skip
    rows = [{**fixed, "method": label, "method_config": json.dumps(resolve_method(label).config)} for label in labels]
    write_costs([{name: row.get(name) for name in COLUMNS} for row in rows], path)
    return path


@pytest.mark.sweep
def test_what_methods_change_and_cost(tmp_path: Path) -> None:
    found = table(costs=costs(tmp_path / "costs.parquet", "vpt", "linear"))
    assert set(found) == set(LABELS)
    changes = {label: row["changes"] for label, row in found.items()}
    assert changes == {
        "linear": "head alone", "partial": "1 whole block, norms", "bias": "norms, biases", "lora": "qkv", "vpt": "tokens",
        "insvp": "pixels, tokens",
    }  # fmt: skip
    assert found["lora"]["merged for inference"] == "yes" and found["vpt"]["merged for inference"] == "no"
    step, memory = "training step / inference of the plain backbone", "peak memory in training, MiB"
    assert (found["vpt"][step], found["vpt"][memory]) == ("2.12", "300")
    assert (found["lora"][step], found["lora"][memory]) == ("-", "-"), "nobody measured it"
    assert found["linear"]["parameters"] == "0" and found["lora"]["year"] == "2022"


def test_without_measurements_there_are_no_times() -> None:
    assert {row["peak memory in training, MiB"] for row in table(["linear", "vpt"]).values()} == {"-"}


def test_words_in_every_format() -> None:
    named: list[str] = []  # on the way, as counting takes its time
    for kind in ("md", "csv", "tex", "html", "terminal"):
        made = make_report("methods", method="lora", backbone="vit-nano", format=kind, on_progress=named.append)
        assert isinstance(made, str) and "qkv" in made and "2022" in made
    assert named == ["lora"] * 5
    made = make_report("methods", method="lora", backbone="vit-nano", format="csv")
    lines = {line["column"]: line for line in csv.DictReader(io.StringIO(str(made)))}
    assert lines["changes"]["text"] == "qkv" and lines["changes"]["mean"] == ""


def test_measurements_with_other_settings_do_not_count(tmp_path: Path) -> None:
    path = costs(tmp_path / "costs.parquet", "vpt")
    assert table(["vpt"], costs=path)["vpt"]["peak memory in training, MiB"] == "300"
    rows = [{"status": "ok", "backbone": "vit-nano", "image_size": 40, "method": "vpt", "method_config": '{"prompt_length": 3}'}]
    write_costs([{name: row.get(name) for name in COLUMNS} for row in rows], path)
    assert table(["vpt"], costs=path)["vpt"]["peak memory in training, MiB"] == "-"


def test_methods_without_times_are_named_with_the_reason(tmp_path: Path) -> None:
    path = costs(tmp_path / "costs.parquet", "vpt", "linear", "bias")
    rows = pq.read_table(path).to_pylist()
    rows[2]["method_config"] = '{"other": 1}'
    write_costs([*rows, {**rows[0], "method_config": '{"prompt_length": 3}'}], path)

    def footer(*labels: str) -> list[str]:
        made = make_report("methods", method=labels, backbone="vit-nano", costs=path, format="json")
        return list(json.loads(str(made))["footer"][2:])

    measured = f"Times and memory: measured on a CPU, 2 threads, fp32, steps of 8 images, peak RSS ({path})."
    assert footer("vpt", "linear") == [measured]
    changed = "Measured with other options only, and left empty: bias."
    assert footer("vpt", "lora", "bias", "insvp") == [measured, changed, "Not measured: lora, insvp."]


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--costs .* is of swin-b at 40 px, not of vit-nano at 40 px"):
        table(costs=costs(tmp_path / "costs.parquet", "vpt", backbone="swin-b"))
    (tmp_path / "other.parquet").write_bytes(b"no parquet")
    (rows := tmp_path / "rows.parquet").write_bytes(costs(tmp_path / "costs.parquet", "vpt").read_bytes())
    pq.write_table(pq.read_table(rows).drop_columns("train_ratio"), rows)
    for name, why in (
        ("other.parquet", "it is no parquet file, or a damaged one"),
        ("nofile.parquet", "it does not exist"),
        (".", "it is a folder"),
        ("rows.parquet", "it has no column train_ratio"),
    ):
        with pytest.raises(StoreError) as caught:
            table(["linear"], costs=tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name} is no file of 'vpbench measure --output': {why}."
    with pytest.raises(UsageError, match=r"--costs goes with --table methods"):
        make_report("1", costs=tmp_path / "costs.parquet")
    with pytest.raises(UsageError, match=r"reads no runs"):
        make_report("methods", dataset="cub")
