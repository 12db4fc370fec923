"""SPT: low-rank modules or adapters where the task is most sensitive, single entries elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from vpbench.core.errors import UnsupportedError, UsageError
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
    Site,
    nn,
    option,
    torch,
)
from vpbench.methods._linears import check_widths
from vpbench.methods._sensitivity import OPERATIONS, Choice, Tensors, choose
from vpbench.methods._sparse import SiteGradients, dense, mixed_batches, sparse_linear

if TYPE_CHECKING:
    from torch import Tensor

CODE = "ziplab/SPT engine.py"
NORMS: tuple[Site, ...] = ("norm1", "norm2", "norm")


class SPTConfig(MethodConfig):
    """Options of SPT."""

    budget: float = option(
        0.4,
        "most parameters that are tuned, the class token included, in millions",
        "ziplab/SPT configs: 0.2, 0.4, 0.6, 0.8 and 1.0, the best one on the test images; assumption: 0.4 for all",
        gt=0,
    )
    module: Literal["lora", "adapter"] = option("lora", "what a sensitive matrix gets", "SPT paper: SPT-LoRA and SPT-Adapter")
    rank: int = option(8, "rank of low-rank modules, width of adapters", "ziplab/SPT configs, low_rank_dim", ge=1)
    alpha: float = option(
        10.0, "a matrix gets a module from 1/alpha of its size in sensitive scalars on", "ziplab/SPT configs", gt=0
    )
    beta: float = option(5.0, "a vector is tuned as a whole from 1/beta of its length on", CODE, gt=0)
    batches: int = option(
        16, "training batches that sensitivity is measured on", "SPT paper; ziplab/SPT: 8 or 16 of 32 images", ge=1
    )
    drop_path: float = option(
        0.1, "of the modules, image by image in training", "ziplab/SPT model/vision_transformer_timm.py", ge=0, lt=1
    )
    init: Literal["zero_up", "released"] = option(
        "zero_up",
        "initial weights of modules: Kaiming-uniform and zero, or both normal with deviation 0.02",
        "zero_up: SPT's constructor; released: what the model's initialisation leaves of it",
    )


class SPT(Method[SPTConfig]):
    """Tunes the scalars with the largest sum of squared gradients; matrices and vectors with many of them in another way.

    A chosen matrix has W x + b + W_up W_down x (lora), or z + W_up gelu(W_down z + b_down) + b_up, z = W x + b (adapter; for the
    attention's projection z inside is its input). The class token trains as well; patch and position embeddings do not.

    All of it lies in one parameter ``values``, whose length the budget says; buffers say what its pieces are. Before
    :meth:`prepare`, they are modules of the last blocks.

    Parameters: at most ``budget`` million, and all modules and vectors of the backbone at most; ``params_active`` counts those in
    use. A module of ViT-B/16 has 12,288 (D to D) or 30,720 (MLP) parameters at rank 8.
    """

    title = "SPT"
    summary = "low-rank modules where the task is most sensitive, single entries elsewhere"
    paper = "He et al., Sensitivity-Aware Visual Parameter-Efficient Fine-Tuning, ICCV 2023"
    year = 2023
    group = "extra"
    fidelity = "both-differ"
    families = ALL_FAMILIES
    notes = (
        "iVPT's Table 1 prints 0.54 M: a mean over budgets that were chosen per task on the test images, and are not public.",
        "The released sweep takes the choice closest to the budget, this one the closest that does not exceed it.",
        "The released initialisation overwrites the constructor's, so that modules start at normal values of 0.02, not at zero:"
        " the preset released.",
        "In the released adapter variant the module of the attention's projection is parallel to it, all others are sequential.",
        "Sensitivity is measured with the freshly initialised classifier, as released, on batches of the recipe's size.",
        "On Swin (assumption: never released) the merging of patches and the tables of relative positions stay frozen.",
        "Low-rank modules, single entries and vectors are merged exactly; adapters are not.",
    )
    requires = ("labelled pass before training",)
    Config = SPTConfig
    presets = {
        "adapter": Preset(
            "SPT-Adapter",
            {"module": "adapter"},
            (("module", "low-rank, beside the matrix", "adapter with GELU, behind the matrix"),),
        ),
        "released": Preset(
            "SPT-LoRA with the released initial values",
            {"init": "released"},
            (("initial W_down, W_up", "Kaiming-uniform, zero", "normal, 0.02: the start is not the frozen model"),),
        ),
    }

    def build(self) -> None:
        """Creates ``values``, and the buffers that say what they are.

        Raises:
            UsageError: when the budget is too small for the class token.
        """
        shape = self.shape
        self.tensors = Tensors.of(shape)
        self._vector_numbers = {each[:4]: number for number, each in enumerate(self.tensors.vectors)}
        self._recorded: SiteGradients | None = None
        self._pieces: Sequence[Tensor] | None = None
        room = round(self.config.budget * 1e6) - (shape.width if shape.prefix else 0)
        if room < 20:
            raise UsageError(f"spt.budget={self.config.budget} million leaves nothing to tune beside the class token.")
        lengths = [each[-1] for each in self.tensors.vectors]
        self.room = min(room, sum(self._module_sizes()) + sum(lengths))
        places = sum(math.ceil(size / self.config.alpha) for size in self._module_sizes())
        places = min(self.room, places + sum(math.ceil(length / self.config.beta) for length in lengths))
        self.own.values = nn.Parameter(torch.zeros(self.room))
        for name, count in (
            ("modules", len(self.tensors.matrices)),
            ("entries", len(self.tensors.matrices)),
            ("vectors", len(lengths)),
        ):
            self.own.register_buffer(f"chosen_{name}", torch.zeros(count, dtype=torch.int32))
        self.own.register_buffer("places", torch.zeros(places, dtype=torch.int32))
        self.install(self._modules_at_the_end())

    def _module_sizes(self) -> list[int]:
        return [sum(map(math.prod, self._module_shapes(*matrix[1:]))) for matrix in self.tensors.matrices]

    def _module_shapes(self, operation: str, width_in: int, width_out: int) -> list[tuple[int, ...]]:
        rank = self.config.rank
        if self.config.module == "lora":
            return [(rank, width_in), (width_out, rank)]
        return [(rank, width_out), (width_out, rank), (rank,), (width_out,)]  # the projection has equal widths

    def _modules_at_the_end(self) -> Choice:
        """As many modules as the budget allows, from the last block on."""
        left, modules = self.room, []
        for size in reversed(self._module_sizes()):
            modules.append(size <= left)
            left -= size if modules[-1] else 0
        none = torch.zeros(0, dtype=torch.long, device="cpu")
        return Choice(modules[::-1], [0] * len(modules), [0] * len(self.tensors.vectors), none)

    def install(self, choice: Choice) -> None:
        """Tune what was chosen, from initial values on.

        Args:
            choice: within the budget.
        """
        own, count = self.own, len(choice.places)
        with torch.no_grad():
            for name in ("modules", "entries", "vectors"):
                buffer = getattr(own, f"chosen_{name}")
                buffer.copy_(torch.tensor(getattr(choice, name), dtype=buffer.dtype, device="cpu").to(buffer.device))
            own.places.zero_()
            own.places[:count] = choice.places.to(own.places)
            self.choice = (choice.modules, choice.entries, choice.vectors)
            self._lay_out()
            own.values.zero_()
            for index in (index for index, chosen in enumerate(choice.modules) if chosen):
                self._initialise(index)
        self._pieces = None  # those of here have no gradient

    def restored(self) -> None:
        """Reads from the buffers what is tuned."""
        if not self.own.values.is_meta:
            modules, *counts = (getattr(self.own, f"chosen_{name}").tolist() for name in ("modules", "entries", "vectors"))
            self.choice = ([*map(bool, modules)], *counts)
        self._lay_out()

    def _lay_out(self) -> None:
        """Finds where in ``values`` and ``places`` each tensor's piece is."""
        modules, entries, vectors = self.choice
        sizes = [size if chosen else 0 for size, chosen in zip(self._module_sizes(), modules)]
        self._lengths = [*sizes, *entries, *vectors]
        self._places = [*entries, *(0 if found == each[-1] else found for found, each in zip(vectors, self.tensors.vectors))]
        self._pieces = None

    def active_parameters(self) -> int:
        """Those in use."""
        return sum(self._lengths)

    def _initialise(self, index: int) -> None:
        down, up, *_ = self._module(index)
        for weight, start in ((down, partial(nn.init.kaiming_uniform_, a=math.sqrt(5))), (up, nn.init.zeros_)):
            fresh = torch.empty(weight.shape)
            start = partial(nn.init.normal_, std=0.02) if self.config.init == "released" else start
            weight.copy_(start(fresh))

    # What is added where

    def attach(self, scope: Scope) -> None:
        """Trains the class token, and adds what is tuned to the outputs of linear layers and norms.

        Raises:
            UnsupportedError: when an MLP is not four token widths wide, or a norm is none over channels with a mean.
        """
        check_widths(scope, self.shape, self.title)
        scope.train({name: each for name, each in scope.parameters().items() if name == "cls_token"})
        self._epsilon: dict[tuple[Site, int | None], float] = {}
        for block, site in self._sites():
            if site in NORMS:
                norm: Any = scope.module(site, block)
                if not isinstance(norm, nn.LayerNorm):
                    raise UnsupportedError(f"SPT tunes LayerNorms, and this backbone has {type(norm).__name__}.")
                self._epsilon[site, block] = norm.eps
            edit: Any = self._normed if site in NORMS else self._projected
            scope.after(site, partial(edit, site, block), block, tokenwise=True)

    def _sites(self) -> Iterator[tuple[int | None, Site]]:
        """Every block and site once."""
        return iter(dict.fromkeys((block, site) for block, site, *_ in self.tensors.vectors))

    def outputs_used(self, block: int) -> frozenset[Part]:
        """None."""
        return NO_PARTS

    def pixels(self, images: Tensor, context: Context) -> Tensor:
        """Cuts ``values`` into pieces, once per forward pass."""
        self._pieces = self._cut()
        return images

    def _cut(self) -> Sequence[Tensor]:
        pieces: Sequence[Tensor] = self.own.values[: sum(self._lengths)].split(self._lengths)
        return pieces

    def _piece(self, index: int) -> Tensor:
        self._pieces = self._pieces or self._cut()
        return self._pieces[index]

    def _module(self, index: int) -> list[Tensor]:
        """W_down, W_up and, of adapters, their biases."""
        shapes = self._module_shapes(*self.tensors.matrices[index][1:])
        return [piece.view(shape) for piece, shape in zip(self._piece(index).split([*map(math.prod, shapes)]), shapes)]

    def _place(self, index: int) -> Tensor:
        start = sum(self._places[:index])
        found: Tensor = self.own.places[start : start + self._places[index]]
        return found

    def _entries(self, index: int) -> tuple[Tensor, Tensor, Tensor] | None:
        """Rows, columns and values of a matrix's single entries."""
        if not self.choice[1][index]:
            return None
        places, width_in = self._place(index), self.tensors.matrices[index][2]
        return places // width_in, (places % width_in).unsqueeze(0), self._piece(len(self.choice[0]) + index).unsqueeze(0)

    def _vector(self, block: int | None, site: Site, part: int, kind: str) -> Tensor | None:
        """Change of a bias or of a norm's weight."""
        index = self._vector_numbers[block, site, part, kind]
        matrices, length = len(self.choice[0]), self.tensors.vectors[index][-1]
        if not self.choice[2][index]:
            return None
        values = self._piece(2 * matrices + index)
        if len(values) == length:
            return values
        return values.new_zeros(length).index_add(0, self._place(matrices + index), values)

    def _parts(self, block: int | None, site: Site) -> list[int]:
        """Matrices of a linear site, by their numbers."""
        return [
            index for index, (at, name, *_) in enumerate(self.tensors.matrices) if at == block and OPERATIONS[name][0] == site
        ]

    def _projected(self, site: Site, block: int, x: Tensor, y: Tensor) -> Tensor:
        if self._recorded is not None:
            return self._recorded.watch_linear((block, site), x, y)
        parts = self._parts(block, site)
        if not any(self._lengths[index] or self._entries(index) or self._bias(index) is not None for index in parts):
            return y
        tuned = [self._tuned(index, x, part) for index, part in zip(parts, y.chunk(len(parts), dim=-1))]
        return tuned[0] if len(tuned) == 1 else torch.cat([each.to(y.dtype) for each in tuned], dim=-1)

    def _bias(self, index: int) -> Tensor | None:
        block, name, *_ = self.tensors.matrices[index]
        site, part, *_ = OPERATIONS[name]
        return self._vector(block, site, part, "bias")

    def _tuned(self, index: int, x: Tensor, y: Tensor) -> Tensor:
        if entries := self._entries(index):
            rows, columns, values = entries
            y = y + sparse_linear(x, columns, values, y.shape[-1], rows).to(y.dtype)
        if (bias := self._bias(index)) is not None:
            y = y + bias.to(y.dtype)
        if not self.choice[0][index]:
            return y
        down, up, *biases = self._module(index)
        if self.config.module == "lora":
            return y + self._dropped(F.linear(F.linear(x, down), up))
        given = x if self.tensors.matrices[index][1] == "proj" else y
        return y + self._dropped(F.linear(F.gelu(F.linear(given, down, biases[0])), up, biases[1]))

    def _dropped(self, y: Tensor) -> Tensor:
        if not self.own.training or self.config.drop_path == 0:
            return y
        kept = 1 - self.config.drop_path
        return y * (torch.empty(len(y), *[1] * (y.ndim - 1), device=y.device, dtype=y.dtype).bernoulli_(kept) / kept)

    def _normed(self, site: Site, block: int | None, x: Tensor, y: Tensor) -> Tensor:
        weight, bias = (self._vector(block, site, 0, kind) for kind in ("weight", "bias"))
        if self._recorded is None and weight is None and bias is None:
            return y
        normed = F.layer_norm(x, x.shape[-1:], eps=self._epsilon[site, block])
        if self._recorded is not None:
            return self._recorded.watch_norm((block, site), normed, y)
        y = y if weight is None else y + (normed * weight).to(y.dtype)
        return y if bias is None else y + bias.to(y.dtype)

    # Choosing and merging

    def prepare(self, session: Session) -> None:
        """Measures the sensitivity on training images, and chooses what is tuned."""
        self._recorded = recorded = SiteGradients(squared=True)
        for number, (images, labels) in enumerate(mixed_batches(session)):
            if number == self.config.batches:
                break
            session.loss(images, labels).backward()
            recorded.end_batch()
        self._recorded = None
        sums, wanted = recorded.sums, []
        for index, name, _, width_out in self.tensors.matrices:
            site, part, *_ = OPERATIONS[name]
            wanted.append(sums[index, site, "weight"][part * width_out : (part + 1) * width_out])
        for block, site, part, kind, length in self.tensors.vectors:
            wanted.append(sums[block, site, kind][part * length : (part + 1) * length])
        self.install(choose(wanted, self.tensors, self._module_sizes(), self.room, self.config.alpha, self.config.beta))

    def merge(self, scope: Scope) -> None:
        """Adds all but adapters to the frozen weights."""
        for block, site in self._sites():
            if site in NORMS:
                weight, bias = (self._vector(block, site, 0, kind) for kind in ("weight", "bias"))
                scope.fold(site, block, weight=weight, bias=bias)
                continue
            parts = self._parts(block, site)
            if self.config.module == "lora" or not any(self.choice[0][index] for index in parts):
                weights, biases = zip(*map(self._change, parts))
                scope.fold(site, block, weight=torch.cat(weights), bias=torch.cat(biases))

    def _change(self, index: int) -> tuple[Tensor, Tensor]:
        """What is added to a frozen matrix, (out, in), and to its bias, (out,)."""
        *_, width_in, width_out = self.tensors.matrices[index]
        weight, bias = self.own.values.new_zeros(width_out, width_in), self._bias(index)
        if self.choice[0][index]:
            down, up = self._module(index)
            weight = weight + up @ down
        if entries := self._entries(index):
            rows, columns, values = entries
            weight = weight + dense(columns, values, (width_out, width_in), rows)
        return weight, weight.new_zeros(width_out) if bias is None else bias
