"""What every family's adapter offers to the engine and to methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vpbench.backbones.frozen import Kernel, freeze_linears
from vpbench.backbones.kernels import linear_kernel
from vpbench.core.errors import UnsupportedError
from vpbench.interface import BackboneShape, ClassAttention, ReceivedAttention, Scope, Tokens
from vpbench.interface.scope import Site

Wanted = Literal["all", "rest", "class"]
"""What of a block's output is read: everything, all but the prompts, or the class token alone."""


class Backbone(nn.Module):
    """A frozen backbone whose sequence can be edited between its blocks.

    Called with images it gives the features of the plain, unprompted model. The operations at the end are reached
    through :class:`vpbench.interface.Scope`; a family overrides those that it can do.

    Attributes:
        shape: what methods may know of it.
        weights_sha256: of the file that its weights came from, None for random ones.
        recomputing: whether a block is being run a second time, inside the backward pass; what watches a block then looks
            away.
        linear_kernel: see :mod:`vpbench.backbones.kernels`.
        lean: whether a block may leave out what nobody reads of its output; what is read is the same.
    """

    shape: BackboneShape
    weights_sha256: str | None
    recomputing: bool = False
    linear_kernel: Kernel = "default"
    lean: bool = True
    _checkpointed: bool = False

    @property
    def feature_width(self) -> int:
        """Width of what :meth:`pool` returns."""
        raise NotImplementedError

    @property
    def pooled(self) -> Wanted:
        """What of the last block's output :meth:`pool` reads."""
        raise NotImplementedError

    def embed(self, images: Tensor) -> Tokens:
        """Normalised images (B, C, S, S) to the sequence that enters block 0, position embeddings added."""
        raise NotImplementedError

    def run_block(self, index: int, tokens: Tokens) -> Tokens:
        """One block on the whole sequence; :meth:`block` is what others call."""
        raise NotImplementedError

    def run_lean(self, index: int, tokens: Tokens, wanted: Wanted) -> Tokens:
        """One block for what is wanted of its output; more comes out where a family has no cheaper form."""
        return self.run_block(index, tokens)

    def block(self, index: int, tokens: Tokens, wanted: Wanted = "all") -> Tokens:
        """Run one block, 0 to L-1.

        Args:
            wanted: what of its output is read. The rest may be missing in it, prompts with ``"rest"``, prompts and patch
                tokens with ``"class"``.
        """
        whole = wanted == "all" or not self.lean

        def run(held: Tensor) -> Tokens:
            given = replace(tokens, held=held)
            return self.run_block(index, given) if whole else self.run_lean(index, given, wanted)

        if not (self._checkpointed and torch.is_grad_enabled()):
            return run(tokens.held)
        # Not reentrant: what only a closure reaches, as prompts that are held apart, gets its gradient too.
        found: Tokens = checkpoint(run, tokens.held, use_reentrant=False, context_fn=self._contexts)
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

    def use_fastest_kernels(self, device: str, precision: str) -> None:
        """Choose, for a device (``cpu``, ``cuda``) and a precision, among kernels that compute the same to rounding."""
        # On a CPU, torch's fused attention in bf16 is several times slower than the explicit one.
        self.use_fused_attention(device == "cuda" or precision == "fp32")
        self.linear_kernel = linear_kernel(self.shape.width) if device == "cpu" and precision == "fp32" else "default"
        freeze_linears(self, self.linear_kernel)

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

    def last_parameters(self, blocks: int) -> list[nn.Parameter]:
        """See :meth:`vpbench.interface.Scope.train_last`."""
        raise self._cannot("does not show the parameters of its blocks")

    def _cannot(self, what: str) -> UnsupportedError:
        return UnsupportedError(f"a backbone of the family {self.shape.family} {what}.")
