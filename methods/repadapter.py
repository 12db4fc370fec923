"""RepAdapter: linear bottlenecks in front of linear layers, merged exactly for inference."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from vpbench.core.errors import UsageError
from vpbench.interface import ALL_FAMILIES, NO_PARTS, F, Method, MethodConfig, Part, Preset, Scope, Site, nn, option, torch

if TYPE_CHECKING:
    from torch import Tensor

_CODE = "luogen1996/RepAdapter repadapter.py"
SITES: dict[str, tuple[Site, ...]] = {"both": ("qkv", "fc1"), "attention": ("qkv",)}


class RepAdapterConfig(MethodConfig):
    """Options of RepAdapter."""

    bottleneck: int = option(8, "width r of the code", f"RepAdapter paper, section 4.1; {_CODE}", ge=1)
    groups: int = option(2, "groups G of the second projection", f"RepAdapter paper, section 3.2; {_CODE}", ge=1)
    scale: float = option(
        1.0,
        "factor s",
        "luogen1996/RepAdapter configs: 0.1 to 10 per task of VTAB-1k; 1: assumption",
        gt=0,
    )
    sites: Literal["both", "attention"] = option(
        "both", "in front of attention and MLP (repblock), or of the attention alone (repattn)", _CODE
    )
    dropout: float = option(0.1, "on the code", _CODE, ge=0, lt=1)


class RepAdapter(Method[RepAdapterConfig]):
    """h + s (W_up (W_down h + b_down) + b_up) in place of h, the normed tokens that the qkv projection and the MLP read.

    W_up is block-diagonal with G groups: channels of a group read their own share of the code. There is no activation, so that
    all of it is merged into qkv and fc1. W_down is Xavier-uniform, the rest zero: it starts as the frozen model.

    Parameters: 2 L (D r + r + D r / G + D), half of that with ``sites=attention``; 239,808 on ViT-B/16 at r = 8, of which
    221,184 are weights.
    """

    title = "RepAdapter"
    summary = "linear bottlenecks in front of qkv and fc1, merged for inference"
    paper = "Luo et al., Towards Efficient Visual Adaption via Structural Re-parameterization, 2023 (arXiv 2302.08106)"
    year = 2023
    group = "extra"
    fidelity = "released-code"
    families = ALL_FAMILIES
    notes = (
        "The usual printed 0.22 M leaves out biases: 0.221 M, with them 0.240 M.",
        "The released code selects the best of every tenth epoch, and s, on the test images.",
        "Its forward pass drops layer scale and uses the first stochastic depth for both branches; here a backbone's own stay.",
        "Its merging with one group reads an attribute that does not exist; here any number is merged.",
        "On Swin, windows that do not divide the patch grid are padded behind this bottleneck (assumption).",
        "Where queries, keys and values come from several modules, the bottleneck in front of them is not merged.",
    )
    Config = RepAdapterConfig
    presets = {
        "attention": Preset(
            "in front of the attention alone (repattn)",
            {"sites": "attention"},
            (("places", "in front of qkv and fc1", "in front of qkv: 119,904 parameters on ViT-B/16"),),
        ),
    }

    def build(self) -> None:
        """Creates ``down`` (r, D), ``up_weight`` (D, r / G) and ``up_bias`` for every place.

        Raises:
            UsageError: when G does not divide r and D.
        """
        self.own.adapters = nn.ModuleDict(
            {f"{block}_{site}": self._adapter(self.shape.width_of(block)) for block, site in self._places()}
        )

    def _places(self) -> Iterator[tuple[int, Site]]:
        return ((block, site) for block in range(self.shape.depth) for site in SITES[self.config.sites])

    def _adapter(self, width: int) -> nn.Module:
        rank, groups = self.config.bottleneck, self.config.groups
        if rank % groups or width % groups:
            raise UsageError(f"repadapter.groups={groups} does not divide bottleneck={rank} and the token width {width}.")
        adapter = nn.Module()
        adapter.down = nn.Linear(width, rank)
        nn.init.xavier_uniform_(adapter.down.weight)
        nn.init.zeros_(adapter.down.bias)
        adapter.up_weight = nn.Parameter(torch.zeros(width, rank // groups))
        adapter.up_bias = nn.Parameter(torch.zeros(width))
        return adapter

    def attach(self, scope: Scope) -> None:
        """Puts the bottlenecks in front of the linear layers."""
        for block, site in self._places():
            scope.before(site, partial(self._adapted, self.own.adapters[f"{block}_{site}"]), block, tokenwise=True)

    def outputs_used(self, block: int) -> frozenset[Part]:
        """None."""
        return NO_PARTS

    def _adapted(self, adapter: Any, h: Tensor) -> Tensor:
        code = F.dropout(adapter.down(h), self.config.dropout, self.own.training)
        groups = self.config.groups
        weights, biases = adapter.up_weight.chunk(groups), adapter.up_bias.chunk(groups)
        parts = [F.linear(*each) for each in zip(code.chunk(groups, dim=-1), weights, biases)]
        return h + self.config.scale * torch.cat(parts, dim=-1)

    def merge(self, scope: Scope) -> None:
        """W (1 + s W_up W_down) and b + s W (W_up b_down + b_up), W and b of the linear layer behind."""
        for block, site in self._places():
            adapter: Any = self.own.adapters[f"{block}_{site}"]
            up = self.config.scale * torch.block_diag(*adapter.up_weight.chunk(self.config.groups))
            shift = up @ adapter.down.bias + self.config.scale * adapter.up_bias
            scope.fold_before(site, block, weight=up @ adapter.down.weight, bias=shift)
