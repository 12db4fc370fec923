"""VPT: learnable prompt tokens in the sequence, before every block (deep) or before the first (shallow)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vpbench.core.errors import UnsupportedError
from vpbench.interface import ALL_FAMILIES, Preset, nn, option, uniform_prompts
from vpbench.methods._token_prompts import TokenPrompts, TokenPromptsConfig

if TYPE_CHECKING:
    from torch import Tensor


class VPTConfig(TokenPromptsConfig):
    """Options of VPT."""

    project: int | None = option(
        None,
        "width d' of the prompts; a linear layer takes them to the token width",
        "KMnP/vpt MODEL.PROMPT.PROJECT, off by default",
        ge=1,
    )


class VPT(TokenPrompts[VPTConfig]):
    """Prompts ``[class | prompts | patches]`` without position embeddings.

    Where the token width changes on the way, a deep prompt has the width of its block, and shallow prompts go through what
    lies between the stages with the patch tokens.

    Parameters: N D (shallow, D of its block) or N times the sum of D over its blocks, which is L N D where they are equal and all
    have prompts (deep); with ``project``, d' for D and d' D + D more.
    """

    title = "VPT"
    summary = "learnable prompt tokens before every block (deep) or the first (shallow)"
    paper = "Jia et al., Visual Prompt Tuning, ECCV 2022"
    year = 2022
    fidelity = "released-code"
    families = ALL_FAMILIES
    notes = (
        "iVPT's Table 1 prints 0.60 M with the mean VTAB-1k head: 61 prompts in the mean. Their number is searched per task, and"
        " the released values are on an external drive.",
        "The released recipe trains its first epoch at learning rate 0; the recipe's warmup_from_zero reproduces that.",
        "The released code mixes the shallow prompts of a batch's images where attention has windows; here they stay apart.",
        "The released head starts from Kaiming-normal weights (fan-out) and bias -4.595; head_init=vpt reproduces that.",
    )
    Config = VPTConfig
    presets = {
        "shallow": Preset(
            "VPT-shallow: prompts before the first block only, no dropout",
            {"deep": False, "dropout": 0.0},
            (
                ("prompts", "new ones before every block", "before block 0, their outputs travel on"),
                ("prompt dropout", "0.1", "0"),
            ),
        ),
        "released": Preset(
            "VPT-deep with the released head",
            {"head_init": "vpt"},
            (
                ("head", "PyTorch's initial values", "Kaiming-normal (fan-out), bias -4.595"),
                ("recipe", "the suite's", "SGD, 100 epochs, 10 of warm-up from 0, cosine per epoch"),
            ),
        ),
    }

    def build(self) -> None:
        """Creates ``prompts`` (1 or L - start, N, d') from U(-v, v), v = sqrt(6 / (3 p^2 + d')), and ``projection``.

        Raises:
            UsageError: when the backbone has no block ``start``.
            UnsupportedError: for projected deep prompts where the token width changes on the way.
        """
        config, shape = self.config, self.shape
        if config.project is None:
            super().build()
            return
        self.check_start()
        if config.deep and len(shape.stages) > 1:
            raise UnsupportedError(
                "vpt.project makes prompts of one width, and this backbone has several: set deep=false, or no project."
            )
        projected = shape.resized(config.project)
        self.own.prompts = uniform_prompts(projected, len(self.prompt_blocks), config.prompt_length, config.project)
        self.own.projection = nn.Linear(config.project, shape.width_of(config.start))
        nn.init.kaiming_normal_(self.own.projection.weight, a=0, mode="fan_out")

    def prompts_of(self, block: int) -> Tensor:
        """Prompts of a block, (N, D), behind the projection."""
        prompts = super().prompts_of(block)
        return prompts if self.config.project is None else self.own.projection(prompts)
