"""A frozen backbone, a method and a classifier as one torch module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vpbench.backbones.base import Backbone, Wanted
from vpbench.core.errors import UnsupportedError
from vpbench.interface import Context, Method, Scope


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

    def features(self, images: Tensor, context: Context | None = None) -> Tensor:
        """What the classifier reads, (B, feature_width), from one forward pass."""
        context = context or Context(images, self.training)
        tokens = self.backbone.embed(self.method.pixels(images, context))
        for block in range(self.backbone.shape.depth):
            if self.backbone.shape.starts_stage(block):
                tokens = self.backbone.enter_stage(block, tokens)
            tokens = self.method.before_block(block, tokens, context)
            tokens = self.backbone.block(block, tokens, self._wanted(block))
            tokens = self.method.after_block(block, tokens, context)
        return self.backbone.pool(tokens)

    def _wanted(self, block: int) -> Wanted:
        """What of a block's output the method, the next block or the pooling reads."""
        read, last = self.method.reads(block), block == self.backbone.shape.depth - 1
        pooled = self.backbone.pooled if last else "rest"
        if "prompts" in read or pooled == "all":
            return "all"
        return "rest" if "patches" in read else pooled

    def forward(self, images: Tensor) -> Tensor:
        return self.method.predict(self._once, images)

    def _once(self, images: Tensor, **stash: Any) -> Tensor:
        return self.head(self.features(images, Context(images, self.training, stash)))

    def training_loss(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Loss (a scalar, float32) and logits of one batch in training mode."""
        context = Context(images, self.training)
        logits = self.head(self.features(images, context)).float()
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
