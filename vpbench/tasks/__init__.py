"""Tasks: a registry with one module or package per task, here, in the user's folders, or by an entry point.

A task says what a target is, how image and target become a batch, which head reads which features, the loss, and the metric.
Training, evaluation, store and executors know this interface alone. Importing it imports no torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from vpbench.core.cards import first_error
from vpbench.core.errors import UsageError
from vpbench.core.names import unknown
from vpbench.core.plugins import Registry, subclass_in
from vpbench.spec.run_spec import TaskSpec

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from vpbench.data.batches import Batch, Normaliser
    from vpbench.data.cache import CachedSplit
    from vpbench.data.raw import RawData
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
    """

    features: NDArray[np.float16] | None = None

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
    @abstractmethod
    def feature_labels(self) -> NDArray[np.int64]:
        """Class ids of ``features``, (m,)."""


class Scorer(ABC):
    """Accumulates predictions, batch by batch."""

    @property
    @abstractmethod
    def wants_features(self) -> bool:
        """Whether the features of the next batch are to be kept."""

    @abstractmethod
    def add(self, logits: Tensor, targets: Tensor, features: Any = None) -> None:
        """Add a batch.

        Args:
            logits: as :meth:`Task.predict` returns them.
            targets: of the batch.
            features: that the head read, where they are wanted.

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
    own_suite: ClassVar[str]
    """The suite whose protocol is used for a user's own data."""
    Config: ClassVar[type[TaskConfig]] = TaskConfig

    def __init__(self, config: C, classes: int) -> None:
        self.config, self.classes = config, classes

    # Planning

    @classmethod
    @abstractmethod
    def why_not(cls, method: type[Method[Any]], options: Mapping[str, Any]) -> str:
        """Why a method with these options does not fit the task; empty where it does."""

    @classmethod
    @abstractmethod
    def check_data(cls, name: str, raw: RawData) -> None:
        """
        Raises:
            DataError: when the targets of a data set are not the task's.
        """

    def check_run(self, spec: RunSpec) -> None:
        """
        Raises:
            UsageError: when preprocessing or recipe ask for what the task cannot do.
        """

    # Model

    def taps(self, shape: BackboneShape) -> tuple[int, ...]:
        """The blocks whose outputs the head reads as feature maps, ascending; none where it reads pooled features."""
        return ()

    @abstractmethod
    def make_head(self, method: Method[Any], feature_width: int) -> nn.Module:
        """A freshly initialised head, from torch's global random stream.

        Args:
            method: built; where the head reads pooled features it may bring its own.
            feature_width: of the backbone's pooled features.
        """

    @abstractmethod
    def loss(self, logits: Any, targets: Tensor) -> Tensor:
        """Training loss of a batch, a scalar, from what the head returns in training mode."""

    @abstractmethod
    def example_targets(self, images: int, image_size: int, device: torch.device | str) -> Tensor:
        """Targets of made-up images, to measure a training step."""

    # Batches

    @abstractmethod
    def targets(self, split: CachedSplit) -> Tensor:
        """The targets of a whole split, in order, as :meth:`evaluation_batches` has them; on the CPU."""

    @abstractmethod
    def training_batches(
        self, split: CachedSplit, spec: RunSpec, normalise: Normaliser, generator: torch.Generator
    ) -> Iterator[Batch]:
        """One epoch: every image once, shuffled and augmented; the last batch may be smaller.

        Args:
            generator: on the CPU; the only source of randomness.
        """

    @abstractmethod
    def evaluation_batches(self, split: CachedSplit, batch_size: int, normalise: Normaliser) -> Iterator[Batch]:
        """All images in order, without augmentation."""

    # Metric

    def predict(self, forward: Callable[[Any], Tensor], inputs: Any) -> Tensor:
        """Logits of a batch in evaluation mode, from one forward pass or several."""
        return forward(inputs)

    @abstractmethod
    def scorer(self, features: int = 0) -> Scorer:
        """A new accumulator.

        Args:
            features: how many rows of features to keep.
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
