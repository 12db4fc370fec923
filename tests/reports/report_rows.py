"""Plausible rows and features for a results folder."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from vpbench.core.hashing import digest
from vpbench.reporting.row_labels import row_labels, section_titles
from vpbench.reporting.table import Section, Table
from vpbench.store.schema import COLUMNS, SCHEMA
from vpbench.store.store import Store

DATA_SETS = {"digits": ("natural", 10), "sprites_location": ("structured", 16), "flowers": ("natural", 12)}
RECIPE = {"optimizer": "sgd", "lr": 0.25, "batch_size": 64, "epochs": 12}
PREPROCESS = {"resize": "stretch", "interpolation": "bicubic", "random_flip": False, "normalisation": "weights"}
OPTIONS = {"prompt_length": 10, "deep": True}
START = datetime(2025, 1, 1, tzinfo=UTC)


def make_row(
    method: str = "vpt",
    dataset: str = "digits",
    seed: int = 0,
    acc1: float | None = 80.0,
    options: dict[str, Any] | None = None,
    recipe: dict[str, Any] | None = None,
    preprocess: dict[str, Any] | None = None,
    minutes: int = 0,
    **columns: Any,
) -> dict[str, Any]:
    """One row. ``options``, ``recipe`` and ``preprocess`` change the usual ones; ``columns`` override anything."""
    group, classes = DATA_SETS.get(dataset, ("natural", 10))
    fitted = {**RECIPE, **(recipe or {})}
    row = {
        "status": "ok" if acc1 is not None else "diverged",
        "started_at": START + timedelta(minutes=minutes),
        "method": method,
        "method_version": 1,
        "method_config": json.dumps({} if method == "linear" else {**OPTIONS, **(options or {})}),
        "backbone": "vit-nano",
        "weights": "embedded",
        "weights_sha256": "5a" * 32,
        "image_size": 48,
        "suite": "mini",
        "dataset": dataset,
        "dataset_group": group,
        "data_digest": digest(dataset),
        "preprocess": json.dumps({**PREPROCESS, **(preprocess or {})}),
        "classes": classes,
        "n_train": 800,
        "n_val": 200,
        "n_test": 500,
        "seed": seed,
        "recipe": json.dumps(fitted),
        "recipe_source": "VPT's released code",
        "lr": fitted["lr"],
        "epochs": fitted["epochs"],
        "precision": "fp32",
        "selection": "last",
        "acc1": acc1,
        "params_trainable": 192 * classes + (0 if method == "linear" else 7680),
        "flops_forward": 250_000_000 if method == "linear" else 291_000_000,
        "vpbench_version": "0.1.0",
        "git_commit": "84f0aa23055671984ce496cde26053e3bfdde831",
        "git_dirty": False,
        **columns,
    }
    return {"run_id": digest(str(row)), **row}


def fill(folder: Path, *rows: dict[str, Any]) -> Store:
    """A store that holds the rows."""
    store = Store(folder)
    for row in rows:
        store.write_row(row)
    return store


def frame_of(*rows: dict[str, Any]) -> pd.DataFrame:
    """What a store that holds the rows loads, without the disk."""
    return pa.Table.from_pylist([{name: row.get(name) for name in COLUMNS} for row in rows], schema=SCHEMA).to_pandas()


def grid() -> list[dict[str, Any]]:
    """Three methods, three data sets, two seeds; every cell filled."""
    base = {"linear": 60.0, "vpt": 80.0, "insvp": 82.0}
    return [
        make_row(method, dataset, seed, score + 3 * place + 0.4 * seed, recipe_source=f"{method}'s paper, table 4")
        for method, score in base.items()
        for place, dataset in enumerate(DATA_SETS)
        for seed in (0, 1)
    ]


def save_features(store: Store, run_id: str, features: Any, labels: Any, indices: Any = None) -> None:
    """Store features as a run does."""
    indices = np.arange(len(labels)) if indices is None else np.asarray(indices)
    arrays = {
        "features": np.asarray(features, dtype=np.float16),
        "labels": np.asarray(labels, dtype=np.int64),
        "indices": indices.astype(np.int64),
    }

    def write(path: Path) -> None:
        with path.open("wb") as stream:
            np.savez(stream, **arrays)

    store.write_artefact(run_id, "features.npz", write)


def clusters(classes: int, per_class: int, width: int, spread: float, seed: int = 0) -> tuple[Any, Any]:
    """Features (n, width) around one random centre per class, and labels (n,)."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    centres = generator.normal(size=(classes, width))
    return centres[labels] + spread * generator.normal(size=(len(labels), width)), labels


def labels_of(section: Section) -> list[str]:
    """The labels of a section's rows."""
    labels = row_labels(row.key for row in section.rows)
    return [labels[row.key] for row in section.rows]


def title_of(section: Section, table: Table) -> str:
    """The title that a table prints above one of its sections."""
    titles = section_titles({*(other.key for other in table.sections if other.key), *table.others})
    return ": ".join(filter(None, (section.caption, titles[section.key] if section.key else "")))
