"""What a method can ask of the engine while it is being fitted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class OtherData:
    """Training images of another data set than the run's, prepared as the run's own, without augmentation.

    Attributes:
        classes: their number.
        batches: the images once, in an order from torch's global random stream: images (B, C, S, S), labels (B,), with at
            most the given number of images in a batch.
    """

    classes: int
    batches: Callable[[int], Iterator[tuple[Tensor, Tensor]]]


class Session(Protocol):
    """One run's training, as the hooks ``prepare`` and ``phases`` of a method see it.

    The engine owns data, optimizer, schedule, augmentation and precision. The method says in which order things happen.
    """

    def train(self, name: str = "train") -> None:
        """Fit all trainable tensors with the run's recipe, from a fresh optimizer and schedule.

        Raises:
            DivergedError: when the loss is not finite.
        """
        ...

    def validate(self) -> float:
        """The task's metric on the validation split, in percent: top-1 accuracy in classification."""
        ...

    def training_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The training split once, in order and without augmentation: images (B, C, S, S), and their
        targets, labels (B,) in classification."""
        ...

    def features(self, split: str = "train") -> tuple[Tensor, Tensor]:
        """Features of the plain, un-prompted model without augmentation, (n, feature_width) in float32, and labels (n,).

        Args:
            split: ``train`` or ``val``. There is no test split here.
        """
        ...

    def other_data(self, name: str) -> OtherData:
        """Another data set, for methods that meta-train: by its card's name, or the path of own images.

        Raises:
            UsageError: when there is none of that name.
            DataError: when it is not on this machine.
        """
        ...

    def logits(self, images: Tensor) -> Tensor:
        """Logits in evaluation mode, with gradient, in the run's precision."""
        ...

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """The task's loss in evaluation mode, a scalar, with gradient, in the run's precision; without the method's own terms.

        Args:
            targets: as :meth:`training_batches` has them.
        """
        ...

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of the method's and the head's tensors."""
        ...

    def restore(self, snapshot: dict[str, Tensor]) -> None:
        """Put a copy back."""
        ...

    def reinitialise(self) -> None:
        """Draw new initial values for the method's and the head's tensors from the run's random stream."""
        ...
