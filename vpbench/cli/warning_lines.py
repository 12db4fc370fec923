"""Warnings, such as of a file that is no readable result, as lines of a command."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Print each warning in the block as one line on stderr, when the block ends."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            yield
        finally:
            for warning in caught:
                typer.echo(f"warning: {' '.join(str(warning.message).split())}", err=True)
