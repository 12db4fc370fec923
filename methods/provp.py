"""ProVP: deep prompts that carry on what the last block made of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vpbench.interface import (
    ALL_FAMILIES,
    NO_PARTS,
    Context,
    F,
    Method,
    MethodConfig,
    Part,
    Preset,
    Tokens,
    block_prompts,
    of_block,
    option,
    torch,
)

if TYPE_CHECKING:
    from torch import Tensor

_CODE = "MCG-NJU/ProVP"


class ProVPConfig(MethodConfig):
    """Options of ProVP."""

    prompt_length: int = option(
        10, "prompt tokens N per block", f"assumption: iVPT names none for this row; {_CODE}: up to 50 on CLIP", ge=1
    )
    alpha: float | None = option(
        None,
        "share of the prompt outputs in the next block's prompts; None: they are added to them",
        f"None: iVPT paper, figure 3, structure B; {_CODE} ProVP/clip/model.py: 0.01",
        ge=0,
        le=1,
    )
    reformation: float = option(
        0.0,
        "weight of contrastive feature re-formation: cross-entropy that pairs each image's feature with its plain one",
        f"ProVP paper, its second part (ProVP-Ref); {_CODE} ProVP/trainers/provp.py: 1",
        ge=0,
    )
    dropout: float = option(0.0, "on the block's own prompts", f"{_CODE} ProVP/trainers/provp.py: 0", ge=0, lt=1)


class ProVP(Method[ProVPConfig]):
    """The prompts that enter block l >= 1 are alpha O + (1 - alpha) P^l, where O is what block l-1 made of its prompts; without
    alpha, O + P^l.

    Parameters: N times the sum of D over all blocks, L N D on a ViT, as VPT-deep: 92,160 on ViT-B/16 at N = 10.
    """

    title = "ProVP"
    summary = "deep prompts that add to what the last block made of its own"
    paper = "Xu et al., Progressive Visual Prompt Learning with Contrastive Feature Re-formation, IJCV 2024"
    year = 2024
    fidelity = "both-differ"
    families = ALL_FAMILIES
    notes = (
        "Without a preset it is the structure that iVPT's tables call ProVP, the sum; method ivpt with structure=provp, da=false"
        " and ar=none is the same.",
        "The released code inserts nothing at the first block for N <= 4, and later blocks overwrite the first N patch tokens;"
        " here prompts are inserted for every N.",
        "The released code classifies with CLIP's text features, without a head, on few images per class; here a head is"
        " trained.",
        "Re-formation compares normalised features of the backbone's pooling; the released code compares CLIP's, projected to the"
        " space of its text. It needs a second, plain forward pass in training.",
        "Prompt outputs depend on the image: keys and values of prompts cannot be kept.",
        "assumption: where the token width changes on the way, outputs go through the merging of patches.",
    )
    Config = ProVPConfig
    presets = {
        "released": Preset(
            "the released code's rule",
            {"alpha": 0.01},
            (
                ("prompts of block l", "O + P^l", "0.01 O + 0.99 P^l"),
                ("recipe", "the suite's", "SGD, rate 0.1, weight decay 5e-4, batch 32, 50 to 200 epochs, on CLIP, few-shot"),
            ),
        ),
        "ref": Preset(
            "the released code's rule with contrastive feature re-formation",
            {"alpha": 0.01, "reformation": 1.0},
            (("prompts of block l", "O + P^l", "0.01 O + 0.99 P^l"), ("loss", "cross-entropy", "and the contrastive one")),
        ),
    }

    @classmethod
    def needs_classification(cls, config: Mapping[str, Any]) -> str:
        """See :meth:`vpbench.interface.Method.needs_classification`."""
        return "compares the pooled features of the images of a batch" if config["reformation"] else ""

    @property
    def needs_whole_batches(self) -> bool:
        """Re-formation contrasts the images of a batch."""
        return self.config.reformation > 0

    def build(self) -> None:
        """Creates ``prompts`` (L, N, D)."""
        self.own.prompts = block_prompts(self.shape, self.config.prompt_length)

    def before_block(self, block: int, tokens: Tokens, context: Context) -> Tokens:
        """Inserts the block's prompts, together with the outputs of the last ones."""
        prompts, alpha = of_block(self.own.prompts, block), self.config.alpha
        if context.training and self.config.dropout:
            prompts = F.dropout(prompts.expand(tokens.batch_size, -1, -1), self.config.dropout)
        if block > 0:
            outputs = tokens.prompt_tokens
            prompts = outputs + prompts if alpha is None else alpha * outputs + (1 - alpha) * prompts
        return tokens.with_prompts(prompts)

    def outputs_used(self, block: int) -> frozenset[Part]:
        """Prompts, which go into the next block's."""
        return frozenset({"prompts"}) if block < self.shape.depth - 1 else NO_PARTS

    def readout(self, tokens: Tokens, features: Tensor, context: Context) -> Tensor:
        """The backbone's features, kept for re-formation."""
        context.stash["features"] = features
        return features

    def loss(self, logits: Tensor, targets: Tensor, context: Context) -> Tensor:
        """Cross-entropy, and in training that of the batch's cosine similarities of prompted with plain features."""
        loss = super().loss(logits, targets, context)
        if not (self.config.reformation and context.training):
            return loss
        prompted, plain = context.stash["features"].float(), context.plain_features(context.images).float()
        similarity = F.normalize(prompted, dim=-1) @ F.normalize(plain, dim=-1).T
        pairs = torch.arange(len(similarity), device=similarity.device)
        return loss + self.config.reformation * F.cross_entropy(similarity, pairs)
