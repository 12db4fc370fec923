"""What a protocol does with a data set's own splits. All draws are seeded, so that every machine has the same splits."""

from __future__ import annotations

import hashlib

import numpy as np

from vpbench.data.raw import SPLITS, PartialSplit, RawData
from vpbench.data.splitting import few_per_class, hold_out_exactly

SEED = 0


def with_validation(raw: RawData, count: int) -> RawData:
    """``count`` training images become validation images, every class in about its share."""
    train = raw.splits["train"]
    kept, held = hold_out_exactly(train.labels, count, SEED)
    return raw.with_splits(train=PartialSplit([train], kept), val=PartialSplit([train], held))


def with_all_for_training(raw: RawData) -> RawData:
    """Train and validation images together are trained on; nothing is left to validate with (VTAB-1k's last step)."""
    train, val = raw.splits["train"], raw.splits["val"]
    both = PartialSplit([train, val], np.arange(len(train) + len(val)))
    return raw.with_splits(train=both, val=PartialSplit([val], np.empty(0, np.int64)))


def with_few_shots(raw: RawData, shots: int) -> RawData:
    """``shots`` training images of every class; validation and test images stay."""
    train = raw.splits["train"]
    return raw.with_splits(train=PartialSplit([train], few_per_class(train.labels, shots, SEED)))


def split_sha256(raw: RawData) -> str:
    """sha256 of the split list: one line ``split<TAB>image<TAB>class`` per image, in the order of the splits, images sorted."""
    lines = [
        f"{split}\t{name}\t{raw.class_names[label]}\n"
        for split in SPLITS
        for name, label in sorted(
            (raw.splits[split].short_name(index), int(raw.splits[split].labels[index])) for index in range(len(raw.splits[split]))
        )
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
