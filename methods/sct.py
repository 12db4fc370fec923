"""SCT: a small dense layer on the salient channels of each block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from vpbench.core.errors import UnsupportedError, UsageError
from vpbench.interface import (
    ALL_FAMILIES,
    ALL_PARTS,
    NO_PARTS,
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

if TYPE_CHECKING:
    from torch import Tensor

_CODE = "showlab/SCT"
SITES: dict[str, Site] = {"attention": "attention_branch", "mlp": "mlp_branch", "qkv": "qkv"}


class SCTConfig(MethodConfig):
    """Options of SCT."""

    reduction: int = option(8, "token width over selected channels K", "SCT paper: K = 96 of 768 channels, 1/8", ge=1)
    channels: int | None = option(None, "K itself, instead of the reduction", "SCT paper: 96", ge=1)
    variant: Literal["attention", "mlp", "qkv"] = option(
        "attention",
        "what is transformed: the residual stream behind the attention, the MLP's output, or queries and values",
        f"SCT paper, section 3; {_CODE} models/vision_transformer_sct.py",
    )
    scale: float = option(
        1.0,
        "factor s",
        f"{_CODE}: its configurations have one per task, which the released forward pass does not read; 1: assumption",
        gt=0,
    )
    scaled: Literal["update", "channels"] = option(
        "update",
        "what s multiplies: the layer's output, or the selected channels that it is added to",
        f"update: SCT paper; channels: {_CODE}, in some tasks' configurations",
    )
    init_std: float = option(0.02, "standard deviation of the initial weights; biases are zero", _CODE, ge=0)


class SCT(Method[SCTConfig]):
    """z[S] = z[S] + s (W z[S] + b) on the K selected channels S of every block; z[S] = s z[S] + W z[S] + b with
    ``scaled=channels``.

    z is the residual stream behind the attention (``attention``), the MLP's output before it is added (``mlp``), or queries and,
    by themselves, values (``qkv``). Before training the frozen model runs once over the training images without augmentation.
    A channel's score is the mean over classes of its L2 norm over all patch tokens of the class: of the stream behind the
    attention, of the block's output (``mlp``), or of queries and values. S are the K best, in ascending order.

    Parameters: L (K^2 + K), twice with ``qkv``; 111,744 on ViT-B/16 at K = 96.
    """

    title = "SCT"
    summary = "a dense layer on the salient channels of each block"
    paper = "Zhao et al., SCT: A Simple Baseline for Parameter-Efficient Fine-Tuning via Salient Channels, IJCV 2024"
    year = 2024
    group = "extra"
    fidelity = "released-code"
    families = ALL_FAMILIES
    notes = (
        "The released forward pass leaves out s, though its configurations have one per task; here s is 1 unless a recipe says"
        " otherwise.",
        "It does not start as the frozen model: W is drawn from N(0, 0.02).",
        "The released mlp variant transforms the MLP's output, but selects channels of the block's output; so it is here.",
        "Learning rate, weight decay, s and augmentation are tuned per task, and the best epoch is taken on the test split; the"
        " scripts have the values.",
        "In the run's precision: under bf16 two channels with nearly the same score may change places at the cut.",
        "On Swin, with windows that do not divide the patch grid, padding counts in the norms of queries and values"
        " (assumption).",
    )
    requires = ("labelled pass before training",)
    Config = SCTConfig
    presets = {
        "mlp": Preset(
            "behind the MLP",
            {"variant": "mlp"},
            (("what is transformed", "the residual stream behind the attention", "the MLP's output, before it is added"),),
        ),
        "qkv": Preset(
            "on queries and values, which can be merged",
            {"variant": "qkv"},
            (
                ("what is transformed", "the residual stream behind the attention", "queries and values, with a layer each"),
                ("parameters on ViT-B/16", "111,744", "223,488"),
            ),
        ),
    }
    _observed: dict[str, Tensor] | None = None  # while channels are selected: sums over patch tokens of squares, (B, D)

    @classmethod
    def needs_classification(cls, config: Mapping[str, Any]) -> str:
        """See :meth:`vpbench.interface.Method.needs_classification`."""
        return "selects its channels by the classes of whole images"

    def build(self) -> None:
        """Creates a layer (K, K) with bias and ``selected`` (K,) for every place; the first K channels, until they are selected.

        Raises:
            UsageError: when K is not between 1 and the token width.
        """
        self.own.layers, self.own.selected = nn.ModuleDict(), nn.Module()
        for name, block in self._places():
            count = self._channels(self.shape.width_of(block))
            self.own.layers[name] = layer = nn.Linear(count, count)
            nn.init.normal_(layer.weight, std=self.config.init_std)
            nn.init.zeros_(layer.bias)
            self.own.selected.register_buffer(name, torch.arange(count, dtype=torch.int32))

    def _channels(self, width: int) -> int:
        count = self.config.channels or width // self.config.reduction
        if not 1 <= count <= width:
            said = f"channels={count}" if self.config.channels else f"reduction={self.config.reduction}"
            raise UsageError(f"sct.{said}: this backbone has tokens with {width} channels.")
        return count

    def _places(self) -> Iterator[tuple[str, int]]:
        """Name and block of every layer."""
        parts = ("_q", "_v") if self.config.variant == "qkv" else ("",)
        return ((f"{block}{part}", block) for block in range(self.shape.depth) for part in parts)

    def attach(self, scope: Scope) -> None:
        """Puts the layers into the blocks."""
        edit = {"attention": self._edit_stream, "mlp": self._edit_output, "qkv": self._edit_projection}[self.config.variant]
        for block in range(self.shape.depth):
            scope.after(SITES[self.config.variant], partial(edit, str(block)), block, tokenwise=True)

    def outputs_used(self, block: int) -> frozenset[Part]:
        """None; all while channels are selected."""
        return NO_PARTS if self._observed is None else ALL_PARTS

    # The edits

    def _edit_stream(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        stream = x + y
        return y if self._observes(name, stream) else self._updated(name, y, stream)

    def _edit_output(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        if self._observed is not None:
            self._observes(name, x + y)
            return y
        return self._updated(name, y, y)

    def _edit_projection(self, block: str, x: Tensor, y: Tensor) -> Tensor:
        query, key, value = y.chunk(3, dim=-1)
        if self._observes(f"{block}_q", query) and self._observes(f"{block}_v", value):
            return y
        return torch.cat([self._updated(f"{block}_q", query, query), key, self._updated(f"{block}_v", value, value)], dim=-1)

    def _updated(self, name: str, y: Tensor, z: Tensor) -> Tensor:
        """y with the update of the selected channels of z."""
        selected = self.own.selected.get_buffer(name)
        channels = z.index_select(-1, selected)
        update = self.own.layers[name](channels)
        if self.config.scaled == "channels":
            update = update + (self.config.scale - 1) * channels
        elif self.config.scale != 1:
            update = self.config.scale * update
        return y.index_add(-1, selected, update.to(y.dtype))

    # Selection

    def prepare(self, session: Session) -> None:
        """Selects the channels, from the frozen model on the training images."""
        norms = {
            name: torch.zeros(self.classes, self.shape.width_of(block), dtype=torch.float64) for name, block in self._places()
        }
        self._observed = {}
        try:
            with torch.no_grad():
                for images, labels in session.training_batches():
                    session.logits(images)
                    for name, sums in self._observed.items():
                        norms[name].index_add_(0, labels.cpu(), sums.double().cpu())
        finally:
            self._observed = None
        for name, squares in norms.items():
            selected: Any = self.own.selected.get_buffer(name)
            best = squares.sqrt().mean(0).topk(len(selected)).indices
            selected.copy_(best.sort().values)

    def _observes(self, name: str, z: Tensor) -> bool:
        """While channels are selected, keeps each image's sums over patch tokens of the squares of z (B, T, D)."""
        if self._observed is None:
            return False
        self._observed[name] = z[:, self.shape.prefix :].float().square().sum(1)
        return True

    # Merging

    def merge(self, scope: Scope) -> None:
        """With ``qkv``, merges the layers into the joint projection; the others act on the stream itself."""
        if self.config.variant != "qkv":
            return
        for block in range(self.shape.depth):
            try:
                frozen: Any = scope.module("qkv", block)
            except UnsupportedError:  # queries, keys and values come from several modules, whose weights stay apart
                return
            change = self._change_of_projection(block)
            weight, shift = change @ frozen.weight, self._shift_of_projection(block)
            scope.fold("qkv", block, weight=weight, bias=shift if frozen.bias is None else shift + change @ frozen.bias)

    def _change_of_projection(self, block: int) -> Tensor:
        """E (3 D, 3 D), where the edited projection is (1 + E) y + e."""
        width = self.shape.width_of(block)
        change = torch.zeros(3 * width, 3 * width, device=self.own.layers[f"{block}_q"].weight.device)
        for third, part in ((0, "q"), (2, "v")):
            rows = self.own.selected.get_buffer(f"{block}_{part}").long() + third * width
            change[rows[:, None], rows] = self._matrix(self.own.layers[f"{block}_{part}"])
        return change

    def _matrix(self, layer: Any) -> Tensor:
        identity = torch.eye(len(layer.weight), device=layer.weight.device)
        if self.config.scaled == "channels":
            return layer.weight + (self.config.scale - 1) * identity
        return self.config.scale * layer.weight

    def _shift_of_projection(self, block: int) -> Tensor:
        """e (3 D,)."""
        width, scale = self.shape.width_of(block), self.config.scale if self.config.scaled == "update" else 1.0
        parts = [
            F.pad(torch.zeros_like(layer.bias[:0]), (0, width)).index_add(0, selected, scale * layer.bias)
            for layer, selected in (
                (self.own.layers[f"{block}_{part}"], self.own.selected.get_buffer(f"{block}_{part}")) for part in "qv"
            )
        ]
        return torch.cat([parts[0], torch.zeros_like(parts[0]), parts[1]])
