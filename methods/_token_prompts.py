"""Prompt tokens that stand before every block (deep) or before one (shallow), for VPT and the methods on top of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from vpbench.core.errors import UsageError
from vpbench.interface import (
    ALL_PARTS,
    NO_PARTS,
    Context,
    F,
    Method,
    MethodConfig,
    Part,
    Session,
    Tokens,
    block_prompts,
    nn,
    of_block,
    option,
    torch,
)

if TYPE_CHECKING:
    from torch import Tensor

Observer = Callable[[int, "Tensor"], None]  # gets a block and the patch tokens that enter it, (B, M, D)


class TokenPromptsConfig(MethodConfig):
    """Options of all of them."""

    prompt_length: int = option(
        10, "prompt tokens N per block", "VPT paper, section 3.2; chosen per data set from 1 to 200", ge=1
    )
    deep: bool = option(
        True,
        "new prompts before every block, their outputs discarded; else prompts before the first one only",
        "VPT paper, equations 4 to 7",
    )
    start: int = option(
        0,
        "first block with prompts: deep ones stand before it and every later one, shallow ones before it alone",
        "VPT paper, figure on prompt depth; 0 in all its tables",
        ge=0,
    )
    dropout: float = option(
        0.1,
        "on the prompts, element by element, sampled for every image",
        "KMnP/vpt: 0.1 in its deep runs, 0.0 in its shallow ones",
        ge=0,
        lt=1,
    )


C = TypeVar("C", bound=TokenPromptsConfig)


class TokenPrompts(Method[C]):
    """Inserts :meth:`prompts_of` a block before it. Who makes prompts of other tensors overrides it and ``build``."""

    _observer: Observer | None = None  # while the plain model is being looked at

    def build(self) -> None:
        """Creates ``prompts`` (1 or L - start, N, D).

        Raises:
            UsageError: when the backbone has no block ``start``.
        """
        self.check_start()
        self.own.prompts = block_prompts(self.shape, self.config.prompt_length, self.prompt_blocks)

    def check_start(self) -> None:
        """
        Raises:
            UsageError: when the backbone has no block ``start``.
        """
        start, name = self.config.start, type(self).__module__.rpartition(".")[2]
        if start >= self.shape.depth:
            raise UsageError(f"{name}.start={start}: this backbone has the blocks 0 to {self.shape.depth - 1}.")

    def prompts_of(self, block: int) -> Tensor:
        """Prompts of a block, (N, D)."""
        return of_block(self.own.prompts, block - self.config.start)

    def transformed(self, prompts: Tensor) -> Tensor:
        """What is done to prompts (N, D) or (B, N, D) behind their dropout."""
        return prompts

    @property
    def prompt_blocks(self) -> range:
        """Blocks that have prompts of their own."""
        start = self.config.start
        return range(start, self.shape.depth if self.config.deep else start + 1)

    @property
    def first_block(self) -> int:
        """The first with prompts."""
        return self.config.start

    def before_block(self, block: int, tokens: Tokens, context: Context) -> Tokens:
        """Inserts the block's prompts; in deep mode these replace what the last block made of its own."""
        if self._observer is not None:
            self._observer(block, tokens.patch_tokens)
            return tokens
        return tokens.with_prompts(self._inserted(block, tokens, context)) if block in self.prompt_blocks else tokens

    def outputs_used(self, block: int) -> frozenset[Part]:
        """Shallow prompts pass through all blocks; deep ones are replaced."""
        if self._observer is not None:
            return ALL_PARTS
        return frozenset({"prompts"}) if not self.config.deep and block < self.shape.depth - 1 else NO_PARTS

    def _inserted(self, block: int, tokens: Tokens, context: Context) -> Tensor:
        if hasattr(self.own, "merged"):
            merged: Tensor = self.own.merged[block - self.config.start]
            return merged
        prompts = self.prompts_of(block)
        if context.training and self.config.dropout:
            prompts = F.dropout(prompts.expand(tokens.batch_size, -1, -1), self.config.dropout)
        return self.transformed(prompts)

    def merge_prompts(self) -> None:
        """Compute once what is inserted: what remains is VPT."""
        with torch.no_grad():
            prompts = [self.transformed(self.prompts_of(block)).clone() for block in self.prompt_blocks]
        self.own.merged = nn.ParameterList([nn.Parameter(each, requires_grad=False) for each in prompts])

    @contextmanager
    def observing(self, observer: Observer) -> Iterator[None]:
        """In the block, forward passes are those of the plain model, and the observer sees what enters its blocks."""
        self._observer = observer
        try:
            with torch.no_grad():
                yield
        finally:
            self._observer = None


def sampled_images(session: Session, count: int) -> Tensor:
    """Training images without augmentation, drawn without replacement from torch's global random stream, in their own order.

    Args:
        session: of the run.
        count: how many; all, where there are fewer.

    Returns:
        Normalised images, (count, C, S, S).
    """
    kept: list[Tensor] = []
    keys = torch.empty(0)
    for images, _ in session.training_batches():
        keys = torch.cat([keys, torch.rand(len(images))])
        kept += images.unbind()
        chosen = keys.topk(min(count, len(keys)), largest=False).indices.sort().values
        keys, kept = keys[chosen], [kept[index] for index in chosen.tolist()]
    return torch.stack(kept)
