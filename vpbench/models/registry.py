"""Methods by name. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, get_args

from pydantic import ValidationError

from vpbench.core.cards import first_error
from vpbench.core.errors import UsageError
from vpbench.core.names import unknown
from vpbench.core.plugins import Registry, subclass_in
from vpbench.core.user_files import add_file
from vpbench.core.user_warning import warn
from vpbench.interface import Method
from vpbench.interface.config import renamed_options
from vpbench.interface.method import Group
from vpbench.spec.run_spec import MethodSpec

FACTS = ("title", "summary", "paper", "fidelity")  # that every method states


def method_registry() -> Registry[type[Method[Any]]]:
    """Every file in ``methods/``, here and in the user's folders, and the entry points of the group ``vpbench.methods``."""
    return Registry("method", "vpbench.methods", _pick, group="vpbench.methods", folder="methods")


def _pick(name: str, found: Any) -> type[Method[Any]]:
    method = subclass_in(Method)(name, found)
    if lacking := [fact for fact in FACTS if not hasattr(method, fact)]:
        raise UsageError(f"method '{name}': class {method.__name__} has no {' and no '.join(lacking)}.")
    return method


def method_class(name: str) -> type[Method[Any]]:
    """The class of a method.

    Raises:
        UsageError: for an unknown name, with a suggestion.
    """
    return method_registry().get(name)


def expand_labels(labels: Sequence[str]) -> list[str]:
    """Labels of methods, each once, with ``all`` and ``group:NAME`` replaced by the methods that they stand for, and a path by
    the name of its file.

    Raises:
        UsageError: when there is no label, or for an unknown group or a file that is not there.
    """
    if not labels:
        raise UsageError("--methods names no method; vpbench list methods shows them.")
    found: list[str] = []
    for label in labels:
        if label == "all":
            found += _installed()
        elif label.startswith("group:"):
            found += _installed(label.removeprefix("group:"))
        else:
            found.append(_by_name(label))
    return list(dict.fromkeys(found))


def _installed(group: str | None = None) -> Iterator[str]:
    """Names of all methods, or those of a group; a warning of one line names each whose library is not installed."""
    for name, method in working_methods(group):
        if method.extra is None or find_spec(method.extra) is not None:
            yield name
        else:
            warn(f"method '{name}' is left out: it needs an extra, pip install 'vpbench[{method.extra}]'.")


def working_methods(group: str | None = None) -> Iterator[tuple[str, type[Method[Any]]]]:
    """Every method that can be imported, or those of a group; a warning of one line names each of the others.

    Raises:
        UsageError: for an unknown group, with a suggestion.
    """
    if group is not None and group not in get_args(Group):
        raise unknown("group of methods", group, get_args(Group))
    return ((name, method) for name, method in method_registry().working() if group in (None, method.group))


def options_by_method(settings: Mapping[str, Any], labels: Sequence[str], where: str = "--methods") -> dict[str, dict[str, Any]]:
    """``{"vpt.prompt_length": 50}`` as ``{"vpt": {"prompt_length": 50}}``.

    Args:
        labels: the methods that are asked for; a setting of another one is an error.
        where: in the command, for that error.

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
            raise UsageError(f"--set {name}: {method} is not in '{where} {','.join(sorted(asked))}'.")
        options.setdefault(method, {})[option] = value
    return options


def _by_name(label: str) -> str:
    """``my_prompts:small`` for ``./my_prompts.py:small``; the file is a method from then on."""
    path, ending, preset = label.rpartition(".py")
    if not ending or (preset and not preset.startswith(":")):
        return label
    return add_file(f"{path}.py", "methods", "--methods") + preset


def resolve_method(label: str, settings: Mapping[str, Any] | None = None) -> MethodSpec:
    """Settle every option of a method.

    Args:
        label: ``name`` or ``name:preset``; the name can be the path of a file, ``./my_prompts.py``.
        settings: options that override the preset's and the defaults.

    Raises:
        UsageError: for an unknown method, preset or option, or a value of the wrong kind.
    """
    name, colon, preset = _by_name(label).partition(":")
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


def check_preset(label: str, settings: Mapping[str, Any]) -> None:
    """Refuse settings that undo what defines a preset: the run would have its name and be something else.

    Args:
        label: ``name`` or ``name:preset``.
        settings: by the names of ``--set``, ``METHOD.OPTION``; those of other methods do not matter.

    Raises:
        UsageError: for an option that the preset changes and a setting puts back to its default.
    """
    name, _, preset = label.partition(":")
    if not preset or preset not in (method := method_class(name)).presets:
        return
    defining = method.presets[preset].settings
    own = {key.removeprefix(f"{name}."): value for key, value in settings.items() if key.startswith(f"{name}.")}
    given = renamed_options(own, method.Config.former_names())
    for option in [option for option in defining if option in given]:
        try:
            config = method.Config.model_validate({**defining, option: given[option]})
        except ValidationError:
            continue  # a value that does not fit is an error of its own
        chosen, default = getattr(config, option), method.Config.model_fields[option].default
        if chosen == default != defining[option]:
            raise UsageError(
                f"{name}.{option}={chosen} undoes what {label} is ({option}={defining[option]}): ask for {name} instead, "
                "with the other options set as you want them."
            )


def current_options(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A method's options, as a row has them, by their present names; those of an unknown or broken method as they are."""
    if not method_registry().has(method):
        return dict(options)
    try:
        return renamed_options(options, method_class(method).Config.former_names())
    except UsageError:
        return dict(options)
