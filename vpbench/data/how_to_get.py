"""Which command gets data sets, in words."""

from __future__ import annotations

from collections.abc import Sequence

from vpbench.data.catalog import dataset_card


def how_to_get(names: Sequence[str], suite: str | None = None) -> str:
    """Sentences with the commands that get data sets: by download, by conversion, and by hand for the rest.

    Args:
        names: of data sets with cards.
        suite: that they are the missing ones of, for shorter commands.
    """
    from vpbench.data.conversion import convertible

    downloads = [name for name in names if dataset_card(name).downloads]
    converted = [name for name in names if name not in downloads and name in convertible("tfds")]
    by_hand = [name for name in names if name not in downloads and name not in converted]
    parts = []
    for verb, what, does in (("get", downloads, "fetches"), ("convert", converted, "writes")):
        if what:
            target = f"--suite {suite}" if suite else " ".join(what)
            everything = len(what) == len(names)
            parts.append(f"'vpbench data {verb} {target}' {does} {_them(what) if everything else ', '.join(what)}.")
    if by_hand:
        parts.append(f"By hand: {', '.join(by_hand)}; 'vpbench data doctor {' '.join(by_hand)}' says how.")
    return " ".join(parts)


def _them(names: Sequence[str]) -> str:
    return "it" if len(names) == 1 else "them"
