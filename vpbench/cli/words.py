"""Lists on the command line: words or numbers with commas between them."""

from __future__ import annotations


def words(text: str | None) -> list[str] | None:
    """``"vpt, insvp"`` to its words; None stays None."""
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


def numbers(option: str, text: str | None, example: str) -> list[int] | None:
    """``"42,44"`` to its numbers; None stays None.

    Raises:
        UsageError: for anything else; it names ``option`` and shows the ``example``.
    """
    from vpbench.core.errors import UsageError

    try:
        return None if text is None else [int(word) for word in words(text) or []]
    except ValueError:
        raise UsageError(f"{option} {text}: write whole numbers with commas, e.g. {option} {example}.") from None
