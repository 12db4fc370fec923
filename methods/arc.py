"""ARC: linear adapters in front of linear layers, composed of bases that all blocks share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Literal

from vpbench.interface import ALL_FAMILIES, NO_PARTS, F, Method, MethodConfig, Part, Preset, Scope, Site, nn, option, torch

if TYPE_CHECKING:
    from torch import Tensor

_CODE = "DavidYanAnDe/ARC Model/ARC_ViT.py"
SITES: dict[str, tuple[Site, ...]] = {"both": ("qkv", "fc1"), "attention": ("qkv",)}


class ARCConfig(MethodConfig):
    """Options of ARC."""

    rank: int = option(50, "columns r of a basis", f"ARC paper, section 4.1; {_CODE}", ge=1)
    sites: Literal["both", "attention"] = option("both", "in front of attention and MLP, or of the attention alone", _CODE)
    init: Literal["zero", "released"] = option(
        "zero",
        "coefficients d: zero; or those in front of the MLP uniform within sqrt(6 / (r + 1))",
        f"zero: assumption, so that it starts as the frozen model; released: {_CODE}",
    )
    dropout: float = option(0.1, "on the code", _CODE, ge=0, lt=1)


class ARC(Method[ARCConfig]):
    """h + U diag(d) U^T h + b in place of h, the normed tokens that the qkv projection and the MLP read.

    A basis U (D, r) for each of the two places is shared by all blocks; every block has its own d (r) and b (D). There is no
    activation, so that all of it is merged into qkv and fc1. U is Xavier-uniform, b zero. While all d are zero, U has no
    gradient.

    Parameters: 2 D r + 2 L (r + D), half of that with ``sites=attention``; 96,432 on ViT-B/16 at r = 50. Where the token width
    changes on the way, there is a basis for each width.
    """

    title = "ARC"
    summary = "linear adapters composed of shared bases, merged for inference"
    paper = "Dong et al., Efficient Adaptation of Large Vision Transformer via Adapter Re-Composing, NeurIPS 2023"
    year = 2023
    group = "extra"
    fidelity = "released-code"
    families = ALL_FAMILIES
    notes = (
        "The released VTAB-1k script does not train the method: it builds the model of one file and unfreezes by names that only"
        " another has, so that the head alone is trained, behind a frozen random adapter. The FGVC script takes the right file.",
        "As released it does not start as the frozen model (logits of a tiny ViT differ by 0.5): init=released.",
        "The released head starts at zero; here head_init decides. Every epoch is judged on the test images there.",
        "On Swin, windows that do not divide the patch grid are padded behind the adapter (assumption).",
        "Where queries, keys and values come from several modules, the adapter in front of them is not merged.",
    )
    Config = ARCConfig
    presets = {
        "attention": Preset(
            "in front of the attention alone (ARC_att)",
            {"sites": "attention"},
            (("places", "in front of qkv and fc1", "in front of qkv: 48,216 parameters on ViT-B/16"),),
        ),
        "released": Preset(
            "the released initial values",
            {"init": "released"},
            (("initial coefficients in front of the MLP", "zero", "uniform within sqrt(6 / (r + 1))"),),
        ),
    }

    def build(self) -> None:
        """Creates ``bases`` (D, r) by site and first block of a stage, ``scales`` (r) and ``biases`` (D) by block and site."""
        rank, own = self.config.rank, self.own
        own.bases, own.scales, own.biases = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        for site in SITES[self.config.sites]:
            for stage in self.shape.stages:
                own.bases[f"{stage.first}_{site}"] = basis = nn.Parameter(torch.empty(stage.width, rank))
                nn.init.xavier_uniform_(basis)
        for block, site in self._places():
            own.scales[f"{block}_{site}"] = scale = nn.Parameter(torch.zeros(rank))
            own.biases[f"{block}_{site}"] = nn.Parameter(torch.zeros(self.shape.width_of(block)))
            if self.config.init == "released" and site == "fc1":
                bound = math.sqrt(6 / (rank + 1))
                nn.init.uniform_(scale, -bound, bound)

    def _places(self) -> Iterator[tuple[int, Site]]:
        return ((block, site) for block in range(self.shape.depth) for site in SITES[self.config.sites])

    def _parts(self, block: int, site: Site) -> tuple[Tensor, Tensor, Tensor]:
        """U, d and b of a place."""
        basis = self.own.bases[f"{self.shape.stage_of(block).first}_{site}"]
        return basis, self.own.scales[f"{block}_{site}"], self.own.biases[f"{block}_{site}"]

    def attach(self, scope: Scope) -> None:
        """Puts the adapters in front of the linear layers."""
        for block, site in self._places():
            scope.before(site, partial(self._adapted, block, site), block, tokenwise=True)

    def outputs_used(self, block: int) -> frozenset[Part]:
        """None."""
        return NO_PARTS

    def _adapted(self, block: int, site: Site, h: Tensor) -> Tensor:
        basis, scale, bias = self._parts(block, site)
        code = F.linear(h, basis.T) * scale.to(h.dtype)
        return h + F.linear(F.dropout(code, self.config.dropout, self.own.training), basis, bias)

    def merge(self, scope: Scope) -> None:
        """W (1 + U diag(d) U^T) and b_W + W b, W and b_W of the linear layer behind."""
        for block, site in self._places():
            basis, scale, bias = self._parts(block, site)
            scope.fold_before(site, block, weight=(basis * scale) @ basis.T, bias=bias)
