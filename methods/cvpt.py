"""CVPT: all tokens ask a block's prompts by cross-attention with the block's own weights."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from vpbench.interface import (
    NO_PARTS,
    Context,
    F,
    Method,
    MethodConfig,
    Part,
    Preset,
    Scope,
    Site,
    Tokens,
    nn,
    option,
    torch,
)
from vpbench.methods._frozen_attention import FrozenAttention, KeysValues

if TYPE_CHECKING:
    from torch import Tensor

_CODE = "Lingyun0419/CVPT CVPT.py"
SITES: dict[int, Site] = {2: "attention_branch", 3: "attention_branch", 4: "norm2", 5: "mlp_branch"}


class CVPTConfig(MethodConfig):
    """Options of CVPT."""

    prompt_length: int = option(10, "prompts P per block", f"{_CODE}: 1 to 200 per task; 10: assumption, as VPT", ge=1)
    insert: Literal[1, 2, 3, 4, 5] = option(
        3,
        "where: in front of the block, beside the attention, behind it, beside the MLP's norm, or behind the block",
        f"CVPT paper, section 3; {_CODE}: 3",
    )
    dropout: float = option(
        0.1, "on the prompts, element by element, sampled for every image", f"{_CODE}: 0.1; per image: assumption", ge=0, lt=1
    )


class CVPT(Method[CVPTConfig]):
    """u = x + attn(LN1 x), u += C(u), then the MLP; C(z) = proj(softmax(Q(z) K(p)^T / sqrt(d)) V(p)), p (P, D) of the block.

    The projections are the block's own, frozen; neither z nor p is normed. Prompts never join the sequence. With C(z) as here,
    ``insert`` 1 is x += C(x) in front of the block, 2 u = x + attn(LN1 x) + C(x), 4 u + mlp(LN2 u + C(u)), and 5 y += C(y) behind
    the block. For inference keys and values of the prompts are computed once.

    Parameters: L P D; 92,160 on ViT-B/16 at P = 10.
    """

    title = "CVPT"
    summary = "cross-attention of all tokens to a block's prompts"
    paper = "Huang et al., CVPT: Cross Visual Prompt Tuning, 2024 (arXiv 2408.14961)"
    year = 2024
    fidelity = "released-code"
    notes = (
        "It cannot start as the frozen model: with prompts of zero C is the constant proj(b_v).",
        "The released code copies the block's projections and keeps them frozen: they are the block's own here.",
        "The released files per task fix the seed as well, and select the best of every tenth epoch (FGVC: every) on the test"
        " images. Its README says that the CIFAR-100 number comes from another code.",
        "It costs two projections of all tokens per block, though the sequence is no longer.",
    )
    Config = CVPTConfig
    presets = {
        "parallel": Preset(
            "beside the attention",
            {"insert": 2},
            (("place", "behind the attention", "beside it: C reads the block's input"),),
        ),
    }

    def build(self) -> None:
        """Creates ``prompts`` (L, P, D), Xavier-uniform as one tensor."""
        self.own.prompts = nn.Parameter(torch.empty(self.shape.depth, self.config.prompt_length, self.shape.width))
        nn.init.xavier_uniform_(self.own.prompts)

    def attach(self, scope: Scope) -> None:
        """Adds what the tokens take from the prompts.

        Raises:
            UnsupportedError: when the backbone's attention is not timm's plain one.
        """
        self._attention = [FrozenAttention(scope, block, self.title) for block in range(self.shape.depth)]
        if self.config.insert in SITES:
            for block in range(self.shape.depth):
                scope.after(SITES[self.config.insert], partial(self._added, block), block, tokenwise=True)

    def before_block(self, block: int, tokens: Tokens, context: Context) -> Tokens:
        """With ``insert=1``, adds it in front of the block."""
        return tokens.with_values(tokens.x + self._taken(block, tokens.x)) if self.config.insert == 1 else tokens

    def outputs_used(self, block: int) -> frozenset[Part]:
        """None."""
        return NO_PARTS

    def _added(self, block: int, x: Tensor, y: Tensor) -> Tensor:
        return y + self._taken(block, x if self.config.insert in (2, 4) else x + y)

    def _taken(self, block: int, z: Tensor) -> Tensor:
        """C(z), (B, T, D)."""
        return self._attention[block](z, self._keys_values(block, z.shape[0]))

    def _keys_values(self, block: int, images: int) -> KeysValues:
        if hasattr(self.own, "keys"):
            return self.own.keys[block], self.own.values[block]
        prompts = self.own.prompts[block]
        if self.own.training and self.config.dropout:
            prompts = F.dropout(prompts.expand(images, -1, -1), self.config.dropout)
        return self._attention[block].keys_values(prompts)

    def merge(self, scope: Scope) -> None:
        """Computes keys and values of the prompts once."""
        with torch.no_grad():
            found = [self._attention[block].keys_values(self.own.prompts[block]) for block in range(self.shape.depth)]
        keys, values = zip(*found)
        self.own.register_buffer("keys", torch.stack(keys))
        self.own.register_buffer("values", torch.stack(values))
