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
    except (ValueError, RecursionError) as error:
        raise DamagedError("its row is no JSON") from error
    if not isinstance(row, dict):
        raise DamagedError("its row is no JSON object")
    return row


def as_table(rows: Iterable[dict[str, Any]], columns: Collection[str] | None = None) -> pa.Table:
    """Rows of :func:`decode_row` as a table of the schema.

    Args:
        columns: to include; None for all.

    Raises:
        ArrowInvalid: for a value of another type; and what pyarrow raises for it.
    """
    names = [name for name in SCHEMA.names if columns is None or name in columns]
    rows, fields = list(rows), [_AS_JSON.field(name) for name in names]
    for field in fields:  # pyarrow would truncate these
        if pa.types.is_integer(field.type) and any(type(row.get(field.name)) is float for row in rows):
            raise pa.ArrowInvalid(f"{field.name} is not a whole number")
    return pa.Table.from_pylist(rows, schema=pa.schema(fields)).cast(pa.schema([SCHEMA.field(name) for name in names]))
