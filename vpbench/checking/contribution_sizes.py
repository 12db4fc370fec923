"""Parameters and operations of rows to publish, beside what vpbench counts for the same model; nothing is computed for that."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from vpbench.measure.operations import count_plain
from vpbench.measure.size import parameter_counts, parameters_by_part
from vpbench.models.build import build_empty, needs_classifier
from vpbench.models.registry import method_class
from vpbench.spec.run_spec import BackboneSpec, RunSpec

_COUNTED = ("params_trainable", "params_method", "params_head", "params_total")  # params_active depends on what was pruned


class Sizes:
    """What vpbench counts. Every model is built once, as a file has thousands of rows."""

    def __init__(self) -> None:
        self._models: dict[tuple[str, ...], dict[int, dict[str, int]]] = {}  # by what makes a model, and by classes
        self._plain: dict[str, int] = {}

    def faults(self, row: Mapping[str, Any], spec: RunSpec) -> Iterator[str]:
        """Sentences on columns of a run that is ok, and that are not of the model that its specification describes.

        A model that cannot be built here is not looked at: with another version of its method, with a classifier that its weights
        bring, or with a library that is not installed.
        """
        found = _recorded(row)
        for name, count in self._counted(spec, row["classes"], found).items():
            if found.get(name) != count and (row["params_by_part"] is not None or name in _COUNTED):
                yield f"its {name} is {found.get(name)}, and vpbench counts {count}"
        least = self._plain_flops(spec.backbone)
        if row["flops_forward"] is not None and row["flops_forward"] < least:
            yield f"its flops_forward is {row['flops_forward']}, less than the {least} of its backbone"

    def _counted(self, spec: RunSpec, classes: int, found: Mapping[str, int]) -> dict[str, int]:
        """The counts; nothing where those that were found are on the line through the counts of two other numbers of classes."""
        method = spec.method.model_dump_json(exclude={"preset", "hashed_names"})
        known = self._models.setdefault((method, _backbone_key(spec.backbone), spec.task.model_dump_json()), {})
        if classes not in known:
            if _on_line(known, classes, found):
                return {}
            known[classes] = _count(spec, classes)
        return known[classes]

    def _plain_flops(self, backbone: BackboneSpec) -> int:
        key = _backbone_key(backbone)
        if key not in self._plain:
            self._plain[key] = 0
            with suppress(Exception):  # a backbone that is not here
                self._plain[key] = count_plain(backbone)
        return self._plain[key]


def _backbone_key(backbone: BackboneSpec) -> str:
    return backbone.model_dump_json(exclude={"weights", "sha256", "path"})


def _recorded(row: Mapping[str, Any]) -> dict[str, Any]:
    """The counts of a row, those of parts among them."""
    return {**{name: row[name] for name in _COUNTED}, **_parts(json.loads(row["params_by_part"] or "{}"))}


def _parts(counts: Mapping[str, int]) -> dict[str, int]:
    return {f"params_by_part of '{part}'": count for part, count in counts.items()}


def _on_line(known: Mapping[int, Mapping[str, int]], classes: int, found: Mapping[str, int]) -> bool:
    """Whether counts grow with the classes as those of two models do: nearly all methods have the classes in the head alone."""
    if len(known) < 2:
        return False
    (few, first), (many, second) = sorted(known.items())[:2]
    line = {name: first[name] + (second.get(name, 0) - first[name]) * (classes - few) / (many - few) for name in first}
    return all(found.get(name) == count for name, count in line.items())


def _count(spec: RunSpec, classes: int) -> dict[str, int]:
    with suppress(Exception):  # of a library's, or of a method's own code
        if spec.method.version == method_class(spec.method.name).version and not needs_classifier(spec.method):
            model = build_empty(spec.method, spec.backbone, classes, "meta", spec.task)
            counts = parameter_counts(model)
            return {**{name: counts[name] for name in _COUNTED}, **_parts(parameters_by_part(model))}
    return {}
