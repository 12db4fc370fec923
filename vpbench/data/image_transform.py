"""The deterministic preprocessing of one image, as a callable: what a trained model was tested with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from vpbench.core.errors import DataError, UsageError
from vpbench.data.batches import Normaliser
from vpbench.data.cache import resized
from vpbench.data.decoding import EACH_ALONE, WhiteLevels, as_rgb, decode
from vpbench.data.image_errors import named_image
from vpbench.data.ragged_images import Pixels
from vpbench.spec.run_spec import BackboneSpec, Preprocess


class ImageTransform:
    """Maps an image to the network's input, float32 (3, S, S), with the very numbers of the run's evaluation.

    Args:
        preprocess: how images are decoded, resized and cropped; nothing random is done.
        backbone: side of the input, mean and std.
        levels: what becomes 255 in images of more than 8 bits per sample; those of the training data.
    """

    def __init__(self, preprocess: Preprocess, backbone: BackboneSpec, levels: WhiteLevels | None = None) -> None:
        self.preprocess, self.image_size, self.levels = preprocess, backbone.image_size, levels or EACH_ALONE
        self.mean, self.std = backbone.mean, backbone.std
        self._normalise = Normaliser(self.mean, self.std)

    def __call__(self, image: str | Path | bytes | Image.Image | Any) -> Tensor:
        """An image to (3, S, S), on the CPU.

        Args:
            image: a path, the bytes of an image file, Pillow's image, or an array of uint8, (H, W, 3) or (H, W).

        Raises:
            DataError: when it cannot be decoded.
            UsageError: for something else.
        """
        return self._normalise(self.pixels(image)[None])[0]

    def pixels(self, image: str | Path | bytes | Image.Image | Any, name: str = "the image") -> Pixels:
        """An image as uint8 (S, S, 3), before it is normalised.

        Args:
            image: as in :meth:`__call__`.
            name: of an image without a path, for messages.
        """
        return self.resized(self.decoded(image, name))

    def resized(self, image: Image.Image) -> Pixels:
        """What :meth:`decoded` returns, in the size of the network's input, or as the task wants it."""
        return resized(image, self.preprocess, self.image_size)

    def decoded(self, image: str | Path | bytes | Image.Image | Any, name: str = "the image") -> Image.Image:
        """An image in RGB and in its own size; arguments and errors as for :meth:`pixels`."""
        if isinstance(image, str | Path):
            return decode(_content(Path(image)), str(image), self.preprocess, self.levels)
        if isinstance(image, bytes):
            return decode(image, name, self.preprocess, self.levels)
        if isinstance(image, Image.Image):
            with named_image(name):
                return as_rgb(image, name, self.preprocess, self.levels)
        if isinstance(image, np.ndarray) and image.dtype == np.uint8 and (image.ndim == 2 or image.shape[2:] == (3,)):
            return Image.fromarray(image).convert("RGB")
        kind = f"{image.dtype} {tuple(image.shape)}" if hasattr(image, "dtype") else type(image).__name__
        raise UsageError(
            f"{name} is {kind}: give a path, the bytes of an image file, a PIL image, or an array of uint8, (H, W, 3) or (H, W)."
        )

    def __repr__(self) -> str:
        how = {name: value for name, value in self.preprocess.model_dump().items() if not name.startswith("random_")}
        shown = ", ".join(f"{name}={value!r}" for name, value in how.items())
        return f"ImageTransform(image_size={self.image_size}, {shown}, mean={self.mean}, std={self.std})"


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); check it and its permissions.") from error
