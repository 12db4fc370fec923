"""Adapters: a small bottleneck behind each MLP, inside the residual branch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Literal

from vpbench.core.errors import UsageError
from vpbench.interface import ALL_FAMILIES, NO_PARTS, F, Method, MethodConfig, Part, Preset, Scope, Site, nn, option, torch

if TYPE_CHECKING:
    from torch import Tensor


class AdapterConfig(MethodConfig):
    """Options of adapters."""

    reduction: int = option(64, "token width over bottleneck r", "KMnP/vpt ADAPTER.REDUCATION_FACTOR: 8, 64 or 256", ge=1)
    bottleneck: int | None = option(None, "r itself, instead of the reduction", "NOAH: 8", ge=1)
    placement: Literal["pfeiffer", "houlsby"] = option(
        "pfeiffer", "behind the MLP, or behind the attention and the MLP", "Pfeiffer et al., 2021; Houlsby et al., 2019"
    )
    activation: Literal["gelu", "quick_gelu"] = option("gelu", "of the bottleneck", "KMnP/vpt: GELU; NOAH: x sigmoid(1.702 x)")
    init: Literal["zero_up", "zero", "xavier"] = option(
        "zero_up",
        "initial weights: W_down Xavier-uniform and W_up zero, all zero, or both Xavier-uniform; biases are zero",
        "zero_up: assumption, as AdaptFormer; zero: KMnP/vpt; xavier: NOAH",
    )


class Adapter(Method[AdapterConfig]):
    """m + W_up act(W_down m + b_down) + b_up, where m is what the MLP adds to the residual stream.

    Parameters: L (2 D r + D + r), twice with ``houlsby``; 230,544 on ViT-B/16 at reduction 64 (r = 12).
    """

    title = "Adapter"
    summary = "a bottleneck behind each MLP"
    paper = "Houlsby et al., ICML 2019; Pfeiffer et al., EACL 2021; baseline 'Adapter' of VPT's tables"
    year = 2019
    group = "extra"
    fidelity = "both-differ"
    families = ALL_FAMILIES
    notes = (
        "VPT's released baseline initialises W_down, W_up and their biases to zero: then the gradients of all but b_up are zero"
        " for ever, and it trains D values per block. The preset zero repeats that; the default starts from W_up = 0 alone.",
        "The tables of iVPT print 0.27 M, which is reduction 64; which reduction InsVP's cells used is not public.",
    )
    Config = AdapterConfig
    presets = {
        "zero": Preset(
            "VPT's released baseline, which trains b_up alone",
            {"init": "zero"},
            (("initial W_down", "Xavier-uniform", "zero, and so never trained"),),
        ),
        "noah": Preset(
            "NOAH's: Xavier-uniform weights, x sigmoid(1.702 x), r = 8",
            {"init": "xavier", "activation": "quick_gelu", "bottleneck": 8},
            (("initial W_up", "zero", "Xavier-uniform"), ("activation", "GELU", "x sigmoid(1.702 x)"), ("r", "D / 64", "8")),
        ),
        "houlsby": Preset(
            "a second adapter behind the attention",
            {"placement": "houlsby"},
            (("places", "behind the MLP", "behind the attention and behind the MLP"),),
        ),
    }

    def build(self) -> None:
        """Creates ``down`` (r, D), ``up`` (D, r) and their biases for every place.

        Raises:
            UsageError: when the reduction leaves no bottleneck.
        """
        self.own.adapters = nn.ModuleDict()
        for block, site in self._places():
            width = self.shape.width_of(block)
            bottleneck = self.config.bottleneck or width // self.config.reduction
            if bottleneck < 1:
                raise UsageError(f"adapter.reduction={self.config.reduction} is more than the token width {width}.")
            down, up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
            self._initialise(down, zero=self.config.init == "zero")
            self._initialise(up, zero=self.config.init != "xavier")
            self.own.adapters[f"{block}_{site}"] = nn.ModuleDict({"down": down, "up": up})

    def _places(self) -> Iterator[tuple[int, Site]]:
        sites: tuple[Site, ...] = ("mlp_branch",) if self.config.placement == "pfeiffer" else ("attention_branch", "mlp_branch")
        return ((block, site) for block in range(self.shape.depth) for site in sites)

    def _initialise(self, linear: nn.Linear, zero: bool) -> None:
        if zero:
            nn.init.zeros_(linear.weight)
        else:
            nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)

    def attach(self, scope: Scope) -> None:
        """Puts the adapters into the residual branches."""
        for block, site in self._places():
            scope.after(site, partial(self._adapted, self.own.adapters[f"{block}_{site}"]), block, tokenwise=True)

    def outputs_used(self, block: int) -> frozenset[Part]:
        """None."""
        return NO_PARTS

    def _adapted(self, adapter: nn.ModuleDict, x: Tensor, y: Tensor) -> Tensor:
        hidden = adapter["down"](y)
        hidden = F.gelu(hidden) if self.config.activation == "gelu" else hidden * torch.sigmoid(1.702 * hidden)
        return y + adapter["up"](hidden)
