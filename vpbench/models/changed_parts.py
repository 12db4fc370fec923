"""What a method changes of a model, in words, as the built model shows it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from vpbench.interface import Method
from vpbench.models.prompted import PromptedModel


def changed_parts(model: PromptedModel) -> list[str]:
    """From the pixels to the head: sites by the names of :class:`vpbench.interface.Scope`, in the order of the model."""
    method = type(model.method)
    found = ["pixels"] if method.pixels is not Method.pixels else []
    if method.before_block is not Method.before_block or method.after_block is not Method.after_block:
        found.append("tokens")
    found += model.scope.changed
    found += _trained(model)
    if method.readout is not Method.readout:
        found.append("features of the head")
    if method.predict is not Method.predict:
        found.append("passes per prediction")
    return found or ["head alone"]


def _trained(model: PromptedModel) -> Iterator[str]:
    """What is trained inside the backbone."""
    trained, every = set(model.scope.trained), set(model.scope.parameters())
    if not trained:
        return
    if trained == every:
        yield "all parameters"
        return
    blocks = {match[0] for name in every if (match := re.match(r"(layers\.\d+\.)?blocks\.\d+\.", name))}
    whole = [block for block in blocks if {name for name in every if name.startswith(block)} <= trained]
    if whole:
        yield f"{len(whole)} whole block{'s' if len(whole) > 1 else ''}"
    left = {name for name in trained if not name.startswith(tuple(whole) or "no block")}
    kinds = {
        "norms": {name for name in left if "norm" in name},
        "biases": {name for name in left if name.endswith("bias") and "norm" not in name},
        "class token": {name for name in left if name.endswith("cls_token")},
    }
    yield from (kind for kind, names in kinds.items() if names)
    if left.difference(*kinds.values()):
        yield "weights"
