"""Artefacts: files that a run can write beside its row. Imports no pandas."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from vpbench.core.names import unknown

ARTEFACTS = {
    "features": "features.npz",
    "predictions": "predictions.npz",
    "probabilities": "probabilities.npz",
    "curve": "curve.csv",
    "weights": "weights.safetensors",
}
"""File name of each kind."""


CHECKSUMS = "SHA256SUMS"
"""Beside a run's artefacts, in the format of ``sha256sum -c``."""

_CHECKSUM = re.compile(r"([0-9a-f]{64})  (.+)")


def read_checksums(path: Path) -> dict[str, str]:
    """SHA-256 by file name; {} where there is no such file. A line that is damaged vouches for nothing, and fits nothing."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    found = [_CHECKSUM.fullmatch(line) for line in lines]
    return {line[2]: line[1] for line in found if line}


def write_checksums(known: Mapping[str, str], path: Path) -> None:
    """Write what :func:`read_checksums` reads."""
    path.write_text("".join(f"{known[name]}  {name}\n" for name in sorted(known)), encoding="utf-8", newline="\n")


def artefact_files(kinds: Iterable[str], what: str = "thing to --save") -> list[str]:
    """File names of kinds of artefacts.

    Args:
        what: one of them is called by the option that names it, for the message.

    Raises:
        UsageError: for an unknown kind.
    """
    names = []
    for kind in kinds:
        if kind not in ARTEFACTS:
            raise unknown(what, kind, ARTEFACTS)
        names.append(ARTEFACTS[kind])
    return names
