"""How encoded images become RGB: EXIF orientation and the ground under transparent pixels."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field


def _colour(text: str) -> str:
    """A colour as ``#rrggbb``, so that one colour has one spelling; ``ignored`` stays."""
    if text == "ignored":
        return text
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError:
        raise ValueError(f"'{text}' is no colour; write a name such as white, #rrggbb, or ignored") from None
    return f"#{red:02x}{green:02x}{blue:02x}"


Orientation = Annotated[
    Literal["exif", "stored"],
    Field(description="exif: upright, as EXIF says; stored: as the pixels lie in the file, what the papers' loaders do"),
]
Background = Annotated[
    str,
    Field(
        description="ground under transparent pixels, e.g. white or #ff0000; ignored: alpha is dropped, as by the papers' loaders"
    ),
    AfterValidator(_colour),
]

OWN_DECODING = {"orientation": "exif", "background": "#ffffff"}  # of a user's own images
