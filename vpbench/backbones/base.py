"""What every family's adapter offers to the engine and to methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vpbench.core.errors import UnsupportedError
from vpbench.interface import BackboneShape, ClassAttention, ReceivedAttention, Scope, Tokens
from vpbench.interface.scope import Site


class Backbone(nn.Module):
    """A frozen backbone whose sequence can be edited between its blocks.

    Called with images it gives the features of the plain, unprompted model. The operations at the end are reached
    through :class:`vpbench.interface.Scope`; a family overrides those that it can do.

    Attributes:
        shape: what methods may know of it.
        weights_sha256: of the file that its weights came from, None for random ones.
        recomputing: whether a block is being run a second time, inside the backward pass; what watches a block then looks
            away.
    """

    shape: BackboneShape
    weights_sha256: str | None
    recomputing: bool = False
    _checkpointed: bool = False

    @property
    def feature_width(self) -> int:
        """Width of what :meth:`pool` returns."""
        raise NotImplementedError

    def embed(self, images: Tensor) -> Tokens:
        """Normalised images (B, C, S, S) to the sequence that enters block 0, position embeddings added."""
        raise NotImplementedError

    def run_block(self, index: int, tokens: Tokens) -> Tokens:
        """One block as the family computes it; :meth:`block` is what others call."""
        raise NotImplementedError

    def block(self, index: int, tokens: Tokens) -> Tokens:
        """Run one block, 0 to L-1."""
        if not (self._checkpointed and torch.is_grad_enabled()):
            return self.run_block(index, tokens)

        def run(x: Tensor) -> Tokens:
            return self.run_block(index, replace(tokens, x=x))

        # Not reentrant: what only a closure reaches, as a method's key and value prompts, gets its gradient too.
        found: Tokens = checkpoint(run, tokens.x, use_reentrant=False, context_fn=self._contexts)
        return found

    def checkpoint_blocks(self, on: bool) -> None:
        """Keep no activations inside blocks and compute them again in the backward pass: less memory, equal gradients."""
        self._checkpointed = on

    def _contexts(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), self._again()

    @contextmanager
    def _again(self) -> Iterator[None]:
        self.recomputing = True
        try:
            yield
        finally:
            self.recomputing = False

    def enter_stage(self, block: int, tokens: Tokens) -> Tokens:
        """Give the sequence the width and the grid of ``block``, the first of a stage; called before ``block`` is."""
        raise NotImplementedError

    def pool(self, tokens: Tokens) -> Tensor:
        """The features that the classifier reads, (B, feature_width)."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Features of the plain, unprompted model."""
        tokens = self.embed(images)
        for index in range(self.shape.depth):
            if self.shape.starts_stage(index):
                tokens = self.enter_stage(index, tokens)
            tokens = self.block(index, tokens)
        return self.pool(tokens)

    def use_fused_attention(self, fused: bool) -> None:
        """Choose the attention kernel; both compute the same function."""
        parts: Any = self.modules()
        for module in parts:
            if hasattr(module, "fused_attn"):
                module.fused_attn = fused

    def prompt_keys_values(self, scope: Scope, block: int, provide: Callable[[], tuple[Tensor, Tensor]]) -> None:
        """See :meth:`vpbench.interface.Scope.prompt_keys_values`."""
        raise self._cannot("takes no key and value prompts")

    def add_to_prompts(self, scope: Scope, block: int, site: Site, values: nn.Parameter) -> None:
        """See :meth:`vpbench.interface.Scope.add_to_prompts`."""
        raise self._cannot("takes no residual prompts")

    def watch_class_attention(self, scope: Scope) -> ClassAttention:
        """See :meth:`vpbench.interface.Scope.watch_class_attention`."""
        raise self._cannot("has no class token whose attention a method could read")

    def watch_received_attention(self, scope: Scope) -> ReceivedAttention:
        """See :meth:`vpbench.interface.Scope.watch_received_attention`."""
        raise self._cannot("does not show the attention that tokens receive")

    def to_next_stage(self, block: int, prompts: Tensor) -> Tensor:
        """See :meth:`vpbench.interface.Scope.to_next_stage`."""
        raise self._cannot("has one stage only")

    def _cannot(self, what: str) -> UnsupportedError:
        return UnsupportedError(f"a backbone of the family {self.shape.family} {what}.")
