"""AdaptFormer: a scaled bottleneck in parallel to each MLP."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from vpbench.interface import ALL_FAMILIES, NO_PARTS, F, Method, MethodConfig, Part, Preset, Scope, nn, option
from vpbench.methods._batch_norm import batch_norm

if TYPE_CHECKING:
    from torch import Tensor

_CODE = "ShoufaChen/AdaptFormer"


class AdaptFormerConfig(MethodConfig):
    """Options of AdaptFormer."""

    bottleneck: int = option(
        64, "width r of the bottleneck", f"AdaptFormer paper, section 4.1; {_CODE} main_image.py --ffn_num", ge=1
    )
    scale: float = option(
        0.1, "factor s on the bottleneck's output", f"AdaptFormer paper, equation 3; {_CODE} ffn_adapter_scalar", gt=0
    )
    dropout: float = option(0.1, "behind the ReLU", f"{_CODE} models/custom_modules.py", ge=0, lt=1)
    batch_norm: bool = option(
        False,
        "a batch norm without parameters (eps 1e-6) in front of the classifier",
        f"{_CODE} main_image.py, which has it from linear probing; off: assumption, for the same head as other methods'",
    )


class AdaptFormer(Method[AdaptFormerConfig]):
    """y = u + mlp(LN2 u) + s (W_up relu(W_down u + b_down) + b_up), u the residual stream that enters the MLP's branch.

    W_down is Kaiming-uniform, W_up and the biases are zero, so that it starts as the frozen model.

    Parameters: L (2 D r + D + r); on ViT-B/16 1,189,632 at r = 64 and 156,768 at r = 8.
    """

    title = "AdaptFormer"
    summary = "a scaled bottleneck parallel to each MLP"
    paper = "Chen et al., AdaptFormer: Adapting Vision Transformers for Scalable Visual Recognition, NeurIPS 2022"
    year = 2022
    group = "extra"
    fidelity = "released-code"
    families = ALL_FAMILIES
    notes = (
        "The bottleneck reads the MLP's input before its norm, and its output is added behind layer scale and stochastic depth.",
        "iVPT's Table 1 prints 0.22 M with the mean VTAB-1k head: no bottleneck gives that (r = 8: 0.195 M, r = 64: 1.228 M). The"
        " row comes from SCT's run, whose configuration says 96 (1.78 M).",
        "The released code initialises the classifier from a normal distribution of 0.01; here head_init decides.",
        "A last batch of a single image takes the running statistics of batch norm; the released code leaves incomplete batches"
        " out.",
    )
    Config = AdaptFormerConfig
    presets = {
        "released": Preset(
            "the released code's head",
            {"batch_norm": True},
            (
                ("in front of the classifier", "nothing", "batch norm without parameters"),
                ("training", "the suite's", "SGD, base rate 0.1, no weight decay, 20 of 100 epochs of warm-up (recipe)"),
            ),
        ),
        "vtab": Preset(
            "the bottleneck that is usual on VTAB-1k",
            {"bottleneck": 8},
            (("bottleneck", "64", "8, as in the comparisons of NOAH, SSF and FacT"),),
        ),
    }

    @property
    def needs_whole_batches(self) -> bool:
        """With batch norm."""
        return self.config.batch_norm

    def build(self) -> None:
        """Creates ``down`` (r, D) and ``up`` (D, r) with biases for every block."""
        self.own.adapters = nn.ModuleList(self._bottleneck(self.shape.width_of(block)) for block in range(self.shape.depth))

    def _bottleneck(self, width: int) -> nn.ModuleDict:
        rank = self.config.bottleneck
        down, up = nn.Linear(width, rank), nn.Linear(rank, width)
        nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
        for zero in (down.bias, up.weight, up.bias):
            nn.init.zeros_(zero)
        return nn.ModuleDict({"down": down, "up": up})

    def attach(self, scope: Scope) -> None:
        """Adds the bottlenecks' outputs to the MLPs' branches."""
        for block, adapter in enumerate(self.own.adapters):
            scope.after("mlp_branch", partial(self._adapted, adapter), block, tokenwise=True)

    def outputs_used(self, block: int) -> frozenset[Part]:
        """None."""
        return NO_PARTS

    def make_head(self, width: int, classes: int) -> nn.Module:
        """The linear classifier, behind batch norm where the options say so."""
        head = super().make_head(width, classes)
        return nn.Sequential(batch_norm(width, affine=False, eps=1e-6), head) if self.config.batch_norm else head

    def _adapted(self, adapter: nn.ModuleDict, x: Tensor, y: Tensor) -> Tensor:
        hidden = F.dropout(adapter["down"](x).relu(), self.config.dropout, self.own.training)
        return y + self.config.scale * adapter["up"](hidden)
