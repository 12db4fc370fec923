"""SA2VP: a map of prompts, one per token, that runs beside the image's tokens through the same frozen blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vpbench.core.errors import UnsupportedError
from vpbench.interface import ALL_PARTS, Context, F, Method, MethodConfig, Part, Scope, Tokens, nn, option, torch
from vpbench.methods._frozen_attention import FrozenBlock

if TYPE_CHECKING:
    from torch import Tensor

_CODE = "tommy-xq/SA2VP vpt_main/src/models/vit_backbones/vit_tinypara.py"
EVERY = 4  # blocks; in the first of them the prompts ask the image, in the others the image asks the prompts


class SA2VPConfig(MethodConfig):
    """Options of SA2VP."""

    inner: int = option(16, "width r of the prompts' factors and of the bottlenecks", f"{_CODE}: 8 to 64 per task", ge=1)
    scale: float = option(0.1, "factor s on what is exchanged", f"{_CODE}: 0.1 to 1.5 per task", gt=0)
    prompt_loss: float = option(
        0.2, "share of the loss on what the classifier makes of the prompts", "tommy-xq/SA2VP engine_for_train.py", ge=0, le=1
    )
    dropout: float = option(
        0.1, "on what the cross-attention takes", f"{_CODE}: 0.1; that of the frozen backbone stays off: assumption", ge=0, lt=1
    )


class SA2VP(Method[SA2VPConfig]):
    """A prompt for every token, class token included, in a map p = E W^T + b + position embeddings, E (T, r) and W (D, r).

    In block l tokens q of one map ask those k of the other: z = q + proj(attention with queries from LN1 q, keys and values from
    LN1 k) with the block's frozen weights, where a patch sees the patches of its 3 x 3 neighbourhood and the class token all; f =
    W_up gelu(W_down LN(z) + b) + b with a norm of its own. p goes through the frozen block as the image's tokens x do. In the
    blocks 0, 4, 8 ... p asks x, and p = block(p) + s f; from block 4 on a second map of prompts, block(E_j W_j^T + b_j) * c_j, is
    added there. In the other blocks x asks p, and x = block(x) + s f.

    The loss is 0.8 CE(head(norm(x))) + 0.2 CE(head(norm(p))), class tokens; predictions read x alone.

    Parameters: (1 + J) (T r + D r + D) + J D + L (2 D + 2 D r + r + D), J = 2 for 12 blocks; on ViT-B/16 202,200 at r = 8,
    372,912 at 16, 1,397,184 at 64.
    """

    title = "SA2VP"
    summary = "a map of prompts beside the tokens, with local cross-attention"
    paper = "Pei et al., SA2VP: Spatially Aligned-and-Adapted Visual Prompt, AAAI 2024"
    year = 2024
    fidelity = "released-code"
    notes = (
        "The released file called accelerated is another function: one head as wide as the tokens, and padded neighbours whose"
        " zero keys take part in the softmax. This is the plain file's.",
        "The released code is fixed to 12 blocks and 14 x 14 patches; for other depths every fourth block is one in which the"
        " prompts ask (assumption). Its Swin is left out.",
        "There the whole frozen backbone stays in training mode, so that its dropout of 0.1 acts; here it does not.",
        "r and s are edited in the source per task. Its VTAB-1k mode testall monitors 200 images that it trains on; runs report"
        " the last epoch there, and on FGVC the best on validation images.",
        "Registers see all tokens, as the class token does, and prompts of backbones that norm their embeddings are not normed"
        " (assumptions: the released backbones have neither).",
        "It does not start as the frozen model. Blocks run twice: about 2.5 times the operations of the backbone.",
    )
    requires = ("class token",)
    Config = SA2VPConfig

    @classmethod
    def needs_classification(cls, config: Mapping[str, Any]) -> str:
        """See :meth:`vpbench.interface.Method.needs_classification`."""
        return "classifies its prompts' class token beside the image's"

    def build(self) -> None:
        """Creates ``prompts`` and ``bottlenecks``.

        Raises:
            UnsupportedError: for a backbone without a class token.
        """
        shape, own = self.shape, self.own
        if shape.prefix == 0:
            raise UnsupportedError("SA2VP classifies the class token, and the backbone has none.")
        asking = range(0, shape.depth, EVERY)
        own.prompts = nn.ModuleList(self._prompts(scaled=block > 0) for block in asking)
        own.bottlenecks = nn.ModuleList(self._bottleneck() for _ in range(shape.depth))
        own.register_buffer("mask", _neighbours(shape.grid, shape.prefix), persistent=False)

    def _prompts(self, scaled: bool) -> Any:
        prompts, width = nn.Module(), self.shape.width
        prompts.factor = nn.Parameter(torch.empty(self.shape.prefix + self.shape.patches, self.config.inner))
        nn.init.trunc_normal_(prompts.factor, std=0.02)
        prompts.proj = _linear(self.config.inner, width)
        if scaled:
            prompts.scale = nn.Parameter(torch.empty(width).normal_(0, 0.02))
        return prompts

    def _bottleneck(self) -> nn.ModuleDict:
        width, inner = self.shape.width, self.config.inner
        norm = nn.LayerNorm(width, eps=1e-6)
        return nn.ModuleDict({"norm": norm, "down": _linear(width, inner), "up": _linear(inner, width)})

    def attach(self, scope: Scope) -> None:
        """Keeps the frozen blocks, the final norm and the position embeddings.

        Raises:
            UnsupportedError: when the backbone's attention is not timm's plain one.
        """
        self._blocks = [FrozenBlock(scope, block, self.title) for block in range(self.shape.depth)]
        self._norm = scope.module("norm")
        self._positions = scope.parameters().get("pos_embed")

    def make_head(self, width: int, classes: int) -> nn.Module:
        """The linear classifier, which also reads the prompts in training."""
        self._head = super().make_head(width, classes)
        return self._head

    def before_block(self, block: int, tokens: Tokens, context: Context) -> Tokens:
        """Lets one map ask the other, and takes the prompts through the block."""
        prompts = self._start(tokens.batch_size) if block == 0 else context.stash["prompts"]
        asks = block % EVERY == 0
        taken = self._cross(block, prompts, tokens.x) if asks else self._cross(block, tokens.x, prompts)
        context.stash["taken"] = None if asks else taken
        if block < self.shape.depth - 1 or context.training:  # nothing reads the last ones otherwise
            context.stash["prompts"] = self._advanced(block, prompts, taken if asks else None)
        return tokens

    def after_block(self, block: int, tokens: Tokens, context: Context) -> Tokens:
        """Adds what the image's tokens took from the prompts."""
        taken = context.stash["taken"]
        return tokens if taken is None else tokens.with_values(tokens.x + self.config.scale * taken)

    def outputs_used(self, block: int) -> frozenset[Part]:
        """All."""
        return ALL_PARTS

    def loss(self, logits: Tensor, targets: Tensor, context: Context) -> Tensor:
        """Cross-entropy of the image's logits and of the prompts'."""
        share = self.config.prompt_loss
        found = (1 - share) * super().loss(logits, targets, context)
        return found + share * F.cross_entropy(self.prompt_logits(context).float(), targets)

    def prompt_logits(self, context: Context) -> Tensor:
        """What the classifier makes of the prompts in the class token's place, (B, classes), after a pass in training mode."""
        logits: Tensor = self._head(self._norm(context.stash["prompts"])[:, 0])
        return logits

    def _map(self, index: int) -> Tensor:
        """A map of prompts, (1, T, D)."""
        prompts = self.own.prompts[index]
        found: Tensor = prompts.proj(prompts.factor).unsqueeze(0)
        return found

    def _start(self, images: int) -> Tensor:
        prompts = self._map(0)
        if self._positions is not None:
            front = prompts.shape[1] - self._positions.shape[1]
            prompts = prompts + F.pad(self._positions, (0, 0, front, 0))
        return prompts.expand(images, -1, -1)

    def _advanced(self, block: int, prompts: Tensor, taken: Tensor | None) -> Tensor:
        """The prompts behind a block."""
        found = self._blocks[block](prompts)
        if taken is None:
            return found
        if block > 0:
            index = block // EVERY
            found = found + self._blocks[block](self._map(index)) * self.own.prompts[index].scale
        return found + self.config.scale * taken

    def _cross(self, block: int, asking: Tensor, asked: Tensor) -> Tensor:
        """f (B, T, D), what tokens of one map take from those of the other."""
        frozen, bottleneck = self._blocks[block], self.own.bottlenecks[block]
        keys_values = frozen.attention.keys_values(frozen.norm1(asked))
        taken = frozen.attention(frozen.norm1(asking), keys_values, self.own.mask)
        z = asking + F.dropout(taken, self.config.dropout, self.own.training)
        found: Tensor = bottleneck["up"](F.gelu(bottleneck["down"](bottleneck["norm"](z))))
        return found


def _linear(size_in: int, size_out: int) -> nn.Module:
    layer = nn.Linear(size_in, size_out)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.normal_(layer.bias, std=1e-6)
    return layer


def _neighbours(grid: int, prefix: int) -> Tensor:
    """Which tokens see which, (T, T): prefix tokens all, patches those at most one row and one column away."""
    steps = torch.arange(grid)
    near = (steps[:, None] - steps).abs() <= 1
    patches = (near[:, None, :, None] & near[None, :, None, :]).flatten(2).flatten(0, 1)
    mask = F.pad(patches, (prefix, 0, prefix, 0))
    mask[:prefix] = True
    return mask
