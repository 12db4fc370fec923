"""What is said of an image that cannot be decoded."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from vpbench.core.errors import DataError


@contextmanager
def named_image(name: str) -> Iterator[None]:
    """Context manager: errors of Pillow in it become a DataError with the image's name, as users know it.

    A damaged file is to be repaired; a good one with more pixels than Pillow opens is to be made smaller.
    """
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{name} is larger than what is opened ({_size(error)}); scale it down.") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        reason = "not an image" if "cannot identify" in str(error) else str(error)
        raise DataError(f"{name} cannot be read as an image ({reason}); repair or remove it.") from error


def _size(error: Exception | Warning) -> str:
    """Pillow's numbers, without its words on attacks."""
    return str(error).partition(", could be")[0].replace("Image size", "image size").replace("(", "").replace(")", "")
