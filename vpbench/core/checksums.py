"""Checksums of files that vpbench reads again, so that a damaged one is never taken for a result."""

from __future__ import annotations

import re
import zlib
from mmap import mmap

_SEAL = b"vpbench-sealed %08x\n"
SEAL_LENGTH = len(_SEAL % 0)  # bytes in front of the content
_SEALED = re.compile(rb"vpbench-sealed ([0-9a-f]{8})\n")


class DamagedError(ValueError):
    """A file is not as it was written."""


def sealed(content: bytes) -> bytes:
    """``content`` behind a line with its CRC-32, for files that no other program reads."""
    return _SEAL % zlib.crc32(content) + content


def unsealed(content: bytes | mmap) -> memoryview:
    """What :func:`sealed` was given, without a copy.

    Raises:
        DamagedError: when it has no such line, or another checksum.
    """
    line = _SEALED.match(content)
    if line is None:
        raise DamagedError("it has no checksum")
    inside = memoryview(content)[line.end() :]
    if zlib.crc32(inside) != int(line[1], 16):
        raise DamagedError("its checksum does not fit")
    return inside
