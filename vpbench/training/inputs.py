"""What goes into the model in each step: images, or what its frozen blocks made of them once and for all."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from vpbench.data.batches import Normaliser, evaluation_batches, training_batches
from vpbench.data.cache import CachedData, CachedSplit
from vpbench.models.prompted import Frozen, PromptedModel
from vpbench.spec.precision import autocast
from vpbench.spec.run_spec import RunSpec
from vpbench.training.memory import in_pieces

EVALUATION_BATCH = 256
KEPT_AT_MOST = 1 << 30  # bytes of a split; a number and not the memory at hand, so that all machines decide alike

Batch = tuple[Tensor | Frozen, Tensor]


class Inputs:
    """Batches of one run.

    What lies in front of a method's first block never changes in training. Where images are prepared without chance, it is
    therefore computed once for a split and kept; the method then gets the very values that it would get from the images.

    Args:
        model: on the normaliser's device.
        data: cached splits.
        spec: batch size and preprocessing are read from it.
        normalise: from stored bytes to the network's input.
        order: decides order, crops and flips of training images.
    """

    def __init__(
        self, model: PromptedModel, data: CachedData, spec: RunSpec, normalise: Normaliser, order: torch.Generator
    ) -> None:
        self._model, self._data, self._spec, self._normalise, self._order = model, data, spec, normalise, order
        self._kept: dict[int, Tensor] = {}

    def training(self) -> Iterator[Batch]:
        """One epoch: every training image once, in random order; the last batch may be smaller."""
        split, size = self._data.train, self._spec.recipe.batch_size
        if not self.keeps(split):
            yield from training_batches(
                split, size, self._spec.preprocess, self._spec.backbone.image_size, self._normalise, self._order
            )
            return
        known, labels = self._known(split), self._labels(split)
        for picked in torch.randperm(len(split), generator=self._order).to(labels.device).split(size):
            yield Frozen(known[picked]), labels[picked]

    def evaluation(self, split: CachedSplit) -> Iterator[Batch]:
        """All images of a split in their order, with nothing random."""
        if not self.keeps(split):
            yield from evaluation_batches(split, EVALUATION_BATCH, self._normalise)
            return
        known, labels = self._known(split), self._labels(split)
        for values, truth in zip(known.split(EVALUATION_BATCH), labels.split(EVALUATION_BATCH)):
            yield Frozen(values), truth

    def keeps(self, split: CachedSplit) -> bool:
        """Whether what the frozen blocks make of a split is computed once and kept.

        Of the test split, which is looked at once or twice, only features are worth their memory.
        """
        shape, first = self._model.backbone.shape, self._model.method.first_block
        if first == 0 or self._images_change:
            return False
        features = first == shape.depth
        stage = shape.stage_of(first - 1)
        values = self._model.backbone.feature_width if features else (shape.prefix + stage.patches) * stage.width
        kept = [self._data.train, self._data.val, *([self._data.test] if features else [])]
        return any(split is each for each in kept) and 4 * values * len(split) <= KEPT_AT_MOST

    @property
    def _images_change(self) -> bool:
        preprocess, recipe = self._spec.preprocess, self._spec.recipe
        return preprocess.random_crop or preprocess.random_flip or recipe.mixup > 0 or recipe.cutmix > 0

    def _known(self, split: CachedSplit) -> Tensor:
        if id(split) not in self._kept:
            # As many images at a time as without this, since rounding depends on the size of a matrix.
            size = self._spec.recipe.batch_size if split is self._data.train else EVALUATION_BATCH
            with autocast(self._spec.precision, self._normalise.device.type):
                batches = evaluation_batches(split, size, self._normalise)
                pieces = [piece for images, _ in batches for piece in in_pieces(self._model.frozen, images)]
                self._kept[id(split)] = torch.cat([piece.values for piece in pieces])
        return self._kept[id(split)]

    def _labels(self, split: CachedSplit) -> Tensor:
        return self._normalise.to_device(torch.from_numpy(np.asarray(split.labels)))
