"""Taking back what a library changes in a model whose modules it replaces by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


class Rewriting:
    """The modules and frozen values of a model before and after a library rewrote it.

    Made before the change; :meth:`finish` is called after it. The library may replace modules, and give parameters other
    memory with other values; it may not change values in place.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._children: list[tuple[nn.Module, dict[str, Any]]] = [(each, dict(each._modules)) for each in model.modules()]
        self._values: list[tuple[nn.Parameter, Tensor]] = [(each, each.data) for each in model.parameters()]
        self._attributes = set(vars(model))

    def finish(self) -> None:
        """Keep what has changed; attributes that the library gave the model itself are removed."""
        self._children = [(module, children) for module, children in self._children if children != dict(module._modules)]
        self._values = [(each, before) for each, before in self._values if each.data_ptr() != before.data_ptr()]
        for name in set(vars(self._model)) - self._attributes:
            delattr(self._model, name)

    @property
    def replaced(self) -> list[str]:
        """Names of the children that are other modules now, each once: ``qkv``, ``fc1``."""
        names = [
            name for module, before in self._children for name, child in before.items() if module._modules.get(name) is not child
        ]
        return list(dict.fromkeys(names))

    def swap(self) -> None:
        """Put the model into its other state: as it was before the change, or again as after it."""
        for place, (module, children) in enumerate(self._children):
            self._children[place] = module, dict(module._modules)
            module._modules.clear()
            module._modules.update(children)
        for place, (parameter, value) in enumerate(self._values):
            self._values[place] = parameter, parameter.data
            parameter.data = value.to(parameter.device)
