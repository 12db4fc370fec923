"""A bar in the output of a notebook's cell that changes in place. It needs IPython alone, where rich's bars need ipywidgets."""

from __future__ import annotations

import time

from vpbench.core.escaping import for_html

EVERY_S = 0.2  # between two changes; a notebook keeps each message


class NotebookBar:
    """A bar, made and shown at once."""

    def __init__(self) -> None:
        from IPython.display import HTML, display

        self._html, self._handle = HTML, display(HTML(""), display_id=True)
        self._changed = 0.0

    def show(self, done: int, total: int, text: str) -> None:
        """Show ``done`` of ``total`` and a text, unless it was changed a moment ago; the end is always shown."""
        now = time.monotonic()
        if now - self._changed < EVERY_S and done < total:
            return
        self._changed = now
        bar = f'<progress value="{done}" max="{max(1, total)}"></progress> {done} of {total} {for_html(text)}'
        self._handle.update(self._html(bar))
