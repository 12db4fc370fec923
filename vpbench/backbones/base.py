"""What every family's adapter offers to the engine and to methods."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from timm.layers import DropPath
from timm.models import group_parameters
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle

from vpbench.backbones.edits import EditHandle, apply_edits, hook_edit
from vpbench.backbones.frozen_linear import Kernel, freeze_linears
from vpbench.backbones.kernels import linear_kernel
from vpbench.core.errors import UnsupportedError
from vpbench.interface import BackboneShape, ClassAttention, ReceivedAttention, Scope, Tokens
from vpbench.interface.scope import Affine, Edit, Site, check_block
from vpbench.interface.shape import Linears

LAST_OF_BRANCH: Mapping[Site, Site] = MappingProxyType({"attention_branch": "proj", "mlp_branch": "fc2"})
"""The last linear layer of a residual branch; behind it the branch only has factors per channel."""
Needed = Literal["all", "image", "class"]
"""Which tokens of a block's output are used: all, those of the image (prefix and patches), or the class token alone."""


def linear_widths(block: Any) -> Linears:
    """Input and output widths of the linear layers of one of timm's blocks, as far as it has them."""
    attention, mlp = block.attn, getattr(block, "mlp", None)
    owners = {"qkv": attention, "proj": attention, "fc1": mlp, "fc2": mlp}
    layers = {site: getattr(owner, site, None) for site, owner in owners.items()}
    found = {site: (layer.in_features, layer.out_features) for site, layer in layers.items() if isinstance(layer, nn.Linear)}
    if isinstance(query := getattr(attention, "q_proj", None), nn.Linear):  # queries, keys and values one by one
        found["qkv"] = (query.in_features, 3 * query.out_features)
    return tuple(found.items())


class RecipeDropPath(DropPath):  # type: ignore[misc]  # timm is untyped
    """Stochastic depth that a recipe asks for; that of timm's own model stays off."""


