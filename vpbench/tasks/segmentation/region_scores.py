"""Accumulating the predictions of a segmentation: whole images, windows, several scales."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from vpbench.core.errors import DivergedError
from vpbench.data.masks import IGNORED
from vpbench.tasks import Forward, Scorer, Scores
from vpbench.tasks.segmentation.confusion import RegionCounts, pixel_counts, regions_of
from vpbench.tasks.segmentation.dense_loss import resized_logits
from vpbench.tasks.segmentation.multi_scale import SizeRule, multi_scale_probabilities, resized_image, size_at
from vpbench.tasks.segmentation.sliding_window import sliding_logits, whole_logits

SHOWN = 8  # images whose predictions are kept
PURE = 0.5  # share of a patch that its class has at least, for its features to be kept

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Windows:
    """How images of any size are predicted by a model with inputs of one size.

    Attributes:
        size: side of the model's input, pixels.
        stride: between windows; None: whole images, without windows.
        longest: largest long side of a resized image; of the rule ``mmseg`` alone.
        rule: for the size of an image at a ratio.
    """

    size: int
    stride: int | None
    longest: int
    rule: SizeRule

    def logits(self, forward: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """Of images (B, 3, H, W) in any size; one that is smaller than the input is a window of its own."""
        if tuple(images.shape[-2:]) == (self.size, self.size):
            return forward(images)
        if self.stride is None:
            return whole_logits(forward, images)
        return sliding_logits(forward, images, self.size, self.stride)

    def at(self, image: Tensor, ratio: float = 1.0) -> Tensor:
        """An image (1, 3, H, W) in the size for a ratio."""
        height, width = image.shape[-2:]
        size = size_at((height, width), ratio, self.rule, self.size, self.longest)
        return image if size == (height, width) else resized_image(image[0], size)[None]


@dataclass(frozen=True)
class Regions(Scores):
    """Predictions on one split.

    Attributes:
        counts: of each image, (n, K, K): row = label, column = prediction.
        multi_scale: the same of predictions over scales and flips, (K, K); None unless asked for.
        shown: predicted classes of the first images, (H, W) each.
        features: that the head reads of some patches, (m, D); None unless asked for.
        patches: image and class of each, (m, 2).
    """

    images: RegionCounts
    confusion: Counts
    multi_scale: Counts | None = None
    shown: tuple[npt.NDArray[np.uint8], ...] = ()
    features: npt.NDArray[np.float16] | None = None
    patches: Counts = field(default_factory=lambda: np.empty((0, 2), np.int64))

    @property
    def regions(self) -> RegionCounts:
        """Pixels per class of the whole split."""
        return regions_of(self.confusion)

    @property
    def score(self) -> float:
        return self.regions.mean_iou

    @property
    def feature_labels(self) -> Counts:
        return self.patches[:, 1]

    @property
    def feature_images(self) -> Counts:
        return self.patches[:, 0]

    def columns(self) -> dict[str, Any]:
        found = self.regions
        per_class = [None if np.isnan(value) else float(value) for value in found.iou]
        columns = {"total": len(self.images.labelled), "iou_per_class": per_class, **_means(found)}
        if self.multi_scale is not None:
            columns |= {f"{name}_ms": value for name, value in _means(regions_of(self.multi_scale)).items()}
        return columns

    def val_columns(self) -> dict[str, Any]:
        return {}

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        counts = {name: getattr(self.images, name) for name in ("intersection", "predicted", "labelled")}
        return {**counts, "confusion": self.confusion, **{f"image_{place}": mask for place, mask in enumerate(self.shown)}}


def _means(regions: RegionCounts) -> dict[str, float]:
    return {"miou": regions.mean_iou, "macc": regions.mean_accuracy, "aacc": regions.pixel_accuracy}


class RegionScorer(Scorer):
    """Counts labelled and predicted classes.

    Args:
        classes: number K.
        windows: how images are predicted that are not of the model's size.
        scales: ratios of a second evaluation, over scales and flips; () for none.
        features: how many rows of features to keep.
    """

    def __init__(self, classes: int, windows: Windows, scales: tuple[float, ...] = (), features: int = 0) -> None:
        self._classes, self._windows, self._scales, self._wanted = classes, windows, scales, features
        self._images: list[RegionCounts] = []
        self._confusion = np.zeros((classes, classes), np.int64)
        self._multi_scale = np.zeros((classes, classes), np.int64)
        self._shown: list[npt.NDArray[np.uint8]] = []
        self._features: list[Tensor] = []
        self._patches: list[tuple[int, int]] = []

    def add(self, forward: Forward, inputs: Any, targets: Any) -> None:
        images = inputs if isinstance(inputs, Tensor) else None
        side = (self._windows.size, self._windows.size)
        if images is None or tuple(images.shape[-2:]) == side:
            logits, maps = forward(inputs, with_features=len(self._patches) < self._wanted)
        else:
            logits, maps = self._windows.logits(_alone(forward), self._windows.at(images)), None
        if not torch.isfinite(logits).all():
            raise DivergedError("the logits are not finite.")
        if maps is not None:
            self._keep_patches(maps, targets)
        for place, mask in enumerate(targets):
            found = resized_logits(logits[place : place + 1].float(), mask.shape).argmax(1)[0]
            counts = pixel_counts(found, mask, self._classes).numpy()
            self._images.append(regions_of(counts))
            self._confusion += counts
            if len(self._shown) < SHOWN:
                self._shown.append(found.cpu().numpy().astype(np.uint8))
            if self._scales and images is not None:
                self._multi_scale += self._over_scales(forward, images[place : place + 1], mask)

    def _over_scales(self, forward: Forward, image: Tensor, mask: Tensor) -> Counts:
        sizes = [self._windows.at(image, ratio) for ratio in self._scales]
        predict = partial(self._windows.logits, _alone(forward))
        size = (mask.shape[0], mask.shape[1])
        return pixel_counts(multi_scale_probabilities(predict, sizes, size).argmax(1)[0], mask, self._classes).numpy()

    def _keep_patches(self, maps: Tensor, targets: Iterable[Tensor]) -> None:
        """Of every class in an image the patch with the largest share of it."""
        for number, (features, mask) in enumerate(zip(maps, targets), len(self._images)):
            known = torch.where(mask == IGNORED, self._classes, mask.long())
            shares = F.one_hot(known, self._classes + 1)[..., : self._classes].permute(2, 0, 1).float()
            shares = F.adaptive_avg_pool2d(shares, features.shape[-2:]).flatten(1)
            best = shares.max(1)
            for label in (best.values >= PURE).nonzero().flatten().tolist():
                if len(self._patches) < self._wanted:
                    self._features.append(features.flatten(1)[:, best.indices[label]].float().cpu())
                    self._patches.append((number, label))

    def scores(self) -> Regions:
        names = ("intersection", "predicted", "labelled")
        images = RegionCounts(*(np.stack([getattr(image, name) for image in self._images]) for name in names))
        return Regions(
            images, self._confusion, self._multi_scale if self._scales else None, tuple(self._shown),
            torch.stack(self._features).numpy().astype(np.float16) if self._features else None,
            np.array(self._patches, np.int64).reshape(-1, 2),
        )  # fmt: skip


def _alone(forward: Forward) -> Callable[[Tensor], Tensor]:
    """Only the logits."""
    return lambda images: forward(images)[0]
