"""Images that two splits have in common, and images that training has more than once.

They are compared by their identities: a hash of the content, for published sets of files the path and the size, since planning
does not read these.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vpbench.data.flaws import Flaw

PAIRS = (("val", "train"), ("test", "train"), ("test", "val"))


def count_shared(images: Sequence[str], others: Sequence[str]) -> int:
    """How many of ``images`` are among ``others``; a repeated one counts each time."""
    known = set(others)
    return sum(image in known for image in images)


def seen_test_images(text: str) -> list[str]:
    """Those sentences of :func:`overlap_notes` in a text that are about test images, which training or a choice has seen."""
    return re.findall(r"Also in (?:train|val): \d+ of \d+ test images\.", text)


def overlap_notes(splits: Mapping[str, Any]) -> list[Flaw]:
    """Sentences on all pairs of splits with images in common, and on repeated training images; none where all differ.

    Args:
        splits: of :class:`vpbench.data.raw.RawSplit`, by name.
    """
    notes = [
        Flaw(f"Also in {other}: {count} of {len(splits[split])} {split} images.")
        for split, other in PAIRS
        if (count := count_shared(splits[split].identities, splits[other].identities))
    ]
    train = splits["train"]
    first: dict[str, int] = {}
    repeats = conflicts = 0
    for image, label in zip(train.identities, train.labels.tolist()):
        if image in first:
            repeats, conflicts = repeats + 1, conflicts + (first[image] != label)
        first.setdefault(image, label)
    if repeats:
        wrong = f", {conflicts} of them with another class" if conflicts else ""
        notes.append(Flaw(f"Repeated within train: {repeats} of {len(train)} images{wrong}."))
    return notes
