"""LoRA: low-rank updates beside frozen linear layers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Literal

from vpbench.interface import (
    ALL_FAMILIES,
    NO_PARTS,
    F,
    Method,
    MethodConfig,
    Part,
    Preset,
    Scope,
    Site,
    nn,
    option,
    torch,
)

if TYPE_CHECKING:
    from torch import Tensor

SITES: dict[str, tuple[Site, ...]] = {"qkv": ("qkv",), "qv": ("qkv",), "all-linears": ("qkv", "proj", "fc1", "fc2")}


class LoRAConfig(MethodConfig):
    """Options of LoRA."""

    rank: int = option(8, "rank r of each update", "LoRA paper, section 4.1; 8 in NOAH's and PETL-ViT's VTAB runs", ge=1)
    targets: Literal["qkv", "qv", "all-linears"] = option(
        "qkv",
        "what is updated: the joint projection with one A, queries and values with an A each, or all linear layers of a block",
        "qkv: NOAH; qv: LoRA paper, section 7.1; all-linears: QLoRA and peft's target_modules",
    )
    alpha: float | None = option(None, "scale alpha / r of the update; None: 1", "NOAH: alpha = r; LoRA paper, section 4.1", gt=0)
    dropout: float = option(0.0, "on the input of the update", "NOAH: 0.0; microsoft/LoRA: 0 to 0.1", ge=0, lt=1)


class LoRA(Method[LoRAConfig]):
    """y = W x + b + (alpha / r) B A x, A (r, in) Kaiming-uniform, B (out, r) zero; merged exactly for inference.

    Parameters: 4 L D r with qkv or qv, 294,912 on ViT-B/16 at r = 8; r times the sum of input and output width of every linear
    layer with all-linears, which is 16 L D r where MLPs are 4 D wide: 1,179,648.
    """

    title = "LoRA"
    summary = "low-rank updates of frozen linear layers"
    paper = "Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022"
    year = 2022
    group = "extra"
    fidelity = "released-code"
    families = ALL_FAMILIES
    notes = (
        "iVPT's Table 1 prints 0.43 M with the mean VTAB-1k head; at r = 8 this is 0.333 M. An A each for q, k and v gives"
        " 0.44 M without the head.",
        "SCT's released LoRA initialises both factors of v to zero, which never train; here B alone is zero.",
    )
    Config = LoRAConfig
    presets = {
        "noah": Preset("NOAH's: one A for the joint projection, scale 1", {}, (("targets", "the same", "qkv, alpha = r = 8"),)),
        "qv": Preset(
            "the paper's: queries and values, an A each",
            {"targets": "qv"},
            (("targets", "q, k and v with one A", "q and v with an A each, k as it is"),),
        ),
        "all-linears": Preset(
            "all linear layers of a block",
            {"targets": "all-linears"},
            (("targets", "the joint projection", "qkv, proj, fc1 and fc2"),),
        ),
    }

    def build(self) -> None:
        """Creates for every block and site ``A`` (r, in) and ``B`` (out, r); twice for the joint projection with ``qv``."""
        self.own.updates = nn.ModuleDict()
        for block, site in self._places():
            size_in, size_out = self.shape.linear_of(site, block)
            if self.config.targets == "qv":
                parts = {name: self._factors(size_in, size_out // 3) for name in ("q", "v")}
                self.own.updates[f"{block}_{site}"] = nn.ModuleDict(parts)
            else:
                self.own.updates[f"{block}_{site}"] = self._factors(size_in, size_out)

    def _places(self) -> Iterator[tuple[int, Site]]:
        return ((block, site) for block in range(self.shape.depth) for site in SITES[self.config.targets])

    def _factors(self, size_in: int, size_out: int) -> nn.Module:
        factors = nn.Module()
        factors.A = nn.Parameter(torch.empty(self.config.rank, size_in))
        factors.B = nn.Parameter(torch.zeros(size_out, self.config.rank))
        nn.init.kaiming_uniform_(factors.A, a=math.sqrt(5))
        return factors

    def attach(self, scope: Scope) -> None:
        """Adds the updates to the outputs of the linear layers."""
        for block, site in self._places():
            scope.after(site, partial(self._updated, self.own.updates[f"{block}_{site}"]), block, tokenwise=True)

    def outputs_used(self, block: int) -> frozenset[Part]:
        """None."""
        return NO_PARTS

    @property
    def _scale(self) -> float:
        return 1.0 if self.config.alpha is None else self.config.alpha / self.config.rank

    def _updated(self, factors: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        if self.config.targets != "qv":
            return y + self._update(factors, x)
        query, key, value = y.chunk(3, dim=-1)
        return torch.cat([query + self._update(factors.q, x), key, value + self._update(factors.v, x)], dim=-1)

    def _update(self, factors: nn.Module, x: Tensor) -> Tensor:
        x = F.dropout(x, self.config.dropout, self.own.training)
        update = F.linear(F.linear(x, factors.A), factors.B)
        return update if self._scale == 1 else update * self._scale

    def merge(self, scope: Scope) -> None:
        """Adds (alpha / r) B A to the frozen weights."""
        for block, site in self._places():
            factors: nn.Module = self.own.updates[f"{block}_{site}"]
            if self.config.targets == "qv":
                query, value = (self._scale * part.B @ part.A for part in (factors.q, factors.v))
                weight = torch.cat([query, torch.zeros_like(query), value])
            else:
                weight = self._scale * factors.B @ factors.A
            scope.fold(site, block, weight=weight)
