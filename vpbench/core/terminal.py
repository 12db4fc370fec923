"""The terminal that everything of rich is written to. Names that come from files are text there: no markup, no escape codes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from vpbench.core.escaping import visible

ENDLESS = 10_000  # characters of a line that a program reads


class Terminal(Console):
    """rich's console without markup, emoji codes and highlighting, which shows control characters instead of sending them.

    What is no terminal but a pipe or a file gets lines as long as they are, unless the environment says COLUMNS.

    Args:
        options: of ``rich.console.Console``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **options})
        if "width" not in options and "COLUMNS" not in os.environ and not (self.is_terminal or self.is_jupyter):
            self.width = ENDLESS

    def render_str(self, text: str, **options: Any) -> Text:
        """As rich's; here, so that tables are as wide as what they show."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich's; here for everything that is no plain string."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else visible(segment.text)
            yield segment if text == segment.text else segment._replace(text=text)


def is_watched() -> bool:
    """Whether a person sees what is written to stderr: on a terminal, or in a notebook."""
    console = Terminal(stderr=True)
    return console.is_terminal or console.is_jupyter
