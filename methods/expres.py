"""EXPRES: shallow prompts whose outputs are classified, steered by residual vectors inside every block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vpbench.interface import (
    ALL_FAMILIES,
    Context,
    Method,
    MethodConfig,
    Part,
    Scope,
    Tokens,
    option,
    uniform_prompts,
)
from vpbench.methods._residual_prompts import add_residual_prompts, residual_prompts

if TYPE_CHECKING:
    from torch import Tensor


class EXPRESConfig(MethodConfig):
    """Options of EXPRES."""

    prompt_length: int = option(
        20,
        "prompt tokens M",
        "assumption: M = 20 has the 0.98 M parameters mean head included, of iVPT's table 1",
        ge=1,
    )


class EXPRES(Method[EXPRESConfig]):
    """M prompts enter before block 0 and stay; in every block learned vectors are added to them behind LN, behind the projections
    to queries, keys and values, and behind the attention. The classifier reads the mean of the M outputs behind the final norm.

    Parameters: M D (tokens) + 5 L M D (residuals), 46,848 M on ViT-B/16: 936,960 at M = 20. Where the token width changes on the
    way, L D is the sum of all blocks' D.
    """

    title = "EXPRES"
    summary = "shallow prompts that are classified, with residual prompts in every block"
    paper = "Das et al., Learning Expressive Prompting With Residuals for Vision Transformers, CVPR 2023"
    year = 2023
    fidelity = "approximate"
    families = ALL_FAMILIES
    notes = (
        "No code was released, and the paper's values could not be read; iVPT prints it as EXPRESS, with 0.98 M parameters and"
        " the mean VTAB-1k head: M = 20 has 0.975 M.",
        "iVPT's caption has the residuals before the operations and its text behind them; public abstracts say that they are"
        " added to the output, so it is behind.",
        "assumption: residuals start at zero, tokens as VPT's, and the head reads the mean of the outputs behind the final norm.",
        "Method ivpt with structure=express, da=false and ar=none has the same residuals and lets the class token be classified.",
        "assumption: where the token width changes on the way, the prompts go through the merging of patches.",
    )
    Config = EXPRESConfig

    @classmethod
    def needs_classification(cls, config: Mapping[str, Any]) -> str:
        """See :meth:`vpbench.interface.Method.needs_classification`."""
        return "reads its prompts' outputs in place of the class token"

    def build(self) -> None:
        """Creates ``prompts`` (M, D) and ``residual``, by site and block."""
        self.own.prompts = uniform_prompts(self.shape, self.config.prompt_length, self.shape.width)
        self.own.residual = residual_prompts(self.shape, self.config.prompt_length)

    def attach(self, scope: Scope) -> None:
        """Adds the residuals; keeps the final norm for the readout."""
        add_residual_prompts(scope, self.own.residual)
        self._norm = scope.module("norm")

    def before_block(self, block: int, tokens: Tokens, context: Context) -> Tokens:
        """Inserts the prompts before block 0."""
        return tokens.with_prompts(self.own.prompts) if block == 0 else tokens

    def outputs_used(self, block: int) -> frozenset[Part]:
        """Prompts, in every block."""
        return frozenset({"prompts"})

    def readout(self, tokens: Tokens, features: Tensor, context: Context) -> Tensor:
        """The mean of the prompts' outputs behind the final norm."""
        mean: Tensor = self._norm(tokens.prompt_tokens).mean(1)
        return mean

    def readout_width(self, width: int) -> int:
        """That of the last block's tokens."""
        return self.shape.width_of(self.shape.depth - 1)
