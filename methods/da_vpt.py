"""DA-VPT: deep prompts that also are proxies of groups of classes, by a metric loss."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from vpbench.core.errors import UnsupportedError, UsageError
from vpbench.interface import (
    NO_PARTS,
    Context,
    F,
    Method,
    MethodConfig,
    Part,
    Preset,
    Scope,
    Session,
    Tokens,
    nn,
    option,
    torch,
    uniform_prompts,
)

if TYPE_CHECKING:
    from torch import Tensor

_CODE = "Noahsark/DA-VPT"
ALPHA, MARGIN = 32.0, 0.1  # of the metric loss
IMAGES, ROUNDS, SHIFT = 10, 20, 1e-4  # per class for the first groups; of k-means, which stops below this shift of all centres
TUNED = (".norm1.weight", ".norm1.bias", ".norm2.bias", "proj.bias", "fc2.bias", "cls_token")


class DAVPTConfig(MethodConfig):
    """Options of DA-VPT."""

    prompt_length: int = option(10, "prompts P of a block without proxies", f"{_CODE} configs: 10 on CUB, 0 to 80", ge=0)
    proxies: int = option(10, "prompts M of a block with proxies, at most as many as classes", f"{_CODE} configs", ge=1)
    proxy_layers: int = option(2, "last blocks whose prompts are proxies", f"{_CODE} configs: 2 on CUB, 1 to 12", ge=1)
    patch_weight: float = option(0.05, "of the loss on the mean patch token", f"{_CODE} configs: 0.05 on CUB", ge=0)
    cls_weight: float = option(0.05, "of the loss on the class token", f"{_CODE} configs: 0.05 on CUB", ge=0)
    cls_type: Literal["query", "cls"] = option("query", "the class token's query, or the class token itself", _CODE)
    proxy_scale: float = option(5.0, "factor on the cosines", f"{_CODE} configs: 5 on CUB, 1 to 60", gt=0)
    prompt_norm: Literal["none", "l2"] = option("none", "divide prompts by their norms before use", f"{_CODE} configs: l2 on CUB")
    tuned: Literal["released", "prompts"] = option(
        "released",
        "beside the prompts: biases of keys, values, projections and of the second norm, the first norm, and the class token; or"
        " nothing",
        f"{_CODE} configs",
    )
    regroup_from: int | None = option(
        0,
        "epoch from which on classes are grouped again after every epoch, by their features in it; None: never",
        f"{_CODE} dynamic_kmeans; its values and how features are averaged: assumption",
        ge=0,
    )


class DAVPT(Method[DAVPTConfig]):
    """VPT-deep; the prompts p (M, D) of the last blocks also stand for groups of classes, m: class to prompt.

    With h the tokens that enter such a block, a the mean of its patch tokens, c = W_q LN1(h)[class] + b_q, and S_ij = s cos(z_i,
    p_j): PA(z) = 1/M sum_j [log(1 + sum_{m(y_i) = j} exp(-32 (S_ij - 0.1))) + log(1 + sum_{m(y_i) != j} exp(32 (S_ij + 0.1)))].
    The loss is cross-entropy plus the mean over these blocks of w_patch PA(a) + w_cls PA(c).

    Groups are clusters of class means (k-means by cosines) of the frozen model's features before training, then of the prompted
    model's after every epoch.

    Parameters: P D of a block without proxies, M D of one with them; on ViT-B/16 at P = M = 10 92,160, with biases, norms and
    class token 158,208.
    """

    title = "DA-VPT"
    summary = "deep prompts that are proxies of groups of classes"
    paper = "Ren et al., DA-VPT: Semantic-Guided Visual Prompt Tuning for Vision Transformers, CVPR 2025"
    year = 2025
    fidelity = "released-code"
    notes = (
        "The released option patch_type has no effect: the loss on patches always takes the mean of the block's input tokens.",
        "Ten of its 61 configurations set proxy_prompt_depth, which nothing reads: CIFAR-100's proxies stand in blocks 3 to 11.",
        "Its mask, by which prompts see patches alone, changes nothing here: what a block makes of its prompts is discarded.",
        "The configurations of FGVC's Dogs and Flowers, and of some tasks of VTAB-1k, leave both weights at zero: plain VPT with"
        " tuned biases.",
        "The keys' biases have no gradient but rounding.",
        "Unlike the original proxy-anchor loss, both terms are divided by all M, also where a proxy has no image in the batch.",
        "The released code draws two images of every class for a batch, clips gradients at 10, groups augmented images at first,"
        " and tests every epoch from 60 to 90 on; none of it here. On FGVC it trains on VPT's train part and never uses val.",
        "With Mixup or smoothed labels the most probable class counts for the groups (assumption).",
    )
    requires = ("class token", "labelled pass before training")
    Config = DAVPTConfig
    presets = {
        "prompts": Preset(
            "prompts alone are trained",
            {"tuned": "prompts"},
            (("trained", "prompts, biases, norms and the class token", "prompts"),),
        ),
    }

    @classmethod
    def needs_classification(cls, config: Mapping[str, Any]) -> str:
        """See :meth:`vpbench.interface.Method.needs_classification`."""
        return "draws class tokens to proxies of an image's class"

    def build(self) -> None:
        """Creates ``prompts`` by block, and buffers: ``mapping`` (classes), ``centres`` (M, D), sums of features by class.

        Raises:
            UsageError: when the backbone has fewer blocks than have proxies.
            UnsupportedError: when it has no class token.
        """
        config, shape, own = self.config, self.shape, self.own
        if config.proxy_layers > shape.depth:
            raise UsageError(f"da_vpt.proxy_layers={config.proxy_layers}: this backbone has {shape.depth} blocks.")
        if shape.prefix == 0:
            raise UnsupportedError("DA-VPT groups what its class token asks for, and the backbone has none.")
        lengths = [self._groups if self._has_proxies(block) else config.prompt_length for block in range(shape.depth)]
        own.prompts = nn.ParameterList(uniform_prompts(shape, length, shape.width) for length in lengths)
        if config.tuned == "released":
            own.key_value_biases = nn.Parameter(torch.zeros(shape.depth, 2 * shape.width))
        own.register_buffer("mapping", torch.arange(self.classes) % self._groups)
        own.register_buffer("centres", torch.zeros(self._groups, shape.width))
        own.register_buffer("sums", torch.zeros(self.classes, shape.width))
        own.register_buffer("counts", torch.zeros(self.classes))

    @property
    def _groups(self) -> int:
        return min(self.config.proxies, self.classes)

    def _has_proxies(self, block: int) -> bool:
        return block >= self.shape.depth - self.config.proxy_layers

    def attach(self, scope: Scope) -> None:
        """Trains norms, biases and the class token; keeps what makes the class token's query."""
        blocks = range(self.shape.depth)
        self._query: dict[int, tuple[Any, Any]] = {
            block: (scope.module("norm1", block), scope.module("qkv", block)) for block in blocks if self._has_proxies(block)
        }
        if self.config.tuned == "released":
            for block in blocks:
                scope.after("qkv", partial(self._shifted, block), block, tokenwise=True)
            scope.train({name: each for name, each in scope.parameters().items() if name.endswith(TUNED)})

    def _shifted(self, block: int, x: Tensor, y: Tensor) -> Tensor:
        return y + F.pad(self.own.key_value_biases[block], (self.shape.width, 0)).to(y.dtype)

    def before_block(self, block: int, tokens: Tokens, context: Context) -> Tokens:
        """Inserts the block's prompts; keeps what the metric loss compares with proxies."""
        prompts = self.own.prompts[block]
        if len(prompts) == 0:
            return tokens
        if self.config.prompt_norm == "l2":
            prompts = F.normalize(prompts, dim=-1)
        if context.training and self._has_proxies(block) and (self.config.patch_weight or self.config.cls_weight):
            found = tokens.patch_tokens.mean(1), self._asked(block, tokens.prefix_tokens[:, 0]), prompts
            context.stash.setdefault("proxies", []).append(found)
        return tokens.with_prompts(prompts)

    def _asked(self, block: int, token: Tensor) -> Tensor:
        """What the metric loss takes of the class token (B, D)."""
        if self.config.cls_type == "cls":
            return token
        norm, qkv = self._query[block]
        width = self.shape.width
        return F.linear(norm(token), qkv.weight[:width], None if qkv.bias is None else qkv.bias[:width])

    def outputs_used(self, block: int) -> frozenset[Part]:
        """None: prompts are replaced."""
        return NO_PARTS

    def readout(self, tokens: Tokens, features: Tensor, context: Context) -> Tensor:
        """The backbone's features."""
        context.stash["features"] = features.detach()
        return features

    def loss(self, logits: Tensor, targets: Tensor, context: Context) -> Tensor:
        """Cross-entropy and the metric loss."""
        classes = targets if targets.ndim == 1 else targets.argmax(1)
        if context.training and "features" in context.stash:
            self.own.sums.index_add_(0, classes, context.stash["features"].to(self.own.sums.dtype))
            self.own.counts.index_add_(0, classes, torch.ones_like(classes, dtype=self.own.counts.dtype))
        return super().loss(logits, targets, context) + self.proxy_loss(classes, context)

    def proxy_loss(self, classes: Tensor, context: Context) -> Tensor:
        """The metric loss of a batch, a scalar.

        Args:
            classes: (B,).
            context: of a forward pass in training mode.
        """
        found: list[tuple[Tensor, Tensor, Tensor]] = context.stash.get("proxies", [])
        groups = self.own.mapping[classes]
        total = classes.new_zeros((), dtype=torch.float32)
        for patches, token, prompts in found:
            for weight, z in ((self.config.patch_weight, patches), (self.config.cls_weight, token)):
                if weight:
                    cosines = F.normalize(z.float(), dim=-1) @ F.normalize(prompts.float(), dim=-1).T
                    total = total + weight * proxy_anchor(self.config.proxy_scale * cosines, groups) / len(found)
        return total

    # Groups of classes

    def prepare(self, session: Session) -> None:
        """Groups the classes by the frozen model's features of ten training images of each."""
        features, labels = session.features("train")
        chosen = [self._drawn((labels == label).nonzero().flatten()) for label in range(self.classes)]
        means = torch.stack([features[rows].mean(0) if len(rows) else features.mean(0) for rows in chosen])
        self._group(means, torch.randperm(self.classes)[: self._groups])

    def _drawn(self, rows: Tensor) -> Tensor:
        """At most ten of them."""
        return rows[torch.randperm(len(rows))[:IMAGES].to(rows.device)]

    def _group(self, means: Tensor, start: Tensor) -> None:
        """Classes to groups by their means (classes, D), from those of some classes, or where they are as many as groups."""
        own, normed = self.own, F.layer_norm(means.float().cpu(), means.shape[1:])
        if self._groups == self.classes:
            mapping, centres = torch.arange(self.classes), normed
        else:
            mapping, centres = grouped(normed, normed[start])
        own.mapping.copy_(mapping)
        own.centres.copy_(centres)

    def epoch_ended(self, epoch: int, epochs: int) -> None:
        """Groups the classes again by their features in the epoch, unless that puts all of them into one group."""
        own = self.own
        if self.config.regroup_from is not None and epoch >= self.config.regroup_from and self._groups < self.classes:
            seen = own.counts > 0
            means = F.layer_norm((own.sums / own.counts.clamp(min=1)[:, None]).float(), own.sums.shape[1:])
            mapping, centres = grouped(means[seen].cpu(), own.centres.float().cpu())
            if len(mapping.unique()) > 1:
                own.mapping[seen] = mapping.to(own.mapping.device)
                own.centres.copy_(centres)
        own.sums.zero_()
        own.counts.zero_()

    def merge(self, scope: Scope) -> None:
        """Adds the trained biases of keys and values to the frozen ones."""
        if self.config.tuned == "released":
            for block in range(self.shape.depth):
                scope.fold("qkv", block, bias=F.pad(self.own.key_value_biases[block], (self.shape.width, 0)))


