"""A frozen block, or its attention alone, applied to a method's own tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vpbench.core.errors import UnsupportedError
from vpbench.interface import F, Scope, torch

if TYPE_CHECKING:
    from torch import Tensor

KeysValues = tuple["Tensor", "Tensor"]


class FrozenAttention:
    """timm's plain attention of a block, of which queries and keys may come from different tokens.

    Args:
        scope: of the method.
        block: 0 to L-1.
        method: its title, for the message.

    Raises:
        UnsupportedError: for other attention.
    """

    def __init__(self, scope: Scope, block: int, method: str) -> None:
        from timm.layers import Attention

        attention: Any = scope.module("attention", block)
        if type(attention) is not Attention:
            raise UnsupportedError(f"{method} needs timm's plain attention; the backbone has {type(attention).__name__}.")
        self._attention = attention

    def keys_values(self, tokens: Tensor) -> KeysValues:
        """Of tokens (..., T, D), each (..., heads, T, D / heads)."""
        weight, bias, width = self._attention.qkv.weight, self._attention.qkv.bias, tokens.shape[-1]
        return self.split(F.linear(tokens, weight[width:], None if bias is None else bias[width:]))

    def split(self, projected: Tensor) -> KeysValues:
        """The same from what the joint projection made of the tokens: its last 2 D channels are keys and values."""
        width = self._attention.qkv.in_features
        key, value = (self._heads(each) for each in projected[..., -2 * width :].split(width, dim=-1))
        return self._attention.k_norm(key), value

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self._attention.num_heads, -1)).transpose(-3, -2)

    def __call__(self, tokens: Tensor, keys_values: KeysValues, mask: Tensor | None = None) -> Tensor:
        """What tokens (B, T, D) take from the values, behind the last projection, (B, T, D).

        Args:
            tokens: that ask.
            keys_values: of N tokens.
            mask: (T, N), true where a token sees another; None for everywhere.
        """
        attention, width, (key, value) = self._attention, tokens.shape[-1], keys_values
        bias = attention.qkv.bias
        query = F.linear(tokens, attention.qkv.weight[:width], None if bias is None else bias[:width])
        query = attention.q_norm(self._heads(query)) * attention.scale
        logits = query @ key.to(query.dtype).transpose(-2, -1)
        weights = (logits if mask is None else logits.masked_fill(~mask, -torch.inf)).softmax(-1)
        taken: Tensor = attention.proj((weights.to(query.dtype) @ value.to(query.dtype)).transpose(-3, -2).flatten(-2))
        return taken


class FrozenBlock:
    """A block with timm's plain attention. Arguments and errors as for :class:`FrozenAttention`.

    Attributes:
        norm1: in front of the attention.
        attention: of which queries and keys may come from different tokens.
    """

    def __init__(self, scope: Scope, block: int, method: str) -> None:
        self.attention = FrozenAttention(scope, block, method)
        self._whole = scope.module("attention", block)
        self.norm1, self._norm2, self._mlp = (scope.module(site, block) for site in ("norm1", "norm2", "mlp"))
        scales = {name.rpartition(".ls")[2]: each for name, each in scope.parameters(block=block).items() if ".ls" in name}
        self._scale1, self._scale2 = scales.get("1.gamma"), scales.get("2.gamma")  # of layer scale, where there is one

    def __call__(self, tokens: Tensor) -> Tensor:
        """The block's output for tokens (B, T, D)."""
        return self.finish(tokens, self._whole(self.norm1(tokens)))

    def finish(self, tokens: Tensor, attended: Tensor) -> Tensor:
        """The block's output for tokens, given what the attention made of them."""
        z = tokens + _scaled(attended, self._scale1)
        return z + _scaled(self._mlp(self._norm2(z)), self._scale2)


def _scaled(y: Tensor, gamma: Tensor | None) -> Tensor:
    return y if gamma is None else y * gamma
