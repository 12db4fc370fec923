"""What stands at a site of a backbone: the edits of a method, and the affine map that an update is merged into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class Edit:
    """A function that a method put at a site.

    Attributes:
        fn: (x, y) -> y behind the site, x -> x before it.
        before: whether it stands before the site.
        tokenwise: whether it maps each token by itself.
    """

    fn: Callable[..., Any]
    before: bool
    tokenwise: bool


@dataclass(frozen=True)
class Affine:
    """A frozen module that computes W x + b, or a norm's w * x + b.

    Attributes:
        module: has the parameter ``weight``.
        rows: of the site's output channels, those that it gives.
        biases: (owner, name, rows of the site's output channels) of each piece of b; a piece may be None.
    """

    module: Any
    rows: slice
    biases: tuple[tuple[Any, str, slice], ...]

    @classmethod
    def plain(cls, module: Any, rows: slice = slice(None)) -> Affine:
        """A module with ``weight`` and ``bias``."""
        return cls(module, rows, ((module, "bias", rows),))
