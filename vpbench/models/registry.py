"""Methods by name. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import ValidationError

from vpbench.core.cards import first_error
from vpbench.core.errors import UsageError
from vpbench.core.names import unknown
from vpbench.core.plugins import Registry, subclass_in
from vpbench.interface import Method
from vpbench.interface.config import renamed_options
from vpbench.interface.method import Group
from vpbench.spec.run_spec import MethodSpec


def method_registry() -> Registry[type[Method[Any]]]:
    """Every file in ``methods/``, and the entry points of the group ``vpbench.methods``."""
    return Registry("method", "vpbench.methods", subclass_in(Method), group="vpbench.methods")


def method_class(name: str) -> type[Method[Any]]:
    """The class of a method.

    Raises:
        UsageError: for an unknown name, with a suggestion.
    """
    return method_registry().get(name)


def expand_labels(labels: Sequence[str]) -> list[str]:
    """Labels of methods, each once, with ``all`` and ``group:NAME`` replaced by the methods that they stand for.

    Raises:
        UsageError: when there is no label, or for an unknown group.
    """
    if not labels:
        raise UsageError("--methods names no method; vpbench list methods shows them.")
    found: list[str] = []
    for label in labels:
        if label == "all":
            found += method_registry().names()
        elif label.startswith("group:"):
            found += names_in_group(label.removeprefix("group:"))
        else:
            found.append(label)
    return list(dict.fromkeys(found))


def names_in_group(group: str) -> list[str]:
    """Names of the methods of a group.

    Raises:
        UsageError: for an unknown group, with a suggestion.
    """
    if group not in get_args(Group):
        raise unknown("group of methods", group, get_args(Group))
    return [name for name in method_registry().names() if method_class(name).group == group]


def options_by_method(settings: Mapping[str, Any], labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """``{"vpt.prompt_length": 50}`` as ``{"vpt": {"prompt_length": 50}}``.

    Args:
        labels: the methods that are asked for; a setting of another one is an error.

    Raises:
        UsageError: for a name that is no option of one of them.
    """
    asked = {label.partition(":")[0] for label in labels}
    options: dict[str, dict[str, Any]] = {}
    for name, value in settings.items():
        method, dot, option = name.partition(".")
        if not dot or "." in option:
            raise UsageError(f"--set {name}: write METHOD.OPTION=VALUE, e.g. --set vpt.prompt_length=50.")
        if method not in asked:
            method_class(method)  # an unknown name gets its own error
            raise UsageError(f"--set {name}: {method} is not among the methods asked for, {','.join(sorted(asked))}.")
        options.setdefault(method, {})[option] = value
    return options


def resolve_method(label: str, settings: Mapping[str, Any] | None = None) -> MethodSpec:
    """Settle every option of a method.

    Args:
        label: ``name`` or ``name:preset``.
        settings: options that override the preset's and the defaults.

    Raises:
        UsageError: for an unknown method, preset or option, or a value of the wrong kind.
    """
    name, colon, preset = label.partition(":")
    method = method_class(name)
    if colon and preset not in method.presets:
        raise unknown(f"preset of {name}", preset, method.presets)
    values = {**(method.presets[preset].settings if preset else {}), **(settings or {})}
    former = method.Config.former_names()
    for option in values:
        if option not in former and option not in method.Config.model_fields:
            raise unknown(f"option of {name}", option, method.Config.model_fields)
    try:
        config = method.Config.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"{name}.{first_error(error)}") from error
    return MethodSpec(
        name=name, preset=preset or None, version=method.version, config=config.model_dump(mode="json"),
        hashed_names={new: old for old, new in former.items()},
    )  # fmt: skip


def current_options(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A method's options, as a row has them, by their present names; those of an unknown method as they are."""
    if not method_registry().has(method):
        return dict(options)
    return renamed_options(options, method_class(method).Config.former_names())
