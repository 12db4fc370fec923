"""From an encoded file to RGB: orientation, transparency, and images with more than 8 bits per sample."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from vpbench.core.errors import DataError
from vpbench.data.image_errors import named_image
from vpbench.spec.run_spec import Preprocess

AS_LOADED = Preprocess.model_validate({})  # Pillow's convert("RGB") alone, as the papers' loaders

_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 258
# EXIF's orientations, and what makes each upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = (5, 6, 7, 8)
_DEPTHS = (8, 10, 12, 14, 16)
_LEAST_WHITE = 64  # a quarter of 255: below it even 8 bits would be a guess


@dataclass(frozen=True)
class WhiteLevels:
    """The values that become 255 in images of integers and of floats; None: found for every image alone."""

    integer: float | None = None
    floating: float | None = None


EACH_ALONE = WhiteLevels()


@dataclass(frozen=True)
class DeepValues:
    """The values of an image with more than 8 bits per sample.

    Attributes:
        name: of the image, for messages.
        kind: what the file holds; of colours Pillow reads the upper 8 bits alone.
        bits: per sample as the file states them, where that is fewer than its container has; else 0.
    """

    name: str
    kind: Literal["integers", "floats", "colours"]
    least: float
    largest: float
    bits: int

    def white(self, levels: WhiteLevels) -> float | None:
        """The level that belongs to this kind of image; None for colours."""
        return {"integers": levels.integer, "floats": levels.floating}.get(self.kind)


def decode(content: bytes, name: str, preprocess: Preprocess = AS_LOADED, levels: WhiteLevels | None = None) -> Image.Image:
    """The RGB image in an encoded file; of an animation or a multi-page file the first one.

    ``preprocess.orientation`` ``exif`` makes it upright (Pillow itself does so for TIFF); ``preprocess.background`` is the ground
    under transparent pixels, ``ignored`` drops alpha and converts palettes. Samples of more than 8 bits are scaled to 8, so that
    the value in ``levels`` becomes 255.

    Raises:
        DataError: for a damaged image, another kind of file, or values of an unknown range; ``name`` is in the message.
    """
    with _opened(content, name) as image:
        return as_rgb(image, name, preprocess, levels)


def as_rgb(image: Image.Image, name: str, preprocess: Preprocess = AS_LOADED, levels: WhiteLevels | None = None) -> Image.Image:
    """The RGB image of one that Pillow has opened, as :func:`decode` makes it."""
    image.load()
    if is_deep(image):
        plain = _scaled(image, name, levels or EACH_ALONE)
    elif preprocess.background != "ignored" and image.has_transparency_data:
        ground = Image.new("RGBA", image.size, preprocess.background)
        plain = Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
    else:
        plain = image.convert("RGB")
    return _upright(plain, image) if preprocess.orientation == "exif" else plain


def check_decodes(content: bytes, name: str) -> None:
    """
    Raises:
        DataError: for a damaged image, or another kind of file.
    """
    with _opened(content, name) as image:
        image.load()


def upright_size(content: bytes, name: str) -> tuple[int, int]:
    """Width and height of an encoded image, upright as EXIF says, from its header alone.

    Raises:
        DataError: for what is no image.
    """
    with _opened(content, name) as image:
        width, height = image.size
        turned = _orientation(image) in _ON_ITS_SIDE
    return (height, width) if turned else (width, height)


def deep_values(content: bytes, name: str) -> DeepValues | None:
    """The values of an image with more than 8 bits per sample, None for other images and for what is none.

    Raises:
        DataError: for such an image that is damaged.
    """
    if not _may_be_deep(content):
        return None
    try:
        with Image.open(io.BytesIO(content)) as image:
            deep = is_deep(image) or 16 in _stated_bits(image, content)
    except Exception:  # whatever is wrong with it is reported when it is decoded
        return None
    if not deep:
        return None
    with _opened(content, name) as image:
        image.load()
        return _values(image, np.asarray(image if is_deep(image) else image.convert("RGB")), name)


def white_levels(found: Iterable[DeepValues]) -> WhiteLevels:
    """One level of integers and one of floats for all images of a data set, so that equal values stay equal.

    Integers have the fewest bits of 8, 10, 12, 14 and 16 that hold the largest value of all images, or what a TIFF states. Floats
    reach to 1 where none is larger; else they count as integers do.

    Raises:
        DataError: where the range cannot be known: negative or infinite values, more than 16 bits, or hardly any.
    """
    images = list(found)
    colours = [image for image in images if image.kind == "colours"]
    if colours and 0 < (top := max(colours, key=lambda image: image.largest)).largest < _LEAST_WHITE:
        raise DataError(
            f"{top.name} has 16 bits per channel, of which the upper 8 are read, and these are at most {top.largest:g} in all "
            "images; convert them to 8 bits per channel."
        )
    return WhiteLevels(*(_level([image for image in images if image.kind == kind]) for kind in ("integers", "floats")))


def is_deep(image: Image.Image) -> bool:
    """Whether Pillow has more than 8 bits per sample of it, which it has for grey images only."""
    return image.mode.startswith(("I", "F"))


@contextmanager
def _opened(content: bytes, name: str) -> Iterator[Image.Image]:
    # Another library in this process may have set this, so that Pillow fills truncated images with grey.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    with named_image(name), Image.open(io.BytesIO(content)) as image:
        yield image


def _may_be_deep(content: bytes) -> bool:
    """From the first bytes alone, so that the usual files cost nothing: JPEG, GIF, BMP, WebP and AVIF never are."""
    if content.startswith(b"\x89PNG"):
        return content[24:25] == b"\x10"  # the bit depth in its header
    return not (content.startswith((b"\xff\xd8", b"GIF8", b"BM", b"RIFF")) or content[4:8] == b"ftyp")


def _values(image: Image.Image, values: NDArray[Any], name: str) -> DeepValues:
    stated = _stated_bits(image)[0]
    return DeepValues(
        name,
        kind="floats" if image.mode.startswith("F") else "integers" if is_deep(image) else "colours",
        least=float(values.min()),
        largest=float(values.max()),
        bits=stated if stated < 16 else 0,
    )


def _stated_bits(image: Image.Image, content: bytes = b"") -> tuple[int, ...]:
    """Bits per sample in the header of a TIFF or PNG; (0,) if it has none."""
    if content.startswith(b"\x89PNG"):
        return (content[24],)
    return tuple(getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (0,)))


def _level(images: list[DeepValues]) -> float | None:
    if not images:
        return None
    odd = next((one for one in images if not 0 <= one.least <= one.largest < 2 ** _DEPTHS[-1]), None)
    top = max(images, key=lambda image: image.largest)
    if odd is None and top.kind == "floats" and top.largest <= 1:
        return 1.0
    stated = max(image.bits for image in images)
    if odd is None and (stated or not 0 < top.largest < _LEAST_WHITE):
        return float(2 ** max(stated, next(bits for bits in _DEPTHS if top.largest < 2**bits)) - 1)
    seen = odd or top
    if not (math.isfinite(seen.least) and math.isfinite(seen.largest)):
        what = "NaN" if math.isnan(seen.least) else "infinite"
        raise DataError(f"{seen.name} has samples that are {what}, which is no brightness; repair it, or take it out.")
    raise DataError(
        f"{seen.name} has samples from {seen.least:g} to {seen.largest:g}, and which value is white cannot be known; convert the "
        "images to 8 or 16 bits per sample."
    )


def _scaled(image: Image.Image, name: str, levels: WhiteLevels) -> Image.Image:
    values = np.asarray(image)
    found = _values(image, values, name)
    white = found.white(levels) or found.white(white_levels([found]))
    assert white is not None
    return Image.fromarray(np.rint(values * (255 / white)).clip(0, 255).astype(np.uint8)).convert("RGB")


def _upright(plain: Image.Image, image: Image.Image) -> Image.Image:
    turn = _TURNS.get(_orientation(image))
    return plain if turn is None else plain.transpose(turn)


def _orientation(image: Image.Image) -> int:
    with suppress(Exception):  # Pillow's parser raises many kinds of errors for damaged metadata, which says no orientation then
        return int(image.getexif().get(_ORIENTATION, 1))
    return 1
