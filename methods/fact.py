"""FacT: low-rank updates of all linear layers whose factors are shared by the whole network."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from vpbench.interface import (
    ALL_FAMILIES,
    NO_PARTS,
    F,
    Method,
    MethodConfig,
    Part,
    Preset,
    Scope,
    Site,
    nn,
    option,
    torch,
)
from vpbench.methods._linears import LINEARS, check_widths

if TYPE_CHECKING:
    from torch import Tensor

COLUMNS: dict[Site, slice] = {"qkv": slice(0, 3), "proj": slice(3, 4), "fc1": slice(4, 8), "fc2": slice(8, 12)}
"""Of the 12 columns of P that a block owns, those of a linear layer."""
CODE = "JieShibo/PETL-ViT FacT/fact_tk.py, fact_tt.py"


class FacTConfig(MethodConfig):
    """Options of FacT."""

    form: Literal["tk", "tt"] = option(
        "tk",
        "Tucker format (core and columns shared by all layers) or tensor train (own cores per layer)",
        "FacT paper, section 3",
    )
    rank: int = option(16, "rank r", "JieShibo/PETL-ViT FacT/configs: 16 or 32 (tk), 4, 8 or 16 (tt), per task", ge=1)
    scale: float = option(
        1.0,
        "factor s of the updates",
        "JieShibo/PETL-ViT FacT/configs: 0.01 to 100, per task; assumption: 1 where no task has one",
        gt=0,
    )
    dropout: float = option(0.1, "on the r-dimensional codes", CODE, ge=0, lt=1)
    index_order: Literal["released", "paper"] = option(
        "released",
        "how tk cuts the core of a layer into matrices",
        "released: fact_tk.py; paper: one r x r matrix per D x D slice, output index first",
    )


class FacT(Method[FacTConfig]):
    """Every linear layer adds s V(drop(K U(x))): U (r, D) and V (D, r) are shared by all layers, K is the layer's own.

    Inputs and outputs wider than the tokens are cut into slices of D that go through U or V one by one, so that K is (3r, r) for
    qkv, (r, r) for proj, (4r, r) for fc1 and (r, 4r) for fc2. ``tt``: each K is a parameter. ``tk``: the 12 slices of a block are
    columns j of C x_3 P, C (r, r, r), P (r, 12 L). V starts at zero; merged exactly.

    Parameters: 2 D r + 12 L r + r^3 for tk, 2 D r + 12 L r^2 for tt; on ViT-B/16 30,976 at r = 16 and 86,528 at r = 32 for tk,
    61,440, 21,504 and 8,448 at r = 16, 8 and 4 for tt.
    """

    title = "FacT"
    summary = "low-rank updates of all linear layers with factors shared by the whole network"
    paper = "Jie and Deng, FacT: Factor-Tuning for Lightweight Adaptation on Vision Transformer, AAAI 2023"
    year = 2023
    group = "extra"
    fidelity = "both-differ"
    families = ALL_FAMILIES
    notes = (
        "iVPT's Table 1 prints 0.11 M: the mean over VTAB-1k of tk with the released ranks, 68,985, with the mean head; tt's mean"
        " is 39,734.",
        "The released tk code multiplies codes from the left, so that the core's first index belongs to the input of q, k, v and"
        " proj, and cuts the cores of fc1 and fc2 by a reshape that mixes slices; index_order=paper takes a matrix per slice.",
        "The released runs test every tenth epoch and keep the best on the test images; they use drop path 0.1.",
        "Where the token width changes on the way (assumption: never released) every width has its own U and V; C and P, or the"
        " cores, are as on a ViT.",
    )
    Config = FacTConfig
    presets = {
        "tt": Preset(
            "tensor-train format",
            {"form": "tt"},
            (("cores", "C x_3 P, shared by all layers", "one matrix per linear layer, four of them wider than r"),),
        ),
        "paper": Preset(
            "Tucker format with the paper's indices",
            {"index_order": "paper"},
            (
                (
                    "matrix of a slice",
                    "its transpose for q, k, v, proj; a reshape of four columns for fc1, fc2",
                    "C x_3 column j of P",
                ),
                ("logits", "of the released code", "0.12 to 0.15 of the largest logit away from them, at equal tensors"),
            ),
        ),
    }

    def build(self) -> None:
        """Creates ``factors`` (U, V of every token width) and the cores: ``C`` and ``P``, or ``cores`` of every block."""
        rank, depth = self.config.rank, self.shape.depth
        self.own.factors = nn.ModuleList(self._factors(stage.width) for stage in self.shape.stages)
        if self.config.form == "tk":
            self.own.C = nn.Parameter(nn.init.xavier_uniform_(torch.empty(rank, rank, rank)))
            self.own.P = nn.Parameter(nn.init.xavier_uniform_(torch.empty(rank, 12 * depth)))
        else:
            self.own.cores = nn.ModuleList(self._cores() for _ in range(depth))

    def _factors(self, width: int) -> nn.Module:
        factors = nn.Module()
        factors.U = nn.Parameter(_linear_init(torch.empty(self.config.rank, width)))
        factors.V = nn.Parameter(torch.zeros(width, self.config.rank))
        return factors

    def _cores(self) -> nn.ParameterDict:
        rank = self.config.rank
        sizes = {"q": (1, 1), "k": (1, 1), "v": (1, 1), "proj": (1, 1), "fc1": (4, 1), "fc2": (1, 4)}
        return nn.ParameterDict(
            {
                name: nn.Parameter(_linear_init(torch.empty(rows * rank, columns * rank)))
                for name, (rows, columns) in sizes.items()
            }
        )

    def _places(self) -> Iterator[tuple[int, Site]]:
        return ((block, site) for block in range(self.shape.depth) for site in LINEARS)

    def attach(self, scope: Scope) -> None:
        """Adds the updates to the outputs of the linear layers.

        Raises:
            UnsupportedError: when an MLP is not four token widths wide.
        """
        check_widths(scope, self.shape, self.title)
        for block, site in self._places():
            scope.after(site, partial(self._updated, block, site), block, tokenwise=True)

    def outputs_used(self, block: int) -> frozenset[Part]:
        """None."""
        return NO_PARTS

    def _updated(self, block: int, site: Site, x: Tensor, y: Tensor) -> Tensor:
        factors, width = self._factors_of(block), self.shape.width_of(block)
        code = F.linear(x.unflatten(-1, (-1, width)), factors.U).flatten(-2)
        code = F.dropout(F.linear(code, self._core(block, site)), self.config.dropout, self.own.training)
        return y + self.config.scale * F.linear(code.unflatten(-1, (-1, self.config.rank)), factors.V).flatten(-2)

    def _factors_of(self, block: int) -> Any:
        factors: Any = self.own.factors[self.shape.stages.index(self.shape.stage_of(block))]
        return factors

    def _core(self, block: int, site: Site) -> Tensor:
        """K of a linear layer, (output slices x r, input slices x r)."""
        if self.config.form == "tt":
            cores = self.own.cores[block]
            return torch.cat([cores[name] for name in "qkv"]) if site == "qkv" else cores[site]
        columns = COLUMNS[site]
        matrices = self.own.C @ self.own.P[:, 12 * block + columns.start : 12 * block + columns.stop]  # (r, r, slices)
        if self.config.index_order == "released":
            if site == "fc2":
                return matrices.flatten(1)
            return matrices.flatten(1).T if site == "fc1" else matrices.permute(2, 1, 0).flatten(0, 1)
        return matrices.permute(0, 2, 1).flatten(1) if site == "fc2" else matrices.permute(2, 0, 1).flatten(0, 1)

    def merge(self, scope: Scope) -> None:
        """Adds s V K U, slice by slice, to the frozen weights."""
        rank = self.config.rank
        for block, site in self._places():
            factors = self._factors_of(block)
            core = self._core(block, site).unflatten(0, (-1, rank)).unflatten(2, (-1, rank))  # (out slices, r, in slices, r)
            weight = torch.einsum("dp,bpaq,qe->bdae", factors.V, core, factors.U).flatten(2).flatten(0, 1)
            scope.fold(site, block, weight=self.config.scale * weight)


def _linear_init(weight: Tensor) -> Tensor:
    """PyTorch's initial values of a linear layer's weight."""
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
    return weight
