"""iVPT: deep prompts that are linked across layers, and class-salient patch tokens that are reinforced."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from vpbench.core.errors import UsageError
from vpbench.interface import (
    ALL_FAMILIES,
    Context,
    F,
    Method,
    MethodConfig,
    Part,
    Preset,
    Scope,
    Stage,
    Tokens,
    block_prompts,
    nn,
    of_block,
    option,
    per_block,
    stage_tensors,
    torch,
    uniform_prompts,
)
from vpbench.methods._residual_prompts import add_residual_prompts, residual_prompts

if TYPE_CHECKING:
    from torch import Tensor


class IVPTConfig(MethodConfig):
    """Options of iVPT."""

    prompt_length: int = option(
        10,
        "prompt tokens N per block",
        "iVPT paper, tables 15 and 16: 5 to 200 per data set, 10 to start with",
        former_name="n_prompts",
        ge=1,
    )
    ar_k: int = option(10, "reinforced patch tokens k per block", "iVPT paper, tables 15 and 16: 1 to 100 per data set", ge=1)
    structure: Literal["cdc", "vpt", "provp", "express", "vanilla_cdc"] = option(
        "cdc", "how the prompts of neighbouring blocks are linked", "iVPT paper, figure 3: E (the method), A, B, C, D"
    )
    da: bool = option(
        True, "dynamic aggregation: weight the linked prompts by a learned N x N matrix", "iVPT paper, equations 5 and 6"
    )
    da_init: Literal["identity", "zero", "xavier"] = option(
        "identity", "initial values of that matrix", "assumption: identity starts at plain cross-layer connection"
    )
    ar: Literal["topk", "none", "all"] = option(
        "topk",
        "attentive reinforcement of the k most salient patch tokens, of none, or of all by position",
        "iVPT paper, equations 14 and 15",
    )
    ar_layers: Literal["all_but_last", "all"] = option(
        "all_but_last",
        "blocks whose output is reinforced",
        "iVPT paper: input into the next layer; its printed parameter counts agree",
    )
    ar_init: Literal["vpt_uniform", "zero"] = option("vpt_uniform", "initial reinforcement", "assumption: VPT's convention")
    salience: Literal["head_mean", "head_max", "head_mean_renorm"] = option(
        "head_mean", "how the heads' attention to a patch token becomes one number", "assumption: the paper does not say"
    )
    stage_border: Literal["restart", "tile"] = option(
        "restart",
        "where the token width changes: no link there, or one from the last prompts as the backbone's merging of patches takes"
        " them over",
        "assumption: the paper has a result on Swin-B and no construction",
    )
    staged_ar: Literal["off", "received"] = option(
        "off",
        "what ar=topk means where the token width changes and no class token is there: no reinforcement, or that of the tokens"
        " that receive most attention in their window",
        "assumption: the paper has a result on Swin-B and no construction",
    )
    dropout: float = option(0.0, "on the linked prompts", "KMnP/vpt's default; the paper names none", ge=0, lt=1)


class IVPT(Method[IVPTConfig]):
    """Cross-layer dynamic connection (CDC, DA) and attentive reinforcement (AR).

    The prompts that enter block l are P^l + Gamma^(l-1) P^(l-1), made of raw parameters, so that they are the same for
    every image (equations 4 to 6). After a block, the k patch tokens to which its class token attends most receive
    learned vectors, by rank: the most salient one always the first (equations 14 and 15).

    Parameters: L N D (CDC) + (L-1) N^2 (DA) + (L-1) k D (AR). Where the token width changes on the way, L D is the sum of all
    blocks' D, and without links across the S stages DA has (L-S) N^2.
    """

    title = "iVPT"
    summary = "deep prompts linked across layers, and reinforced salient patch tokens"
    paper = (
        "Zhou et al., Improving Task-relevant Information Sharing in Visual Prompt Tuning by Cross-layer Dynamic Connection, 2024"
    )
    year = 2024
    fidelity = "paper"
    families = ALL_FAMILIES
    requires = ("class token (ar = topk on a ViT)",)
    notes = (
        "No code was released; everything follows the equations, and what they leave open is an option marked as assumption.",
        "The paper's table prints 0.02 M for DA where (L-1) N^2 gives 0.04 M, and so 0.60 M in all instead of 0.62 M; its other"
        " figures confirm the formula.",
        "Where the token width changes on the way (assumption): links begin again in every stage, and there is no reinforcement;"
        " stage_border and staged_ar offer more. Structures provp and express then carry prompt outputs through the merging of"
        " patches.",
        "Connecting prompts is a re-parametrisation of VPT-deep: it changes the optimisation, not what can be expressed.",
    )
    Config = IVPTConfig
    presets = {
        "cdc": Preset(
            "cross-layer connection alone (the paper's component study)",
            {"da": False, "ar": "none"},
            (("dynamic aggregation", "on", "off"), ("attentive reinforcement", "top-k", "off")),
        ),
        "cdc-da": Preset(
            "connection and dynamic aggregation (the paper's component study, and its segmentation set-up)",
            {"ar": "none"},
            (("attentive reinforcement", "top-k", "off"),),
        ),
    }

    def build(self) -> None:
        """Creates ``prompts`` (L or 1, N, D), ``gamma`` (links, N, N), ``reinforcement`` (blocks, k or M, D) and the
        residual prompts of structure ``express``."""
        config, shape = self.config, self.shape
        length = config.prompt_length
        staged = len(shape.stages) > 1
        self.reinforces = "none" if config.ar == "topk" and staged and config.staged_ar == "off" else config.ar
        fewest = min(stage.patches for stage in shape.stages)
        if self.reinforces == "topk" and config.ar_k > fewest:
            raise UsageError(f"ivpt.ar_k={config.ar_k} is more than the backbone's {fewest} patch tokens; lower it.")
        self.own.prompts = block_prompts(shape, length, range(1 if config.structure == "express" else shape.depth))
        if self._aggregates:
            gamma = torch.eye(length).repeat(self._links, 1, 1)
            self.own.gamma = nn.Parameter(gamma if config.da_init == "identity" else torch.zeros_like(gamma))
            if config.da_init == "xavier":
                for matrix in self.own.gamma:
                    nn.init.xavier_uniform_(matrix)
        if self.reinforces != "none":
            self.reinforced = shape.depth if config.ar_layers == "all" else shape.depth - 1
            self.own.reinforcement = per_block(shape, self._initial_reinforcement, range(self.reinforced))
        if config.structure == "express":
            self.own.residual = residual_prompts(shape, length)

    def _initial_reinforcement(self, stage: Stage, blocks: int) -> nn.Parameter:
        tokens = self.config.ar_k if self.reinforces == "topk" else stage.patches
        values = uniform_prompts(self.shape, blocks, tokens, stage.width)
        if self.config.ar_init == "zero":
            nn.init.zeros_(values)
        return values

    @property
    def _links(self) -> int:
        """Number of blocks whose prompts are linked to those of the block before."""
        return self.shape.depth - (len(self.shape.stages) if self.config.stage_border == "restart" else 1)

    @property
    def _aggregates(self) -> bool:
        # The paper compares structures without DA; only its own has a Gamma.
        return self.config.da and self.config.structure == "cdc" and self._links > 0

    def attach(self, scope: Scope) -> None:
        """Observes the attention that ``topk`` uses; places the residual prompts of ``express``."""
        self._scope = scope
        if self.reinforces == "topk":
            if len(self.shape.stages) > 1:
                received = scope.watch_received_attention()
                self._salient = lambda block, tokens: self.most_salient(received(block).unsqueeze(1))
            else:
                attention = scope.watch_class_attention()
                self._salient = lambda block, tokens: self.most_salient(attention(block)[..., -self.shape.patches :])
        if self.config.structure == "express":
            add_residual_prompts(scope, self.own.residual)

    def linked_prompts(self) -> list[Tensor]:
        """The prompts that enter each block, (N, D), where they do not depend on the image (structures A, D, E)."""
        stages, structure = stage_tensors(self.own.prompts), self.config.structure
        if structure not in ("cdc", "vanilla_cdc"):
            return [prompts for stage in stages for prompts in stage]
        linked: list[Tensor] = []
        source: Tensor | None = None  # what the first block of the next stage is linked to
        gammas = iter(self.own.gamma) if self._aggregates else None
        for stage in stages:
            first = stage[0]
            if source is not None and self.config.stage_border == "tile":
                source = self._scope.prompts_at_next_stage(len(linked), source)
                first = first + (source if gammas is None else torch.einsum("nm,md->nd", next(gammas), source))
            rows = [first]
            if structure == "vanilla_cdc":
                rows = list(torch.cat([first[None], stage[1:]]).cumsum(0))
            else:
                for last, own in pairwise(stage):
                    rows.append(own + (last if gammas is None else torch.einsum("nm,md->nd", next(gammas), last)))
            linked += rows
            source = rows[-1] if structure == "vanilla_cdc" else stage[-1]
        return linked

    def before_block(self, block: int, tokens: Tokens, context: Context) -> Tokens:
        """Inserts the prompts of ``block``; structures B and C use what the last block made of its prompts."""
        if block == 0:
            context.stash["prompts"] = self.linked_prompts()
        if self.config.structure == "express" and block > 0:
            return tokens
        prompts = context.stash["prompts"][block]
        if self.config.structure == "provp" and block > 0:
            prompts = prompts + tokens.prompt_tokens
        if context.training and self.config.dropout:
            prompts = F.dropout(prompts.expand(tokens.batch_size, -1, -1), self.config.dropout)
        return tokens.with_prompts(prompts)

    def after_block(self, block: int, tokens: Tokens, context: Context) -> Tokens:
        """Reinforces patch tokens of the block's output."""
        if self.reinforces == "none" or block >= self.reinforced:
            return tokens
        values = of_block(self.own.reinforcement, block)
        if self.reinforces == "all":
            return tokens.add_to_patches(values)
        chosen = self._salient(block, tokens)
        context.stash.setdefault("chosen", []).append(chosen)
        return tokens.add_to_patches(values, chosen)

    def outputs_used(self, block: int) -> frozenset[Part]:
        """Patch tokens where they are reinforced; prompts in the structures that build on what blocks make of them."""
        read: set[Part] = {"patches"} if self.reinforces != "none" and block < self.reinforced else set()
        if self.config.structure in ("provp", "express") and block < self.shape.depth - 1:
            read.add("prompts")
        return frozenset(read)

    def most_salient(self, attention: Tensor) -> Tensor:
        """The k patch tokens with the most attention, in descending order, the lower index first among equals.

        Args:
            attention: of the class token to the patch tokens, (B, heads, M).

        Returns:
            indices, (B, k).
        """
        if self.config.salience == "head_max":
            weights = attention.amax(1)
        elif self.config.salience == "head_mean_renorm":
            weights = (attention / attention.sum(-1, keepdim=True)).mean(1)
        else:
            weights = attention.mean(1)
        return weights.argsort(dim=-1, descending=True, stable=True)[:, : self.config.ar_k]

    def merge(self, scope: Scope) -> None:
        """Folds the links into the prompts: what remains is VPT-deep with reinforcement, at no cost for CDC and DA."""
        if self.config.structure not in ("cdc", "vanilla_cdc"):
            return
        with torch.no_grad():
            for block, prompts in enumerate(self.linked_prompts()):
                of_block(self.own.prompts, block).copy_(prompts)
        self.own.prompts.requires_grad_(False)
        if self._aggregates:
            del self.own.gamma
        self.config = self.config.model_copy(update={"structure": "vpt", "da": False})
