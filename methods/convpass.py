"""Convpass: convolutional bypasses beside attention and MLP."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from vpbench.interface import ALL_FAMILIES, NO_PARTS, F, Method, MethodConfig, Part, Preset, Scope, Site, nn, option, torch

if TYPE_CHECKING:
    from torch import Tensor

_CODE = "JieShibo/PETL-ViT convpass/vtab/convpass.py"


class ConvpassConfig(MethodConfig):
    """Options of Convpass."""

    bottleneck: int = option(8, "channels r of the convolution", f"Convpass paper, section 4.1; {_CODE}", ge=1, le=1000)
    scale: float = option(
        1.0,
        "factor s on the bypasses",
        f"{_CODE}: 1 unless said otherwise; its configurations have 0.01 to 100 per task of VTAB-1k, chosen on test images",
        gt=0,
    )
    sites: Literal["both", "attention"] = option("both", "bypasses beside attention and MLP, or beside attention alone", _CODE)
    init: Literal["identity", "xavier"] = option(
        "identity", "initial convolution: the identity at its centre, or Xavier-uniform", f"{_CODE}: per task of VTAB-1k"
    )
    dropout: float = option(0.1, "in front of the last projection", _CODE, ge=0, lt=1)


class Convpass(Method[ConvpassConfig]):
    """u = x + attn(h1) + s cp(h1), y = u + mlp(h2) + s cp(h2), h1 = LN1 x and h2 = LN2 u.

    cp: D to r, QuickGELU, 3 x 3 convolution with zero padding on the patch grid, QuickGELU, dropout, r to D. Every prefix token
    is a 1 x 1 image of its own for the convolution, so that only its centre acts. The last projection starts at zero, so that it
    starts as the frozen model.

    Parameters: 2 L (2 D r + 9 r^2 + 2 r + D), half of that with ``sites=attention``; 327,552 on ViT-B/16 at r = 8.
    """

    title = "Convpass"
    summary = "convolutional bypasses beside attention and MLP"
    paper = "Jie and Deng, Convolutional Bypasses Are Better Vision Transformer Adapters, ECAI 2024 (arXiv 2207.07039)"
    year = 2024
    group = "extra"
    fidelity = "released-code"
    families = ALL_FAMILIES
    notes = (
        "The released code selects the epoch and s on the test images of VTAB-1k.",
        "On backbones with layer scale the bypass beside a branch is scaled with it (assumption: the released backbones have"
        " none).",
        "Register tokens are 1 x 1 images as the class token is (assumption: the released backbones have none). On Swin there is"
        " no prefix token, and the convolution runs over the whole patch grid, across windows, as released.",
    )
    Config = ConvpassConfig
    presets = {
        "attention": Preset(
            "bypasses beside attention alone (convpass_attn)",
            {"sites": "attention"},
            (("places", "beside attention and MLP", "beside attention: 163,776 parameters on ViT-B/16"),),
        ),
        "xavier": Preset(
            "the initial convolution that the released Swin and some of its VTAB-1k tasks have",
            {"init": "xavier"},
            (("initial convolution", "the identity at its centre", "Xavier-uniform"),),
        ),
    }

    def build(self) -> None:
        """Creates ``down`` (r, D), ``conv`` (r, r, 3, 3) and ``up`` (D, r), with biases, for every place."""
        self.own.bypasses = nn.ModuleDict(
            {f"{block}_{site}": self._bypass(self.shape.width_of(block)) for block, site in self._places()}
        )

    def _places(self) -> Iterator[tuple[int, Site]]:
        sites: tuple[Site, ...] = ("attention", "mlp") if self.config.sites == "both" else ("attention",)
        return ((block, site) for block in range(self.shape.depth) for site in sites)

    def _bypass(self, width: int) -> nn.ModuleDict:
        rank = self.config.bottleneck
        down, up = nn.Linear(width, rank), nn.Linear(rank, width)
        conv: Any = nn.Conv2d(rank, rank, 3, padding=1)
        nn.init.xavier_uniform_(down.weight)
        if self.config.init == "xavier":
            nn.init.xavier_uniform_(conv.weight)
        else:
            nn.init.dirac_(conv.weight)
        for zero in (up.weight, down.bias, conv.bias, up.bias):
            nn.init.zeros_(zero)
        return nn.ModuleDict({"down": down, "conv": conv, "up": up})

    def attach(self, scope: Scope) -> None:
        """Adds the bypasses to the outputs of attention and MLP."""
        for block, site in self._places():
            bypass, grid = self.own.bypasses[f"{block}_{site}"], self.shape.stage_of(block).grid
            # A prefix token is an image of its own, so that the last block may call this with the class token alone.
            scope.after(site, partial(self._bypassed, bypass, grid), block, tokenwise=block == self.shape.depth - 1)

    def outputs_used(self, block: int) -> frozenset[Part]:
        """None."""
        return NO_PARTS

    def _bypassed(self, bypass: Any, grid: int, x: Tensor, y: Tensor) -> Tensor:
        hidden = _quick_gelu(bypass["down"](x))
        prefix, patches = hidden[:, : self.shape.prefix], hidden[:, self.shape.prefix :]
        parts = [F.linear(prefix, bypass["conv"].weight[:, :, 1, 1], bypass["conv"].bias)] if self.shape.prefix else []
        if patches.shape[1]:
            maps = bypass["conv"](patches.transpose(1, 2).unflatten(2, (grid, grid)))
            parts.append(maps.flatten(2).transpose(1, 2))
        hidden = torch.cat(parts, dim=1)
        hidden = F.dropout(_quick_gelu(hidden), self.config.dropout, self.own.training)
        return y + self.config.scale * bypass["up"](hidden)


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)
