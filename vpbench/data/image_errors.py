"""What is said of an image that cannot be decoded."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from PIL import Image

from vpbench.core.errors import DataError
from vpbench.core.names import counted

SHOWN = 9  # unreadable images that a message names beside the first


class UnreadableError(DataError):
    """Images that cannot be read.

    Attributes:
        errors: what is wrong with each, as a sentence, by its name.
    """

    errors: Mapping[str, str]

    @classmethod
    def of(cls, errors: Mapping[str, str]) -> UnreadableError:
        """The error that says how many they are, and names the first ones."""
        first, *others = sorted(errors)
        more = ""
        if others:
            names = ", ".join(others[:SHOWN]) + (", ..." if len(others) > SHOWN else ".")
            more = f" The same is true of {counted(len(others), 'more image')}: {names}"
        found = cls(f"{errors[first]}{more}")
        found.errors = dict(errors)
        return found


@contextmanager
def offers_to_skip() -> Iterator[None]:
    """Context manager for a user's own images: an :class:`UnreadableError` says how to go on without them."""
    try:
        yield
    except UnreadableError as error:
        raise DataError(f"{error} --skip-unreadable leaves them out, and counts them in a note.") from error


@contextmanager
def named_image(name: str) -> Iterator[None]:
    """Context manager: errors of Pillow in it become an UnreadableError with the image's name, as users know it.

    A damaged file is to be repaired; a good one with more pixels than Pillow opens is to be made smaller.
    """
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableError.of({name: f"{name} is larger than what is opened ({_size(error)}); scale it down."}) from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        reason = "not an image" if "cannot identify" in str(error) else str(error)
        raise UnreadableError.of({name: f"{name} cannot be read as an image ({reason}); repair or remove it."}) from error


def _size(error: Exception | Warning) -> str:
    """Pillow's numbers, without its words on attacks."""
    return str(error).partition(", could be")[0].replace("Image size", "image size").replace("(", "").replace(")", "")
