"""Warnings that point at the line of the user's program, whichever function of vpbench gives them."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

PACKAGE = f"{Path(__file__).parents[1]}{os.sep}"


class VpbenchWarning(UserWarning):
    """Something that the user should know and that stops nothing, in one line."""


def warn(message: str) -> None:
    """Give a warning from the first line outside of this package that led here."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, VpbenchWarning, stacklevel=level)
