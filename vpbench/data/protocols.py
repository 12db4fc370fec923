"""Splits that a protocol derives from those of a data set. All draws have fixed seeds, so that splits are the same everywhere."""

from __future__ import annotations

import hashlib

import numpy as np

from vpbench.data.raw import SPLITS, PartialSplit, RawData
from vpbench.data.splitting import few_per_class, hold_out_exactly

SEED = 0


def with_validation(raw: RawData, count: int) -> RawData:
    """Stratified hold-out: ``count`` training images become validation images."""
    train = raw.splits["train"]
    kept, held_out = hold_out_exactly(train.labels, count, SEED)
    return raw.with_splits(train=PartialSplit([train], kept), val=PartialSplit([train], held_out))


def with_all_for_training(raw: RawData) -> RawData:
    """Training on train and validation images; the validation split is empty (VTAB-1k's final run)."""
    train, val = raw.splits["train"], raw.splits["val"]
    both = PartialSplit([train, val], np.arange(len(train) + len(val)))
    return raw.with_splits(train=both, val=PartialSplit([val], np.empty(0, np.int64)))


def with_few_shots(raw: RawData, shots: int, draw: int = SEED) -> RawData:
    """``shots`` training images of every class, or in all where images have masks; validation and test splits are unchanged.

    Args:
        draw: seed of the draw; with the same one, the images of fewer shots are among those of more.
    """
    train = raw.splits["train"]
    return raw.with_splits(train=PartialSplit([train], few_per_class(train.labels, shots, draw)))


def split_sha256(raw: RawData) -> str:
    """sha256 of the split list: one line ``split<TAB>image<TAB>class`` per image, in the order of the splits, images sorted.

    The class is empty where images have masks.
    """
    lines = [
        f"{split}\t{name}\t{'' if raw.has_masks else raw.class_names[label]}\n"
        for split in SPLITS
        for name, label in sorted(
            (raw.splits[split].short_name(index), int(raw.splits[split].labels[index])) for index in range(len(raw.splits[split]))
        )
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
