"""LoRA: low-rank updates beside frozen linear layers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from vpbench.core.errors import UnsupportedError, UsageError
from vpbench.interface import (
    ALL_FAMILIES,
    NO_PARTS,
    PEFT_PREFIX,
    F,
    Method,
    MethodConfig,
    Part,
    PeftAdapter,
    Preset,
    Scope,
    Site,
    nn,
    option,
    torch,
)

if TYPE_CHECKING:
    from torch import Tensor

PEFT_TARGETS = {"qkv": ["qkv"], "qv": ["qkv"], "all-linears": ["attn.proj", "fc1", "fc2", "qkv"]}
PEFT_ALIKE = ("peft_type", "r", "lora_alpha", "bias")  # of a configuration, what has to be the same
PEFT_UNLIKE = (
    "use_rslora",
    "use_dora",
    "alpha_pattern",
    "rank_pattern",
    "lora_bias",
    "fan_in_fan_out",
    "alora_invocation_tokens",
)
SITES: dict[str, tuple[Site, ...]] = {"qkv": ("qkv",), "qv": ("qkv",), "all-linears": ("qkv", "proj", "fc1", "fc2")}


class LoRAConfig(MethodConfig):
    """Options of LoRA."""

    rank: int = option(8, "rank r of each update", "LoRA paper, section 4.1; 8 in NOAH's and PETL-ViT's VTAB runs", ge=1)
    targets: Literal["qkv", "qv", "all-linears"] = option(
        "qkv",
        "what is updated: the joint projection with one A, queries and values with an A each, or all linear layers of a block",
        "qkv: NOAH; qv: LoRA paper, section 7.1; all-linears: QLoRA and peft's target_modules",
    )
    alpha: float | None = option(None, "scale alpha / r of the update; None: 1", "NOAH: alpha = r; LoRA paper, section 4.1", gt=0)
    dropout: float = option(0.0, "on the input of the update", "NOAH: 0.0; microsoft/LoRA: 0 to 0.1", ge=0, lt=1)


class LoRA(Method[LoRAConfig]):
    """y = W x + b + (alpha / r) B A x, A (r, in) Kaiming-uniform, B (out, r) zero; merged exactly for inference.

    Parameters: 4 L D r with qkv or qv, 294,912 on ViT-B/16 at r = 8; r times the sum of input and output width of every linear
    layer with all-linears, which is 16 L D r where MLPs are 4 D wide: 1,179,648.
    """

    title = "LoRA"
    summary = "low-rank updates of frozen linear layers"
    paper = "Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022"
    year = 2022
    group = "extra"
    fidelity = "released-code"
    families = ALL_FAMILIES
    notes = (
        "iVPT's Table 1 prints 0.43 M with the mean VTAB-1k head; at r = 8 this is 0.333 M. An A each for q, k and v gives"
        " 0.44 M without the head.",
        "SCT's released LoRA initialises both factors of v to zero, which never train; here B alone is zero.",
    )
    Config = LoRAConfig
    presets = {
        "noah": Preset("NOAH's: one A for the joint projection, scale 1", {}, (("targets", "the same", "qkv, alpha = r = 8"),)),
        "qv": Preset(
            "the paper's: queries and values, an A each",
            {"targets": "qv"},
            (("targets", "q, k and v with one A", "q and v with an A each, k as it is"),),
        ),
        "all-linears": Preset(
            "all linear layers of a block",
            {"targets": "all-linears"},
            (("targets", "the joint projection", "qkv, proj, fc1 and fc2"),),
        ),
    }

    def build(self) -> None:
        """Creates for every block and site ``A`` (r, in) and ``B`` (out, r); twice for the joint projection with ``qv``."""
        self.own.updates = nn.ModuleDict()
        for block, site in self._places():
            size_in, size_out = self.shape.linear_of(site, block)
            if self.config.targets == "qv":
                parts = {name: self._factors(size_in, size_out // 3) for name in ("q", "v")}
                self.own.updates[f"{block}_{site}"] = nn.ModuleDict(parts)
            else:
                self.own.updates[f"{block}_{site}"] = self._factors(size_in, size_out)

    def _places(self) -> Iterator[tuple[int, Site]]:
        return ((block, site) for block in range(self.shape.depth) for site in SITES[self.config.targets])

    def _factors(self, size_in: int, size_out: int) -> nn.Module:
        factors = nn.Module()
        factors.A = nn.Parameter(torch.empty(self.config.rank, size_in))
        factors.B = nn.Parameter(torch.zeros(size_out, self.config.rank))
        nn.init.kaiming_uniform_(factors.A, a=math.sqrt(5))
        return factors

    def attach(self, scope: Scope) -> None:
        """Adds the updates to the outputs of the linear layers."""
        for block, site in self._places():
            scope.after(site, partial(self._updated, self.own.updates[f"{block}_{site}"]), block, tokenwise=True)

    def outputs_used(self, block: int) -> frozenset[Part]:
        """None."""
        return NO_PARTS

    @property
    def _scale(self) -> float:
        return 1.0 if self.config.alpha is None else self.config.alpha / self.config.rank

    def _updated(self, factors: Any, x: Tensor, y: Tensor) -> Tensor:
        if self.config.targets != "qv":
            return y + self._update(factors, x)
        query, key, value = y.chunk(3, dim=-1)
        return torch.cat([query + self._update(factors.q, x), key, value + self._update(factors.v, x)], dim=-1)

    def _update(self, factors: Any, x: Tensor) -> Tensor:
        x = F.dropout(x, self.config.dropout, self.own.training)
        update = F.linear(F.linear(x, factors.A), factors.B)
        return update if self._scale == 1 else update * self._scale

    def merge(self, scope: Scope) -> None:
        """Adds (alpha / r) B A to the frozen weights."""
        for block, site in self._places():
            factors: Any = self.own.updates[f"{block}_{site}"]
            if self.config.targets == "qv":
                query, value = (self._scale * part.B @ part.A for part in (factors.q, factors.v))
                weight = torch.cat([query, torch.zeros_like(query), value])
            else:
                weight = self._scale * factors.B @ factors.A
            scope.fold(site, block, weight=weight)

    def to_peft(self, scope: Scope) -> PeftAdapter:
        """A ``LoraConfig``; with ``qv`` one of rank 2 r on the joint projection, whose factors have the blocks of q and of v.

        Raises:
            UnsupportedError: when queries, keys and values have layers of their own.
        """
        rank = self.config.rank * (2 if self.config.targets == "qv" else 1)
        config = {
            "peft_type": "LORA", "r": rank, "lora_alpha": self._scale * rank, "lora_dropout": self.config.dropout, "bias": "none",
            "target_modules": PEFT_TARGETS[self.config.targets], "inference_mode": True,
        }  # fmt: skip
        tensors: dict[str, Tensor] = {}
        for block, site in self._places():
            factors: Any = self.own.updates[f"{block}_{site}"]
            down, up = (factors.A, factors.B) if self.config.targets != "qv" else _joint(factors)
            name = PEFT_PREFIX + self._layer(scope, site, block)
            tensors |= {f"{name}.lora_A.weight": down.detach(), f"{name}.lora_B.weight": up.detach()}
        return PeftAdapter(config, tensors)

    def load_peft(self, adapter: PeftAdapter, scope: Scope) -> None:
        """From the factors of :meth:`to_peft`.

        Raises:
            UsageError: when the adapter is another one than these options make.
        """
        own = self.to_peft(scope)
        for name, value in {**dict.fromkeys(PEFT_UNLIKE, False), **{name: own.config[name] for name in PEFT_ALIKE}}.items():
            if (given := adapter.config.get(name) or False) != value:
                raise UsageError(
                    f"the adapter has {name}={given}, and lora with these options has {value}; the method peft has it."
                )
        wanted, found = ({name: tuple(each.shape) for name, each in one.tensors.items()} for one in (own, adapter))
        if different := sorted(dict(set(wanted.items()) ^ set(found.items()))):
            raise UsageError(
                f"the adapter does not fit lora on this backbone: '{different[0]}' is missing, surplus or of another shape."
            )
        names = {place: PEFT_PREFIX + self._layer(scope, place[1], place[0]) for place in self._places()}
        factors = {place: [adapter.tensors[f"{name}.lora_{letter}.weight"] for letter in "AB"] for place, name in names.items()}
        if self.config.targets == "qv" and any(_mixes(up) for _, up in factors.values()):
            raise UsageError("the adapter updates keys, or mixes the updates of queries and values; the method peft has it.")
        with torch.no_grad():
            for (block, site), (down, up) in factors.items():
                self._copy(self.own.updates[f"{block}_{site}"], down, up)

    def _copy(self, factors: Any, down: Tensor, up: Tensor) -> None:
        if self.config.targets != "qv":
            factors.A.copy_(down)
            factors.B.copy_(up)
            return
        query, _, value = up.chunk(3)
        for part, rows, columns in zip((factors.q, factors.v), down.chunk(2), (query.chunk(2, 1)[0], value.chunk(2, 1)[1])):
            part.A.copy_(rows)
            part.B.copy_(columns)

    def _layer(self, scope: Scope, site: Site, block: int) -> str:
        """timm's name of a linear layer."""
        names = [name.removesuffix(".weight") for name in scope.parameters(site, block) if name.endswith(".weight")]
        if len(names) != 1:
            raise UnsupportedError(
                f"this backbone has {len(names)} layers at the site {site}, and this method's adapter is for one."
            )
        return names[0]


def _joint(factors: Any) -> tuple[Tensor, Tensor]:
    """Both updates of ``qv`` as one of the joint projection: A (2 r, D), B (3 D, 2 r)."""
    query, value = factors.q, factors.v
    up = torch.block_diag(query.B, torch.zeros(len(query.B), 0, device=query.B.device), value.B)
    return torch.cat([query.A, value.A]), up


def _mixes(up: Tensor) -> bool:
    """Whether B (3 D, 2 r) is another one than :func:`_joint` makes."""
    query, key, value = up.chunk(3)
    return bool(key.any() or query.chunk(2, 1)[1].any() or value.chunk(2, 1)[0].any())
