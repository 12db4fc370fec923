"""The cache of the rows of many row files: ``_cache/rows.arrow``, each row with name, stamp and version of its file.

It is sealed (``vpbench.core.checksums``): a flipped bit in an Arrow file can end in other values or in a segmentation fault.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather as feather

from vpbench.core.checksums import DamagedError, sealed, unsealed
from vpbench.core.files import write_atomically
from vpbench.store.schema import SCHEMA, SCHEMA_VERSION

ORIGIN = ("_file", "_stamp", "_schema")  # columns besides the store's

_LAYOUT = f"3 {SCHEMA_VERSION} {pa.__version__} {SCHEMA.names}".encode()


def read_copy(path: Path, files: dict[str, str], wanted: list[str] | None) -> list[pa.Table]:
    """The rows of the copy whose files have not changed; empty if there is no copy of this version, or it is damaged.

    Args:
        files: stamps of the files by name.
        wanted: columns beside those of origin; None for all.
    """
    try:
        source = pa.BufferReader(pa.py_buffer(unsealed(path.read_bytes())))
        schema = pa.ipc.open_file(source).schema
        if (schema.metadata or {}).get(b"layout") != _LAYOUT:
            return []
        columns = [name for name in schema.names if wanted is None or name in {*wanted, *ORIGIN}]
        table = feather.read_table(source, columns=columns)
    except (DamagedError, pa.ArrowException, OSError):
        return []
    file, stamp, _ = ORIGIN
    origins = zip(table[file].to_pylist(), table[stamp].to_pylist(), strict=True)
    valid = pa.array([files.get(name) == known for name, known in origins], pa.bool_())
    return [(table if pc.all(valid).as_py() else table.filter(valid)).replace_schema_metadata(None)]


def write_copy(path: Path, rows: pa.Table) -> None:
    """Write the copy, where that is possible; a read-only folder is read without one."""
    sink = pa.BufferOutputStream()
    feather.write_feather(rows.replace_schema_metadata({"layout": _LAYOUT}), sink, compression="zstd")
    with suppress(OSError):
        write_atomically(path, lambda partial: partial.write_bytes(sealed(sink.getvalue().to_pybytes())))
