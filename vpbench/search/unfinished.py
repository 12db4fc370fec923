"""The end of a command that leaves a search unfinished. Imports nothing heavy."""

from __future__ import annotations


class UnfinishedError(Exception):
    """Some runs of a round have no rows: they were left over by a limit, or another process works on them."""
