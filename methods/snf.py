"""SNF: the identity shortcuts of each block become normalising flows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from vpbench.interface import ALL_FAMILIES, NO_PARTS, F, Method, MethodConfig, Part, Preset, Scope, Site, nn, option, torch

if TYPE_CHECKING:
    from torch import Tensor

SHORTCUTS: tuple[Site, ...] = ("attention_branch", "mlp_branch")


class SNFConfig(MethodConfig):
    """Options of SNF."""

    flows: int = option(
        6,
        "planar flows K per shortcut",
        "assumption: nearest to the 0.29 M of iVPT's Table 1; Wang-Yaoming/SNF flow.py: 16",
        ge=0,
        le=100,
    )
    init_bound: float = option(0.01, "v of the flows' initial U(-v, v)", "Wang-Yaoming/SNF flow.py", gt=0)


class SNF(Method[SNFConfig]):
    """u = F1(x) + attn(LN1 x), y = F2(u) + mlp(LN2 u): the shortcuts are flows instead of the identity.

    F is an affine map and K planar flows: z_0 = mu + exp(rho) * x, z_k = z_{k-1} + v_k tanh(w_k . z_{k-1} + b_k). The products
    w_k . z_{k-1} = w_k . z_0 + sum_{j<k} (w_k . v_j) t_j are computed from z_0, so that tokens are read once for all flows.

    Parameters: 2 L (2 D + K (2 D + 1)); on ViT-B/16 258,192 at K = 6, 627,072 at K = 16, 36,864 at K = 0.
    """

    title = "SNF"
    summary = "normalising flows in place of identity shortcuts"
    paper = "Wang et al., Adapting Shortcut with Normalizing Flow, CVPR 2023"
    year = 2023
    group = "extra"
    fidelity = "approximate"
    families = ALL_FAMILIES
    notes = (
        "What iVPT's row was run with is not public: the release is two files for CLIP and EVA blocks, without a training script"
        " or a configuration for VTAB-1k. K, learning rate and schedule are assumptions.",
        "The paper's abstract says 0.036 M, which is the affine map alone (K = 0: 36,864); iVPT prints 0.29 M with the mean"
        " VTAB-1k head (K = 6: 0.296 M); the released default K = 16 has 0.627 M.",
        "LN1 and LN2 read x and u, not F1(x) and F2(u). The flows' log-determinants are in no released loss.",
        "With flows it does not start as the frozen model: the released U(-0.01, 0.01) changes the logits by about 0.002.",
        "The released blocks leave out stochastic depth; here a recipe may switch it on for the branches, the shortcuts never"
        " drop.",
    )
    Config = SNFConfig
    presets = {
        "released": Preset(
            "the released default of 16 flows", {"flows": 16}, (("flows per shortcut", "6, by iVPT's count", "16, flow.py"),)
        ),
        "affine": Preset(
            "the count of the paper's abstract",
            {"flows": 0},
            (("flows per shortcut", "6, by iVPT's count", "none: 36,864 parameters, as the abstract's 0.036 M"),),
        ),
    }

    def build(self) -> None:
        """Creates ``mu`` and ``rho`` (D,), and ``w``, ``v`` (K, D) and ``b`` (K,), for every shortcut."""
        self.own.shortcuts = nn.ModuleDict(
            {f"{block}_{site}": self._flow(self.shape.width_of(block)) for block, site in self._places()}
        )

    def _places(self) -> Iterator[tuple[int, Site]]:
        return ((block, site) for block in range(self.shape.depth) for site in SHORTCUTS)

    def _flow(self, width: int) -> nn.Module:
        flow, count, bound = nn.Module(), self.config.flows, self.config.init_bound
        flow.mu, flow.rho = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        if count:
            flow.w = nn.Parameter(torch.empty(count, width).uniform_(-bound, bound))
            flow.v = nn.Parameter(torch.empty(count, width).uniform_(-bound, bound))
            flow.b = nn.Parameter(torch.empty(count).uniform_(-bound, bound))
        return flow

    def attach(self, scope: Scope) -> None:
        """Adds F(x) - x to what each branch adds to the stream x."""
        for block, site in self._places():
            scope.after(
                site, partial(_with_flow, self.own.shortcuts[f"{block}_{site}"], self.config.flows), block, tokenwise=True
            )

    def outputs_used(self, block: int) -> frozenset[Part]:
        """None."""
        return NO_PARTS


def _with_flow(flow: Any, count: int, x: Tensor, y: Tensor) -> Tensor:
    """y + F(x) - x."""
    change = torch.addcmul(flow.mu.to(x.dtype), x, flow.rho.expm1().to(x.dtype))
    if not count:
        return y + change
    affine = F.linear(x + change, flow.w, flow.b)  # w_k . z_0 + b_k, (B, T, K)
    mixing = flow.w @ flow.v.T  # row k: w_k . v_j
    steps: list[Tensor] = []
    for k, start in enumerate(affine.unbind(-1)):
        earlier = (torch.stack(steps, -1) @ mixing[k, :k, None].to(start.dtype)).squeeze(-1) if steps else 0
        steps.append(torch.tanh(start + earlier))
    return y + change + torch.stack(steps, -1).to(flow.v.dtype) @ flow.v
