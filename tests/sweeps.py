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
# Of these, for what takes long or is much the same for each.
FEW = {"linear", "vpt", "e2vpt", "dam_vp"}


def case(label: str, *others: Any, always: Iterable[str] = REPRESENTATIVE) -> Any:
    """A parameter set of one sweep: ``label`` names a method or preset, ``others`` follow it in the test's arguments."""
    return pytest.param(label, *others, id="-".join(map(str, (label, *others))), marks=marks(label, always=always))


def marks(label: str, always: Iterable[str] = REPRESENTATIVE) -> tuple[pytest.MarkDecorator, ...]:
    return () if label in always else (pytest.mark.sweep,)


def some(cases: Iterable[Any], count: int) -> list[Any]:
    """Parameters of a check that many cases repeat: ``count`` of them, evenly spread over the list, always run.

    As for ``parametrize``, a case is a tuple where the test has several arguments.
    """
    found = list(cases)
    often = {place * len(found) // count for place in range(count)}
    return [each if place in often else _swept(each) for place, each in enumerate(found)]


def _swept(each: Any) -> Any:
    """A parameter set as it is given to ``parametrize``, for the sweep only."""
    if isinstance(each, type(pytest.param())):
        return each._replace(marks=(*each.marks, pytest.mark.sweep))
    return pytest.param(*(each if isinstance(each, tuple) else (each,)), marks=pytest.mark.sweep)