class Backbone(nn.Module):
    """A frozen backbone whose sequence can be edited between its blocks.

    Called with images it gives the features of the plain, unprompted model. The operations at the end are reached
    through :class:`vpbench.interface.Scope`; a family overrides those that it can do.

    Attributes:
        shape: what methods may know of it.
        weights_sha256: of the file that its weights came from, None for random ones.
        recomputing: whether a block is being run a second time, inside the backward pass; observers skip such a run.
        linear_kernel: see :mod:`vpbench.backbones.kernels`.
        skip_unused: whether a block may leave out outputs that nothing uses; what is used is the same.
        source_classifier: the classifier that the weights were trained with, on :meth:`pool`'s features; None where it was not
            asked for.
        note: a sentence on the weight file for the user; empty where there is nothing to say.
    """

    shape: BackboneShape
    weights_sha256: str | None
    recomputing: bool = False
    linear_kernel: Kernel = "default"
    note: str = ""
    skip_unused: bool = True
    source_classifier: nn.Module | None
    _checkpointed: bool = False
    # Sites whose edits the adapter applies itself; at the others they are forward hooks of a module.
    applied_sites: ClassVar[frozenset[str]] = frozenset({"patch_embed", "attention", "attention_branch", "mlp_branch"})

    def __init__(self) -> None:
        super().__init__()
        self.register_module("source_classifier", None)
        self._edits: defaultdict[tuple[Site, int | None], OrderedDict[int, Edit]] = defaultdict(OrderedDict)

    def set_source_classifier(self, classifier: nn.Module) -> None:
        """Add the classifier that the weights were trained with; it becomes a frozen part of the backbone.

        Args:
            classifier: a linear layer, or several layers, from :meth:`pool`'s features to logits (B, source classes).
        """
        last = [module for module in classifier.modules() if isinstance(module, nn.Linear)][-1]
        self.source_classifier = classifier.requires_grad_(False).eval()
        self.shape = replace(self.shape, source_classes=last.out_features)

    @property
    def feature_width(self) -> int:
        """Width of what :meth:`pool` returns."""
        raise NotImplementedError

    @property
    def pooled(self) -> Needed:
        """Which tokens of the last block's output :meth:`pool` uses."""
        raise NotImplementedError

    def embed(self, images: Tensor) -> Tokens:
        """Normalised images (B, C, S, S) to the sequence that enters block 0, position embeddings added."""
        raise NotImplementedError

    def run_block(self, index: int, tokens: Tokens) -> Tokens:
        """One block on the whole sequence; :meth:`block` is what others call."""
        raise NotImplementedError

    def run_needed(self, index: int, tokens: Tokens, needed: Needed) -> Tokens:
        """One block for the tokens of its output that are needed; more come out where a family has no cheaper form."""
        return self.run_block(index, tokens)

    def block(self, index: int, tokens: Tokens, needed: Needed = "all") -> Tokens:
        """Run one block, 0 to L-1.

        Args:
            needed: which tokens of its output are used. Others may be missing in it, prompts with ``"image"``, prompts and
                patch tokens with ``"class"``.
        """
        whole = needed == "all" or not self.skip_unused

        def run(image_tokens: Tensor) -> Tokens:
            given = replace(tokens, image_tokens=image_tokens)
            return self.run_block(index, given) if whole else self.run_needed(index, given, needed)

        if not (self._checkpointed and torch.is_grad_enabled()):
            return run(tokens.image_tokens)
        # Not reentrant, so that tensors which only the closure has, such as prompts, get their gradients too.
        found: Tokens = checkpoint(run, tokens.image_tokens, use_reentrant=False, context_fn=self._contexts)
        return found

    def checkpoint_blocks(self, on: bool) -> None:
        """Keep no activations inside blocks and compute them again in the backward pass: less memory, equal gradients."""
        self._checkpointed = on

    def _contexts(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), self._recompute()

    @contextmanager
    def _recompute(self) -> Iterator[None]:
        self.recomputing = True
        try:
            yield
        finally:
            self.recomputing = False

    def enter_stage(self, block: int, tokens: Tokens) -> Tokens:
        """Give the sequence the width and the grid of ``block``, the first of a stage; called before ``block`` is."""
        raise NotImplementedError

    def pool(self, tokens: Tokens) -> Tensor:
        """The features that the classifier reads, (B, feature_width)."""
        raise NotImplementedError

    def map_size(self, images: Tensor, block: int) -> tuple[int, int]:
        """Rows and columns of a block's patch grid for images (B, C, H, W)."""
        grid = self.shape.stage_of(block).grid
        return grid, grid

    def feature_map(self, block: int, tokens: Tokens, size: tuple[int, int], *, normed: bool = False) -> Tensor:
        """The output of a block as a map (B, D, h, w): the patch token y w + x is the pixel (y, x).

        Class token, registers and prompts are left out. The map is the residual stream, without a norm, as SETR reads it.

        Args:
            tokens: out of ``block``; at least its image tokens, see ``needed`` of :meth:`block`.
            size: (h, w), of :meth:`map_size`.
            normed: put it through the final norm, as DINOv2's linear head has it; of the last block alone.

        Raises:
            UnsupportedError: for ``normed`` where the final norm has another width.
        """
        patches = self.final_norm(block, tokens) if normed else tokens.patch_tokens
        return patches.transpose(1, 2).unflatten(2, size)

    def final_norm(self, block: int, tokens: Tokens) -> Tensor:
        """Patch tokens out of a block, (B, M, D), behind the backbone's final norm."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Features of the plain, unprompted model."""
        tokens = self.embed(images)
        for index in range(self.shape.depth):
            if self.shape.starts_stage(index):
                tokens = self.enter_stage(index, tokens)
            tokens = self.block(index, tokens)
        return self.pool(tokens)

    def use_fastest_kernels(self, device: str, precision: str) -> None:
        """Choose, for a device (``cpu``, ``cuda``) and a precision, among kernels that compute the same to rounding."""
        # On a CPU, torch's fused attention in bf16 is several times slower than the explicit one.
        self.use_fused_attention(device == "cuda" or precision == "fp32")
        self.linear_kernel = linear_kernel(self.shape.width) if device == "cpu" and precision == "fp32" else "default"
        freeze_linears(self, self.linear_kernel)

    def use_fused_attention(self, fused: bool) -> None:
        """Choose the attention kernel; both compute the same function."""
        parts: Any = self.modules()
        for module in parts:
            if hasattr(module, "fused_attn"):
                module.fused_attn = fused

    # What methods do inside of blocks, see vpbench.interface.Scope

    @property
    def timm_model(self) -> nn.Module:
        """The frozen model of timm."""
        raise NotImplementedError

    def site_module(self, site: Site, block: int | None) -> nn.Module:
        """See :meth:`vpbench.interface.Scope.module`."""
        raise self._cannot(f"has no site {site}")

    def block_module(self, block: int) -> nn.Module:
        """timm's module of a block."""
        raise NotImplementedError

    def add_edit(self, scope: Scope, site: Site, block: int | None, edit: Edit) -> EditHandle:
        """See :meth:`vpbench.interface.Scope.after`."""
        check_block(site, block, self.shape.depth)
        edits = self._edits[site, block]
        handle = RemovableHandle(edits)
        placed = [] if site in self.applied_sites else [hook_edit(self.site_module(site, block), edit)]
        edits[handle.id] = edit
        return EditHandle(handle, *placed)

    def edits(self, site: Site, block: int | None) -> list[Edit]:
        """What methods put at a site, in order."""
        found = self._edits.get((site, block))
        return list(found.values()) if found else []

    def any_edits(self) -> bool:
        """Whether methods edit activations anywhere."""
        return any(self._edits.values())

    def has_edits(self, block: int, sites: Sequence[Site] | None = None) -> bool:
        """Whether methods edit activations in a block, or at some of its sites."""
        return any(edits and at == block and (sites is None or site in sites) for (site, at), edits in self._edits.items())

    def edited(self, site: Site, block: int | None, x: Tensor, call: Callable[[Tensor], Tensor]) -> Tensor:
        """The output of a site whose edits the adapter applies itself."""
        return apply_edits(self.edits(site, block), x, call)

    def add_branch(self, site: Site, block: int, x: Tensor, y: Tensor) -> Tensor:
        """The residual stream x with a branch's output y added, as methods edit it."""
        return x + apply_edits(self.edits(site, block), x, lambda _: y)

    def affine(self, site: Site, block: int | None) -> list[Affine]:
        """See :meth:`vpbench.interface.Scope.fold`."""
        site = LAST_OF_BRANCH.get(site, site)
        if site not in ("patch_embed", "norm1", "norm2", "norm", "qkv", "proj", "fc1", "fc2"):
            raise self._cannot(f"has no linear map at the site {site}")
        return [Affine.plain(self.site_module(site, block))]

    def positions(self) -> tuple[Any, str]:
        """Owner and name of the absolute position embeddings, see :meth:`vpbench.interface.Scope.fold_positions`."""
        raise self._cannot("has no absolute position embeddings")

    def site_parameters(self, site: Site | None, block: int | None) -> Iterator[tuple[str, nn.Parameter]]:
        """See :meth:`vpbench.interface.Scope.parameters`."""
        if site is not None:
            inside = {id(each) for each in self.site_module(site, block).parameters()}
        elif block is not None:
            inside = {id(each) for each in self.block_module(block).parameters()}
        else:
            inside = {id(each) for each in self.timm_model.parameters()}
        for name, parameter in self.timm_model.named_parameters():
            if id(parameter) in inside:
                yield name.replace(".attn.inner.", ".attn."), parameter  # an opened attention has timm's inside

    def layers_below_head(self) -> dict[str, int]:
        """By timm's name of each parameter, how many layers it lies below a classifier, 1 in the last block; timm's grouping for
        layer-wise learning rates."""
        model: Any = self.timm_model
        layers = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
        last = max(layers.values())
        return {name.replace(".attn.inner.", ".attn."): last + 1 - layer for name, layer in layers.items()}

    def set_drop_path(self, scope: Scope, rate: float) -> None:
        """Stochastic depth in training, from 0 in the first block to ``rate`` in the last, as timm's ``drop_path_rate``."""
        for block in range(self.shape.depth):
            share = rate * block / max(1, self.shape.depth - 1)
            for name in ("drop_path1", "drop_path2"):
                scope.replace(self.block_module(block), name, RecipeDropPath(share).eval())

    def train_drop_path(self, mode: bool) -> None:
        """Switch stochastic depth on or off; everything else stays in evaluation mode."""
        for module in self.modules():
            if isinstance(module, RecipeDropPath):
                module.train(mode)

    def prompt_keys_values(self, scope: Scope, block: int, provide: Callable[[], tuple[Tensor, Tensor]]) -> None:
        """See :meth:`vpbench.interface.Scope.prompt_keys_values`."""
        raise self._cannot("takes no key and value prompts")

    def edit_queries(self, scope: Scope, block: int, fn: Callable[[Tensor], Tensor]) -> None:
        """See :meth:`vpbench.interface.Scope.edit_queries`."""
        raise self._cannot("does not let methods edit the queries of its attention")

    def watch_class_attention(self, scope: Scope) -> ClassAttention:
        """See :meth:`vpbench.interface.Scope.watch_class_attention`."""
        raise self._cannot("has no class token whose attention a method could read")

    def watch_received_attention(self, scope: Scope) -> ReceivedAttention:
        """See :meth:`vpbench.interface.Scope.watch_received_attention`."""
        raise self._cannot("does not show the attention that tokens receive")

    def prompts_at_next_stage(self, block: int, prompts: Tensor) -> Tensor:
        """See :meth:`vpbench.interface.Scope.prompts_at_next_stage`."""
        raise self._cannot("has one stage only")

    def _cannot(self, what: str) -> UnsupportedError:
        return UnsupportedError(f"a backbone of the family {self.shape.family} {what}.")
