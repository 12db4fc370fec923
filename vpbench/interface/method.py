"""The interface of a method: a small object that owns its parameters and acts at a few places of the forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from vpbench.core.errors import UnsupportedError
from vpbench.interface.config import Fidelity, MethodConfig, Preset
from vpbench.interface.context import Context
from vpbench.interface.lazy import nn
from vpbench.interface.peft_adapter import PeftAdapter
from vpbench.interface.scope import Scope
from vpbench.interface.session import Session
from vpbench.interface.shape import BackboneShape
from vpbench.interface.tokens import Tokens

if TYPE_CHECKING:
    from torch import Tensor

C = TypeVar("C", bound=MethodConfig)
Group = Literal["partial", "extra", "prompts"]
Part = Literal["prompts", "patches"]
ALL_PARTS: frozenset[Part] = frozenset({"prompts", "patches"})
NO_PARTS: frozenset[Part] = frozenset()


class Method(Generic[C]):
    """Base class of all methods; the base class itself is linear probing.

    A method file defines one subclass, and a :class:`MethodConfig` for its options. The engine calls, in this order:
    ``build`` and ``attach`` once; ``prepare`` and ``phases`` when fitting; in every forward pass ``pixels``, then
    ``before_block`` and ``after_block`` around each block from ``first_block`` on, and ``readout``; ``loss`` in training;
    ``merge`` before inference is timed.

    Attributes:
        config: the validated options.
        shape: sizes of the backbone.
        classes: number of classes.
        own: the module that holds the method's parameters and buffers. Only these, the head, and what ``attach``
            trained through its scope change in training, and only these are saved.
    """

    title: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str]
    fidelity: ClassVar[Fidelity]
    notes: ClassVar[tuple[str, ...]] = ()
    year: ClassVar[int | None] = None
    """In which ``paper`` was published: at the venue that it names, else as a preprint."""
    version: ClassVar[int] = 1
    families: ClassVar[frozenset[str]] = frozenset({"vit"})
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    presets: ClassVar[Mapping[str, Preset]] = {}
    group: ClassVar[Group] = "prompts"
    """What it trains, as the papers' tables group methods: parts of the backbone or the head, extra modules, or prompts."""
    requires: ClassVar[tuple[str, ...]] = ()
    """What the method needs beside images and labels, in words for lists: ``source classifier``, ``class token``, ``labelled pass
    before training``, ``second network``, ..."""
    extra: ClassVar[str | None] = None
    """The extra of vpbench that the method needs, and the library in it, which has the same name."""
    predicts_in_training: ClassVar[bool] = False
    """Whether :meth:`predict` makes the logits in training, too; else training takes one forward pass."""
    uses_plain_features: ClassVar[bool] = False
    """Whether the method reads ``context.plain_features(context.images)``, so that they are worth caching."""

    fits_every_task: ClassVar[bool] = False
    """Whether the method fits every task although it has a readout or a loss of its own, which only add to the usual ones."""

    sensitive_to_rounding: ClassVar[bool] = False
    """Whether another order of the same sums changes the method's numbers visibly, as on another processor."""

    def __init__(self, config: C, shape: BackboneShape, classes: int) -> None:
        self.config, self.shape, self.classes = config, shape, classes
        self.own: Any = nn.Module()

    @property
    def first_block(self) -> int:
        """The first block, 0 to L-1, that this method acts in or before; L where it acts behind all of them.

        The blocks before it are a frozen prefix: computed without gradient, and once per machine where preprocessing is
        deterministic, so that a method may change nothing in them. A method with a prefix sees no images: ``pixels`` and
        ``predict`` are not called, and its context has none.
        """
        return 0

    @property
    def needs_whole_batches(self) -> bool:
        """Whether what training computes for an image depends on the others of its batch, which rules out micro-batches."""
        return False

    @classmethod
    def needs_validation(cls, config: Mapping[str, Any]) -> bool:
        """Whether fitting with these options chooses something on validation images."""
        return False

    @classmethod
    def needs_source_classifier(cls, config: Mapping[str, Any]) -> bool:
        """Whether the method with these options uses the classifier that the backbone was pretrained with."""
        return False

    @classmethod
    def needs_classification(cls, config: Mapping[str, Any]) -> str:
        """What the method with these options does that only the classification of whole images has, in words behind its title.

        Empty where it fits other tasks, too, whose heads read feature maps and not :meth:`readout`. Unless a method says more,
        that is one which leaves readout and loss as they are.
        """
        changed = [name for name in ("readout", "loss") if getattr(cls, name) is not getattr(Method, name)]
        fits = cls.fits_every_task or not changed
        return "" if fits else f"has its own {' and '.join(changed)}, for one label of a whole image"

    def build(self) -> None:
        """Create the method's parameters as attributes of ``self.own``, from the global random stream.

        Raises:
            UsageError: when the options do not fit the backbone.
        """

    def attach(self, scope: Scope) -> None:
        """Change the frozen backbone where the hooks below do not reach, through ``scope``."""

    def make_head(self, width: int, classes: int) -> nn.Module:
        """The classifier on what :meth:`readout` returns, (B, width) to (B, classes)."""
        head = nn.Linear(width, classes)
        if self.config.head_init == "vpt":
            nn.init.kaiming_normal_(head.weight, mode="fan_out", a=0)
            nn.init.constant_(head.bias, -math.log(99))
        return head

    def prepare(self, session: Session) -> None:
        """Data-dependent set-up before training."""

    def phases(self, session: Session) -> None:
        """Fit the method; one plain training unless said otherwise."""
        session.train()

    def step_ended(self, step: int, steps: int) -> None:
        """Called in training after the optimizer's step ``step`` (from 0) of ``steps``; gradients are still in place."""

    def epoch_ended(self, epoch: int, epochs: int) -> None:
        """Called in training after epoch ``epoch`` (from 0) of ``epochs``."""

    def pixels(self, images: Tensor, context: Context) -> Tensor:
        """Edit the normalised images, (B, C, S, S)."""
        return images

    def before_block(self, block: int, tokens: Tokens, context: Context) -> Tokens:
        """Edit the sequence that goes into ``block`` (0 to L-1)."""
        return tokens

    def after_block(self, block: int, tokens: Tokens, context: Context) -> Tokens:
        """Edit the sequence that comes out of ``block``."""
        return tokens

    def outputs_used(self, block: int) -> frozenset[Part]:
        """Which tokens of the output of ``block`` this method uses, in ``after_block``, in ``before_block`` of the next one or in
        ``readout``, beside the prefix tokens: all, unless a method overrides this.

        What neither the method nor the next block nor the classifier uses is not computed. Prompts that are replaced before
        every block are needed as keys and values only.
        """
        return ALL_PARTS

    def readout(self, tokens: Tokens, features: Tensor, context: Context) -> Tensor:
        """What the head reads, (B, :meth:`readout_width`).

        Args:
            tokens: out of the last block; only those of :meth:`outputs_used` and of the pooling are there.
            features: of the backbone's pooling, (B, feature_width).
        """
        return features

    def readout_width(self, width: int) -> int:
        """Width of what :meth:`readout` returns, given that of the backbone's features."""
        return width

    def predict(self, once: Callable[..., Tensor], images: Tensor) -> Tensor:
        """Logits of a batch from one forward pass, or from several.

        Args:
            once: runs one forward pass on images; keyword arguments are put into its context's stash.
            images: (B, C, S, S).
        """
        return once(images)

    def loss(self, logits: Tensor, targets: Tensor, context: Context) -> Tensor:
        """Training loss of a batch, a scalar: the task's own unless a method adds terms to it.

        Args:
            logits: (B, classes).
            targets: class ids (B,), or probabilities (B, classes) under label smoothing or Mixup.
            context: of the forward pass that gave the logits; of the last one, where there were several.
        """
        return context.criterion(logits, targets)

    def merge(self, scope: Scope) -> None:
        """Turn into an exact cheaper form for inference, where there is one; not trainable afterwards.

        Args:
            scope: as in :meth:`attach`; its ``fold`` merges updates into frozen weights.
        """

    def reinitialise(self, scope: Scope) -> None:
        """Draw new initial values for everything in ``own`` from the global random stream."""
        fresh = type(self)(self.config, self.shape, self.classes)
        fresh.build()
        self.own.load_state_dict(fresh.own.state_dict())

    def restored(self) -> None:
        """Called after saved or fresh values were copied into ``own``, for what a method derives from its buffers."""

    def pack(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """What a file of trained weights holds: all tensors, unless predictions need fewer bytes, as of quantised weights.

        Args:
            tensors: everything that training may change, by name; the method's own begin with ``own.``.
        """
        return tensors

    def unpack(self, packed: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by the names of the model, from what :meth:`pack` returned; they make the same predictions."""
        return packed

    def to_peft(self, scope: Scope) -> PeftAdapter:
        """The method as an adapter of peft's on the plain timm model; the same function of images.

        Raises:
            UnsupportedError: when peft has no such adapter.
        """
        raise UnsupportedError(f"{self.title} is no adapter of the library peft; lora and peft are.")

    def load_peft(self, adapter: PeftAdapter, scope: Scope) -> None:
        """Take values from an adapter of peft's, as :meth:`to_peft` returns it.

        Raises:
            UnsupportedError: when peft has no such adapter.
            UsageError: when it does not fit the method's options or the backbone.
        """
        raise UnsupportedError(f"{self.title} is no adapter of the library peft; lora and peft are.")

    def active_parameters(self) -> int:
        """Own parameters that act on the result: all, unless some were pruned."""
        return sum(parameter.numel() for parameter in self.own.parameters())
