"""The file of one run: parquet, with the row embedded a second time as JSON, which is read ten times as fast.

A parquet file describes every column, so that opening and reading one of 90 columns takes a millisecond or two, and ten thousand
of them take twenty seconds. Therefore such a file is

    columns | the row as JSON | "vpbench-row", schema version, bytes of JSON, CRC-32 of all but this line | footer of parquet

Parquet readers follow the offsets in the footer and skip the JSON, which is where other files have indices. A program that
rewrites the file drops it, so that it never differs from the columns.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Collection, Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vpbench.store.schema import SCHEMA, SCHEMA_VERSION

_LINE = b"vpbench-row %03d %08d %08x\n"
_LINE_SIZE = len(_LINE % (0, 0, 0))
_OURS = re.compile(rb"vpbench-row %03d (\d{8}) ([0-9a-f]{8})\n" % SCHEMA_VERSION)
_MAGIC = b"PAR1"
_TAIL = 8  # bytes at the end of every parquet file: the footer's size in four, and the magic word
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
    plain = sink.getvalue().to_pybytes()
    footer = _footer(plain)
    (values,) = row.cast(_AS_JSON).to_pylist()
    text = json.dumps({name: value for name, value in values.items() if value is not None}).encode()
    head = plain[:footer] + text
    return head + _LINE % (SCHEMA_VERSION, len(text), _checksum(head, plain[footer:])) + plain[footer:]


def decode_row(content: bytes) -> dict[str, Any] | None:
    """The row in a file, for :func:`as_table`; None if this version has not written one, or the file is damaged."""
    line = _footer(content) - _LINE_SIZE
    found = _OURS.match(content, max(line, 0))
    if found is None or not content.endswith(_MAGIC):
        return None
    head, footer = content[:line], content[found.end() :]
    if _checksum(head, footer) != int(found[2], 16):
        return None
    return dict(json.loads(head[-int(found[1]) :]))


def as_table(rows: Iterable[dict[str, Any]], columns: Collection[str] | None = None) -> pa.Table:
    """Rows of :func:`decode_row` as a table of the schema.

    Args:
        columns: to include; None for all.
    """
    names = [name for name in SCHEMA.names if columns is None or name in columns]
    table = pa.Table.from_pylist(list(rows), schema=pa.schema([_AS_JSON.field(name) for name in names]))
    return table.cast(pa.schema([SCHEMA.field(name) for name in names]))


def _footer(content: bytes) -> int:
    """Offset of the parquet footer."""
    return len(content) - _TAIL - int.from_bytes(content[-_TAIL : -len(_MAGIC)], "little")


def _checksum(head: bytes, footer: bytes) -> int:
    return zlib.crc32(footer, zlib.crc32(head))
