"""A frozen backbone, a method and a classifier as one torch module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vpbench.backbones.base import Backbone, Wanted
from vpbench.core.errors import UnsupportedError
from vpbench.interface import Context, Method, Scope, Tokens


@dataclass(frozen=True)
class Frozen:
    """What the blocks in front of a method's first one make of images: it never changes in training.

    Attributes:
        values: the sequence that enters the method's first block, (B, T, D); features, (B, feature_width), where the method acts
            behind all blocks.
    """

    values: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def chunk(self, parts: int) -> list[Frozen]:
        """As of a tensor, along the images."""
        return [Frozen(values) for values in self.values.chunk(parts)]


class PromptedModel(nn.Module):
    """Maps normalised images (B, C, S, S) to logits (B, classes).

    Only the method's own tensors, the head's, and those the method asked for in the backbone require gradients; the
    backbone stays in evaluation mode whatever mode the model is in.

    Args:
        backbone: adapter of the frozen backbone.
        method: the method, not yet built.
        classes: number of classes.

    Raises:
        UnsupportedError: when the method does not work on the backbone's family.
    """

    def __init__(self, backbone: Backbone, method: Method[Any], classes: int) -> None:
        super().__init__()
        if backbone.shape.family not in method.families:
            families = ", ".join(sorted(method.families))
            raise UnsupportedError(f"{method.title} works on {families}, not on {backbone.shape.family}.")
        self.backbone, self.method = backbone, method
        method.build()
        self.own: nn.Module = method.own
        self.head = method.make_head(backbone.feature_width, classes)
        self.scope = Scope(backbone)
        method.attach(self.scope)
        self.train()

    def train(self, mode: bool = True) -> PromptedModel:
        super().train(mode)
        self.backbone.eval()
        return self

    def frozen(self, images: Tensor) -> Frozen:
        """Images through all that lies in front of the method's first block; nothing there has a gradient, unless somebody
        asks for that of an activation."""
        tokens = self._through(0, self.method.first_block, self.backbone.embed(images))
        return Frozen(self.backbone.pool(tokens) if self._reads_features else tokens.x)

    def features(self, inputs: Tensor | Frozen, context: Context | None = None) -> Tensor:
        """What the classifier reads, (B, feature_width), from one forward pass.

        Args:
            inputs: images, or what is known of them already.
        """
        context = context or self._context(inputs)
        if self.method.first_block == 0 and isinstance(inputs, Tensor):
            tokens = self.backbone.embed(self.method.pixels(inputs, context))
        else:
            known = inputs if isinstance(inputs, Frozen) else self.frozen(inputs)
            if self._reads_features:
                return known.values
            tokens = Tokens(known.values, self.backbone.shape.prefix)
        return self.backbone.pool(self._through(self.method.first_block, self.backbone.shape.depth, tokens, context))

    def _context(self, inputs: Tensor | Frozen) -> Context:
        images = inputs if isinstance(inputs, Tensor) and self.method.first_block == 0 else torch.empty(0)
        return Context(images, self.training)

    @property
    def _reads_features(self) -> bool:
        """Whether the method leaves all blocks as they are."""
        return self.method.first_block == self.backbone.shape.depth

    def _through(self, first: int, end: int, tokens: Tokens, context: Context | None = None) -> Tokens:
        """Blocks ``first`` to ``end`` - 1, and the method around them if there is a context."""
        for block in range(first, end):
            if self.backbone.shape.starts_stage(block):
                tokens = self.backbone.enter_stage(block, tokens)
            if context is None:
                tokens = self.backbone.block(block, tokens, self._read_on(block))
                continue
            tokens = self.method.before_block(block, tokens, context)
            tokens = self.backbone.block(block, tokens, self._wanted(block))
            tokens = self.method.after_block(block, tokens, context)
        return tokens

    def _wanted(self, block: int) -> Wanted:
        """What of a block's output the method, the next block or the pooling reads."""
        read, pooled = self.method.reads(block), self._read_on(block)
        if "prompts" in read or pooled == "all":
            return "all"
        return "rest" if "patches" in read else pooled

    def _read_on(self, block: int) -> Wanted:
        """What of a block's output the next block or the pooling reads."""
        return self.backbone.pooled if block == self.backbone.shape.depth - 1 else "rest"

    def forward(self, inputs: Tensor | Frozen) -> Tensor:
        if self.method.first_block or isinstance(inputs, Frozen):
            return self.head(self.features(inputs))
        return self.method.predict(self._once, inputs)

    def prediction(self, inputs: Tensor | Frozen, with_features: bool = False) -> tuple[Tensor, Tensor | None]:
        """Logits as of :meth:`forward`, and if asked for the features of one forward pass; only where a prediction takes several
        is that another one."""
        if not with_features:
            return self(inputs), None
        features = self.features(inputs)
        is_single = isinstance(inputs, Frozen) or self.method.first_block > 0 or type(self.method).predict is Method.predict
        return self.head(features) if is_single else self(inputs), features

    def _once(self, images: Tensor, **stash: Any) -> Tensor:
        return self.head(self.features(images, Context(images, self.training, stash)))

    def training_loss(self, inputs: Tensor | Frozen, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Loss (a scalar, float32) and logits of one batch in training mode."""
        context = self._context(inputs)
        logits = self.head(self.features(inputs, context)).float()
        return self.method.loss(logits, targets, context), logits

    def own_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Name and tensor of everything that training may change, buffers included: what is saved."""
        yield from (("own." + name, tensor) for name, tensor in self.own.state_dict(keep_vars=True).items())
        yield from (("head." + name, tensor) for name, tensor in self.head.state_dict(keep_vars=True).items())
        yield from ((f"backbone.{index}", tensor) for index, tensor in enumerate(self.scope.trained))

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of :meth:`own_tensors`."""
        return {name: tensor.detach().clone() for name, tensor in self.own_tensors()}

    def restore(self, snapshot: dict[str, Tensor]) -> None:
        """Put a snapshot back.

        Raises:
            KeyError: when a tensor is missing in it.
        """
        with torch.no_grad():
            for name, tensor in self.own_tensors():
                tensor.copy_(snapshot[name])

    def reinitialise(self) -> None:
        """Draw new initial values for the method's tensors and the head's from the global random stream."""
        fresh = type(self.method)(self.method.config, self.method.shape, self.method.classes)
        fresh.build()
        self.own.load_state_dict(fresh.own.state_dict())
        self.head.load_state_dict(fresh.make_head(self.backbone.feature_width, fresh.classes).state_dict())

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Name and parameter of every trainable tensor."""
        return [
            (name, tensor) for name, tensor in self.own_tensors() if isinstance(tensor, nn.Parameter) and tensor.requires_grad
        ]
