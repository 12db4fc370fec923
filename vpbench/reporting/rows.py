"""All rows of a store that reports show, quickly: a large folder keeps a copy of its rows in one file.

Reading ten thousand small parquet files takes most of a minute, one file with the same rows a fraction of a second.
``FOLDER/_cache/rows.arrow`` holds the rows with the size and time of change of each file they came from; files that are new
or changed are read again. The copy may be deleted at any time.
"""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather as feather
import pyarrow.parquet as pq

from vpbench.store.folder import Store
from vpbench.store.schema import SCHEMA, SCHEMA_VERSION

WORTH_A_COPY = 200  # files; fewer are read in about a second
_LAYOUT = f"1 {SCHEMA_VERSION} {pa.__version__} {SCHEMA.names}"
_FILE, _STAMP, _VERSION = "_file", "_stamp", "_schema"  # columns of the copy besides the store's


def load_rows(store: Store) -> pd.DataFrame:
    """What :meth:`Store.load` returns, without the trials of searches, which are not tested.

    Warns, in a line each, of files that cannot be read and of mixed schema versions.
    """
    stamps = _stamps(store.folder)
    copy = _read_copy(store) if len(stamps) >= WORTH_A_COPY else None
    known = _still_valid(copy, stamps)
    new = [name for name in stamps if name not in known]
    tables = [] if copy is None else [copy.filter(pc.is_in(copy[_FILE], pa.array(sorted(known))))]
    fresh = [table for name in new if (table := _read_file(store, name, stamps[name])) is not None]
    if not fresh and (copy is None or not known):
        return _frame(SCHEMA.empty_table())
    rows = pa.concat_tables([*tables, *fresh], promote_options="permissive").sort_by(_FILE)
    if len(stamps) >= WORTH_A_COPY and (new or len(known) < (0 if copy is None else len(set(copy[_FILE].to_pylist())))):
        _write_copy(store, rows)
    _tell_versions(rows)
    return _frame(rows.drop_columns([_FILE, _STAMP, _VERSION]))


def _stamps(folder: Path) -> dict[str, str]:
    """Name of every result file: its size and time of change."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        files = [entry for entry in entries if entry.name.endswith(".parquet") and not entry.name.startswith(".")]
        found = {}
        for entry in files:
            with suppress(OSError):  # deleted since, or a link to nothing
                state = entry.stat()
                found[entry.name] = f"{state.st_size} {state.st_mtime_ns}"
    return dict(sorted(found.items()))


def _read_file(store: Store, name: str, stamp: str) -> pa.Table | None:
    path = store.folder / name
    try:
        file = pq.ParquetFile(path)
        table = file.read(use_threads=False)
        if "run_id" not in table.column_names:
            raise pa.ArrowInvalid("it has no run_id column")
        version = (table.schema.metadata or {}).get(b"vpbench_schema", b"unknown").decode()
        if not table.schema.equals(SCHEMA):
            table = _of_this_schema(table)
    except (pa.ArrowException, OSError) as error:
        warnings.warn(f"{path} is not a readable result and is left out: {str(error).splitlines()[0]}", stacklevel=3)
        return None
    table = table.replace_schema_metadata(None)
    for column, value in ((_FILE, name), (_STAMP, stamp), (_VERSION, version)):
        table = table.append_column(column, pa.array([value] * len(table), pa.string()))
    return table


def _of_this_schema(table: pa.Table) -> pa.Table:
    """With every column of the schema, in its type; further columns stay behind them."""
    for field in SCHEMA:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(len(table), field.type))
        elif (values := table[field.name]).type != field.type:
            table = table.set_column(table.column_names.index(field.name), field, values.cast(field.type))
    return table.select([*SCHEMA.names, *(name for name in table.column_names if name not in SCHEMA.names)])


def _frame(rows: pa.Table) -> pd.DataFrame:
    # pandas' nullable integers: a run without a count must not turn the others' into floats.
    frame: pd.DataFrame = rows.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    frame = frame[frame["stage"] != "search"].reset_index(drop=True)
    return frame[[*SCHEMA.names, *(name for name in frame.columns if name not in SCHEMA.names)]]


def _tell_versions(rows: pa.Table) -> None:
    versions = Counter(rows[_VERSION].to_pylist())
    if len(versions) > 1:
        counts = ", ".join(f"{count} of version {version}" for version, count in sorted(versions.items()))
        warnings.warn(f"the results follow several schema versions ({counts}); what a version lacks stays empty.", stacklevel=3)


def _copy_path(store: Store) -> Path:
    return store.folder / "_cache" / "rows.arrow"


def _read_copy(store: Store) -> pa.Table | None:
    """The copy; None when there is none, or one that another version wrote."""
    try:
        table = feather.read_table(_copy_path(store), memory_map=False)
    except (pa.ArrowException, OSError):
        return None
    return table if json.loads((table.schema.metadata or {}).get(b"layout", b"null")) == _LAYOUT else None


def _still_valid(copy: pa.Table | None, stamps: dict[str, str]) -> set[str]:
    if copy is None:
        return set()
    pairs: Iterable[tuple[str, str]] = zip(copy[_FILE].to_pylist(), copy[_STAMP].to_pylist(), strict=True)
    return {name for name, stamp in set(pairs) if stamps.get(name) == stamp}


def _write_copy(store: Store, rows: pa.Table) -> None:
    path = _copy_path(store)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with suppress(OSError):  # a folder that cannot be written is read without a copy
        path.parent.mkdir(exist_ok=True)
        feather.write_feather(rows.replace_schema_metadata({"layout": json.dumps(_LAYOUT)}), str(partial), compression="zstd")
        partial.replace(path)
    with suppress(OSError):
        partial.unlink(missing_ok=True)
