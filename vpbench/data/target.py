"""What the images of a data set are labelled with."""

from __future__ import annotations

from typing import Literal

Target = Literal["class", "mask"]
"""A class for each image, or a mask with a class for each pixel."""

TARGETS: dict[Target, str] = {"class": "a class for each image", "mask": "a mask for each image"}