def proxy_anchor(similarities: Tensor, groups: Tensor) -> Tensor:
    """PA of similarities (B, M) between images and proxies, given the group of each image (B,)."""
    own = groups[:, None] == torch.arange(similarities.shape[1], device=groups.device)
    zero = similarities.new_zeros(1, similarities.shape[1])  # log(1 + sum exp x) is a logsumexp with a zero
    near = (-ALPHA * (similarities - MARGIN)).masked_fill(~own, -torch.inf)
    far = (ALPHA * (similarities + MARGIN)).masked_fill(own, -torch.inf)
    return sum(torch.cat([zero, each]).logsumexp(0).mean() for each in (near, far))  # type: ignore[return-value]


def grouped(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """k-means by cosines: the group of each point (n, D), (n,), and the centres (k, D), from initial ones.

    A centre without points stays where it is. It ends after 20 rounds, or when all centres together move less than 1e-4.
    """
    nearest = torch.zeros(len(points), dtype=torch.long)
    for _ in range(ROUNDS):
        nearest = (F.normalize(points, dim=1) @ F.normalize(centres, dim=1).T).argmax(1)
        members = [points[nearest == group] for group in range(len(centres))]
        moved = torch.stack([each.mean(0) if len(each) else centre for each, centre in zip(members, centres)])
        shift, centres = float((moved - centres).norm(dim=1).sum()), moved
        if shift < SHIFT:
            break
    return nearest, centres
