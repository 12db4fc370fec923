"""``vpbench completion``, and what the tab key offers for options that take names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

VARIABLE = "_VPBENCH_COMPLETE"  # set by the shell's script when it asks for completions
SHELLS = ("bash", "zsh", "fish", "powershell")

# Options, by field, that take a name of `vpbench list KIND`, or several with commas.
NAMES = {
    "methods": "methods", "method": "methods", "suite": "suites", "datasets": "datasets", "dataset": "datasets",
    "backbone": "backbones", "space": "searches",
}  # fmt: skip


def completion(shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh, fish or powershell")]) -> None:
    """Print the script that lets a shell complete commands, options and names with the tab key.

    Examples:

    \b
      eval "$(vpbench completion bash)"  # in ~/.bashrc
      eval "$(vpbench completion zsh)"  # in ~/.zshrc, behind compinit
      vpbench completion fish > ~/.config/fish/completions/vpbench.fish
    """
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    from vpbench.core.names import unknown

    if shell not in SHELLS:
        raise unknown("shell", shell, SHELLS)
    typer.echo(get_completion_script(prog_name="vpbench", complete_var=VARIABLE, shell=shell))


def completes(field: str) -> Callable[[str], list[str]] | None:
    """What completes the value of an option; None for an option without names.

    Args:
        field: name of the command's parameter.
    """
    if field not in NAMES:
        return None

    def offered(incomplete: str) -> list[str]:
        """Names that continue the last word of a list with commas."""
        from vpbench.core.errors import VpbenchError

        front, comma, last = incomplete.rpartition(",")
        try:
            return [front + comma + name for name in _names(NAMES[field]) if name.startswith(last)]
        except VpbenchError:  # a broken card is no matter for the tab key
            return []

    return offered


def _names(kind: str) -> list[str]:
    from vpbench.backbones.named import backbone_names
    from vpbench.data.catalog import dataset_names
    from vpbench.models.registry import method_registry
    from vpbench.planning.suites import suite_names
    from vpbench.search.space import space_names

    return {
        "methods": method_registry().names, "suites": suite_names, "datasets": dataset_names, "backbones": backbone_names,
        "searches": space_names,
    }[kind]()  # fmt: skip
