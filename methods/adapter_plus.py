"""Adapter+: a bottleneck behind every block, on the residual stream, with a learned scale per channel."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from vpbench.interface import ALL_FAMILIES, NO_PARTS, F, Method, MethodConfig, Part, Preset, Scope, Site, nn, option, torch

if TYPE_CHECKING:
    from torch import Tensor

_CODE = "visinf/adapter_plus"
STD = {"houlsby": 0.01, "bert": 0.02}  # of the initial weights


class AdapterPlusConfig(MethodConfig):
    """Options of Adapter+."""

    bottleneck: int = option(8, "width r of the bottleneck", f"{_CODE} conf/adapter/base_adapter.yaml; README: 1 to 32", ge=1)
    position: Literal["post", "pre", "parallel", "intermediate", "pfeiffer", "houlsby"] = option(
        "post",
        "what the adapter reads and where its output is added, see the method",
        f"Adapter+ paper, section 3; {_CODE} adapter_plus/vit_adapter.py",
    )
    scaling: Literal["channel", "learned", "none"] = option(
        "channel", "of the output: a learned factor per channel, a single one, or none", f"{_CODE} conf/adapter/adapter_plus.yaml"
    )
    init: Literal["houlsby", "bert", "lora"] = option(
        "houlsby",
        "both weights from N(0, 0.01) cut at 0.02, or from N(0, 0.02); or W_down Kaiming-uniform and W_up zero",
        f"{_CODE} adapter_plus/vit_adapter.py",
    )
    drop_path: float = option(
        0.1,
        "stochastic depth of the adapters' outputs, the same in all blocks",
        f"{_CODE} conf/adapter/adapter_plus.yaml; that of the blocks is recipe.drop_path",
        ge=0,
        lt=1,
    )


class AdapterPlus(Method[AdapterPlusConfig]):
    """y = b + s * (W_up gelu(W_down b + b_down) + b_up), b the output of a block and s (D,) its scale, which starts at one.

    With A(z) for the added term, u for the stream behind the attention's branch a, and m for what the MLP adds, the other
    positions are: ``pre`` u + A(u) in front of the MLP's branch; ``parallel`` u + m + A(u); ``intermediate`` u + m + A(m);
    ``pfeiffer`` u + m + A(LN(u + m)) with a norm of its own; ``houlsby`` A(a) and A(m), with two adapters per block.

    Parameters: L (2 D r + r + 2 D), twice with ``houlsby``; 165,984 on ViT-B/16 at r = 8, 36,876 at 1, 608,640 at 32.
    """

    title = "Adapter+"
    summary = "a bottleneck with channel-wise scaling behind every block"
    paper = "Steitz and Roth, Adapters Strike Back, CVPR 2024"
    year = 2024
    group = "extra"
    fidelity = "released-code"
    families = ALL_FAMILIES
    notes = (
        "It starts near the frozen model, not at it, since both weights are drawn: released logits differ by 0.002 on a tiny"
        " ViT. init=lora starts at it.",
        "pfeiffer without its own norm is exactly post.",
        "The released runs fix all settings but r, and report the last epoch: nothing is selected on test images.",
        "How r was chosen per task is not public; r = 8 everywhere unless a preset says otherwise.",
        "The released LoRA of the same code adapts queries and keys, not queries and values.",
        "Biases are always there (an option in the released code). The adapters' non-linearity stands on the stream: nothing can"
        " be merged.",
    )
    Config = AdapterPlusConfig
    presets = {
        "dim1-32": Preset(
            "r per task, from 1 to 32 (adapter_plus_dim1-32)",
            {},
            (("r", "8", "per task, in the recipe: 1 to 32; mean 11.5 on VTAB-1k"),),
        ),
        "dim1-8": Preset(
            "r per task, from 1 to 8 (adapter_plus_dim1-8)",
            {},
            (("r", "8", "per task of VTAB-1k, in the recipe: 1 to 8; mean 5.6"),),
        ),
        "dim1-4": Preset(
            "r per task, from 1 to 4 (adapter_plus_dim1-4)",
            {"bottleneck": 4},
            (("r", "8", "per task of VTAB-1k, in the recipe: 1 to 4; elsewhere 4"),),
        ),
    }

    def build(self) -> None:
        """Creates ``down`` (r, D) and ``up`` (D, r) with biases, ``scale`` and, with ``pfeiffer``, ``norm`` for every place."""
        self.own.adapters = nn.ModuleDict(
            {f"{block}_{site}": self._adapter(self.shape.width_of(block)) for block, site in self._places()}
        )

    def _places(self) -> Iterator[tuple[int, Site]]:
        """Block and the branch whose output changes."""
        sites: dict[str, tuple[Site, ...]] = {"pre": ("attention_branch",), "houlsby": ("attention_branch", "mlp_branch")}
        found = sites.get(self.config.position, ("mlp_branch",))
        return ((block, site) for block in range(self.shape.depth) for site in found)

    def _adapter(self, width: int) -> Any:
        config = self.config
        adapter: Any = nn.Module()
        if config.position == "pfeiffer":
            adapter.norm = nn.LayerNorm(width, eps=1e-6)
        adapter.down, adapter.up = nn.Linear(width, config.bottleneck), nn.Linear(config.bottleneck, width)
        if config.init == "lora":  # W_down and its bias are as PyTorch draws them
            nn.init.zeros_(adapter.up.weight)
        else:
            std, cut = STD[config.init], 2 * STD[config.init] if config.init == "houlsby" else math.inf
            for layer in (adapter.down, adapter.up):
                nn.init.trunc_normal_(layer.weight, std=std, a=-cut, b=cut)
            nn.init.zeros_(adapter.down.bias)
        nn.init.zeros_(adapter.up.bias)
        if config.scaling != "none":
            adapter.scale = nn.Parameter(torch.ones(width if config.scaling == "channel" else 1))
        return adapter

    def attach(self, scope: Scope) -> None:
        """Adds the adapters' outputs to the branches'."""
        for block, site in self._places():
            scope.after(site, partial(self._adapted, self.own.adapters[f"{block}_{site}"]), block, tokenwise=True)

    def outputs_used(self, block: int) -> frozenset[Part]:
        """None."""
        return NO_PARTS

    def _adapted(self, adapter: Any, x: Tensor, y: Tensor) -> Tensor:
        """A branch's output y with that of the adapter; x is the stream that enters the branch."""
        position = self.config.position
        if position in ("intermediate", "houlsby"):
            z = y
        elif position == "parallel":
            z = x
        else:
            z = x + y
        if position == "pfeiffer":
            z = adapter.norm(z)
        update = self._dropped(adapter.up(F.gelu(adapter.down(z))))
        return y + (update if self.config.scaling == "none" else update * adapter.scale.to(update.dtype))

    def _dropped(self, update: Tensor) -> Tensor:
        """Stochastic depth: zero for some images, larger for the others, in training."""
        rate = self.config.drop_path
        if rate == 0 or not self.own.training:
            return update
        return update * update.new_empty(len(update), 1, 1).bernoulli_(1 - rate).div_(1 - rate)
