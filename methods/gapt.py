"""GaPT: shallow prompts behind learned gates, and a learned temperature in every block's attention."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from vpbench.core.errors import UnsupportedError
from vpbench.interface import (
    ALL_PARTS,
    NO_PARTS,
    Context,
    F,
    Method,
    MethodConfig,
    Part,
    Preset,
    Scope,
    Tokens,
    nn,
    option,
    torch,
    uniform_prompts,
)

if TYPE_CHECKING:
    from torch import Tensor

_CODE = "ryongithub/GatedPromptTuning"
LOWEST, HIGHEST = 0.01, 10.0


class GaPTConfig(MethodConfig):
    """Options of GaPT."""

    prompt_length: int = option(100, "prompt tokens N", f"{_CODE} README.md: 100 in its example, CUB on MAE", ge=1)
    gate_init: float = option(
        5.0,
        "G of the initial gates sigmoid(-G): near 0, prompts pass the blocks unchanged",
        f"{_CODE} README.md: 5 in its example; src/configs/config.py: 10 where none is given",
    )
    temperature: bool = option(
        True, "learn a temperature per block that divides the attention logits", f"{_CODE} run.sh: TEMP_LEARN True"
    )
    pooling: Literal["backbone", "mean"] = option(
        "backbone",
        "features of the backbone's own pooling (MoCo: the class token behind the final norm), or the final norm of the mean over"
        " prompts and patch tokens (MAE)",
        f"{_CODE} src/models/vit_prompt/vit_moco.py, vit_mae.py",
    )
    dropout: float = option(0.1, "on the prompts, drawn for every image", f"{_CODE} run.sh: 0.1", ge=0, lt=1)


class GaPT(Method[GaPTConfig]):
    """Prompts ``[class | prompts | patches]`` that enter before block 0 and stay in the sequence.

    After block l = 0 to L-2 the prompts become g_l out + (1 - g_l) in, g_l = sigmoid(a_l). In every block the attention logits
    q k / sqrt(d) are divided by T_l, which each forward pass clamps to [0.01, 10].

    Parameters: N D + (L - 1) + L; 76,823 on ViT-B/16 at N = 100.
    """

    title = "GaPT"
    summary = "shallow prompts with learned gates and attention temperatures"
    paper = "Yoo et al., Improving Visual Prompt Tuning for Self-supervised Vision Transformers, ICML 2023"
    year = 2023
    fidelity = "released-code"
    requires = ("class token",)
    notes = (
        "The clamp writes into the parameter at the start of every forward pass, evaluation too, and lets all gradient through.",
        "The gates' and temperatures' counts, 11 and 12, are fixed in the released code; here they follow the depth.",
        "On MAE the released code norms the mean with the encoder's own final norm: pooling=mean (preset mae) on a backbone that"
        " keeps this norm. VPT's code and the cards of MAE here have a fresh norm behind the mean instead.",
        "Learning rate and G per data set are not public, the README's example apart.",
        "assumption: it is unsupported without a class token, and on backbones whose attention has windows; the paper has"
        " neither.",
        "Prompts depend on the image, so keys and values cannot be kept; N = 100 costs 53 % more operations on ViT-B/16.",
    )
    Config = GaPTConfig
    fits_every_task = True
    presets = {
        "mae": Preset(
            "the released readout of MAE models",
            {"pooling": "mean"},
            (("features", "the backbone's own", "final norm of the mean over prompts and patch tokens"),),
        ),
        "released": Preset(
            "the released code without its script's values, with its head",
            {"gate_init": 10.0, "head_init": "vpt"},
            (
                ("initial gates", "sigmoid(-5)", "sigmoid(-10)"),
                ("head", "PyTorch's initial values", "Kaiming-normal (fan-out), bias -4.595"),
                ("recipe", "the suite's", "SGD, 100 epochs, 10 of warm-up from 0, cosine per epoch, no weight decay"),
            ),
        ),
    }

    def build(self) -> None:
        """Creates ``prompts`` (N, D), ``gates`` (L-1) and ``temperatures`` (L).

        Raises:
            UnsupportedError: for a backbone without a class token.
        """
        config, shape = self.config, self.shape
        if shape.prefix == 0:
            raise UnsupportedError("GaPT gates what its prompts show to the class token, and the backbone has none.")
        self.own.prompts = uniform_prompts(shape, config.prompt_length, shape.width)
        if shape.depth > 1:
            self.own.gates = nn.Parameter(torch.full((shape.depth - 1,), -config.gate_init))
        if config.temperature:
            self.own.temperatures = nn.Parameter(torch.ones(shape.depth))

    def attach(self, scope: Scope) -> None:
        """Divides queries by the temperatures; keeps the final norm for ``pooling=mean``."""
        if self.config.temperature:
            for block in range(self.shape.depth):
                scope.edit_queries(block, partial(self._cooled, block))
        if self.config.pooling == "mean":
            self._norm = scope.module("norm")

    def _cooled(self, block: int, query: Tensor) -> Tensor:
        return query / self.own.temperatures[block].to(query.dtype)

    def before_block(self, block: int, tokens: Tokens, context: Context) -> Tokens:
        """Inserts the prompts before block 0; keeps what enters a gated block."""
        if block == 0:
            if self.config.temperature:
                with torch.no_grad():
                    self.own.temperatures.clamp_(LOWEST, HIGHEST)
            prompts = self.own.prompts
            if context.training and self.config.dropout:
                prompts = F.dropout(prompts.expand(tokens.batch_size, -1, -1), self.config.dropout)
            tokens = tokens.with_prompts(prompts)
        context.stash["prompts"] = tokens.prompts
        return tokens

    def after_block(self, block: int, tokens: Tokens, context: Context) -> Tokens:
        """Mixes what the block made of the prompts with what entered it."""
        if block == self.shape.depth - 1:
            return tokens
        gate = self.own.gates[block].sigmoid()
        return tokens.with_prompts(gate * tokens.prompt_tokens + (1 - gate) * context.stash["prompts"])

    def outputs_used(self, block: int) -> frozenset[Part]:
        """Prompts travel on; the last block's output is what the pooling reads."""
        if block < self.shape.depth - 1:
            return frozenset({"prompts"})
        return ALL_PARTS if self.config.pooling == "mean" else NO_PARTS

    def readout(self, tokens: Tokens, features: Tensor, context: Context) -> Tensor:
        """The backbone's features, or the norm of the mean over all tokens but the prefix."""
        if self.config.pooling == "backbone":
            return features
        normed: Tensor = self._norm(tokens.x[:, tokens.prefix :].mean(1))
        return normed

    def readout_width(self, width: int) -> int:
        """That of the tokens for ``pooling=mean``."""
        return width if self.config.pooling == "backbone" else self.shape.width
