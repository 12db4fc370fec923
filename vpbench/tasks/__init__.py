"""Tasks: a registry with one module or package per task, here, in the user's folders, or by an entry point.

A task says what a target is, how image and target become a batch, which head reads which features, the loss, and the metric.
Training, evaluation, store and executors know this interface alone. Importing it imports no torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from vpbench.core.cards import first_error
from vpbench.core.errors import UsageError
from vpbench.core.names import unknown
from vpbench.core.plugins import Registry, subclass_in
from vpbench.data.target import Target
from vpbench.spec.run_spec import TaskSpec

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from vpbench.data.augmentation import Augmentation
    from vpbench.data.batches import Batch, Normaliser
    from vpbench.data.cache import CachedSplit
    from vpbench.interface import BackboneShape, Method
    from vpbench.spec.run_spec import RunSpec


class TaskConfig(BaseModel):
    """Options of a task. Frozen; unknown options are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


C = TypeVar("C", bound=TaskConfig)


class Scores(ABC):
    """What a model's predictions on one split are worth.

    Attributes:
        features: that the head reads, (m, D); None unless asked for.
        feature_labels: their class ids, (m,).
        probabilities: of all classes, (n, classes); None unless asked for, or where a task has none.
        loss: mean cross-entropy, without label smoothing; None where the task does not compute it.
    """

    features: NDArray[np.float16] | None = None
    loss: float | None = None
    probabilities: NDArray[np.float16] | None = None

    @property
    @abstractmethod
    def score(self) -> float:
        """The task's metric, percent."""

    @abstractmethod
    def columns(self) -> dict[str, Any]:
        """What a row says of the test split, by the schema's columns."""

    @abstractmethod
    def val_columns(self) -> dict[str, Any]:
        """What a row says of the validation split."""

    @abstractmethod
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What the file of predictions holds."""

    @property
    def feature_images(self) -> NDArray[np.int64]:
        """Place in the split of the image of each row of ``features``, (m,)."""
        import numpy as np

        return np.arange(len(self.feature_labels))

    @property
    @abstractmethod
    def feature_labels(self) -> NDArray[np.int64]:
        """Class ids of ``features``, (m,)."""


class Forward(Protocol):
    """One forward pass of a batch in evaluation mode."""

    def __call__(self, inputs: Any, with_features: bool = False) -> tuple[Tensor, Any]:
        """Logits, and if asked for what the head read, else None."""
        ...


class Scorer(ABC):
    """Accumulates predictions, batch by batch.

    Attributes:
        keep_probabilities: whether :attr:`Scores.probabilities` are asked for.
    """

    keep_probabilities: bool = False

    @abstractmethod
    def add(self, forward: Forward, inputs: Any, targets: Any) -> None:
        """Predict a batch and add it.

        Args:
            forward: the model.
            inputs: as :meth:`Task.evaluation_batches` has them, or cached activations of these.
            targets: of the batch.

        Raises:
            DivergedError: when logits are not finite.
        """

    @abstractmethod
    def scores(self) -> Scores:
        """Of all batches together."""


class Task(ABC, Generic[C]):
    """Base class of all tasks; a module in ``tasks/`` defines one subclass.

    Attributes:
        config: the validated options.
        classes: number of classes.
    """

    title: ClassVar[str]
    """What messages call it."""
    metric: ClassVar[str]
    """Name of the metric that a row's ``score`` is, as its column is called."""
    metric_title: ClassVar[str]
    """The same in words, for messages and tables."""
    always_recorded: ClassVar[tuple[str, ...]] = ()
    """Columns beside the metric that every row of a tested run has."""
    always_validated: ClassVar[tuple[str, ...]] = ()
    """Columns that every row of a run with validation images has."""
    pipeline_tag: ClassVar[str]
    """What the Hugging Face hub calls it."""
    own_suite: ClassVar[str]
    """The suite whose protocol is used for a user's own data."""
    target: ClassVar[Target] = "class"
    """What an image is labelled with."""
    Config: ClassVar[type[TaskConfig]] = TaskConfig

    def __init__(self, config: C, classes: int) -> None:
        self.config, self.classes = config, classes

    # Planning

    @classmethod
    @abstractmethod
    def why_not(cls, method: type[Method[Any]], options: Mapping[str, Any]) -> str:
        """Why a method with these options does not fit the task, in words behind its title; empty where it does."""

    def check_run(self, spec: RunSpec) -> None:
        """
        Raises:
            UsageError: when preprocessing or recipe ask for what the task cannot do.
        """

    # Model

    def taps(self, shape: BackboneShape) -> tuple[int, ...]:
        """The blocks whose outputs the head reads as feature maps, ascending; none where it reads pooled features."""
        return ()

    @property
    def final_norm(self) -> bool:
        """Whether the map of the last block goes through the backbone's final norm."""
        return False

    @abstractmethod
    def make_head(self, method: Method[Any], feature_width: int) -> nn.Module:
        """A freshly initialised head, from torch's global random stream.

        Args:
            method: built; where the head reads pooled features it may bring its own.
            feature_width: of the backbone's pooled features.
        """

    def training_logits(self, head: Any, features: Any) -> Any:
        """What the loss reads: the head's logits unless it has others in training."""
        return head(features)

    def needs_whole_batches(self, head: Any) -> bool:
        """Whether training on an image depends on the others of its batch, which rules out micro-batches."""
        return False

    @abstractmethod
    def loss(self, logits: Any, targets: Tensor) -> Tensor:
        """Loss of a batch, a scalar.

        Args:
            logits: of :meth:`training_logits`, or of the head in evaluation mode.
        """

    @abstractmethod
    def example_targets(self, images: int, image_size: int, device: torch.device | str) -> Tensor:
        """Targets of made-up images, to measure a training step."""

    def probabilities(
        self, forward: Callable[[Tensor], Tensor], images: Tensor, image_size: int, sizes: Sequence[tuple[int, int]]
    ) -> list[Tensor]:  # fmt: skip
        """Of the classes for new images, (classes,) of each, or (classes, H, W) where every pixel has a class.

        Args:
            forward: logits of normalised images (B, 3, image_size, image_size).
            images: normalised, (B, 3, H, W).
            image_size: side of the model's input.
            sizes: height and width of each original image.
        """
        return list(forward(images).float().softmax(1))

    # Batches

    def is_augmented(self, spec: RunSpec) -> bool:
        """Whether training images are prepared at random."""
        from vpbench.data.augmentation import is_random

        return is_random(spec.recipe, spec.preprocess)

    @property
    def evaluates_images(self) -> bool:
        """Whether the metric needs the images of the test split, and not only one forward pass of each."""
        return False

    @abstractmethod
    def evaluation_size(self, split: CachedSplit) -> int:
        """Images of a batch in evaluation; the same on every machine."""

    @abstractmethod
    def targets(self, split: CachedSplit) -> Tensor:
        """The targets of the training images without augmentation, in order; on the CPU."""

    @abstractmethod
    def target_batches(self, split: CachedSplit, normalise: Normaliser) -> Iterator[Any]:
        """The targets alone of :meth:`evaluation_batches`, on the device."""

    @abstractmethod
    def training_batches(
        self, split: CachedSplit, spec: RunSpec, normalise: Normaliser, generator: torch.Generator,
        augmentation: Augmentation | None = None,
    ) -> Iterator[Batch]:  # fmt: skip
        """One epoch: every image once, shuffled and augmented; the last batch may be smaller.

        Args:
            generator: on the CPU; the only source of randomness.
            augmentation: the recipe's, of pixels.
        """

    @abstractmethod
    def evaluation_batches(
        self, split: CachedSplit, normalise: Normaliser, batch_size: int | None = None
    ) -> Iterator[tuple[Tensor, Any]]:
        """All images in order, without augmentation, and their targets.

        Args:
            batch_size: None for :meth:`evaluation_size`.
        """

    # Metric

    @abstractmethod
    def scorer(self, split: CachedSplit, features: int = 0, test: bool = False) -> Scorer:
        """A new accumulator.

        Args:
            split: to be evaluated.
            features: of how many images to keep what the head reads.
            test: on the test split, with all that a row says of it.
        """


def task_registry() -> Registry[type[Task[Any]]]:
    """Every module of this package and of the users' ``tasks`` folders, and the entry points of ``vpbench.tasks``."""
    return Registry("task", __name__, subclass_in(Task), group="vpbench.tasks", folder="tasks")  # type: ignore[type-abstract]


def task_class(name: str) -> type[Task[Any]]:
    """The class of a task.

    Raises:
        UsageError: for an unknown name, with a suggestion.
    """
    return task_registry().get(name)


def resolve_task(name: str, options: Mapping[str, Any] | None = None) -> TaskSpec:
    """Settle every option of a task.

    Raises:
        UsageError: for an unknown task or option, or a value that does not fit.
    """
    config = task_class(name).Config
    for option in options or {}:
        if option not in config.model_fields:
            raise unknown(f"option of {name}", option, config.model_fields)
    try:
        settled = config.model_validate(dict(options or {}))
    except ValidationError as error:
        raise UsageError(f"task.{first_error(error)}") from error
    return TaskSpec(name=name, config=settled.model_dump(mode="json"))


def make_task(spec: TaskSpec, classes: int) -> Task[Any]:
    """The task that a specification describes."""
    kind = task_class(spec.name)
    return kind(kind.Config.model_validate(spec.config), classes)
