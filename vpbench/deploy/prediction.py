"""Predictions of trained models on new images, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vpbench.core.errors import DataError, UsageError
from vpbench.data.batches import Normaliser
from vpbench.data.ragged_images import Pixels
from vpbench.deploy.image_list import NamedImage
from vpbench.deploy.load_run import check_class_names
from vpbench.models.saved import TrainedModel
from vpbench.training.memory import in_pieces


@dataclass(frozen=True)
class Prediction:
    """What models say of an image.

    Attributes:
        image: the image.
        probabilities: of the classes, (classes,), the mean of all models'; of a mask, the share of pixels of each class.
        mask: the class of every pixel, (H, W), in the image's own size; None where the whole image has one class.
    """

    image: NamedImage
    probabilities: NDArray[np.float32]
    mask: NDArray[np.uint8] | None = None

    @classmethod
    def of(cls, image: NamedImage, probabilities: Tensor) -> Prediction:
        """From the probabilities of the image, (classes,), or of its pixels, (classes, H, W)."""
        if probabilities.ndim == 1:
            return cls(image, probabilities.cpu().numpy())
        mask = probabilities.argmax(0)
        shares = torch.bincount(mask.flatten(), minlength=len(probabilities)) / mask.numel()
        return cls(image, shares.float().cpu().numpy(), mask.cpu().numpy().astype(np.uint8))

    def top(self, count: int) -> list[tuple[int, float]]:
        """The most probable classes, or those of most pixels, best first: id and probability or share."""
        ranked = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(int(label), float(self.probabilities[label])) for label in ranked]


@dataclass(frozen=True)
class Unreadable:
    """An image that cannot be decoded; ``reason`` names it."""

    image: str
    reason: str


@dataclass(frozen=True)
class Decoded:
    """An image as each preprocessing makes it, and its own height and width."""

    pixels: list[Pixels]
    size: tuple[int, int]


class Predictor:
    """One model, or several whose probabilities are averaged.

    Args:
        models: in evaluation mode, with the same class names, each with its own preprocessing.
        names: of the models, for messages.
        device: where to compute.
        batch_size: images of a forward pass; of masks one after the other.

    Raises:
        UsageError: for models with different class names, or of different tasks.
    """

    def __init__(
        self, models: Sequence[TrainedModel], names: Sequence[str] = (), device: torch.device | str = "cpu", batch_size: int = 64
    ) -> None:
        first, *others = models
        for name, model in zip(list(names)[1:] or ["a model of the ensemble"] * len(others), others):
            check_class_names(name, model.class_names, first.class_names)
            if (task := model.model.task).title != first.model.task.title:
                raise UsageError(f"{name} is for {task.title}, and the first model is for {first.model.task.title}.")
        self.class_names, self.device = first.class_names, torch.device(device)
        self.makes_masks = first.model.task.target == "mask"
        self.batch_size = 1 if self.makes_masks else batch_size  # probabilities of all pixels are large
        self._models = [model.to(self.device).eval() for model in models]
        self._normalise = [Normaliser(model.transform.mean, model.transform.std, self.device) for model in models]
        # Models that see the same pixels share them.
        transforms = [model.transform for model in models]
        keys = [(each.preprocess, each.image_size, each.levels) for each in transforms]
        self._transforms = [transforms[keys.index(key)] for key in dict.fromkeys(keys)]
        self._place = [list(dict.fromkeys(keys)).index(key) for key in keys]

    def __call__(self, images: Iterable[NamedImage]) -> Iterator[Prediction | Unreadable]:
        """The predictions, in the order of the images."""
        source = iter(images)
        with ThreadPoolExecutor() as pool:  # Pillow releases the GIL
            while chunk := list(islice(source, self.batch_size)):
                decoded = list(pool.map(self._decoded, chunk))
                found = iter(self._probabilities([each for each in decoded if isinstance(each, Decoded)]))
                for image, each in zip(chunk, decoded):
                    yield Unreadable(image.name, each) if isinstance(each, str) else Prediction.of(image, next(found))

    def _decoded(self, image: NamedImage) -> Decoded | str:
        """The image for each preprocessing, or why there is none."""
        if image.content is None:
            return f"{image.name} has no image."
        try:
            plain = [transform.decoded(image.content, image.name) for transform in self._transforms]
        except DataError as error:
            return str(error)
        pixels = [transform.resized(each) for transform, each in zip(self._transforms, plain)]
        return Decoded(pixels, (plain[0].height, plain[0].width))

    def _probabilities(self, decoded: list[Decoded]) -> list[Tensor]:
        """Of each image, see :meth:`vpbench.tasks.Task.probabilities`; the mean of all models'."""
        if not decoded:
            return []
        sizes = [each.size for each in decoded]
        found = []
        with torch.no_grad():
            for model, normalise, place in zip(self._models, self._normalise, self._place):
                images = normalise(np.stack([each.pixels[place] for each in decoded]))

                def forward(inputs: Tensor, model: TrainedModel = model) -> Tensor:
                    return torch.cat(in_pieces(model, inputs))

                found.append(model.model.task.probabilities(forward, images, model.transform.image_size, sizes))
        return [torch.stack(of_models).mean(0) if len(found) > 1 else of_models[0] for of_models in zip(*found)]
