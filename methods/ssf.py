"""SSF: features are scaled and shifted after every operation."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from vpbench.interface import ALL_FAMILIES, NO_PARTS, Method, MethodConfig, Part, Scope, Site, nn, option, torch

if TYPE_CHECKING:
    from torch import Tensor

IN_BLOCKS: tuple[Site, ...] = ("norm1", "qkv", "proj", "norm2", "fc1", "fc2")


class SSFConfig(MethodConfig):
    """Options of SSF."""

    init_std: float = option(
        0.02, "standard deviation of the initial scales (around 1) and shifts (around 0)", "dongzelian/SSF", ge=0
    )


class SSF(Method[SSFConfig]):
    """y = gamma * y + beta per channel, behind the patch embedding, each norm and each linear layer; merged exactly.

    Parameters: two per channel of every operation, 22 L D + 4 D where MLPs are 4 D wide: 205,824 on ViT-B/16, 16,896 per block.
    """

    title = "SSF"
    summary = "scales and shifts features after every operation"
    paper = "Lian et al., Scaling & Shifting Your Features, NeurIPS 2022"
    year = 2022
    group = "extra"
    fidelity = "released-code"
    families = ALL_FAMILIES
    notes = (
        "The released runs load the AugReg weights, not the ViT-B/16 of the other rows of iVPT's Table 1, and keep the best epoch"
        " on the test split.",
        "On Swin the merging of patches between stages is left as it is; the released code scales and shifts there, too.",
    )
    Config = SSFConfig

    def build(self) -> None:
        """Creates ``gamma`` and ``beta`` of every site."""
        self.own.sites = nn.ModuleDict()
        for site, block, channels in self._sites():
            self.own.sites[_key(site, block)] = self._scale_and_shift(channels)

    def _sites(self) -> Iterator[tuple[Site, int | None, int]]:
        """Site, block and number of channels."""
        yield "patch_embed", None, self.shape.width
        for block in range(self.shape.depth):
            for site in IN_BLOCKS:
                is_norm = site in ("norm1", "norm2")
                yield site, block, self.shape.width_of(block) if is_norm else self.shape.linear_of(site, block)[1]
        yield "norm", None, self.shape.width_of(self.shape.depth - 1)

    def _scale_and_shift(self, channels: int) -> nn.Module:
        module = nn.Module()
        module.gamma = nn.Parameter(torch.empty(channels).normal_(1, self.config.init_std))
        module.beta = nn.Parameter(torch.empty(channels).normal_(0, self.config.init_std))
        return module

    def attach(self, scope: Scope) -> None:
        """Scales and shifts at all sites."""
        for site, block, _ in self._sites():
            scope.after(site, partial(_scaled_and_shifted, self.own.sites[_key(site, block)]), block, tokenwise=True)

    def outputs_used(self, block: int) -> frozenset[Part]:
        """None."""
        return NO_PARTS

    def merge(self, scope: Scope) -> None:
        """Folds gamma and beta into the weights and biases before them."""
        for site, block, _ in self._sites():
            module: Any = self.own.sites[_key(site, block)]
            scope.fold(site, block, scale=module.gamma, bias=module.beta)


def _key(site: Site, block: int | None) -> str:
    return site if block is None else f"{block}_{site}"


def _scaled_and_shifted(module: Any, x: Tensor, y: Tensor) -> Tensor:
    return torch.addcmul(module.beta.to(y.dtype), y, module.gamma.to(y.dtype))
