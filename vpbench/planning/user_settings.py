"""What a user sets of methods and recipes, by method."""

from __future__ import annotations

from typing import Any

from vpbench.core.errors import UsageError
from vpbench.models.registry import check_preset, method_class
from vpbench.spec.request import Request

TASK = "task"  # what --set calls it


def split_settings(request: Request) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """``--set`` by method: options, and fields of the recipe (under "" for all methods).

    Raises:
        UsageError: for a name of another form or method, a setting that undoes a preset, or epochs that are said twice.
    """
    asked = {label.partition(":")[0] for label in request.methods or ()}
    options: dict[str, dict[str, Any]] = {}
    recipes: dict[str, dict[str, Any]] = {"": {}}
    for field in ("epochs", "iterations"):
        if (given := getattr(request, field)) is None:
            continue
        recipes[""][field] = given
        if given != request.settings.get(f"recipe.{field}", given):
            raise UsageError(f"--{field} {given} and --set recipe.{field}={request.settings[f'recipe.{field}']}: keep one.")
    if request.epochs is not None and request.iterations is not None:
        raise UsageError(f"--epochs {request.epochs} and --iterations {request.iterations}: keep one.")
    for label in request.methods or ():
        check_preset(label, request.settings)
    for name, value in request.settings.items():
        parts = name.split(".")
        if len(parts) == 2 and parts[0] == TASK:
            continue
        if len(parts) == 2 and parts[0] == "recipe":
            recipes[""][parts[1]] = value
        elif parts[0] == "preprocess":
            raise UsageError(
                f"--set {name}: preprocessing is the suite's, the same for every method; 'vpbench new suite' makes your own."
            )
        elif len(parts) == 3 and parts[1] == "recipe":
            recipes.setdefault(_asked(parts[0], asked, name), {})[parts[2]] = value
        elif len(parts) == 2:
            options.setdefault(_asked(parts[0], asked, name), {})[parts[1]] = value
        else:
            raise UsageError(
                f"--set {name}: write METHOD.OPTION=VALUE, recipe.FIELD=VALUE, METHOD.recipe.FIELD=VALUE or task.OPTION=VALUE."
            )
    return options, recipes


def task_settings(request: Request) -> dict[str, Any]:
    """Options of the task among ``--set``."""
    return {name.removeprefix(f"{TASK}."): value for name, value in request.settings.items() if name.startswith(f"{TASK}.")}


def _asked(method: str, asked: set[str], setting: str) -> str:
    if method not in asked:
        method_class(method)  # an unknown name gets its own error
        raise UsageError(f"--set {setting}: {method} is not among --methods {','.join(sorted(asked))}.")
    return method
