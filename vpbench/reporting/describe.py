"""Methods, data sets, suites, backbones, searches and runs as plain data. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vpbench.backbones.named import backbone_card, backbone_names
from vpbench.core.errors import StoreError
from vpbench.core.names import unknown
from vpbench.data.catalog import dataset_card, dataset_names
from vpbench.models.registry import method_class, method_registry, resolve_method
from vpbench.planning.suites import suite_card, suite_names
from vpbench.reporting.row_labels import images_text, selection_text
from vpbench.search.space import read_space, space_names

KINDS = ("methods", "datasets", "suites", "backbones", "searches")

# The values of ``Method.fidelity`` and of the column ``fidelity``, in words.
_FIDELITY: Mapping[str, str] = MappingProxyType(
    {
        "paper": "follows the paper",
        "released-code": "follows the released code",
        "both-differ": "paper and released code differ; presets for both",
        "approximate": "approximates the paper",
    }
)


def fidelity_words(fidelity: str) -> str:
    """What a method follows where paper and released code differ, for readers; an unknown value stays as it is."""
    return _FIDELITY.get(fidelity, fidelity)


def in_words(facts: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of :func:`listing` or :func:`describe` for readers: words in place of codes. Programs use the entry itself."""
    found: dict[str, Any] = {}
    for name, value in facts.items():
        if name == "fidelity" and isinstance(value, str):
            found[name] = fidelity_words(value)
        elif name == "selection" and isinstance(value, str):
            found[name] = selection_text(value)
        elif name == "fit":
            found["trained_on"] = images_text(value)
        else:
            found[name] = value
    return found


def listing(kind: str) -> list[dict[str, Any]]:
    """One short entry per plug-in of a kind.

    Raises:
        UsageError: for an unknown kind.
    """
    makers: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "methods": lambda: [_method_line(name) for name in method_registry().names()],
        "datasets": lambda: [
            {
                "name": name,
                **dataset_card(name).model_dump(mode="json", include={"title", "group", "classes", "n_train", "n_val", "n_test"}),
            }
            for name in dataset_names()
        ],
        "suites": lambda: [
            {
                "name": name,
                "title": suite_card(name).title,
                "datasets": list(suite_card(name).datasets),
                "backbone": suite_card(name).backbone,
            }
            for name in suite_names()
        ],
        "backbones": lambda: [
            {
                "name": name,
                **backbone_card(name).model_dump(mode="json", include={"title", "parameters", "pretraining", "licence"}),
            }
            for name in backbone_names()
        ],
        "searches": lambda: [
            {"name": name, **read_space(name).card.model_dump(mode="json", include={"title", "description", "sampler"})}
            for name in space_names()
        ],
    }
    if kind not in makers:
        raise unknown("listing", kind, makers)
    return makers[kind]()


def _method_line(name: str) -> dict[str, Any]:
    method = method_class(name)
    return {
        "name": name, "group": method.group, "year": method.year or "unknown", "summary": method.summary,
        "presets": sorted(method.presets), "requires": list(method.requires), "fidelity": method.fidelity,
    }  # fmt: skip


def describe(kind: str, name: str, results: Path) -> dict[str, Any]:
    """Everything about one entry.

    Args:
        kind: method, dataset, suite, backbone, search or run.
        name: of the entry; for a run, its id or an unambiguous beginning of it.
        results: where a run's row is looked for.

    Raises:
        UsageError: for an unknown kind or name.
        StoreError: for a run that is not there, or an ambiguous beginning.
    """
    makers: dict[str, Callable[[], dict[str, Any]]] = {
        "method": lambda: _method(name),
        "dataset": lambda: dataset_card(name).model_dump(mode="json"),
        "suite": lambda: {"name": name, **suite_card(name).model_dump(mode="json")},
        "search": lambda: {"name": name, **read_space(name).card.model_dump(mode="json", exclude_none=True)},
        "backbone": lambda: {"name": name, **backbone_card(name).model_dump(mode="json", exclude_none=True)},
        "run": lambda: _run(name, results),
    }
    if kind not in makers:
        raise unknown("thing to show", kind, makers)
    return makers[kind]()


def _method(label: str) -> dict[str, Any]:
    spec = resolve_method(label)
    method = method_class(spec.name)
    fields = method.Config.model_fields
    return {
        "name": label,
        "title": method.title,
        "summary": method.summary,
        "paper": method.paper,
        "group": method.group,
        "year": method.year or "unknown",
        "fidelity": method.fidelity,
        "version": method.version,
        "families": sorted(method.families),
        "requires": list(method.requires) or "nothing",
        "notes": list(method.notes),
        "options": [
            {
                "option": option,
                "value": value,
                "meaning": fields[option].description,
                "source": (fields[option].json_schema_extra or {}).get("source", ""),  # type: ignore[union-attr]
            }
            for option, value in spec.config.items()
        ],
        "presets": [
            {
                "preset": f"{spec.name}:{name}",
                "summary": preset.summary,
                "settings": dict(preset.settings),
                "differences": [dict(zip(("topic", "default", "preset"), difference)) for difference in preset.differences],
            }
            for name, preset in method.presets.items()
        ],
    }


def _run(name: str, results: Path) -> dict[str, Any]:
    from vpbench.store.store import Store  # imports pandas, which lists do not need

    frame = Store(results).load()
    found = frame[frame["run_id"].str.startswith(name)] if len(frame) else frame
    if len(found) != 1:
        many = f"{len(found)} runs begin with '{name}'; use more digits" if len(found) else f"there is no run '{name}'"
        raise StoreError(f"{results}: {many} ({len(frame)} runs are stored there; --results chooses another folder).")
    row = json.loads(found.iloc[0].to_json(date_format="iso", double_precision=15))
    for column in ("spec", "method_config", "preprocess", "recipe"):
        row[column] = json.loads(row[column]) if row[column] else None
    return dict(row)
