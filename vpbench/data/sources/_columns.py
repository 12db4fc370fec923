"""Which columns of a user's parquet file hold images, labels and splits, and how classes are called."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vpbench.core.errors import DataError
from vpbench.data.sources._assemble import Keys
from vpbench.data.target import Target

MEANINGS = {
    "image": "with encoded images (bytes, or a struct with bytes)",
    "label": "with a class number or name",
    "mask": "with encoded masks (bytes, or a struct with bytes)",
    "split": "with train, val or test",
}
# What data sets on the Hugging Face hub call them; the first one that is there is used.
ROLES: dict[Target, str] = {"class": "label", "mask": "mask"}
USUAL = {
    "image": ("image", "img"),
    "label": ("label", "labels", "fine_label"),
    "mask": ("mask", "masks", "annotation", "label", "labels", "segmentation", "segmentation_mask", "semantic_segmentation"),
    "split": ("split",),
}


@dataclass(frozen=True)
class Columns:
    """Names of columns; ``label`` has the labels or the masks, as ``target`` says; ``split`` is None where the files' names say
    it. ``note`` is empty unless one was guessed; ``needed`` are those of the given names without which others would be read."""

    image: str
    label: str
    split: str | None
    note: str = ""
    target: Target = "class"
    needed: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Those that are read."""
        return [name for name in (self.image, self.label, self.split) if name is not None]


def choose_columns(
    schema: pa.Schema, given: Mapping[str, str], file: Path | str, *, with_split: bool, target: Target = "class"
) -> Columns:  # fmt: skip
    """See :func:`_chosen`, whose arguments and errors are the same; with the names that were needed for this choice."""

    def choice(names: Mapping[str, str]) -> Columns:
        return _chosen(schema, names, file, with_split=with_split, target=target)

    chosen, needed = choice(given), dict(given)
    for role in sorted(given):
        fewer = {other: name for other, name in needed.items() if other != role}
        with suppress(DataError):
            if choice(fewer).names == chosen.names:
                needed = fewer
    return replace(chosen, needed=needed)


def _chosen(
    schema: pa.Schema, given: Mapping[str, str], file: Path | str, *, with_split: bool, target: Target
) -> Columns:  # fmt: skip
    """The columns that ``given`` names, else those of the usual names, else the only one of the right type.

    Args:
        schema: of the file.
        given: names by ``image``, ``label`` or ``mask``, and ``split``.
        with_split: whether a column must say the split.
        target: whether images have labels or masks.

    Raises:
        DataError: when a column does not exist, or which one is meant cannot be known.
    """
    images, wanted = image_columns(schema), ROLES[target]
    candidates = {"image": images, "label": list(_class_labels(schema)), "split": []}
    roles = ["image", wanted, *(["split"] if with_split or "split" in given else [])]
    if strange := given.keys() - {"split", *roles}:
        raise DataError(f"{file}: --columns {strange.pop()}=NAME does not go with this task, which reads a column '{wanted}'.")
    image = given.get("image") or _usual("image", schema, images)
    candidates["mask"] = [name for name in images if name != image]
    chosen = {"image": image, **{role: given.get(role) or _usual(role, schema, candidates[role]) for role in roles[1:]}}
    for role, name in chosen.items():
        if name not in schema.names:
            lacks = f"{file} has no column '{name if role in given else role}' (it has {', '.join(schema.names)})"
            if role in given:
                raise DataError(f"{lacks}; correct --columns.")
            raise DataError(f"{lacks}; add or rename one, {MEANINGS[role]}, or name it with --columns {role}=NAME.")
    if len({*chosen.values()}) < len(chosen):
        both = ", ".join(f"{role} = {name}" for role, name in chosen.items())
        raise DataError(f"{file}: one column cannot be two things ({both}); choose another with --columns.")
    guessed = [f"{role} = {name}" for role, name in chosen.items() if role not in given and name != role]
    others = [name for name in candidates["label"] if name != chosen[wanted]]
    also = f"; other labels: {', '.join(others)}" if others else ""
    note = f"Columns: {', '.join(guessed)}{also}; choose with --columns." if guessed else ""
    return Columns(str(chosen["image"]), str(chosen[wanted]), chosen.get("split"), note, target)


def class_names(schema: pa.Schema, label: str) -> list[str]:
    """Class names in a schema's metadata: ``class_names``, or Hugging Face's ``ClassLabel``; empty if there are none."""
    own = _parsed(schema, b"class_names")
    names = own if own is not None else _class_labels(schema).get(label)
    return [str(name) for name in names] if isinstance(names, list) else []


def name_of(names: list[str], keys: Keys, origin: str) -> Callable[[int | str], str]:
    """Class name of a label: text itself; for integers an entry of ``names``, if there are any.

    Raises:
        DataError: for a label without a name.
    """
    if not names or keys.dtype.kind != "i":
        return str
    for key in np.unique(keys).tolist():
        if not 0 <= key < len(names):
            raise DataError(
                f"{origin}: label {key} has no name among the {len(names)} class names of the file's metadata; correct one."
            )
    return lambda key: names[int(key)]


def is_image_type(kind: pa.DataType) -> bool:
    """Bytes, or a struct with bytes."""
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return True
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _usual(role: str, schema: pa.Schema, candidates: list[str]) -> str | None:
    usual = [name for name in USUAL[role] if name in schema.names]
    return usual[0] if usual else candidates[0] if len(candidates) == 1 else None


def image_columns(schema: pa.Schema) -> list[str]:
    """The columns that can hold encoded images."""
    return [field.name for field in schema if is_image_type(field.type)]


def _class_labels(schema: pa.Schema) -> dict[str, Any]:
    """The names of every ClassLabel among Hugging Face's features."""
    features = _parsed(schema, b"huggingface")
    for step in ("info", "features"):
        features = features.get(step) if isinstance(features, dict) else None
    if not isinstance(features, dict):
        return {}
    return {
        column: feature["names"]
        for column, feature in features.items()
        if isinstance(feature, dict) and "names" in feature and column in schema.names
    }


def _parsed(schema: pa.Schema, key: bytes) -> Any:
    """A JSON value in the metadata; None if it is not there or invalid."""
    try:
        return json.loads((schema.metadata or {}).get(key, b"null"))
    except ValueError:
        return None
