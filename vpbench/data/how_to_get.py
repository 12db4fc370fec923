"""Which command gets data sets, in words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from vpbench.core.extras import runnable
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
    parts += _of_conversion(converted)
    if by_hand:
        parts.append(f"By hand: {', '.join(by_hand)}; 'vpbench data doctor {' '.join(by_hand)}' says how.")
    return runnable(" ".join(parts))


def _of_conversion(names: Sequence[str]) -> list[str]:
    """What a conversion needs that takes long, or is done by hand."""
    from vpbench.data.conversion import MANUAL, default_source, lacking

    through_tfds = [name for name in names if default_source(name) == "tfds"]
    if not through_tfds:
        return []
    whole = "whole data sets, some of them tens of gigabytes" if len(through_tfds) > 1 else "the whole data set"
    manual = [f"{name} {MANUAL[name]}." for name in names if name in MANUAL]
    return [*filter(None, [lacking("tfds")]), f"The conversion downloads {whole}, through TensorFlow Datasets.", *manual]


def shared_sentences(advice: Mapping[str, str], at_least: int = 3) -> tuple[dict[str, str], dict[str, list[str]]]:
    """What is to be done about several data sets, with what is common said once.

    Args:
        advice: by the data set's name.
        at_least: as many data sets share a sentence that is taken out.

    Returns:
        what is left of each one's; and the shared sentences, with NAME for the data set's own, and whose they are.
    """
    users: dict[str, list[str]] = {}
    sentences = {name: {_plain(one, name): one for one in _SENTENCES.split(text)} for name, text in advice.items()}
    for name, own in sentences.items():
        for plain in own:
            users.setdefault(plain, []).append(name)
    shared = {plain: names for plain, names in users.items() if len(names) >= at_least}
    return {name: " ".join(one for plain, one in own.items() if plain not in shared) for name, own in sentences.items()}, shared


def _plain(sentence: str, name: str) -> str:
    return _TFDS_PAGE.sub("", sentence.replace(name, "NAME"))


_SENTENCES = re.compile(r"(?<=[.])\s+(?=[A-Z'])")
_TFDS_PAGE = re.compile(r"(?<=www\.tensorflow\.org/datasets)/catalog/\w+")


def _them(names: Sequence[str]) -> str:
    return "it" if len(names) == 1 else "them"
