"""A stored run: its whole row as data, and in the order in which a person asks for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from vpbench.reporting.quantities import quantity
from vpbench.reporting.repeat_command import Plans, repeat_command
from vpbench.reporting.row_labels import selection_text
from vpbench.reporting.settings import settings_in
from vpbench.store.find_run import find_run_id
from vpbench.store.schema import COLUMNS
from vpbench.store.store import Store

# What a person sees of a run, in this order; what is in no block comes with the environment.
_BLOCKS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "run": (
            *("run_id", "status", "error", "method", "dataset", "suite", "task", "backbone", "image_size", "seed", "stage"),
            *("trained_run", "trained_on", "interpolation", "started_at", "wall_s"),
        ),
        "result": (
            *("score", "val_score", "acc5", "mean_per_class", "macc", "aacc", "iou_per_class", "miou_ms", "macc_ms", "aacc_ms"),
            *("correct", "correct5", "total", "val_correct", "selection", "selected_epoch", "train_loss"),
        ),
        "cost": (
            *("params_trainable", "params_method", "params_active", "params_head", "params_total", "bytes_saved"),
            *(name for name in COLUMNS if name.startswith(("flops_", "macs_", "latency_", "throughput", "mem_", "energy_"))),
            *("train_step_ms", "train_images_per_s", "prepare_s"),
        ),
        "data": ("classes", "n_train", "n_val", "n_test", "dataset_group", "data_path", "data_digest"),
    }
)
# Settings, each a block of its own.
_SETTINGS: Mapping[str, str] = MappingProxyType(
    {"method_config": "options", "recipe": "recipe", "preprocess": "preprocessing", "search": "search"}
)
# Said elsewhere: in the recipe, as the score, or in the blocks together.
_AGAIN = frozenset(
    {"spec", "optimizer", "lr", "weight_decay", "epochs", "batch_size", "metric", "acc1", "miou", "val_acc1", "params_by_part"}
)


def describe_run(name: str, results: Path) -> dict[str, Any]:
    """A run's whole row, and the command that repeats it.

    Args:
        name: its id, or an unambiguous beginning of it.

    Raises:
        StoreError: for a run that is not there, or an ambiguous beginning.
    """
    store = Store(results)
    frame = store.load()
    found = frame[frame["run_id"] == find_run_id(store, name, frame["run_id"].tolist())]
    row = json.loads(found.iloc[0].to_json(date_format="iso", double_precision=15))
    for column in ("spec", "method_config", "preprocess", "recipe"):
        row[column] = settings_in(row[column]) or None
    command = repeat_command(found.iloc[0].to_dict(), Plans())
    notes = {"repeat_notes": list(command.notes)} if command.notes else {}
    return {**row, "repeat_with": command.line, **notes}


def for_readers(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`describe_run` has found, for a person: what ran, its result, its cost, the settings and the environment, each
    once and with its unit, and nothing that is empty. Programs use the facts themselves."""
    in_blocks = {name for names in _BLOCKS.values() for name in names} | _SETTINGS.keys() | _AGAIN
    in_blocks |= {"repeat_with", "repeat_notes"}
    shown: dict[str, Any] = {
        title: {_title(name, facts): _text(name, facts[name]) for name in names if not _is_empty(facts.get(name))}
        for title, names in _BLOCKS.items()
    }
    for column, title in _SETTINGS.items():
        found = facts.get(column)
        found = settings_in(found) if isinstance(found, str) else found
        shown[title] = {name: value for name, value in (found or {}).items() if not _is_empty(value)}
    others = [name for name in facts if name not in in_blocks and not _is_empty(facts[name])]
    shown["environment"] = {name: _text(name, facts[name]) for name in others}
    shown = {title: block for title, block in shown.items() if block}
    return {**shown, **{name: facts[name] for name in ("repeat_with", "repeat_notes") if name in facts}}


def _title(name: str, facts: Mapping[str, Any]) -> str:
    """A score by the name of the metric that it is; what is no error as a warning."""
    if name in ("score", "val_score") and (metric := facts.get("metric")):
        return str(metric) if name == "score" else f"val_{metric}"
    return "warning" if name == "error" and facts.get("status") == "ok" else name


def _text(name: str, value: Any) -> str:
    if name == "started_at":
        return quantity(name, pd.Timestamp(value))
    if name == "selection":
        return selection_text(value)
    return " ".join(str(value).split()) if isinstance(value, str) else quantity(name, value)


def _is_empty(value: Any) -> bool:
    return value is None or value == "" or value == [] or value == {}
