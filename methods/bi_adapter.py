"""Bi-AdaptFormer and Bi-LoRA: adapters whose weights take a bit or two."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from vpbench.interface import ALL_FAMILIES, NO_PARTS, F, Method, MethodConfig, Part, Preset, Scope, nn, option, torch

if TYPE_CHECKING:
    from torch import Tensor

_CODE = "JieShibo/PETL-ViT binary_adapter"
EPSILON = 1e-5
CODES, STATISTICS, QUANTISED = "own.codes", "own.statistics", "own.quantised"  # names in a file of weights


class BiAdapterConfig(MethodConfig):
    """Options of binary adapters."""

    form: Literal["adaptformer", "lora"] = option(
        "adaptformer", "a bottleneck parallel to each MLP, or low-rank updates of queries and values", f"{_CODE}/main.py --method"
    )
    bits: Literal[1, 2, 4, 8, 32] = option(
        1, "per weight; 32: no quantisation", f"Bi-AdaptFormer paper, table 1; {_CODE}/main.py --bit"
    )
    bottleneck: int = option(32, "width h of the bottleneck", f"Bi-AdaptFormer paper, section 5.1; {_CODE}/main.py --dim", ge=1)
    scale: float = option(
        1.0, "factor s on the output", f"{_CODE}/main.py --scale: 1 unless said otherwise, 0.01 to 10 per task of VTAB-1k", gt=0
    )
    dropout: float = option(0.1, "in front of the second projection", f"{_CODE}/adaptformer.py, lora.py", ge=0, lt=1)


class BiAdapter(Method[BiAdapterConfig]):
    """AdaptFormer, y = u + mlp(LN2 u) + s Q(W_up) relu(Q(W_down) u), or LoRA, q += s Q(W_up) Q(W_down) h and the same for v, with
    weights of b bits and no biases.

    Q normalises a matrix, w_n = (w - mean) / (std + 1e-5), takes the nearest of 2^b levels, and takes it back: q std + mean.
    Each level is the median of N(0, 1) in its cell: +-0.6745 for one bit, +-0.3778 and +-1.2657 for two. The gradient of the
    rounding is straight-through, but mean and std have theirs: dW = G + (sum G (q - w_n)) w_n / (N - 1).

    Trained weights are saved as their bits, with mean and std of each matrix.

    Parameters: 2 L D h, twice with ``lora``; on ViT-B/16 at h = 32 589,824, 74 kB at one bit, and 1,179,648, 147 kB.
    """

    title = "Bi-Adapter"
    summary = "adapters whose weights take a bit or two"
    paper = "Jie et al., Revisiting the Parameter Efficiency of Adapters from the Perspective of Precision Redundancy, ICCV 2023"
    year = 2023
    group = "extra"
    fidelity = "released-code"
    families = ALL_FAMILIES
    notes = (
        "iVPT's Table 1 prints 0.64 M for Bi-AdaptFormer with the mean VTAB-1k head: that is h = 32 with biases (599,424), which"
        " the released code does not have (589,824, 0.628 M with the head). What is saved is a thirty-second of that in bytes.",
        "The released runs take raw pixels in [0, 1], without normalisation, s per task, and the best epoch on the test split.",
        "With fewer than 32 bits it does not start as the frozen model, since W_up is drawn from a truncated N(0, 0.001).",
        "The bit-wise classifier of the released code (bihead) is left out: a head is a linear layer in float32 for all methods.",
    )
    Config = BiAdapterConfig
    presets = {
        "adaptformer": Preset(
            "Bi-AdaptFormer", {}, (("form", "the same", "a bottleneck parallel to each MLP, h = 32, one bit"),)
        ),
        "lora": Preset(
            "Bi-LoRA",
            {"form": "lora"},
            (
                ("form", "a bottleneck parallel to each MLP", "low-rank updates of queries and values"),
                ("parameters on ViT-B/16", "589,824", "1,179,648"),
            ),
        ),
    }
    _quantised = False

    def build(self) -> None:
        """Creates ``down`` (h, D) and ``up`` (D, h) for every block, with ``lora`` for queries and for values."""
        self.own.weights = nn.ModuleDict({name: self._pair(self.shape.width_of(block)) for name, block in self._places()})
        if self.config.bits < 32:
            levels, thresholds = quantisation_levels(self.config.bits)
            self.own.register_buffer("levels", torch.tensor(levels, dtype=torch.float32), persistent=False)
            self.own.register_buffer("thresholds", torch.tensor(thresholds, dtype=torch.float32), persistent=False)
            # whether the weights are quantised already, as after loading a file; their statistics would be others
            self.own.register_buffer("quantised", torch.tensor(False))

    def _places(self) -> Iterator[tuple[str, int]]:
        parts = ("_q", "_v") if self.config.form == "lora" else ("",)
        return ((f"{block}{part}", block) for block in range(self.shape.depth) for part in parts)

    def _pair(self, width: int) -> nn.Module:
        pair = nn.Module()
        pair.down = nn.Parameter(torch.empty(self.config.bottleneck, width))
        pair.up = nn.Parameter(torch.zeros(width, self.config.bottleneck))
        nn.init.kaiming_uniform_(pair.down, a=math.sqrt(5))
        if self.config.bits < 32:
            nn.init.trunc_normal_(pair.up, std=0.001, a=-0.002, b=0.002)
        return pair

    def attach(self, scope: Scope) -> None:
        """Adds the adapters' outputs to the MLPs' branches, or to queries and values."""
        for block in range(self.shape.depth):
            if self.config.form == "lora":
                scope.after("qkv", partial(self._updated, block), block, tokenwise=True)
            else:
                scope.after("mlp_branch", partial(self._adapted, block), block, tokenwise=True)

    def outputs_used(self, block: int) -> frozenset[Part]:
        """None."""
        return NO_PARTS

    def _adapted(self, block: int, x: Tensor, y: Tensor) -> Tensor:
        return y + self._output(f"{block}", x)

    def _updated(self, block: int, x: Tensor, y: Tensor) -> Tensor:
        query, key, value = y.chunk(3, dim=-1)
        return torch.cat([query + self._output(f"{block}_q", x), key, value + self._output(f"{block}_v", x)], dim=-1)

    def _output(self, name: str, x: Tensor) -> Tensor:
        pair: Any = self.own.weights[name]
        hidden = F.linear(x, self._weight(pair.down))
        if self.config.form == "adaptformer":
            hidden = hidden.relu()
        hidden = F.dropout(hidden, self.config.dropout, self.own.training)
        return self.config.scale * F.linear(hidden, self._weight(pair.up))

    # Quantisation

    def _weight(self, weight: Tensor) -> Tensor:
        """The weight that acts."""
        if self.config.bits == 32 or self._quantised:
            return weight
        index, normed, mean, std = self._rounded(weight)
        rounded = self.own.levels[index] + (normed - normed.detach())  # straight-through: the value is the level's
        return rounded * std + mean

    def restored(self) -> None:
        """Notes whether the weights are quantised already."""
        self._quantised = self.config.bits < 32 and bool(self.own.quantised)

    def _rounded(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Each weight's level, the normalised weights, and their mean and standard deviation (with N - 1)."""
        std, mean = torch.std_mean(weight)
        normed = (weight - mean) / (std + EPSILON)
        return torch.bucketize(normed.detach(), self.own.thresholds), normed, mean, std

    # Saving

    def pack(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The codes of all weights, b bits each, behind each other in whole bytes per matrix; means and standard deviations."""
        if self.config.bits == 32 or tensors[QUANTISED]:  # what was quantised already has lost its statistics
            return tensors
        names = self._names()
        rounded = [self._rounded(tensors[name].detach()) for name in names]
        codes = torch.cat([self._bytes_of(index.flatten()) for index, *_ in rounded])
        statistics = torch.stack([torch.stack([mean, std]) for _, _, mean, std in rounded])
        others = {name: tensor for name, tensor in tensors.items() if name not in {*names, QUANTISED}}
        return {**others, CODES: codes, STATISTICS: statistics}

    def unpack(self, packed: dict[str, Tensor]) -> dict[str, Tensor]:
        """The quantised weights, marked as such."""
        if CODES not in packed:
            return packed
        tensors = {name: tensor for name, tensor in packed.items() if name not in (CODES, STATISTICS)}
        shapes = {name: self.own.get_parameter(name.removeprefix("own.")).shape for name in self._names()}
        sizes = [math.ceil(math.prod(shape) / self._per_byte) for shape in shapes.values()]
        if sum(sizes) != len(packed[CODES]):
            return packed
        levels = self.own.levels.cpu()
        for (name, shape), codes, (mean, std) in zip(shapes.items(), packed[CODES].split(sizes), packed[STATISTICS]):
            index = self._codes_of(codes)[: math.prod(shape)].reshape(shape)
            tensors[name] = levels[index] * std + mean
        return {**tensors, QUANTISED: torch.tensor(True)}

    def _names(self) -> list[str]:
        """Of the weights among the tensors that are saved."""
        return [f"own.weights.{place}.{part}" for place, _ in self._places() for part in ("down", "up")]

    @property
    def _per_byte(self) -> int:
        return 8 // self.config.bits

    def _shifts(self) -> Tensor:
        """Where in a byte its codes are, lowest bits first."""
        return torch.arange(self._per_byte) * self.config.bits

    def _bytes_of(self, codes: Tensor) -> Tensor:
        codes = F.pad(codes.cpu(), (0, -len(codes) % self._per_byte)).reshape(-1, self._per_byte)
        return (codes << self._shifts()).sum(1).to(torch.uint8)

    def _codes_of(self, values: Tensor) -> Tensor:
        return ((values.long().unsqueeze(1) >> self._shifts()) & (2**self.config.bits - 1)).flatten()

    def merge(self, scope: Scope) -> None:
        """With ``lora`` adds s Q(W_up) Q(W_down) to the frozen weights; otherwise quantises once instead of in every pass."""
        with torch.no_grad():
            for pair in self.own.weights.values():
                for weight in (pair.down, pair.up):
                    weight.copy_(self._weight(weight))
        if self.config.bits < 32:
            self.own.quantised.fill_(True)
        self._quantised = True
        if self.config.form == "lora":
            for block in range(self.shape.depth):
                pairs: list[Any] = [self.own.weights[f"{block}_{part}"] for part in "qv"]
                query, value = (self.config.scale * pair.up @ pair.down for pair in pairs)
                scope.fold("qkv", block, weight=torch.cat([query, torch.zeros_like(query), value]))


def quantisation_levels(bits: int) -> tuple[list[float], list[float]]:
    """2^b levels and the 2^b - 1 thresholds half-way between them: each level halves the mass of N(0, 1) between its thresholds.

    The 500 rounds from zero of the released code (binary_adapter/utils.py).
    """
    import numpy as np
    from scipy.special import ndtr, ndtri

    levels = np.zeros(2**bits)
    for _ in range(500):
        thresholds = (levels[1:] + levels[:-1]) / 2
        edges = np.concatenate([[0.0], ndtr(thresholds), [1.0]])
        levels = ndtri((edges[1:] + edges[:-1]) / 2)
    return levels.tolist(), thresholds.tolist()
