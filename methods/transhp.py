"""TransHP: prompts that stand for coarse classes, in one block, and a loss that scores them (a stand-in for frozen backbones)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import field_validator

from vpbench.core.errors import UsageError
from vpbench.core.user_folders import user_path
from vpbench.interface import (
    ALL_FAMILIES,
    NO_PARTS,
    Context,
    F,
    Method,
    MethodConfig,
    Part,
    Session,
    Tokens,
    nn,
    option,
    torch,
)

if TYPE_CHECKING:
    from torch import Tensor


class TransHPConfig(MethodConfig):
    """Options of TransHP."""

    block: int | None = option(
        None, "prompting block, 0 to L-1; None: the one behind three quarters of them", "assumption: block 9 of 12", ge=0
    )
    coarse_classes: int | None = option(
        None,
        "number of coarse classes M; None: that of coarse_labels, or the square root of the number of classes, rounded up",
        "assumption: TransHP's levels are WordNet's, which data sets do not have",
        ge=1,
    )
    coarse_labels: tuple[int, ...] | None = option(
        None,
        "coarse class, 0 to M-1, of every class in order, or a text file with one number per line; None: k-means of the classes'"
        " mean features",
        "TransHP paper: labels of a hierarchy; assumption: k-means where there is none",
    )
    coarse_weight: float = option(
        0.15, "weight lambda of the coarse loss", "TransHP paper: 0.1 to 0.15 for its early levels, 1 for the last two", ge=0
    )

    @field_validator("coarse_labels", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        """A file is read at once, so that a run's specification has the labels themselves."""
        if not isinstance(value, str):
            return value
        path = user_path(value)
        if not path.is_file():
            raise ValueError(f"there is no file {value}")
        try:
            return tuple(int(line) for line in path.read_text(encoding="utf-8").split())
        except ValueError as error:
            raise ValueError(f"{value} must have one whole number per line, one line per class") from error

    @field_validator("coarse_labels")
    @classmethod
    def _not_negative(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (not value or min(value) < 0):
            raise ValueError("coarse classes are counted from 0")
        return value


class TransHP(Method[TransHPConfig]):
    """M prompts, one per coarse class, enter before one block and leave behind it. Output m is scored by w_m . O_m; the loss is
    the cross-entropy of the classes plus lambda times that of these scores with the coarse label.

    Parameters: 2 M D, D of the block; 15,360 on ViT-B/16 for 100 classes (M = 10).
    """

    title = "TransHP"
    summary = "prompts for coarse classes in one block, with a loss of their own"
    paper = "Wang et al., TransHP: Image Classification with Hierarchical Prompting, NeurIPS 2023"
    year = 2023
    fidelity = "approximate"
    families = ALL_FAMILIES
    requires = ("labelled pass before training (without coarse_labels)",)
    notes = (
        "A documented stand-in: the released code trains all of a DeiT from scratch on ImageNet with eleven levels of WordNet."
        " How InsVP adapted it to a frozen backbone, which hierarchies and which weights it took is not public.",
        "assumption: one level of coarse classes, one block, and no prompt for 'none of them', of which the released code has"
        " one.",
        "assumption: coarse classes are k-means of the classes' mean plain features, from training images only; classes without"
        " images belong to the first.",
        "As released: prompts and score vectors start from N(0, 0.02), outputs are scored without a norm, and nothing is"
        " selected: attention alone decides which prompt an image takes from.",
    )
    Config = TransHPConfig

    @classmethod
    def needs_classification(cls, config: Mapping[str, Any]) -> str:
        """See :meth:`vpbench.interface.Method.needs_classification`."""
        return "predicts coarse classes of whole images"

    def build(self) -> None:
        """Creates ``prompts`` (M, D), ``scores`` (M, D) and the buffer ``coarse_of_class`` (classes,).

        Raises:
            UsageError: when the options do not fit the backbone or the classes.
        """
        config, shape = self.config, self.shape
        if self._block >= shape.depth:
            raise UsageError(f"transhp.block={config.block}: this backbone has the blocks 0 to {shape.depth - 1}.")
        labels = config.coarse_labels
        if labels is not None and len(labels) != self.classes:
            raise UsageError(f"transhp.coarse_labels has {len(labels)} labels, and there are {self.classes} classes.")
        fewest = max(labels) + 1 if labels is not None else math.ceil(math.sqrt(self.classes))
        self.coarse_classes = config.coarse_classes or fewest
        if labels is not None and self.coarse_classes < fewest:
            raise UsageError(f"transhp.coarse_classes={config.coarse_classes}, and coarse_labels has the class {fewest - 1}.")
        width = shape.width_of(self._block)
        for name in ("prompts", "scores"):
            values = nn.Parameter(torch.empty(self.coarse_classes, width))
            nn.init.trunc_normal_(values, std=0.02)
            self.own.register_parameter(name, values)
        known = torch.zeros(self.classes, dtype=torch.long) if labels is None else torch.tensor(labels)
        self.own.register_buffer("coarse_of_class", known)

    @property
    def _block(self) -> int:
        return self.shape.depth * 3 // 4 if self.config.block is None else self.config.block

    @property
    def first_block(self) -> int:
        """The prompting block."""
        return self._block

    def prepare(self, session: Session) -> None:
        """Clusters the classes' mean features of training images, unless coarse labels were given."""
        if self.config.coarse_labels is not None:
            return
        from sklearn.cluster import KMeans

        features, labels = session.features("train")
        present = labels.unique()
        means = torch.stack([features[labels == label].double().mean(0) for label in present])
        seed = int(torch.randint(2**31 - 1, ()))
        count = min(self.coarse_classes, len(present))
        found = KMeans(count, n_init=10, random_state=seed).fit_predict(means.cpu().numpy())
        coarse = self.own.coarse_of_class
        coarse[present.to(coarse.device)] = torch.as_tensor(found, dtype=torch.long, device=coarse.device)

    def before_block(self, block: int, tokens: Tokens, context: Context) -> Tokens:
        """Inserts the prompts."""
        return tokens.with_prompts(self.own.prompts) if block == self._block else tokens

    def after_block(self, block: int, tokens: Tokens, context: Context) -> Tokens:
        """Scores what became of the prompts, in training, and takes them out."""
        if block != self._block:
            return tokens
        if context.training:
            context.stash["coarse"] = (tokens.prompt_tokens * self.own.scores).sum(-1)
        return Tokens(tokens.image_tokens, tokens.prefix)

    def outputs_used(self, block: int) -> frozenset[Part]:
        """The prompts' outputs in training alone: predictions do not need their scores."""
        return frozenset({"prompts"}) if block == self._block and self.own.training else NO_PARTS

    def loss(self, logits: Tensor, targets: Tensor, context: Context) -> Tensor:
        """Cross-entropy of the classes, and in training of the coarse ones."""
        loss = F.cross_entropy(logits, targets)
        if "coarse" not in context.stash:
            return loss
        coarse = self.own.coarse_of_class
        is_mixed = targets.ndim == 2  # probabilities of the classes
        wanted = targets @ F.one_hot(coarse, self.coarse_classes).to(targets.dtype) if is_mixed else coarse[targets]
        return loss + self.config.coarse_weight * F.cross_entropy(context.stash["coarse"].float(), wanted)
