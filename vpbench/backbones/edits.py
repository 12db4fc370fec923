"""How functions that methods put at the sites of a backbone are called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vpbench.interface.scope import Edit


class EditHandle:
    """Removes an edit, and the hooks that were placed for it."""

    def __init__(self, *handles: RemovableHandle) -> None:
        self._handles = handles

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def apply_edits(edits: Sequence[Edit], x: Tensor, call: Callable[[Tensor], Tensor]) -> Tensor:
    """``call(x)`` between the edits before it and those behind it, each kind in the order in which they were made."""
    for edit in edits:
        if edit.before:
            x = edit.fn(x)
    y = call(x)
    for edit in edits:
        if not edit.before:
            y = edit.fn(x, y)
    return y


def hook_edit(module: nn.Module, edit: Edit) -> RemovableHandle:
    """Make an edit a forward hook of the module at its site."""

    def before(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return edit.fn(inputs[0]), *inputs[1:]

    def after(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        changed: Tensor = edit.fn(inputs[0], output)
        return changed

    hook: Any = before if edit.before else after
    hook.tokenwise = edit.tokenwise
    return module.register_forward_pre_hook(hook) if edit.before else module.register_forward_hook(hook)


def needs_all_tokens(module: nn.Module) -> bool:
    """Whether a hook of the module must see all tokens at once: any but a tokenwise edit."""
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    others = bool(module._backward_hooks or module._backward_pre_hooks)
    return others or any(not getattr(hook, "tokenwise", False) for hook in hooks)


def is_hooked(module: nn.Module) -> bool:
    """Whether a module has hooks, so that it has to be called as a whole."""
    return bool(module._forward_hooks or module._forward_pre_hooks)
