"""VQT: learned queries collect features of every block for the classifier, and leave the backbone's tokens as they are."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from vpbench.interface import (
    ALL_PARTS,
    Context,
    F,
    Method,
    MethodConfig,
    Part,
    Preset,
    Scope,
    Tokens,
    option,
    torch,
    uniform_prompts,
)
from vpbench.methods._frozen_attention import FrozenBlock

if TYPE_CHECKING:
    from torch import Tensor

_CODE = "andytu28/VQT src/models/vit_backbones/h2t_vit.py"


class VQTConfig(MethodConfig):
    """Options of VQT."""

    queries: int = option(1, "query tokens T per block", "andytu28/VQT run_demo_exp.sh: 1, 10 or 20 per task of VTAB-1k", ge=1)
    normalise: bool = option(True, "divide the class feature and each block's part by their L2 norms", _CODE)
    dropout: float = option(0.1, "on the queries, element by element, sampled for every image", _CODE, ge=0, lt=1)


class VQT(Method[VQTConfig]):
    """z_l = q_l + proj(softmax(Q(LN1 q_l) K(LN1 x)^T / sqrt(d)) V(LN1 x)), z_l += mlp(LN2 z_l), with the weights of block l.

    q_l (T, D) are learned, and x are the tokens that enter the block. Queries are no keys and no values of any token, and z_l
    goes no further. The classifier reads the L + 1 parts [features, z_1, ..., z_L], T D values of each block.

    Parameters: L T D, 9,216 T on ViT-B/16; the classifier has (D (1 + L T) + 1) C, 9,985 C at T = 1, thirteen times that of
    linear probing.
    """

    title = "VQT"
    summary = "learned queries collect the features of all blocks"
    paper = "Tu et al., Visual Query Tuning: Towards Effective Usage of Intermediate Representations, CVPR 2023"
    year = 2023
    fidelity = "released-code"
    notes = (
        "Its parameters are nearly all in the classifier, which papers' counts of tuned parameters leave out.",
        "No gradient goes through the backbone's own tokens. Their maps could be cached per image, which is not done here.",
        "A second step of the paper, which is left out: a penalty on the classifier's columns, of which the best 70 % are kept.",
        "The released runs choose learning rate and weight decay on 200 validation images, report the last epoch, and take a"
        " supervised ViT-B/16 of ImageNet-1k unless another is set.",
        "On MAE the first part is the norm of the mean token, as the backbone's own pooling is.",
    )
    Config = VQTConfig
    presets = {
        "released": Preset(
            "the released head",
            {"head_init": "vpt"},
            (("head", "PyTorch's initial values", "Kaiming-normal (fan-out), bias -4.595"),),
        ),
    }

    @classmethod
    def needs_classification(cls, config: Mapping[str, Any]) -> str:
        """See :meth:`vpbench.interface.Method.needs_classification`."""
        return "reads the outputs of its queries, in place of the features"

    def build(self) -> None:
        """Creates ``queries`` (L, T, D) as VPT's prompts are."""
        shape = self.shape
        self.own.queries = uniform_prompts(shape, shape.depth, self.config.queries, shape.width)

    def attach(self, scope: Scope) -> None:
        """Keeps each block's projections of its tokens, which are its keys and values.

        Raises:
            UnsupportedError: when the backbone's attention is not timm's plain one.
        """
        self._blocks = [FrozenBlock(scope, block, self.title) for block in range(self.shape.depth)]
        self._projected: dict[int, Tensor] = {}
        for block in range(self.shape.depth):
            scope.after("qkv", partial(self._keep, block), block)

    def _keep(self, block: int, x: Tensor, y: Tensor) -> Tensor:
        self._projected[block] = y
        return y

    def after_block(self, block: int, tokens: Tokens, context: Context) -> Tokens:
        """Lets the block's queries ask its tokens."""
        queries = self.own.queries[block].expand(tokens.batch_size, -1, -1)
        if context.training and self.config.dropout:
            queries = F.dropout(queries, self.config.dropout)
        frozen, projected = self._blocks[block], self._projected.pop(block)
        taken = frozen.attention(frozen.norm1(queries), frozen.attention.split(projected))
        context.stash[f"vqt.{block}"] = frozen.finish(queries, taken)
        return tokens

    def outputs_used(self, block: int) -> frozenset[Part]:
        """Patch tokens are keys and values of all blocks."""
        return ALL_PARTS

    def readout(self, tokens: Tokens, features: Tensor, context: Context) -> Tensor:
        """The features of the frozen model and what the queries collected."""
        parts = [features, *(context.stash[f"vqt.{block}"].flatten(1) for block in range(self.shape.depth))]
        return torch.cat([F.normalize(part, dim=1) for part in parts] if self.config.normalise else parts, dim=1)

    def readout_width(self, width: int) -> int:
        """Features and T tokens of every block."""
        return width + self.shape.depth * self.config.queries * self.shape.width
