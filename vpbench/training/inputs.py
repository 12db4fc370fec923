"""What goes into the model in each step: images, or cached activations of the frozen prefix."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vpbench.data.augmentation import Augmentation, epoch_order
from vpbench.data.batches import Normaliser
from vpbench.data.cache import CachedData, CachedSplit
from vpbench.interface import Method
from vpbench.models.prompted import CachedActivations, ImagesWithFeatures, PromptedModel
from vpbench.models.prompted import Inputs as ModelInputs
from vpbench.spec.run_spec import RunSpec
from vpbench.training.activation_cache import ActivationCache

CACHE_LIMIT = 1 << 30  # bytes of a split; a number and not the memory at hand, so that all machines decide alike

Batch = tuple[ModelInputs, Tensor]


class Inputs:
    """Batches of one run.

    The frozen prefix, the blocks before a method's first one, never changes in training. With deterministic preprocessing its
    activations are therefore computed once per split and kept, on the disk for later runs as well; the method gets the very
    values that it would get from the images. The same holds for features of the plain model, for methods that use them.

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
        self._task = model.task
        self._cached: dict[int, Tensor] = {}
        self._features: dict[int, Tensor] = {}
        self._cache = ActivationCache(model, spec, normalise)
        self._augmentation = None
        if spec.recipe.auto_augment or spec.recipe.random_erasing:
            place = (spec.backbone.image_size, spec.backbone.mean, normalise.device)
            self._augmentation = Augmentation(spec.recipe, spec.preprocess, *place)

    def training(self) -> Iterator[Batch]:
        """One epoch: every training image once, in random order; the last batch may be smaller."""
        split, size = self._data.train, self._spec.recipe.batch_size
        if self.caches_activations(split):
            activations, labels = self._activations(split), self._labels(split)
            for picked in self._epoch_order().to(labels.device).split(size):
                yield CachedActivations(activations[picked]), labels[picked]
        elif self._caches_features:
            features, labels = self.plain_features(split), self._labels(split)
            for picked in self._epoch_order().split(size):
                images = self._normalise(split.take(picked.numpy()))
                picked = picked.to(labels.device)
                yield ImagesWithFeatures(images, features[picked].to(labels.device)), labels[picked]
        else:
            yield from self._task.training_batches(split, self._spec, self._normalise, self._order, self._augmentation)

    def evaluation(self, split: CachedSplit) -> Iterator[Batch]:
        """All images of a split in their order, without augmentation."""
        if self.caches_activations(split):
            targets = self._task.target_batches(split, self._normalise)
            for values, truth in zip(self._activations(split).split(self._task.evaluation_size(split)), targets):
                yield CachedActivations(values), truth
        elif self._caches_features and split is not self._data.test:
            features = self.plain_features(split).split(self._task.evaluation_size(split))
            for (images, targets), known in zip(self._task.evaluation_batches(split, self._normalise), features):
                yield ImagesWithFeatures(images, known.to(images.device)), targets
        else:
            yield from self._task.evaluation_batches(split, self._normalise)

    def plain_features(self, split: CachedSplit) -> Tensor:
        """Features of the plain model without augmentation, (n, feature_width), float32 on the CPU; computed once."""
        if id(split) not in self._features:
            size = self._task.evaluation_size(split)
            found = self._cache.of(split, size, "plain features", lambda images: self._model.plain_features(images).float())
            self._features[id(split)] = found
        return self._features[id(split)]

    def caches_activations(self, split: CachedSplit) -> bool:
        """Whether activations of the frozen prefix are computed once for a split.

        Of the test split, which a run uses once or twice, only features are worth their memory, or what other runs can read.
        """
        shape, first = self._model.backbone.shape, self._model.method.first_block
        if first == 0 or self._is_augmented:
            return False
        features = first == shape.depth
        if self._model.taps and not features:  # the head reads blocks of the prefix, too
            return False
        stage = shape.stage_of(first - 1)
        values = self._model.feature_count if features else (shape.prefix + stage.patches) * stage.width
        size = 4 * values * len(split)
        cached = [self._data.train, self._data.val]
        if (features and not self._task.evaluates_images) or self._cache.keeps(self._data.test, size):
            cached.append(self._data.test)
        return any(split is each for each in cached) and size <= CACHE_LIMIT

    @property
    def _caches_features(self) -> bool:
        """Whether features of the plain model are computed once: they are used, by a method that makes one forward pass."""
        method = self._model.method
        return method.uses_plain_features and type(method).predict is Method.predict and not self._is_augmented

    @property
    def _is_augmented(self) -> bool:
        return self._task.is_augmented(self._spec)

    def _epoch_order(self) -> Tensor:
        return epoch_order(len(self._data.train), self._spec.recipe.repeats, self._order)

    def _activations(self, split: CachedSplit) -> Tensor:
        if id(split) not in self._cached:
            # As many images at a time as without the cache, since rounding depends on the size of a matrix.
            size = self._spec.recipe.batch_size if split is self._data.train else self._task.evaluation_size(split)
            kind = self._model.cached_kind
            found = self._cache.of(split, size, kind, lambda images: self._model.cache_activations(images).values)
            self._cached[id(split)] = self._normalise.to_device(found)
        return self._cached[id(split)]

    def _labels(self, split: CachedSplit) -> Tensor:
        return self._normalise.to_device(self._task.targets(split))
