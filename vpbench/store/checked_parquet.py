"""Parquet files with a checksum of everything in them, which other programs read as any parquet file.

    columns | an embedded text or nothing | a line: kind, number, bytes of text, CRC-32 of all but this line | footer of parquet

Parquet's own page checksums, which are written too, leave out page headers and the footer, where a flipped bit renames a column.
Readers follow the offsets in the footer and skip what lies between the columns and it. A program that rewrites the file drops the
line; files of earlier versions have none.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from vpbench.core.checksums import DamagedError

ROW, TABLE = b"row", b"sum"  # kinds: a run's file with its row as JSON, and any other table

_LINE = b"vpbench-%s %03d %08d %08x\n"
_LINE_SIZE = len(_LINE % (ROW, 0, 0, 0))
_PARSED = re.compile(rb"vpbench-(row|sum) (\d{3}) (\d{8}) ([0-9a-f]{8})\n")
_BEGINS = re.compile(rb"vpbench-(?:row|sum) ")
_MAGIC = b"PAR1"
_TAIL = 8  # bytes at the end of every parquet file: the footer's size in four, and the magic word
_ALIKE = 8  # of the line's first 12 bytes, beyond which they are taken for a damaged line


class Line(NamedTuple):
    """The line of a file whose checksum fits.

    Attributes:
        kind: ``ROW`` or ``TABLE``.
        number: that the writer gave.
        text: embedded.
    """

    kind: bytes
    number: int
    text: bytes


def with_checksum(parquet: bytes, kind: bytes = TABLE, number: int = 0, text: bytes = b"") -> bytes:
    """A parquet file's content with an embedded text and the line."""
    footer = _footer(parquet)
    head, foot = parquet[:footer] + text, parquet[footer:]
    return head + _LINE % (kind, number, len(text), _checksum(head, foot)) + foot


def checked(content: bytes) -> Line | None:
    """The line of a file; None for one without, whose content nobody vouches for.

    Raises:
        DamagedError: when the file carries a line, and its checksum does not fit or the line is damaged itself.
    """
    place = max(_footer(content) - _LINE_SIZE, 0)
    found = _PARSED.match(content, place)
    if found is None or not content.endswith(_MAGIC):
        if _BEGINS.search(content) or _resembles(content[place : place + len(b"vpbench-row ")]):
            raise DamagedError("its checksum is damaged")
        return None
    view = memoryview(content)
    if _checksum(view[:place], view[found.end() :]) != int(found[4], 16):
        raise DamagedError("its checksum does not fit, so it is not as it was written")
    return Line(found[1], int(found[2]), content[place - int(found[3]) : place])


def table_bytes(table: pa.Table, row_group_size: int | None = None) -> bytes:
    """A table as the content of a file, with the line and page checksums."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=row_group_size, write_page_checksum=True)
    return with_checksum(sink.getvalue().to_pybytes())


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table with the line and page checksums."""
    path.write_bytes(table_bytes(table))


def open_parquet(content: bytes) -> pq.ParquetFile:
    """The parquet file in ``content``, which :func:`checked` has passed."""
    return pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)


def _footer(content: bytes) -> int:
    """Offset of the parquet footer."""
    return len(content) - _TAIL - int.from_bytes(content[-_TAIL : -len(_MAGIC)], "little")


def _checksum(head: bytes | memoryview, footer: bytes | memoryview) -> int:
    return zlib.crc32(footer, zlib.crc32(head))


def _resembles(start: bytes) -> bool:
    return any(sum(map(int.__eq__, start, _LINE[:8] + kind + b" ")) >= _ALIKE for kind in (ROW, TABLE))
