"""Surgery on a frozen backbone, recorded so that it can be checked and undone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

Site = Literal["norm1", "qkv", "attention"]


class ClassAttention(Protocol):
    """Attention that each block's class token pays, see :meth:`Scope.watch_class_attention`."""

    def __call__(self, block: int) -> Tensor:
        """Softmax weights of the class token in ``block`` of the last forward pass, over all keys, (B, heads, T)."""
        ...


class ReceivedAttention(Protocol):
    """Attention that each patch token receives, see :meth:`Scope.watch_received_attention`."""

    def __call__(self, block: int) -> Tensor:
        """Mean weight over heads and queries, of each patch token in ``block`` of the last forward pass, (B, M)."""
        ...


class Surgeon(Protocol):
    """The operations that a backbone family's adapter offers; a method reaches them through :class:`Scope`."""

    def prompt_keys_values(self, scope: Scope, block: int, provide: Callable[[], tuple[Tensor, Tensor]]) -> None: ...

    def add_to_prompts(self, scope: Scope, block: int, site: Site, values: nn.Parameter) -> None: ...

    def watch_class_attention(self, scope: Scope) -> ClassAttention: ...

    def watch_received_attention(self, scope: Scope) -> ReceivedAttention: ...

    def to_next_stage(self, block: int, prompts: Tensor) -> Tensor: ...

    def last_parameters(self, blocks: int) -> list[nn.Parameter]: ...


class Scope:
    """What one method changes on one backbone.

    Everything goes through this object: modules are replaced and hooked by reference, never by name, and
    :meth:`undo` leaves the backbone as it was.
    """

    def __init__(self, surgeon: Surgeon) -> None:
        self._surgeon = surgeon
        self._replaced: list[tuple[nn.Module, str, nn.Module]] = []
        self._handles: list[RemovableHandle] = []
        self.trained: list[nn.Parameter] = []
        self._untrained: list[Tensor] = []

    def train(self, *parameters: nn.Parameter) -> None:
        """Let the method train parameters of the backbone itself, e.g. biases."""
        for parameter in parameters:
            self._untrained.append(parameter.detach().clone())
            parameter.requires_grad_(True)
            self.trained.append(parameter)

    def train_last(self, blocks: int) -> None:
        """Let the method train the last ``blocks`` blocks, 1 to L, and the final norm."""
        self.train(*self._surgeon.last_parameters(blocks))

    def replace(self, parent: nn.Module, child: str, replacement: nn.Module) -> None:
        """Put ``replacement`` where ``parent`` has its ``child``."""
        self._replaced.append((parent, child, getattr(parent, child)))
        setattr(parent, child, replacement)

    def hook(self, handle: RemovableHandle) -> None:
        """Record a forward hook that an adapter placed."""
        self._handles.append(handle)

    def prompt_keys_values(self, block: int, provide: Callable[[], tuple[Tensor, Tensor]]) -> None:
        """Prepend prompts to the keys and values of a block's attention, after their projection.

        Args:
            block: 0 to L-1.
            provide: called in every forward pass; gives key and value prompts, each (heads, N, D / heads) with the
                block's own heads and width. Where attention has windows, they join every window.
        """
        self._surgeon.prompt_keys_values(self, block, provide)

    def add_to_prompts(self, block: int, site: Site, values: nn.Parameter) -> None:
        """Add ``values`` to the prompt rows at one place inside a block.

        Args:
            block: 0 to L-1.
            site: ``"norm1"`` (output of the first layer norm), ``"qkv"`` (output of the joint projection, 3 D wide) or
                ``"attention"`` (output of the attention, before the residual sum).
            values: (N, D), or (N, 3 D) for ``"qkv"``; N is the number of prompts in the sequence.
        """
        self._surgeon.add_to_prompts(self, block, site, values)

    def watch_class_attention(self) -> ClassAttention:
        """Make the class token's attention row of every block readable in ``after_block``, beside fused attention.

        One row costs T D multiply-adds per block and image; no full attention matrix is formed, no gradient flows.

        Raises:
            UnsupportedError: when the backbone has no class token.
        """
        return self._surgeon.watch_class_attention(self)

    def watch_received_attention(self) -> ReceivedAttention:
        """Make the attention that each patch token receives readable in ``after_block``: for windows, a mean over heads
        and over the patch tokens of its window.

        The attention weights are computed a second time, without gradient.

        Raises:
            UnsupportedError: when the backbone's adapter does not offer it.
        """
        return self._surgeon.watch_received_attention(self)

    def to_next_stage(self, block: int, prompts: Tensor) -> Tensor:
        """Prompts (..., D) as what lies before ``block`` turns them into, at the width of ``block``.

        Args:
            block: the first of a stage, see :meth:`vpbench.interface.BackboneShape.starts_stage`.
            prompts: at the width of the block before.
        """
        return self._surgeon.to_next_stage(block, prompts)

    def undo(self) -> None:
        """Take every change back, last one first."""
        for handle in self._handles:
            handle.remove()
        for parent, child, original in reversed(self._replaced):
            setattr(parent, child, original)
        for parameter, value in zip(self.trained, self._untrained, strict=True):
            parameter.requires_grad_(False).copy_(value)
            parameter.grad = None
        self._handles, self._replaced, self.trained, self._untrained = [], [], [], []
