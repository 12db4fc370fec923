"""LION: an implicit layer before a frozen backbone and one behind it (a stand-in)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from vpbench.interface import (
    ALL_FAMILIES,
    NO_PARTS,
    Context,
    F,
    Method,
    MethodConfig,
    Part,
    Tokens,
    full_precision,
    nn,
    option,
    torch,
)
from vpbench.methods._equilibrium import anderson, equilibrium, iterate

if TYPE_CHECKING:
    from torch import Tensor

_OPEN = "assumption: the paper's values could not be read"
CONTRACTION = 0.9  # largest Lipschitz constant of a layer's step, so that its fixed point exists and is unique


class LIONConfig(MethodConfig):
    """Options of LION."""

    input_width: int = option(16, "hidden channels of the layer on the image, a 1 x 1 convolution", _OPEN, ge=1)
    output_width: int = option(64, "hidden units of the layer on the features", _OPEN, ge=1)
    input_blend: float = option(0.5, "share of the fixed point in the image that the backbone sees", _OPEN, ge=0, le=1)
    output_blend: float = option(0.5, "share of the fixed point in the features that the head reads", _OPEN, ge=0, le=1)
    solver: Literal["anderson", "iteration"] = option(
        "anderson", "how fixed points are found, forward and backward", f"{_OPEN}; Anderson acceleration: Bai et al., 2019"
    )
    steps: int = option(10, "steps of the solver", _OPEN, ge=1)
    memory: int = option(4, "outputs that Anderson acceleration mixes", _OPEN, ge=1)
    threshold: float = option(
        0.1,
        "weights below this share of their tensor's mean magnitude are not critical: they decay to zero; 0: none is pruned",
        f"LION paper: a threshold separates critical from other parameters; {_OPEN}",
        ge=0,
    )
    prune_after: float = option(0.5, "share of the epochs after which weights are compared with the threshold", _OPEN, gt=0, lt=1)


class LION(Method[LIONConfig]):
    """z* = f(z*; x), f(z; x) = x + W2 relu(W1 z + b1) + b2, on the image's channels at every pixel and on the features; the
    backbone sees (1 - a) x + a z*, the head reads (1 - b) features + b z*.

    W1 and W2 are scaled down to Frobenius norm 1 and 0.9 where they exceed them, so that f is a contraction in z. Gradients are
    those of the fixed point, by the implicit function theorem, whatever the solver did. W2 = b2 = 0 at the start: z* = x.

    Parameters: (2 C h + h + C) for C image channels and (2 D r + r + D) for the features: 115 + 99,136 on ViT-B/16 at h = 16,
    r = 64.
    """

    title = "LION"
    summary = "implicit layers before and behind the backbone"
    paper = "Wang et al., LION: Implicit Vision Prompt Tuning, AAAI 2024"
    year = 2024
    fidelity = "approximate"
    families = ALL_FAMILIES
    notes = (
        "A documented stand-in: no code was released, and f, solver, blend, threshold and rates are not in what could be read."
        " InsVP prints four of ten data sets and does not name the backbone.",
        "assumption: f is a residual bottleneck, kept a contraction by scaling its weights; blends are constants.",
        "assumption: after half of the epochs, weights whose magnitude is below a tenth of their tensor's mean are not critical:"
        " they get no gradient from then on and decay linearly to zero by the last epoch but one. params_active counts the"
        " others.",
        "The solver takes a fixed number of steps, so that an image's prediction does not depend on its batch.",
    )
    Config = LIONConfig

    @classmethod
    def needs_classification(cls, config: Mapping[str, Any]) -> str:
        """See :meth:`vpbench.interface.Method.needs_classification`."""
        return "has a layer between the pooled features and the classifier"

    def build(self) -> None:
        """Creates the layers ``input`` and ``output``, each ``W1`` (h, c), ``b1`` (h), ``W2`` (c, h), ``b2`` (c), with the
        buffers ``critical_W1``, ``critical_W2`` (true) and ``fade`` (1)."""
        self.own.input = self._layer(self.shape.channels, self.config.input_width)
        self.own.output = self._layer(self.shape.width_of(self.shape.depth - 1), self.config.output_width)

    def _layer(self, width: int, hidden: int) -> nn.Module:
        layer = nn.Module()
        layer.W1, layer.b1 = nn.Parameter(torch.empty(hidden, width)), nn.Parameter(torch.zeros(hidden))
        layer.W2, layer.b2 = nn.Parameter(torch.zeros(width, hidden)), nn.Parameter(torch.zeros(width))
        nn.init.kaiming_uniform_(layer.W1)
        for name in ("W1", "W2"):
            layer.register_buffer(f"critical_{name}", torch.ones_like(getattr(layer, name), dtype=torch.bool))
        layer.register_buffer("fade", torch.ones(()))
        return layer

    def _weight(self, layer: Any, name: str, largest: float) -> Tensor:
        """A layer's matrix: what is not critical has faded and no gradient, and its norm is at most ``largest``."""
        weight, critical = getattr(layer, name), getattr(layer, f"critical_{name}")
        weight = torch.where(critical, weight, weight.detach() * layer.fade)
        return weight * (largest / torch.linalg.vector_norm(weight).clamp(min=largest))

    def _blended(self, layer: Any, x: Tensor, share: float) -> Tensor:
        """(1 - share) x + share z*, for x (B, c, positions)."""
        inner, outer = self._weight(layer, "W1", 1.0), self._weight(layer, "W2", CONTRACTION)

        def f(z: Tensor) -> Tensor:
            return x + outer @ F.relu(inner @ z + layer.b1[:, None]) + layer.b2[:, None]

        if self.config.solver == "anderson":
            solve = partial(anderson, steps=self.config.steps, memory=self.config.memory)
        else:
            solve = partial(iterate, steps=self.config.steps)
        return (1 - share) * x + share * equilibrium(f, x, solve)

    def pixels(self, images: Tensor, context: Context) -> Tensor:
        """Blends the images with the fixed point of the layer on their channels."""
        with full_precision(images):
            blended = self._blended(self.own.input, images.to(self.own.input.W1.dtype).flatten(2), self.config.input_blend)
        return blended.view_as(images)

    def outputs_used(self, block: int) -> frozenset[Part]:
        """None but what the backbone pools."""
        return NO_PARTS

    def readout(self, tokens: Tokens, features: Tensor, context: Context) -> Tensor:
        """Blends the features with the fixed point of the layer on them."""
        with full_precision(features):
            x = features.to(self.own.output.W1.dtype).unsqueeze(-1)
            return self._blended(self.own.output, x, self.config.output_blend).squeeze(-1)

    # Pruning

    def epoch_ended(self, epoch: int, epochs: int) -> None:
        """Finds the critical weights once; from then on lets the others fade."""
        if self.config.threshold == 0:
            return
        first, last = max(1, round(epochs * self.config.prune_after)), max(1, epochs - 1)
        ended = epoch + 1
        for layer in (self.own.input, self.own.output):
            if ended == first:
                self._find_critical(layer)
            if ended >= first:
                layer.fade.fill_(max(0.0, (last - ended) / max(1, last - first)))

    def _find_critical(self, layer: Any) -> None:
        with torch.no_grad():
            for name in ("W1", "W2"):
                size = getattr(layer, name).abs()
                getattr(layer, f"critical_{name}").copy_(size >= self.config.threshold * size.mean())

    def active_parameters(self) -> int:
        """All but the weights that are not critical; on the meta device nothing is pruned."""
        masks = [mask for name, mask in self.own.named_buffers() if "critical" in name and not mask.is_meta]
        return super().active_parameters() - sum(mask.numel() - int(mask.count_nonzero()) for mask in masks)
