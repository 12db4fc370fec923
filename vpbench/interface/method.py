"""The interface of a method: a small object that owns its parameters and acts at a few places of the forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from vpbench.interface.config import Fidelity, MethodConfig, Preset
from vpbench.interface.context import Context
from vpbench.interface.lazy import F, nn
from vpbench.interface.scope import Scope
from vpbench.interface.session import Session
from vpbench.interface.shape import BackboneShape
from vpbench.interface.tokens import Tokens

if TYPE_CHECKING:
    from torch import Tensor

C = TypeVar("C", bound=MethodConfig)
Part = Literal["prompts", "patches"]
EVERYTHING: frozenset[Part] = frozenset({"prompts", "patches"})
NOTHING: frozenset[Part] = frozenset()


class Method(Generic[C]):
    """Base class of all methods; the base class itself is linear probing.

    A method file defines one subclass, and a :class:`MethodConfig` for its options. The engine calls, in this order:
    ``build`` and ``attach`` once; ``prepare`` and ``phases`` when fitting; in every forward pass ``pixels``, then
    ``before_block`` and ``after_block`` around each block from ``first_block`` on; ``loss`` in training; ``merge`` before
    inference is timed.

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
    version: ClassVar[int] = 1
    families: ClassVar[frozenset[str]] = frozenset({"vit"})
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    presets: ClassVar[Mapping[str, Preset]] = {}

    def __init__(self, config: C, shape: BackboneShape, classes: int) -> None:
        self.config, self.shape, self.classes = config, shape, classes
        self.own: Any = nn.Module()

    @property
    def first_block(self) -> int:
        """The first block, 0 to L-1, that this method acts in or before; L where it acts behind all of them.

        What lies in front never changes in training: it is computed without gradient, and once for the whole run where images
        are prepared without chance. A method that says more than 0 sees no images: ``pixels`` and ``predict`` are not called,
        and its context has none.
        """
        return 0

    @property
    def needs_whole_batches(self) -> bool:
        """Whether what training makes of an image depends on the others of its batch, which then cannot be gone through in
        parts."""
        return False

    @classmethod
    def needs_validation(cls, config: Mapping[str, Any]) -> bool:
        """Whether fitting with these options chooses something on validation images."""
        return False

    def build(self) -> None:
        """Create the method's parameters as attributes of ``self.own``, from the global random stream.

        Raises:
            UsageError: when the options do not fit the backbone.
        """

    def attach(self, scope: Scope) -> None:
        """Change the frozen backbone where the hooks below do not reach, through ``scope``."""

    def make_head(self, width: int, classes: int) -> nn.Module:
        """The classifier on the backbone's features, (B, width) to (B, classes)."""
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

    def reads(self, block: int) -> frozenset[Part]:
        """What this method reads of the output of ``block``, in ``after_block`` or in ``before_block`` of the next one, beside
        the prefix tokens: everything, unless a method says less.

        What neither the method nor the next block nor the classifier reads need not be computed. Prompts that are replaced
        before every block are needed as keys and values only.
        """
        return EVERYTHING

    def predict(self, once: Callable[..., Tensor], images: Tensor) -> Tensor:
        """Logits of a batch from one forward pass, or from several.

        Args:
            once: runs one forward pass on images; keyword arguments are put into its context's stash.
            images: (B, C, S, S).
        """
        return once(images)

    def loss(self, logits: Tensor, targets: Tensor, context: Context) -> Tensor:
        """Training loss of a batch, a scalar.

        Args:
            logits: (B, classes).
            targets: class ids (B,), or probabilities (B, classes) under label smoothing or Mixup.
            context: of the forward pass that gave the logits.
        """
        return F.cross_entropy(logits, targets)

    def merge(self) -> None:
        """Turn into an exact cheaper form for inference, where there is one; not trainable afterwards."""

    def active_parameters(self) -> int:
        """Own parameters that act on the result: all, unless some were pruned."""
        return sum(parameter.numel() for parameter in self.own.parameters())
