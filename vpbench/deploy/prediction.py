"""Predictions of trained models on new images, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from vpbench.core.errors import DataError
from vpbench.data.batches import Normaliser
from vpbench.data.cache import Pixels
from vpbench.deploy.image_list import NamedImage
from vpbench.deploy.load_run import check_class_names
from vpbench.models.saved import TrainedModel
from vpbench.training.memory import in_pieces


@dataclass(frozen=True)
class Prediction:
    """What models say of an image.

    Attributes:
        image: its name.
        probabilities: of the classes, (classes,), the mean of all models'.
    """

    image: str
    probabilities: NDArray[np.float32]

    def top(self, count: int) -> list[tuple[int, float]]:
        """The most probable classes, best first: id and probability."""
        ranked = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(int(label), float(self.probabilities[label])) for label in ranked]


@dataclass(frozen=True)
class Unreadable:
    """An image that cannot be decoded; ``reason`` names it."""

    image: str
    reason: str


class Predictor:
    """One model, or several whose probabilities are averaged.

    Args:
        models: in evaluation mode, with the same class names, each with its own preprocessing.
        names: of the models, for messages.
        device: where to compute.
        batch_size: images of a forward pass.

    Raises:
        UsageError: for models with different class names.
    """

    def __init__(
        self, models: Sequence[TrainedModel], names: Sequence[str] = (), device: torch.device | str = "cpu", batch_size: int = 64
    ) -> None:
        first, *others = models
        for model in models:
            model.check_classifies("a prediction")
        for name, model in zip(list(names)[1:] or [""] * len(others), others):
            check_class_names(name or "a model of the ensemble", model.class_names, first.class_names)
        self.class_names, self.device, self.batch_size = first.class_names, torch.device(device), batch_size
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
                decoded = list(pool.map(self._pixels, chunk))
                found = self._probabilities([pixels for pixels in decoded if not isinstance(pixels, str)])
                places = iter(range(len(found)))
                for image, pixels in zip(chunk, decoded):
                    failed = isinstance(pixels, str)
                    yield Unreadable(image.name, pixels) if failed else Prediction(image.name, found[next(places)])

    def _pixels(self, image: NamedImage) -> list[Pixels] | str:
        """The image for each preprocessing, or why there is none."""
        if image.content is None:
            return f"{image.name} has no image."
        try:
            return [transform.pixels(image.content, image.name) for transform in self._transforms]
        except DataError as error:
            return str(error)

    def _probabilities(self, decoded: list[list[Pixels]]) -> NDArray[np.float32]:
        """(B, classes) of B images."""
        if not decoded:
            return np.empty((0, len(self.class_names)), np.float32)
        total = torch.zeros((), device=self.device)
        with torch.no_grad():
            for model, normalise, place in zip(self._models, self._normalise, self._place):
                inputs = normalise(np.stack([pixels[place] for pixels in decoded]))
                total = total + torch.cat(in_pieces(model, inputs)).softmax(1)
        mean: NDArray[np.float32] = (total / len(self._models)).cpu().numpy()
        return mean
