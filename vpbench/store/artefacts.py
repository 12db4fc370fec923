"""Artefacts: files that a run can write beside its row. Imports no pandas."""

from __future__ import annotations

from collections.abc import Iterable

from vpbench.core.names import unknown

ARTEFACTS = {
    "features": "features.npz",
    "predictions": "predictions.npz",
    "curve": "curve.csv",
    "weights": "weights.safetensors",
}
"""File name of each kind."""


def artefact_files(kinds: Iterable[str]) -> list[str]:
    """File names of kinds of artefacts.

    Raises:
        UsageError: for an unknown kind.
    """
    names = []
    for kind in kinds:
        if kind not in ARTEFACTS:
            raise unknown("thing to --save", kind, ARTEFACTS)
        names.append(ARTEFACTS[kind])
    return names
