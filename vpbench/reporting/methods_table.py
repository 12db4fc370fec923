"""All methods side by side: what each changes, and what it costs.

Parameters and operations are counted on the meta device, which gives the same numbers on every machine. Times and memory are
those of a file of ``vpbench measure --output``; without one, or where it lacks a method, their cells are empty.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from vpbench.core.errors import UnsupportedError, UsageError
from vpbench.core.names import counted
from vpbench.interface import Method
from vpbench.models.registry import expand_labels, method_class, resolve_method
from vpbench.reporting.keys import ColumnKey, RowKey
from vpbench.reporting.measured_costs import read_costs
from vpbench.reporting.method_groups import GROUPS
from vpbench.reporting.table import Cell, Column, Row, Section, Table
from vpbench.spec.run_spec import BackboneSpec

BACKBONE = "vit-b16-in21k"
CLASSES = 100
# Heading, column of a cost file or of the counts, unit of it, digits.
NUMBERS = (
    ("parameters", "params_method", 1, 0),
    ("trained with head", "params_trainable", 1, 0),
    ("GFLOPs", "flops_forward", 1e9, 2),
    ("training step / inference of the plain backbone", "train_ratio", 1, 2),
    ("peak memory in training, MiB", "mem_train_peak", 2**20, 0),
)
WORDS = ("year", "changes", "merged for inference")
_ABOUT = (
    "Changes: sites by the names of vpbench.interface.Scope, and what of the backbone itself is trained.",
    "Parameters of the method without the head; operations of one image, of the method as papers describe it; a multiply-add"
    " counts 2.",
)


def methods_table(
    labels: Sequence[str] = ("all",), backbone: str | None = None, image_size: int | None = None, costs: Path | None = None,
    on_method: Callable[[str], None] | None = None,
) -> Table:  # fmt: skip
    """The table.

    Args:
        labels: of methods, with presets and groups as for ``vpbench run --methods``.
        backbone: on which sizes are counted; None: ViT-B/16.
        image_size: pixels; None for that of pretraining, 224 for ViT-B/16.
        costs: a file of ``vpbench measure --output`` for that backbone.
        on_method: called with each method before it is counted, which takes a second or two.

    Raises:
        UsageError: for an unknown name, or a file that is of another backbone.
        StoreError: when the file cannot be read.
    """
    from vpbench.backbones.named import resolve_backbone

    spec = resolve_backbone(backbone or BACKBONE, "random", image_size)
    measured, others = ({}, set()) if costs is None else _measured(costs, spec)
    shown = expand_labels(labels)
    rows = []
    for label in shown:
        if on_method is not None:
            on_method(label)
        rows.append(_row(label, spec, measured.get(label, {})))
    rows.sort(key=lambda row: list(GROUPS.values()).index(row.group))  # within a group, as methods are named
    columns = (
        *(Column("", name, "words", ColumnKey("other", name)) for name in WORDS),
        *(Column("", name, "cost", ColumnKey("cost", column)) for name, column, _, _ in NUMBERS),
    )
    caption = f"{spec.name} at {spec.image_size} px, {CLASSES} classes, every method's own settings"
    section = Section(None, columns, tuple(rows), (), spec.name, head="Method", caption=caption)
    lacking = [] if costs is None else _without_times(shown, measured, others)
    footer = (*_ABOUT, *_times(costs, measured), *lacking)
    return Table("", "Methods: what they change and what they cost", (section,), footer)


def _times(costs: Path | None, measured: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Where times and memory come from, or how to get them."""
    if not measured:
        return ["Times and memory: vpbench measure --methods all --output FILE.parquet, then --costs FILE.parquet."]
    first = next(iter(measured.values()))
    place = str(first["device_name"])
    if first["device"] == "cpu":
        place += f", {counted(first['threads'], 'thread')}"
    how = f"{first['precision']}, steps of {first['train_batch']} images, {first['mem_kind']}"
    return [f"Times and memory: measured on {place}, {how} ({costs})."]


def _without_times(shown: Sequence[str], measured: Collection[str], others: Collection[str]) -> list[str]:
    """Which methods a file has with other options alone, and which it does not have."""
    changed = [label for label in shown if label in others]
    absent = [label for label in shown if label not in others and label not in measured]
    lines = [f"Measured with other options only, and left empty: {', '.join(changed)}."] if changed else []
    return lines + ([f"Not measured: {', '.join(absent)}."] if absent else [])


def _row(label: str, backbone: BackboneSpec, measured: Mapping[str, Any]) -> Row:
    name, _, preset = label.partition(":")
    method = method_class(name)
    sizes, changes = _counted(label, backbone.model_dump_json())
    numbers = {**sizes, **{column: measured.get(column) for column in ("train_ratio", "mem_train_peak")}}
    words = [str(method.year or ""), changes, "yes" if method.merge is not Method.merge else "no"]
    cells = [
        *(Cell(text) if text else Cell() for text in words),
        *(_number(numbers.get(column), unit, digits) for _, column, unit, digits in NUMBERS),
    ]
    return Row(GROUPS[method.group], RowKey(name, preset), tuple(cells))


def _number(value: float | None, unit: float, digits: int) -> Cell:
    if value is None or math.isnan(value):
        return Cell()
    return Cell(f"{value / unit:,.{digits}f}", mean=round(value / unit, 9), n=1)


@cache
def _counted(label: str, on: str) -> tuple[Mapping[str, Any], str]:
    """Sizes of a method on a backbone, and what it changes; the reason in its place where it does not work there.

    Args:
        on: the backbone's specification as JSON. Cached, as counting takes a second.
    """
    # Imported here: other reports need no torch.
    from vpbench.measure.operations import count_by_dispatch
    from vpbench.measure.size import parameter_counts
    from vpbench.models.build import build_empty
    from vpbench.models.changed_parts import changed_parts

    try:
        model = build_empty(resolve_method(label), BackboneSpec.model_validate_json(on), CLASSES, "meta")
    except (UnsupportedError, UsageError) as error:
        return {}, f"not here: {error}"
    changes, counts = ", ".join(changed_parts(model)), parameter_counts(model)
    return {**counts, **count_by_dispatch(model)}, changes


def _measured(path: Path, backbone: BackboneSpec) -> tuple[dict[str, dict[str, Any]], set[str]]:
    """Rows by the method's label, those that were measured with the method's own settings; and the labels of other rows.

    Raises:
        StoreError: when the file cannot be read as one of ``vpbench measure``.
        UsageError: when it is of another backbone.
    """
    rows = read_costs(path)
    places = {(row["backbone"], row["image_size"]) for row in rows}
    if places != {(backbone.name, backbone.image_size)}:
        named = ", ".join(f"{name} at {size} px" for name, size in sorted(places, key=str))
        raise UsageError(f"--costs {path} is of {named}, not of {backbone.name} at {backbone.image_size} px; see --backbone.")
    usual = {row["method"]: row for row in rows if _is_usual(row["method"], row)}
    return usual, {row["method"] for row in rows} - set(usual)


def _is_usual(label: str, row: Mapping[str, Any]) -> bool:
    """Whether a row was measured with the settings that a method has now."""
    try:
        return json.loads(row["method_config"]) == resolve_method(label).config
    except UsageError:
        return False
