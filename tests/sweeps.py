"""Which cases of a sweep over the registry always run, and which only with ``make test-all``.

Every method is tested by existing, and each costs a second or more per sweep. What a method promises by itself (the contract on a
plain ViT) always runs, so that a new one is never overlooked. Where a sweep looks at the engine through the methods (devices,
resuming, counting, other backbones), methods that use it in the same way repeat each other; one of each kind is enough every day.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

# One for each thing that a method can do to the engine.
REPRESENTATIVE = {
    "linear",  # features computed once
    "vpt",  # prompt tokens
    "insvp",  # pixels, and prompts per image
    "ivpt",  # reads the class token's attention
    "lora",  # edits linear layers, merged
    "adapter",  # edits a branch
    "full",  # trains the backbone itself
    "e2vpt",  # several phases
    "sct",  # looks at training images beforehand
    "dam_vp",  # two passes per image
    "ilm_vp",  # no head of its own
}


def case(label: str, *others: Any, always: Iterable[str] = REPRESENTATIVE) -> Any:
    """A parameter set of one sweep: ``label`` names a method or preset, ``others`` follow it in the test's arguments."""
    return pytest.param(label, *others, id="-".join(map(str, (label, *others))), marks=marks(label, always=always))


def marks(label: str, always: Iterable[str] = REPRESENTATIVE) -> tuple[pytest.MarkDecorator, ...]:
    return () if label in always else (pytest.mark.sweep,)
