"""The file of one run: parquet, with the row embedded a second time as JSON, which is read ten times as fast.

A parquet file describes every column, so that opening and reading one of 90 columns takes a millisecond or two, and ten thousand
of them take twenty seconds. A program that rewrites the file drops the JSON, so that it never differs from the columns. The
layout is that of :mod:`vpbench.store.checked_parquet`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vpbench.core.checksums import DamagedError
from vpbench.store.checked_parquet import ROW, checked, with_checksum
from vpbench.store.schema import SCHEMA, SCHEMA_VERSION

# Without column descriptions, which are twice as long as the rest of the file; compacted files have them.
_BARE = pa.schema([field.remove_metadata() for field in SCHEMA], metadata=SCHEMA.metadata)
# JSON has no timestamps: they are stored as integers.
_AS_JSON = pa.schema([field.with_type(pa.int64()) if pa.types.is_timestamp(field.type) else field for field in SCHEMA])


def _types_of(kind: pa.DataType) -> tuple[type, ...]:
    """Python's types of the values of a column."""
    if pa.types.is_floating(kind):
        return float, int
    if pa.types.is_integer(kind):
        return (int,)
    return (list,) if pa.types.is_list(kind) else (bool,) if pa.types.is_boolean(kind) else (str,)


_TYPES = {field.name: _types_of(field.type) for field in _AS_JSON}


def encode_row(row: pa.Table) -> bytes:
    """The content of a run's file.

    Args:
        row: one, of this version of the schema.
    """
    sink = pa.BufferOutputStream()
    # For a single row, dictionaries, statistics and compression make columns larger, not smaller.
    pq.write_table(row.cast(_BARE), sink, compression="none", use_dictionary=False, write_statistics=False)
    (values,) = row.cast(_AS_JSON).to_pylist()
    text = json.dumps({name: value for name, value in values.items() if value is not None}).encode()
    return with_checksum(sink.getvalue().to_pybytes(), ROW, SCHEMA_VERSION, text)


def decode_row(content: bytes) -> dict[str, Any] | None:
    """The row in a file, for :func:`as_table`; None if this version has not written one.

    Raises:
        DamagedError: when the file carries a checksum that does not fit, or no row where one should be.
    """
    line = checked(content)
    if line is None or (line.kind, line.number) != (ROW, SCHEMA_VERSION):
        return None
    try:
        row = json.loads(line.text)
        if b"\\ud" in line.text:  # half a pair of surrogates is no text
            json.dumps(row, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise DamagedError("its row is no JSON") from error
    if not isinstance(row, dict):
        raise DamagedError("its row is no JSON object")
    for name, value in row.items():
        if type(value) not in _TYPES.get(name, ()) or (type(value) is int and not -(2**63) <= value < 2**63):
            raise DamagedError(f"its row has another type of value in {name[:40]!r}")
    return row


def as_table(rows: Iterable[dict[str, Any]], columns: Collection[str] | None = None) -> pa.Table:
    """Rows of :func:`decode_row` as a table of the schema.

    Args:
        columns: to include; None for all.

    """
    names = [name for name in SCHEMA.names if columns is None or name in columns]
    table = pa.Table.from_pylist(list(rows), schema=pa.schema([_AS_JSON.field(name) for name in names]))
    return table.cast(pa.schema([SCHEMA.field(name) for name in names]))
