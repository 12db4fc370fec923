"""Image classification: one class per image; top-1 accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vpbench.core.errors import DivergedError, UsageError
from vpbench.interface import F, Method, torch
from vpbench.tasks import Forward, Scorer, Scores, Task, TaskConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vpbench.data.augmentation import Augmentation
    from vpbench.data.batches import Batch, Normaliser
    from vpbench.data.cache import CachedSplit
    from vpbench.spec.run_spec import RunSpec

TOP = 5
EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Accuracies(Scores):
    """Predictions on one split; accuracies are integer counts.

    Attributes:
        labels: true class ids, (n,).
        ranked: the five (or fewer) most probable class ids per image, best first, (n, min(5, classes)).
        confidence: probability of the first, (n,).
        classes: number of classes.
        features: that the head reads, of the first images, (m, D); None unless asked for.
        loss: mean cross-entropy.
        probabilities: of all classes, (n, classes); None unless asked for.
    """

    labels: npt.NDArray[np.int64]
    ranked: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float32]
    classes: int
    features: npt.NDArray[np.float16] | None = None
    loss: float | None = None
    probabilities: npt.NDArray[np.float16] | None = None

    @property
    def total(self) -> int:
        return len(self.labels)

    @property
    def correct(self) -> int:
        return int((self.ranked[:, 0] == self.labels).sum())

    @property
    def correct5(self) -> int:
        return int((self.ranked == self.labels[:, None]).any(1).sum())

    @property
    def acc1(self) -> float:
        """Top-1 accuracy, percent."""
        return 100 * self.correct / self.total

    @property
    def acc5(self) -> float | None:
        """Top-5 accuracy, percent; None below six classes, where it says nothing."""
        return 100 * self.correct5 / self.total if self.classes > TOP else None

    @property
    def mean_per_class(self) -> float:
        """Mean over the classes present of their top-1 accuracies, percent."""
        hit = self.ranked[:, 0] == self.labels
        return float(100 * np.mean([hit[self.labels == label].mean() for label in np.unique(self.labels)]))

    @property
    def score(self) -> float:
        return self.acc1

    @property
    def feature_labels(self) -> npt.NDArray[np.int64]:
        return self.labels[: 0 if self.features is None else len(self.features)]

    def columns(self) -> dict[str, Any]:
        names = ("acc1", "acc5", "mean_per_class", "correct", "correct5", "total")
        return {name: getattr(self, name) for name in names}

    def val_columns(self) -> dict[str, Any]:
        return {"val_acc1": self.acc1, "val_correct": self.correct}

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {"labels": self.labels, "ranked": self.ranked, "confidence": self.confidence}


class AccuracyScorer(Scorer):
    """Keeps labels, ranks and confidences."""

    def __init__(self, classes: int, features: int) -> None:
        self._classes, self._wanted, self._kept = classes, features, 0
        self._labels: list[npt.NDArray[np.int64]] = []
        self._ranked: list[npt.NDArray[np.int64]] = []
        self._confidence: list[npt.NDArray[np.float32]] = []
        self._features: list[Tensor] = []
        self._losses: list[float] = []
        self._probabilities: list[npt.NDArray[np.float16]] = []

    def add(self, forward: Forward, inputs: Any, targets: Any) -> None:
        logits, features = forward(inputs, with_features=self._kept < self._wanted)
        if features is not None:
            self._features.append(features.float().cpu())
            self._kept += len(features)
        probabilities = logits.float().softmax(-1)
        if not torch.isfinite(probabilities).all():
            raise DivergedError("the logits are not finite.")
        top = probabilities.topk(min(TOP, logits.shape[-1]))
        self._labels.append(targets.cpu().numpy())
        self._losses.append(F.cross_entropy(logits.float(), targets.to(logits.device), reduction="sum").item())
        self._ranked.append(top.indices.cpu().numpy())
        self._confidence.append(top.values[:, 0].cpu().numpy())
        if self.keep_probabilities:
            self._probabilities.append(probabilities.half().cpu().numpy())

    def scores(self) -> Accuracies:
        return Accuracies(
            np.concatenate(self._labels), np.concatenate(self._ranked), np.concatenate(self._confidence), self._classes,
            torch.cat(self._features)[: self._wanted].numpy().astype(np.float16) if self._features else None,
            sum(self._losses) / sum(map(len, self._labels)),
            np.concatenate(self._probabilities) if self._probabilities else None,
        )  # fmt: skip


class Classification(Task[TaskConfig]):
    """One class per image: a linear head on pooled features unless a method brings its own, cross-entropy, top-1 accuracy."""

    title = "image classification"
    metric = "acc1"
    metric_title = "top-1"
    always_recorded = ("mean_per_class", "correct", "correct5", "total")
    always_validated = ("val_acc1", "val_correct")
    pipeline_tag = "image-classification"
    own_suite = "custom"

    def check_run(self, spec: RunSpec) -> None:
        """
        Raises:
            UsageError: for preprocessing that gives images of different sizes.
        """
        if spec.preprocess.resize == "original":
            raise UsageError('preprocess.resize = "original" is for segmentation; classification needs "stretch" or "crop".')

    @classmethod
    def why_not(cls, method: type[Method[Any]], options: Mapping[str, Any]) -> str:
        return ""

    def make_head(self, method: Method[Any], feature_width: int) -> nn.Module:
        return method.make_head(method.readout_width(feature_width), self.classes)

    def loss(self, logits: Any, targets: Tensor) -> Tensor:
        """Cross-entropy; ``targets`` are class ids (B,), or probabilities (B, classes)."""
        return F.cross_entropy(logits, targets)

    def example_targets(self, images: int, image_size: int, device: torch.device | str) -> Tensor:
        return torch.arange(images, device=device) % self.classes

    def evaluation_size(self, split: CachedSplit) -> int:
        return EVALUATION_BATCH

    def targets(self, split: CachedSplit) -> Tensor:
        return torch.from_numpy(np.asarray(split.labels))

    def target_batches(self, split: CachedSplit, normalise: Normaliser) -> Iterator[Tensor]:
        return iter(normalise.to_device(self.targets(split)).split(EVALUATION_BATCH))

    def training_batches(
        self, split: CachedSplit, spec: RunSpec, normalise: Normaliser, generator: torch.Generator,
        augmentation: Augmentation | None = None,
    ) -> Iterator[Batch]:  # fmt: skip
        from vpbench.data.batches import training_batches

        size = spec.backbone.image_size
        recipe, preprocess = spec.recipe, spec.preprocess
        return training_batches(
            split, recipe.batch_size, preprocess, size, normalise, generator, augmentation, recipe.repeats
        )  # fmt: skip

    def evaluation_batches(
        self, split: CachedSplit, normalise: Normaliser, batch_size: int | None = None
    ) -> Iterator[tuple[Tensor, Any]]:
        from vpbench.data.batches import evaluation_batches

        return evaluation_batches(split, batch_size or EVALUATION_BATCH, normalise)

    def scorer(self, split: CachedSplit, features: int = 0, test: bool = False) -> AccuracyScorer:
        return AccuracyScorer(self.classes, features)
