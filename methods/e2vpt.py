"""E2VPT: prompts in the sequence, prompts among keys and values, and pruning of the former."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import field_validator

from vpbench.core.errors import UsageError
from vpbench.interface import (
    ALL_FAMILIES,
    NO_PARTS,
    Context,
    F,
    Method,
    MethodConfig,
    Part,
    Preset,
    Scope,
    Session,
    Stage,
    Tokens,
    block_prompts,
    nn,
    of_block,
    option,
    per_block,
    stage_tensors,
    torch,
)

if TYPE_CHECKING:
    from torch import Tensor

_CODE = "ChengHan111/E2VPT"


class E2VPTConfig(MethodConfig):
    """Options of E2VPT."""

    prompt_length: int = option(
        10, "visual prompts N_P per block", f"{_CODE} command.txt: 10 for most VTAB tasks, 5 for FGVC", ge=1
    )
    kv_length: int = option(5, "key-value prompts N_kv per block and head", f"{_CODE} command.txt: 5 for most data sets", ge=1)
    shared_kv: bool = option(True, "one tensor serves as key and as value prompts", f"{_CODE} SHARE_PARAM_KV")
    kv_init: Literal["kaiming", "trunc_normal", "uniform"] = option(
        "kaiming",
        "initial key-value prompts: U(+-sqrt(6 / (N_kv D/h))), N(0, 0.02), or U(+-sqrt(6 / (3 p^2 + 16)))",
        f"{_CODE} ORIGIN_INIT 2, 1, 0",
    )
    dropout: float = option(0.1, "on the visual prompts", f"{_CODE}: DROPOUT_P of every command", ge=0, lt=1)
    prune: bool = option(
        True, "train, score, prune and rewind; else one plain training", "E2VPT paper, section on prompt pruning"
    )
    segments: int = option(16, "segments R that a prompt's channels fall into; must divide the token width", f"{_CODE}: 16", ge=1)
    segment_layout: Literal["contiguous", "interleaved"] = option(
        "contiguous",
        "channels of a segment: neighbours, or equal modulo R",
        "paper, from memory; the released code tiles its mask (interleaved)",
    )
    importance: Literal["absolute", "signed"] = option(
        "absolute",
        "score of a mask element: mean of |dL/dm| over batches, or of dL/dm",
        "paper, from memory; the released code is signed",
    )
    masks_trained: bool = option(
        False, "the masks are trained in the first phase", "paper, from memory; the released code trains them"
    )
    per_layer_masks: bool = option(False, "every block has masks of its own", f"{_CODE} shares them")
    rewind: Literal["initial", "fresh"] = option(
        "initial",
        "what training starts from after pruning: the initial values, or new ones",
        "paper, from memory; the released code draws new ones",
    )
    candidates: tuple[tuple[int, int], ...] | Literal["released"] = option(
        ((20, 20), (50, 50)),
        "percent of tokens and of segments to prune, one training each; 'released': all of 10 to 90 % in pairs",
        "assumption: a small set; the released grid has 72 pairs at N_P = 10",
    )
    include_unpruned: bool = option(True, "the unpruned model is a candidate too", "assumption; the released code prunes always")
    remove_masked: bool = option(
        False, "leave pruned tokens out of the sequence; else they stay as zero vectors", f"{_CODE} multiplies by zero"
    )

    @field_validator("candidates")
    @classmethod
    def _percentages(cls, value: tuple[tuple[int, int], ...] | str) -> tuple[tuple[int, int], ...] | str:
        if not isinstance(value, str) and not all(0 <= percent < 100 for pair in value for percent in pair):
            raise ValueError("candidates are pairs of percentages from 0 to 99, e.g. [[20, 20], [50, 50]]")
        return value


class E2VPT(Method[E2VPTConfig]):
    """VPT-deep's prompts, masked, and key-value prompts ``[P ; K]``, ``[P ; V]`` behind the projections.

    The effective visual prompt is Drop(P)[t, d] * m[t] * M[t, segment of d]; the masks m and M start at one and are
    shared by all blocks. Pruned elements are zeroed and bookkeeping, not compute, gets smaller.

    Parameters: L D (N_P + N_kv), the second term twice without ``shared_kv``; (1 + R) N_P more with ``masks_trained``. Where
    the token width changes on the way, L D is the sum of all blocks' D.
    """

    title = "E2VPT"
    summary = "visual and key-value prompts, pruned by token and segment"
    paper = "Han et al., E^2VPT: An Effective and Efficient Approach for Visual Prompt Tuning, ICCV 2023"
    year = 2023
    fidelity = "both-differ"
    families = ALL_FAMILIES
    notes = (
        "iVPT's Table 1 prints 0.27 M with the mean VTAB-1k head. Ten prompts and five key-value prompts have 0.176 M (0.138 M"
        " without the head) before pruning, and the released numbers per task do not give 0.27 M either.",
        "The paper's side of each difference is recalled, not checked against its text.",
        "Where attention has windows, key-value prompts join every window. The released code for that masks the prompts of the"
        " first block only; here the masks act on all.",
        "Every candidate of pruning is a training of its own; the best on the validation split is kept, ties prune more tokens.",
    )
    Config = E2VPTConfig
    presets = {
        "released": Preset(
            "the released code's pruning",
            {
                "segment_layout": "interleaved", "importance": "signed", "masks_trained": True, "rewind": "fresh",
                "candidates": "released", "include_unpruned": False, "head_init": "vpt",
            },
            (
                ("importance", "mean of |dL/dmask|", "signed mean: the most negative are pruned first"),
                ("segments", "contiguous channels", "interleaved: channels equal modulo 16"),
                ("masks in the first phase", "fixed at one", "trained, with weight decay"),
                ("rewinding", "to the initial values", "new random values"),
                ("candidates", "two, and no pruning", "all pairs of 10 to 90 % (72 trainings at N_P = 10), never no pruning"),
                ("head", "PyTorch's initial values", "Kaiming-normal (fan-out), bias -4.595"),
                ("backbone", "ViT-B/16, ImageNet-21k", "its configurations name the ImageNet-1k fine-tuned file"),
            ),
        ),
        "unpruned": Preset("prompts without pruning", {"prune": False}, (("pruning", "train, score, prune, rewind", "none"),)),
    }  # fmt: skip

    @classmethod
    def needs_validation(cls, config: Mapping[str, Any]) -> bool:
        return bool(config["prune"])  # its candidates are compared on validation images

    def build(self) -> None:
        """Creates ``prompts`` (L, N_P, D), ``kv_prompts`` (L, 1 or 2, h, N_kv, D/h), ``token_mask`` (1 or L, N_P) and
        ``segment_mask`` (1 or L, N_P, R); the masks are parameters only with ``masks_trained``."""
        config, shape = self.config, self.shape
        for stage in shape.stages:
            if stage.width % config.segments:
                raise UsageError(f"e2vpt.segments={config.segments} does not divide the token width {stage.width}.")
        self.own.prompts = block_prompts(shape, config.prompt_length)
        self.own.kv_prompts = per_block(shape, self._initial_kv_prompts)
        layers = shape.depth if config.per_layer_masks else 1
        masks = {
            "token_mask": torch.ones(layers, config.prompt_length),
            "segment_mask": torch.ones(layers, config.prompt_length, config.segments),
        }
        for name, mask in masks.items():
            if config.masks_trained:
                self.own.register_parameter(name, nn.Parameter(mask))
            else:
                self.own.register_buffer(name, mask)

    def _initial_kv_prompts(self, stage: Stage, blocks: int) -> nn.Parameter:
        config = self.config
        kv_prompts = torch.empty(blocks, 1 if config.shared_kv else 2, stage.heads, config.kv_length, stage.head_width)
        if config.kv_init == "trunc_normal":
            nn.init.trunc_normal_(kv_prompts, std=0.02)
        else:
            fan = config.kv_length * stage.head_width if config.kv_init == "kaiming" else 3 * self.shape.patch_size**2 + 16
            kv_prompts.uniform_(-math.sqrt(6 / fan), math.sqrt(6 / fan))
        return nn.Parameter(kv_prompts)

    def attach(self, scope: Scope) -> None:
        """Adds each block's key-value prompts to its keys and values."""
        for block in range(self.shape.depth):
            scope.prompt_keys_values(block, partial(self._keys_values, block))

    def _keys_values(self, block: int) -> tuple[Tensor, Tensor]:
        prompts = of_block(self.own.kv_prompts, block)
        return prompts[0], prompts[-1]

    def before_block(self, block: int, tokens: Tokens, context: Context) -> Tokens:
        """Inserts the block's masked prompts in place of the last block's outputs."""
        token_mask, segment_mask = self._masks(block)
        prompts = of_block(self.own.prompts, block)
        prompts = prompts * token_mask[:, None] * self._over_channels(segment_mask, prompts.shape[1])
        if self.config.remove_masked:
            prompts = prompts[token_mask != 0]
        if context.training and self.config.dropout:
            prompts = F.dropout(prompts.expand(tokens.batch_size, -1, -1), self.config.dropout)
        return tokens.with_prompts(prompts)

    def outputs_used(self, block: int) -> frozenset[Part]:
        """None: prompts are replaced before every block."""
        return NO_PARTS

    def _masks(self, block: int) -> tuple[Tensor, Tensor]:
        layer = block if self.config.per_layer_masks else 0
        return self.own.token_mask[layer], self.own.segment_mask[layer]

    def _over_channels(self, segment_mask: Tensor, width: int) -> Tensor:
        """(N_P, R) to (N_P, D), D the ``width`` of the block."""
        share = width // self.config.segments
        if self.config.segment_layout == "interleaved":
            return segment_mask.repeat(1, share)
        return segment_mask.repeat_interleave(share, dim=1)

    def phases(self, session: Session) -> None:
        """Train, score the masks, then prune, rewind and train once per candidate; keep the best on validation data."""
        if not self.config.prune:
            session.train()
            return
        initial = session.snapshot()
        session.train("train")
        best = (session.validate(), 0, session.snapshot()) if self.config.include_unpruned else None
        token_scores, segment_scores = self.importance(session)
        for parameter in (self.own.token_mask, self.own.segment_mask):
            parameter.requires_grad_(False)
        for tokens, segments in self.candidate_counts():
            if self.config.rewind == "initial":
                session.restore(initial)
            else:
                session.reinitialise()
            self.mask(token_scores, tokens, segment_scores, segments)
            session.train(f"pruned {tokens} tokens, {segments} segments")
            accuracy = session.validate()
            if best is None or (accuracy, tokens) > best[:2]:
                best = (accuracy, tokens, session.snapshot())
        if best is not None:
            session.restore(best[2])

    def importance(self, session: Session) -> tuple[Tensor, Tensor]:
        """Mean over training batches of the masks' gradients, absolute or signed: (1 or L, N_P) and (1 or L, N_P, R)."""
        masks = [self.own.token_mask, self.own.segment_mask]
        trained = [mask.requires_grad for mask in masks]
        scores, batches = [torch.zeros_like(mask) for mask in masks], 0
        for mask in masks:
            mask.requires_grad_(True)
        for images, labels in session.training_batches():
            gradients = torch.autograd.grad(session.loss(images, labels), masks)
            for score, gradient in zip(scores, gradients):
                score += gradient.abs() if self.config.importance == "absolute" else gradient
            batches += 1
        for mask, state in zip(masks, trained):
            mask.requires_grad_(state)
        return scores[0].detach() / batches, scores[1].detach() / batches

    def candidate_counts(self) -> list[tuple[int, int]]:
        """Numbers of tokens and of segments (per token) to prune, without repetition.

        At least one token and a quarter of the segments are kept (the released code: 4 of 16).
        """
        length, segments = self.config.prompt_length, self.config.segments
        percents = self.config.candidates
        if percents == "released":
            percents = tuple((tokens, parts) for tokens in range(10, 100, 10) for parts in range(10, 100, 10))
        counts = [(length * tokens // 100, segments * parts // 100) for tokens, parts in percents]
        allowed = [(tokens, parts) for tokens, parts in counts if tokens < length and segments - parts >= segments / 4]
        return list(dict.fromkeys(allowed))

    def mask(self, token_scores: Tensor, tokens: int, segment_scores: Tensor, segments: int) -> None:
        """Set masks to zero for the lowest scores: ``tokens`` prompts, and ``segments`` segments within every prompt."""
        with torch.no_grad():
            for mask, scores, count in (
                (self.own.token_mask, token_scores, tokens),
                (self.own.segment_mask, segment_scores, segments),
            ):
                mask.fill_(1).scatter_(-1, scores.argsort(dim=-1, stable=True)[..., :count], 0)

    def active_parameters(self) -> int:
        """Parameters that pruning left: of each block's visual ones sum(m M) D/R, and all key-value ones; on the meta device
        nothing is pruned."""
        masks = self.own.token_mask[..., None] * self.own.segment_mask
        if masks.is_meta:
            masks = torch.ones(masks.shape, device="cpu")
        kept = torch.count_nonzero(masks, dim=(1, 2)).expand(self.shape.depth)
        visual = sum(int(kept[block]) * self.shape.width_of(block) for block in range(self.shape.depth)) // self.config.segments
        return visual + sum(tensor.numel() for tensor in stage_tensors(self.own.kv_prompts))
