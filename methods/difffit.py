"""DiffFit: biases and norms of the backbone are trained, and a factor per channel on every residual branch."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from vpbench.interface import ALL_FAMILIES, NO_PARTS, Method, MethodConfig, Part, Scope, Site, nn, option, torch

if TYPE_CHECKING:
    from torch import Tensor

BRANCHES: tuple[Site, Site] = ("attention_branch", "mlp_branch")


class DiffFitConfig(MethodConfig):
    """Options of DiffFit."""

    relative_positions: bool = option(
        False,
        "train the tables of relative position biases, too (Swin)",
        "OSU-MLB/ViT_PEFT_Vision trains all parameters with 'bias' in their name; assumption: tables are no biases",
    )


class DiffFit(Method[DiffFitConfig]):
    """u = x + gamma1 * attn(LN1 x), y = u + gamma2 * mlp(LN2 u); all biases and all norms are trained with gamma.

    gamma (D,) is one at the start and stands behind layer scale and stochastic depth. For inference it is merged exactly into the
    branch's last linear layer.

    Parameters of ViT-B/16: 2 L D = 18,432 of gamma, 102,912 biases and 19,200 weights of norms: 140,544. The keys' third of each
    qkv bias, 9,216 in all, has no gradient but rounding.
    """

    title = "DiffFit"
    summary = "biases and norms are fine-tuned, and residual branches scaled"
    paper = (
        "Xie et al., DiffFit: Unlocking Transferability of Large Diffusion Models via Simple Parameter-Efficient Fine-Tuning,"
        " ICCV 2023"
    )
    year = 2023
    group = "partial"
    fidelity = "released-code"
    families = ALL_FAMILIES
    notes = (
        "The paper adapts diffusion models; this is its form for classifiers in OSU-MLB/ViT_PEFT_Vision.",
        "Norms and biases are found by their names there: norms of queries and keys belong to them.",
        "The released code keeps the names that it trains in a list of the module, which grows when one process builds several"
        " models; here each model has its own.",
        "Learning rate and weight decay are searched per task there, with weight decay on norms and gamma, too.",
    )
    Config = DiffFitConfig

    def build(self) -> None:
        """Creates ``gamma`` (D,) for both branches of every block."""
        self.own.gamma = nn.ParameterDict(
            {
                f"{block}_{site}": nn.Parameter(torch.ones(self.shape.width_of(block)))
                for block in range(self.shape.depth)
                for site in BRANCHES
            }
        )

    def attach(self, scope: Scope) -> None:
        """Scales the branches; trains what has 'bias' or 'norm' in its name."""
        for block in range(self.shape.depth):
            for site in BRANCHES:
                scope.after(site, partial(_scaled, self.own.gamma[f"{block}_{site}"]), block, tokenwise=True)
        tables = () if self.config.relative_positions else ("relative_position_bias_table",)
        scope.train(
            {
                name: each
                for name, each in scope.parameters().items()
                if ("bias" in name or "norm" in name) and not name.endswith(tables)
            }
        )

    def outputs_used(self, block: int) -> frozenset[Part]:
        """None."""
        return NO_PARTS

    def merge(self, scope: Scope) -> None:
        """Merges gamma into the last linear layers of the branches."""
        for block in range(self.shape.depth):
            for site in BRANCHES:
                scope.fold(site, block, scale=self.own.gamma[f"{block}_{site}"])


def _scaled(gamma: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return y * gamma.to(y.dtype)
