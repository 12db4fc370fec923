"""A frozen backbone, a method and a classifier as one torch module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vpbench.backbones.base import Backbone, Needed
from vpbench.backbones.positions import padded
from vpbench.core.errors import UnsupportedError
from vpbench.interface import Context, Method, Scope, Tokens
from vpbench.spec.run_spec import TaskSpec
from vpbench.tasks import Task, make_task


@dataclass(frozen=True)
class CachedActivations:
    """What the frozen prefix, the blocks before a method's first one, makes of images: it never changes in training.

    Attributes:
        values: the sequence that enters the method's first block, (B, T, D); features, (B, feature_width), where the method acts
            behind all blocks.
    """

    values: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def chunk(self, parts: int) -> list[CachedActivations]:
        """Micro-batches, as of a tensor."""
        return [CachedActivations(values) for values in self.values.chunk(parts)]


@dataclass(frozen=True)
class ImagesWithFeatures:
    """Images, (B, C, S, S), and the features of the plain model for them, (B, feature_width)."""

    images: Tensor
    features: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def chunk(self, parts: int) -> list[ImagesWithFeatures]:
        """Micro-batches, as of a tensor."""
        return [ImagesWithFeatures(*pair) for pair in zip(self.images.chunk(parts), self.features.chunk(parts))]


Inputs = Tensor | CachedActivations | ImagesWithFeatures
"""What a model takes: normalised images (B, C, S, S), with precomputed features or without, or cached activations."""
Keep = Callable[[int, Tokens], None]


class PromptedModel(nn.Module):
    """Maps normalised images (B, C, S, S) to logits, (B, classes) in classification.

    Only the method's own tensors, the head's, and those the method asked for in the backbone require gradients; the
    backbone stays in evaluation mode whatever mode the model is in, stochastic depth apart where a recipe asks for it.

    Args:
        backbone: adapter of the frozen backbone.
        method: the method, not yet built.
        classes: number of classes.
        task: what is predicted, which brings the head; by default classification.

    Raises:
        UnsupportedError: when the method does not work on the backbone, or not for the task.

    Attributes:
        taps: blocks whose outputs the head reads as maps; () where it reads pooled features.
    """

    def __init__(self, backbone: Backbone, method: Method[Any], classes: int, task: Task[Any] | None = None) -> None:
        super().__init__()
        if backbone.shape.family not in method.families:
            families = ", ".join(sorted(method.families))
            raise UnsupportedError(f"{method.title} works on {families}, not on {backbone.shape.family}.")
        self.backbone, self.method = backbone, method
        self.task: Task[Any] = task or make_task(TaskSpec(), classes)
        if reason := self.task.why_not(type(method), method.config.model_dump()):
            raise UnsupportedError(f"{method.title} {reason}")
        method.build()
        self.own: nn.Module = method.own
        self.head = self.task.make_head(method, backbone.feature_width)
        self.taps = self.task.taps(backbone.shape)
        self.scope = Scope(backbone)
        method.attach(self.scope)
        self.train()

    def train(self, mode: bool = True) -> PromptedModel:
        super().train(mode)
        self.backbone.eval()
        self.own.train(mode)  # parts of it can lie inside the backbone
        self.backbone.train_drop_path(mode)
        return self

    def merge(self) -> None:
        """Give the method its exact cheaper form for inference; not trainable afterwards."""
        self.method.merge(self.scope)

    # Forward passes

    def cache_activations(self, images: Tensor) -> CachedActivations:
        """Images through the frozen prefix; nothing there has a gradient, unless a caller asks for that of an activation."""
        if self.taps:
            return CachedActivations(torch.cat([found.flatten(1) for found in self.features(images)], dim=1))
        self.backbone.train_drop_path(False)
        tokens = self._run_blocks(0, self.method.first_block, self.backbone.embed(images))
        self.backbone.train_drop_path(self.training)
        return CachedActivations(self.backbone.pool(tokens) if self._uses_features_alone else tokens.x)

    def plain_features(self, images: Tensor) -> Tensor:
        """Features of the un-prompted model, (B, feature_width), without gradient."""
        self.backbone.train_drop_path(False)
        with torch.no_grad(), self.scope.disabled():
            features: Tensor = self.backbone(images)
        self.backbone.train_drop_path(self.training)
        return features

    def features(self, inputs: Inputs, context: Context | None = None) -> Any:
        """What the head reads, from one forward pass: (B, width of the readout), or a list of maps (B, D, h, w)."""
        context = context or self.context(inputs)
        if self.taps:
            if isinstance(inputs, CachedActivations):
                return self._maps_of(inputs)
            return self.feature_maps(_images(inputs), self.taps, context, normed=self.task.final_norm)
        first, depth = self.method.first_block, self.backbone.shape.depth
        if first == 0 and not isinstance(inputs, CachedActivations):
            images = inputs.images if isinstance(inputs, ImagesWithFeatures) else inputs
            tokens = self.backbone.embed(self.method.pixels(images, context))
        else:
            cached = inputs if isinstance(inputs, CachedActivations) else self.cache_activations(_images(inputs))
            if self._uses_features_alone:
                return cached.values
            tokens = Tokens(cached.values, self.backbone.shape.prefix)
        tokens = self._run_blocks(first, depth, tokens, context)
        return self.method.readout(tokens, self.backbone.pool(tokens), context)

    def feature_maps(
        self, images: Tensor, blocks: Sequence[int], context: Context | None = None, *, normed: bool = False
    ) -> list[Tensor]:
        """What a dense head reads, from one forward pass: outputs of blocks as maps (B, D, h, w).

        Prompts, class token and registers are left out of the maps, not of the sequence. Blocks behind the last of ``blocks`` are
        not run.

        Args:
            images: normalised, (B, C, H, W), with the method's first block at 0 or behind; padded to a multiple of the patch.
            blocks: 0 to L-1, in the order of the maps.
            normed: put the last block's map through the backbone's final norm.
        """
        context = context or self.context(images)
        first, read = self.method.first_block, {block: torch.empty(0) for block in blocks}
        end = max(blocks) + 1
        images = padded(self.method.pixels(images, context) if first == 0 else images, self.backbone.shape.patch_size)
        tokens = self.backbone.embed(images)

        def keep(block: int, tokens: Tokens) -> None:
            if block in read:
                size = self.backbone.map_size(images, block)
                last = normed and block == self.backbone.shape.depth - 1
                read[block] = self.backbone.feature_map(block, tokens, size, normed=last)

        if first:
            self.backbone.train_drop_path(False)
            tokens = self._run_blocks(0, min(first, end), tokens, keep=keep)
            self.backbone.train_drop_path(self.training)
        self._run_blocks(first, end, tokens, context, keep)
        return [read[block] for block in blocks]

    @property
    def cached_kind(self) -> str:
        """What :meth:`cache_activations` returns, in words that differ where it does."""
        if self.taps:
            return f"maps of blocks {', '.join(map(str, self.taps))}{', normed' if self.task.final_norm else ''}"
        return "features" if self._uses_features_alone else f"{self.method.first_block} blocks"

    @property
    def feature_count(self) -> int:
        """Numbers that the head reads of an image."""
        if not self.taps:
            return self.backbone.feature_width
        return sum(stage.width * stage.patches for stage in map(self.backbone.shape.stage_of, self.taps))

    def _maps_of(self, cached: CachedActivations) -> list[Tensor]:
        """Cached maps in their shapes."""
        stages = [self.backbone.shape.stage_of(block) for block in self.taps]
        parts = cached.values.split([stage.width * stage.patches for stage in stages], dim=1)
        return [part.view(-1, stage.width, stage.grid, stage.grid) for part, stage in zip(parts, stages)]

    def context(self, inputs: Inputs, **stash: Any) -> Context:
        """What the method gets in a forward pass on ``inputs``; ``stash`` is put into its stash."""
        has_images = not isinstance(inputs, CachedActivations) and self.method.first_block == 0
        images = _images(inputs) if has_images else torch.empty(0)

        def plain_features(asked: Tensor) -> Tensor:
            if isinstance(inputs, ImagesWithFeatures) and asked is images:
                return inputs.features
            return self.plain_features(asked)

        return Context(images, self.training, stash, plain_features, self.backbone.source_classifier, self.task.loss)

    @property
    def _uses_features_alone(self) -> bool:
        """Whether the method leaves all blocks as they are."""
        return self.method.first_block == self.backbone.shape.depth

    def _run_blocks(
        self, first: int, end: int, tokens: Tokens, context: Context | None = None, keep: Keep | None = None
    ) -> Tokens:
        """Blocks ``first`` to ``end`` - 1, and the method around them if there is a context; ``keep`` gets every output, with all
        patch tokens."""
        for block in range(first, end):
            if self.backbone.shape.starts_stage(block):
                tokens = self.backbone.enter_stage(block, tokens)
            needed_next: Needed = self._needed_next(block) if keep is None else "image"
            if context is None:
                tokens = self.backbone.block(block, tokens, needed_next)
            else:
                tokens = self.method.before_block(block, tokens, context)
                tokens = self.backbone.block(block, tokens, self._needed(block, needed_next))
                tokens = self.method.after_block(block, tokens, context)
            if keep is not None:
                keep(block, tokens)
        return tokens

    def _needed(self, block: int, needed_next: Needed) -> Needed:
        """Which tokens of a block's output the method uses, or what comes behind it."""
        used = self.method.outputs_used(block)
        if "prompts" in used or needed_next == "all":
            return "all"
        return "image" if "patches" in used else needed_next

    def _needed_next(self, block: int) -> Needed:
        """Which tokens of a block's output the next block or the pooling uses."""
        return self.backbone.pooled if block == self.backbone.shape.depth - 1 else "image"

    def forward(self, inputs: Inputs) -> Tensor:
        """
        Raises:
            ValueError: for images of another shape or type than the backbone takes.
        """
        self._check(inputs)
        if self.method.first_block or isinstance(inputs, CachedActivations):
            return self._logits(self.features(inputs))
        return self._predict(inputs)[0]

    def _check(self, inputs: Inputs) -> None:
        if isinstance(inputs, CachedActivations | ImagesWithFeatures):
            return
        shape = self.backbone.shape
        side = shape.image_size if not self.taps else None  # dense heads take images of any size
        given = tuple(inputs.shape)
        fits = len(given) == 4 and given[1] == shape.channels and (side is None or given[2:] == (side, side))
        if not isinstance(inputs, Tensor) or not fits or not inputs.is_floating_point():
            wanted = f"(B, {shape.channels}, {side or 'H'}, {side or 'W'})"
            raise ValueError(f"a model takes normalised images, a floating-point tensor {wanted}; given: {inputs.dtype} {given}.")

    def _logits(self, features: Any) -> Any:
        """What the head makes of features; in training what the loss reads."""
        return self.task.training_logits(self.head, features) if self.training else self.head(features)

    def _predict(self, inputs: Inputs) -> tuple[Tensor, Context]:
        """Logits by the method's ``predict``, and the context of its last forward pass."""
        contexts: list[Context] = []

        def once(images: Tensor, **stash: Any) -> Tensor:
            known = isinstance(inputs, ImagesWithFeatures) and images is inputs.images
            given = inputs if known else images
            contexts.append(self.context(given, **stash))
            return self._logits(self.features(given, contexts[-1]))

        logits = self.method.predict(once, _images(inputs))
        return logits, contexts[-1]

    def prediction(self, inputs: Inputs, with_features: bool = False) -> tuple[Tensor, Tensor | None]:
        """Logits as of :meth:`forward`, and if asked for the features of one forward pass, of several maps the last; only where a
        prediction takes several passes is that another one."""
        if not with_features:
            return self(inputs), None
        features = self.features(inputs)
        cached = isinstance(inputs, CachedActivations) or self.method.first_block > 0
        is_single = cached or type(self.method).predict is Method.predict
        return self._logits(features) if is_single else self(inputs), features[-1] if self.taps else features

    @property
    def needs_whole_batches(self) -> bool:
        """Whether training on an image depends on the others of its batch, which rules out micro-batches."""
        return self.method.needs_whole_batches or (self.head_needs_whole_batches and not self.splits_before_head)

    @property
    def head_needs_whole_batches(self) -> bool:
        """Whether head or loss need the whole batch, e.g. for the statistics of batch norm."""
        return self.task.needs_whole_batches(self.head)

    @property
    def splits_before_head(self) -> bool:
        """Whether a batch can go through the backbone in micro-batches and through the head as a whole: the method adds no loss
        of its own, and a second forward pass changes none of its statistics."""
        method = self.method
        plain = type(method).loss is Method.loss and not method.predicts_in_training
        return bool(self.taps) and plain and not list(self.own.buffers())

    def head_loss(self, features: Any, targets: Tensor) -> Tensor:
        """The task's loss of a batch from what the head reads, a scalar."""
        return self.task.loss(self._logits(features), targets)

    def training_loss(self, inputs: Inputs, targets: Tensor) -> tuple[Tensor, Any]:
        """Loss (a scalar, float32) of one batch in training mode, and what it reads: logits."""
        if self.method.predicts_in_training:
            logits, context = self._predict(inputs)
        else:
            context = self.context(inputs)
            logits = self._logits(self.features(inputs, context))
        logits = logits.float() if isinstance(logits, Tensor) else logits
        return self.method.loss(logits, targets, context), logits

    # Tensors that training changes

    def own_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Name and tensor of everything that training may change, buffers included: what is saved.

        Names begin with ``own.``, ``head.`` or ``backbone.``; behind the last are timm's own.
        """
        yield from (("own." + name, tensor) for name, tensor in self.own.state_dict(keep_vars=True).items())
        yield from (("head." + name, tensor) for name, tensor in self.head.state_dict(keep_vars=True).items())
        yield from (("backbone." + name, tensor) for name, tensor in self.scope.trained.items())

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
        self.method.restored()

    def reinitialise(self) -> None:
        """Draw new initial values for the method's tensors and the head's from the global random stream; what is trained in the
        backbone gets the values of pretraining."""
        self.method.reinitialise(self.scope)
        self.method.restored()
        self.head.load_state_dict(self.task.make_head(self.method, self.backbone.feature_width).state_dict())
        self.scope.reset_trained()

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Name and parameter of every trainable tensor."""
        return [
            (name, tensor) for name, tensor in self.own_tensors() if isinstance(tensor, nn.Parameter) and tensor.requires_grad
        ]


def _images(inputs: Inputs) -> Tensor:
    if isinstance(inputs, CachedActivations):
        raise TypeError("cached activations have no images")
    return inputs.images if isinstance(inputs, ImagesWithFeatures) else inputs
