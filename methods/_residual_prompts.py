"""Residual prompts of EXPRES: vectors that are added to the prompt tokens inside every block."""

from __future__ import annotations

from typing import Any

from vpbench.interface import BackboneShape, Scope, nn, torch

SITES = ("norm1", "qkv", "attention")


def residual_prompts(shape: BackboneShape, length: int) -> nn.ParameterDict:
    """Zeros (N, width of the site) by ``site_block``, 5 N D values per block: behind LN (D), behind the projections to queries,
    keys and values (3 D), and behind the output projection of the attention (D)."""
    return nn.ParameterDict(
        {
            f"{site}_{block}": nn.Parameter(torch.zeros(length, (3 if site == "qkv" else 1) * shape.width_of(block)))
            for block in range(shape.depth)
            for site in SITES
        }
    )


def add_residual_prompts(scope: Scope, residuals: Any) -> None:
    """Add what :func:`residual_prompts` made to the prompt rows of the sites' outputs."""
    for name, values in residuals.items():
        site, _, block = name.rpartition("_")
        scope.add_to_prompts(int(block), site, values)
