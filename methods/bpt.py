"""BPT: prompts that are products of a small code and a basis."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from vpbench.core.errors import UsageError
from vpbench.interface import ALL_FAMILIES, Preset, Scope, Session, nn, option, torch
from vpbench.methods._token_prompts import TokenPrompts, TokenPromptsConfig, sampled_images

if TYPE_CHECKING:
    from torch import Tensor

_CODE = "WangYZ1608/BPT"
FLOOR = {"white": 1e-4, "white-rows": 1e-9}  # least eigenvalue, as a share of the largest


class BPTConfig(TokenPromptsConfig):
    """Options of BPT."""

    prompt_length: int = option(100, "prompt tokens N per block", f"{_CODE} README.md: 100 shallow, 50 deep", ge=1)
    deep: bool = option(
        False,
        "new prompts before every block, their outputs discarded; else prompts before the first one only",
        f"{_CODE} README.md: both; shallow is what its scripts run without whitening",
    )
    rank: int = option(75, "columns r of the basis", f"{_CODE} script: 75, 25 on CUB of the supervised model; 50 deep", ge=1)
    dropout: float = option(0.0, "on the prompts, element by element, sampled for every image", f"{_CODE}: none", ge=0, lt=1)
    basis: Literal["xavier", "white", "white-rows"] = option(
        "xavier",
        "initial basis: Xavier-uniform; or columns of the matrix that whitens what queries and keys make of the training images' "
        "tokens, the same for all rows, or drawn for each row",
        f"BPT paper, section 4; {_CODE} Models/bpt_shallow.py draws for each row; white: assumption, a basis that all rows share",
    )
    whitening_images: int = option(
        64, "training images whose tokens are whitened", "assumption: the released arrays are not public", ge=1, le=10**9
    )
    trained_bases: int | None = option(
        None, "last blocks whose bases are trained, the others stay as they start; None: all", f"{_CODE} train_MAE.py: 4", ge=1
    )


class BPT(TokenPrompts[BPTConfig]):
    """Prompts Z B^T of a block, code Z (N, r) from N(0, 0.02) and basis B (D, r), inserted as VPT does.

    With whitening, A = W_q W_k^T X^T of the block's projections and the mean over images of the patch tokens X (M, D) that enter
    it, S = A A^T / D, and B are r columns of S^(-1/2), chosen before training.

    For inference the product is computed once, which leaves VPT.

    Parameters: N r + D r (shallow), L times that (deep), without the bases that are not trained; on ViT-B/16 65,100 at N = 100
    and r = 75, deep 490,800 at N = 50 and r = 50, or 183,600 with four trained bases.
    """

    title = "BPT"
    summary = "prompts that are products of a code and a basis"
    paper = "Wang et al., Attention to the Burstiness in Visual Prompt Tuning!, ICCV 2025"
    year = 2025
    fidelity = "approximate"
    families = ALL_FAMILIES
    notes = (
        "No released classifier runs: its forward unpacks two values of a function that returns one, and the supervised script"
        " accepts only names of models that do not exist.",
        "The released form is a 1 x 1 convolution over a sqrt(N) x sqrt(N) map, which is the same function and fails for the"
        " documented N = 50; here N is free.",
        "The bilinear form is checked against the released modules. Whitening is not reproducible: the arrays of queries, keys"
        " and tokens are not released; their orientation, their number of images, and that tokens have position embeddings are"
        " assumptions (q = x W_q as in the paper).",
        "The mean over images of A has as many columns as there are patches, 196 of 768: S is singular, and its inverse root"
        " explodes (entries up to 1,900 measured on random arrays). basis=white raises eigenvalues to 1e-4 of the largest;"
        " white-rows to 1e-9, about what single precision leaves of a zero.",
        "The released whitening draws r entries for every row by itself, which leaves no common basis: white-rows.",
        "The released deep class always whitens, the shallow one of MAE by default; the others do not.",
        "On MAE the released code norms the mean over prompts and patches, as the backbone vit-b16-mae-released; its moving"
        " average of weights is never evaluated, and the best epoch is taken on the test images.",
    )
    requires = ("pass over training images before training (basis = white)",)
    Config = BPTConfig
    presets = {
        "deep": Preset(
            "new prompts before every block",
            {"deep": True, "prompt_length": 50, "rank": 50},
            (("prompts", "100 before block 0", "50 before every block"), ("r", "75", "50: 490,800 parameters on ViT-B/16")),
        ),
        "deep-released": Preset(
            "the released deep scripts: whitened, and only the last four bases are trained",
            {"deep": True, "prompt_length": 50, "rank": 50, "basis": "white-rows", "trained_bases": 4},
            (
                ("prompts", "100 before block 0", "50 before every block"),
                ("r", "75", "50"),
                ("initial bases", "Xavier-uniform", "whitening, entries drawn for each row"),
                ("trained", "all codes and bases", "all codes, the bases of blocks 8 to 11: 183,600 parameters on ViT-B/16"),
            ),
        ),
        "white": Preset(
            "a whitened basis (BPT-twhiten)",
            {"basis": "white"},
            (("initial basis", "Xavier-uniform", "r columns of the whitening matrix, from training images"),),
        ),
    }

    def build(self) -> None:
        """Creates ``codes`` (1 or L - start, N, r) and ``bases`` (D, r) by block.

        Raises:
            UsageError: when the backbone has no block ``start``, or fewer channels than r columns of whitening.
        """
        self.check_start()
        rank, blocks = self.config.rank, self.prompt_blocks
        width = min(self.shape.width_of(block) for block in blocks)
        if self.config.basis != "xavier" and rank > width:
            raise UsageError(f"bpt.rank={rank}: there are {width} columns to choose from.")
        self.own.codes = nn.Parameter(torch.empty(len(blocks), self.config.prompt_length, rank).normal_(0, 0.02))
        self.own.bases = nn.Module()
        for block in blocks:
            bound = math.sqrt(6 / (self.shape.width_of(block) + rank))
            basis = torch.empty(self.shape.width_of(block), rank).uniform_(-bound, bound)
            if self.config.trained_bases is None or block >= blocks.stop - self.config.trained_bases:
                self.own.bases.register_parameter(str(block), nn.Parameter(basis))
            else:
                self.own.bases.register_buffer(str(block), basis)

    def attach(self, scope: Scope) -> None:
        """Keeps the projections of queries and keys, for whitening."""
        if self.config.basis != "xavier":
            self._projections = {block: scope.module("qkv", block) for block in self.prompt_blocks}

    def prompts_of(self, block: int) -> Tensor:
        """Code times basis, (N, D)."""
        prompts: Tensor = self.own.codes[block - self.config.start] @ self._basis(block).T
        return prompts

    def _basis(self, block: int) -> Tensor:
        basis: Tensor = getattr(self.own.bases, str(block))
        return basis

    def prepare(self, session: Session) -> None:
        """Whitens the bases, from the frozen model on training images."""
        if self.config.basis == "xavier":
            return
        means: dict[int, Tensor] = {}

        def observe(block: int, tokens: Tensor) -> None:
            if block in self.prompt_blocks:
                means[block] = tokens.mean(0)

        with self.observing(observe):
            session.logits(sampled_images(session, self.config.whitening_images))
        with torch.no_grad():
            for block, tokens in means.items():
                self._basis(block).copy_(self._white_basis(block, tokens))

    def _white_basis(self, block: int, tokens: Tensor) -> Tensor:
        """(D, r), from the mean tokens (M, D) that enter a block."""
        projection: Any = self._projections[block]
        width, rank = tokens.shape[1], self.config.rank
        query, key = (part.T.double() for part in projection.weight.detach()[: 2 * width].cpu().split(width))
        white = whitening(query @ key.T @ tokens.double().cpu().T, FLOOR[self.config.basis])
        rows = width if self.config.basis == "white-rows" else 1
        return chosen_columns(white, torch.rand(rows, width), rank)

    def merge(self, scope: Scope) -> None:
        """Computes the products once."""
        self.merge_prompts()


def whitening(a: Tensor, floor: float) -> Tensor:
    """S^(-1/2), S = a a^T / D, of (D, M) in double precision.

    Args:
        a: what is whitened.
        floor: least eigenvalue of S, as a share of its largest.
    """
    values, vectors = torch.linalg.eigh(a @ a.T / len(a))
    values = values.clamp(min=floor * values.max())
    return vectors * values.rsqrt() @ vectors.T


def chosen_columns(matrix: Tensor, noise: Tensor, count: int) -> Tensor:
    """Of every row of a matrix (D, D), the entries in the columns with the least noise, (D, count).

    Args:
        noise: (D, D), or (1, D) for the same columns in all rows.
    """
    columns = noise.argsort(-1)[:, :count].expand(len(matrix), -1)
    return matrix.gather(1, columns.to(matrix.device))
