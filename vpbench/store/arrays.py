"""Arrays beside a row: the ``.npz`` artefacts."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpbench.core.errors import StoreError
from vpbench.store.artefacts import ARTEFACTS
from vpbench.store.store import Store


def read_arrays(
    store: Store, run_id: str, kind: str, needed: Iterable[str], optional: Iterable[str] = ()
) -> dict[str, NDArray[Any]] | None:
    """Arrays of an artefact by name; None where the run left none.

    Args:
        kind: of the artefact, e.g. ``"predictions"``.
        needed: arrays that it must have.
        optional: arrays that it may have.

    Raises:
        StoreError: when the file is damaged, or has not these arrays.
    """
    path = store.artefact_path(run_id, ARTEFACTS[kind])
    if not path.exists():
        return None
    try:
        with np.load(io.BytesIO(store.read_artefact(run_id, path.name)), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in (*needed, *(name for name in optional if name in arrays))}
    except Exception as error:  # of zipfile and numpy, whatever is wrong with the file
        raise StoreError(f"{path} holds no {kind}: {error}. Run it again with --save {kind}.") from error
