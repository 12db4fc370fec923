"""Semantic segmentation: a class for every pixel; mean intersection over union."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from vpbench.core.errors import UsageError
from vpbench.data.target import Target
from vpbench.interface import Method, torch
from vpbench.tasks import Task, TaskConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vpbench.data.augmentation import Augmentation
    from vpbench.data.batches import Batch, Normaliser
    from vpbench.data.cache import CachedSplit
    from vpbench.interface import BackboneShape
    from vpbench.spec.run_spec import RunSpec
    from vpbench.tasks.segmentation.dense_head import DenseHead, HeadOptions
    from vpbench.tasks.segmentation.region_scores import RegionScorer, Windows
    from vpbench.tasks.segmentation.setr_augmentation import SETRAugmentation

EVALUATION_BATCH = 256
LOGIT_BYTES = 1 << 26  # of a batch in evaluation, in float32; a number, so that all machines decide alike


class SegmentationConfig(TaskConfig):
    """Options of segmentation. Those of crops and windows matter where images keep their size (``resize = "original"``)."""

    head: str = Field("setr-pup", description="linear, bn-linear, setr-naive, setr-pup, setr-pup-zheng or setr-mla")
    width: int = Field(256, ge=1, description="channels of the head's convolutions")
    auxiliary: bool = Field(True, description="train the head's auxiliary classifiers, where it has some")
    auxiliary_weight: float = Field(0.4, ge=0, description="weight of the loss of each")
    blocks: tuple[int, ...] | None = Field(None, description="blocks whose outputs are read, from 0; None: the head's choice")
    loss_mean: Literal["all", "valid"] = Field(
        "all", description="pixels that the loss is a mean over: all, ignored ones included, as SETR's code, or labelled ones"
    )
    random_scale: tuple[float, float] = Field(
        (0.5, 2.0), description="bounds of the random factor on the size of training images"
    )
    longest: int = Field(2048, ge=1, description="largest long side of a resized image, pixels")
    most_of_one_class: float = Field(0.75, gt=0, le=1, description="share of a training crop that one class may have, below this")
    photometric: bool = Field(True, description="distort brightness, contrast, saturation and hue of training crops")
    stride: int | Literal["whole"] | None = Field(
        None, description="pixels between windows in evaluation; None: two thirds of the input's side; whole: no windows"
    )
    scales: tuple[float, ...] = Field((), description="ratios of the second, multi-scale evaluation with flips; (): none")
    scale_rule: Literal["setr", "mmseg", "mmseg1"] = Field("setr", description="size of an image at a ratio, of its short side")


class Segmentation(Task[SegmentationConfig]):
    """A class for every pixel: a head on feature maps of blocks, cross-entropy per pixel, mIoU."""

    title = "semantic segmentation"
    metric = "miou"
    metric_title = "mIoU"
    always_recorded = ("macc", "aacc", "iou_per_class", "total")
    pipeline_tag = "image-segmentation"
    own_suite = "custom-segmentation"
    target: ClassVar[Target] = "mask"
    Config = SegmentationConfig

    @classmethod
    def why_not(cls, method: type[Method[Any]], options: Mapping[str, Any]) -> str:
        reason = method.needs_classification(options)
        return f"does not fit segmentation: it {reason}." if reason else ""

    def check_run(self, spec: RunSpec) -> None:
        """
        Raises:
            UsageError: for an unknown head, options that do not fit, or a recipe that mixes whole images.
        """
        from vpbench.tasks.segmentation.dense_head import head_class

        head_class(self.config.head)
        for field in ("mixup", "cutmix", "label_smoothing", "auto_augment", "random_erasing"):
            if getattr(spec.recipe, field):
                raise UsageError(
                    f"recipe.{field} is for one label of an image; segmentation has one for each pixel: set it to 0."
                )
        if spec.preprocess.resize == "crop" or spec.preprocess.random_crop:
            raise UsageError(
                'preprocess.resize = "crop" and random_crop leave out pixels that segmentation is measured on: take "stretch", '
                'or "original" with crops in training and windows in evaluation.'
            )
        size = spec.backbone.image_size
        stride = self._stride(size)
        if stride is not None and not 0 < stride <= size:
            raise UsageError(f"task.stride={self.config.stride} leaves gaps between windows of {size} px; at most {size}.")
        low, high = self.config.random_scale
        if not 0 < low <= high:
            raise UsageError(f"task.random_scale={low:g}, {high:g}: two numbers above 0, the smaller first.")
        if size > self.config.longest:
            raise UsageError(
                f"crops of {size} px are larger than images get (task.longest={self.config.longest}); lower --image-size."
            )

    # Model

    def taps(self, shape: BackboneShape) -> tuple[int, ...]:
        kind = self._head_class()
        return tuple(level.block for level in kind.levels_of(shape, self._head_options()))

    @property
    def final_norm(self) -> bool:
        return self._head_class().normed

    def make_head(self, method: Method[Any], feature_width: int) -> nn.Module:
        from vpbench.tasks.segmentation.dense_head import make_dense_head

        return make_dense_head(self.config.head, method.shape, self.classes, self._head_options())

    def _head_class(self) -> type[DenseHead]:
        from vpbench.tasks.segmentation.dense_head import head_class

        return head_class(self.config.head)

    def _head_options(self) -> HeadOptions:
        from vpbench.tasks.segmentation.dense_head import HeadOptions

        config = self.config
        return HeadOptions(
            width=config.width, auxiliary=config.auxiliary, auxiliary_weight=config.auxiliary_weight, blocks=config.blocks
        )

    def training_logits(self, head: Any, features: Any) -> list[tuple[float, Tensor]]:
        found: list[tuple[float, Tensor]] = head.training_logits(features)
        return found

    def needs_whole_batches(self, head: Any) -> bool:
        return self.config.loss_mean == "valid" or bool(head.uses_batch_statistics)

    def loss(self, logits: Any, targets: Tensor) -> Tensor:
        """Cross-entropy per pixel of one map of logits, or the weighted sum of several; ``targets`` (B, H, W), 255 is ignored."""
        from vpbench.tasks.segmentation.dense_loss import weighted_loss

        outputs = [(1.0, logits)] if isinstance(logits, torch.Tensor) else logits
        return weighted_loss(outputs, targets.long(), self.config.loss_mean)

    def example_targets(self, images: int, image_size: int, device: torch.device | str) -> Tensor:
        rows = torch.arange(images * image_size, device=device) % self.classes
        return rows.view(images, image_size, 1).expand(-1, -1, image_size)

    def probabilities(
        self, forward: Callable[[Tensor], Tensor], images: Tensor, image_size: int, sizes: Sequence[tuple[int, int]]
    ) -> list[Tensor]:  # fmt: skip
        """As the test split is predicted at one scale: images that keep their size in windows, logits resized to the original."""
        from vpbench.tasks.segmentation.dense_loss import resized_logits

        windows = self._windows(image_size)
        if images.shape[-2:] != (image_size, image_size):
            images = windows.at(images)
        logits = windows.logits(forward, images)
        return [resized_logits(each[None].float(), size).softmax(1)[0] for each, size in zip(logits, sizes)]

    # Batches

    def is_augmented(self, spec: RunSpec) -> bool:
        return spec.preprocess.resize == "original" or super().is_augmented(spec)

    @property
    def evaluates_images(self) -> bool:
        return bool(self.config.scales)

    def evaluation_size(self, split: CachedSplit) -> int:
        if is_ragged(split):
            return 1
        return max(1, min(EVALUATION_BATCH, LOGIT_BYTES // (4 * self.classes * split.image_size**2)))

    def targets(self, split: CachedSplit) -> Tensor:
        return torch.from_numpy(np.array(split.masks))

    def target_batches(self, split: CachedSplit, normalise: Normaliser) -> Iterator[Any]:
        size = self.evaluation_size(split)
        return (self._masks(split, start, size, normalise) for start in range(0, len(split), size))

    def training_batches(
        self, split: CachedSplit, spec: RunSpec, normalise: Normaliser, generator: torch.Generator,
        augmentation: Augmentation | None = None,
    ) -> Iterator[Batch]:  # fmt: skip
        """Images (B, 3, S, S) and class ids of their pixels (B, S, S)."""
        from vpbench.data.augmentation import epoch_order

        size, preprocess = spec.recipe.batch_size, spec.preprocess
        if preprocess.resize == "original":
            from vpbench.tasks.segmentation.crops import training_crops

            yield from training_crops(split, self._augmentation(spec.backbone.image_size), size, normalise, generator)
            return
        for chosen in epoch_order(len(split), spec.recipe.repeats, generator).split(size):
            images = normalise(split.take(chosen.numpy()))
            masks = normalise.to_device(torch.from_numpy(np.asarray(split.masks)[chosen.numpy()]))
            if preprocess.random_flip:
                flipped = normalise.to_device(torch.rand(len(chosen), generator=generator) < 0.5)
                images = torch.where(flipped.view(-1, 1, 1, 1), images.flip(-1), images)
                masks = torch.where(flipped.view(-1, 1, 1), masks.flip(-1), masks)
            yield images, masks

    def evaluation_batches(
        self, split: CachedSplit, normalise: Normaliser, batch_size: int | None = None
    ) -> Iterator[tuple[Tensor, Any]]:
        """All images in order: (B, 3, S, S), or one by one in their own size where they keep it; and their masks, a tensor or,
        where their sizes differ, a list.

        Args:
            batch_size: of training images, which come as crops where they keep their size.
        """
        if is_ragged(split) and batch_size:
            from vpbench.tasks.segmentation.crops import centre_crops

            yield from centre_crops(split, batch_size, normalise)
            return
        size = batch_size or self.evaluation_size(split)
        for start in range(0, len(split), size):
            if is_ragged(split):
                images = normalise(np.array(split.images[start])[None])
            else:
                images = normalise(split.take(np.arange(start, min(start + size, len(split)))))
            yield images, self._masks(split, start, size, normalise)

    def _augmentation(self, size: int) -> SETRAugmentation:
        from vpbench.tasks.segmentation.setr_augmentation import SETRAugmentation

        config = self.config
        return SETRAugmentation(
            crop=size, long=config.longest, short=size, ratios=config.random_scale, max_share=config.most_of_one_class,
            colour=config.photometric,
        )  # fmt: skip

    def _masks(self, split: CachedSplit, start: int, size: int, normalise: Normaliser) -> Any:
        """A tensor (B, H, W), or a list of tensors (H, W) where they have several sizes; class ids as bytes."""
        assert split.masks is not None
        found = [torch.from_numpy(np.array(split.masks[index])) for index in range(start, min(start + size, len(split)))]
        if len({mask.shape for mask in found}) > 1:
            return [normalise.to_device(mask) for mask in found]
        return normalise.to_device(torch.stack(found))

    # Metric

    def scorer(self, split: CachedSplit, features: int = 0, test: bool = False) -> RegionScorer:
        from vpbench.tasks.segmentation.region_scores import RegionScorer

        scales = self.config.scales if test else ()
        return RegionScorer(self.classes, self._windows(split.image_size), scales, features)

    def _windows(self, size: int) -> Windows:
        """For a model's input of ``size`` pixels."""
        from vpbench.tasks.segmentation.region_scores import Windows

        return Windows(size, self._stride(size), self.config.longest, self.config.scale_rule)

    def _stride(self, size: int) -> int | None:
        """Pixels between windows; None without windows."""
        stride = self.config.stride
        if isinstance(stride, str):
            return None
        return max(1, int(size * 2 / 3)) if stride is None else stride


def is_ragged(split: CachedSplit) -> bool:
    """Whether images keep a size of their own, and are not as large as the network's input."""
    return split.has_margin
