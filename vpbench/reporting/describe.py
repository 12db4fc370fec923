"""Methods, data sets, suites, backbones, searches and runs as plain data. Imports no torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from vpbench.backbones.named import backbone_card, backbone_names, resolve_backbone
from vpbench.core.errors import UsageError
from vpbench.core.names import unknown
from vpbench.core.user_warning import warn
from vpbench.data.catalog import dataset_card, dataset_names
from vpbench.interface import Method
from vpbench.models.registry import method_class, options_by_method, resolve_method, working_methods
from vpbench.planning.suites import suite_card, suite_names
from vpbench.reporting.definition import listed_tables
from vpbench.reporting.row_labels import images_text, selection_text
from vpbench.search.space import read_space, space_names
from vpbench.spec.decoding_rule import OWN_DECODING
from vpbench.spec.run_spec import BackboneSpec, MethodSpec

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
        elif name == "preprocess" and isinstance(value, Mapping):  # a suite's; decoding is on the cards of data sets
            found[name] = {key: each for key, each in value.items() if key not in OWN_DECODING}
        elif name == "parameter_counts":
            found[name] = {key: _with_separators(each) for key, each in value.items()}
        elif name == "parameters_by_tensor":
            found[name] = [{key: _with_separators(each) for key, each in group.items()} for group in value]
        else:
            found[name] = value
    return found


def without_empty(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Without values that say nothing: None and empty texts and lists. False and 0 stay."""
    within = {name: without_empty(value) if isinstance(value, Mapping) else value for name, value in facts.items()}
    return {name: value for name, value in within.items() if value is not None and (not hasattr(value, "__len__") or len(value))}


def _with_separators(value: Any) -> str:
    """A number in groups of three digits; yes or no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def listing(kind: str, group: str | None = None) -> list[dict[str, Any]]:
    """One short entry per plug-in of a kind; a warning of one line names each that is broken.

    Args:
        group: of methods; None for all.

    Raises:
        UsageError: for an unknown kind or group, or a group of something else than methods.
    """
    if group is not None and kind != "methods":
        raise UsageError(f"--group {group}: methods have groups, {kind} have none.")
    makers: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "methods": lambda: [_method_line(name, method) for name, method in working_methods(group)],
        "datasets": lambda: _lines(dataset_names(), dataset_card, "title group classes n_train n_val n_test"),
        "suites": lambda: _lines(suite_names(), suite_card, "title datasets backbone"),
        "backbones": lambda: _lines(backbone_names(), backbone_card, "title parameters pretraining licence"),
        "searches": lambda: _lines(space_names(), lambda name: read_space(name).card, "title description sampler"),
        "tables": listed_tables,
    }
    if kind not in makers:
        raise unknown("listing", kind, makers)
    return makers[kind]()


def _lines(names: Iterable[str], read: Callable[[str], BaseModel], fields: str) -> list[dict[str, Any]]:
    """These fields of every card, in this order."""
    found = []
    for name in names:
        try:
            card = read(name).model_dump(mode="json")
        except UsageError as error:
            warn(f"{error} It is left out.")
        else:
            found.append({"name": name, **{field: card[field] for field in fields.split()}})
    return found


def _method_line(name: str, method: type[Method[Any]]) -> dict[str, Any]:
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
        "method": lambda: describe_method(name),
        "dataset": lambda: dataset_card(name).model_dump(mode="json"),
        "suite": lambda: {"name": name, **suite_card(name).model_dump(mode="json")},
        "search": lambda: {"name": name, **read_space(name).card.model_dump(mode="json", exclude_none=True)},
        "backbone": lambda: {"name": name, **backbone_card(name).model_dump(mode="json", exclude_none=True)},
        "run": lambda: _run(name, results),
    }
    if kind not in makers:
        raise unknown("thing to show", kind, [*makers, "recipe"])
    return makers[kind]()


def describe_method(
    label: str, settings: Mapping[str, Any] | None = None, backbone: str | None = None, image_size: int | None = None,
    classes: int = 100,
) -> dict[str, Any]:  # fmt: skip
    """Everything about one method.

    Args:
        label: ``name`` or ``name:preset``.
        settings: options that differ from the preset's, ``{"vpt.prompt_length": 50}``.
        backbone: on which parameters are counted, without its weights; None for no counts.
        image_size: of the backbone, pixels; None for that of pretraining.
        classes: of the head.

    Raises:
        UsageError: for an unknown name, or an option that does not fit.
        UnsupportedError: when the method does not work on the backbone.
    """
    options = options_by_method(settings or {}, [label], "show method").get(label.partition(":")[0])
    spec = resolve_method(label, options)
    method = method_class(spec.name)
    fields = method.Config.model_fields
    counted = {} if backbone is None else _parameters(spec, resolve_backbone(backbone, "random", image_size), classes)
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
        "parameter_formula": parameter_formula(method),
        **counted,
        "notes": list(method.notes),
        "options": [
            {
                "option": option,
                "value": value,
                "meaning": fields[option].description,
                "source": option_source(method, spec.preset, option),
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


def option_source(method: type[Method[Any]], preset: str | None, option: str) -> str:
    """Where an option's value comes from: the preset that sets it, or what the default is from."""
    if preset and option in method.presets[preset].settings:
        return f"the preset {preset}: {method.presets[preset].summary}"
    return str((method.Config.model_fields[option].json_schema_extra or {}).get("source", ""))  # type: ignore[union-attr]


def parameter_formula(method: type[Method[Any]]) -> str:
    """How many parameters a method has: the paragraph of its docstring that begins so; empty where there is none."""
    paragraphs = (inspect.cleandoc(method.__doc__ or "")).split("\n\n")
    found = next((each for each in paragraphs if each.startswith("Parameters")), "")
    return " ".join(found.removeprefix("Parameters:").replace("``", "").split())


def _parameters(method: MethodSpec, backbone: BackboneSpec, classes: int) -> dict[str, Any]:
    """Parameters on a backbone: their sums, then tensor by tensor."""
    from vpbench.measure.size import parameter_counts, parameter_groups  # imports torch
    from vpbench.models.build import build_empty

    model = build_empty(method, backbone, classes, "meta")
    names = {
        "trained": "params_trainable", "of_the_method": "params_method", "active": "params_active", "of_the_head": "params_head"
    }  # fmt: skip
    counts = parameter_counts(model)
    return {
        "parameter_counts": {
            "backbone": backbone.name, "image_size": backbone.image_size, "classes": classes,
            **{name: counts[column] for name, column in names.items()},
        },
        "parameters_by_tensor": [
            {
                "tensor": group.name, "shapes": group.formula, "parameters": group.parameters,
                "trained": group.trained,
            }
            for group in parameter_groups(model)
        ],
    }  # fmt: skip


def _run(name: str, results: Path) -> dict[str, Any]:
    from vpbench.reporting.describe_run import describe_run  # imports pandas, which lists do not need

    return describe_run(name, results)
