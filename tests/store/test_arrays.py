"""Arrays of artefacts: nothing is read from a file that is not as it was written."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vpbench.core.errors import StoreError
from vpbench.store.arrays import read_arrays
from vpbench.store.store import Store

RUN = "a" * 32


def test_arrays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert read_arrays(store, RUN, "predictions", ("labels",)) is None
    content = archive(labels=np.arange(4), other=np.ones(2))

    def write(partial: Path) -> None:
        partial.write_bytes(content)

    path = store.write_artefact(RUN, "predictions.npz", write)
    found = read_arrays(store, RUN, "predictions", ("labels",), ("other", "none"))
    assert found is not None and list(found) == ["labels", "other"] and found["labels"].tolist() == [0, 1, 2, 3]
    with pytest.raises(StoreError, match=r"predictions\.npz holds no predictions: .*ranked.*--save predictions"):
        read_arrays(store, RUN, "predictions", ("ranked",))
    path.write_bytes(archive(labels=np.arange(4)[::-1], other=np.ones(2)))
    with pytest.raises(StoreError, match=r"its checksum in SHA256SUMS does not fit"):
        read_arrays(store, RUN, "predictions", ("labels",))


def archive(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()
