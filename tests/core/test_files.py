"""Atomic writes, and that everything that writes a file of rows makes them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vpbench.core.errors import StoreError
from vpbench.core.files import write_atomically
from vpbench.measure.cost_file import write_costs
from vpbench.store.exporting import write_export
from vpbench.store.schema import SCHEMA

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_new_content_replaces_old(tmp_path: Path) -> None:
    path = tmp_path / "below" / "rows.csv"
    seen = []
    for text in ("one", "two"):
        write_atomically(path, lambda partial, text=text: (seen.append(partial), partial.write_text(text)))
        assert path.read_text() == text
    assert all(partial.suffix == ".csv" and partial.name.startswith(".") and partial.parent == path.parent for partial in seen)
    assert names(path.parent) == ["rows.csv"]


def test_failing_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("before")

    def write(partial: Path) -> None:
        partial.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, write)
    assert path.read_text() == "before" and names(tmp_path) == ["rows.csv"]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("rows.parquet", lambda path: write_export(SCHEMA.empty_table(), path)),
        ("rows.csv", lambda path: write_export(SCHEMA.empty_table(), path)),
        ("costs.parquet", lambda path: write_costs([], path)),
    ],
)
def test_files_of_rows_are_synced_before_they_are_renamed(
    name: str, write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that turns out to be full at the fsync leaves the old file as it was."""
    path = tmp_path / name
    path.write_text("before")

    def fsync(_: int) -> None:
        raise FULL

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(StoreError, match=f"{name} cannot be written: No space left on device"):
            write(path)
    assert path.read_text() == "before" and names(tmp_path) == [name]
    write(path)
    assert path.read_bytes() != b"before" and names(tmp_path) == [name]
